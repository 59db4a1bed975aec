"""(Super)GLUE by the BabyLM challenge's recipe: a run with a new head is fine-tuned on each task.

    python -m tools.glue RUN --data=DIR                    # the tasks that DIR has all files of
    python -m tools.glue RUN --data=DIR --tasks=rte,wsc --seeds=3
    python -m tools.glue RUN --data=DIR --tasks=mnli --limit=1000       # training rows
    python -m tools.glue RUN --data=DIR --predictions=FILE              # for the challenge

DIR, by default $BABYLM_DIR/eval, holds glue_filtered: TASK.train.jsonl and TASK.valid.jsonl of
boolq, mnli, mrpc, multirc, qqp, rte, wsc. A table is printed; what it says is in RUN/glue.json:

    {"rte": {"accuracy": mean over seeds, ..., "seeds": {"42": what one fine-tuning came to}}}

Each (task, seed) is there as soon as it is done and is not done again, unless the run's weights or
the rows are others than then. "rte --limit=500" stands beside "rte".

The recipe is that of babylm-org/babylm-eval, strict (2026, unchanged since 2025): AdamW with weight
decay 0.01 on all weights, no clipping; lr 3e-5 after 6% of the steps, then a cosine to a tenth;
batches of 32 (16 for boolq and multirc), 10 epochs (30 for wsc), at most 512 tokens; the head reads
the last token (their --take_final; their default, the first, has seen nothing in a causal model).
The epoch that is reported is the one with the best accuracy (F1 for mrpc and qqp) *on the rows that
are reported*: that flatters, so the last epoch's accuracy stands beside it, and the majority's.
"""
import os
import pathlib

from onecoach.config import Arguments, UserError, read_early, run_folder, run_main


def read_args(argv):
    """The command line; UserError for what is out of range or does not go together."""
    parser = Arguments("-m tools.glue", __doc__)
    parser.add_argument("run", metavar="RUN", type=run_folder, help="the run's folder")
    parser.add_argument("--data", default="", help="folder that holds glue_filtered")
    parser.add_argument("--tasks", default="", help="of those above, with commas between them; "
                        "default: those whose files are there")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 42 on")
    parser.add_argument("--limit", type=int, default=0, help="training rows of a task; 0: all")
    parser.add_argument("--predictions", default="", help="file for the challenge, of seed 42; one "
                        "that is there keeps what else it holds")
    parser.add_argument("--which", default="best", choices=["best", "last"],
                        help="best.pt, the lowest val_ce, or ckpt.pt")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"],
                        help="of matrix products; auto: bfloat16 where the processor has it")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.limit < 0:
        raise UserError(f"seeds = {args.seeds}, limit = {args.limit}: allowed are seeds >= 1, "
                        "limit >= 0")
    if args.predictions and args.limit:
        raise UserError("--predictions are for the challenge, which trains on all rows; leave out "
                        "--limit")
    args.predictions = pathlib.Path(args.predictions) if args.predictions else None
    if args.predictions and not os.access(args.predictions.absolute().parent, os.W_OK):
        raise UserError(f"{args.predictions}: there is no folder {args.predictions.parent}, or "
                        "none to write to; make it first")
    return args


if __name__ == "__main__":
    read_early(read_args)

import collections
import copy
import hashlib
import itertools
import json
import math
import string
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import eval
from onecoach import files, run
from onecoach.scoring import longest_input
from onecoach.suite import json_lines, wilson
from onecoach.tables import table

# The two texts of a row, from its keys; how many labels; the recipe; what chooses the epoch; rows
# that TASK.valid.jsonl has in the challenge.
Task = collections.namedtuple("Task", "first second labels batch epochs chosen_by items")
TASKS = {
    "boolq": Task("{question}", "{passage}", 2, 16, 10, "accuracy", 1635),
    "mnli": Task("{premise}", "{hypothesis}", 3, 32, 10, "accuracy", 4908),
    "mrpc": Task("{sentence1}", "{sentence2}", 2, 32, 10, "f1", 204),
    "multirc": Task("Question: {question} Answer: {answer}", "{paragraph}", 2, 16, 10, "accuracy",
                    2424),
    "qqp": Task("{question1}", "{question2}", 2, 32, 10, "f1", 20215),
    "rte": Task("{sentence1}", "{sentence2}", 2, 32, 10, "accuracy", 139),
    "wsc": Task('Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}", 2, 32, 30,
                "accuracy", 52),
}
LONGEST = 512     # tokens of a row
LR = 3e-5
WARMUP = 0.06     # of the steps
LAST_LR = 0.1     # of LR, at the end of the cosine
WEIGHT_DECAY = 0.01
DROPOUT = 0.1     # in the head
FIRST_SEED = 42

