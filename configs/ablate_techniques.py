# The paper's techniques and the other divergences, each against as many steps of rkl, the demo's
# student; text, teacher and seeds are the demo's (ablate_demo).
#     python -m tools.ablate configs/ablate_techniques.py --jobs=2
# The questions, written down before anything was run: results/techniques/plan.md.

table = "techniques"
extends = "ablate_demo"

grids = {
    "on": {"lr": [1e-3, 3e-3]},    # going on from rkl, 400 steps
    "anew": {"lr": [5e-3, 1e-2]},  # from random weights, 1,000 steps
}

variants = {
    # going on from rkl, the teacher alone: 400 teacher-forced steps, or half of them on rollouts
    "more": {"base": "rkl_single_step_demo", "teachers": ["teacher"], "init": "rkl", "grid": "on",
             "on_policy": 0.0, "rollout_mix": 0.0, "rollout_loss": "token", "length_norm": False},
    "reinforce": {"base": "rkl_single_step_demo", "teachers": ["teacher"], "init": "rkl",
                  "grid": "on", "rollout_mix": 0.0, "rollout_loss": "reinforce",
                  "length_norm": False},
    "single_step": {"base": "rkl_single_step_demo", "teachers": ["teacher"], "init": "rkl",
                    "grid": "on", "rollout_mix": 0.0, "length_norm": False},
    "single_step_norm": {"base": "rkl_single_step_demo", "teachers": ["teacher"], "init": "rkl",
                         "grid": "on", "rollout_mix": 0.0},
    "single_step_norm_mix": {"base": "rkl_single_step_demo", "teachers": ["teacher"],
                             "init": "rkl", "grid": "on"},
    "gkd": {"base": "rkl_single_step_demo", "teachers": ["teacher"], "init": "rkl", "grid": "on",
            "rollout_mix": 0.0, "rollout_loss": "token", "length_norm": False},

    # all of the paper's techniques, and all but one
    "all": {"base": "rkl_full_demo", "teachers": ["teacher"], "init": "rkl", "grid": "on"},
    "all_but_mix": {"base": "rkl_full_demo", "teachers": ["teacher"], "init": "rkl", "grid": "on",
                    "mix": 1.0},
    "all_but_rollouts": {"base": "rkl_full_demo", "teachers": ["teacher"], "init": "rkl",
                         "grid": "on", "on_policy": 0.0, "rollout_mix": 0.0,
                         "rollout_loss": "token", "length_norm": False},
    "all_but_stepwise": {"base": "rkl_full_demo", "teachers": ["teacher"], "init": "rkl",
                         "grid": "on", "reduction": "token", "step_weights": []},
    "all_but_progressive": {"base": "rkl_full_demo", "teachers": ["teacher"], "init": "rkl",
                            "grid": "on", "block_size": 32, "order": "", "tau": 1.0,
                            "on_policy": 0.5, "rollout_mix": 0.2},

    # from random weights, as rkl: each technique alone
    "stepwise": {"base": "rkl_stepwise_demo", "teachers": ["teacher"], "grid": "anew"},
    "mix_02": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "mix": 0.2},
    "mix_05": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "mix": 0.5},
    "mix_09": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "mix": 0.9},
    "progressive": {"base": "rkl_progressive_demo", "teachers": ["teacher"], "grid": "anew"},
    "blocks": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew",
               "block_size": "stages(0: 8, 0.3: 32)"},
    "short_first": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew",
                    "order": "length"},
    "tau_falls": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew",
                  "tau": "linear(0: 2, 0.7: 1)"},

    # a constant alpha: what reduction "sequence" makes of it (T is 32: 0.5 is token's 0.03)
    "sequence_half": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew",
                      "reduction": "sequence", "alpha": 0.5},
    "token_half": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "alpha": 0.5},
    "token_003": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "alpha": 0.0303},

    # the other divergences
    "sym": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "divergence": "sym"},
    "jsd": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew",
            "divergence": "jsd(0.5)"},
    "skew_fkl": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew",
                 "divergence": "skew_fkl"},
    "skew_rkl": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew",
                 "divergence": "skew_rkl"},
    "tvd": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "divergence": "tvd"},
    "akl": {"base": "rkl_demo", "teachers": ["teacher"], "grid": "anew", "divergence": "akl"},
}

contrasts = [
    ["single_step_norm_mix", "more", "CE above the floor, nats per token"],
    ["single_step_norm_mix", "more", "precision"],
    ["single_step", "reinforce", "CE above the floor, nats per token"],
    ["gkd", "more", "precision"],
    ["all", "more", "CE above the floor, nats per token"],
    ["stepwise", "rkl", "CE above the floor, nats per token"],
    ["mix_09", "rkl", "CE above the floor, nats per token"],
    ["progressive", "rkl", "CE above the floor, nats per token"],
    ["sequence_half", "token_half", "CE above the floor, nats per token"],
]
