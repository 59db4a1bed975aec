# The data-limited regime with forward KL: rkl_nano_1m in everything else.
# Trains llama_nano_1m and base_nano_1m first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/fkl_nano_1m.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano_1m"

divergence = "fkl"
