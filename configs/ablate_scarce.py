# Does a coach pay in the paper's own regime? Real text, 30,000 words, and a student with four
# parameters per training token, as the paper's (58M on 14.6M tokens); coaches of some 26.
#     python -m tools.ablate configs/ablate_scarce.py --jobs=2 --corpus=DIR/train --dev=DIR/dev
# BLiMP and its supplement are looked for under the environment variable BABYLM_DIR.
# The questions, written down before anything was run: results/scarce/plan.md.

table = "scarce"
tuning_seeds = [100]
seeds = [0, 1, 2, 3, 4]
common = {"max_words": 30_000, "vocab_size": 1024, "dtype": "float32", "optimizer": "muon",
          "max_steps": 0, "warmup": 50, "batch_size": 32, "val_every": 50, "val_tokens": 50_000}
tasks = ["blimp", "supplement"]

grids = {
    "coach": {"lr": [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2],
              "dropout": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
              "weight_decay": [0.1, 0.3, 1.0, 3.0, 10.0],
              "epochs": [5, 10, 20, 40, 80]},
    # up to as many flops as rkl and its coach together
    "alone": {"lr": [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2],
              "dropout": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
              "weight_decay": [0.1, 0.3, 1.0, 3.0, 10.0],
              "epochs": [10, 20, 40, 80, 160, 320]},
    "student": {"alpha": [0.0, "linear(0: 1, 0.4: 0)", "linear(0: 1, 0.7: 0)",
                          "linear(0: 1, 1: 0)", "linear(0: 1, 1: 0.5)"],
                "lr": [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2],
                "dropout": [0.0, 0.1, 0.2, 0.3],
                "weight_decay": [0.1, 0.3, 1.0, 3.0, 10.0],
                "epochs": [10, 20, 40, 80, 160, 320]},
    "baby_llama": {"alpha": [0.0, 0.3, 0.5, 0.7],
                   "lr": [2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2],
                   "dropout": [0.0, 0.1, 0.2, 0.3],
                   "weight_decay": [0.1, 0.3, 1.0, 3.0, 10.0],
                   "epochs": [10, 20, 40, 80, 160, 320]},
}

variants = {
    # coaches of 1.7M parameters
    "llama": {"base": "llama_nano", "n_layer": 4, "d_model": 176, "d_ff": 480,
              "lr": 8e-3, "dropout": 0.2, "weight_decay": 0.3, "epochs": 10, "ladder": "coach"},
    "gpt2": {"base": "gpt2_nano", "n_layer": 4, "d_model": 176, "d_ff": 704,
             "lr": 8e-3, "dropout": 0.2, "weight_decay": 0.3, "epochs": 10, "ladder": "coach"},

    # students of 0.27M parameters
    "alone": {"base": "base_nano", "d_model": 64, "d_ff": 176,
              "lr": 8e-3, "dropout": 0.1, "weight_decay": 0.3, "epochs": 20, "ladder": "alone"},
    "rkl": {"base": "rkl_nano", "teachers": ["llama"], "d_model": 64, "d_ff": 176,
            "lr": 8e-3, "dropout": 0.1, "weight_decay": 0.3, "epochs": 20, "ladder": "student"},
    "fkl": {"base": "fkl_nano", "teachers": ["llama"], "d_model": 64, "d_ff": 176,
            "lr": 8e-3, "dropout": 0.1, "weight_decay": 0.3, "epochs": 20, "ladder": "student"},

    # the coach is a predecessor: the student of the same size, alone; then again, and again
    "self": {"base": "rkl_nano", "teachers": ["alone"], "d_model": 64, "d_ff": 176,
             "lr": 8e-3, "dropout": 0.1, "weight_decay": 0.3, "epochs": 20, "ladder": "student"},
    "self2": {"base": "rkl_nano", "teachers": ["self"], "d_model": 64, "d_ff": 176,
              "settings": "self"},
    "self3": {"base": "rkl_nano", "teachers": ["self2"], "d_model": 64, "d_ff": 176,
              "settings": "self"},

    # two coaches; Baby Llama's own recipe (arXiv 2308.02019)
    "rkl_two": {"base": "rkl_nano", "teachers": ["llama", "gpt2"], "d_model": 64, "d_ff": 176,
                "lr": 8e-3, "dropout": 0.1, "weight_decay": 0.3, "epochs": 20,
                "ladder": "student"},
    "fkl_two": {"base": "fkl_nano", "teachers": ["llama", "gpt2"], "d_model": 64, "d_ff": 176,
                "lr": 8e-3, "dropout": 0.1, "weight_decay": 0.3, "epochs": 20,
                "ladder": "student"},
    "baby_llama": {"base": "fkl_nano", "teachers": ["llama", "gpt2"], "alpha": 0.5, "tau": 2.0,
                   "reduction": "sequence", "d_model": 64, "d_ff": 176, "lr": 8e-3,
                   "dropout": 0.1, "weight_decay": 0.3, "epochs": 20, "ladder": "baby_llama"},

    # four of the student's size, other first weights on the same text, as one coach
    "alone_2": {"base": "base_nano", "d_model": 64, "d_ff": 176, "settings": "alone",
                "init_seed": 1000},
    "alone_3": {"base": "base_nano", "d_model": 64, "d_ff": 176, "settings": "alone",
                "init_seed": 2000},
    "alone_4": {"base": "base_nano", "d_model": 64, "d_ff": 176, "settings": "alone",
                "init_seed": 3000},
    "four": {"base": "rkl_nano", "teachers": ["alone", "alone_2", "alone_3", "alone_4"],
             "ensemble": "probs", "d_model": 64, "d_ff": 176, "settings": "self"},

    # half of the batches are the coach's own text
    "written": {"base": "rkl_nano", "teachers": ["llama"], "on_policy": "stages(0: 0, 0.02: 0.5)",
                "rollout_mix": 1.0, "rollout_loss": "token", "d_model": 64, "d_ff": 176,
                "settings": "rkl"},
}

figures = {
    "nats per byte": "eval.ppl --limit=200000.unseen.mean_nats_per_byte",
    "nats per byte, lines of the training text too":
        "eval.ppl --limit=200000.overall.mean_nats_per_byte",
    "BLiMP": "eval.blimp.accuracy",
    "supplement": "eval.supplement.accuracy",
    "val_ce": "val_ce",
}

contrasts = [
    ["rkl", "alone", "nats per byte"],
    ["rkl", "fkl", "nats per byte"],
    ["rkl", "fkl_two", "nats per byte"],
    ["rkl", "baby_llama", "nats per byte"],
    ["self", "alone", "nats per byte"],
    ["self", "rkl", "nats per byte"],
    ["four", "self", "nats per byte"],
    ["self3", "self2", "nats per byte"],
    ["written", "rkl", "nats per byte"],
    ["rkl", "alone", "BLiMP"],
]
