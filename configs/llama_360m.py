# The paper's teacher: Baby Llama's Llama of 360M parameters, trained as in its release (arXiv 2308.02019). For a GPU.
#     python teacher.py configs/llama_360m.py

corpus = "babylm_10m"
vocab_size = 16000
mark = "half"

arch = "llama"
n_layer = 24
n_head = 8
d_model = 1024
d_ff = 3072

block_size = 128
batch_size = 128
epochs = 4
lr = 3e-4
warmup = 300
weight_decay = 0.0
val_every = 1000
val_tokens = 200_000
