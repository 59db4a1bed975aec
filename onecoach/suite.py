"""The benchmarks as data: the candidates of a row, the right one, the figures of a task.

    items = read("ewok", "eval")              # DIR/ewok_filtered/*.jsonl -> [Item, ...]
    share = shares(scores, right)             # of each row, given the candidates' scores
    accuracies(items, share, "groups")        # accuracy, interval, chance, by group and by field

A task is a function from a Row to an Item and a line of TASKS. The rules are those of the BabyLM
challenge of 2026, github.com/babylm-org/babylm-eval, described in docs/babylm.md. Nothing here
knows a model: exam.py scores the candidates. A malformed row is a UserError with file and line.
"""
import collections
import csv
import dataclasses
import json
import math
import pathlib

import numpy as np

from onecoach.config import UserError

SENTENCES = "sentence_good", "sentence_bad"  # BLiMP's keys
TIE = 1e-4  # nats: closer than this, fp32 cannot tell two sums apart
Z = 1.96    # of a normal variable, 95% are within


@dataclasses.dataclass
class Item:
    """A row: (prefix, completion) of each candidate, and the number of the right one."""
    group: str                  # averaged first: a paradigm, a domain
    candidates: list
    right: int = 0
    field: str = None           # a field has several groups
    id: str = None              # a prediction's key; None: the group
    says_prefix: bool = False   # does a prediction repeat the prefix?
    candidates_2025: list = None  # compared until 2025; None: the same
    columns: dict = None        # reading: times and covariates of the word

    def say(self, i):
        prefix, completion = self.candidates[i]
        return prefix + completion if self.says_prefix else completion


# ---------------------------------------------------------------- rows of files