# Padded tokens of a forward pass in training: on a processor more would only be padding, and on a
# GPU fewer would leave it waiting for launches.
PIECE = {"cpu": 1024, "mps": 4096, "cuda": 16384}


# ---------------------------------------------------------------- rows

# ids: a list of lists; labels (n,) int64, on the CPU; cut: rows that were too long
Rows = collections.namedtuple("Rows", "ids labels cut")
Data = collections.namedtuple("Data", "train valid")


def read_rows(path, task, tokenizer, length, limit=0):
    """The Rows of a file, at most `length` tokens each; limit: the first so many, 0 all.

    UserError that names the file, and the line, where it is empty, not JSON, lacks a text or has
    another label than 0 to task.labels - 1.
    """
    ids = []
    labels = []
    cut = 0
    keys = [key for _, key, *_ in string.Formatter().parse(task.first + task.second) if key]
    for row in itertools.islice(json_lines(path), limit or None):
        values = {key: row.text(key, may_be_empty=True) for key in keys}
        texts = task.first.format(**values), task.second.format(**values)
        row_ids, whole = encode_pair(tokenizer, *texts, length)
        ids.append(row_ids)
        labels.append(row.number("label", task.labels))
        cut += not whole
    if not ids:
        raise UserError(f"{path}: empty, it has no rows")
    return Rows(ids, torch.tensor(labels), cut)


