"""The summary of a table: means, paired differences, the points that were tried."""
import json

import numpy as np

from onecoach.config import UserError
from onecoach.tables import look_up
from tools.ablate.plan import grid_points, open_ends

# ---------------------------------------------------------------- statistics

def import_stats():
    """Return scipy.stats; UserError if it is not installed."""
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise UserError("a table's intervals and p values need scipy: pip install scipy")
    return stats


def paired(differences):
    """Return mean, 95% interval and two-sided p of Student's t, for two differences or more."""
    stats = import_stats()
    d = np.array(differences)
    mean = float(d.mean())
    error = float(stats.sem(d))
    half = float(stats.t.ppf(0.975, len(d) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(d) - 1)) if error else float(mean == 0)
    return mean, [mean - half, mean + half], p


def holm(ps):
    """Return Holm's (1979) adjusted p values: the chance of any false one stays under 5%."""
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted.tolist()


def summarise(table):
    """Return {table, chosen, ends, figures, contrasts}: the content of summary.json."""
    plan = table.plan
    rows = table.rows()
    figures = {variant: {title: {seed: look_up(row, path) for seed, row in by_seed.items()}
                         for title, path in shown_figures(plan, rows).items()}
               for variant, by_seed in rows.items()}
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
    ends = {variant: keys for variant, settings in table.chosen.items()
            if (keys := open_ends(plan.spaces[variant], settings))}
    return dict(table=plan.table, chosen=table.chosen, ends=ends, figures=figures,
                contrasts=contrasts)


def shown_figures(plan, rows):
    """Return a plan's figures, also of the unseen lines of real text if rows have them."""
    figures = dict(plan.figures)
    every = [row for by_seed in rows.values() for row in by_seed.values()]
    for title, path in plan.figures.items():
        task, overall, key = path.partition(".overall.")
        extra = {f"{title}, unseen lines": f"{task}.unseen.{key}",
                 "share of the test split that was seen": f"{task}.shared"}
        if overall and any(look_up(row, f"{task}.shared") for row in every):
            figures |= extra
    return figures


def difference(figures, text, title):
    """Return {seed: figure} of a variant, or of "one - other" on the seeds that both have."""
    one, *others = [figures[variant][title] for variant in text.split(" - ")]
    values = {seed: value for seed, value in one.items() if value is not None}
    for other in others:
        values = {seed: value - other[seed] for seed, value in values.items()
                  if other.get(seed) is not None}
    return values


def frontier(plan, rows, variant):
    """Return [(flops, val_ce)] of a variant's validations after step 0, means over its seeds.

    Flops: of the training until then, and of all runs that the variant needs.
    """
    curves = []
    for seed, row in rows[variant].items():
        if all(seed in rows[need] for need in plan.all_needs(variant)):
            before = flops_before(plan, rows, variant, seed)
            steps = row["curve"][-1][0]
            curves.append([(before + (row["flops"] - before) * step / steps, val_ce)
                           for step, val_ce in row["curve"] if step])
    return [tuple(np.mean(points, axis=0).tolist()) for points in zip(*curves)]


def flops_before(plan, rows, variant, seed):
    """Return the flops of all runs that a variant's run needs, each counted once."""
    return sum(rows[need][seed]["flops"] - flops_before(plan, rows, need, seed)
               for need in {*plan.all_needs(variant)})


# ---------------------------------------------------------------- summary.md

EARLY = 0.8  # best.pt before this share of a run's steps: the schedule is too long
COSTS = {  # title: the number from a row
    "steps": lambda row: row["steps"],
    "step of best.pt": lambda row: row["best_step"],
    "million words read": lambda row: row["words"] / 1e6,
    "training, with its teachers', TFLOP": lambda row: row["flops"] / 1e12,
    "parameters per token of the text": lambda row: row["parameters"] / row["text_tokens"]}


