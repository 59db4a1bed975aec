# The mixed target alone: rkl_demo, but D's target is 0.9 p + 0.1 q.
# Trains llama_demo and base_demo first if they are missing.
#     python distill.py configs/rkl_mixed_demo.py

base = "rkl_demo"

mix = 0.9                  # DistiLLM's; the paper's share is not published
