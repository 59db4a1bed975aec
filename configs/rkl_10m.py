# The paper (arXiv 2410.22081): one teacher, the Llama, reverse KL against the mixed target, 10M
# words. Trains llama_360m (the teacher) and base_10m (the student without a teacher) first if they
# are missing. For a GPU; on a CPU it would take weeks, and configs/rkl_nano.py is the same job,
# smaller, in an hour or two.
#     python distill.py configs/rkl_10m.py

corpus = "babylm_10m"
vocab_size = 16000
mark = "half"              # <s> opens half of the lines

arch = "llama"             # 58M parameters
n_layer = 16
n_head = 8
d_model = 512
d_ff = 1024

block_size = 128
batch_size = 32
epochs = 6
lr = 2.5e-4
warmup = 200
weight_decay = 0.1
val_every = 1000
val_tokens = 200_000

teachers = ["llama_360m"]
baseline = "base_10m"
divergence = "rkl"
tau = 2.0
alpha = 0.5
mix = 0.8                  # the paper's target is mixed; its share is not published: our choice
reduction = "sequence"     # as in Baby Llama's code: D weighs 128 times what alpha says
