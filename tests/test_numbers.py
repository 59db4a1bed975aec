"""Every result in README and docs/results.md is checked against the rows in results/.

In a sentence a comment behind the number names its source: 0.047±0.019<!--demo/base-rkl:CE-->

    TABLE/VARIANT:FIGURE      mean over seeds; after ± half of its 95% interval
    TABLE/ONE-OTHER:FIGURE    the same of the differences, paired by seed
    ...:holm                  Holm's p of this contrast of the plan
    ...:seeds                 "4 of 5": on how many seeds ONE is above OTHER
    TABLE/FILE.jsonl,KEY=VALUE:PATH   mean over the lines of another file with this value

TABLE may be omitted after a source with the same, FIGURE if it is the first of the plan; `:holm` or
`:size` alone are about the variants of the source before. FIGURE is the beginning of a title in the
plan, without spaces, or one of COSTS; *100 makes it percent. Before a table,
<!--TABLE | ROW ... | COLUMN ...--> gives each cell the source that its row and column make
together, and `.` none; a cell's own comment goes first. In a cell "a; b±c" a is the first seed's.
Code, addresses and sizes need no source, nor do integers outside of a table's cells.
"""
import functools
import json
import pathlib
import re

import numpy as np
import pytest

from onecoach.tables import look_up
from tools.ablate.plan import read_plan
from tools.ablate.summary import difference, paired, summarise
from tools.ablate.table import Table

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8").split("\n## Read it")[0]  # README's story
         for name in ("README.md", "docs/results.md", "docs/records.md")}
COSTS = {"size": lambda row: row["parameters"] / row["text_tokens"],  # per token
         "TFLOP": lambda row: row["flops"] / 1e12}

NUMBER = r"(?<![\w.,])[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?<![,.])(?!\w)"
SHOWN = re.compile(rf"(?:(?P<first>{NUMBER}); )?(?P<mean>{NUMBER})"
                   rf"(?: ?(?P<kind>±|of) ?(?P<other>{NUMBER}))?(?:<!--(?P<source>\S+)-->)?")
TABLE = re.compile(r"<!--(\S+) \| (.+) \| (.+)-->")
EXEMPT = re.compile(r"`[^`]*`|\\\||\]\([^)]*\)|arXiv \d+\.\d+|\b\d[\d.]*M\b|95%")


# ---------------------------------------------------------------- the rows

@functools.cache
def load(table):
    """Return a plan's Table, and the content of its summary computed from the rows."""
    rows = Table(read_plan(ROOT / "configs" / f"ablate_{table}.py"), ROOT / "results")
    return rows, summarise(rows)


@functools.cache
def by_seed(table, variant, figure):
    """Return the numbers of a variant, a difference or a file's lines, one for each seed."""
    if ".jsonl" in variant:
        name, *conditions = variant.split(",")
        text = (ROOT / "results" / table / name).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        for key, value in (condition.split("=") for condition in conditions):
            lines = [line for line in lines if str(line[key]) == value]
        return [look_up(line, figure) for line in lines]
    rows, content = load(table)
    if figure in COSTS:
        return [COSTS[figure](row) for row in rows.rows()[variant.partition("-")[0]].values()]
    text = variant.replace("-", " - ")
    return [*difference(content["figures"], text, find_title(table, figure)).values()]


def find_title(table, figure):
    return next(title for title in load(table)[0].plan.figures
                if title.replace(" ", "").startswith(figure))


@functools.cache
def compute(source, first=False, interval=False):
    """Return the numbers of a source: the first seed's, if asked, mean, half of the interval."""
    table, variant, figure, stat = source
    plain = figure.removesuffix("*100")
    if stat == "holm":
        one, other = variant.split("-")
        asked = one, other, find_title(table, plain)
        return [contrast["p_holm"] for contrast in load(table)[1]["contrasts"]
                if (contrast["one"], contrast["other"], contrast["figure"]) == asked]
    factor = 1 if plain == figure else 100
    numbers = [factor * number for number in by_seed(table, variant, plain)]
    if stat == "seeds":
        return [sum(number > 0 for number in numbers), len(numbers)]
    results = numbers[:1] if first else []
    results.append(float(np.mean(numbers)))
    if interval:
        mean, (low, high), p = paired(numbers)
        results.append((high - low) / 2)
    return results


def agrees(text, number):
    """Whether a number as a text shows it is `number` rounded to as many digits."""
    digits = len(text.partition(".")[2])
    signed = number > 0 if text[0] == "+" else True
    return signed and float(text.replace(",", "")) == float(f"{number:.{digits}f}")


# ---------------------------------------------------------------- the documents

def parse(source, before):
    """Return (table, variant, figure, stat) of a source; `before` is the one before it."""
    variant, *rest = source.split(":")
    table = before[0]
    if "/" in variant:
        table, variant = variant.split("/")
    stat = rest.pop() if rest and rest[-1] in ("holm", "seeds") else ""
    if not variant:
        return *before[:2], *(rest or before[2:3]), stat
    figure = rest[0] if rest else next(iter(load(table)[0].plan.figures)).replace(" ", "")
    return table, variant, figure, stat


