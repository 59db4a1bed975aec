# Muon against AdamW: the student of nano size without a teacher, equal tokens, each at its own lr.
#     python -m tools.ablate configs/ablate_muon.py --jobs=2 --corpus=DIR/train --dev=DIR/dev
# The questions, written down before anything was run: results/muon/plan.md.

table = "muon"
tuning_seeds = [100]
seeds = [0, 1, 2]
common = {"val_every": 50, "val_tokens": 50_000, "max_steps": 400}

variants = {
    "adamw": {"base": "base_nano", "grid": {"lr": [1e-3, 2e-3, 4e-3]}},
    "muon": {"base": "base_nano", "optimizer": "muon", "grid": {"lr": [2e-3, 4e-3, 8e-3]}},
}

figures = {
    "val_ce": "val_ce",
}

contrasts = [
    ["muon", "adamw", "val_ce"],
]
