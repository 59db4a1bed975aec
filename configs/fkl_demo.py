# Forward KL in the place of reverse KL: rkl_demo in everything else.
# Trains llama_demo and base_demo first if they are missing.
#     python distill.py configs/fkl_demo.py

base = "rkl_demo"

divergence = "fkl"         # KL(p||q); tuned by itself, and the same settings came out
