# The nano student (3.3M parameters) without a teacher: what distillation has to beat.
# 6.6M tokens: 37 minutes on 2 CPU cores with bf16 instructions, shared with other work.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/base_nano.py

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
