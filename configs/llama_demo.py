# The demo's teacher: a Llama wider than the student and trained for twice as many steps, on the
# same text. About a minute on 2 CPU cores.
#     python teacher.py configs/llama_demo.py

base = "base_demo"         # the student without a teacher

n_head = 4
d_model = 64
d_ff = 128
max_steps = 2000
lr = 3e-3                  # tuned on seed 0 among 3e-3, 5e-3, 1e-2
val_every = 500
