"""The story of a page as a list of blocks: what was trained, and what came of it.

A block is (kind, content): kind is heading, words, table (rows of texts, the first one its head),
text (shown as it is) or picture (a `Picture`).
"""
import math
import shlex

import eval
from onecoach import files, run, signatures, suite, tables
from onecoach.config import CONFIGS, KEYS, command_line, read_config
from tools.modes import words
from tools.modes.examine import short
from tools.modes.pictures import Picture, curve_picture, training_picture

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


def benchmark_rows(evals, beside=()):
    """Return accuracies by task, with 95% intervals over items, and by field or paradigm.

    evals, beside: [(label, {task: result})] of runs and yardsticks; a task that no run has is left
    out.
    """
    columns = [results for _, results in (*evals, *beside)]
    rows = [["accuracy (95% over items)", "chance",
             *(label for label, _ in (*evals, *beside))]]
    for name, task in suite.TASKS.items():
        results = [suite_result(column, name) for column in columns]
        if any(results[:len(evals)]):
            chance = next(result["chance"] for result in results if result)
            rows.append([task.title, f"{chance:.1%}", *map(with_interval, results)])
            by_field = [result.get("fields", {}) for result in results]
            rows += accuracy_rows(by_field, "")
    return rows + accuracy_rows(map(signatures.paradigms, columns), "50.0%")


def suite_result(results, name):
    """Return a task's result in an eval.json if it has accuracies by group, else {}."""
    result = results.get(name)
    return result if isinstance(result, dict) and result.get("groups") else {}


def with_interval(result):
    """Return "68.1% (67.0 to 69.2)", or "-" without a result."""
    if not result:
        return "-"
    low, high = result["interval"]
    return f"{result['accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def accuracy_rows(columns, chance):
    """Return a row for each name in columns [{name: accuracy}]."""
    columns = [*columns]
    names = dict.fromkeys(name for column in columns for name in column)
    return [[f"- {name}", chance, *(f"{column[name]:.1%}" if name in column else "-"
                                    for column in columns)] for name in names]


def learning_blocks(evals):
    """Return a picture and a table of minimal pairs against words read, by eval.py's curve."""
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
        words_read = [math.log10(float(name[len("chck_"):-1])) for name in points]
        lines = {"all": (words_read, [point["accuracy"] for point in points.values()])}
        for field in next(iter(points.values()))["fields"]:
            lines[field] = words_read, [point["fields"][field] for point in points.values()]
        panel = "minimal pairs", "log10 of million words read", "accuracy", lines, {}
        blocks += [("picture", Picture(f"{label}: what it learns when", [panel])),
                   ("text", tables.curve_table(points))]
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


# ---------------------------------------------------------------- the story, in blocks

def summary_blocks(students):
    """Return the beginning: an answer to the title, and why it is asked."""
    over_seeds = [f"{line}." for line in words.over_seeds(students)]
    return [*(("words", line) for line in over_seeds or [words.plain_verdict(students)]),
            ("words", "A student q that is too small to copy its teacher p must choose its "
             "errors. Forward KL, KL(p||q), charges it for what it leaves out, so it covers; "
             "reverse KL, KL(q||p), charges it for what it says and the teacher would not, so it "
             "seeks. Both are compared at equal entropy, because a lower sampling temperature "
             "makes any student more precise.")]


def story_blocks(students):
    """Return all blocks after the summary."""
    evals = evaluations(students)
    blocks = [("heading", "Is it more than sharpening?"), ("picture", curve_picture(students))]
    labels = {str(student.folder): student.label for student in students}
    comparisons = [[student.label, labels[other], line] for student in students
                   for other, against in student.result["against"].items()
                   for line in words.comparison_words(against)]
    if comparisons:
        blocks += [("words", "Differences, the run's figure minus the other's, at equal entropy. "
                    "Intervals are 95% over texts, not over runs."),
                   ("table", [["run", "beside", "difference"], *comparisons])]
    if evals:
        benchmarks = benchmark_rows(evals, yardsticks(students))
        blocks += [("heading", "Results"), ("text", tables.final_table(evals)),
                   ("table", benchmarks if len(benchmarks) > 1 else None)]
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
    blocks += [("heading", "Loss and validation"), ("picture", training_picture(students))]
    learning = learning_blocks(evals)
    if learning:
        blocks += [("heading", "By words read"), *learning]
    blocks += [("heading", "What was trained"), ("table", trained_rows(students)),
               ("text", "\n".join(training_command(student.folder) for student in students))]
    return [(kind, content) for kind, content in blocks if content]
