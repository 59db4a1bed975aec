# The mixed target alone: rkl_nano, but D's target is 0.9 p + 0.1 q.
# Trains llama_nano and base_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_mixed_nano.py --corpus=DIR/train --dev=DIR/dev

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
max_steps = 1600
lr = 2e-3
warmup = 100
weight_decay = 0.1
beta2 = 0.98
val_every = 200
val_tokens = 100_000

teachers = ["llama_nano"]
baseline = "base_nano"
divergence = "rkl"
tau = 1.0
alpha = "linear(0: 1, 0.7: 0)"  # cross-entropy first, the teacher later, as in rkl_nano
mix = 0.9                  # DistiLLM's; the paper's share is not published
