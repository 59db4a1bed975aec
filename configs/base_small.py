# The student of rkl_small without a teacher, for as many epochs as the challenge allows: less than
# teacher and student take together.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/base_small.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_small"

epochs = 10
teachers = []
baseline = ""
