"""Words and rows of a table about Students: their figures and comparisons."""
from onecoach.tables import as_text, look_up
from tools.modes.curves import LEAVES, SAYS

FIGURES = [  # title, path in modes.json, form
    ("CE, nats per token", "figures.ce", "{:.4f}"),
    ("KL(p||q) to the teacher", "figures.fkl", "{:.4f}"),
    ("KL(q||p)", "figures.rkl", "{:.4f}"),
    ("entropy of q, nats", "figures.entropy_q", "{:.4f}"),
    ("entropy of the teacher", "figures.entropy_p", "{:.4f}"),
    ("precision E_q[log p]", "figures.precision", "{:.4f}"),
    ("recall E_p[log q]", "figures.recall", "{:.4f}"),
    ("q on the teacher's first word", "figures.q_on_top_1_of_p", "{:.4f}"),
    ("the teacher on its first word", "figures.p_on_top_1_of_p", "{:.4f}"),
    ("calibration error (ECE)", "figures.calibration_error", "{:.4f}"),
    ("written: log p per token", "written.log_p", "{:.4f}"),
    ("written: in the language", "written.right", "{:.1%}"),
    ("written: in dialect A (60%)", "written.dialect_a", "{:.1%}"),
    ("written: distinct 2-grams", "written.distinct_2", "{:.3f}"),
    ("written: 4-grams repeated", "written.repeated", "{:.1%}"),
    ("written: mean length, tokens", "written.mean_length", "{:.1f}"),
    ("written: never ends", "written.never_ends", "{:.1%}"),
]

ANSWERS = {(1, -1): "Yes", (-1, 1): "No, it covers",
           (0, 0): "No, any difference is sharpness, which a lower temperature gives to anybody"}


def plain_verdict(students):
    """Answer the page's title, "Does it seek modes?", for the last run beside the one before it."""
    last = students[-1]
    others = [other for other in students if str(other.folder) in last.result["against"]]
    if not others:
        return (f"Of {last.label} alone nobody can say: name another run too, such as the same "
                "student trained with forward KL.")
    against = last.result["against"][str(others[-1].folder)]
    result = against.get("truth") or against.get("teacher")
    if not result or not result["signs"]:
        return (f"Nobody can say: at no temperature are {last.label} and {others[-1].label} "
                "equally varied.")
    precision, recall = result["signs"]
    better_or_worse = "No, it is better" if precision + recall > 0 else "No, it is worse"
    answer = ANSWERS.get((precision, recall), better_or_worse)
    return (f"{answer}: when both are equally varied, {last.label} {SAYS[precision]} and "
            f"{LEAVES[recall]}, compared with {others[-1].label}.")


def figure_rows(students):
    """Return the table of FIGURES as rows of texts, a column for each run."""
    rows = [["", *(student.label for student in students)]]
    for title, path, form in FIGURES:
        values = [look_up(student.result, path) for student in students]
        if any(value is not None for value in values):
            rows.append([title, *(as_text(value, form) for value in values)])
    return rows


def comparison_words(against):
    """Yield a line for each kind of curve by which two runs were compared."""
    for kind, result in against.items():
        if result["temperature"] is None:
            yield f"against the {kind}: {result['said']} ({result['entropy']:.3f} nats)"
            continue
        parts = []
        for axis in ("precision", "recall"):
            low, high = result[axis]["interval"]
            parts.append(f"{axis} {result[axis]['mean']:+.4f} ({low:+.4f} to {high:+.4f})")
        yield (f"against the {kind}: {result['said']}. At entropy {result['entropy']:.3f} (the "
               f"other at temperature {result['temperature']:.2f}): {', '.join(parts)} nats per "
               "token")
