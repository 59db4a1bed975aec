# The student of the 1M runs without a teacher: 1M words, six times over: some 2,500 steps, base_nano has 1,600. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/base_nano_1m.py

corpus = "babylm_10m"
vocab_size = 8192
mark = "half"
max_words = 1_000_000

arch = "llama"
n_layer = 4
n_head = 4
d_model = 192
d_ff = 512
tie = True

block_size = 64
batch_size = 64
epochs = 6
lr = 2e-3
warmup = 100
weight_decay = 0.1
beta2 = 0.98
val_every = 200
val_tokens = 100_000
