"""Pictures of a table's figures by matplotlib, as SVG."""
import contextlib

import numpy as np

from tools.ablate.summary import difference, frontier

TEXT_KEYS = ("sentences", "max_words")  # variants of the same text share a panel
GREY = "#7a7a7a"  # of texts and axes: as dark on white as it is light on black
LINES = "-", "--", ":"  # each with matplotlib's ten colours


@contextlib.contextmanager
def picture(plan, path, rows, columns, size, **shared):
    """Yield pyplot's axes (rows, columns); save them as SVG, the same drawing as the same bytes."""
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    style = {"svg.hashsalt": plan.table, "svg.fonttype": "none", "font.size": 8,
             "font.family": "sans-serif", "axes.grid": True, "grid.alpha": 0.3,
             "legend.framealpha": 0}
    words = "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"
    style |= dict.fromkeys([*words, "grid.color"], GREY)
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, **shared)
        yield axes
        for axis in axes.flat:
            axis.set_axisbelow(True)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None}, transparent=True)
        pyplot.close(figure)


def draw(table, content, path):
    """Draw every seed and the mean of each contrast's figure, a row per variant."""
    titles = [*dict.fromkeys(title for *_, title in table.plan.contrasts)]
    variants = [*table.plan.variants][::-1]  # the first at the top
    size = (1.4 + 2.6 * len(titles), 0.8 + 0.26 * len(variants))
    with picture(table.plan, path, 1, len(titles), size, sharey=True) as axes:
        for axis, title in zip(axes[0], titles):
            for row, variant in enumerate(variants):
                values = [*difference(content["figures"], variant, title).values()]
                axis.plot(values, [row] * len(values), "o", color="#888888", markersize=3)
                if values:
                    axis.plot(float(np.mean(values)), row, "|", color="#c03020", markersize=12,
                              markeredgewidth=2)
            axis.set_title(title, fontsize=8)
            axis.margins(y=0.5 / len(variants))
        axes[0][0].set_yticks(range(len(variants)), variants)


def draw_frontier(table, path):
    """Draw val_ce against all training flops, teachers' too: means of a variant's validations."""
    plan = table.plan
    rows = table.rows()
    panels = {}
    for variant in plan.variants:
        keys = plan.common | plan.variants[variant]
        text = ", ".join(f"{key} {keys[key]:,}" for key in TEXT_KEYS if key in keys)
        if points := frontier(plan, rows, variant):
            panels.setdefault(text, {})[variant] = points
    if not panels:  # a student's rows alone do not say what its teachers took
        return

    with picture(plan, path, len(panels), 1, (5.2, 3.4 * len(panels))) as axes:
        for axis, (text, curves) in zip(axes.flat, panels.items()):
            for i, (variant, points) in enumerate(curves.items()):
                axis.plot(*zip(*points), LINES[i // 10 % 3], marker="o", color=f"C{i % 10}",
                          linewidth=1, markersize=2, label=variant)
            # a view of the best of each: above it lie first validations, and overfitted ones
            lowest = [min(val_ce for _, val_ce in points) for points in curves.values()]
            margin = 0.5 * (max(lowest) - min(lowest)) + 0.001
            axis.set_ylim(min(lowest) - 0.2 * margin, max(lowest) + margin)
            axis.set_xscale("log")
            axis.set_xlabel("training flops, teachers' too")
            axis.set_ylabel("validation CE, nats per token")
            axis.set_title(text, fontsize=8)
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
