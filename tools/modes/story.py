"""The story of a page as a list of blocks: what was trained, and what came of it.

A block is (kind, content): kind is heading, words, table (rows of texts, the first one its head),
text (shown as it is) or picture (a `Picture`).
"""
import math
import pathlib
import shlex

import babytalk
import eval
from onecoach import files, run, signatures, suite, tables
from onecoach.config import CONFIGS, KEYS, command_line, read_config
from tools.modes import words
from tools.modes.examine import short
from tools.modes.pictures import Picture, curve_picture, step_picture, training_picture

CONTINUATIONS = 2     # of each prompt


# ---------------------------------------------------------------- what was trained

def training_command(folder):
    """Return the command that trains the run in `folder` again."""
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


def trained_rows(students):
    rows = [["run", "teacher", "loss", "parameters", "steps", "best at", "on", "commit"]]
    for student in students:
        folder, model, _, config = student.subject
        notes = files.read_json(folder / "config.json")
        log = files.read_metrics(folder / "metrics.jsonl")
        best = files.best_line(log)
        loss = config.divergence if config.teachers else "cross-entropy"
        rows.append([str(folder), ", ".join(config.teachers) or "none", loss,
                     f"{model.num_params():,}", str(max((l["step"] for l in log), default="-")),
                     str(best["step"] if best else "-"), f"{config.device}, {notes.get('_dtype')}",
                     str(notes.get("_commit") or "-")[:10]])
    return rows


def evaluations(students):
    """Return [(label, eval.json)] of the teachers' and students' runs, each once."""
    paths = {}
    for student in students:
        folder = student.folder
        for name in [*student.config.teacher_runs, folder.name]:
            path = folder.with_name(name) / "eval.json"
            if path.exists():
                paths.setdefault(path.resolve(), path)
    folders = [path.parent for path in paths.values()]
    return [(short(path.parent, folders), files.read_json(path)) for path in paths.values()]


def yardsticks(students):
    """Return [(label, {task: result})] of tools.ngram's folders beside the runs, each once."""
    beside = {student.folder.resolve().parent: student.subject for student in students}
    columns = []
    for subject in beside.values():
        tasks = dict.fromkeys(suite.TASKS, "")
        for name, results in eval.yardsticks(subject, tasks, eval.Options()):
            label = name if len(beside) == 1 else f"{subject.folder.parent.name}/{name}"
            columns.append((label, results))
    return columns


def benchmark_blocks(evals, beside=()):
    """Return blocks of the benchmarks that a run has: accuracy by field, 95% over items, chance.

    evals, beside: [(label, {task: result})], of runs and of yardsticks.
    """
    blocks = []
    for name, task in suite.TASKS.items():
        columns = task_columns(name, evals)
        if columns:
            rows = benchmark_rows(columns + task_columns(name, beside))
            blocks += [("words", f"{task.title}, with 95% intervals over items."), ("table", rows)]
    pairs = [(label, signatures.paradigms(results)) for label, results in evals]
    pairs = [(label, paradigms) for label, paradigms in pairs if paradigms]
    if pairs:
        blocks += [("words", "200 pairs per paradigm, by construction; chance is 50%."),
                   ("table", paradigm_rows(pairs))]
    return blocks or [("words", "No benchmark has been run: python eval.py RUN --tasks=blimp "
                       "--data=DIR.")]


def task_columns(name, evals):
    """Return [(label, result)] of the runs that have a task's accuracies by group."""
    return [(label, results[name]) for label, results in evals
            if isinstance(results.get(name), dict) and results[name].get("groups")]


def benchmark_rows(columns):
    """Return a row for each field, then one for the whole task. columns: [(label, result)]."""
    results = [result for _, result in columns]
    fields = dict.fromkeys(group["field"] for result in results
                           for group in result["groups"].values() if group["field"])
    rows = [["", "chance", *(label for label, _ in columns)]]
    for field in fields:
        figures = [field_accuracy(result, field) for result in results]
        chance = next(known["chance"] for known in figures if known)
        rows.append([field, f"{chance:.1%}", *map(with_interval, figures)])
    rows.append(["mean", f"{results[0]['chance']:.1%}", *map(with_interval, results)])
    return rows


def field_accuracy(result, field):
    """Return a field's accuracy, 95% interval and chance, means of its groups; {} without any."""
    groups = [group for group in result["groups"].values() if group["field"] == field]
    if not groups:
        return {}
    accuracy = suite.mean(group["accuracy"] for group in groups)
    variance = sum(g["accuracy"] * (1 - g["accuracy"]) / g["n"] for g in groups) / len(groups)**2
    half = suite.Z * math.sqrt(variance)
    return dict(accuracy=accuracy, interval=[max(0.0, accuracy - half), min(1.0, accuracy + half)],
                chance=suite.mean(group.get("chance", result["chance"]) for group in groups))


def with_interval(figures):
    """Return "68.1% (67.0 to 69.2)", or "-" without figures."""
    if not figures:
        return "-"
    low, high = figures["interval"]
    return f"{figures['accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def paradigm_rows(columns):
    """Return babytalk's minimal pairs by paradigm. columns: [(label, {paradigm: accuracy})]."""
    rows = [["babytalk's minimal pairs", *(label for label, _ in columns)]]
    for uid in babytalk.PAIRS:
        rows.append([uid, *(f"{paradigms[uid]:.1%}" if uid in paradigms else "-"
                            for _, paradigms in columns)])
    return rows


def learning_blocks(evals):
    """Return blocks of minimal pairs by field against words read, by eval.py --tasks=curve."""
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


# ---------------------------------------------------------------- tables

