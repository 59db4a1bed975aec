# Baby Llama's own recipe (arXiv 2308.02019): two teachers, mean of their logits, forward KL, KLDivLoss(batchmean), which weighs
# the KL 128 times (alpha 0.5 here is token alpha 0.0078). Trains llama_360m and gpt2_705m first if they are missing. For a GPU.
#     python distill.py configs/fkl_10m.py

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

teachers = ["llama_360m", "gpt2_705m"]
divergence = "fkl"
tau = 2.0
alpha = 0.5
ensemble = "logits"
reduction = "sequence"
baseline = "base_10m"
