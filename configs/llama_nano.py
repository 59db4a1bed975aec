# The teacher of the nano runs: a Llama of 6.9M parameters on real text, 8M tokens, 43 minutes on 2 CPU cores with bf16
# instructions, shared with other work. Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/llama_nano.py

corpus = "babylm_10m"
vocab_size = 8192
mark = "half"

arch = "llama"
n_layer = 6
n_head = 4
d_model = 256
d_ff = 704
tie = True

block_size = 64
batch_size = 64
max_steps = 2000
lr = 2e-3
warmup = 100
weight_decay = 0.1
beta2 = 0.98
val_every = 250
val_tokens = 100_000
