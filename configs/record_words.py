# The record words-1M (docs/records.md): the fewest nats per byte after 1M words of the 10M and
# 0.5 PFLOP for each seed, about an hour of two CPU cores with bf16.
#     python -m tools.ablate configs/record_words.py --corpus=DIR/train --dev=DIR/dev
# These variants are the best that results/ has without a coach and with two: base_compute and
# fkl_two of results/1m. Add your own, and take --only=VARIANT with its teachers.

table = "record_words"
budget = 5e14              # training flops of a seed, teachers and init too
tuning_seeds = [100]
seeds = [0, 1, 2]
common = {"max_words": 1_000_000, "max_steps": 0, "epochs": 4, "val_every": 200}

variants = {
    "alone": {"base": "base_nano_1m", "d_model": 128, "d_ff": 352, "epochs": 13.6, "lr": 2e-3,
              "dropout": 0.1},

    "llama": {"base": "llama_nano_1m", "n_layer": 4, "d_model": 192, "d_ff": 512, "lr": 2e-3},
    "gpt2": {"base": "gpt2_nano", "n_layer": 4, "d_model": 192, "d_ff": 768, "lr": 2e-3},
    "coached": {"base": "fkl_nano_1m", "d_model": 128, "d_ff": 352, "lr": 4e-3,
                "teachers": ["llama", "gpt2"]},
}

figures = {
    "nats per byte": "eval.ppl --limit=200000.overall.mean_nats_per_byte",
    "val_ce": "val_ce",
}

contrasts = [["coached", "alone", "nats per byte"]]
