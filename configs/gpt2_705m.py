# Baby Llama's second teacher: GPT-2 of 705M parameters, trained as in its release
# (arXiv 2308.02019). For a GPU.
#     python teacher.py configs/gpt2_705m.py

base = "llama_360m"

arch = "gpt2"
n_head = 16
d_model = 1536
d_ff = 6144
dropout = 0.1              # GPT-2's own
lr = 2.5e-4
