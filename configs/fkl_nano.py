# Forward KL in the place of reverse KL, on real text: rkl_nano in everything else.
# Trains llama_nano and base_nano first if they are missing. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/fkl_nano.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

divergence = "fkl"
