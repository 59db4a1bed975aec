# The paper's techniques together: mixed target, rollouts with single-step decomposition, step-wise
# loss and a progressive schedule of block, temperature, order, rollouts' share and teacher's share;
# goes on from rkl_nano.
# Trains llama_nano, base_nano and rkl_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_full_nano.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

init = "rkl_nano"          # rollouts of random weights would be noise
max_steps = 400
lr = 4e-4                  # a fifth of rkl_nano's: it goes on from there
val_every = 100
alpha = 0.0                # no cross-entropy on the corpus: the teacher alone

block_size = "stages(0: 32, 0.3: 64)"
order = "length"
tau = "linear(0: 2, 0.7: 1)"
mix = 0.9
reduction = "step"
step_weights = [0.5, 1.5]

on_policy = "linear(0: 0.2, 1: 0.8)"
rollout_mix = "linear(0: 0.5, 1: 0.1)"
prompt_len = 16
rollout_loss = "single_step"
length_norm = True         # MiniLLM's
