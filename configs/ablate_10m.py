# The paper's table at the paper's size (arXiv 2410.22081): one coach or two, forward or reverse KL,
# at temperature 2 and 1, and the student without a teacher. For a GPU; not run yet.
#     python -m tools.ablate configs/ablate_10m.py
# BLiMP and its supplement are looked for under the environment variable BABYLM_DIR.
# The questions, written down before anything was run: results/10m/plan.md.

table = "10m"
tuning_seeds = [100]
seeds = [0, 1, 2]
common = {}
tasks = ["blimp", "supplement"]

grids = {
    "lr": {"lr": [2.5e-4, 5e-4]},
}

variants = {
    # teachers as in Baby Llama's release: nothing is tuned
    "llama": {"base": "llama_360m"},
    "gpt2": {"base": "gpt2_705m"},

    # no teacher: as many epochs as a student, and as many as the challenge allows
    "base": {"base": "base_10m", "grid": "lr"},
    "base_10_epochs": {"base": "base_10m", "epochs": 10, "grid": "lr"},
    # as many flops as rkl and its teacher's training: 46 epochs, which the challenge does not allow
    "base_compute": {"base": "base_10m", "epochs": 46, "grid": {"dropout": [0.0, 0.1]}},

    # the teachers alone are the target, KLDivLoss(batchmean): Baby Llama's loss, at its tau of 2
    "rkl": {"base": "rkl_10m", "teachers": ["llama"], "mix": 1.0, "grid": "lr"},
    "fkl": {"base": "fkl_10m", "teachers": ["llama"], "grid": "lr"},
    "rkl_gpt2": {"base": "rkl_10m", "teachers": ["gpt2"], "mix": 1.0, "grid": "lr"},
    "fkl_gpt2": {"base": "fkl_10m", "teachers": ["gpt2"], "grid": "lr"},
    "rkl_two": {"base": "rkl_10m", "teachers": ["llama", "gpt2"], "mix": 1.0, "grid": "lr"},
    "fkl_two": {"base": "fkl_10m", "teachers": ["llama", "gpt2"], "grid": "lr"},  # Baby Llama

    # at temperature 1 (arXiv 2606.00306: forward KL overtakes above it)
    "rkl_tau1": {"base": "rkl_10m", "teachers": ["llama"], "mix": 1.0, "tau": 1.0, "grid": "lr"},
    "fkl_tau1": {"base": "fkl_10m", "teachers": ["llama"], "tau": 1.0, "grid": "lr"},

    # the paper's target, mixed, and all of its techniques
    "rkl_mixed": {"base": "rkl_10m", "teachers": ["llama"], "grid": "lr"},
    "rkl_full": {"base": "rkl_full_10m", "teachers": ["llama"], "init": "rkl_mixed",
                 "grid": {"lr": [5e-5, 1e-4]}},
}

figures = {
    "nats per byte": "eval.ppl --limit=200000.overall.mean_nats_per_byte",
    "BLiMP": "eval.blimp.accuracy",
    "supplement": "eval.supplement.accuracy",
    "val_ce": "val_ce",
}

contrasts = [
    ["rkl", "base", "BLiMP"],
    ["rkl", "base_compute", "BLiMP"],
    ["rkl", "fkl", "BLiMP"],
    ["rkl", "fkl_two", "BLiMP"],
    ["rkl_two - rkl", "fkl_two - fkl", "BLiMP"],
    ["rkl_tau1 - fkl_tau1", "rkl - fkl", "nats per byte"],
    ["rkl_mixed", "rkl", "BLiMP"],
    ["rkl_full", "rkl_mixed", "BLiMP"],
]