@dataclasses.dataclass
class Row:
    """A JSON object."""
    values: dict
    where: str      # file and line, for messages
    stem: str = ""  # of the file's name

    def wrong(self, fault):
        return UserError(f"{self.where}: {fault}")

    def text(self, key, may_be_empty=False):
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.wrong(f"{key} is missing, or not text")
        if not value.strip() and not may_be_empty:
            raise self.wrong(f"{key} is empty")
        return value

    def texts(self, key):
        """Return a list of two texts or more."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) < 2:
            raise self.wrong(f"{key} is not a list of two texts or more")
        return [Row({key: text}, self.where).text(key) for text in value]

    def number(self, key, below=None):
        """Return a number; with `below` a whole one of 0 to below - 1."""
        value = self.values.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if below is not None and not (whole and 0 <= value < below):
            raise self.wrong(f"{key} = {value!r} names none of its {below} options")
        if not whole and not (isinstance(value, float) and math.isfinite(value)):
            raise self.wrong(f"{key} is missing, or no number")
        return value


def json_lines(path):
    """Yield the Rows of a file, without empty lines."""
    for i, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {i}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{where}: not JSON")
        if not isinstance(values, dict):
            raise UserError(f"{where}: not a JSON object")
        yield Row(values, where, path.stem)


def read_folder(folder, item_of):
    """Return the Items of folder/*.jsonl, in the order of files and lines."""
    folder = pathlib.Path(folder)
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise UserError(f"{folder}: no *.jsonl files there; docs/babylm.md says where to get them; "
                        f"pass --data=DIR, the folder that holds {folder.name}")
    items = []
    for path in paths:
        rows = list(json_lines(path))
        if not rows:
            raise UserError(f"{path}: empty, it has no rows")
        items += filter(None, map(item_of, rows))
    if not items:
        raise UserError(f"{folder}: none of its rows is scored; pass --data=DIR of another copy")
    return items


# ---------------------------------------------------------------- a task's candidates

def pair(row):
    """Read BLiMP's form: two sentences, each after `<s>`. Without a UID the group is the file."""
    field = str(row.values.get("field") or "").replace("syntax_semantics", "syntax/semantics")
    return Item(str(row.values.get("UID") or row.stem),
                [("", row.text(key)) for key in SENTENCES], field=field or None)


def pairs(rows):
    """Return the Items of BLiMP's dicts."""
    return [pair(Row(values, f"pair {i}")) for i, values in enumerate(rows)]


def ewok(row):
    """Read the same target after either context; until 2025 either target after the first."""
    contexts = [row.text("Context1"), row.text("Context2")]
    targets = [" " + row.text("Target1"), " " + row.text("Target2")]
    return Item(row.text("Domain"), [(context, targets[0]) for context in contexts],
                says_prefix=True, candidates_2025=[(contexts[0], target) for target in targets])


def entity_tracking(row):
    """Read options after a prefix, the first is right; a row with "nothing" in one is left out.

    arXiv 2305.02363; left out since 2026.
    """
    prefix = row.text("input_prefix")
    options = row.texts("options")
    numops = row.number("numops")
    if any("nothing" in option for option in options):
        return None
    return Item(f"{row.stem}_{numops}_ops", [(prefix, option) for option in options],
                field=row.stem)


def comps(row):
    """Read the same property after either concept; the space between belongs to the prefix."""
    phrase = row.text("property_phrase")
    candidates = [(row.text(f"prefix_{kind}") + " ", phrase)
                  for kind in ("acceptable", "unacceptable")]
    group = row.stem.removeprefix("comps_").replace("-", "_")  # wugs_dist_before
    return Item(group, candidates, says_prefix=True)


def global_piqa(options):
    """Return the function of a Row with this number of solutions."""
    def item_of(row):
        prompt = row.text("prompt")
        solutions = [" " + row.text(f"solution{i}") for i in range(options)]
        return Item("eng_latn", [(prompt, solution) for solution in solutions],
                    row.number("label", options), id=row.text("example_id"))
    return item_of


def choice(row):
    """Read {"prefix": ..., "options": [...], "right": 0}, MMLU's form."""
    prefix = row.text("prefix", may_be_empty=True)
    options = row.texts("options")
    return Item(row.stem, [(prefix, option) for option in options],
                row.number("right", len(options)))


# ---------------------------------------------------------------- reading times

EYES = "RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound"
SELF_PACED = "self_paced_reading_time"
COVARIATES = "Subtlex_log10", "length", "context_length"
NUMBERS = *EYES, SELF_PACED, *COVARIATES, "prev_length"
# missing values, for the organisers' reader
MISSING = {"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "<NA>"}


def read_words(path):
    """Read reading_data.csv: an Item per word, with the word before it as a second candidate.

    A word's prefix is the context. Missing numbers are nan; without context there is no word
    before. A sentence that begins with the word "None" is not missing.
    """
    if not path.exists():
        raise UserError(f"{path}: not there; pass --data=DIR, the folder that holds "
                        f"{path.parent.name}")
    try:
        with open(path, encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f, restval=""))
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: not a table of comma-separated UTF-8 text ({e})")
    for column in (*NUMBERS, "item", "word", "prev_item", "prev_word"):
        if not rows or column not in rows[0]:
            raise UserError(f"{path}: it has no column {column}, or no rows")

    items = []
    for i, row in enumerate(rows, 1):
        candidates = [in_context("None" if row["item"] in MISSING else row["item"], row["word"])]
        if row["prev_item"] not in MISSING:
            candidates.append(in_context(row["prev_item"], row["prev_word"]))
        columns = {}
        for column in NUMBERS:
            try:
                columns[column] = float("nan" if row[column] in MISSING else row[column])
            except ValueError:
                raise UserError(f"{path}, row {i}: {column} = {row[column]!r} is no number")
        items.append(Item("words", candidates, columns=columns))
    return items


def in_context(context, word):
    joined = context[-1:].isspace() or word[:1].isspace()
    return context, word if joined else " " + word


def partial_r2(y, covariates, x):
    """Return (R2 - R2_0) / (1 - R2_0) of least squares with and without x, and n, k.

    The products of the covariates are added; k counts them all and 1. Rows with a missing value
    are left out. The value is the square of the partial correlation of x and y.
    """
    table = np.stack([y, x, *covariates])
    y, x, *columns = table[:, ~np.isnan(table).any(0)]
    columns += [a * b for i, a in enumerate(columns) for b in columns[i + 1:]]
    *columns, x = [(c - c.mean()) / (c.std() or 1) for c in (*columns, x)]
    X = np.stack([np.ones(len(y)), *columns], 1)  # (n, k)
    if len(y) < X.shape[1] + 4:
        raise UserError(f"reading: {len(y)} words are too few to fit {X.shape[1]} coefficients")

    def left(X):
        return float(((y - X @ np.linalg.lstsq(X, y, rcond=None)[0])**2).sum())
    before = left(X)
    gain = before - left(np.column_stack([X, x]))
    return max(0.0, gain / (before or 1.0)), len(y), X.shape[1]  # y may be all alike


def fisher(r, half):
    """Return the interval of a correlation, `half` to either side of Fisher's z."""
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))
    return [math.tanh(z - half), math.tanh(z + half)]


def reading_figures(items, surprisal, before):
    """Return eye tracking (mean of four measures) and self-paced reading, by the organisers' rules.

    surprisal, before (n,): of each word and of the word before it, nats, nan if there is none.
    Intervals are by Fisher's z, words taken as independent. Chance: the 95% point of chi2 over n.
    """
    columns = {name: np.array([item.columns[name] for item in items]) for name in NUMBERS}
    covariates = [columns[name] for name in COVARIATES]

    def figure(measure, covariates):
        r2, n, k = partial_r2(columns[measure], covariates, surprisal)
        low, high = fisher(math.sqrt(r2), Z / math.sqrt(n - k - 2))
        return dict(r2=r2, interval=[max(0.0, low)**2, high**2], n=n, at_chance=r2 <= Z**2 / n)
    measures = {measure: figure(measure, covariates) for measure in EYES}
    eyes = list(measures.values())
    eye = dict(r2=mean(f["r2"] for f in eyes), n=min(f["n"] for f in eyes),
               interval=[mean(f["interval"][end] for f in eyes) for end in (0, 1)],
               at_chance=all(f["at_chance"] for f in eyes))
    self_paced = figure(SELF_PACED, [*covariates, columns["prev_length"], before])
    return dict(eye_tracking=eye, self_paced=self_paced, measures=measures, n=len(items))


# ---------------------------------------------------------------- choices and accuracies

def mean(values):
    return float(np.mean(list(values)))


def top(scores):
    """Mark the largest of each row's scores (k_i,), up to TIE: (n, k), padded with False."""
    padded = np.full((len(scores), max(map(len, scores))), np.nan)
    for i, row in enumerate(scores):
        padded[i, :len(row)] = row
    return padded >= np.nanmax(padded, 1, keepdims=True) - TIE  # nan compares as False


def shares(scores, right):
    """Return (n,): 1 if the right candidate has the largest score, 1/k if k tie, else 0.

    It is the expectation of breaking ties at random, as the organisers do since 2026.
    """
    best = top(scores)
    return best[np.arange(len(best)), right] / best.sum(1)


def chosen(scores, seed=0):
    """Return (n,) the candidate with the largest score; ties are broken at random by the seed."""
    best = top(scores)
    return (best * (1 + np.random.default_rng(seed).random(best.shape))).argmax(1)


def wilson(share, n):
    """Return the 95% interval of a share of n (Wilson 1927); it stays inside [0, 1]."""
    z2 = Z**2 / n
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def grouped(items):
    """Return {group: numbers of the items (n,)}, in order of first appearance."""
    numbers = collections.defaultdict(list)
    for i, item in enumerate(items):
        numbers[item.group].append(i)
    return {group: np.array(n) for group, n in numbers.items()}


def weights(items, over):
    """Return {group: weight in the task's mean}; over: equal "groups", or equal "fields"."""
    # equal weights: of the items' `group`, or of their `field`
    parts = {item.group: getattr(item, over.removesuffix("s")) for item in items}
    sizes = collections.Counter(parts.values())
    return {group: 1 / len(sizes) / sizes[part] for group, part in parts.items()}


def accuracies(items, share, over="groups", share_2025=None):
    """Return the figures of a task of choices: the mean over groups, fields, and each group.

    share (n,): `shares`; share_2025: by the rules until 2025, where a tie is right. 95% intervals,
    Wilson's or the normal one of variance sum w^2 a (1 - a) / n, are about other items of the same
    groups, not other groups or runs. at_chance: no farther from chance than 95% of guesses are.
    """
    values = dict(accuracy=share, ties=(share > 0) & (share < 1),
                  chance=np.array([1 / len(item.candidates) for item in items]))
    if share_2025 is not None:
        values["official_2025"] = share_2025

    groups = {}
    fields = collections.defaultdict(list)
    for group, numbers in grouped(items).items():
        means = {key: mean(value[numbers]) for key, value in values.items()}
        n, field = len(numbers), items[numbers[0]].field
        groups[group] = dict(**means, interval=wilson(means["accuracy"], n), n=n, field=field)
        if field:
            fields[field].append(means["accuracy"])

    weight = weights(items, over)
    figures = {key: sum(weight[g] * groups[g][key] for g in groups) for key in values}

    def half(key):
        return Z * math.sqrt(sum(weight[g]**2 * f[key] * (1 - f[key]) / f["n"]
                                 for g, f in groups.items()))
    accuracy, margin = figures["accuracy"], half("accuracy")
    return dict(**figures, n=len(items),
                interval=[max(0.0, accuracy - margin), min(1.0, accuracy + margin)],
                at_chance=abs(accuracy - figures["chance"]) <= half("chance"),
                fields={field: mean(values) for field, values in fields.items()}, groups=groups)


# ---------------------------------------------------------------- two runs on the same items

def mcnemar(b, c):
    """Return two-sided p of McNemar's exact test: b and c items that only one run has right.

    Twice the binomial tail P(X <= min(b, c)), X of b + c fair coins, and 1 at most.
    """
    n = b + c
    tail = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
            for i in range(min(b, c) + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, tail)))


def compared(items, share, other, over="groups"):
    """Compare one run's shares (n,) with another's on the same items: for the task, and by field.

    better, worse: items on which one or the other has the larger share, and McNemar's p on these;
    the 95% interval of the difference is paired.
    """
    gap = share - other
    weight = weights(items, over)
    groups = grouped(items)

    def of(names):
        gaps = [gap[groups[g]] for g in names]
        w = np.array([weight[g] for g in names])
        w /= w.sum()
        difference = float(w @ [g.mean() for g in gaps])
        half = Z * math.sqrt(w**2 @ [g.var() / len(g) for g in gaps])
        every = np.concatenate(gaps)
        better, worse = int((every > 0).sum()), int((every < 0).sum())
        return dict(difference=difference, interval=[difference - half, difference + half],
                    better=better, worse=worse, p=mcnemar(better, worse), n=len(every))
    fields = collections.defaultdict(list)
    for group, numbers in groups.items():
        fields[items[numbers[0]].field or group].append(group)
    return dict(**of(list(groups)), fields={field: of(names) for field, names in fields.items()})


# ---------------------------------------------------------------- the challenge's form

def predictions(items, choices):
    """Return {group or id: {"predictions": [{"id": "group_0", "pred": text}, ...]}}, in order.

    choices (n,): numbers of candidates.
    """
    said = {}
    for i, item in enumerate(items):
        lines = said.setdefault(item.id or item.group, {"predictions": []})["predictions"]
        lines.append({"id": f"{item.id or item.group}_{len(lines)}", "pred": item.say(choices[i])})
    return said


# ---------------------------------------------------------------- the tasks

@dataclasses.dataclass
class Task:
    """item_of is None for reading, whose items are words. per: the divisor of a sum."""
    title: str
    folder: str
    item_of: object = None      # Row -> Item, or None for a row that is not scored
    per: str = "sum"            # sum | token | byte (and sum)
    over: str = "groups"
    key: str = ""               # in a predictions file, if it is among WANTED
    in_2025: bool = False       # with the present rows, and a tie was right
    size: int = 0               # number of items in the challenge


TASKS = {
    "blimp": Task("BLiMP", "blimp_filtered", pair, key="blimp", in_2025=True, size=59_875),
    "supplement": Task("BLiMP supplement", "supplement_filtered", pair, key="blimp_supplement",
                       in_2025=True, size=5218),
    "ewok": Task("EWoK", "ewok_filtered", ewok, key="ewok", in_2025=True, size=7618),
    "entity_tracking": Task("entity tracking", "entity_tracking", entity_tracking, over="fields",
                            key="entity_tracking_filtered", size=6780),
    "comps": Task("COMPS", "comps", comps, key="comps", in_2025=True, size=91_028),
    "global_piqa_parallel": Task("Global PIQA, parallel", "global_piqa_parallel", global_piqa(4),
                                 per="token", key="global_piqa_parallel", size=103),
    "global_piqa_nonparallel": Task("Global PIQA, nonparallel", "global_piqa_nonparallel",
                                    global_piqa(2), per="token", key="global_piqa_nonparallel",
                                    size=100),
    "reading": Task("reading", "reading", key="reading", size=1726),
    "choice": Task("choice", "choice", choice, per="byte"),
}
ALIASES = {"global_piqa": ("global_piqa_parallel", "global_piqa_nonparallel"),
           "suite": ("blimp", "supplement", "ewok", "entity_tracking", "comps",
                     "global_piqa_parallel", "global_piqa_nonparallel", "reading")}
# the keys of a submission of 2026 (strict, strict-small), and the program that makes each
WANTED = {**{TASKS[name].key: "eval.py" for name in ALIASES["suite"]}, "glue": "tools.glue",
          **dict.fromkeys(("fast_eval_results", "aoa", "aoa_surprisals"), "the organisers' code")}


def read(name, data, limit=0):
    """Return a task's Items in a folder, at most `limit` per group; reading is always whole."""
    task = TASKS[name]
    folder = pathlib.Path(data, task.folder)
    if not task.item_of:
        return read_words(folder / "reading_data.csv")
    return first_of_each(read_folder(folder, task.item_of), limit)


def first_of_each(items, limit):
    """Return at most `limit` Items of each group; 0: all."""
    if not limit:
        return items
    kept = {i for numbers in grouped(items).values() for i in numbers[:limit].tolist()}
    return [item for i, item in enumerate(items) if i in kept]


def missing(name, n):
    """Return ["items: 4 of 59,875"] if a task of n items is not the challenge's, else []."""
    size = TASKS[name].size
    return [f"items: {n:,} of {size:,}"] if size and n != size else []
