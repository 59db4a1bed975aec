"""A run's pages: what was trained, what came of it, and the mode browser to play with.

    python -m tools.report RUN [RUN ...]

writes report.md and report.html into the last RUN's folder: it is who the page is about. The page
is one file: no server, no request to anywhere, readable on a phone, dark and light. All is measured
by tools.modes, whose modes.json is written too. matplotlib (optional) draws the curves; without it
the page has tables and its interactive parts, and with it a demo ends with its own page
(`after_training`). Where tools.ngram has put its yardsticks beside the runs, they stand beside the
benchmarks.

The story is a list of blocks, written once and put into both forms: (kind, content), where kind is
heading, words, table (rows of texts, the first its head), text (as it stands) or picture (a title,
curves, ...: see `Picture`).
"""
from onecoach.config import Arguments, read_early, run_folder, run_main


def read_args(argv):
    parser = Arguments("-m tools.report", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=run_folder, help="run folders")
    return parser.parse_args(argv)


if __name__ == "__main__":
    read_early(read_args)

import dataclasses
import html
import importlib.util
import io
import json
import math
import pathlib
import re
import shlex

import numpy as np
import torch

import babytalk
import eval
from onecoach import files, run, signatures, suite, tables
from onecoach.config import CONFIGS, KEYS, command_line, read_config
from onecoach.ranks import RANK
from tools import modes

TEMPLATE = pathlib.Path(__file__).with_name("report_page.html")
CONTEXTS = 30         # of the mode browser
WHOLE = 1000          # words of a vocabulary that are all inlined; of a larger one TOP a model
TOP = 200
TAIL_STEP = 100       # thousandths of a nat: the width of the histogram of the other words' logits
CONTINUATIONS = 2     # of each prompt
NO_MATPLOTLIB = "pictures of the curves need matplotlib (pip install matplotlib)"


def has_matplotlib():
    return importlib.util.find_spec("matplotlib") is not None


# ---------------------------------------------------------------- what was trained

def command_of(folder):
    """What trains the run in `folder` again: its config in configs/, and the keys that differ."""
    config = read_config(folder / "config.json")
    program = "distill.py" if config.teachers else "teacher.py"
    file = CONFIGS / f"{config.name}.py"
    if not file.exists():
        return f"python {program} {shlex.quote(str(folder / 'config.json'))}"

    base = read_config(file)
    aside = {"out_dir", "data_dir", "device", "name"}
    given = {key: getattr(config, key) for key in KEYS
             if key not in aside and getattr(config, key) != getattr(base, key)}
    return f"python {program} configs/{config.name}.py {command_line(given)}".rstrip()


def trained_rows(founds):
    rows = [["run", "teacher", "loss", "parameters", "steps", "best at", "on", "commit"]]
    for found in founds:
        folder, model, _, config = found.subject
        notes = files.read_json(folder / "config.json")
        log = files.read_metrics(folder / "metrics.jsonl")
        best = files.best_line(log)
        loss = config.divergence if config.teachers else "cross-entropy"
        rows.append([str(folder), ", ".join(config.teachers) or "none", loss,
                     f"{model.num_params():,}", str(max((l["step"] for l in log), default="-")),
                     str(best["step"] if best else "-"), f"{config.device}, {notes.get('_dtype')}",
                     str(notes.get("_commit") or "-")[:10]])
    return rows


def evaluations(founds):
    """[(label, eval.json)] of teachers' and students' runs, each once."""
    paths = {}
    for found in founds:
        folder = found.subject.folder
        for name in [*found.subject.config.teachers, folder.name]:
            path = folder.with_name(name) / "eval.json"
            if path.exists():
                paths.setdefault(path.resolve(), path)
    folders = [path.parent for path in paths.values()]
    return [(short(path.parent, folders), files.read_json(path)) for path in paths.values()]


def short(folder, folders):
    """A run's name, with as many folders before it as tell it from the others of folders."""
    parts = folder.parts
    others = [other.parts for other in folders if other != folder]
    enough = (n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others))
    return str(pathlib.Path(*parts[-next(enough, len(parts)):]))


def label_of(found, founds):
    return short(found.subject.folder, [other.subject.folder for other in founds])


def yardsticks(founds):
    """[(label, {task: result})] of tools.ngram's folders beside the runs, each once."""
    beside = {found.subject.folder.resolve().parent: found.subject for found in founds}
    columns = []
    for subject in beside.values():
        for name, its in eval.yardsticks(subject, dict.fromkeys(suite.TASKS, ""), eval.Options()):
            label = name if len(beside) == 1 else f"{subject.folder.parent.name}/{name}"
            columns.append((label, its))
    return columns


