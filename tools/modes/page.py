"""Write a page about runs, how they were trained and the results, as one HTML file."""
import json
import pathlib
import re
from html import escape

import eval
from onecoach import files, run, tables
from tools.modes import charts, words
from tools.modes.browser import browser_data
from tools.modes.examine import examine, short

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
LONG = 12             # rows: a longer table is folded
CONTINUATIONS = 2     # of each prompt
PROMPTS = "", "the little", "once upon a time", "do you want"
BABYTALK_PROMPTS = "", "the dog", "what", "tom", "please"


# ---------------------------------------------------------------- tables

def table(rows):
    """Return rows of texts, the head first, as an HTML table; a long one is folded."""
    head, *body = rows
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in body)
    text = f'<div class="scroll" tabindex="0"><table><tr>{cells}</tr>\n{lines}</table></div>'
    if len(body) > LONG:
        text = f"<details><summary>a table of {len(body)} rows</summary>{text}</details>"
    return text if body else ""


def cell(text):
    """Return a table's cell; a sentence keeps some width, or it would be a column of words."""
    kind = ' class="sentence"' if len(text) > 40 else ""
    return f"<td{kind}>{escape(text)}</td>"


def readers(students):
    """Return {label: folder} of the teachers' and students' runs, each once."""
    folders = {folder.resolve(): folder for student in students
               for folder in (*map(student.folder.with_name, student.config.teacher_runs),
                              student.folder)}.values()
    return {short(folder, folders): folder for folder in folders}


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
    prompts = PROMPTS
    if students[0].config.corpus == "babytalk":
        prompts = BABYTALK_PROMPTS
    for prompt in prompts:
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

def page(students):
    """Return the page as text: page.html with the runs' figures."""
    evals = [(label, files.read_json_or_empty(folder / "eval.json"))
             for label, folder in readers(students).items()]
    drawn = dict(curves=[*charts.curve_charts(students)],
                 training=[*charts.training_charts(students)])
    data = browser_data(students) | dict(colours=charts.colours(students), charts=drawn)
    data = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    filled = {"TITLE": escape("Does it seek modes? " + ", ".join(s.label for s in students)),
              "ANSWER": escape(words.plain_verdict(students)),
              "COMPARISONS": table(comparison_rows(students)),
              "RESULTS": escape(tables.final_table(evals)),
              "VERDICTS": table(verdict_rows(students)),
              "CONTINUATIONS": table(continuation_rows(students)),
              "FIGURES": table(words.figure_rows(students)),
              "TRAINED": table(trained_rows(students)),
              "DATA": data.replace("<", "\\u003c")}  # a text must not end the script
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda match: filled[match[1]], template)


@eval.full_precision()
def write_report(folders):
    """Measure the runs in folders, write a page into the last one, and return the path."""
    students = examine(folders)
    path = students[-1].folder / "report.html"
    files.write_text(path, page(students))
    return path
