"""A page about runs as one HTML file."""
import html
import json
import pathlib
import re

import eval
from onecoach import files, signatures
from tools.modes.browser import browser_data
from tools.modes.examine import examine
from tools.modes.pictures import COLOURS, NO_MATPLOTLIB, has_matplotlib, role_of, svg_of
from tools.modes.story import blocks_of, summary_blocks
from tools.modes.words import label_of

TEMPLATE = pathlib.Path(__file__).with_name("page.html")


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
    """Measure the runs in folders, write report.html into the last one, and return its path."""
    with eval.full_precision():
        founds = examine(folders)
        blocks = blocks_of(founds)
        pictures = has_matplotlib()
        whole = page(founds, blocks, pictures)
    folder = founds[-1].subject.folder
    files.write_text(folder / "report.html", whole)
    if not pictures:
        print(NO_MATPLOTLIB)
    return folder / "report.html"


def show(path):
    """Print where the page is, and the verdicts of the run that it is about."""
    verdicts = files.read_json(path.with_name("eval.json"))["verdicts"]
    print("\n" + "\n".join(signatures.words(path.parent.name, verdicts)))
    print(f"the page of it: {path} ({path.stat().st_size / 1e6:.2f} MB)")
