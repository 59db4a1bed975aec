# The demo's teacher: a Llama wider than the student, trained as long on the same text. Under a
# minute on 2 CPU cores.
#     python teacher.py configs/llama_demo.py

base = "base_demo"         # the student without a teacher

n_head = 4
d_model = 64
d_ff = 128
lr = 3e-3                  # this, dropout and steps: the best of eight settings, results/demo
