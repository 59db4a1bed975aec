# The teacher of the nano runs: a Llama of 6.9M parameters on real text, 8M tokens, 43 minutes on
# 2 CPU cores with bf16 instructions, shared with other work.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/llama_nano.py

base = "base_nano"         # the student without a teacher

n_layer = 6
d_model = 256
d_ff = 704
max_steps = 2000
val_every = 250
