# Does a coach give a student of d 48, on scarce text, more than better regularisation does? The
# equal-compute rows of ablate_text again, on a grid that goes on from the end of theirs, and
# reverse KL's with dropout too.
#     python -m tools.ablate configs/ablate_alone.py --jobs=2
# The questions, written down before anything was run: results/alone/plan.md.

table = "alone"
extends = "ablate_text"    # its seeds, teachers and rows

grids = {
    "alone": {"dropout": [0.2, 0.3, 0.4], "weight_decay": [0.0, 0.3]},
    "coached": {"dropout": [0.0, 0.1, 0.2]},
    "decayed": {"dropout": [0.1, 0.2, 0.3], "weight_decay": [1.0, 3.0]},
}

variants = {
    "alone48_1000": {"base": "base_demo", "sentences": 1000, "d_model": 48, "d_ff": 128,
                     "max_steps": 2880, "lr": 5e-3, "grid": "alone"},
    "alone48_3000": {"base": "base_demo", "sentences": 3000, "d_model": 48, "d_ff": 128,
                     "max_steps": 2880, "lr": 5e-3, "grid": "alone"},
    "coached48_1000": {"base": "rkl_demo", "sentences": 1000, "teachers": ["teacher_1000"],
                       "d_model": 48, "d_ff": 128, "lr": 5e-3, "grid": "coached"},
    "coached48_3000": {"base": "rkl_demo", "sentences": 3000, "teachers": ["teacher_3000"],
                       "d_model": 48, "d_ff": 128, "lr": 5e-3, "grid": "coached"},
    # asked after the four of the plan: alone48 ended at its grid's largest weight decay
    "decayed48_1000": {"base": "base_demo", "sentences": 1000, "d_model": 48, "d_ff": 128,
                       "max_steps": 2880, "lr": 5e-3, "grid": "decayed"},
    "decayed48_3000": {"base": "base_demo", "sentences": 3000, "d_model": 48, "d_ff": 128,
                       "max_steps": 2880, "lr": 5e-3, "grid": "decayed"},
}

contrasts = [
    ["coached48_3000", "alone48_3000", "CE above the floor, nats per token"],
    ["coached48_1000", "alone48_1000", "CE above the floor, nats per token"],
    ["coached48_3000", "alone48_3000", "precision"],
    ["coached48_3000", "rkl48_3000", "CE above the floor, nats per token"],
    ["coached48_1000", "decayed48_1000", "CE above the floor, nats per token"],
    ["coached48_3000", "decayed48_3000", "CE above the floor, nats per token"],
]
