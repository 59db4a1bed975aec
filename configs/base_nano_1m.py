# The student of the 1M runs without a teacher: base_nano on 1M words, six times over: some 2,500
# steps, base_nano has 1,600. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/base_nano_1m.py

base = "base_nano"

max_words = 1_000_000
max_steps = 0              # as many as the epochs need
epochs = 6
