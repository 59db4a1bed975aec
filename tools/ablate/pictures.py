"""Pictures of a table's figures, every seed a point, by matplotlib."""
import contextlib

import numpy as np

from tools.ablate.summary import difference


@contextlib.contextmanager
def picture(plan, path, rows, columns, size, **shared):
    """Yield pyplot's axes (rows, columns); save them as SVG, the same drawing as the same bytes."""
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    style = {"svg.hashsalt": plan.table, "svg.fonttype": "none", "font.size": 8,
             "font.family": "sans-serif", "axes.grid": True, "grid.color": "#dddddd"}
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, **shared)
        yield axes
        for axis in axes.flat:
            axis.set_axisbelow(True)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def draw(table, content, path):
    """Draw every seed and the mean of each contrast's figure, a row per variant, as SVG."""
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


def draw_curves(table, content, path):
    """Draw the same figures over the values of `over`, a panel for each of the plan's curves."""
    plan = table.plan
    titles = [*dict.fromkeys(title for *_, title in plan.contrasts)]
    rows, columns = len(plan.curves), len(titles)
    (key, points), = plan.over.items()
    with picture(plan, path, rows, columns, (3.4 * columns, 2.8 * rows), sharey="col") as axes:
        for row, (panel, names) in zip(axes, plan.curves.items()):
            for axis, title in zip(row, titles):
                for i, name in enumerate(names):
                    draw_curve(axis, content, name, points, title, f"C{i}")
                axis.set_xscale("log")
                low, high = axis.dataLim.intervaly
                if 0 < 10 * low < high:  # else the small values lie on one line
                    axis.set_yscale("log")
                    axis.yaxis.set_major_formatter("{x:g}")
                axis.xaxis.set_major_formatter("{x:,g}")
                axis.set_xlabel(key)
                axis.set_title(f"{panel}: {title}", fontsize=8)
            row[-1].legend()


def draw_curve(axis, content, name, points, title, color):
    """Draw every seed of a variant at each point, and a line through the means."""
    means = {}
    for point in points:
        values = [*difference(content["figures"], f"{name}_{point}", title).values()]
        axis.plot([point] * len(values), values, "o", color=color, markersize=2)
        if values:
            means[point] = float(np.mean(values))
    axis.plot([*means], [*means.values()], color=color, label=name)
