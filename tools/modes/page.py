"""Write a page about runs as one HTML file."""
import html
import json
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
    return "\n".join(block_html(kind, content, colours) for kind, content in blocks)


def block_html(kind, content, colours):
    if kind == "table":
        return table_html(content)
    if kind == "picture" and has_matplotlib():
        return (f'<figure class="picture">{draw(content, colours)}<figcaption>'
                f"{html.escape(content.caption)}</figcaption></figure>")
    if kind == "picture":
        return f'<p class="faint">{html.escape(NO_MATPLOTLIB)}</p>'
    text = html.escape(content)
    if kind == "text":
        return f'<pre tabindex="0">{text}</pre>'
    if kind == "heading":
        return f'<h2 id="{anchor(content)}">{text}</h2>'
    return f"<p>{text}</p>"


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


def page(students):
    """Return the page as text."""
    blocks = story_blocks(students)
    chosen = colours(students)
    contents = "\n".join(f'<a href="#{anchor(content)}">{html.escape(content)}</a>'
                         for kind, content in blocks if kind == "heading")
    data = json.dumps(browser_data(students, chosen), ensure_ascii=False, separators=(",", ":"))
    title = "Does it seek modes? " + ", ".join(student.label for student in students)
    filled = {"TITLE": html.escape(title),
              "SUMMARY": as_html(summary_blocks(students), chosen),
              "CONTENTS": contents,
              "REPORT": as_html(blocks, chosen),
              "DATA": data.replace("<", "\\u003c")}  # a text must not end the script
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"<!--([A-Z]+)-->", lambda match: filled[match[1]], text)


def write_report(folders):
    """Measure the runs in folders, write a page into the last one, and return the path."""
    with eval.full_precision():
        students = examine(folders)
        text = page(students)
    path = students[-1].folder / "report.html"
    files.write_text(path, text)
    return path


def show(path):
    """Print where the page is, and the verdicts of the run that it is about."""
    verdicts = files.read_json(path.with_name("eval.json"))["verdicts"]
    print("\n" + "\n".join(signatures.words(path.parent.name, verdicts)))
    print(f"the page: {path} ({path.stat().st_size / 1e6:.2f} MB)")