def benchmark_blocks(evals, beside=()):
    """Accuracy by field with 95% intervals over items and chance, of the benchmarks that a run has.

    evals, beside: [(label, {task: result})], of runs and of yardsticks.
    """
    blocks = []
    for name, task in suite.TASKS.items():
        of_runs = columns_of(name, evals)
        if of_runs:
            rows = benchmark_rows(of_runs + columns_of(name, beside))
            blocks += [("words", f"{task.title}, with 95% intervals over items."), ("table", rows)]
    of_truth = [(label, its) for label, results in evals if (its := signatures.paradigms(results))]
    if of_truth:
        blocks += [("words", "200 pairs a paradigm, by construction; chance is 50%."),
                   ("table", paradigm_rows(of_truth))]
    return blocks or [("words", "No benchmark has been run: python eval.py RUN --tasks=blimp "
                       "--data=DIR.")]


def columns_of(name, evals):
    """[(label, result)] of those that have a task's accuracies by group."""
    return [(label, results[name]) for label, results in evals
            if isinstance(results.get(name), dict) and results[name].get("groups")]


def benchmark_rows(columns):
    """A row a field, then one of the whole task. columns: [(label, result)] of that task."""
    results = [result for _, result in columns]
    fields = dict.fromkeys(group["field"] for result in results
                           for group in result["groups"].values() if group["field"])
    rows = [["", "chance", *(label for label, _ in columns)]]
    for field in fields:
        figures = [of_field(result, field) for result in results]
        chance = next(its["chance"] for its in figures if its)
        rows.append([field, f"{chance:.1%}", *map(with_interval, figures)])
    rows.append(["mean", f"{results[0]['chance']:.1%}", *map(with_interval, results)])
    return rows


def of_field(result, field):
    """A field's accuracy with its 95% interval, and chance: means of its groups; {} without any."""
    groups = [group for group in result["groups"].values() if group["field"] == field]
    if not groups:
        return {}
    accuracy = suite.mean(group["accuracy"] for group in groups)
    variance = sum(g["accuracy"] * (1 - g["accuracy"]) / g["n"] for g in groups) / len(groups)**2
    half = suite.Z * math.sqrt(variance)
    return dict(accuracy=accuracy, interval=[max(0.0, accuracy - half), min(1.0, accuracy + half)],
                chance=suite.mean(group.get("chance", result["chance"]) for group in groups))


def with_interval(figures):
    """"68.1% (67.0 to 69.2)"; "-" where there are none."""
    if not figures:
        return "-"
    low, high = figures["interval"]
    return f"{figures['accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def paradigm_rows(columns):
    """Babytalk's minimal pairs, a row a paradigm. columns: [(label, {paradigm: accuracy})]."""
    rows = [["babytalk's minimal pairs", *(label for label, _ in columns)]]
    for uid in babytalk.PAIRS:
        rows.append([uid, *(f"{its[uid]:.1%}" if uid in its else "-" for _, its in columns)])
    return rows


def learning_blocks(evals):
    """Minimal pairs by field against words read, of runs that eval.py's curve was asked of."""
    blocks = []
    for label, results in evals:
        slots = [slot for slot, result in results.items()
                 if slot.split(" ")[0] == "curve" and result.get("points")]
        if not slots:
            continue
        slot = "curve" if "curve" in slots else slots[0]
        if slot != "curve":  # of a part of the pairs, or of others
            label = f"{label}, {slot}"
        points = results[slot]["points"]
        fields = list(next(iter(points.values()))["fields"])
        rows = [[f"{label}: words read", "all", *fields]]
        for name, point in points.items():
            rows.append([name.removeprefix("chck_"), f"{point['accuracy']:.1%}",
                         *(f"{point['fields'][field]:.1%}" for field in fields)])
        words = [math.log10(float(name[len("chck_"):-1])) for name in points]
        lines = {"all": (words, [point["accuracy"] for point in points.values()])}
        for field in fields:
            lines[field] = words, [point["fields"][field] for point in points.values()]
        panel = "minimal pairs", "log10 of million words read", "accuracy", lines, {}
        blocks += [("picture", Picture(f"{label}: what it learns when", [panel])), ("table", rows)]
    return blocks


