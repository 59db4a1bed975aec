# The single-step decomposition alone: sequence-level reverse KL on half of the batches, its single-step part exact,
# only the long-term part sampled; goes on from rkl_nano.
# Trains llama_nano, base_nano and rkl_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_single_step_nano.py --corpus=DIR/train --dev=DIR/dev

corpus = "babylm_10m"
vocab_size = 8192
mark = "half"

arch = "llama"
n_layer = 4
n_head = 4
d_model = 192
d_ff = 512
tie = True

block_size = 64
batch_size = 64
max_steps = 400
lr = 4e-4                  # a fifth of rkl_nano's: it goes on from there
warmup = 100
weight_decay = 0.1
beta2 = 0.98
val_every = 100
val_tokens = 100_000

teachers = ["llama_nano"]
baseline = "base_nano"
divergence = "rkl"
tau = 1.0
alpha = 0.0
init = "rkl_nano"          # rollouts of random weights would be noise
on_policy = 0.5            # half of the batches
rollout_mix = 0.2          # MiniLLM's
prompt_len = 16
rollout_loss = "single_step"
length_norm = True         # MiniLLM's
