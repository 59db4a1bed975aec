# The demo's student without a teacher: what distillation has to beat. Half a minute on 2 CPU cores.
#     python teacher.py configs/base_demo.py

base = "rkl_demo"

teachers = []
baseline = ""
tau = 2.0                  # tau and alpha as by default: without a teacher they do nothing
alpha = 0.5
lr = 2e-2                  # its own best, tuned on seed 0 among 5e-3, 1e-2, 2e-2, 3e-2
