"""The picture of a table, by matplotlib, as SVG."""
from tools.ablate.summary import frontier

TEXT_KEYS = ("sentences", "max_words")  # variants of the same text share a panel
GREY = "#7a7a7a"  # of texts and axes: as dark on white as it is light on black
LINES = "-", "--", ":"  # each with matplotlib's ten colours
STYLE = {"svg.fonttype": "none", "font.size": 8, "font.family": "sans-serif", "axes.grid": True,
         "grid.alpha": 0.3, "axes.axisbelow": True, "legend.framealpha": 0,
         **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                          "ytick.color", "grid.color"), GREY)}


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
    if not panels:  # a student's rows alone do not tell the flops of the teachers
        return

    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": plan.table}):  # equal drawings, equal bytes
        figure, axes = pyplot.subplots(len(panels), figsize=(5.2, 3.4 * len(panels)), squeeze=False)
        for axis, (text, curves) in zip(axes.flat, panels.items()):
            draw_panel(axis, text, curves)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None}, transparent=True)
        pyplot.close(figure)


def draw_panel(axis, title, curves):
    """Draw curves {variant: [(flops, val_ce)]}."""
    for i, (variant, points) in enumerate(curves.items()):
        axis.plot(*zip(*points), LINES[i // 10 % 3], marker="o", color=f"C{i % 10}", linewidth=1,
                  markersize=2, label=variant)
    # a view of the best of each: above it lie first validations, and overfitted ones
    lowest = [min(val_ce for _, val_ce in points) for points in curves.values()]
    margin = 0.5 * (max(lowest) - min(lowest)) + 0.001
    axis.set_ylim(min(lowest) - 0.2 * margin, max(lowest) + margin)
    axis.set(xscale="log", xlabel="training flops, teachers' too",
             ylabel="validation CE, nats per token")
    axis.set_title(title, fontsize=8)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
