# How far does a CPU go? A student of 6.9M parameters from a teacher of 17M, Muon, the 10M words;
# meant for ten hours of two cores with bf16 instructions, teacher and student together. Trains
# llama_small and base_small first if they are missing; --baseline= leaves the second out.
# Give your text with --corpus=PATH --dev=PATH; without it babylm_10m is downloaded.
#     python distill.py configs/rkl_small.py --corpus=DIR/train --dev=DIR/dev

base = "rkl_nano"

n_layer = 6                # 6.9M parameters
d_model = 256
d_ff = 704

block_size = 128
batch_size = 32
max_steps = 0              # as many as the epochs need
epochs = 3.5
optimizer = "muon"         # ahead of AdamW in two trials of base_nano (docs/speed.md)
lr = 4e-3                  # the last of three in the longer one, the best; not tuned here
val_every = 500

teachers = ["llama_small"]
baseline = "base_small"
