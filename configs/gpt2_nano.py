# The other teacher at nano size, in GPT-2's form; name it beside llama_nano in `teachers` for an ensemble. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/gpt2_nano.py

corpus = "babylm_10m"
vocab_size = 8192
mark = "half"

arch = "gpt2"
n_layer = 6
n_head = 4
d_model = 256
d_ff = 1024
tie = True

block_size = 64
batch_size = 64
max_steps = 2000
lr = 1e-3
warmup = 100
weight_decay = 0.1
beta2 = 0.98
val_every = 250
val_tokens = 100_000
