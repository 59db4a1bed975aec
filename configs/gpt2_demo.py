# The demo's other teacher, in GPT-2's form: name it with llama_demo in `teachers` for an
# ensemble. Not timed.
#     python teacher.py configs/gpt2_demo.py

base = "llama_demo"

arch = "gpt2"
d_ff = 256
lr = 5e-3                  # this, dropout and steps: the best of eight settings, results/coaches
