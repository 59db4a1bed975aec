# The other teacher at nano size, in GPT-2's form: name it with llama_nano in `teachers` for an
# ensemble. Not timed.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/gpt2_nano.py

base = "llama_nano"

arch = "gpt2"
d_ff = 1024
lr = 1e-3
