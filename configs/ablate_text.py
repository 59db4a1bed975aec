# Where does a coach help? Students of two sizes, with and without one, on 1,000 to 400,000
# sentences of babytalk, each against the truth.
#     python -m tools.ablate configs/ablate_text.py --jobs=2
# The questions, written down before anything was run: results/text/plan.md.

table = "text"
tuning_seeds = [100, 101, 102]
seeds = [0, 1, 2, 3, 4]
common = {"dtype": "float32", "val_every": 100}
over = {"sentences": [1000, 3000, 10_000, 30_000, 100_000, 400_000]}

grids = {
    "teacher": {"dropout": [0.0, 0.1]},
    "alone": {"dropout": [0.0, 0.1, 0.2]},
    "student": {"lr": [5e-3, 1e-2]},
}

variants = {
    "teacher": {"base": "llama_demo", "grid": "teacher"},

    # students of d 24: 37,000 parameters, a quarter of the teacher's
    "base": {"base": "base_demo", "grid": "alone"},
    "fkl": {"base": "fkl_demo", "teachers": ["teacher"], "grid": "student"},
    "rkl": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "student"},
    "by_truth": {"base": "fkl_demo", "teachers": ["truth"], "grid": "student"},
    # as many flops as rkl and its teacher's training together
    "base_compute": {"base": "base_demo", "max_steps": 6080, "lr": 5e-3, "grid": "alone"},

    # students of d 48: 101,000 parameters, two thirds of the teacher's
    "base48": {"base": "base_demo", "d_model": 48, "d_ff": 128, "grid": "alone"},
    "fkl48": {"base": "fkl_demo", "teachers": ["teacher"], "d_model": 48, "d_ff": 128,
              "grid": "student"},
    "rkl48": {"base": "rkl_demo", "teachers": ["teacher"], "d_model": 48, "d_ff": 128,
              "grid": "student"},
    "by_truth48": {"base": "fkl_demo", "teachers": ["truth"], "d_model": 48, "d_ff": 128,
                "grid": "student"},
    "base48_compute": {"base": "base_demo", "d_model": 48, "d_ff": 128, "max_steps": 2880,
                       "lr": 5e-3, "grid": "alone"},
}

figures = {
    "CE above the floor, nats per token": "eval.babytalk.ce_above_floor",
    "precision": "eval.babytalk.precision",
    "recall / 10": "eval.babytalk.recall_10",
    "recall / 3": "eval.babytalk.recall_3",
    "mass of q outside the language": "eval.babytalk.mass_outside",
    "minimal pairs": "eval.babytalk.minimal_pairs",
    "val_ce": "val_ce",
}

contrasts = [
    ["rkl_1000", "base_compute_1000", "CE above the floor, nats per token"],
    ["rkl_400000", "base_compute_400000", "CE above the floor, nats per token"],
    ["rkl_1000 - base_1000", "rkl_400000 - base_400000", "CE above the floor, nats per token"],
    ["rkl_1000", "teacher_1000", "CE above the floor, nats per token"],
    ["rkl_1000", "fkl_1000", "precision"],
    ["rkl_400000", "fkl_400000", "precision"],
    ["rkl48_3000", "base48_compute_3000", "CE above the floor, nats per token"],
    ["rkl48_3000", "fkl48_3000", "precision"],
]
