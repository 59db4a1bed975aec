"""Zero-shot evaluation: perplexity, the BabyLM suite, multiple choice, babytalk's truth, samples.

    python eval.py RUN                                       # what its corpus allows, and samples
    python eval.py RUN --tasks=blimp,supplement --data=DIR   # DIR holds blimp_filtered, ...
    python eval.py RUN --tasks=suite --data=DIR --predictions=FILE    # for the challenge
    python eval.py RUN --tasks=suite --data=DIR --against=OTHER       # on the same items
    python eval.py RUN --tasks=sample --prompt='once upon a time' --n=5 --temperature=.8
    python eval.py RUN --tasks=ppl --dev=PATH                # of other text

    ppl                perplexity of development text (the half of the run's own that did not
                       choose best.pt, or --dev=PATH);                  --limit: tokens per domain
    blimp, supplement, ewok, entity_tracking, comps, global_piqa_parallel, global_piqa_nonparallel,
    wug_adj, wug_past, reading
                       the challenge's tasks, told in suite.py and docs/babylm.md; global_piqa and
                       wug are two each; suite: those of 2026;
                       --limit: items per paradigm or group; reading is always whole
    choice             DIR/choice/*.jsonl: a prefix, options, the right one (MMLU's form)
    babytalk           against the embedded corpus's known truth;       --limit: lines
    curve              BLiMP (on babytalk its own pairs) of each checkpoint by words, chck_10M.pt:
                       a learning curve;                                --limit: pairs per paradigm
    sample             text from a prompt, also in RUN/samples.txt

What they say is kept in RUN/eval.json, a slot for each way of asking: "babytalk" is the whole of
it, on best.pt, with the usual seed; a look at a part stands beside it, as "babytalk --limit=20
--seed=1". The last table of a training reads whole ones, and ppl's parts by their own name, and
says the failure signatures under "verdicts", which tools.modes adds to (signatures.py).
"""
import dataclasses
import os
import pathlib

from onecoach.config import Arguments, UserError, read_early, run_folder, run_main

LINES = 10_000  # of babytalk, to be scored and to be sampled


# ---------------------------------------------------------------- what can be asked

def option(default, help, choices=None):
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices))


@dataclasses.dataclass
class Options:
    """What the command takes beside RUN and --tasks."""
    data: str = option("", "folder of blimp_filtered, ewok_filtered, ...; default: "
                       "$BABYLM_DIR/eval")
    against: str = option("", "another run: the suite's tasks on it too, and what differs")
    predictions: str = option("", "file to write the suite's answers into, in the challenge's form")
    dev: str = option("", "text for ppl to score, named as the key dev: a file, folder, glob, "
                      "corpus; default: the run's own, the half that did not choose best.pt")
    limit: int = option(0, f"see the tasks; 0: all (babytalk: {LINES} lines)")
    which: str = option("best", "best: best.pt, the lowest val_ce; last: ckpt.pt; chck_10M and so "
                        "on: checkpoints by words")
    device: str = option("auto", "where to compute", ["auto", "cpu", "cuda", "mps"])
    dtype: str = option("float32", "of the suite's matrix products; bfloat16 is faster on a "
                        "processor that has it, and decides some pairs otherwise",
                        ["float32", "bfloat16"])
    prompt: str = option("", "what samples begin with")
    n: int = option(5, "samples")
    temperature: float = option(0.8, "0: always the most likely token")
    top_k: int = option(0, "sample among the k most likely tokens; 0: all")
    top_p: float = option(1.0, "sample among the fewest tokens that have this probability")
    seed: int = option(0, "of samples and of babytalk's lines")

    def check(self):
        """UserError for what is out of range."""
        if self.predictions and self.limit:
            raise UserError("the challenge scores predictions of all items: leave out --limit or "
                            "--predictions")
        folder = pathlib.Path(self.predictions).absolute().parent
        if self.predictions and not os.access(folder, os.W_OK):
            raise UserError(f"predictions = {self.predictions!r}: there is no folder {folder}, or "
                            "none to write to; make it, or name another")
        if self.predictions and os.path.exists(self.predictions):
            files.read_json(self.predictions)  # it will be added to, after hours of scoring
        right = (self.limit >= 0 and self.n >= 1 and self.top_k >= 0 and 0 < self.top_p <= 1
                 and 0 <= self.seed < 2**31)
        if not right:
            raise UserError("allowed: limit >= 0, n >= 1, top_k >= 0, 0 < top_p <= 1, "
                            "0 <= seed < 2^31")
        if self.temperature != 0 and not 1e-4 <= self.temperature <= 1e4:
            # below, fp32 logits overflow; there it is 0 for any purpose
            raise UserError(f"temperature = {self.temperature}: allowed are 0, always the most "
                            "likely token, and 1e-4 to 1e4")
        try:
            self.prompt.encode()
        except UnicodeEncodeError:
            raise UserError(f"prompt = {self.prompt!r}: not UTF-8 text")


