# Which coach pays where text is scarce, against the truth? babytalk, 1,000 to 10,000 sentences,
# students of 0.4 to 11 parameters per token, every row tuned by its own ladder.
#     python -m tools.ablate configs/ablate_truth.py --jobs=2
# The questions, written down before anything was run: results/truth/plan.md.

table = "truth"
tuning_seeds = [100, 101]
seeds = [0, 1, 2, 3, 4]
common = {"dtype": "float32", "val_every": 100}
over = {"sentences": [1000, 3000, 10_000]}

grids = {
    "coach": {"dropout": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
              "weight_decay": [0.0, 0.1, 0.3, 1.0, 3.0, 10.0],
              "max_steps": [250, 500, 1000, 2000, 4000, 8000],
              "lr": [1.5e-3, 3e-3, 6e-3, 1.2e-2]},
    "alone": {"dropout": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
              "weight_decay": [0.0, 0.1, 0.3, 1.0, 3.0, 10.0],
              "max_steps": [500, 1000, 2000, 4000, 8000],
              "lr": [2.5e-3, 5e-3, 1e-2, 2e-2]},
    "student": {"alpha": [0.0, "linear(0: 1, 0.4: 0)", "linear(0: 1, 0.7: 0)",
                          "linear(0: 1, 1: 0)"],
                "dropout": [0.0, 0.1, 0.2, 0.3],
                "weight_decay": [0.0, 0.1, 0.3, 1.0, 3.0, 10.0],
                "max_steps": [500, 1000, 2000, 4000, 8000],
                "lr": [2.5e-3, 5e-3, 1e-2, 2e-2]},
}

variants = {
    # coaches
    "llama64": {"base": "llama_demo", "dropout": 0.1, "weight_decay": 0.3, "ladder": "coach"},
    "llama96": {"base": "llama_demo", "d_model": 96, "d_ff": 192, "dropout": 0.1,
                "weight_decay": 0.3, "ladder": "coach"},
    "gpt2": {"base": "gpt2_demo", "lr": 3e-3, "dropout": 0.1, "weight_decay": 0.3,
             "ladder": "coach"},

    # students of d 48: 101,000 parameters
    "alone48": {"base": "base_demo", "d_model": 48, "d_ff": 128, "dropout": 0.2,
                "weight_decay": 1.0, "lr": 5e-3, "ladder": "alone"},
    "rkl48": {"base": "rkl_demo", "teachers": ["llama64"], "d_model": 48, "d_ff": 128,
              "weight_decay": 0.3, "ladder": "student"},
    "fkl48": {"base": "fkl_demo", "teachers": ["llama64"], "d_model": 48, "d_ff": 128,
              "weight_decay": 0.3, "ladder": "student"},
    "rkl48_wide": {"base": "rkl_demo", "teachers": ["llama96"], "d_model": 48, "d_ff": 128,
                   "settings": "rkl48"},
    "rkl48_two": {"base": "rkl_demo", "teachers": ["llama64", "gpt2"], "d_model": 48,
                  "d_ff": 128, "weight_decay": 0.3, "ladder": "student"},
    "fkl48_two": {"base": "fkl_demo", "teachers": ["llama64", "gpt2"], "d_model": 48,
                  "d_ff": 128, "weight_decay": 0.3, "ladder": "student"},
    # a predecessor as the coach, three generations; four predecessors
    "self48": {"base": "rkl_demo", "teachers": ["alone48"], "d_model": 48, "d_ff": 128,
               "weight_decay": 0.3, "ladder": "student"},
    "self48_demo": {"base": "rkl_scarce_demo", "teachers": ["alone48"]},
    "self48_second": {"base": "rkl_demo", "teachers": ["self48"], "d_model": 48, "d_ff": 128,
                      "settings": "self48"},
    "self48_third": {"base": "rkl_demo", "teachers": ["self48_second"], "d_model": 48,
                     "d_ff": 128, "settings": "self48"},
    "alone48_b": {"base": "base_demo", "d_model": 48, "d_ff": 128, "settings": "alone48",
                  "init_seed": 1000},
    "alone48_c": {"base": "base_demo", "d_model": 48, "d_ff": 128, "settings": "alone48",
                  "init_seed": 2000},
    "alone48_d": {"base": "base_demo", "d_model": 48, "d_ff": 128, "settings": "alone48",
                  "init_seed": 3000},
    "four48": {"base": "rkl_demo", "teachers": ["alone48", "alone48_b", "alone48_c", "alone48_d"],
               "ensemble": "probs", "d_model": 48, "d_ff": 128, "settings": "self48"},

    # all at the settings of rkl_scarce_demo, runs of a minute: other coaches, more generations
    "self48_demo_second": {"base": "rkl_scarce_demo", "teachers": ["self48_demo"]},
    "self48_demo_third": {"base": "rkl_scarce_demo", "teachers": ["self48_demo_second"]},
    "four48_demo": {"base": "rkl_scarce_demo", "ensemble": "probs",
                    "teachers": ["alone48", "alone48_b", "alone48_c", "alone48_d"]},
    "fkl_self48_demo": {"base": "rkl_scarce_demo", "teachers": ["alone48"], "divergence": "fkl"},
    "rkl48_demo": {"base": "rkl_scarce_demo", "teachers": ["llama64"]},

    # students of d 24: 37,000 parameters
    "alone24": {"base": "base_demo", "dropout": 0.2, "weight_decay": 1.0, "ladder": "alone"},
    "rkl24": {"base": "rkl_demo", "teachers": ["llama64"], "weight_decay": 0.3,
              "ladder": "student"},
    "fkl24": {"base": "fkl_demo", "teachers": ["llama64"], "weight_decay": 0.3,
              "ladder": "student"},
    "self24": {"base": "rkl_demo", "teachers": ["alone24"], "weight_decay": 0.3,
               "ladder": "student"},
    "self24_second": {"base": "rkl_demo", "teachers": ["self24"], "settings": "self24"},
    "self24_third": {"base": "rkl_demo", "teachers": ["self24_second"], "settings": "self24"},
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
    ["rkl48_1000", "alone48_1000", "CE above the floor, nats per token"],
    ["rkl24_1000", "alone24_1000", "CE above the floor, nats per token"],
    ["rkl24_10000", "alone24_10000", "CE above the floor, nats per token"],
    ["rkl48_1000", "fkl48_1000", "CE above the floor, nats per token"],
    ["rkl48_1000", "fkl48_1000", "precision"],
    ["rkl48_1000", "fkl48_two_1000", "CE above the floor, nats per token"],
    ["self48_1000", "alone48_1000", "CE above the floor, nats per token"],
    ["self48_1000", "rkl48_1000", "CE above the floor, nats per token"],
    ["four48_1000", "self48_1000", "CE above the floor, nats per token"],
    ["self48_third_1000", "self48_second_1000", "CE above the floor, nats per token"],
]
