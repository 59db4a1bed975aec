# The main job in a few minutes on a CPU: one teacher, one student, reverse KL, on babytalk. Trains llama_demo and base_demo
# first if they are missing. The last table shows what the truth says of teacher, baseline and student.
#     python distill.py configs/rkl_demo.py

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
lr = 1e-2                  # tuned on seed 0 among 5e-3, 1e-2, 2e-2
warmup = 50
weight_decay = 0.0
beta2 = 0.98
val_every = 250
val_tokens = 20_000

teachers = ["llama_demo"]
baseline = "base_demo"
divergence = "rkl"
tau = 1.0
alpha = "linear(0: 1, 1: 0)"  # from random weights KL alone starts too slowly: cross-entropy first, the teacher later. Falling
                           # by 0.7 of the run already, reverse KL lost whole constructions on one seed of three
