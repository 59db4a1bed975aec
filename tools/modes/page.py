"""Write a page about runs as one HTML file."""
import html
import json
import os
import pathlib
import re

import eval
from onecoach import files, signatures
from tools.modes.browser import browser_data
from tools.modes.examine import examine
from tools.modes.pictures import NO_MATPLOTLIB, colours, draw, has_matplotlib
from tools.modes.story import story_blocks, summary_blocks

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
LONG = 12  # rows: a longer table is folded


def as_html(blocks, colours):
    """Return blocks as HTML, pictures if matplotlib is there."""
    pictures = has_matplotlib()
    parts = []
    for kind, content in blocks:
        if kind == "table":
            parts.append(table_html(content))
        elif kind == "text":
            parts.append(f'<pre tabindex="0">{html.escape(content)}</pre>')
        elif kind == "picture" and pictures:
            parts.append(f'<figure class="picture">{draw(content, colours)}<figcaption>'
                         f"{html.escape(content.caption)}</figcaption></figure>")
        elif kind == "picture":
            parts.append(f'<p class="faint">{html.escape(NO_MATPLOTLIB)}</p>')
        elif kind == "heading":
            parts.append(f'<h2 id="{anchor(content)}">{html.escape(content)}</h2>')
        else:
            parts.append(f"<p>{html.escape(content)}</p>")
    return "\n".join(parts)


def table_html(rows):
    head, *body = rows
    cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = "".join(f"<tr>{''.join(map(cell_html, row))}</tr>\n" for row in body)
    table = f'<div class="scroll" tabindex="0"><table><tr>{cells}</tr>\n{lines}</table></div>'
    if len(body) <= LONG:
        return table
    return f"<details><summary>a table of {len(body)} rows</summary>{table}</details>"


def cell_html(text):
    """Return a table's cell; a sentence keeps some width, or it would be a column of words."""
    kind = ' class="sentence"' if len(text) > 40 else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def anchor(heading):
    return re.sub(r"\W+", "-", heading.lower()).strip("-")


def contents(blocks):
    """Return links to the headings of blocks."""
    headings = [content for kind, content in blocks if kind == "heading"]
    return "\n".join(f'<a href="#{anchor(heading)}">{html.escape(heading)}</a>'
                     for heading in headings)


def page(students):
    """Return the page as text."""
    blocks = story_blocks(students)
    chosen = colours(students)
    data = json.dumps(browser_data(students, chosen), ensure_ascii=False, separators=(",", ":"))
    title = "Does it seek modes? " + ", ".join(student.label for student in students)
    filled = {"TITLE": html.escape(title),
              "RUNS": html.escape(" ".join(run_names(students))),
              "SUMMARY": as_html(summary_blocks(students), chosen),
              "CONTENTS": contents(blocks),
              "REPORT": as_html(blocks, chosen),
              "DATA": data.replace("<", "\\u003c")}  # a text must not end the script
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda match: filled[match[1]], text)


def run_names(students):
    """Return the runs as paths from the last one's parent folder."""
    parent = students[-1].folder.resolve().parent
    return [os.path.relpath(student.folder.resolve(), parent) for student in students]


def page_path(students):
    """Return report.html in the last run's folder, or a name with all runs.

    It is the latter if there is a page already that shows a run which this one would not show.
    """
    path = students[-1].folder / "report.html"
    names = run_names(students)
    if path.exists():
        shown = re.search('<meta name="runs" content="([^"]*)">', path.read_text("utf-8"))
        if shown and not {*html.unescape(shown[1]).split(" ")} <= {*names}:
            return path.with_name(re.sub(r"[^\w.-]+", "_", f"report-{'-'.join(names)}.html"))
    return path


def write_report(folders):
    """Measure the runs in folders, write a page into the last one, and return its path."""
    with eval.full_precision():
        students = examine(folders)
        text = page(students)
    path = page_path(students)
    files.write_text(path, text)
    if not has_matplotlib():
        print(NO_MATPLOTLIB)
    return path


def show(path):
    """Print where the page is, and the verdicts of the run that it is about."""
    verdicts = files.read_json(path.with_name("eval.json"))["verdicts"]
    print("\n" + "\n".join(signatures.words(path.parent.name, verdicts)))
    print(f"the page of it: {path} ({path.stat().st_size / 1e6:.2f} MB)")
