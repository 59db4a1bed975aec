# The demo, 3,000 sentences of babytalk: does a coach help where text is scarce, and which KL?
# Every variant has a grid of eight, the longest run one of four; the chosen settings are the demo's
# configs then say.
#     python -m tools.ablate configs/ablate_demo.py --jobs=2
# The questions, written down before anything was run: results/demo/plan.md.

table = "demo"
tuning_seeds = [100, 101, 102]
seeds = [0, 1, 2, 3, 4]
common = {"sentences": 3000, "dtype": "float32", "val_every": 100}

variants = {
    "teacher": {"base": "llama_demo",
                "grid": {"lr": [3e-3, 5e-3], "dropout": [0.0, 0.1], "max_steps": [600, 1000]}},
    "base": {"base": "base_demo", "max_steps": 1000,
             "grid": {"lr": [5e-3, 1e-2], "dropout": [0.0, 0.1, 0.2, 0.3]}},
    "fkl": {"base": "fkl_demo", "teachers": ["teacher"], "max_steps": 1000,
            "grid": {"lr": [5e-3, 1e-2], "dropout": [0.0, 0.1],
                     "alpha": ["linear(0: 1, 0.7: 0)", "linear(0: 1, 1: 0)"]}},
    "rkl": {"base": "rkl_demo", "teachers": ["teacher"], "max_steps": 1000,
            "grid": {"lr": [5e-3, 1e-2], "dropout": [0.0, 0.1],
                     "alpha": ["linear(0: 1, 0.7: 0)", "linear(0: 1, 1: 0)"]}},
    # as many flops as rkl and its teacher's training together
    "base_compute": {"base": "base_demo", "max_steps": 6080,
                     "grid": {"lr": [5e-3, 1e-2], "dropout": [0.1, 0.2]}},
}

figures = {
    "CE above the floor, nats per token": "eval.babytalk.ce_above_floor",
    "KL(p*||q), nats per token": "eval.babytalk.kl_truth_student",
    "mass of q outside the language": "eval.babytalk.mass_outside",
    "KL(q||p*) inside it, nats per token": "eval.babytalk.kl_inside",
    "precision": "eval.babytalk.precision",
    "recall / 10": "eval.babytalk.recall_10",
    "recall / 3": "eval.babytalk.recall_3",
    "minimal pairs": "eval.babytalk.minimal_pairs",
    "val_ce": "val_ce",
}

contrasts = [
    ["rkl", "base", "CE above the floor, nats per token"],
    ["rkl", "base_compute", "CE above the floor, nats per token"],
    ["rkl", "base_compute", "precision"],
    ["rkl", "fkl", "precision"],
    ["rkl", "fkl", "CE above the floor, nats per token"],
    ["rkl", "fkl", "recall / 10"],
]
