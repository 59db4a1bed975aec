# The demo's other teacher, in GPT-2's form; name it beside llama_demo in `teachers` for an ensemble. Not timed.
#     python teacher.py configs/gpt2_demo.py

corpus = "babytalk"
sentences = 400_000        # more than the run sees: no line is met twice
vocab_size = 0             # merge until no pair is left: every word is one token
mark = "line"              # <s> opens every line

arch = "gpt2"
n_layer = 2
n_head = 4
d_model = 64
d_ff = 256
tie = True

block_size = 32
batch_size = 32
max_steps = 2000
lr = 3e-3                  # llama_demo's
warmup = 50
weight_decay = 0.0
beta2 = 0.98
val_every = 500
val_tokens = 20_000
