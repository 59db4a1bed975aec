"""What is found of runs, in words and as rows of a table."""
import collections
import pathlib

import numpy as np

from onecoach.tables import look_up
from tools.modes.measure import TOPS

FIGURES = [  # title, where it is in modes.json, form
    ("CE, nats a token", "figures.ce", "{:.4f}"),
    ("KL(p||q) to the teacher", "figures.fkl", "{:.4f}"),
    ("KL(q||p)", "figures.rkl", "{:.4f}"),
    ("entropy of q, nats", "figures.entropy_q", "{:.4f}"),
    ("entropy of its teacher", "figures.entropy_p", "{:.4f}"),
    ("precision E_q[log p]", "figures.precision", "{:.4f}"),
    ("recall E_p[log q]", "figures.recall", "{:.4f}"),
    *[(f"q on the teacher's top {k}", f"figures.q_on_top_{k}_of_p", "{:.4f}") for k in TOPS],
    *[(f"the teacher on q's top {k}", f"figures.p_on_top_{k}_of_q", "{:.4f}") for k in TOPS],
    ("calibration error (ECE)", "figures.calibration_error", "{:.4f}"),
    ("written: log p a token", "written.log_p", "{:.4f}"),
    ("written: in the language", "written.right", "{:.1%}"),
    ("written: in dialect A (60%)", "written.dialect_a", "{:.1%}"),
    *[(f"written: distinct {n}-grams", f"written.distinct_{n}", "{:.3f}") for n in (1, 2, 3)],
    ("written: 4-grams repeated", "written.repeated", "{:.1%}"),
    ("written: longest repeated span", "written.longest_repeat", "{:.0f}"),
    ("written: mean length, tokens", "written.mean_length", "{:.1f}"),
    ("written: never ends", "written.never_ends", "{:.1%}"),
]


def figure_rows(founds):
    """The table of FIGURES as rows of texts, a column a run."""
    rows = [["", *(str(found.subject.folder) for found in founds)]]
    for title, path, form in FIGURES:
        values = [look_up(found.result, path) for found in founds]
        if any(value is not None for value in values):
            rows.append([title, *("-" if v is None else form.format(v) for v in values)])
    return rows


def comparison_words(against):
    """Lines that say what was found of one run against another, a line a kind of curve."""
    for kind, result in against.items():
        if result["temperature"] is None:
            yield f"against the {kind}: {result['said']} ({result['entropy']:.3f} nats)"
            continue
        parts = []
        for axis in ("precision", "recall"):
            low, high = result[axis]["interval"]
            parts.append(f"{axis} {result[axis]['mean']:+.4f} ({low:+.4f} to {high:+.4f})")
        yield (f"against the {kind}: {result['said']}. At entropy {result['entropy']:.3f} (the "
               f"other at temperature {result['temperature']:.2f}): {', '.join(parts)} nats a "
               "token")


def rule_words(of_rules, n=5):
    """The n rules with the least share of the truth's mass, a line each."""
    for rule in sorted(of_rules, key=lambda rule: rule["q"] / rule["p"])[:n]:
        yield (f"{rule['name']}: {rule['q'] / rule['p']:.2f} of the truth's mass ({rule['q']:.2g} "
               f"for {rule['p']:.2g} uses a line)")


def over_seeds(founds):
    """Lines that sum up the same pair of names in several folders, one figure each."""
    groups = collections.defaultdict(list)
    for found in founds:
        for other, against in found.result["against"].items():
            for kind, result in against.items():
                if result["temperature"] is not None:
                    groups[found.subject.folder.name, pathlib.Path(other).name,
                           kind].append(result)
    for (one, other, kind), results in groups.items():
        if len(results) > 1:
            parts = []
            for axis in ("precision", "recall"):
                each = [result[axis]["mean"] for result in results]
                figures = " ".join(f"{x:+.4f}" for x in each)
                parts.append(f"{axis} {np.mean(each):+.4f} ({figures})")
            said = collections.Counter(result["said"] for result in results)
            words = "; ".join(f"{n} of {len(results)}: {text}" for text, n in said.most_common())
            yield f"{one} against {other}, by the {kind}: {', '.join(parts)}. {words}"


def short(folder, folders):
    """A run's name, with as many folders before it as tell it from the others of folders."""
    parts = folder.parts
    others = [other.parts for other in folders if other != folder]
    enough = (n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others))
    return str(pathlib.Path(*parts[-next(enough, len(parts)):]))


def label_of(found, founds):
    return short(found.subject.folder, [other.subject.folder for other in founds])