# ---------------------------------------------------------------- pictures

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


# ---------------------------------------------------------------- tables

def band_rows(founds):
    names = dict.fromkeys(name for found in founds for name in found.result["figures"]["bands"])
    rows = [["words by frequency", "share", "teacher's CE",
             *(label_of(found, founds) for found in founds)]]
    for name in names:
        bands = [found.result["figures"]["bands"].get(name) for found in founds]
        first = next(band for band in bands if band)
        rows.append([name, f"{first['share']:.1%}", f"{first['ce_teacher']:.3f}",
                     *("-" if band is None else f"{band['gap']:+.4f}" for band in bands)])
    return rows


def rule_rows(founds, n=15):
    """The rules of babytalk whose share of the truth's mass is least in any run."""
    with_rules = [found for found in founds if found.result["rules"]]
    shares = {}
    for found in with_rules:
        for rule in found.result["rules"]:
            shares.setdefault((rule["name"], rule["p"]), {})[id(found)] = rule["q"] / rule["p"]
    worst = sorted(shares.items(), key=lambda item: min(item[1].values()))[:n]
    rows = [["rule", "uses a line, p*", *(label_of(found, founds) for found in with_rules)]]
    for (name, p), of_run in worst:
        rows.append([name, f"{p:.4f}", *(f"{of_run[id(found)]:.2f}" for found in with_rules)])
    return rows


def prompts_of(subject):
    if subject.config.corpus == "babytalk":
        return ["", "the dog", "what", "tom", "please"]
    return ["", "the little", "once upon a time", "do you want"]


def continuation_rows(founds):
    """Prompts, and what teachers and students make of them, each with the same seed."""
    writers = {}
    for found in founds:
        folder, *_, config = found.subject
        for name in config.teachers:
            if name != "truth":
                path = folder.with_name(name)
                writers.setdefault(path.resolve(), (f"teacher {name}", path))
    readers = []
    for label, path in writers.values():
        model, tokenizer, _ = run.load(path)
        readers.append((label, model, tokenizer))
    readers += [(label_of(found, founds), found.subject.model, found.subject.tokenizer)
                for found in founds]
    rows = [["prompt", *(label for label, *_ in readers)]]
    for prompt in prompts_of(founds[0].subject):
        cells = []
        for _, model, tokenizer in readers:
            texts = eval.samples(model, tokenizer, prompt, CONTINUATIONS, 24, seed=1,
                                 stop=tokenizer.newline_id)
            cells.append(" / ".join(text.strip() for text in texts))
        rows.append([prompt or "(a line begins)", *cells])
    return rows


def verdict_rows(founds):
    rows = [["run", "signature", "found", "figures"]]
    for found in founds:
        for verdict in found.result["verdicts"]:
            rows.append([label_of(found, founds), verdict["name"],
                         "yes" if verdict["found"] else "no", verdict["said"]])
    return rows


def comparison_rows(founds):
    """Two students at equal entropy, a row a pair and a kind of curve."""
    label = {str(found.subject.folder): label_of(found, founds) for found in founds}
    rows = [["run", "beside", "by the", "precision, nats a token (95%)", "recall",
             "entropy", "the other's temperature", "verdict"]]
    for found in founds:
        for other, against in found.result["against"].items():
            for kind, result in against.items():
                pair = [label_of(found, founds), label[other], kind]
                if result["temperature"] is None:
                    rows.append([*pair, "-", "-", f"{result['entropy']:.3f}", "-", result["said"]])
                    continue
                axes = [result[axis] for axis in ("precision", "recall")]
                figures = ["{:+.4f} ({:+.4f} to {:+.4f})".format(axis["mean"], *axis["interval"])
                           for axis in axes]
                rows.append([*pair, *figures, f"{result['entropy']:.3f}",
                             f"{result['temperature']:.2f}", result["said"]])
    return rows


# ---------------------------------------------------------------- the story, in blocks

def summary_blocks(founds):
    """What a reader should know after two minutes."""
    blocks = [("words", "A student q that is too small to copy its teacher p must choose its "
               "errors. Forward KL, KL(p||q), charges it for what it leaves out, so it covers; "
               "reverse KL, KL(q||p), charges it for what it says and the teacher would not, so it "
               "seeks. Whether it did is measured here at equal entropy, for a lower sampling "
               "temperature makes anybody more precise.")]
    over_seeds = [*modes.over_seeds(founds)]
    if over_seeds:
        return blocks + [("words", f"{line}.") for line in over_seeds]
    last = founds[-1]
    for other, against in last.result["against"].items():
        for kind, result in against.items():
            name = pathlib.Path(other).name
            blocks.append(("words", f"{last.subject.folder.name} beside {name}, by the {kind}: "
                           f"{result['said']}."))
    return blocks


