"""What a table's rows come to: means, paired differences, what was tried."""
import math

import numpy as np


def figure(row, path):
    """The number at "eval.babytalk.precision" of a row; None where there is none."""
    for key in path.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    return row if isinstance(row, (int, float)) else None


def form(number):
    return "-" if number is None else f"{number:.4g}"


def paired(differences):
    """Mean, 95% interval and two-sided p of Student's t for paired differences, two or more."""
    d = np.array(differences)
    n = len(d)
    error = d.std(ddof=1) / math.sqrt(n)
    tails = t_tails(n - 1)
    p = tails(abs(d.mean()) / error) if error else float(d.mean() == 0)
    low, high = 0.0, 1e4  # the t whose tails hold 5%, by halving
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tails(middle) > 0.05 else (low, middle)
    return float(d.mean()), [float(d.mean() - low * error), float(d.mean() + low * error)], p


def t_tails(df):
    """t >= 0 -> P(|T| > t), Student's with df degrees of freedom.

    With t = sqrt(df) tan(a) its density becomes cos(a)^(df - 1), which is summed up here.
    """
    a = np.linspace(0, np.pi / 2, 100_001)
    area = np.concatenate([[0], np.cumsum(np.cos((a[1:] + a[:-1]) / 2)**(df - 1))])
    return lambda t: float(1 - np.interp(math.atan(t / math.sqrt(df)), a, area) / area[-1])


def holm(ps):
    """Holm's (1979) adjusted p of each: with them the chance of any false one stays under 5%."""
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted.tolist()


def summary(table):
    """{variants, contrasts, chosen} of what is there."""
    plan = table.plan
    rows = table.rows()
    figures = {variant: {title: {seed: figure(row, path) for seed, row in of_seed.items()}
                         for title, path in plan.figures.items()}
               for variant, of_seed in rows.items()}
    contrasts = []
    for one, other, title in plan.contrasts:
        a, b = (difference(figures, text, title) for text in (one, other))
        seeds = [seed for seed in plan.seeds if seed in a and seed in b]
        if len(seeds) > 1:  # one seed has no spread
            mean, interval, p = paired([a[seed] - b[seed] for seed in seeds])
            contrasts.append(dict(one=one, other=other, figure=title, seeds=seeds, mean=mean,
                                  interval=interval, p=p))
    ps = [contrast["p"] for contrast in contrasts]
    missing = len(plan.contrasts) - len(ps)  # counted too: half a table must not look better
    for contrast, p in zip(contrasts, holm([*ps, *[1.0] * missing])):
        contrast["p_holm"] = p
    return dict(table=plan.table, chosen=table.chosen, figures=figures, contrasts=contrasts)


def difference(figures, text, title):
    """{seed: figure} of a variant, or of "one - other" where both have the seed."""
    one, *rest = [figures[variant][title] for variant in text.split(" - ")]
    values = {seed: value for seed, value in one.items() if value is not None}
    for other in rest:
        values = {seed: value - other[seed] for seed, value in values.items()
                  if other.get(seed) is not None}
    return values


COSTS = [("steps", "steps", 1),  # title, key of a row, unit
         ("step of best.pt", "best_step", 1),
         ("million words read", "words", 1e6),
         ("training, with its teachers', TFLOP", "flops", 1e12)]


def as_markdown(table, found):
    """summary.md: means of all variants, all seeds of each figure, contrasts, what was tried."""
    plan = table.plan
    rows = table.rows()
    tuned = tried(table, found)
    lines = [f"# {plan.table}", "", f"Means over seeds {plan.seeds}. " + (
        f"Settings were chosen on seeds {plan.tuning_seeds}, by val_ce." if tuned else
        "Nothing was tuned."), ""]
    means = [["", *plan.figures, *(title for title, *_ in COSTS)]]
    for variant in plan.variants:
        of_seed = found["figures"][variant]
        costs = [{seed: row[key] / unit for seed, row in rows[variant].items()}
                 for _, key, unit in COSTS]
        means.append([variant, *(mean_of(values) for values in (*of_seed.values(), *costs))])
    lines += markdown(means)

    for title in plan.figures:
        lines += ["", f"## {title}", ""]
        lines += markdown([["", "mean", *(f"seed {seed}" for seed in plan.seeds)]] + [
            [variant, mean_of(of_seed[title]), *(form(of_seed[title].get(seed))
                                                 for seed in plan.seeds)]
            for variant, of_seed in found["figures"].items()])

    if found["contrasts"]:
        lines += ["", "## Contrasts", "", f"Paired over seeds; {len(plan.contrasts)} were named "
                  f"before anything was run, {len(found['contrasts'])} are here; p by Student's "
                  "t, Holm's over all that were named.", ""]
        lines += markdown([["", "difference", "95% over seeds", "p", "p, Holm", "seeds"]] + [
            [f"{in_brackets(c['one'])} - {in_brackets(c['other'])}: {c['figure']}",
             f"{c['mean']:+.4g}", f"{c['interval'][0]:+.4g} to {c['interval'][1]:+.4g}",
             f"{c['p']:.3f}", f"{c['p_holm']:.3f}", str(len(c["seeds"]))]
            for c in found["contrasts"]])
    if tuned:
        head = ["variant", "settings", "val_ce", ""]
        lines += ["", "## What was tried", "", "Mean val_ce over the tuning seeds.", ""]
        lines += markdown([head, *tuned])
    return "\n".join(lines) + "\n"


def tried(table, found):
    """Every point of every grid, and which was chosen, as rows of texts."""
    plan = table.plan
    rows = []
    for variant in plan.variants:
        points = plan.points(variant)
        for point in points if len(points) > 1 else ():
            mean = table.mean_tuned(variant, point)
            words = ", ".join(f"{key} {value}" for key, value in point.items())
            mark = "chosen" if found["chosen"].get(variant) == point else ""
            rows.append([variant, words, "-" if mean is None else f"{mean:.4f}", mark])
    return rows


def mean_of(values):
    """The mean of {seed: figure or None}, as text."""
    there = [value for value in values.values() if value is not None]
    return form(float(np.mean(there))) if there else "-"


def in_brackets(text):
    return f"({text})" if " - " in text else text


def markdown(rows):
    """Rows of texts as a table; the first is its head."""
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body]]
