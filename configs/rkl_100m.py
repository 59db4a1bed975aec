# The paper's recipe on the 100M words of BabyLM strict, one epoch of them. Trains llama_360m and
# base_10m first if they are missing, on the same text and for their own epochs: give this run an
# out_dir of its own. For a GPU.
#     python distill.py configs/rkl_100m.py --out_dir=out/100m

base = "rkl_10m"

corpus = "babylm_100m"
epochs = 1
