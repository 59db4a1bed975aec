# The teacher of the 1M runs: llama_nano on 1M words, four times over: some 1,700 steps, llama_nano has 2,000. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/llama_nano_1m.py

corpus = "babylm_10m"
vocab_size = 8192
mark = "half"
max_words = 1_000_000

arch = "llama"
n_layer = 6
n_head = 4
d_model = 256
d_ff = 704
tie = True

block_size = 64
batch_size = 64
epochs = 4
lr = 2e-3
warmup = 100
weight_decay = 0.1
beta2 = 0.98
val_every = 200
val_tokens = 100_000
