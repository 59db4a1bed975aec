# Baby Llama's own recipe (arXiv 2308.02019): two teachers, mean of their logits, forward KL, and
# KLDivLoss(batchmean), which weighs the KL 128 times (alpha 0.5 here is token alpha 0.0078).
# Trains llama_360m, gpt2_705m and base_10m first if they are missing. For a GPU.
#     python distill.py configs/fkl_10m.py

base = "rkl_10m"

teachers = ["llama_360m", "gpt2_705m"]
ensemble = "logits"
divergence = "fkl"
mix = 1.0                  # the teachers alone
reduction = "sequence"     # KLDivLoss(batchmean)