def blocks_of(founds):
    """[(kind, content)] of the report."""
    evals = evaluations(founds)
    blocks = [("heading", "What was trained"), ("table", trained_rows(founds)),
              ("text", "\n".join(command_of(found.subject.folder) for found in founds))]
    if evals:
        blocks += [("heading", "What eval.py says"), ("text", tables.final_table(evals))]
    blocks += [("heading", "Loss and validation")]
    blocks += [("picture", training_picture(founds))]
    blocks += [("heading", "Benchmarks"), *benchmark_blocks(evals, yardsticks(founds))]
    if learning_blocks(evals):
        blocks += [("heading", "By words read"), *learning_blocks(evals)]
    blocks += [("heading", "Precision and recall over the temperature"),
               ("picture", curve_picture(founds))]
    if len(comparison_rows(founds)) > 1:
        blocks += [("words", "Two students at equal entropy: the first minus the other, which is "
                    "brought to the first one's entropy by its temperature. Intervals are 95% over "
                    "texts, not over runs."), ("table", comparison_rows(founds))]
    _, *figures = modes.figure_rows(founds)
    head = ["", *(label_of(found, founds) for found in founds)]
    blocks += [("heading", "Distributions"), ("table", [head, *figures])]
    blocks += [("heading", "Does it lose the rare?"),
               ("words", "Cross-entropy over the teacher's, nats, by the rank of the word."),
               ("table", band_rows(founds))]
    if any(found.result["rules"] for found in founds):
        blocks += [("words", "Rules of the grammar that a student uses least, as a share of the "
                    "truth's mass; under 0.10 counts as lost."), ("table", rule_rows(founds))]
    if step_picture(founds):
        blocks += [("heading", "By time step"), ("picture", step_picture(founds))]
    blocks += [("heading", "The same prompts"), ("table", continuation_rows(founds))]
    blocks += [("heading", "Failure signatures"),
               ("words", "Rules with stated thresholds (signatures.py), to be argued with."),
               ("table", verdict_rows(founds))]
    return [(kind, content) for kind, content in blocks if content]


def as_markdown(blocks):
    lines = []
    for kind, content in blocks:
        if kind == "table":
            head, *body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row]
                           for row in content]
            rows = [head, ["---"] * len(head), *body]
            lines += ["| " + " | ".join(row) + " |" for row in rows]
        elif kind == "text":
            lines += ["    " + line for line in content.split("\n")]
        elif kind == "picture":
            lines += [f"(report.html has a picture here: {content.caption}.)"]
        else:
            lines += [("## " if kind == "heading" else "") + content]
        lines.append("")
    return "\n".join(lines)


def as_html(blocks, colour_of, pictures):
    """The blocks as HTML; pictures: draw them, by matplotlib."""
    parts = []
    for kind, content in blocks:
        if kind == "table":
            head, *body = content
            cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
            rows = "".join(f"<tr>{''.join(map(cell_of, row))}</tr>\n" for row in body)
            parts.append(f'<div class="scroll" tabindex="0"><table><tr>{cells}</tr>\n{rows}'
                         "</table></div>")
        elif kind == "text":
            parts.append(f'<pre tabindex="0">{html.escape(content)}</pre>')
        elif kind == "picture" and pictures:
            parts.append(f'<figure class="picture">{svg_of(content, colour_of)}<figcaption>'
                         f"{html.escape(content.caption)}</figcaption></figure>")
        elif kind == "picture":
            parts.append(f'<p class="faint">{html.escape(NO_MATPLOTLIB)}</p>')
        else:
            tag = "h2" if kind == "heading" else "p"
            parts.append(f"<{tag}>{html.escape(content)}</{tag}>")
    return "\n".join(parts)


def cell_of(text):
    """A table's cell; a sentence keeps some width, or it would be a word a line."""
    kind = ' class="sentence"' if len(text) > 40 else ""
    return f"<td{kind}>{html.escape(text)}</td>"


# ---------------------------------------------------------------- the mode browser's numbers

