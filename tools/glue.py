"""(Super)GLUE by the BabyLM challenge's recipe: a run with a new head is fine-tuned on each task.

    python -m tools.glue RUN --data=DIR                    # the tasks that DIR has all files of
    python -m tools.glue RUN --data=DIR --tasks=rte,wsc --seeds=3
    python -m tools.glue RUN --data=DIR --tasks=mnli --limit=1000       # training rows
    python -m tools.glue RUN --data=DIR --predictions=FILE              # for the challenge

DIR, by default $BABYLM_DIR/eval, holds glue_filtered: TASK.train.jsonl and TASK.valid.jsonl of
boolq, mnli, mrpc, multirc, qqp, rte, wsc. Each (task, seed) is kept in RUN/glue.json, under "rte"
or "rte --limit=500", as soon as it is done, and not done again unless the run's weights or the rows
have changed.

The recipe is that of babylm-org/babylm-eval, strict (2026, unchanged since 2025): AdamW with weight
decay 0.01 on all weights, no clipping; lr 3e-5 after 6% of the steps, then a cosine to a tenth;
batches of 32 (16 for boolq and multirc), 10 epochs (30 for wsc), at most 512 tokens; the head reads
the last token (their --take_final; their default, the first, has seen nothing in a causal model).
The reported epoch has the best accuracy (F1 for mrpc and qqp) *on the rows that are reported*: that
flatters, so the table also shows the last epoch's accuracy and the majority's.
"""
import collections
import copy
import hashlib
import itertools
import math
import pathlib
import string

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import eval
from onecoach import files, run
from onecoach.config import Arguments, UserError, run_folder, run_main
from onecoach.scoring import by_length, longest_input, progress_bar
from onecoach.suite import json_lines, wilson
from onecoach.tables import table

# first, second: the two texts of a row, from its keys; labels: how many; chosen_by: the figure that
# chooses the epoch; items: rows of TASK.valid.jsonl in the challenge
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

# Padded tokens of a forward pass in training: on a processor more would only be padding, and a GPU
# would wait for launches with fewer.
PIECE = {"cpu": 1024, "mps": 4096, "cuda": 16384}


# ---------------------------------------------------------------- rows

Rows = collections.namedtuple("Rows", "ids labels cut")  # labels (n,) int64; cut: too long
Data = collections.namedtuple("Data", "train valid")


def read_rows(path, task, tokenizer, length, limit=0):
    """Return the Rows of a file, at most `length` tokens each; limit: the first rows, 0 all."""
    pairs = []  # (ids, are they whole?) of each row
    labels = []
    keys = [key for _, key, *_ in string.Formatter().parse(task.first + task.second) if key]
    for row in itertools.islice(json_lines(path), limit or None):
        values = {key: row.text(key, may_be_empty=True) for key in keys}
        texts = task.first.format(**values), task.second.format(**values)
        pairs.append(encode_pair(tokenizer, *texts, length))
        labels.append(row.number("label", task.labels))
    if not pairs:
        raise UserError(f"{path}: empty, it has no rows")
    return Rows([ids for ids, _ in pairs], torch.tensor(labels), sum(not w for _, w in pairs))


