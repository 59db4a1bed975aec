"""Zero-shot evaluation: perplexity, the BabyLM suite, multiple choice, babytalk's truth, samples.

    python eval.py RUN                                       # babytalk or ppl, and samples
    python eval.py RUN --tasks=blimp,supplement --data=DIR   # DIR holds blimp_filtered, ...
    python eval.py RUN --tasks=suite --data=DIR --predictions=FILE    # for the challenge
    python eval.py RUN --tasks=suite --data=DIR --against=OTHER       # on the same items
    python eval.py RUN --tasks=sample --prompt='once upon a time' --n=5 --temperature=.8
    python eval.py RUN --tasks=ppl --dev=PATH                # of other text

    ppl                perplexity of the run's test split (the second half of the development
                       text; the first half chose best.pt), and again without the lines that are
                       in the training text too ("unseen"); or of --dev=PATH;
                       --limit: tokens per domain
    blimp, supplement, ewok, entity_tracking, comps, global_piqa_parallel, global_piqa_nonparallel,
    reading            the challenge's tasks (docs/babylm.md); global_piqa stands for two, suite for
                       all of them;
                       --limit: items per paradigm or group; reading is always whole
    choice             DIR/choice/*.jsonl: a prefix, options, the right one (MMLU's form)
    babytalk           against the embedded corpus's known truth;       --limit: lines
    curve              BLiMP (on babytalk the grammar's pairs) of each checkpoint by words;
                       --limit: pairs per paradigm
    sample             text from a prompt, also in RUN/samples.txt

Each result has a key in RUN/eval.json: "babytalk" is the whole task on best.pt with the usual seed,
"babytalk --limit=20 --seed=1" a part of it, "choice --data=DIR" rows that are not the challenge's.
The last table of a training shows whole results and parts of ppl, and below them the failure
signatures (signatures.py), kept under "verdicts".
"""
import dataclasses
import os
import pathlib

from onecoach.config import Arguments, UserError, hint, run_folder, run_main

LINES = 10_000  # of babytalk, to score and to sample


# ---------------------------------------------------------------- options

def option(default, help, choices=None):
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices))


@dataclasses.dataclass
class Options:
    """The options of the command, except RUN and --tasks."""
    data: str = option("", "folder of blimp_filtered, ewok_filtered, ...; default: "
                       "$BABYLM_DIR/eval")
    against: str = option("", "another run: ask it the same tasks of the suite, and compare")
    predictions: str = option("", "file to write the suite's answers into, in the challenge's form")
    dev: str = option("", "text for ppl, named as the key dev: a file, folder, glob, corpus; "
                      "default: the run's own test split")
    limit: int = option(0, f"see the tasks; 0: all (babytalk: {LINES} lines)")
    which: str = option("best", "best: best.pt, the lowest val_ce; last: ckpt.pt; chck_10M and so "
                        "on: checkpoints by words")
    device: str = option("auto", "the device to compute on", ["auto", "cpu", "cuda", "mps"])
    dtype: str = option("float32", "of the suite's matrix products; bfloat16 is faster on a "
                        "processor that has it, and decides some pairs differently",
                        ["float32", "bfloat16"])
    prompt: str = option("", "the beginning of the samples")
    n: int = option(5, "number of samples")
    temperature: float = option(0.8, "0: always the most likely token")
    top_k: int = option(0, "sample among the k most likely tokens; 0: all")
    top_p: float = option(1.0, "sample among the fewest tokens that have this probability")
    seed: int = option(0, "of samples and of babytalk's lines")

    def check(self):
        """Raise UserError for a value out of range, and for predictions that cannot be written."""
        if self.predictions and self.limit:
            raise UserError("the challenge scores predictions of all items: leave out --limit or "
                            "--predictions")
        if not (self.limit >= 0 and self.n >= 1 and self.top_k >= 0 and 0 < self.top_p <= 1
                and 0 <= self.seed < 2**31):
            raise UserError("allowed: limit >= 0, n >= 1, top_k >= 0, 0 < top_p <= 1, "
                            "0 <= seed < 2^31")
        if self.temperature != 0 and not 1e-4 <= self.temperature <= 1e4:
            # fp32 logits would overflow below 1e-4, and 1e-4 is as good as 0
            raise UserError(f"temperature = {self.temperature}: allowed are 0, always the most "
                            "likely token, and 1e-4 to 1e4")
        if self.predictions:
            check_predictions(self.predictions)


