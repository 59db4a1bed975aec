"""Pictures of a table's figures by matplotlib, as SVG."""
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
