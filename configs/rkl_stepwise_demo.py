# The step-wise loss alone: rkl_demo, with each time step's own mean, the last weighing three times
# the first.
# Trains llama_demo and base_demo first if they are missing.
#     python distill.py configs/rkl_stepwise_demo.py

base = "rkl_demo"

reduction = "step"
step_weights = [0.5, 1.5]
