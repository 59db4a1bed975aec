# A student alone where text is scarcest: 1,000 sentences, eleven parameters per token of text. Much
# dropout and weight decay make it the best of results/truth without a teacher.
#     python teacher.py configs/base_scarce_demo.py

base = "base_demo"

sentences = 1000
d_model = 48
d_ff = 128
dropout = 0.3
weight_decay = 3.0
lr = 5e-3
