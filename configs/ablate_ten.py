# `small` again, fairly: everyone reads the 10M words ten times, as the challenge allows; a student
# alone, from a larger coach, and from its own predecessor, by reverse and by forward KL.
#     python -m tools.ablate configs/ablate_ten.py --jobs=3 --corpus=DIR/train --dev=DIR/dev
# Meant for a GPU. BLiMP and supplement are looked for under the environment variable BABYLM_DIR.
# The questions, written down before anything was run: results/ten/plan.md.

table = "ten"
tuning_seeds = []          # nothing is tuned
seeds = [0, 1, 2]
common = {"checkpoints": [1, 3, 10, 20, 30, 60, 100], "epochs": 10, "lr": 8e-3}
tasks = ["blimp", "supplement", "curve"]

variants = {
    "base": {"base": "base_small"},
    "llama": {"base": "llama_small", "lr": 6e-3},
    "rkl": {"base": "rkl_small", "teachers": ["llama"]},
    "self": {"base": "rkl_small", "teachers": ["base"]},
    "fkl": {"base": "rkl_small", "teachers": ["llama"], "divergence": "fkl"},
    "self_fkl": {"base": "rkl_small", "teachers": ["base"], "divergence": "fkl"},
}

figures = {
    "nats per byte": "eval.ppl --limit=200000.unseen.mean_nats_per_byte",
    "BLiMP": "eval.blimp.accuracy",
    "supplement": "eval.supplement.accuracy",
    "val_ce": "val_ce",
}

contrasts = [
    ["rkl", "base", "nats per byte"],
    ["rkl", "base", "BLiMP"],
    ["rkl", "fkl", "nats per byte"],
    ["self", "base", "nats per byte"],
    ["self", "rkl", "nats per byte"],
    ["self", "self_fkl", "nats per byte"],
]
