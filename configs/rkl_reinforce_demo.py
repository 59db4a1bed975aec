# Plain REINFORCE of the sequence-level reverse KL, on half of the batches; goes on from rkl_demo.
# Trains llama_demo, base_demo and rkl_demo first if they are missing.
#     python distill.py configs/rkl_reinforce_demo.py

base = "rkl_single_step_demo"

rollout_loss = "reinforce"
length_norm = False
