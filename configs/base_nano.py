# The nano student (3.3M parameters) without a teacher, which distillation has to beat.
# 6.6M tokens: 37 minutes on 2 CPU cores with bf16 instructions, shared with other work.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/base_nano.py

base = "rkl_nano"

teachers = []
baseline = ""
