# Scarce real text: 1M of the 10M words, four times over, students of 1.9M parameters
# from teachers of 3.3M; one coach or two, forward or reverse KL, or none.
#     python -m tools.ablate configs/ablate_1m.py --jobs=2 --corpus=DIR/train --dev=DIR/dev
# BLiMP and its supplement are looked for under the environment variable BABYLM_DIR.
# The questions, written down before anything was run: results/1m/plan.md.

table = "1m"
tuning_seeds = [100]
seeds = [0, 1, 2]
common = {"max_words": 1_000_000, "max_steps": 0, "epochs": 4, "val_every": 200,
          "d_model": 128, "d_ff": 352}  # the students'
tasks = ["blimp", "supplement"]

grids = {
    "lr": {"lr": [2e-3, 4e-3]},
    "long": {"lr": [2e-3, 4e-3], "dropout": [0.0, 0.1]},  # for many epochs without a teacher
}

variants = {
    "llama": {"base": "llama_nano_1m", "n_layer": 4, "d_model": 192, "d_ff": 512, "grid": "lr"},
    "rkl": {"base": "rkl_nano_1m", "teachers": ["llama"], "grid": "lr"},
    "fkl": {"base": "fkl_nano_1m", "teachers": ["llama"], "grid": "lr"},

    # no teacher: as many epochs; as many as the challenge allows; as many flops as rkl and its
    # teacher's training, which the challenge does not allow
    "base": {"base": "base_nano_1m", "grid": "lr"},
    "base_10_epochs": {"base": "base_nano_1m", "epochs": 10, "grid": "long"},
    "base_compute": {"base": "base_nano_1m", "epochs": 13.6, "grid": "long"},

    # two coaches, mean of their logits; then Baby Llama's own recipe (arXiv 2308.02019), fkl_10m's
    "gpt2": {"base": "gpt2_nano", "n_layer": 4, "d_model": 192, "d_ff": 768,
             "grid": {"lr": [1e-3, 2e-3]}},
    "rkl_two": {"base": "rkl_nano_1m", "teachers": ["llama", "gpt2"], "grid": "lr"},
    "fkl_two": {"base": "fkl_nano_1m", "teachers": ["llama", "gpt2"], "grid": "lr"},
    "baby_llama": {"base": "fkl_nano_1m", "teachers": ["llama", "gpt2"], "alpha": 0.5, "tau": 2.0,
                   "reduction": "sequence", "grid": "lr"},
}

figures = {
    "nats per byte": "eval.ppl --limit=200000.overall.mean_nats_per_byte",
    "BLiMP": "eval.blimp.accuracy",
    "supplement": "eval.supplement.accuracy",
    "val_ce": "val_ce",
}

contrasts = [
    ["rkl", "base", "nats per byte"],
    ["rkl", "base_10_epochs", "nats per byte"],
    ["rkl", "base_compute", "nats per byte"],
    ["rkl", "fkl", "nats per byte"],
    ["rkl", "fkl_two", "nats per byte"],
    ["rkl", "baby_llama", "nats per byte"],
    ["rkl", "base", "BLiMP"],
    ["rkl", "baby_llama", "BLiMP"],
]
