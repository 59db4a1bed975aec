# The main job on a CPU: one teacher, one student, reverse KL, on babytalk, the corpus that comes
# with the program. Trains llama_demo (the teacher) and base_demo (the student without a teacher)
# first if they are missing; a few minutes for all three. The last table measures each against the
# truth.
#     python distill.py configs/rkl_demo.py

corpus = "babytalk"        # a grammar whose exact next-word distribution is known
sentences = 3000           # scarce, as in BabyLM: 1,000 steps read them some 38 times
vocab_size = 0             # merge until no pair is left: every word is one token
mark = "line"              # <s> opens every line
dtype = "float32"          # bfloat16 moves a seed's outcome, and at this size is hardly faster

arch = "llama"
n_layer = 2
n_head = 2
d_model = 24
d_ff = 64
tie = True                 # the output head is the embedding matrix

block_size = 32
batch_size = 32
max_steps = 1000
lr = 1e-2                  # this, dropout and alpha: the best of eight settings, results/demo
warmup = 50
weight_decay = 0.0
beta2 = 0.98
val_every = 100
val_tokens = 20_000

teachers = ["llama_demo"]
baseline = "base_demo"
divergence = "rkl"         # reverse KL, KL(q||p): q the student, p the teacher
tau = 1.0
# from random weights KL alone starts too slowly: cross-entropy first, the teacher later
alpha = "linear(0: 1, 0.7: 0)"
