# The mixed target alone: rkl_nano, but D's target is 0.9 p + 0.1 q.
# Trains llama_nano and base_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_mixed_nano.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

mix = 0.9                  # DistiLLM's; the paper's share is not published
