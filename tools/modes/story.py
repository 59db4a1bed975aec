"""The story of a page as a list of blocks: what was trained, and what came of it.

A block is (kind, content): kind is heading, words, table (rows of texts, the first its head), text
(as it stands) or picture (a title, curves, ...: see `Picture`).
"""
import math
import pathlib
import shlex

import babytalk
import eval
from onecoach import files, run, signatures, suite, tables
from onecoach.config import CONFIGS, KEYS, command_line, read_config
from tools.modes import words
from tools.modes.pictures import Picture, curve_picture, step_picture, training_picture
from tools.modes.words import label_of, short

CONTINUATIONS = 2     # of each prompt


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


def summary_blocks(founds):
    """What a reader should know after two minutes."""
    blocks = [("words", "A student q that is too small to copy its teacher p must choose its "
               "errors. Forward KL, KL(p||q), charges it for what it leaves out, so it covers; "
               "reverse KL, KL(q||p), charges it for what it says and the teacher would not, so it "
               "seeks. Whether it did is measured here at equal entropy, for a lower sampling "
               "temperature makes anybody more precise.")]
    over_seeds = [*words.over_seeds(founds)]
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
    _, *figures = words.figure_rows(founds)
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
