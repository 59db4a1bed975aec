# The paper's teacher: Baby Llama's Llama of 360M parameters, trained as in its release
# (arXiv 2308.02019). For a GPU.
#     python teacher.py configs/llama_360m.py

base = "base_10m"          # the student without a teacher

n_layer = 24
d_model = 1024
d_ff = 3072

batch_size = 128
epochs = 4
lr = 3e-4
warmup = 300
weight_decay = 0.0
