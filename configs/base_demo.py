# The demo's student without a teacher: what distillation has to beat. Half a minute on 2 CPU cores.
#     python teacher.py configs/base_demo.py

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
max_steps = 1000
lr = 2e-2                  # tuned on seed 0 among 5e-3, 1e-2, 2e-2, 3e-2: the baseline gets its own best
warmup = 50
weight_decay = 0.0
beta2 = 0.98
val_every = 250
val_tokens = 20_000
