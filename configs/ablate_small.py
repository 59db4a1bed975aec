# How far do ten hours of a CPU go? The student of rkl_small with its teacher; ten epochs without.
#     python -m tools.ablate configs/ablate_small.py --corpus=DIR/train --dev=DIR/dev
# BLiMP and its supplement are looked for under the environment variable BABYLM_DIR.
# The questions, written down before anything was run: results/small/plan.md.

table = "small"
tuning_seeds = []          # nothing is tuned
seeds = [0]
common = {"checkpoints": [1, 3, 10, 20, 30, 60, 100], "compile": True}
tasks = ["blimp", "supplement", "curve"]

variants = {
    "llama": {"base": "llama_small"},
    "rkl": {"base": "rkl_small", "teachers": ["llama"]},
    "base": {"base": "base_small"},  # ten epochs, as many as the challenge allows
}

figures = {
    "nats per byte": "eval.ppl --limit=200000.overall.mean_nats_per_byte",
    "BLiMP": "eval.blimp.accuracy",
    "supplement": "eval.supplement.accuracy",
    "val_ce": "val_ce",
}