def contexts_of(found):
    """[ids of a prefix, `<s>` first] in which more than one word is likely, CONTEXTS at most.

    On babytalk where the next word says most about the dialect, by p* (mutual information), for
    there the two dialects are modes in the same context; else where the teacher's second word is
    nearest to its first.
    """
    text = modes.text_of(found.subject)
    if found.subject.config.corpus == "babytalk":
        return dialect_contexts(found.subject.tokenizer, text.sequences)
    tokenizer = found.subject.tokenizer
    clear, flat = [], []  # the teacher has a favourite, or none
    for ids in text.sequences[::8]:
        log_p = found.teacher_forward(torch.as_tensor(ids[:-1])[None].long())[0]
        first, second = log_p.exp().topk(2).values.T
        for t in range(8, len(ids) - 1):
            start = last_line(ids[:t + 1], tokenizer.newline_id)
            scored = (second[t] / first[t]).item(), tuple(ids[start:t + 1])
            (clear if first[t] > 0.1 else flat).append(scored)
    return distinct_ends(sorted(clear or flat, reverse=True))


def last_line(ids, newline_id):
    """Where the line begins that ids end in, with at least 8 tokens before the end."""
    ends = np.flatnonzero(np.asarray(ids[:-8]) == newline_id)
    return int(ends[-1]) + 1 if len(ends) else 0


def distinct_ends(scored):
    """The first CONTEXTS prefixes of [(score, ids)] whose last two tokens nobody before has."""
    chosen = {}
    for _, ids in scored:
        chosen.setdefault(ids[-2:], ids)
    return [*chosen.values()][:CONTEXTS]


def dialect_contexts(tokenizer, sequences):
    scored = {(tokenizer.bos_id,): told_of_dialect(babytalk.LANGUAGE.start)}
    for ids in sequences[:500]:
        words = tokenizer.decode(ids[1:-1]).split(" ")
        for t in range(1, len(words)):
            _, state = babytalk.LANGUAGE.read(words[:t])
            scored[tuple(int(i) for i in ids[:t + 1])] = told_of_dialect(state)
    return distinct_ends(sorted(((score, ids) for ids, score in scored.items()), reverse=True))


def told_of_dialect(state):
    """Nats that the next word says about the dialect after a State of babytalk."""
    joint = {}
    for (dialect, (top, *_)), weight in state.derivations:
        for word, _, p in babytalk.LANGUAGE.first_words(dialect, top):
            of_word = joint.setdefault(word, {"A": 0.0, "B": 0.0})
            of_word[dialect] += weight * p
    of_dialect = {d: sum(of_word[d] for of_word in joint.values()) for d in "AB"}
    return sum(p * math.log(p / sum(of_word.values()) / of_dialect[d])
               for of_word in joint.values() for d, p in of_word.items() if p)


def shown_words(log_ps, true=()):
    """Ids that are inlined of log-probabilities {name: (V,)}: all of a small V, else the likely.

    true: ids that are among them in any case.
    """
    V = len(next(iter(log_ps.values())))
    if V <= WHOLE:
        return [*range(V)]
    tops = [log_p.topk(TOP).indices for log_p in log_ps.values()]
    return torch.cat([*tops, torch.tensor(true, dtype=torch.long)]).unique().tolist()


def histogram(logits):
    """[[logit in thousandths, how many]] of logits (n,), by steps of TAIL_STEP."""
    steps = (logits * 1000 / TAIL_STEP).round().long()
    values, counts = steps.unique(return_counts=True)
    return [[v * TAIL_STEP, n] for v, n in zip(values.tolist(), counts.tolist())]


@torch.no_grad()
def browser_data(founds):
    """What the page's script reads: models, vocabulary, contexts with logits and truth, a note.

    Of the last run's teacher and of the runs beside it.
    """
    lead = founds[-1]
    beside = [found for found in founds
              if found.subject.folder.parent == lead.subject.folder.parent
              and found.subject.tokenizer.hash == lead.subject.tokenizer.hash]
    tokenizer = lead.subject.tokenizer
    readers = {f"teacher {lead.teacher}": lead.teacher_forward}
    models = [dict(name=f"teacher {lead.teacher}", role="teacher", colour="teacher")]
    for found in beside:
        name = label_of(found, beside)
        readers[name] = found.forward
        models.append(dict(name=name, role="student", colour=role_of(found)))
    truth = babytalk.Truth(tokenizer) if lead.subject.config.corpus == "babytalk" else None
    contexts = [context_data(ids, readers, tokenizer, truth) for ids in contexts_of(lead)]
    used = {i for context in contexts for i in context.get("words") or []}
    V = tokenizer.vocab_size
    vocabulary = [tokenizer.decode([i]) if V <= WHOLE or i in used else "" for i in range(V)]
    note = "Every word of the vocabulary is in these numbers."
    if not contexts:
        note = "There is no context to show: the development text's blocks are too short."
    elif V > WHOLE:
        note = (f"Of {V:,} words the {TOP} likeliest of each model are here, and how the logits of "
                "the others are spread, so that the bars are right at every temperature; in KL and "
                "entropy the others count as one word, so both are lower bounds.")
    return dict(models=models, vocabulary=vocabulary, contexts=contexts, note=note)


