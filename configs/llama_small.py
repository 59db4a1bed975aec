# The teacher of rkl_small: a Llama of 17M parameters.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python teacher.py configs/llama_small.py --corpus=DIR/train --dev=DIR/dev

base = "base_small"        # the student without a teacher

n_layer = 8
n_head = 6
d_model = 384
d_ff = 1024
epochs = 2.5
lr = 3e-3
