"""A page's charts as data for the script, and the colour of each run."""
import itertools

from onecoach import files
from tools.modes.curves import AT_1

# Names of page.html's CSS variables. Blue is forward KL, orange reverse KL and purple no teacher
# everywhere on the page; a second run of a kind has one of the others.
COLOURS = "forward", "reverse", "alone", "other-1", "other-2", "other-3", "other-4"
KINDS = {"fkl": "forward", "skew_fkl": "forward", "rkl": "reverse", "skew_rkl": "reverse"}


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


def training_charts(students):
    """Yield charts of the loss and of validations over the steps."""
    for title, key in (("training loss", "loss"), ("validation CE", "val_ce"),
                       ("validation KL(q‖p)", "val_rkl")):
        lines = {}
        for student in students:
            log = files.read_metrics(student.folder / "metrics.jsonl")
            points = [(line["step"], line[key]) for line in log
                      if isinstance(line.get(key), float)]
            if key != "loss":
                points = points[1:]  # random weights would flatten all that follows
            if points:
                lines[student.label] = points
        yield dict(title=title, x="step", y="nats per token", lines=lines, dot=None)


def curve_charts(students):
    """Yield charts of precision against recall, with dots at temperature 1."""
    for kind, x, y in (("teacher", "recall E_p[log q]", "precision E_q[log p]"),
                       ("truth", "recall E_p*[log q]", "precision: log of mass inside")):
        lines = {}
        for student in students:
            if curve := student.result["curves"].get(kind):
                lines[student.label] = [*zip(curve["recall"], curve["precision"])]
        yield dict(title=f"against the {kind}", x=x, y=y, lines=lines, dot=AT_1)
