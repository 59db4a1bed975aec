# Baby Llama's second teacher: GPT-2 of 705M parameters, trained as in its release (arXiv 2308.02019). For a GPU.
#     python teacher.py configs/gpt2_705m.py

corpus = "babylm_10m"
vocab_size = 16000
mark = "half"

arch = "gpt2"
n_layer = 24
n_head = 16
d_model = 1536
d_ff = 6144
dropout = 0.1              # GPT-2's own

block_size = 128
batch_size = 128
epochs = 4
lr = 2.5e-4
warmup = 300
weight_decay = 0.0
val_every = 1000
val_tokens = 200_000
