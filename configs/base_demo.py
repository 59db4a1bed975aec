# The demo's student without a teacher, which distillation must beat. Half a minute on 2 CPU cores.
#     python teacher.py configs/base_demo.py

base = "rkl_demo"

teachers = []
baseline = ""
dropout = 0.1              # this and lr: the best of eight settings, results/demo
lr = 1e-2
