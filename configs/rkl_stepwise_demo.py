# The step-wise loss alone: rkl_demo, with each time step's own mean, the last weighing three times the first.
# Trains llama_demo and base_demo first if they are missing.
#     python distill.py configs/rkl_stepwise_demo.py

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
lr = 1e-2                  # rkl_demo's
warmup = 50
weight_decay = 0.0
beta2 = 0.98
val_every = 250
val_tokens = 20_000

teachers = ["llama_demo"]
baseline = "base_demo"
divergence = "rkl"
tau = 1.0
alpha = "linear(0: 1, 1: 0)"  # cross-entropy first, the teacher later, as in rkl_demo
reduction = "step"
step_weights = [0.5, 1.5]
