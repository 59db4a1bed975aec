"""The contrasts of plan.md, from rows.jsonl: paired by seed, t-test, Holm's correction over all 14.

    python results/bf16/summary.py > results/bf16/summary.md
"""
import json
import pathlib

import numpy as np
from scipy import stats

ROUNDINGS = ["teacher", "inputs", "student_logits", "teacher_logits", "dz", "bf16"]
LOSS = ["inputs", "student_logits", "teacher_logits", "dz"]
FIGURE = "ce_above_floor"


def main():
    lines = (pathlib.Path(__file__).parent / "rows.jsonl").read_text().splitlines()
    rows = {}  # (divergence, condition) -> {seed: figure}
    for row in map(json.loads, lines):
        rows.setdefault((row["divergence"], row["condition"]), {})[row["seed"]] = row[FIGURE]
    students = [rows[d, c] for d in ("rkl", "fkl") for c in ("fp32", *ROUNDINGS)]
    seeds = sorted(set.intersection(*map(set, students)))

    def figures(divergence, condition):
        return np.array([rows[divergence, condition][seed] for seed in seeds])

    def added(divergence, condition):
        return figures(divergence, condition) - figures(divergence, "fp32")

    contrasts = {f"{d}: {c} - fp32": added(d, c) for d in ("rkl", "fkl") for c in ROUNDINGS}
    contrasts["bf16, rkl less fkl"] = added("rkl", "bf16") - added("fkl", "bf16")
    contrasts["the loss's four, rkl less fkl"] = sum(added("rkl", c) - added("fkl", c)
                                                     for c in LOSS)
    tests = {name: stats.ttest_1samp(values, 0) for name, values in contrasts.items()}
    ordered = sorted(tests, key=lambda name: tests[name].pvalue)
    holm, largest = {}, 0.0
    for i, name in enumerate(ordered):
        largest = max(largest, min(1.0, tests[name].pvalue * (len(ordered) - i)))
        holm[name] = largest

    print(f"# Rounding to bfloat16, CE above the floor, seeds {seeds[0]} to {seeds[-1]} "
          f"({len(seeds)} of them)\n")
    print("| | " + " | ".join(["fp32", *ROUNDINGS]) + " |\n|---|" + "---|" * 7)
    for divergence in ("rkl", "fkl"):
        cells = [f"{figures(divergence, c).mean():.4f}" for c in ("fp32", *ROUNDINGS)]
        print(f"| {divergence}, mean | " + " | ".join(cells) + " |")
    print("\n| contrast | mean | 95% interval | seeds above 0 | p | p, Holm |")
    print("|---|---|---|---|---|---|")
    for name, values in contrasts.items():
        low, high = tests[name].confidence_interval()
        higher = f"{(values > 0).sum()} of {len(seeds)}"
        print(f"| {name} | {values.mean():+.4f} | {low:+.4f} to {high:+.4f} | {higher} | "
              f"{tests[name].pvalue:.3f} | {holm[name]:.3f} |")
    print("\nThe teachers, trained in fp32 and in bfloat16: "
          + ", ".join(f"{name} {np.mean([*rows['teacher', name].values()]):.4f}"
                      for name in ("float32", "bfloat16")))


if __name__ == "__main__":
    main()
