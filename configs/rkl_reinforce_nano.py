# Plain REINFORCE of the sequence-level reverse KL, on half of the batches; goes on from rkl_nano.
# Trains llama_nano, base_nano and rkl_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_reinforce_nano.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_single_step_nano"

rollout_loss = "reinforce"
length_norm = False
