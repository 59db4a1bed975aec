# The single-step decomposition alone: sequence-level reverse KL on half of the batches, its
# single-step part exact, only the long-term part sampled; goes on from rkl_demo.
# Trains llama_demo, base_demo and rkl_demo first if they are missing.
#     python distill.py configs/rkl_single_step_demo.py

base = "rkl_demo"

init = "rkl_demo"          # rollouts of random weights would be noise
max_steps = 400
lr = 2e-3                  # a fifth of rkl_demo's: it goes on from there
val_every = 100
alpha = 0.0                # no cross-entropy on the corpus: the teacher alone

on_policy = 0.5            # half of the batches
rollout_mix = 0.2          # MiniLLM's
prompt_len = 8
rollout_loss = "single_step"
length_norm = True         # MiniLLM's
