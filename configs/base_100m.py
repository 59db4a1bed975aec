# rkl_100m's student without a teacher, on the same text for as many epochs. For a GPU.
#     python teacher.py configs/base_100m.py --out_dir=out/100m

base = "rkl_100m"

teachers = []
baseline = ""
