# The record babytalk-3000 (docs/records.md): the lowest cross-entropy above the floor after 3,000
# sentences and 5 TFLOP for each seed, some ten minutes of two CPU cores for all five.
#     python -m tools.ablate configs/record_babytalk.py --jobs=2
# These variants are the best that results/ has without a coach and with two: base_compute_two and
# rkl_two of results/coaches. Add your own, and take --only=VARIANT with its teachers.

table = "record_babytalk"
budget = 5e12              # training flops of a seed, teachers and init too
tuning_seeds = [100, 101, 102]
seeds = [0, 1, 2, 3, 4]
common = {"corpus": "babytalk", "sentences": 3000, "dtype": "float32", "val_every": 100}

variants = {
    "alone": {"base": "base_demo", "max_steps": 11_700, "lr": 5e-3, "dropout": 0.2},

    "llama": {"base": "llama_demo"},
    "gpt2": {"base": "gpt2_demo", "lr": 5e-3, "dropout": 0.1, "max_steps": 1000},
    "coached": {"base": "rkl_demo", "teachers": ["llama", "gpt2"]},
}

figures = {
    "CE above the floor, nats per token": "eval.babytalk.ce_above_floor",
    "precision": "eval.babytalk.precision",
    "val_ce": "val_ce",
}

contrasts = [["coached", "alone", "CE above the floor, nats per token"]]
