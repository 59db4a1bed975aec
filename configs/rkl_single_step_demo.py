# The single-step decomposition alone: sequence-level reverse KL on half of the batches, its single-step part exact,
# only the long-term part sampled; goes on from rkl_demo.
# Trains llama_demo, base_demo and rkl_demo first if they are missing.
#     python distill.py configs/rkl_single_step_demo.py

corpus = "babytalk"
sentences = 400_000        # more than the run sees: no line is met twice
vocab_size = 0             # merge until no pair is left: every word is one token
mark = "line"              # <s> opens every line

arch = "llama"
n_layer = 2
n_head = 2
d_model = 24
d_ff = 64
tie = True

block_size = 32
batch_size = 32
max_steps = 400
lr = 2e-3                  # a fifth of rkl_demo's: it goes on from there
warmup = 50
weight_decay = 0.0
beta2 = 0.98
val_every = 100
val_tokens = 20_000

teachers = ["llama_demo"]
baseline = "base_demo"
divergence = "rkl"
tau = 1.0
alpha = 0.0
init = "rkl_demo"          # rollouts of random weights would be noise
on_policy = 0.5            # half of the batches
rollout_mix = 0.2          # MiniLLM's
prompt_len = 8
rollout_loss = "single_step"
length_norm = True         # MiniLLM's