def join(row, column):
    """Return a cell's source: rkl:CE of "rkl" and ":CE", rkl_3000:CE of "rkl:CE" and "_3000"."""
    if "." in (row, column):
        return ""
    if column[0] == "_":
        names, colon, figure = row.partition(":")
        return "-".join(name + column for name in names.split("-")) + colon + figure
    return column + row if row[0] == ":" else row + column


def find_numbers(text):
    """Yield (line number, match of SHOWN, source or None) of each number that is a result."""
    before = ("",)
    rows = columns = None
    fenced = False
    for i, line in enumerate(text.splitlines(), 1):
        fenced ^= line.startswith("```")
        blank = EXEMPT.sub(lambda match: " " * len(match[0]), line)
        if head := TABLE.fullmatch(line):
            before = (head[1],)
            rows, columns = [".", ".", *head[2].split()], [".", *head[3].split()]
        elif line.startswith("|") and rows:
            row = rows.pop(0)
            assert blank.count("|") == len(columns) + 1, f"line {i}: {line}"
            for match in SHOWN.finditer(blank):
                column = columns[blank.count("|", 0, match.start()) - 1]
                source = match["source"] or join(row, column)
                if source:
                    yield i, match, parse(source, before)
                elif row != "." and column != "." or "." in match["mean"]:
                    yield i, match, None
        elif not fenced and not line.startswith("    "):
            rows = None
            for match in SHOWN.finditer(blank):
                if match["source"]:
                    before = parse(match["source"], before)
                    yield i, match, before
                elif "." in match["mean"]:
                    yield i, match, None


def find_faults(text):
    """Return a line for each number without a source, or with another value than in the rows."""
    faults = []
    for i, match, source in find_numbers(text):
        if source is None:
            faults.append(f"line {i}: {match[0]} has no source")
            continue
        results = compute(source, bool(match["first"]), match["kind"] == "±")
        shown = [match[name] for name in ("first", "mean", "other") if match[name]]
        if len(shown) != len(results) or not all(map(agrees, shown, results)):
            faults.append(f"line {i}: {match[0]} should be {results}")
    return faults


# ---------------------------------------------------------------- tests

@pytest.mark.parametrize("name", TEXTS)
def test_every_number_is_that_of_the_rows(name):
    assert find_faults(TEXTS[name]) == []
    assert sum(1 for _ in find_numbers(TEXTS[name])) >= 15


def test_records_are_within_their_budgets():
    budgets = {name: read_plan(ROOT / f"configs/record_{name}.py").budget
               for name in ("babytalk", "words")}
    text = TEXTS["docs/records.md"]
    assert "`5 TFLOP`" in text and "`0.5 PFLOP`" in text
    assert budgets == {"babytalk": 5e12, "words": 0.5e15}
    costs = [source[:3] for _, _, source in find_numbers(text) if source and source[2] == "TFLOP"]
    assert len(costs) >= 6
    for cost in costs:
        budget = budgets["words" if cost[0] == "1m" else "babytalk"]
        assert max(by_seed(*cost)) * 1e12 <= budget


@pytest.mark.parametrize("name", TEXTS)
def test_a_changed_digit_is_found(name):
    """The last digit of each number in turn is changed, on a copy."""
    lines = TEXTS[name].splitlines()
    for i, match, source in find_numbers(TEXTS[name]):
        line = lines[i - 1]
        for part in ("first", "mean", "other"):
            if match[part]:
                at = match.end(part) - 1
                digit = str((int(line[at]) + 1) % 10)
                copy = [*lines[:i - 1], line[:at] + digit + line[at + 1:], *lines[i:]]
                assert len(find_faults("\n".join(copy))) == 1, f"line {i}: {match[0]}"


def test_a_number_without_a_source_is_found():
    table = ("<!--demo | rkl . | :CE .-->\n| | CE | steps |\n|---|---|---|\n"
             "| rkl | 0.125 ± 0.009 | `1,000` |\n| other | - | - |\n")
    assert find_faults(table) == []
    assert find_faults(table.replace("`1,000`", "1,000")) == []
    for old, new in (("| - | - |", "| 0.3 | - |"), ("`1,000`", "0.5"), ("0.125", "0.126"),
                     ("0.009", "0.008"), ("| rkl | 0.125", "| rkl | 0.124; 0.125")):
        assert len(find_faults(table.replace(old, new))) == 1, new
    assert find_faults("A coach is ahead by 0.5.\n")
    assert not find_faults("With `alpha = 0.5`, 6.9M parameters, of 3,000 sentences.\n")
    assert find_faults("On 4 of 5<!--demo/rkl-fkl:precision:seeds--> seeds.\n")
    assert not find_faults("By 3.7<!--demo/rkl-fkl:precision*100--> (p 0.025<!--:holm-->).\n")
