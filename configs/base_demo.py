# The demo's student without a teacher: what distillation has to beat. Half a minute on 2 CPU cores.
#     python teacher.py configs/base_demo.py

base = "rkl_demo"

teachers = []
baseline = ""
lr = 2e-2                  # its own best, tuned on seed 0 among 5e-3, 1e-2, 2e-2, 3e-2
