# The 58M student without a teacher, in the student's own recipe. For a GPU.
#     python teacher.py configs/base_10m.py

base = "rkl_10m"

teachers = []
baseline = ""
