# The data-limited regime that the paper is in, at nano size: teacher and student see the same 1M words several times;
# forward KL. Trains llama_nano_1m and base_nano_1m first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/fkl_nano_1m.py --corpus=DIR/train --dev=DIR/dev

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

teachers = ["llama_nano_1m"]
baseline = "base_nano_1m"
divergence = "fkl"
tau = 1.0
alpha = "linear(0: 1, 0.7: 0)"  # as in the demo: cross-entropy first, the teacher later