def encode_pair(tokenizer, first, second, length):
    """Return (`<s>` and the tokens of both texts, at most `length` in all; are they whole?).

    As in Hugging Face's tokenizers nothing stands between, and the longer one is cut first.
    """
    a = tokenizer.encode(first)
    b = tokenizer.encode(second)
    room = length - 1
    whole = len(a) + len(b) <= room
    if not whole:
        shorter = min(len(a), len(b), room // 2)
        n = shorter if len(a) <= len(b) else room - shorter
        a, b = a[:n], b[:room - n]
    return [tokenizer.bos_id, *a, *b], whole


def padded(rows, numbers, device):
    """Return ids (B, T), padded on the right, and the position of each row's last token (B,)."""
    ids = [torch.tensor(rows.ids[i]) for i in numbers]
    last = torch.tensor([len(row) - 1 for row in ids])
    ids = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return ids.to(device), last.to(device)


# ---------------------------------------------------------------- fine-tuning

class Classifier(nn.Module):
    """A language model with a head on the last token. forward: ids (B, T), last (B,) -> (B, C)."""

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
    """Rise from 0 in a straight line, then fall in a cosine to LAST_LR of the peak."""
    warmup = int(WARMUP * steps)
    if step < warmup:
        return LR * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return LR * (LAST_LR + (1 - LAST_LR) * 0.5 * (1 + math.cos(math.pi * progress)))


def batches(n, size, seed, epoch):
    """Return (n // size, size): the rows of an epoch's batches; the rest wait for another epoch."""
    order = np.random.default_rng((seed, epoch)).permutation(n)
    return order[:n // size * size].reshape(-1, size)


def add_gradient(model, rows, batch, dtype):
    """Add the gradient of the mean loss over a batch, a list of row numbers.

    In pieces of similar length a short row does not pay for a long one.
    """
    device = next(model.parameters()).device
    for numbers in by_length(batch, rows.ids, PIECE[device.type]):
        ids, last = padded(rows, numbers, device)
        with run.autocast(dtype, device):
            logits = model(ids, last)
        labels = rows.labels[numbers].to(device)
        loss = F.cross_entropy(logits, labels, reduction="sum") / len(batch)
        loss.backward()


def finetune(lm, task, data, seed, dtype):
    """Fine-tune a copy of lm; return a dict, the figures of the best epoch and of all."""
    device = next(lm.parameters()).device
    torch.manual_seed(seed)
    model = Classifier(copy.deepcopy(lm), task.labels).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=WEIGHT_DECAY, fused=True)
    n = len(data.train.ids)
    size = min(task.batch, n)
    steps = n // size * task.epochs

    epochs = []  # the figures of each
    best = {}
    bar = progress_bar(total=steps, unit="step")
    for epoch in range(task.epochs):
        for batch in batches(n, size, seed, epoch):
            add_gradient(model, data.train, batch.tolist(), dtype)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(bar.n, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.update()

        predicted = predict(model, data.valid, dtype)
        epochs.append(figures(predicted, data.valid.labels, task.labels))
        if epochs[-1][task.chosen_by] > best.get(task.chosen_by, -1):
            best = {**epochs[-1], "epoch": epoch + 1,
                    "predictions": "".join(map(str, predicted.tolist()))}
    bar.close()
    return {**best, "last": epochs[-1]["accuracy"], "epochs": epochs, "dtype": dtype}


@torch.no_grad()
def predict(model, rows, dtype):
    """Return (n,) int64: the most likely label of each row. UserError if logits are not numbers."""
    device = next(model.parameters()).device
    labels = torch.zeros(len(rows.ids), dtype=torch.int64)
    model.eval()
    for numbers in by_length(range(len(rows.ids)), rows.ids, 4 * PIECE[device.type]):
        with run.autocast(dtype, device):
            logits = model(*padded(rows, numbers, device))
        if not logits.isfinite().all():
            raise UserError("the fine-tuned model's outputs are not numbers (nan): its weights are "
                            "damaged, or --dtype=float32 is needed")
        labels[numbers] = logits.argmax(-1).cpu()
    model.train()
    return labels


def figures(predicted, labels, kinds):
    """Return accuracy and, for two kinds of labels, F1 of label 1 (0 if none is right)."""
    values = {"accuracy": (predicted == labels).double().mean().item()}
    if kinds == 2:
        right = (predicted & labels).sum().item()
        values["f1"] = 2 * right / max(1, (predicted + labels).sum().item())
    return values


def majority(data, task):
    """Return the figures of always naming the commonest label of the training rows."""
    commonest = data.train.labels.bincount().argmax()
    return figures(commonest.expand(len(data.valid.labels)), data.valid.labels, task.labels)


# ---------------------------------------------------------------- glue.json and predictions

def digest(lm, data):
    """Return 16 characters: a digest of the weights and of all rows as they are encoded."""
    digest = hashlib.sha256()
    for p in lm.state_dict().values():
        digest.update(p.cpu().numpy().tobytes())
    for rows in data:
        digest.update(repr((rows.ids, rows.labels.tolist())).encode())
    return digest.hexdigest()[:16]


def kept_seeds(path, key, digest):
    """Return {"42": result} under a key of glue.json, of these weights and rows alone."""
    entry = files.read_json_or_empty(path).get(key, {"seeds": {}})
    return {seed: result for seed, result in entry["seeds"].items() if result["digest"] == digest}


def keep(path, key, seed, result, facts):
    """Put a result into glue.json; facts: the same for all seeds of the entry."""
    with files.locked(path.parent):
        seeds = {**kept_seeds(path, key, result["digest"]), str(seed): result}
        means = {}
        for figure in ("accuracy", "f1", "last"):
            values = [one[figure] for one in seeds.values() if figure in one]
            if values:
                means[figure] = float(np.mean(values))
                means[f"{figure}_spread"] = float(np.std(values, ddof=1)) if values[1:] else None
        entry = {**means, **facts, "seeds": {seed: seeds[seed] for seed in sorted(seeds, key=int)}}
        files.write_json(path, files.read_json_or_empty(path) | {key: entry})


def write_predictions(path, entries):
    """Add the first seed's predictions in entries {task: entry} to the challenge's file at path."""
    said = {}
    for name, entry in entries.items():
        labels = entry["seeds"][str(FIRST_SEED)]["predictions"]  # "0110..."
        said[name] = {"predictions": [{"id": f"{name}_{i}", "pred": int(label)}
                                      for i, label in enumerate(labels)]}
    with files.locked(path.parent):
        whole = files.read_json_or_empty(path)
        files.write_json(path, whole | {"glue": whole.get("glue", {}) | said})
    print(f"{path}: predictions of {', '.join(said)}, seed {FIRST_SEED}")


def glue_table(entries):
    """Show entries {task: entry of glue.json}, and the mean over tasks in two forms."""
    rows = [["task", "accuracy", "+- seeds", "95% over items", "the majority's", "last epoch",
             "F1", "+- seeds", "the majority's", "seeds", "rows", "dtype"]]
    for name, entry in entries.items():
        dtypes = sorted({result["dtype"] for result in entry["seeds"].values()})
        rows.append([name, entry["accuracy"], entry["accuracy_spread"],
                     wilson(entry["accuracy"], entry["valid_rows"]), entry["majority"]["accuracy"],
                     entry["last"], entry.get("f1"), entry.get("f1_spread"),
                     entry["majority"].get("f1"), len(entry["seeds"]),
                     f"{entry['train_rows']} + {entry['valid_rows']}", ", ".join(dtypes)])
    accuracy = np.mean([entry["accuracy"] for entry in entries.values()])
    mixed = np.mean([entry[TASKS[name.split()[0]].chosen_by] for name, entry in entries.items()])
    return (f"{table(rows)}\nmean of {len(entries)} of the {len(TASKS)} tasks: {accuracy:.1%} "
            f"accuracy, as in the challenge's scoring; {mixed:.1%} with F1 for mrpc and qqp, "
            "as in its tables\nthe epoch was chosen on the rows that are reported")


# ---------------------------------------------------------------- the command

def read_args(argv):
    """Read the command line; UserError for values out of range."""
    parser = Arguments("-m tools.glue", __doc__)
    parser.add_argument("run", metavar="RUN", type=run_folder, help="the run's folder")
    parser.add_argument("--data", default="", help="folder that holds glue_filtered")
    parser.add_argument("--tasks", default="", help="names from above, separated by commas; "
                        "default: all that DIR has the files of")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 42 on")
    parser.add_argument("--limit", type=int, default=0, help="training rows of a task; 0: all")
    parser.add_argument("--predictions", default="", help="file for the challenge, of seed 42; "
                        "other predictions in it are kept")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"],
                        help="of matrix products; auto: bfloat16 if the processor has it")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.limit < 0:
        raise UserError(f"seeds = {args.seeds}, limit = {args.limit}: allowed are seeds >= 1, "
                        "limit >= 0")
    if args.predictions and args.limit:
        raise UserError("--predictions are for the challenge, which trains on all rows; leave out "
                        "--limit")
    return args


def read_data(args, tokenizer, length):
    """Return {task: Data} of the tasks named in args, by default of all that have files."""
    folder = pathlib.Path(eval.data_folder(args))
    if (folder / "glue_filtered").is_dir():
        folder = folder / "glue_filtered"
    named = [name for name in args.tasks.split(",") if name]
    data = {}
    for name in named or TASKS:
        if name not in TASKS:
            raise UserError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
        paths = [folder / f"{name}.{split}.jsonl" for split in ("train", "valid")]
        missing = [path for path in paths if not path.exists()]
        if missing and named:
            raise UserError(f"{missing[0]} is missing: leave {name} out of --tasks, or name the "
                            "folder that holds glue_filtered with --data")
        if missing:
            print(f"{name} is left out: {missing[0]} is missing")
            continue
        train = read_rows(paths[0], TASKS[name], tokenizer, length, args.limit)
        valid = read_rows(paths[1], TASKS[name], tokenizer, length)
        data[name] = Data(train, valid)

        n = len(valid.ids)
        if n != TASKS[name].items:
            print(f"{name}: {n} rows to judge by; the challenge has {TASKS[name].items}, and "
                  "scores predictions of these alone")
        if train.cut or valid.cut:
            print(f"{name}: {train.cut} of {len(train.ids)} training rows and {valid.cut} of {n} "
                  f"others are longer than {length} tokens, and cut")
    if not data:
        raise UserError(f"{folder}: no task has files there; --data names the folder that "
                        "holds glue_filtered")
    return data


def main(argv):
    args = read_args(argv)
    if args.predictions:
        eval.check_predictions(args.predictions)
    lm, tokenizer, config = run.load(args.run)
    files.check_writable(args.run)
    config.device = args.device
    config.dtype = args.dtype
    device = run.choose_device(config)
    dtype = run.choose_dtype(config, device)
    length = int(min(LONGEST, longest_input(lm)))  # a GPT-2 has a block_size
    data = read_data(args, tokenizer, length)

    # the fine-tunings that are left, the first seed of all tasks first
    path = pathlib.Path(args.run, "glue.json")
    part = f" --limit={args.limit}" if args.limit else ""
    digests = {name: digest(lm, data[name]) for name in data}
    seeds = range(FIRST_SEED, FIRST_SEED + args.seeds)
    todo = [(name, seed) for seed in seeds for name in data
            if str(seed) not in kept_seeds(path, name + part, digests[name])]
    print(f"{len(todo)} fine-tunings to do, {len(data) * args.seeds - len(todo)} done before; "
          f"{dtype} on {device}", flush=True)

    lm.to(device)
    for name, seed in todo:
        task = TASKS[name]
        result = finetune(lm, task, data[name], seed, dtype) | {"digest": digests[name]}
        facts = dict(majority=majority(data[name], task), chosen_by=task.chosen_by,
                     train_rows=len(data[name].train.ids), valid_rows=len(data[name].valid.ids),
                     length=length, limit=args.limit, which="best")
        keep(path, name + part, seed, result, facts)
        print(f"{name}{part}, seed {seed}: {task.chosen_by} {result[task.chosen_by]:.1%} at epoch "
              f"{result['epoch']} of {task.epochs}", flush=True)

    results = files.read_json(path)
    print(f"\n{path}\n{glue_table({name + part: results[name + part] for name in data})}")
    if args.predictions:
        write_predictions(pathlib.Path(args.predictions), {name: results[name] for name in data})


if __name__ == "__main__":
    run_main(main)
