"""A page's pictures, drawn by matplotlib (optional) as inline SVG in the page's own colours."""
import collections
import html
import importlib.util
import io
import itertools
import re

from onecoach import files

NO_MATPLOTLIB = "pictures of the curves need matplotlib (pip install matplotlib)"

# Names of page.html's CSS variables -> stand-ins while matplotlib draws. Blue is forward KL, orange
# reverse KL and purple no teacher in every picture; a second run of a kind has one of the others.
COLOURS = {"forward": "#2f7fe0", "reverse": "#d9660a", "alone": "#8a5cc7", "other-1": "#0b8793",
           "other-2": "#c2337a", "other-3": "#857000", "other-4": "#8c5a3c", "ink": "#010203"}
KINDS = {"fkl": "forward", "skew_fkl": "forward", "rkl": "reverse", "skew_rkl": "reverse"}


# panels, side by side: [(title, x label, y label, {label: (xs, ys)}, marks {label: (x, y)})]
Picture = collections.namedtuple("Picture", "caption panels")


def has_matplotlib():
    return importlib.util.find_spec("matplotlib") is not None


def colours(students):
    """Return {label: name in COLOURS}, another one for each run while there are enough."""
    chosen = {}
    others = itertools.cycle(name for name in COLOURS if name.startswith("other"))
    for student in students:
        config = student.config
        divergence = config.divergence.partition("(")[0]
        colour = KINDS.get(divergence) if config.teachers else "alone"
        if colour is None or colour in chosen.values():
            colour = next(others)
        chosen[student.label] = colour
    return chosen


def draw(picture, colours):
    """Return a Picture as inline SVG that refers to nothing outside; colours as by `colours`."""
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    style = {"svg.fonttype": "none", "svg.hashsalt": picture.caption, "font.size": 9,
             "font.family": "sans-serif",
             **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                              "ytick.color"), COLOURS["ink"]),
             "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
             "text.parse_math": False}  # a folder's name may have a $
    n = len(picture.panels)
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(1, n, figsize=(4.6 * n, 3.3), squeeze=False)
        for axis, (title, x_label, y_label, lines, marks) in zip(axes[0], picture.panels):
            for i, (name, (xs, ys)) in enumerate(lines.items()):
                dash = ["-", "--", ":", "-."][i % 4]
                colour = COLOURS[colours[name]]
                axis.plot(xs, ys, dash, color=colour, label=name)
                if name in marks:
                    axis.plot(*marks[name], "o", color=colour)
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
    for name, colour in COLOURS.items():  # the page has other values in the dark
        svg = svg.replace(colour, f"var(--{name})")
    title = html.escape(picture.caption, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


# ---------------------------------------------------------------- the two pictures

def training_picture(students):
    panels = []
    for title, key in (("training loss", "loss"), ("validation CE", "val_ce"),
                       ("validation KL(q||p)", "val_rkl")):
        lines = {}
        for student in students:
            log = files.read_metrics(student.folder / "metrics.jsonl")
            points = [(line["step"], line[key]) for line in log
                      if isinstance(line.get(key), float)]
            if key != "loss":
                points = points[1:]  # random weights would flatten all that follows
            if points:
                lines[student.label] = tuple(zip(*points))
        if lines:
            panels.append((title, "step", "nats per token", lines, {}))

    caption = "training"
    for student in students:
        if student.config.teachers and not isinstance(student.config.alpha, float):
            caption += (f"; alpha = {student.config.alpha} makes the loss of {student.label} go "
                        "from cross-entropy to the divergence, which is a smaller number, so its "
                        "fall is no progress by itself: look at the validation")
            break
    return Picture(caption, panels) if panels else None


def curve_picture(students):
    """Precision against recall of all runs that have a curve; None if none has."""
    panels = []
    axes = {"teacher": ("recall E_p[log q]", "precision E_q[log p]"),
            "truth": ("recall E_p*[log q]", "precision: log of mass inside")}
    for kind, labels in axes.items():
        lines, marks = {}, {}
        for student in students:
            curve = student.result["curves"].get(kind)
            if curve:
                at_1 = curve["temperature"].index(1.0)
                lines[student.label] = (curve["recall"], curve["precision"])
                marks[student.label] = (curve["recall"][at_1], curve["precision"][at_1])
        if lines:
            panels.append((f"against the {kind}", *labels, lines, marks))
    caption = ("precision against recall as the sampling temperature goes from 0.5 (left, above) "
               "to 1.5; the dots are temperature 1")
    return Picture(caption, panels) if panels else None
