# The 58M student without a teacher, in the student's own recipe. For a GPU.
#     python teacher.py configs/base_10m.py

corpus = "babylm_10m"
vocab_size = 16000
mark = "half"

arch = "llama"
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
