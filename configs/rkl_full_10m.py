# The paper's techniques together on 10M words: mixed target, rollouts with single-step decomposition, step-wise loss and a progressive
# schedule of block, temperature, order, rollouts' share and teacher's share; goes on from rkl_10m. For a GPU.
# Trains llama_360m, base_10m and rkl_10m first if they are missing.
#     python distill.py configs/rkl_full_10m.py

corpus = "babylm_10m"
vocab_size = 16000
mark = "half"

arch = "llama"
n_layer = 16
n_head = 8
d_model = 512
d_ff = 1024

block_size = "stages(0: 32, 0.3: 128)"
batch_size = 32
epochs = 2
lr = 5e-5                  # a fifth of rkl_10m's: it goes on from there
warmup = 200
weight_decay = 0.1
val_every = 1000
val_tokens = 200_000

teachers = ["llama_360m"]
divergence = "rkl"
tau = "linear(0: 2, 0.7: 1)"
alpha = 0.5
mix = 0.8                  # the paper's target is mixed; its share is not published: this is our choice
reduction = "step"
step_weights = [0.5, 1.5]
order = "length"
init = "rkl_10m"           # rollouts of random weights would be noise
on_policy = "linear(0: 0.2, 1: 0.8)"
rollout_mix = "linear(0: 0.5, 1: 0.1)"
prompt_len = 16
rollout_loss = "single_step"
length_norm = True         # MiniLLM's
baseline = "base_10m"