def read_args(argv):
    """The command line as a dict: run, tasks and the fields of Options."""
    parser = Arguments("eval.py", __doc__)
    parser.add_argument("run", metavar="RUN", type=run_folder, help="the run's folder")
    parser.add_argument("--tasks", default="", help="of those above, with commas between them; "
                        "default: babytalk (on that corpus) or ppl, and sample")
    for field in dataclasses.fields(Options):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default,
                            **field.metadata)
    return vars(parser.parse_args(argv))


if __name__ == "__main__":
    read_early(read_args)

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
from onecoach import files, run, signatures, suite
from onecoach.corpora import resolve
from onecoach.exam import answer, minimal_pairs
from onecoach.scoring import (  # noqa: F401  others call eval.score and eval.score_sentences
    BATCH_TOKENS,
    longest_input,
    positions,
    score,
    score_sentences,
    sum_log_probs,
)
from onecoach.suite import SENTENCES, wilson
from onecoach.tables import (
    against_table,
    final_table,
    groups_table,
    percent_interval,
    perplexity_table,
    remarks,
    summary_table,
    table,
)

STRIDE = 8           # tokens that are sampled before finished texts are taken out


# ---------------------------------------------------------------- perplexity

def in_blocks(ids, T):
    """Full block after full block of T tokens, each with the token before it as context."""
    return [ids[i:i + T + 1] for i in range(0, len(ids) - T, T)]


def in_lines(ids, T, newline_id, bos_id):
    """Each line, with its "\\n", after `<s>`; a line longer than T in pieces."""
    lines = np.split(ids, np.flatnonzero(ids[:-1] == newline_id) + 1)
    return [np.append(bos_id, line[i:i + T]) for line in lines for i in range(0, len(line), T)]


def nats_tokens_bytes(model, tokenizer, sequences):
    """(3,): the sum over all tokens of all sequences, but each one's first."""
    sums = sum_log_probs(model, [s.tolist() for s in sequences], [1] * len(sequences))
    nats = -sums.sum().item()
    labels = np.concatenate([sequence[1:] for sequence in sequences])
    return np.array([nats, len(labels), tokenizer.token_bytes[labels].sum()])


def perplexity_figures(blocks, lines):
    """What is said of a text; blocks, lines: (nats, tokens, bytes) of its two scorings."""
    figures = {}
    for name, (nats, tokens, size) in (("blocks", blocks), ("lines", lines)):
        figures[name] = dict(nats_per_token=nats / tokens,
                             perplexity=math.exp(min(700.0, nats / tokens)),
                             nats_per_byte=nats / size, bits_per_byte=nats / size / math.log(2),
                             tokens=int(tokens), bytes=int(size))
    return {**figures, "mean_nats_per_byte": (blocks[0] / blocks[2] + lines[0] / lines[2]) / 2}


def whole_text(file):
    """{domain: ids (n,)} of a TokenFile."""
    return {domain: np.array(file.tokens[start:stop], np.int64)
            for domain, start, stop, *_ in file.segments}