def encode_pair(tokenizer, first, second, length):
    """(`<s>`, the tokens of both texts, at most `length` in all; are they whole?).

    Nothing stands between the two, and the longer one is cut first: what Hugging Face's tokenizers
    make of the same pair by the same tokenizer.json.
    """
    a = tokenizer.encode(first)
    b = tokenizer.encode(second)
    room = length - 1
    whole = len(a) + len(b) <= room
    if not whole:
        shorter = min(len(a), len(b), room // 2)
        longer = room - shorter
        n, m = (shorter, longer) if len(a) <= len(b) else (longer, shorter)
        a = a[:n]
        b = b[:m]
    return [tokenizer.bos_id, *a, *b], whole


def pieces(numbers, ids, tokens):
    """Cut the numbers of rows into lists of like length, of at most `tokens` when padded."""
    waiting = sorted(numbers, key=lambda i: -len(ids[i]))
    while waiting:
        n = max(1, tokens // len(ids[waiting[0]]))
        yield waiting[:n]
        waiting = waiting[n:]


def padded(rows, numbers, device):
    """ids (B, T), padded on the right, and where each row's last token is (B,)."""
    ids = [torch.tensor(rows.ids[i]) for i in numbers]
    last = torch.tensor([len(row) - 1 for row in ids])
    ids = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return ids.to(device), last.to(device)


# ---------------------------------------------------------------- a fine-tuning

class Classifier(nn.Module):
    """A language model and a head on its last token. forward: ids (B, T), last (B,) -> (B, C)."""

    def __init__(self, lm, labels):
        super().__init__()
        d = lm.config.d_model
        self.lm = lm
        self.head = nn.Sequential(
            nn.LayerNorm(d, elementwise_affine=False), nn.Linear(d, d), nn.GELU(),
            nn.LayerNorm(d, elementwise_affine=False), nn.Dropout(DROPOUT), nn.Linear(d, labels))

    def forward(self, ids, last):
        hidden = self.lm(ids)  # (B, T, d)
        rows = torch.arange(len(ids), device=ids.device)
        return self.head(hidden[rows, last]).float()


def learning_rate(step, steps):
    """From 0 up in a straight line, then a cosine to LAST_LR of the peak."""
    warmup = int(WARMUP * steps)
    if step < warmup:
        return LR * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return LR * (LAST_LR + (1 - LAST_LR) * 0.5 * (1 + math.cos(math.pi * progress)))


def batches(n, size, seed, epoch):
    """(n // size, size): the numbers of an epoch's batches; what is left over waits for another."""
    order = np.random.default_rng((seed, epoch)).permutation(n)
    return order[:n // size * size].reshape(-1, size)


def add_gradient(model, rows, batch, dtype):
    """Backward through the mean loss of a batch, the numbers of some rows.

    In pieces of like length, whose gradients add up: a short row does not pay for a long one, and
    the batches stay as random as in the recipe.
    """
    device = next(model.parameters()).device
    for numbers in pieces(batch, rows.ids, PIECE[device.type]):
        ids, last = padded(rows, numbers, device)
        with run.autocast(dtype, device):
            logits = model(ids, last)
        labels = rows.labels[numbers].to(device)
        loss = F.cross_entropy(logits, labels, reduction="sum") / len(batch)
        loss.backward()


def finetune(lm, task, data, seed, dtype, clock):
    """Fine-tune a copy of lm; what is kept of it, a dict: figures of the best epoch and of all.

    dtype: of the matrix products, a name; clock: a Clock that counts the work.
    """
    device = next(lm.parameters()).device
    torch.manual_seed(seed)
    model = Classifier(copy.deepcopy(lm), task.labels).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=WEIGHT_DECAY, fused=True)
    train = data.train
    size = min(task.batch, len(train.ids))
    steps = len(train.ids) // size * task.epochs

    step = 0
    epochs = []  # the figures of each
    best = None
    for epoch in range(task.epochs):
        for batch in batches(len(train.ids), size, seed, epoch):
            add_gradient(model, train, batch.tolist(), dtype)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            clock.add(3 * sum(len(train.ids[i]) for i in batch))

        predicted = predict(model, data.valid, dtype)
        clock.add(sum(map(len, data.valid.ids)))
        epochs.append(figures(predicted, data.valid.labels, task.labels))
        if best is None or epochs[-1][task.chosen_by] > best[task.chosen_by]:
            best = {**epochs[-1], "epoch": epoch + 1,
                    "predictions": "".join(map(str, predicted.tolist()))}
    return {**best, "last": epochs[-1]["accuracy"], "epochs": epochs, "dtype": dtype}


@torch.no_grad()
def predict(model, rows, dtype):
    """(n,) int64: the most likely label of each row. UserError where logits are not numbers."""
    device = next(model.parameters()).device
    labels = torch.zeros(len(rows.ids), dtype=torch.int64)
    model.eval()
    for numbers in pieces(range(len(rows.ids)), rows.ids, 4 * PIECE[device.type]):
        with run.autocast(dtype, device):
            logits = model(*padded(rows, numbers, device))
        if not logits.isfinite().all():
            raise UserError("the fine-tuned model's outputs are not numbers (nan): its weights are "
                            "damaged, or --dtype=float32 is needed")
        labels[numbers] = logits.argmax(-1).cpu()
    model.train()
    return labels


def figures(predicted, labels, kinds):
    """Accuracy and, of two kinds of labels, F1 of label 1 (0 where none of it is right)."""
    found = {"accuracy": (predicted == labels).double().mean().item()}
    if kinds == 2:
        right = ((predicted == 1) & (labels == 1)).sum().item()
        named = (predicted == 1).sum().item() + (labels == 1).sum().item()
        found["f1"] = 2 * right / max(1, named)
    return found


def majority(data, task):
    """The figures of always saying the commonest label of the training rows."""
    commonest = data.train.labels.bincount().argmax()
    return figures(commonest.expand(len(data.valid.labels)), data.valid.labels, task.labels)


class Clock:
    """How long all the work takes, from what is done: in tokens that are read forward.

    A training step is three such readings. The first one is warming up, and says nothing.
    """

    def __init__(self, total):
        self.total = total
        self.done = 0
        self.begun = None
        self.silent = True

    def add(self, tokens):
        """Count work; after ten seconds of it, say once how long the rest will take."""
        if self.begun is None:
            self.begun = time.monotonic()
            self.total -= tokens
            return
        self.done += tokens
        if self.silent and time.monotonic() - self.begun > 10:
            self.silent = False
            print(f"  {self.to_go()}", flush=True)

    def to_go(self):
        seconds = time.monotonic() - self.begun
        left = (self.total - self.done) * seconds / max(1, self.done)
        unit, size = ("hours", 3600) if left > 7200 else ("minutes", 60)
        return f"about {left / size:.1f} {unit} to go"


def tokens_read(data, task):
    """What a fine-tuning adds to a Clock, nearly: the last rows of an epoch may be left out."""
    train, valid = (sum(map(len, rows.ids)) for rows in data)
    return task.epochs * (3 * train + valid)


# ---------------------------------------------------------------- the books

class Book:
    """RUN/glue.json: what was done before, and what is done now. asked: " --limit=500", or ""."""

    def __init__(self, path, asked):
        self.path = path
        self.asked = asked

    def results(self):
        return files.read_json_or_empty(self.path)

    def seeds(self, name, digest):
        """{seed: result} of a task, on the weights and rows of this digest."""
        entry = self.results().get(name + self.asked)
        kept = entry.get("seeds") if isinstance(entry, dict) else None
        return {int(seed): result for seed, result in (kept or {}).items()
                if isinstance(result, dict) and result.get("digest") == digest}

    def keep(self, name, seed, result, facts):
        """Add a result to a task's; facts: what is the same for all its seeds."""
        with files.one_at_a_time(self.path.parent):
            seeds = {**self.seeds(name, result["digest"]), seed: result}
            entry = {**means_over(seeds), **facts,
                     "seeds": {str(seed): seeds[seed] for seed in sorted(seeds)}}
            files.write_json(self.path, {**self.results(), name + self.asked: entry})


def means_over(seeds):
    """Mean and spread of the figures of {seed: result}."""
    means = {}
    for key in ("accuracy", "f1", "last"):
        values = [one[key] for one in seeds.values() if key in one]
        if values:
            means[key] = float(np.mean(values))
            means[f"{key}_spread"] = float(np.std(values, ddof=1)) if values[1:] else None
    return means


def digest_of(lm, data):
    """Of the weights and of all rows as they are encoded: 16 characters."""
    digest = hashlib.sha256()
    for p in lm.state_dict().values():
        digest.update(p.cpu().numpy().tobytes())
    for rows in data:
        digest.update(repr((rows.ids, rows.labels.tolist())).encode())
    return digest.hexdigest()[:16]


def read_predictions(path):
    """What the challenge's file at path holds so far; UserError where it is damaged."""
    whole = files.read_json_or_empty(path)
    if not isinstance(whole.setdefault("glue", {}), dict):
        raise UserError(f"{path}: its \"glue\" is no JSON object; move it away")
    return whole


def write_predictions(path, predictions):
    """Put predictions {task: "0110..."} into the challenge's file at path, beside what it holds."""
    with files.one_at_a_time(path.absolute().parent):
        whole = read_predictions(path)
        for name, labels in predictions.items():
            whole["glue"][name] = {"predictions": [{"id": f"{name}_{i}", "pred": int(label)}
                                                   for i, label in enumerate(labels)]}
        files.write_text(path, json.dumps(whole) + "\n")


def glue_table(entries):
    """The table of entries {task: its entry in glue.json}, and their mean both ways it is told."""
    rows = [["task", "accuracy", "+- seeds", "95% over items", "the majority's", "last epoch",
             "F1", "+- seeds", "the majority's", "seeds", "rows", "dtype"]]
    for name, entry in entries.items():
        low, high = wilson(entry["accuracy"], entry["valid_rows"])
        dtypes = sorted({result["dtype"] for result in entry["seeds"].values()})
        rows.append([name, percent(entry, "accuracy"), percent(entry, "accuracy_spread"),
                     f"{low:.1%} to {high:.1%}", percent(entry["majority"], "accuracy"),
                     percent(entry, "last"), percent(entry, "f1"), percent(entry, "f1_spread"),
                     percent(entry["majority"], "f1"), str(len(entry["seeds"])),
                     f"{entry['train_rows']} + {entry['valid_rows']}", ", ".join(dtypes)])
    accuracy = np.mean([entry["accuracy"] for entry in entries.values()])
    mixed = np.mean([entry[TASKS[name.split()[0]].chosen_by] for name, entry in entries.items()])
    return (f"{table(rows)}\nmean of {len(entries)} of the {len(TASKS)} tasks: {accuracy:.1%} "
            f"accuracy, as the challenge's scoring has it; {mixed:.1%} with F1 for mrpc and qqp, "
            "as its tables\nthe epoch was chosen on the rows that are reported")


def percent(found, key):
    return "-" if found.get(key) is None else f"{found[key]:.1%}"


# ---------------------------------------------------------------- the command

def read_data(args, tokenizer, length):
    """{task: Data} of the tasks that are asked for, or of those that have their files.

    UserError for an unknown task, a file that is missing or wrong, no task at all.
    """
    folder = pathlib.Path(eval.data_folder(args))
    if (folder / "glue_filtered").is_dir():
        folder = folder / "glue_filtered"
    asked = [name for name in args.tasks.split(",") if name]
    data = {}
    for name in asked or TASKS:
        if name not in TASKS:
            raise UserError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
        paths = [folder / f"{name}.{split}.jsonl" for split in ("train", "valid")]
        missing = [path for path in paths if not path.exists()]
        if missing and asked:
            raise UserError(f"{missing[0]} is missing: leave {name} out of --tasks, or name the "
                            "folder that holds glue_filtered with --data")
        if missing:
            print(f"{name} is left out: {missing[0]} is missing")
            continue
        train = read_rows(paths[0], TASKS[name], tokenizer, length, args.limit)
        valid = read_rows(paths[1], TASKS[name], tokenizer, length)
        data[name] = Data(train, valid)
    if not data:
        raise UserError(f"{folder}: no task has its files there; --data names the folder that "
                        "holds glue_filtered")
    return data


def longest_row(lm, config):
    """Tokens of a row: LONGEST, or a GPT-2's block_size where that is shorter. Says so."""
    length = int(min(LONGEST, longest_input(lm)))
    if length < LONGEST:
        print(f"rows are cut to {length} tokens, this GPT-2's block_size; the challenge has "
              f"{LONGEST}")
    elif config.longest < LONGEST:
        print(f"rows of up to {LONGEST} tokens, beyond the {config.longest} that the run was "
              "trained on")
    return length


def say_what_is_short(name, data):
    """Print where a task's rows are not those of the challenge, and how many had to be cut."""
    n = len(data.valid.ids)
    if n != TASKS[name].items:
        print(f"{name}: {n} rows to judge by, the challenge has {TASKS[name].items}; its scoring "
              "does not take predictions of others")
    if data.train.cut or data.valid.cut:
        print(f"{name}: {data.train.cut} of {len(data.train.ids)} training rows and "
              f"{data.valid.cut} of {n} others are longer, and cut")


def facts_of(name, data, args, length):
    """What an entry of glue.json says beside its figures."""
    return dict(majority=majority(data, TASKS[name]), chosen_by=TASKS[name].chosen_by,
                train_rows=len(data.train.ids), valid_rows=len(data.valid.ids), length=length,
                limit=args.limit, which=args.which)


def main(argv):
    args = read_args(argv)
    if args.predictions:
        read_predictions(args.predictions)  # hours before they are written
    lm, tokenizer, config = run.load(args.run, which=args.which)
    config.device = args.device
    config.dtype = args.dtype
    device = run.device_of(config)
    dtype = run.dtype_of(config, device)
    length = longest_row(lm, config)
    data = read_data(args, tokenizer, length)
    for name in data:
        say_what_is_short(name, data[name])

    # what is left to do, of each task the first seed first
    asked = f" --limit={args.limit}" if args.limit else ""
    asked += " --which=last" if args.which == "last" else ""
    book = Book(pathlib.Path(args.run, "glue.json"), asked)
    digests = {name: digest_of(lm, data[name]) for name in data}
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    todo = [(name, seed) for seed in seeds for name in data
            if seed not in book.seeds(name, digests[name])]
    clock = Clock(sum(tokens_read(data[name], TASKS[name]) for name, _ in todo))
    print(f"{len(todo)} fine-tunings to do, {len(data) * args.seeds - len(todo)} done before; "
          f"{dtype} on {device}", flush=True)

    lm.to(device)
    for name, seed in todo:
        result = finetune(lm, TASKS[name], data[name], seed, dtype, clock)
        result["digest"] = digests[name]
        book.keep(name, seed, result, facts_of(name, data[name], args, length))
        chosen_by = TASKS[name].chosen_by
        print(f"{name}{asked}, seed {seed}: {chosen_by} {result[chosen_by]:.1%} at epoch "
              f"{result['epoch']} of {TASKS[name].epochs}; {clock.to_go()}", flush=True)

    results = book.results()
    entries = {name + asked: results[name + asked] for name in data}
    print(f"\n{book.path} ({args.which})\n{glue_table(entries)}")
    if args.predictions:
        first = {name: book.seeds(name, digests[name])[FIRST_SEED]["predictions"] for name in data}
        write_predictions(args.predictions, first)
        print(f"{args.predictions}: predictions of {', '.join(data)}, seed {FIRST_SEED}")


if __name__ == "__main__":
    run_main(main)
