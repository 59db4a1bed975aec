# One teacher, one student, reverse KL, on real text and a CPU: 22 minutes, and 43 and 37 for the
# teacher and the baseline (2 cores with bf16 instructions, shared with other work). Trains
# llama_nano and base_nano first if they are missing.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_nano.py --corpus=DIR/train --dev=DIR/dev

corpus = "babylm_10m"
vocab_size = 8192
mark = "half"              # <s> opens half of the lines

arch = "llama"             # 3.3M parameters
n_layer = 4
n_head = 4
d_model = 192
d_ff = 512
tie = True

block_size = 64
batch_size = 64
max_steps = 1600           # 6.6M tokens
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
alpha = "linear(0: 1, 0.7: 0)"  # cross-entropy first, the teacher later