def reported_half(file, newline_id):
    """The second half of each domain of a TokenFile, from its first whole line on.

    The loop chooses best.pt by the first half, the tokens before (start + stop) // 2: one text must
    not both choose a run's weights and say how good they are.
    """
    halves = {}
    for domain, ids in whole_text(file).items():
        half = ids[len(ids) // 2:]
        ends = np.flatnonzero(half[:-2] == newline_id)
        halves[domain] = half[ends[0] + 1:] if len(ends) else half
    return halves


def perplexity(model, tokenizer, texts, block_size, limit=0):
    """Perplexity of texts {domain: ids (n,)}, each and overall, by two scorings of the same text.

    blocks: block after block of the stream, none opened by `<s>`. lines: each line after `<s>`.
    The stream's own `<s>` are taken out. `mean_nats_per_byte` of the two is the figure to compare
    runs of different `mark` by: it favours none, and bytes are the same whatever the tokenizer.
    limit: tokens per domain, 0 all. Raises UserError if there is nothing to predict.
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
    domains = {domain: perplexity_figures(*both) for domain, both in sums.items()}
    return dict(overall=perplexity_figures(*sum(sums.values())), domains=domains)


# ---------------------------------------------------------------- babytalk's truth

@functools.cache
def drawn_from_truth(n, seed):
    """n lines, log p* of each (n,), and minimal pairs, 200 per paradigm.

    The same for every model that is measured. Lines of babytalk end in "\\n", and so do the pairs:
    without it a sentence that lacks its end could not be told.
    """
    lines = babytalk.sample(n, f"evaluation {seed}")
    log_p = torch.tensor([babytalk.log_prob(line) for line in lines], dtype=torch.float64)
    pairs = babytalk.minimal_pairs(200, seed)
    for pair in pairs:
        for key in SENTENCES:
            pair[key] += "\n"
    return lines, log_p, pairs


@torch.no_grad()
def against_truth(model, tokenizer, sequences):
    """q beside p* on lines (<s>, tokens, "\\n").

    Returns {name: mean over positions} of what two distributions have between them, nats, and
    log q of each line (n,) float64.
    """
    device = next(model.parameters()).device
    truth = babytalk.Truth(tokenizer)
    starts = [1] * len(sequences)
    ours = positions(model, sequences, starts, BATCH_TOKENS, device)
    its = positions(lambda ids: truth.logits(ids)[0], sequences, starts, BATCH_TOKENS, "cpu")
    sums = torch.zeros(4, dtype=torch.float64)
    log_q_line = torch.zeros(len(sequences), dtype=torch.float64)
    for (number, h, label), (_, log_p, _) in zip(ours, its):
        log_p = log_p.to(device)  # (N, V)
        log_q = model.logits(h).float().log_softmax(-1)
        possible = log_p > truth.FLOOR
        p = log_p.masked_fill(~possible, -math.inf).exp()
        q = log_q.exp()
        gap = log_p - log_q  # finite: log p* has a floor
        q_inside = q * possible
        inside = q_inside.sum(-1)  # (N,)

        kl_truth_student = (p * gap).sum(-1)
        mass_outside = (q - q_inside).sum(-1)
        # of c = q / inside: sum c (log c - log p*)
        kl_inside = -(q_inside * gap).sum(-1) / inside - inside.log()
        entropy_difference = (p * log_p).sum(-1) - (q * log_q).sum(-1)
        terms = torch.stack([kl_truth_student, mass_outside, kl_inside, entropy_difference])
        sums += terms.cpu().double().sum(-1)
        log_q_line.index_add_(0, number, log_q.gather(1, label[:, None])[:, 0].cpu().double())

    means = (sums / sum(len(s) - 1 for s in sequences)).tolist()
    names = "kl_truth_student", "mass_outside", "kl_inside", "entropy_difference"
    return dict(zip(names, means)), log_q_line


def precision(model, tokenizer, n, seed):
    """The share of n sampled lines, cut where the longest one ends, that are in the language."""
    longest = babytalk.longest_line()
    right = 0
    for i in range(0, n, 1000):
        lines = samples(model, tokenizer, "", min(1000, n - i), longest, seed + i,
                        tokenizer.newline_id)
        right += sum(line.endswith("\n") and babytalk.contains(line) for line in lines)
    return right / n


def babytalk_truth(model, tokenizer, n=LINES, seed=0):
    """The model against p*, on n lines drawn from p* and scored after `<s>`, and on n of its own.

    KLs and entropies are nats per token. ce_above_floor; kl_truth_student KL(p*||q); KL(q||p*) as
    mass_outside the language and kl_inside it, q renormalised on p*'s support; entropy_difference
    H(q) - H(p*); precision, the share of n sampled lines that are in the language; recall_10 and
    recall_3, the share of lines x with q(x) >= p*(x) / 10 and / 3; minimal_pairs, the paradigms'
    mean. Raises UserError if a word is not one token.
    """
    lines, log_p, pairs = drawn_from_truth(n, seed)
    sequences = [(tokenizer.bos_id, *tokenizer.encode(line)) for line in lines]
    tokens = sum(len(s) - 1 for s in sequences)
    means, log_q = against_truth(model, tokenizer, sequences)
    entropy_floor = -log_p.sum().item() / tokens
    ce = -log_q.sum().item() / tokens
    recall = {k: (log_q >= log_p - math.log(k)).double().mean().item() for k in (10, 3)}
    right = precision(model, tokenizer, n, seed)
    on_pairs = minimal_pairs(model, tokenizer, pairs)
    paradigms = {uid: figures["accuracy"] for uid, figures in on_pairs["groups"].items()}
    return dict(entropy_floor=entropy_floor, ce=ce, ce_above_floor=ce - entropy_floor, **means,
                precision=right, precision_interval=wilson(right, n), recall_10=recall[10],
                recall_3=recall[3], minimal_pairs=on_pairs["accuracy"], lines=n,
                paradigms=paradigms)


# ---------------------------------------------------------------- samples

def samples(model, tokenizer, prompt="", n=5, tokens=64, seed=0, stop=-1, **sampling):
    """n texts: the prompt after `<s>` and up to `tokens` sampled tokens, up to the first `stop`.

    sampling: temperature, top_k, top_p, as generate takes them. A GPT-2's texts end at its
    block_size; UserError for a prompt that fills it.
    """
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    end = min(len(ids) + tokens, longest_input(model) + 1)
    if end <= len(ids):
        raise UserError(f"a prompt of {len(ids) - 1} tokens fills this GPT-2's block_size "
                        f"{end - 1}; shorten it")
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    growing = torch.tensor([ids] * n, device=device)  # (texts that go on, tokens)
    texts = []
    at_once = tokens if stop < 0 else STRIDE  # where nothing ends a text, none is taken out
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


def own_text(subject):
    """{domain: ids (n,)}: the reported half of the development text that the run was trained with.

    UserError where that is not to be had from here.
    """
    folder, _, tokenizer, config = subject
    try:
        prepared = prepare(config)
    except UserError as e:
        raise UserError(f"{e}; the paths in {folder / 'config.json'} start from where it was "
                        "trained: go there, or name text to score with --dev=PATH")
    if prepared.tokenizer.hash != tokenizer.hash:
        raise UserError(f"{folder}: {prepared.folder} has another tokenizer; has {config.corpus} "
                        "changed since? Text to score can be named with --dev=PATH")
    if run.text_of(folder) not in ("", prepared.train.corpus):
        raise UserError(f"{folder} was trained on other text than corpus = {config.corpus!r} is "
                        "now; put that back, or name text to score with --dev=PATH")
    return reported_half(prepared.dev, tokenizer.newline_id)


def other_text(name, subject):
    """The same of any other text, all of it: cleaned and encoded as the run's own."""
    paths = resolve(name, subject.config.data_dir, "dev")
    with tempfile.TemporaryDirectory() as folder:
        cleaned = write_clean(paths, pathlib.Path(folder), "dev")
        texts = {domain: path.read_bytes().decode() for domain, path in cleaned.items()}
    return {domain: subject.tokenizer.encode_lines(text).astype(np.int64)
            for domain, text in texts.items()}


def ppl_task(subject, options):
    texts = other_text(options.dev, subject) if options.dev else own_text(subject)
    model, tokenizer, config = subject[1:]
    result = perplexity(model, tokenizer, texts, config.longest, options.limit)
    return result, perplexity_table(result)


def babytalk_task(subject, options):
    babytalk.check_babytalk(subject.config, subject.tokenizer)
    n = options.limit or LINES
    result = babytalk_truth(subject.model, subject.tokenizer, n, options.seed)
    return result, final_table([("", {"babytalk": result})])


def sample_task(subject, options):
    folder, model, tokenizer, config = subject
    stop = -1
    if config.mark == "line":  # after "\n" comes `<s>`, and that is never sampled
        stop = tokenizer.newline_id
    sampling = dict(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
    texts = samples(model, tokenizer, options.prompt, options.n, seed=options.seed, stop=stop,
                    **sampling)
    asked = dict(prompt=options.prompt, **sampling, seed=options.seed)
    head = ", ".join(f"{name} {value!r}" for name, value in asked.items())
    shown = "\n---\n".join([head, *map(str.rstrip, texts)])
    name = os.fsencode(folder.name).decode(errors="replace")  # a moved run's may be in any encoding
    files.write_text(folder / "samples.txt", f"{name} ({options.which}), {shown}\n")
    return {"texts": texts}, shown


def curve_task(subject, options):
    """Minimal pairs, by field, of each of a run's checkpoints by words."""
    folder, model, tokenizer, config = subject
    names = run.word_checkpoints(folder)
    if not names:
        raise UserError(f"{folder} has no checkpoints by words, chck_10M.pt; train it with "
                        "--checkpoints=babylm, or with millions of words, --checkpoints=1,2,5")
    if config.corpus == "babytalk":
        pairs = drawn_from_truth(1, options.seed)[2]
    else:
        pairs = pathlib.Path(data_folder(options), suite.TASKS["blimp"].folder)
    device = next(model.parameters()).device
    points = {}
    for name in names:
        lm, *_ = run.load(folder, device, which=name)
        result = minimal_pairs(lm, tokenizer, pairs, options.limit)
        points[name] = {key: result[key] for key in ("accuracy", "interval", "chance", "fields")}

    fields = list(points[names[0]]["fields"])
    rows = [["words read", "accuracy", "95% over items", *fields]]
    for name, point in points.items():
        rows.append([name.removeprefix("chck_"), f"{point['accuracy']:.1%}",
                     percent_interval(point["interval"]),
                     *(f"{point['fields'][field]:.1%}" for field in fields)])
    return {"points": points}, table(rows)


def data_folder(options):
    """The folder that holds blimp_filtered and its like."""
    return options.data or os.path.join(os.environ.get("BABYLM_DIR", "."), "eval")


# do: (subject, options) -> result for eval.json, text for the screen; heeds: what that is of
Task = collections.namedtuple("Task", "do heeds")
PART = ("limit", "which")
SAMPLING = ("prompt", "n", "temperature", "top_k", "top_p", "seed", "which")
TASKS = {
    "ppl": Task(ppl_task, (*PART, "dev")),
    **{name: Task(None, (*PART, "dtype")) for name in suite.TASKS},  # `answer` has them
    "reading": Task(None, ("which", "dtype")),  # whole, whatever the limit
    "babytalk": Task(babytalk_task, (*PART, "seed")),
    "curve": Task(curve_task, ("limit", "seed")),
    "sample": Task(sample_task, SAMPLING),
}


def usual_tasks(config):
    """What is done where no tasks are named, and after training."""
    return ("babytalk" if config.corpus == "babytalk" else "ppl", "sample")


def is_evaluated(results, config, limit=0):
    """Whether eval.json already holds what is done after training, of `limit` or of all."""
    slots = [{slot(task, TASKS[task].heeds, Options(limit=n)) for n in (0, limit)}
             for task in usual_tasks(config)]
    return all(not names.isdisjoint(results) for names in slots)


def slot(name, heeds, options):
    """The key in eval.json: the bare name, or with what was asked otherwise than is usual."""
    asked = [name]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in heeds and value != field.default:
            asked.append(f"--{field.name}={shlex.quote(str(value))}")
    return " ".join(asked)


@contextlib.contextmanager
def full_precision():
    """fp32 products without TF32, whatever ran before in this process; afterwards as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def named_tasks(tasks):
    """Names of TASKS, those that stand for several taken apart; UserError for what is unknown."""
    names = [name for task in tasks for name in suite.ALIASES.get(task, [task])]
    for name in names:
        if name not in TASKS:
            raise UserError(f"unknown task {name!r}; known are "
                            f"{', '.join([*TASKS, *suite.ALIASES])}")
    return list(dict.fromkeys(names))


def load_subject(folder, options):
    folder = pathlib.Path(folder)
    model, tokenizer, config = run.load(folder, which=options.which)
    device = run.device_of(dataclasses.replace(config, device=options.device))
    return Subject(folder, model.to(device), tokenizer, config)


def evaluate(folder, tasks=(), **options):
    """Do `tasks` on the run in `folder`, print tables, return all of its eval.json.

    tasks: by default babytalk, on that corpus, or ppl, and sample. options: the fields of Options.
    Each task's result is put into its slot of eval.json as soon as it is there. Raises UserError
    for what is unknown or missing.
    """
    named_tasks(tasks)
    Options(**options).check()
    return evaluate_subject(load_subject(folder, Options(**options)), tasks, **options)


@full_precision()
def evaluate_subject(subject, tasks=(), **options):
    """`evaluate` of any model, into subject.folder / "eval.json".

    subject: Subject(folder, model, tokenizer, config); the model an LM, or what has a method
    sum_log_probs(sequences, starts) -> (n,) nats, which the suite's tasks and ppl ask.
    """
    folder = subject.folder
    tasks = named_tasks(tasks) or usual_tasks(subject.config)
    options = Options(**options)
    options.check()
    exam = [name for name in tasks if name in suite.TASKS]
    if (options.against or options.predictions) and not exam:
        raise UserError("--against and --predictions are about the suite's tasks; name some with "
                        "--tasks, or all with --tasks=suite")
    data = data_folder(options)
    check_folders(exam, data)
    asked = {name: suite.read(name, data, options.limit) for name in exam}  # all, before any work
    other = other_subject(subject, options) if exam else None

    # where nothing can be written, it is said before hours of scoring
    path = folder / "eval.json"
    files.add_to_json(path, {slot("val_ce", ["which"], options): validated(folder, options.which)})
    answers = {}
    for task in tasks:
        do, heeds = TASKS[task]
        if task in exam:
            answers[task] = answer_of(subject, task, asked[task], options)
            result = with_remarks(task, answers[task], subject, options.limit)
            shown = "\n".join([groups_table(task, answers[task]), *remarks(task, result)])
        else:
            result, shown = do(subject, options)
        key = slot(task, heeds, options)
        way = {name: getattr(options, name) for name in heeds}
        files.add_to_json(path, {key: way | result})
        weights = f" ({options.which})" if "which" in heeds else ""
        print(f"\n{key} of {folder}{weights}\n{shown}")
    if exam:
        close_exam(subject, other, asked, answers, options)
    return with_verdicts(folder)


def answer_of(subject, name, asked, options):
    """What a subject says to a task: `answer`, its products in options.dtype."""
    model = subject.model
    device = next(model.parameters()).device if isinstance(model, LM) else torch.device("cpu")
    with run.autocast(options.dtype, device):
        return answer(name, asked, model, subject.tokenizer, options.seed)


def with_verdicts(folder):
    """A run's eval.json with the verdicts that its own books allow; written where there are any."""
    results = files.read_json(folder / "eval.json")
    log = files.read_metrics(folder / "metrics.jsonl")
    verdicts = signatures.of_run(log, signatures.paradigms(results))
    return signatures.keep(folder, verdicts) if verdicts else results


def check_folders(exam, data):
    """UserError that names all the tasks of `exam` that `data` has no folder of, and the others."""
    lacks = [name for name in exam if not pathlib.Path(data, suite.TASKS[name].folder).is_dir()]
    there = [name for name in exam if name not in lacks]
    if lacks and there:
        raise UserError(f"{data} has nothing of {', '.join(lacks)}: docs/babylm.md says where that "
                        f"is to be had; what is there: --tasks={','.join(there)}")


def with_remarks(name, answers, subject, limit):
    """A task's result, with the tokenizer it was taken with and the items that it lacks."""
    result = {**answers.result, "tokenizer": subject.tokenizer.hash}
    counts = {"": len(answers.items)}
    if "groups" in result:
        counts = {group: figures["n"] for group, figures in result["groups"].items()}
    is_part = limit and "limit" in TASKS[name].heeds
    lacks = [] if is_part else suite.missing(name, counts)
    return {**result, "lacks": lacks} if lacks else result


def other_subject(subject, options):
    """The Subject of --against; a folder that has an eval.json alone has no model to ask: None."""
    if not options.against:
        return None
    folder = pathlib.Path(options.against)
    if (folder / "eval.json").exists() and not run.has_weights(folder):
        return None
    other = load_subject(folder, options)
    if other.tokenizer.hash != subject.tokenizer.hash:
        raise UserError(f"{folder} has another tokenizer than {subject.folder}: what one finds "
                        "likelier is not to be held against the other; choose a run of the same")
    return other


def close_exam(subject, other, asked, answers, options):
    """The tasks in one table, beside other runs; what differs from --against; the predictions."""
    columns = [("", {name: its.result for name, its in answers.items()})]
    columns += yardsticks(subject, list(answers), options)
    compared = {}
    if other:
        theirs = {name: answer_of(other, name, what, options) for name, what in asked.items()}
        columns.append((other.folder.name, {name: its.result for name, its in theirs.items()}))
        compared = {name: suite.compared(its.items, its.share, theirs[name].share,
                                         suite.TASKS[name].over)
                    for name, its in answers.items() if its.share is not None}
    print(f"\nthe tasks of {subject.folder} ({options.which})\n"
          f"{summary_table(list(answers), columns)}")
    if compared:
        print("\n" + against_table(other.folder.name, compared))
    if options.against and run.other_text(subject.folder, options.against):
        print(f"{options.against} was trained on other text than {subject.folder}: what differs "
              "may be the text's doing")
    if options.predictions:
        said = {suite.TASKS[name].key: its.said for name, its in answers.items()
                if suite.TASKS[name].key}
        files.add_to_json(pathlib.Path(options.predictions), said)  # what else it has, glue, stays
        print(f"\npredictions of {', '.join(said)}: {options.predictions}")


def yardsticks(subject, names, options):
    """[(label, {task: result})] of the eval.json of ngram-* beside a run, and of --against.

    Of --against only where it is all that there is. Another tokenizer's are refused there, and left
    out here, saying so; so are those that have counted other text.
    """
    folders = sorted(path.parent for path in subject.folder.parent.glob("ngram-*/eval.json")
                     if path.parent != subject.folder)
    named = pathlib.Path(options.against)
    if options.against and not run.has_weights(named) and named not in folders:
        folders.append(named)
    columns = []
    options = dataclasses.replace(options, dtype="float32")  # an n-gram has no other
    for folder in folders:
        saved = files.read_json(folder / "eval.json")
        its = {name: saved[key] for name in names
               if isinstance(saved.get(key := slot(name, TASKS[name].heeds, options)), dict)}
        if any(result.get("tokenizer") != subject.tokenizer.hash for result in its.values()):
            if folder == named:
                raise UserError(f"{folder / 'eval.json'} was taken with another tokenizer than "
                                f"{subject.folder}'s; evaluate it anew with the same")
            print(f"{folder} is not shown: its eval.json is of another tokenizer")
        elif folder != named and run.other_text(subject.folder, folder):
            print(f"{folder} is not shown: it has read other text; python -m tools.ngram "
                  f"{subject.folder / 'config.json'} counts this run's")
        elif its:
            columns.append((folder.name, its))
    return columns


def validated(folder, which):
    """val_ce of best.pt or ckpt.pt as metrics.jsonl has it; None where there is none.

    best.pt is of steps after 0: the weights that a run begins with are not its own.
    """
    lines = files.read_metrics(folder / "metrics.jsonl")
    line = None  # of a checkpoint by words
    if which == "best":
        line = files.best_line(lines)
    if which == "last":
        line = next((line for line in lines[::-1] if isinstance(line.get("val_ce"), float)), None)
    return line["val_ce"] if line else None


def main(argv):
    args = read_args(argv)
    tasks = [task for task in args.pop("tasks").split(",") if task]
    evaluate(args.pop("run"), tasks, **args)


if __name__ == "__main__":
    run_main(main)
