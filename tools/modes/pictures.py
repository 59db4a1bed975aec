"""A page's pictures, drawn by matplotlib (optional) as inline SVG."""
import dataclasses
import html
import importlib.util
import io
import re

from onecoach import files
from tools.modes.words import label_of

NO_MATPLOTLIB = "pictures of the curves need matplotlib (pip install matplotlib)"


def has_matplotlib():
    return importlib.util.find_spec("matplotlib") is not None


@dataclasses.dataclass
class Picture:
    """Panels side by side: [(title, x label, y label, {name: (xs, ys)}, marks {name: (x, y)})]."""
    caption: str
    panels: list


COLOURS = {"forward": "#2f7fe0", "reverse": "#d9660a", "plain": "#8a5cc7", "teacher": "#7d8790"}


def role_of(found):
    """The colour of a run: forward, reverse or plain, by what it was trained with."""
    config = found.subject.config
    if not config.teachers:
        return "plain"
    name = config.divergence.partition("(")[0]
    return "forward" if name in ("fkl", "skew_fkl") else "reverse"


def svg_of(picture, colour_of):
    """A Picture as inline SVG, in the page's own ink; no reference to anywhere."""
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    ink = "#010203"  # stands for the page's colour of text
    style = {"svg.fonttype": "none", "svg.hashsalt": picture.caption, "font.size": 9,
             "font.family": "sans-serif", "text.color": ink, "axes.labelcolor": ink,
             "axes.edgecolor": ink, "xtick.color": ink, "ytick.color": ink,
             "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
             "text.parse_math": False}  # a folder's name may have a $
    n = len(picture.panels)
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(1, n, figsize=(4.6 * n, 3.3), squeeze=False)
        for axis, (title, x_label, y_label, lines, marks) in zip(axes[0], picture.panels):
            for i, (name, (xs, ys)) in enumerate(lines.items()):
                dash = ["-", "--", ":", "-."][i % 4]
                axis.plot(xs, ys, dash, color=colour_of.get(name), label=name)
                if name in marks:
                    axis.plot(*marks[name], "o", color=colour_of.get(name))
            axis.set(title=title, xlabel=x_label, ylabel=y_label)
            axis.legend(fontsize=8)
        figure.tight_layout()
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    svg = out.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = svg.replace(ink, "currentColor")
    title = html.escape(picture.caption, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def training_picture(founds):
    panels = []
    for title, key in (("training loss", "loss"), ("validation CE", "val_ce"),
                       ("validation KL(q||p)", "val_rkl")):
        lines = {}
        for found in founds:
            log = files.read_metrics(found.subject.folder / "metrics.jsonl")
            points = [(line["step"], line[key]) for line in log
                      if isinstance(line.get(key), float)]
            if key != "loss":
                points = points[1:]  # random weights would flatten all that follows
            if points:
                lines[label_of(found, founds)] = tuple(zip(*points))
        if lines:
            panels.append((title, "step", "nats a token", lines, {}))
    return Picture("training", panels) if panels else None


def curve_picture(founds):
    panels = []
    for kind in ("teacher", "truth"):
        lines, marks = {}, {}
        for found in founds:
            curve = found.result["curves"].get(kind)
            if curve:
                at_1 = curve["temperature"].index(1.0)
                name = label_of(found, founds)
                lines[name] = (curve["recall"], curve["precision"])
                marks[name] = (curve["recall"][at_1], curve["precision"][at_1])
        precision = {"teacher": "precision E_q[log p]",
                     "truth": "precision: log of mass inside"}[kind]
        recall = {"teacher": "recall E_p[log q]", "truth": "recall E_p*[log q]"}[kind]
        if lines:
            panels.append((f"against the {kind}", recall, precision, lines, marks))
    caption = ("precision against recall as the sampling temperature goes from 0.5 (left, above) "
               "to 1.5; the dots are temperature 1")
    return Picture(caption, panels)


def step_picture(founds):
    """The step-wise loss's own curve, of runs that were trained by it; None where none was."""
    lines = {}
    for found in founds:
        log = files.read_metrics(found.subject.folder / "metrics.jsonl")
        curves = [line["per_step"] for line in log if line.get("per_step")]
        if curves:
            lines[label_of(found, founds)] = (range(1, len(curves[-1]) + 1), curves[-1])
    if lines:
        return Picture("divergence by time step, at the last line of the log",
                       [("step-wise loss", "time step", "nats", lines, {})])
