# The progressive schedule alone: rkl_demo, with short blocks before long ones (tokens per step
# stay), short lines before long ones, and a falling temperature.
# Trains llama_demo and base_demo first if they are missing.
#     python distill.py configs/rkl_progressive_demo.py

base = "rkl_demo"

block_size = "stages(0: 8, 0.3: 32)"
order = "length"
tau = "linear(0: 2, 0.7: 1)"