def band_rows(students):
    names = dict.fromkeys(name for student in students
                          for name in student.result["figures"]["bands"])
    rows = [["words by frequency", "share", "teacher's CE",
             *(student.label for student in students)]]
    for name in names:
        bands = [student.result["figures"]["bands"].get(name, {}) for student in students]
        share = next(band["share"] for band in bands if band)
        teacher = next((band["ce_teacher"] for band in bands if "ce_teacher" in band), None)
        rows.append([name, f"{share:.1%}", "-" if teacher is None else f"{teacher:.3f}",
                     *(f"{band['gap']:+.4f}" if "gap" in band else "-" for band in bands)])
    return rows


def rule_rows(students, n=15):
    """Return the rules of babytalk with the least share of the truth's mass in any run."""
    shares = {}
    for student in students:
        for rule in student.result["rules"]:
            by_label = shares.setdefault((rule["name"], rule["p"]), {})
            by_label[student.label] = f"{rule['q'] / rule['p']:.2f}"
    worst = sorted(shares.items(), key=lambda item: min(map(float, item[1].values())))[:n]
    rows = [["rule", "uses in a line, p*", *(student.label for student in students)]]
    for (name, p), by_label in worst:
        rows.append([name, f"{p:.4f}", *(by_label.get(student.label, "-")
                                         for student in students)])
    return rows


def prompts(config):
    if config.corpus == "babytalk":
        return ["", "the dog", "what", "tom", "please"]
    return ["", "the little", "once upon a time", "do you want"]


def continuation_rows(students):
    """Return prompts and how teachers and students continue them, each with the same seed."""
    teachers = {}
    for student in students:
        for name in student.config.teacher_runs:
            path = student.folder.with_name(name)
            teachers.setdefault(path.resolve(), (f"teacher {name}", path))
    readers = [(label, *run.load(path)[:2]) for label, path in teachers.values()]
    readers += [(student.label, student.subject.model, student.subject.tokenizer)
                for student in students]
    rows = [["prompt", *(label for label, *_ in readers)]]
    for prompt in prompts(students[0].config):
        cells = []
        for _, model, tokenizer in readers:
            texts = eval.samples(model, tokenizer, prompt, CONTINUATIONS, 24, seed=1,
                                 stop=tokenizer.newline_id)
            cells.append(" / ".join(text.strip() for text in texts))
        rows.append([prompt or "(a line begins)", *cells])
    return rows


def verdict_rows(students):
    rows = [["run", "signature", "found", "figures"]]
    for student in students:
        for verdict in student.result["verdicts"]:
            rows.append([student.label, verdict["name"], "yes" if verdict["found"] else "no",
                         verdict["said"]])
    return rows


def comparison_rows(students):
    """Return two students at equal entropy, a row for each pair and kind of curve."""
    labels = {str(student.folder): student.label for student in students}
    rows = [["run", "beside", "by the", "precision, nats per token (95%)", "recall",
             "entropy", "the other's temperature", "verdict"]]
    for student in students:
        for other, against in student.result["against"].items():
            for kind, result in against.items():
                pair = [student.label, labels[other], kind]
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

def summary_blocks(students):
    """Return the beginning: an answer to the title, why it is asked, and the comparisons."""
    over_seeds = [*words.over_seeds(students)]
    answer = [] if over_seeds else [("words", words.plain_verdict(students))]
    blocks = [*answer,
              ("words", "A student q that is too small to copy its teacher p must choose its "
               "errors. Forward KL, KL(p||q), charges it for what it leaves out, so it covers; "
               "reverse KL, KL(q||p), charges it for what it says and the teacher would not, so it "
               "seeks. Both are compared at equal entropy, because a lower sampling temperature "
               "makes any student more precise.")]
    if over_seeds:
        return blocks + [("words", f"{line}.") for line in over_seeds]
    last = students[-1]
    for other, against in last.result["against"].items():
        *_, (kind, result) = against.items()  # by the truth, where it is known
        name = pathlib.Path(other).name
        blocks.append(("words", f"{last.folder.name} beside {name}, by the {kind}: "
                       f"{result['said']}."))
    return blocks


def story_blocks(students):
    """Return all blocks after the summary."""
    evals = evaluations(students)
    blocks = [("heading", "Is it more than sharpening?"), ("picture", curve_picture(students))]
    comparisons = comparison_rows(students)
    if len(comparisons) > 1:
        blocks += [("words", "Two students at equal entropy: the first minus the other, which is "
                    "brought to the first one's entropy by its temperature. Intervals are 95% over "
                    "texts, not over runs."), ("table", comparisons)]
    if evals:
        blocks += [("heading", "Results"), ("text", tables.final_table(evals))]
    blocks += [("heading", "Failure signatures"),
               ("words", "Rules with stated thresholds (signatures.py), to be argued with."),
               ("table", verdict_rows(students))]
    blocks += [("heading", "The same prompts"), ("table", continuation_rows(students))]
    blocks += [("heading", "Does it lose the rare?"),
               ("words", "Cross-entropy over the teacher's, nats, by the rank of the word."),
               ("table", band_rows(students))]
    if any(student.result["rules"] for student in students):
        blocks += [("words", "Rules of the grammar that a student uses least, as a share of the "
                    "truth's mass; under 0.10 counts as lost."), ("table", rule_rows(students))]
    blocks += [("heading", "Distributions"), ("table", words.figure_rows(students))]
    blocks += [("heading", "Loss and validation"), ("picture", training_picture(students)),
               ("picture", step_picture(students))]
    blocks += [("heading", "Benchmarks"), *benchmark_blocks(evals, yardsticks(students))]
    learning = learning_blocks(evals)
    if learning:
        blocks += [("heading", "By words read"), *learning]
    blocks += [("heading", "What was trained"), ("table", trained_rows(students)),
               ("text", "\n".join(training_command(student.folder) for student in students))]
    return [(kind, content) for kind, content in blocks if content]
