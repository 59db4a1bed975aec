# The single-step decomposition alone: sequence-level reverse KL on half of the batches, its
# single-step part exact, only the long-term part sampled; goes on from rkl_nano.
# Trains llama_nano, base_nano and rkl_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_single_step_nano.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

init = "rkl_nano"          # rollouts of random weights would be noise
max_steps = 400
lr = 4e-4                  # a fifth of rkl_nano's: it goes on from there
val_every = 100
alpha = 0.0                # no cross-entropy on the corpus: the teacher alone

on_policy = 0.5            # half of the batches
rollout_mix = 0.2          # MiniLLM's
prompt_len = 16
rollout_loss = "single_step"
length_norm = True         # MiniLLM's
