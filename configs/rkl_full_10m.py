# The paper's techniques together on 10M words: mixed target, rollouts with single-step
# decomposition, step-wise loss and a progressive schedule of block, temperature, order, rollouts'
# share and teacher's share; goes on from rkl_10m. For a GPU.
# Trains llama_360m, base_10m and rkl_10m first if they are missing.
#     python distill.py configs/rkl_full_10m.py

base = "rkl_10m"           # data, model, teacher, baseline, divergence and alpha are its own

init = "rkl_10m"           # it goes on from there: rollouts of random weights would be noise
epochs = 2
lr = 5e-5                  # a fifth of rkl_10m's

block_size = "stages(0: 32, 0.3: 128)"  # short blocks first; tokens per step stay
order = "length"                        # short lines first, all of them from half of the run on
tau = "linear(0: 2, 0.7: 1)"            # the temperature falls
mix = 0.8                               # D's target is mixed, as in rkl_10m
reduction = "step"                      # each time step's own mean ...
step_weights = [0.5, 1.5]               # ... the last weighs three times the first

on_policy = "linear(0: 0.2, 1: 0.8)"    # the share of batches that train on rollouts rises
rollout_mix = "linear(0: 0.5, 1: 0.1)"  # the teacher's share in what they are drawn from falls
prompt_len = 16
rollout_loss = "single_step"            # MiniLLM's decomposition
length_norm = True                      # MiniLLM's
