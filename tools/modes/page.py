"""Write a page about runs, how they were trained and the results, as one HTML file."""
import json
import pathlib
import re
from html import escape

import eval
from onecoach import files, run, signatures, tables
from tools.modes import charts, words
from tools.modes.browser import browser_data
from tools.modes.examine import examine, short

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
LONG = 12             # rows: a longer table is folded
CONTINUATIONS = 2     # of each prompt
PROMPTS = "", "the little", "once upon a time", "do you want"
BABYTALK_PROMPTS = "", "the dog", "what", "tom", "please"

WHY = ("A student q that is too small to copy its teacher p must choose its errors. Forward KL, "
       "KL(p||q), charges it for what it leaves out, so it covers; reverse KL, KL(q||p), charges "
       "it for what it says and the teacher would not, so it seeks. Both are compared at equal "
       "entropy, because a lower sampling temperature makes any student more precise.")


# ---------------------------------------------------------------- pieces of HTML

def paragraph(text):
    return f"<p>{escape(text)}</p>"


def table(rows, note=""):
    """Return rows of texts, the head first, as a table below a note; a long one is folded."""
    head, *body = rows
    if not body:
        return ""
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in body)
    text = f'<div class="scroll" tabindex="0"><table><tr>{cells}</tr>\n{lines}</table></div>'
    if len(body) > LONG:
        text = f"<details><summary>a table of {len(body)} rows</summary>{text}</details>"
    return (paragraph(note) if note else "") + text


def cell(text):
    """Return a table's cell; a sentence keeps some width, or it would be a column of words."""
    kind = ' class="sentence"' if len(text) > 40 else ""
    return f"<td{kind}>{escape(text)}</td>"


def figure(name, drawn, caption):
    """Return the place of charts that the page's script draws, if there are some of this name."""
    text = f'<figure data-charts="{name}"><figcaption>{escape(caption)}</figcaption></figure>'
    return text if drawn[name] else ""


# ---------------------------------------------------------------- training and results

def readers(students):
    """Return {label: folder} of the teachers' and students' runs, each once."""
    folders = {folder.resolve(): folder for student in students
               for folder in (*map(student.folder.with_name, student.config.teacher_runs),
                              student.folder)}.values()
    return {short(folder, folders): folder for folder in folders}


def final_table(students):
    evals = [(label, files.read_json_or_empty(folder / "eval.json"))
             for label, folder in readers(students).items()]
    return f'<pre tabindex="0">{escape(tables.final_table(evals))}</pre>'


def trained_rows(students):
    rows = [["run", "teacher", "loss", "parameters", "steps", "best at", "on", "commit"]]
    for student in students:
        folder, model, _, config = student.subject
        notes = files.read_json(folder / "config.json")
        log = files.read_metrics(folder / "metrics.jsonl")
        best = files.best_line(log) or {"step": "-"}
        loss = config.divergence if config.teachers else "cross-entropy"
        rows.append([str(folder), ", ".join(config.teachers) or "none", loss,
                     f"{model.num_params():,}", str(max((l["step"] for l in log), default="-")),
                     str(best["step"]), f"{config.device}, {notes.get('_dtype')}",
                     str(notes.get("_commit") or "-")[:10]])
    return rows


def continuation_rows(students):
    """Return prompts and how teachers and students continue them, each with the same seed."""
    runs = {label: run.load(folder) for label, folder in readers(students).items()}
    rows = [["prompt", *runs]]
    is_babytalk = students[0].config.corpus == "babytalk"
    for prompt in BABYTALK_PROMPTS if is_babytalk else PROMPTS:
        row = [prompt or "(a line begins)"]
        for model, tokenizer, _ in runs.values():
            texts = eval.samples(model, tokenizer, prompt, CONTINUATIONS, 24, seed=1,
                                 stop=tokenizer.newline_id)
            row.append(" / ".join(text.strip() for text in texts))
        rows.append(row)
    return rows


def verdict_rows(students):
    return [["run", "signature", "found", "figures"],
            *([student.label, verdict["name"], "yes" if verdict["found"] else "no",
               verdict["said"]]
              for student in students for verdict in student.result["verdicts"])]


def comparison_rows(students):
    """Return the comparisons of each run with the runs before it."""
    labels = {str(student.folder): student.label for student in students}
    return [["run", "beside", "difference"],
            *([student.label, labels[other], line] for student in students
              for other, against in student.result["against"].items()
              for line in words.comparison_words(against))]


# ---------------------------------------------------------------- the page

def story(students, drawn):
    """Return {heading: HTML}, an empty text for nothing to tell. drawn: {name: charts}."""
    return {
        "Is it more than sharpening?": figure(
            "curves", drawn, "precision against recall as the sampling temperature goes from 0.5 "
            "(left, above) to 1.5; the dots are temperature 1") + table(
            comparison_rows(students), "Differences, the run's figure minus the other's, at equal "
            "entropy. Intervals are 95% over texts, not over runs."),
        "Results": final_table(students),
        "Failure signatures": table(
            verdict_rows(students),
            "Rules with stated thresholds (signatures.py), to be argued with."),
        "The same prompts": table(continuation_rows(students)),
        "Distributions": table(words.figure_rows(students)),
        "Loss and validation": figure(
            "training", drawn, "With a schedule of alpha the loss goes from cross-entropy to the "
            "divergence, a smaller number, so its fall is no progress by itself: look at the "
            "validation."),
        "What was trained": table(
            trained_rows(students),
            "To train a run again: python distill.py RUN/config.json --resume=no")}


def page(students):
    """Return the page as text."""
    drawn = dict(curves=charts.curve_charts(students),
                 training=charts.training_charts(students))
    data = browser_data(students) | dict(charts=drawn, colours=charts.colours(students))
    contents, report = "", ""
    for heading, text in story(students, drawn).items():
        if text:
            anchor = re.sub(r"\W+", "-", heading.lower()).strip("-")
            contents += f'<a href="#{anchor}">{heading}</a>\n'
            report += f'<h2 id="{anchor}">{heading}</h2>\n{text}\n'

    title = "Does it seek modes? " + ", ".join(student.label for student in students)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    filled = {"TITLE": escape(title),
              "SUMMARY": paragraph(words.plain_verdict(students)) + paragraph(WHY),
              "CONTENTS": contents,
              "REPORT": report,
              "DATA": text.replace("<", "\\u003c")}  # a text must not end the script
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda match: filled[match[1]], template)


@eval.full_precision()
def write_report(folders):
    """Measure the runs in folders, write a page into the last one, and return the path."""
    students = examine(folders)
    path = students[-1].folder / "report.html"
    files.write_text(path, page(students))
    return path


def show(path):
    """Print where the page is, and the verdicts of the run that it is about."""
    verdicts = files.read_json(path.with_name("eval.json"))["verdicts"]
    print("\n" + "\n".join(signatures.words(path.parent.name, verdicts)))
    print(f"the page: {path} ({path.stat().st_size / 1e6:.2f} MB)")