def context_data(ids, readers, tokenizer, truth):
    x = torch.tensor([ids])
    log_ps = {name: forward(x)[0, -1].cpu() for name, forward in readers.items()}
    p = truth.logits(x)[0][0, -1] if truth else torch.empty(0)
    inside = (p > babytalk.Truth.FLOOR).nonzero()[:, 0].tolist()
    words = shown_words(log_ps, inside)
    rest = torch.ones(tokenizer.vocab_size, dtype=torch.bool)
    rest[words] = False
    context = dict(text=tokenizer.decode(ids[1:] if ids[0] == tokenizer.bos_id else ids),
                   logits={name: (log_p[words] * 1000).round().long().tolist()
                           for name, log_p in log_ps.items()})
    if rest.any():
        context["words"] = words
        context["tail"] = {name: histogram(log_p[rest]) for name, log_p in log_ps.items()}
    if truth:  # [place in words, p*] of those that may follow
        context["truth"] = [[words.index(i), round(p[i].exp().item(), 6)] for i in inside]
    return context


def page(founds, blocks, pictures):
    """report.html as text."""
    colour_of = {label_of(found, founds): COLOURS[role_of(found)] for found in founds}
    data = json.dumps(browser_data(founds), ensure_ascii=False, separators=(",", ":"))
    title = "Does it seek modes? " + ", ".join(label_of(found, founds) for found in founds)
    text = TEMPLATE.read_text(encoding="utf-8")
    filled = {"TITLE": html.escape(title),
              "SUMMARY": as_html(summary_blocks(founds), colour_of, pictures),
              "REPORT": as_html(blocks, colour_of, pictures),
              "DATA": data.replace("<", "\\u003c")}  # a text must not end the script
    return re.sub(r"<!--(TITLE|SUMMARY|REPORT|DATA)-->", lambda match: filled[match[1]], text)


def write_report(folders):
    """Measure the runs in folders; write report.md and report.html; the page's path."""
    with eval.full_precision():
        founds = modes.examine(folders)
        blocks = blocks_of(founds)
        pictures = has_matplotlib()
        whole = page(founds, blocks, pictures)
    folder = founds[-1].subject.folder
    files.write_text(folder / "report.md", "# Does it seek modes?\n\n"
                     + as_markdown(summary_blocks(founds) + blocks))
    files.write_text(folder / "report.html", whole)
    if not pictures:
        print(NO_MATPLOTLIB)
    return folder / "report.html"


def after_training(config):
    """The page of a demo's student and of what stands beside it; of other runs nothing is done.

    Where matplotlib is not, one line says how to come by it: measuring takes its time.
    """
    folder = run.folder_of(config)
    is_demo = config.name.endswith("_demo") and config.corpus == "babytalk" and config.teachers
    if RANK or not is_demo or not config.eval_tokens or not run.is_finished(folder):
        return
    names = dict.fromkeys([config.baseline, config.name.replace("rkl", "fkl"), config.name])
    folders = [folder.with_name(name) for name in names if name]
    folders = [folder for folder in folders if run.is_finished(folder)]
    if not has_matplotlib():
        print("\nwith matplotlib (pip install matplotlib) a page to play with comes of this; or by "
              f"hand:\n  python -m tools.report {' '.join(map(str, folders))}")
        return
    show(write_report(folders))


def show(path):
    """Print where the page is, and the verdicts of the run that it is about."""
    verdicts = files.read_json(path.with_name("eval.json"))["verdicts"]
    print("\n" + "\n".join(signatures.words(path.parent.name, verdicts)))
    print(f"the page of it: {path} ({path.stat().st_size / 1e6:.2f} MB), {path.with_suffix('.md')}")


def main(argv):
    show(write_report(read_args(argv).runs))


if __name__ == "__main__":
    run_main(main)
