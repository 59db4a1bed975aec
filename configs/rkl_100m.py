# The paper's recipe on the 100M words of BabyLM strict, one epoch. Trains llama_360m (for its
# own epochs, on the same text) and base_100m first if they are missing: give this run an out_dir of
# its own. For a GPU.
#     python distill.py configs/rkl_100m.py --out_dir=out/100m

base = "rkl_10m"

corpus = "babylm_100m"
epochs = 1
baseline = "base_100m"
