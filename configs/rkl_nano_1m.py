# The data-limited regime that the paper is in, at nano size: teacher and student see the same 1M
# words several times; reverse KL. Trains llama_nano_1m and base_nano_1m first if they are missing.
# Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_nano_1m.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

max_words = 1_000_000
max_steps = 0              # as many as the epochs need
epochs = 6
teachers = ["llama_nano_1m"]
baseline = "base_nano_1m"
