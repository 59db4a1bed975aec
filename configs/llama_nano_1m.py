# The teacher of the 1M runs: llama_nano on 1M words, four times over: some 1,700 steps, llama_nano
# has 2,000. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/llama_nano_1m.py

base = "llama_nano"

max_words = 1_000_000
max_steps = 0              # as many as the epochs need
epochs = 4
val_every = 200
