# One coach or two, and which? The demo's text and student; its rows (ablate_demo) stand beside
# these: teacher (a Llama), base, base_compute, fkl and rkl.
#     python -m tools.ablate configs/ablate_coaches.py --jobs=2
# The questions, written down before anything was run: results/coaches/plan.md.

table = "coaches"
extends = "ablate_demo"

grids = {
    # without the dropout of ablate_demo's: there it made every such point worse
    "student": {"lr": [5e-3, 1e-2], "alpha": ["linear(0: 1, 0.7: 0)", "linear(0: 1, 1: 0)"]},
}

variants = {
    "gpt2": {"base": "gpt2_demo",
             "grid": {"lr": [3e-3, 5e-3], "dropout": [0.0, 0.1], "max_steps": [600, 1000]}},
    # the other coach, and both; probs: the mean of their probabilities, else that of their logits
    "fkl_gpt2": {"base": "fkl_demo", "teachers": ["gpt2"], "grid": "student"},
    "rkl_gpt2": {"base": "rkl_demo", "teachers": ["gpt2"], "grid": "student"},
    "fkl_two_probs": {"base": "fkl_demo", "teachers": ["teacher", "gpt2"], "ensemble": "probs",
                      "grid": "student"},
    "rkl_two_probs": {"base": "rkl_demo", "teachers": ["teacher", "gpt2"], "ensemble": "probs",
                      "grid": "student"},
    "fkl_two": {"base": "fkl_demo", "teachers": ["teacher", "gpt2"], "grid": "student"},
    "rkl_two": {"base": "rkl_demo", "teachers": ["teacher", "gpt2"], "grid": "student"},
    # the truth as the coach: what a perfect one would be worth
    "fkl_truth": {"base": "fkl_demo", "teachers": ["truth"], "grid": "student"},
    "rkl_truth": {"base": "rkl_demo", "teachers": ["truth"], "grid": "student"},
    # does forward KL overtake at a higher temperature (arXiv 2606.00306)?
    "fkl_tau2": {"base": "fkl_demo", "teachers": ["teacher"], "tau": 2.0, "grid": "student"},
    "rkl_tau2": {"base": "rkl_demo", "teachers": ["teacher"], "tau": 2.0, "grid": "student"},
    # does the difference fade with training (arXiv 2404.02657)? Four times the steps
    "fkl_long": {"base": "fkl_demo", "teachers": ["teacher"], "max_steps": 4000, "grid": "student"},
    "rkl_long": {"base": "rkl_demo", "teachers": ["teacher"], "max_steps": 4000, "grid": "student"},
    # as many flops as rkl_two and the training of both its teachers together
    "base_compute_two": {"base": "base_demo", "max_steps": 11700, "lr": 5e-3,
                         "grid": {"dropout": [0.2, 0.3]}},
}

contrasts = [
    ["rkl_two", "rkl", "CE above the floor, nats per token"],
    ["rkl_two", "rkl", "precision"],
    ["rkl_two", "base_compute_two", "CE above the floor, nats per token"],
    ["rkl", "fkl_two", "CE above the floor, nats per token"],
    ["rkl", "fkl_two", "precision"],
    ["rkl_two - rkl", "fkl_two - fkl", "CE above the floor, nats per token"],
    ["rkl_two - rkl", "fkl_two - fkl", "precision"],
    ["rkl_gpt2", "rkl", "CE above the floor, nats per token"],
    ["rkl_tau2 - fkl_tau2", "rkl - fkl", "CE above the floor, nats per token"],
    ["rkl_long - fkl_long", "rkl - fkl", "precision"],
    ["rkl_truth", "fkl_truth", "precision"],
]
