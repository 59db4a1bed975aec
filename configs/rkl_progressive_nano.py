# The progressive schedule alone: rkl_nano, with short blocks before long ones (tokens per step
# stay), short lines before long ones, and a falling temperature.
# Trains llama_nano and base_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_progressive_nano.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

block_size = "stages(0: 16, 0.3: 64)"
order = "length"
tau = "linear(0: 2, 0.7: 1)"
