"""Tables on the screen: a task's groups, tasks side by side, perplexity, runs side by side."""
from onecoach import signatures, suite

MARK = "* no farther from chance than 95% of guesses are"


def table(rows):
    """Align rows of cells in lines, the first column to the left, the others to the right."""
    rows = [[as_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        lines.append("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]))
    return "\n".join(lines)


def as_text(cell, form=""):
    """Format a cell of a table: a text, a count, a share, an interval as a list, "-" for None."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, list):
        return " to ".join(as_text(end, form) for end in cell)
    if not form:
        form = "{:.1%}" if isinstance(cell, float) else "{:,}"
    return form.format(cell)


# ---------------------------------------------------------------- the suite

def task_lines(name):
    """Return a task's lines in a table: (title, path of the figure in the result, form)."""
    task = suite.TASKS[name]
    if not task.item_of:  # reading
        return [(f"{task.title}, {part.replace('_', ' ')}, share of R2 left", f"{part}.r2",
                 "{:.2%}") for part in ("eye_tracking", "self_paced")]
    lines = [(task.title, "accuracy", "{:.1%}")]
    if task.per == "byte":
        lines.append((f"{task.title}, per byte", "per_byte.accuracy", "{:.1%}"))
    return lines


def groups_table(name, result):
    """Show a task's groups and fields; a task without groups as in summary_table."""
    if "groups" not in result:
        return summary_table({name: ""}, [("", {name: result})])

    def row(label, figures):
        return [label, *(figures.get(key) for key in (
            "accuracy", "interval", "ties", "official_2025", "n"))]
    return table([["group", "accuracy", "95% over items", "ties", "as until 2025", "items"],
                  *(row(group, figures) for group, figures in result["groups"].items()),
                  *([f"mean of {field}", accuracy, *[""] * 4]
                    for field, accuracy in result["fields"].items()),
                  row(f"mean over {suite.TASKS[name].over}", result)])


def summary_table(names, columns):
    """Show tasks as lines. columns: [(label, {task: result})], the first with interval and items.

    names: {task: the folder of a set of your own, or ""}.
    """
    rows = [["task", "figure", "95% over items", "chance", "items",
             *(label for label, _ in columns[1:])]]
    for name in names:
        for title, path, form in task_lines(name):
            part, _, key = path.rpartition(".")
            results = [column.get(name, {}) for _, column in columns]
            ours, *theirs = [result.get(part, {}) if part else result for result in results]
            rows.append([", ".join(filter(None, [title, names[name]])), marked(ours, key, form),
                         as_text(ours["interval"], form), as_text(ours.get("chance"), form),
                         ours["n"], *(marked(figures, key, form) for figures in theirs)])
    has_marks = any("*" in str(cell) for row in rows for cell in row[1:])
    return table(rows) + (f"\n{MARK}" if has_marks else "")


def marked(figures, key, form):
    mark = "*" if figures.get("at_chance") else " "
    return as_text(figures.get(key), form) + mark


def remarks(results):
    """Yield sentences on items that whole results lack, and on contexts that were cut."""
    for slot, result in results.items():
        if not isinstance(result, dict) or result.get("limit"):
            continue
        if result.get("lacks"):
            yield f"{slot} is not whole, or not the challenge's: {'; '.join(result['lacks'])}"
        if result.get("cut"):
            yield (f"{slot}: {result['cut']:,} contexts lost their beginning, longer than the "
                   "GPT-2's block_size")


def against_table(label, compared):
    """Show differences to another run, by task and field. compared: {task: suite.compared}."""
    rows = [[f"against {label}", "difference", "95%, paired", "better", "worse", "McNemar's p"]]
    for name, figures in compared.items():
        lines = {name: figures}
        if len(figures["fields"]) > 1:
            lines |= {f"  {field}": part for field, part in figures["fields"].items()}
        for title, part in lines.items():
            rows.append([title, f"{part['difference']:+.1%}", as_text(part["interval"], "{:+.1%}"),
                         part["better"], part["worse"], f"{part['p']:.2g}"])
    return table(rows)


def curve_table(points):
    """Show a learning curve. points: {checkpoint: accuracy, interval and fields}."""
    rows = [[name.removeprefix("chck_"), point["accuracy"], point["interval"],
             *point["fields"].values()] for name, point in points.items()]
    fields = next(iter(points.values()))["fields"]
    return table([["words read", "accuracy", "95% over items", *fields], *rows])


# ---------------------------------------------------------------- perplexity, and the last table

def perplexity_table(result):
    rows = [["domain", "tokens", "blocks: perplexity", "bits per byte", "lines: perplexity",
             "bits per byte", "nats per byte"]]
    parts = {**result["domains"], "all; nats per byte: mean of both": result["overall"]}
    if "unseen" in result:
        parts["all, unseen lines only"] = result["unseen"]
    for name, figures in parts.items():
        ways = [f"{figures[way][key]:.4g}" for way in ("blocks", "lines")
                for key in ("perplexity", "bits_per_byte")]
        rows.append([name, figures["lines"]["tokens"], *ways,
                     f"{figures['mean_nats_per_byte']:.4f}"])
    return table(rows)


PPL_TITLE = "test split, nats per byte"
FINAL = [  # title, path in eval.json (trained: added by distill.py), form
    ("steps trained, incl. init", "trained.steps", "{:,.0f}"),
    ("words seen, incl. init", "trained.words", "{:,.0f}"),
    ("step of best.pt, shown here", "trained.best_step", "{:,.0f}"),
    ("CE above the floor, nats per token", "babytalk.ce_above_floor", "{:.4f}"),
    ("KL(p*||q), nats per token", "babytalk.kl_truth_student", "{:.4f}"),
    ("KL(q||p*): mass outside the language", "babytalk.mass_outside", "{:.4f}"),
    ("KL(q||p*): inside it, nats per token", "babytalk.kl_inside", "{:.4f}"),
    ("precision: samples in the language", "babytalk.precision", "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 10", "babytalk.recall_10", "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 3", "babytalk.recall_3", "{:.1%}"),
    ("minimal pairs of babytalk", "babytalk.minimal_pairs", "{:.1%}"),
    *((title, f"{name}.{path}", form) for name in suite.TASKS
      for title, path, form in task_lines(name)),
    (PPL_TITLE, "ppl.overall.mean_nats_per_byte", "{:.4f}"),
    (f"{PPL_TITLE}, unseen lines", "ppl.unseen.mean_nats_per_byte", "{:.4f}"),
    ("validation CE (val_ce), nats per token", "val_ce", "{:.4f}"),
]


def look_up(values, path):
    """Return the number at a path of nested dicts, "babytalk.precision"; None if there is none.

    A key may have a dot in it.
    """
    while path and isinstance(values, dict):
        key = max((key for key in values if f"{path}.".startswith(f"{key}.")), key=len, default="")
        values = values.get(key)
        path = path[len(key) + 1:]
    return values if type(values) in (int, float) and not path else None


def final_lines(evals):
    """Yield FINAL, and lines for each ppl --limit=200000 and each choice --data=DIR."""
    slots = sorted({slot for _, results in evals for slot in results})
    for title, path, form in FINAL:
        yield title, path, form
        task, _, rest = path.partition(".")
        for slot in slots:
            option, _, value = slot.removeprefix(f"{task} --").partition("=")
            if option == "data" and " --" not in value:
                yield f"{title}, {value}", f"{slot}.{rest}", form
            elif option == "limit" and task == "ppl" and value.isdigit():
                yield (f"{title}, of its first {int(value):,} tokens per domain", f"{slot}.{rest}",
                       form)


def final_table(evals):
    """Show runs [(label, eval.json)] side by side, a line for every figure that one of them has.

    Remarks on the suite's results and the verdicts follow.
    """
    # a label, "teacher llama_demo", is two lines: three runs then fit into 80 columns
    labels = [label.rpartition(" ") for label, _ in evals]
    rows = [["", *(role for role, _, _ in labels)], ["", *(name for _, _, name in labels)]]
    if not any(rows[0]):
        rows = rows[1:]
    for title, path, form in final_lines(evals):
        figures = [look_up(results, path) for _, results in evals]
        if any(figure is not None for figure in figures):
            rows.append([title, *(as_text(figure, form) for figure in figures)])
    said = []
    for label, results in evals:
        said += signatures.wrapped(f"{label}: {remark}" for remark in remarks(results))
        said += signatures.words(label, results.get("verdicts"))
    return "\n".join([table(rows), *([""] if said else []), *said])
