# The paper's techniques together: mixed target, rollouts with single-step decomposition, step-wise
# loss and a progressive schedule of block, temperature, order, rollouts' share and teacher's share;
# goes on from rkl_demo.
# Trains llama_demo, base_demo and rkl_demo first if they are missing.
#     python distill.py configs/rkl_full_demo.py

base = "rkl_demo"

init = "rkl_demo"          # rollouts of random weights would be noise
max_steps = 400
lr = 2e-3                  # a fifth of rkl_demo's: it goes on from there
val_every = 100
alpha = 0.0                # no cross-entropy on the corpus: the teacher alone

block_size = "stages(0: 16, 0.3: 32)"
order = "length"
tau = "linear(0: 2, 0.7: 1)"
mix = 0.9
reduction = "step"
step_weights = [0.5, 1.5]

on_policy = "linear(0: 0.2, 1: 0.8)"
rollout_mix = "linear(0: 0.5, 1: 0.1)"
prompt_len = 8
rollout_loss = "single_step"
length_norm = True         # MiniLLM's
