# Stored teacher outputs, k tokens and a tail: how much do they cost the student of rkl_nano?
#     python -m tools.ablate configs/ablate_stored.py --jobs=2 --corpus=DIR/train --dev=DIR/dev
# The questions, written down before anything was run: results/stored/plan.md. Disk: a file a
# seed and k, 4k + 2 bytes for each token of the text (k = 256: 16 GB).

table = "stored"
tuning_seeds = [100]  # nothing is tuned: one variant is exact, the others are to agree with it
seeds = [0, 1, 2]
common = {"val_every": 200, "random_offset": False}

variants = {
    "teacher": {"base": "llama_nano", "max_steps": 500},
    "exact": {"base": "rkl_nano", "teachers": ["teacher"], "max_steps": 400},
    "k8": {"base": "rkl_nano", "teachers": ["teacher"], "max_steps": 400, "teacher_cache": 8},
    "k32": {"base": "rkl_nano", "teachers": ["teacher"], "max_steps": 400, "teacher_cache": 32},
    "k64": {"base": "rkl_nano", "teachers": ["teacher"], "max_steps": 400, "teacher_cache": 64},
    "k256": {"base": "rkl_nano", "teachers": ["teacher"], "max_steps": 400, "teacher_cache": 256},
}

figures = {
    "val_ce": "val_ce",
    "val_rkl": "val_rkl",
}

contrasts = [
    ["k8", "exact", "val_ce"],
    ["k64", "exact", "val_ce"],
    ["k64", "exact", "val_rkl"],
]