def check_predictions(path):
    """Raise UserError for a file that predictions cannot be added to, after hours of scoring."""
    folder = pathlib.Path(path).parent
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: there is no folder {folder}, or it cannot be written to; name "
                        "another")
    files.read_json_or_empty(pathlib.Path(path))


def read_args(argv):
    """Read the command line into a dict: run, tasks and the fields of Options."""
    parser = Arguments("eval.py", __doc__)
    parser.add_argument("run", metavar="RUN", type=run_folder, help="the run's folder")
    parser.add_argument("--tasks", default="", help="names from above, separated by commas; "
                        "default: babytalk (on that corpus) or ppl, and sample")
    for field in dataclasses.fields(Options):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default,
                            **field.metadata)
    return vars(parser.parse_args(argv))


if __name__ == "__main__":  # --help and mistakes do not wait for torch
    run_main(read_args)

import collections
import contextlib
import functools
import math
import shlex
import tempfile

import numpy as np
import torch

import babytalk
from data import prepare, write_clean
from model import LM
from onecoach import files, run, signatures, suite, tables
from onecoach.corpora import resolve
from onecoach.exam import answer
from onecoach.imported import say_lost
from onecoach.scoring import BATCH_TOKENS, longest_input, positions, sum_log_probs
from onecoach.scoring import score, score_sentences  # noqa: F401  others call eval.score
from onecoach.tokens import drop_shared_lines

STRIDE = 8  # sampled tokens after which finished texts are taken out


# ---------------------------------------------------------------- perplexity

def in_blocks(ids, T):
    """Cut ids into full blocks of T tokens, each with the token before it as context."""
    return [ids[i:i + T + 1] for i in range(0, len(ids) - T, T)]


def in_lines(ids, T, newline_id, bos_id):
    """Cut ids into lines after `<s>`, "\\n" included; a line longer than T into pieces."""
    lines = np.split(ids, np.flatnonzero(ids[:-1] == newline_id) + 1)
    return [np.append(bos_id, line[i:i + T]) for line in lines for i in range(0, len(line), T)]


def nats_tokens_bytes(model, tokenizer, sequences):
    """Return (3,): sums over all tokens of all sequences, except the first of each."""
    sums = sum_log_probs(model, [s.tolist() for s in sequences], [1] * len(sequences))
    labels = np.concatenate([sequence[1:] for sequence in sequences])
    return np.array([-sums.sum().item(), len(labels), tokenizer.token_bytes[labels].sum()])


def perplexity_figures(sums):
    """Return the figures of a text from (nats, tokens, bytes) of both scorings, (2, 3)."""
    figures = {}
    for name, (nats, tokens, size) in zip(("blocks", "lines"), sums):
        figures[name] = dict(nats_per_token=nats / tokens,
                             perplexity=math.exp(min(700.0, nats / tokens)),
                             nats_per_byte=nats / size, bits_per_byte=nats / size / math.log(2),
                             tokens=int(tokens), bytes=int(size))
    figures["mean_nats_per_byte"] = (figures["blocks"]["nats_per_byte"]
                                     + figures["lines"]["nats_per_byte"]) / 2
    return figures