def as_markdown(table, content):
    """Return summary.md: means of all variants, each figure's seeds, contrasts, tuning."""
    plan = table.plan
    tuned = tuned_points(table, content)
    choice = "Nothing was tuned."
    if tuned:
        choice = f"Settings were chosen on seeds {plan.tuning_seeds}, by val_ce."
    blocks = [f"# {plan.table}", f"Means over seeds {plan.seeds}. {choice}"]

    rows = table.rows()
    titles = [*next(iter(content["figures"].values()))]
    shown = {variant: by_title for variant, by_title in content["figures"].items()
             if rows[variant]}  # a long plan may have just begun
    means = [["", *titles, *COSTS, "the same of its teachers"]]
    for variant, figures in shown.items():
        own = rows[variant].values()
        columns = [by_seed.values() for by_seed in figures.values()]
        columns += [map(cost, own) for cost in COSTS.values()]
        means.append([variant, *map(mean_digits, columns), teachers_per_token(own)])
    blocks.append(markdown(means))
    if cells := unsettled(content, rows):
        blocks += ["## Not at their best", "The chosen settings are at the end of a grid or "
                   "ladder, beyond which better ones may lie; or best.pt comes before "
                   f"{EARLY:.0%} of the steps, so that fewer may do better.",
                   markdown([["variant", "at the end of", "best.pt, share of the steps"], *cells])]

    for title in titles:
        by_seed = [["", "mean", *(f"seed {seed}" for seed in plan.seeds)]]
        for variant, figures in shown.items():
            values = figures[title]
            by_seed.append([variant, mean_digits(values.values()),
                            *(digits(values.get(seed)) for seed in plan.seeds)])
        blocks += [f"## {title}", markdown(by_seed)]

    if contrasts := content["contrasts"]:
        blocks += ["## Contrasts", f"Paired over seeds; {len(plan.contrasts)} were named before "
                   f"anything was run, {len(contrasts)} are here; p by Student's t, Holm's over "
                   "all that were named.",
                   markdown([["", "difference", "95% over seeds", "p", "p, Holm", "seeds"],
                             *map(contrast_cells, contrasts)])]
    if tuned:
        blocks += ["## What was tried", "Mean val_ce over the tuning seeds.",
                   markdown([["variant", "settings", "val_ce", ""], *tuned])]
    return "\n\n".join(blocks) + "\n"


def teachers_per_token(rows):
    """Return each teacher's parameters per token of the text, from the rows of a variant."""
    sizes = zip(*([size / row["text_tokens"] for size in row["teacher_parameters"].values()]
                  for row in rows))
    return ", ".join(map(mean_digits, sizes)) or "-"


def contrast_cells(contrast):
    one, other = (f"({text})" if " - " in text else text
                  for text in (contrast["one"], contrast["other"]))
    low, high = contrast["interval"]
    return [f"{one} - {other}: {contrast['figure']}", f"{contrast['mean']:+.4g}",
            f"{low:+.4g} to {high:+.4g}", f"{contrast['p']:.3f}", f"{contrast['p_holm']:.3f}",
            str(len(contrast["seeds"]))]


def tuned_points(table, content):
    """Return the cells of every point of every grid and ladder, with marks at the chosen ones."""
    cells = []
    for variant, space in table.plan.spaces.items():
        points = grid_points(space)
        if variant in table.plan.starts:  # of a ladder, the points that were tried
            tried = map(json.loads, table.tuned[variant])
            points = [{key: point[key] for key in space} for point in tried if {*point} == {*space}]
        for point in points if len(points) > 1 else []:
            words = ", ".join(f"{key} {value}" for key, value in point.items())
            mark = "chosen" if content["chosen"].get(variant) == point else ""
            if mark and variant in content["ends"]:
                mark += f", at the end of {', '.join(content['ends'][variant])}"
            mean = table.mean_tuned(variant, point)
            cells.append([variant, words, "-" if mean is None else f"{mean:.4f}", mark])
    return cells


def unsettled(content, rows):
    """Return the cells of the variants that end at the end of a grid or before the last steps."""
    cells = []
    for variant, by_seed in rows.items():
        ends = ", ".join(content["ends"].get(variant, []))
        shares = [row["best_step"] / row["curve"][-1][0] for row in by_seed.values()]
        early = f"{np.mean(shares):.2f}" if shares and np.mean(shares) < EARLY else ""
        if ends or early:
            cells.append([variant, ends, early])
    return cells


def digits(number):
    return "-" if number is None else f"{number:.4g}"


def mean_digits(values):
    """Return the mean of figures, of which some may be None, as text."""
    known = [value for value in values if value is not None]
    return digits(float(np.mean(known))) if known else "-"


def markdown(rows):
    """Return a table of texts; the first row is the head."""
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])
