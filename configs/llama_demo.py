# The demo's teacher: a small Llama on babytalk, the embedded corpus with a known truth. About a minute on 2 CPU cores.
#     python teacher.py configs/llama_demo.py

corpus = "babytalk"
sentences = 400_000        # more than the run sees: no line is met twice
vocab_size = 0             # merge until no pair is left: every word is one token
mark = "line"              # <s> opens every line

arch = "llama"
n_layer = 2
n_head = 4
d_model = 64
d_ff = 128
tie = True

block_size = 32
batch_size = 32
max_steps = 2000
lr = 3e-3                  # tuned on seed 0 among 3e-3, 5e-3, 1e-2
warmup = 50
weight_decay = 0.0
beta2 = 0.98
val_every = 500
val_tokens = 20_000
