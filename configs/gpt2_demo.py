# The demo's other teacher, in GPT-2's form: name it beside llama_demo in `teachers` for an
# ensemble. Not timed.
#     python teacher.py configs/gpt2_demo.py

base = "llama_demo"

arch = "gpt2"
d_ff = 256                 # lr is llama_demo's, not tuned anew