def test_split(file, newline_id):
    """Return {domain: ids (n,)}, the second half of each domain, from the first whole line on.

    The first half is the validation split, which chooses best.pt: it must not measure it too.
    """
    split = {}
    for domain, start, stop, *_ in file.segments:
        half = np.array(file.tokens[(start + stop) // 2:stop], np.int64)
        ends = np.flatnonzero(half[:-2] == newline_id)
        split[domain] = half[ends[0] + 1:] if len(ends) else half
    return split


def perplexity(model, tokenizer, texts, block_size, limit=0):
    """Return the perplexity of texts {domain: ids (n,)}, each and overall, by two scorings.

    blocks: block after block of the stream, without `<s>`. lines: each line after `<s>`.
    Compare runs of different `mark` by `mean_nats_per_byte` of the two: it favours neither, and
    bytes do not depend on the tokenizer. limit: tokens per domain, 0 all.
    """
    sums = {}  # domain -> (nats, tokens, bytes) of blocks and of lines, (2, 3)
    for domain, ids in texts.items():
        ids = ids[ids != tokenizer.bos_id][:limit or None]
        T = min(block_size, len(ids) - 1)
        if T >= 1:
            ways = in_blocks(ids, T), in_lines(ids, T, tokenizer.newline_id, tokenizer.bos_id)
            sums[domain] = np.stack([nats_tokens_bytes(model, tokenizer, way) for way in ways])
    if not sums:
        raise UserError("the development text is too short to be scored; name another with --dev, "
                        "or a larger --limit")
    return dict(overall=perplexity_figures(sum(sums.values())),
                domains={domain: perplexity_figures(both) for domain, both in sums.items()})


# ---------------------------------------------------------------- babytalk's truth

@functools.cache
def drawn_from_truth(n, seed):
    """Draw n lines; return them, log p* of each (n,), and Items of 200 minimal pairs per paradigm.

    Each pair ends in "\\n": without it a sentence that breaks off looks like a whole one.
    """
    lines = babytalk.sample(n, f"evaluation {seed}")
    log_p = torch.tensor([babytalk.log_prob(line) for line in lines], dtype=torch.float64)
    pairs = babytalk.minimal_pairs(200, seed)
    for pair in pairs:
        for key in suite.SENTENCES:
            pair[key] += "\n"
    return lines, log_p, suite.pairs(pairs)


@torch.no_grad()
def against_truth(model, tokenizer, sequences):
    """Compare q with p* on lines (<s>, tokens, "\\n").

    Returns {name: mean over positions}, nats, and log q of each line (n,) float64.
    """
    device = next(model.parameters()).device
    truth = babytalk.Truth(tokenizer)
    starts = [1] * len(sequences)
    of_q = positions(model, sequences, starts, BATCH_TOKENS, device)
    of_p = positions(lambda ids: truth.logits(ids)[0], sequences, starts, BATCH_TOKENS, "cpu")
    sums = collections.Counter()
    log_q_line = torch.zeros(len(sequences), dtype=torch.float64)
    for (number, h, label), (_, log_p, _) in zip(of_q, of_p):
        log_p = log_p.to(device)  # (N, V)
        log_q = model.logits(h).float().log_softmax(-1)
        possible = log_p > truth.FLOOR
        p = log_p.masked_fill(~possible, -math.inf).exp()
        q = log_q.exp()
        gap = log_p - log_q  # finite: log p* has a floor
        q_inside = q * possible
        inside = q_inside.sum(-1)  # (N,)

        terms = dict(
            kl_truth_student=(p * gap).sum(-1),
            mass_outside=(q - q_inside).sum(-1),
            # of c = q / inside: sum c (log c - log p*)
            kl_inside=-(q_inside * gap).sum(-1) / inside - inside.log(),
            entropy_difference=(p * log_p).sum(-1) - (q * log_q).sum(-1))
        sums.update({name: term.cpu().double().sum().item() for name, term in terms.items()})
        log_q_line.index_add_(0, number, log_q.gather(1, label[:, None])[:, 0].cpu().double())

    n = sum(len(s) - 1 for s in sequences)
    return {name: total / n for name, total in sums.items()}, log_q_line


def precision(model, tokenizer, n, seed):
    """Return the share of n sampled lines, cut at the longest line's length, in the language."""
    longest = babytalk.longest_line()
    right = 0
    for i in range(0, n, 1000):
        lines = samples(model, tokenizer, "", min(1000, n - i), longest, seed + i,
                        tokenizer.newline_id)
        right += sum(line.endswith("\n") and babytalk.contains(line) for line in lines)
    return right / n


def babytalk_truth(model, tokenizer, n=LINES, seed=0):
    """Measure the model against p*, on n lines drawn from p* and on n lines that it writes.

    KLs and entropies are nats per token. kl_truth_student is KL(p*||q); KL(q||p*) is mass_outside
    the language and kl_inside it, q renormalised on p*'s support; entropy_difference H(q) - H(p*);
    precision, the share of sampled lines that are in the language; recall_10 and recall_3, the
    share of lines x with q(x) >= p*(x) / 10 and / 3; minimal_pairs, the paradigms' mean.
    """
    lines, log_p, pairs = drawn_from_truth(n, seed)
    sequences = [(tokenizer.bos_id, *tokenizer.encode(line)) for line in lines]
    tokens = sum(len(s) - 1 for s in sequences)
    means, log_q = against_truth(model, tokenizer, sequences)
    entropy_floor = -log_p.sum().item() / tokens
    ce = -log_q.sum().item() / tokens
    recall = {k: (log_q >= log_p - math.log(k)).double().mean().item() for k in (10, 3)}
    right = precision(model, tokenizer, n, seed)
    on_pairs = answer("blimp", pairs, model, tokenizer).result
    paradigms = {uid: figures["accuracy"] for uid, figures in on_pairs["groups"].items()}
    return dict(entropy_floor=entropy_floor, ce=ce, ce_above_floor=ce - entropy_floor, **means,
                precision=right, precision_interval=suite.wilson(right, n), recall_10=recall[10],
                recall_3=recall[3], minimal_pairs=on_pairs["accuracy"], lines=n,
                paradigms=paradigms)


# ---------------------------------------------------------------- samples

def samples(model, tokenizer, prompt="", n=5, tokens=64, seed=0, stop=-1, **sampling):
    """Return n texts: the prompt after `<s>` and up to `tokens` sampled tokens, up to `stop`.

    sampling: temperature, top_k, top_p of LM.generate. A GPT-2's texts end at block_size.
    """
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    end = min(len(ids) + tokens, longest_input(model) + 1)
    if end <= len(ids):
        raise UserError(f"a prompt of {len(ids) - 1} tokens fills this GPT-2's block_size "
                        f"{end - 1}; shorten it")
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    growing = torch.tensor([ids] * n, device=device)  # (unfinished texts, tokens)
    texts = []
    at_once = tokens if stop < 0 else STRIDE
    while len(growing):
        stride = min(at_once, end - growing.shape[1])
        growing = model.generate(growing, stride, generator=generator, stop=stop, **sampling)
        over = (growing[:, len(ids):] == stop).any(1) | (growing.shape[1] == end)
        for new in growing[over, len(ids):].tolist():
            if stop in new:
                new = new[:new.index(stop) + 1]
            texts.append(prompt + tokenizer.decode(new))
        growing = growing[~over]  # or a few long ones would cost as much as all
    return texts


# ---------------------------------------------------------------- the tasks of a run

Subject = collections.namedtuple("Subject", "folder model tokenizer config")  # of a run


def own_data(subject):
    """Return data.Prepared, the run's own text; UserError if it is not to be had from here."""
    folder, _, tokenizer, config = subject
    try:
        prepared = prepare(config)
    except UserError as e:
        raise UserError(f"{e}; the paths in {folder / 'config.json'} start from where it was "
                        "trained: go there, or name text to score with --dev=PATH")
    if (prepared.tokenizer.hash != tokenizer.hash
            or run.text_digest(folder) not in ("", prepared.train.corpus)):
        raise UserError(f"{folder} was trained on other text than corpus = {config.corpus!r} is "
                        "now, or with another tokenizer; put that back, or name text to score with "
                        "--dev=PATH")
    return prepared


def load_text(name, subject):
    """Return {domain: ids (n,)} of other text, whole, cleaned and encoded like the run's own."""
    paths = resolve(name, subject.config.data_dir, "dev")
    with tempfile.TemporaryDirectory() as folder:
        cleaned = write_clean(paths, pathlib.Path(folder), "dev")
        texts = {domain: path.read_bytes().decode() for domain, path in cleaned.items()}
    say_lost(subject.tokenizer, texts.values())
    return {domain: subject.tokenizer.encode_lines(text).astype(np.int64)
            for domain, text in texts.items()}


def ppl_task(subject, options):
    model, tokenizer, config = subject[1:]
    if options.dev:
        texts, unseen = load_text(options.dev, subject), {}
    else:
        prepared = own_data(subject)
        texts = test_split(prepared.dev, tokenizer.newline_id)
        unseen = drop_shared_lines(prepared.train, texts) if prepared.dev.shared else {}
    result = perplexity(model, tokenizer, texts, config.longest, options.limit)
    if any(len(ids) > 1 for ids in unseen.values()):  # else every line was trained on
        result["shared"] = prepared.dev.shared
        result["unseen"] = perplexity(model, tokenizer, unseen, config.longest,
                                      options.limit)["overall"]
    return result, tables.perplexity_table(result)


def babytalk_task(subject, options):
    babytalk.check_babytalk(subject.config, subject.tokenizer)
    n = options.limit or LINES
    result = babytalk_truth(subject.model, subject.tokenizer, n, options.seed)
    return result, tables.final_table([("", {"babytalk": result})])


def sample_task(subject, options):
    folder, model, tokenizer, config = subject
    # with mark = line "\n" is followed by `<s>`, which is never sampled
    stop = tokenizer.newline_id if config.mark == "line" else -1
    sampling = dict(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
    texts = samples(model, tokenizer, options.prompt, options.n, seed=options.seed, stop=stop,
                    **sampling)
    settings = dict(prompt=options.prompt, **sampling, seed=options.seed)
    head = ", ".join(f"{name} {value!r}" for name, value in settings.items())
    shown = "\n---\n".join([head, *map(str.rstrip, texts)])
    name = os.fsencode(folder.name).decode(errors="replace")  # a folder's may be in any encoding
    files.write_text(folder / "samples.txt", f"{name} ({options.which}), {shown}\n")
    return {"texts": texts}, shown


def curve_task(subject, options):
    """Score minimal pairs, by field, with each checkpoint by words."""
    folder, model, tokenizer, config = subject
    names = run.word_checkpoints(folder)
    if not names:
        raise UserError(f"{folder} has no checkpoints by words, chck_10M.pt; train it with "
                        "--checkpoints=babylm, or with millions of words, --checkpoints=1,2,5")
    if config.corpus == "babytalk":
        pairs = drawn_from_truth(1, options.seed)[2]
    else:
        pairs = suite.read("blimp", data_folder(options))
    pairs = suite.first_of_each(pairs, options.limit)
    device = next(model.parameters()).device
    points = {}
    for name in names:
        lm, *_ = run.load(folder, device, which=name)
        result = answer("blimp", pairs, lm, tokenizer).result
        points[name] = {key: result[key] for key in ("accuracy", "interval", "chance", "fields")}
    return {"points": points}, tables.curve_table(points)


def data_folder(options):
    """Return the folder that holds blimp_filtered and so on."""
    return options.data or os.path.join(os.environ.get("BABYLM_DIR", "."), "eval")


# do: (subject, options) -> result for eval.json, text for the screen
# options: that change the result, and so are part of the key in eval.json
Task = collections.namedtuple("Task", "do options")
TASKS = {
    "ppl": Task(ppl_task, ("dev", "limit", "which")),
    **{name: Task(None, ("limit", "which", "dtype")) for name in suite.TASKS},  # exam.answer's
    "reading": Task(None, ("which", "dtype")),  # whole, whatever the limit
    "babytalk": Task(babytalk_task, ("limit", "which", "seed")),
    "curve": Task(curve_task, ("limit", "seed")),
    "sample": Task(sample_task,
                   ("which", "prompt", "n", "temperature", "top_k", "top_p", "seed")),
}


def way(task, options):
    """Return {option: value} of the options that change a task's result."""
    return {name: getattr(options, name) for name in TASKS[task].options}


def slot(task, way, data=""):
    """Return a result's key in eval.json: the task, and the options that are not at the default.

    way: {option: value}. data: the folder of a set of your own.
    """
    words = [f"--{name}={shlex.quote(str(value))}" for name, value in {"data": data, **way}.items()
             if value != getattr(Options, name)]
    return " ".join([task, *words])


def usual_tasks(config):
    """Return the tasks that are done after training, and by default."""
    return ("babytalk" if config.corpus == "babytalk" else "ppl", "sample")


def is_evaluated(results, config, limit=0):
    """Does eval.json hold the tasks that are done after training, of `limit` or whole?"""
    return all(any(slot(task, {"limit": n}) in results for n in (0, limit))
               for task in usual_tasks(config))


def named_tasks(tasks):
    """Return names of TASKS, in the place of one that stands for several; UserError if unknown."""
    asked = [name for task in tasks for name in suite.ALIASES.get(task, [task])]
    for name in asked:
        if name not in TASKS:
            names = [*TASKS, *suite.ALIASES]
            raise UserError(f"unknown task {name!r}; known are {', '.join(names)}; "
                            f"{hint(name, names, '--help explains them')}")
    return list(dict.fromkeys(asked))


@contextlib.contextmanager
def full_precision():
    """Multiply in fp32 without TF32, whatever ran before in this process; afterwards as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---------------------------------------------------------------- evaluate

def load_subject(folder, options):
    folder = pathlib.Path(folder)
    model, tokenizer, config = run.load(folder, which=options.which)
    device = run.choose_device(dataclasses.replace(config, device=options.device))
    return Subject(folder, model.to(device), tokenizer, config)


@full_precision()
def evaluate(subject, tasks=(), **options):
    """Do `tasks`, by default `usual_tasks`, on a run; return the whole eval.json.

    subject: the run's folder, or the Subject of any model: for ppl and the suite a method
    sum_log_probs(sequences, starts) -> (n,) nats is enough. options: the fields of Options. Each
    result is put into eval.json as soon as it is there.
    """
    options = Options(**options)
    if not isinstance(subject, Subject):
        subject = load_subject(subject, options)
    options.check()
    folder = subject.folder
    tasks = named_tasks(tasks) or usual_tasks(subject.config)
    asked = read_exam(tasks, options)  # all rows, before any work
    if (options.against or options.predictions) and not asked:
        raise UserError("--against and --predictions are about the suite's tasks; name some with "
                        "--tasks, or all with --tasks=suite")
    other = other_subject(subject, options) if options.against else None

    # a folder that cannot be written to is refused before hours of scoring
    path = folder / "eval.json"
    files.add_to_json(path, {slot("val_ce", {"which": options.which}):
                             validated(folder, options.which)})
    answers = {}
    for task in tasks:
        if task in asked:
            answers[task] = ask(subject, task, asked[task], options)
            result = answers[task].result
            shown = "\n".join([tables.groups_table(task, result), *tables.remarks({task: result})])
            key = slot(task, way(task, options), asked[task].data)
        else:
            result, shown = TASKS[task].do(subject, options)
            key = slot(task, way(task, options))
        files.add_to_json(path, {key: way(task, options) | result})
        weights = f" ({options.which})" if "which" in TASKS[task].options else ""
        print(f"\n{key} of {folder}{weights}\n{shown}")
    if asked:
        close_exam(subject, other, asked, answers, options)

    results = files.read_json(path)
    log = files.read_metrics(folder / "metrics.jsonl")
    verdicts = signatures.of_run(log, signatures.paradigms(results))
    return signatures.keep(folder, verdicts) if verdicts else results


def score_imported(folder, config, limit, device):
    """Score a teacher from elsewhere, which names no text, once on the student's test split."""
    path = folder / "eval.json"
    asked = {"text": run.text_digest(config.folder), "block_size": config.longest,
             "limit": limit}
    if files.read_json_or_empty(path).get("imported_ppl") == asked:
        return
    try:
        subject = load_subject(folder, Options(device=device))
        evaluate(subject._replace(config=config), ["ppl"], limit=limit, device=device)
        files.add_to_json(path, {"imported_ppl": asked})
    except UserError as e:  # a folder that cannot be written must not hide the student's figures
        print(f"{folder} is not scored: {e}")


def validated(folder, which):
    """Return val_ce of best.pt or ckpt.pt by metrics.jsonl; None if there is none."""
    lines = files.read_metrics(folder / "metrics.jsonl")
    if which == "best":
        lines = [files.best_line(lines) or {}]
    elif which != "last":  # a checkpoint by words
        return None
    return next((line["val_ce"] for line in lines[::-1] if line.get("val_ce") is not None), None)


# ---------------------------------------------------------------- the suite's tasks

# Of a task: items; lacks: how the rows differ from the challenge's; data: the folder, if they are a
# set of your own, else ""
Asked = collections.namedtuple("Asked", "items lacks data")


def read_exam(tasks, options):
    """Return {task: Asked} of the suite's tasks; UserError if the folder of data lacks some."""
    data = data_folder(options)
    names = [name for name in tasks if name in suite.TASKS]
    there = [name for name in names if pathlib.Path(data, suite.TASKS[name].folder).is_dir()]
    missing = [name for name in names if name not in there]
    if missing and there:
        raise UserError(f"{data} has nothing of {', '.join(missing)}: docs/babylm.md says where to "
                        f"get it; what is there: --tasks={','.join(there)}")
    asked = {}
    for name in names:
        items = suite.read(name, data)
        lacks = suite.missing(name, len(items))
        if "limit" in TASKS[name].options:
            items = suite.first_of_each(items, options.limit)
        asked[name] = Asked(items, lacks, data if lacks or name == "choice" else "")
    return asked


def ask(subject, name, asked, options):
    """Return a subject's Answers to a task of the suite, with products in options.dtype."""
    model = subject.model
    device = next(model.parameters()).device if isinstance(model, LM) else torch.device("cpu")
    with run.autocast(options.dtype, device):
        answers = answer(name, asked.items, model, subject.tokenizer, options.seed)
    answers.result["tokenizer"] = subject.tokenizer.hash
    if asked.lacks:
        answers.result["lacks"] = asked.lacks
    return answers


def other_subject(subject, options):
    """Return the Subject of --against; UserError if it has another tokenizer."""
    other = load_subject(options.against, options)
    if other.tokenizer.hash != subject.tokenizer.hash:
        raise UserError(f"{other.folder} has another tokenizer than {subject.folder}, so their "
                        "log-probabilities cannot be compared; choose a run of the same")
    return other


def close_exam(subject, other, asked, answers, options):
    """Print the tasks in one table, with other runs, and the comparison; write the predictions."""
    slots = {name: slot(name, way(name, options) | {"dtype": "float32"}, task.data)
             for name, task in asked.items()}  # an n-gram has no other dtype
    columns = [("", {name: a.result for name, a in answers.items()}), *yardsticks(subject, slots)]
    compared = {}
    if other:
        theirs = {name: ask(other, name, task, options) for name, task in asked.items()}
        columns.append((other.folder.name, {name: a.result for name, a in theirs.items()}))
        compared = {name: suite.compared(asked[name].items, a.share, theirs[name].share,
                                         suite.TASKS[name].over)
                    for name, a in answers.items() if a.share is not None}
    folders = {name: task.data for name, task in asked.items()}
    print(f"\nthe tasks of {subject.folder} ({options.which})\n"
          f"{tables.summary_table(folders, columns)}")
    if compared:
        print("\n" + tables.against_table(other.folder.name, compared))
    if other and run.other_text(subject.folder, other.folder):
        print(f"{other.folder} was trained on other text than {subject.folder}: a difference may "
              "come from the text")
    if options.predictions:
        write_predictions(pathlib.Path(options.predictions), answers)


def write_predictions(path, answers):
    """Add the predictions of a submission's tasks to a file, and say which ones it still lacks."""
    said = {suite.TASKS[name].key: a.said for name, a in answers.items()
            if suite.TASKS[name].key in suite.WANTED}
    files.add_to_json(path, said)  # other keys, glue, stay
    print(f"\npredictions of {', '.join(said) or 'no task of a submission'}: {path}")
    held = files.read_json(path)
    lacks = [f"{key} ({maker})" for key, maker in suite.WANTED.items() if key not in held]
    if lacks:
        print(f"a submission of 2026 also holds {', '.join(lacks)}; see docs/babylm.md")


def yardsticks(subject, slots):
    """Return [(label, {task: result})] of the ngram-* folders of the run's text next to it.

    slots: {task: the result's key in their eval.json}.
    """
    columns = []
    for path in sorted(subject.folder.parent.glob("ngram-*/eval.json")):
        folder = path.parent
        saved = files.read_json(path) if folder != subject.folder else {}
        results = {name: saved[key] for name, key in slots.items()
                   if isinstance(saved.get(key), dict)}
        if not results:
            continue
        tokenizers = {result.get("tokenizer") for result in results.values()}
        if tokenizers != {subject.tokenizer.hash} or run.other_text(subject.folder, folder):
            print(f"{folder} is not shown: its eval.json is of another tokenizer or text; python "
                  f"-m tools.ngram {subject.folder / 'config.json'} counts this run's")
        else:
            columns.append((folder.name, results))
    return columns


def main(argv):
    args = read_args(argv)
    tasks = [task for task in args.pop("tasks").split(",") if task]
    evaluate(args.pop("run"), tasks, **args)


if __name__ == "__main__":
    run_main(main)
