# The step-wise loss alone: rkl_nano, with each time step's own mean, the last weighing three times
# the first.
# Trains llama_nano and base_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_stepwise_nano.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

reduction = "step"
step_weights = [0.5, 1.5]
