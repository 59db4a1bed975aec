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
from tqdm import tqdm

import babytalk
from data import prepare, write_clean
from model import LM
from onecoach import files, run, signatures, suite
from onecoach.corpora import resolve
from onecoach.suite import SENTENCES, wilson

BATCH_TOKENS = 4096  # padded tokens of a forward pass
FEW = 512            # tokens that cost little more to read than fewer would
PADDING = 0.05       # of a forward pass's tokens: sorted by length, it need not be more
ROWS = 256           # positions whose logits exist at once: few enough for a processor's cache
FAMILY = 6           # sequences at most that are read after one common prefix
STRIDE = 8           # tokens that are sampled before finished texts are taken out


# ---------------------------------------------------------------- what a score is

@torch.no_grad()
def positions(forward, sequences, starts, batch_tokens, device):
    """What forward gives at every position that predicts a counted token, in batches.

    Of sequence i the tokens starts[i] >= 1 and on are counted. forward: ids (B, T) -> (B, T, d).
    Sequences of like length go together, the longest first, padded on the right, where causal
    attention does not look. Yields, at most ROWS at a time, the sequence's number (N,), on the CPU;
    what forward gives (N, d); the token that is predicted (N,).
    """
    # what has nothing to be counted is not read
    waiting = [i for i in range(len(sequences)) if starts[i] < len(sequences[i])]
    waiting.sort(key=lambda i: -len(sequences[i]))
    while waiting:
        size = max(1, batch_tokens // len(sequences[waiting[0]]))
        batch = waiting[:size]
        waiting = waiting[size:]

        tokens = [torch.as_tensor(sequences[i]) for i in batch]
        ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)  # (B, T + 1)
        first = torch.tensor([starts[i] for i in batch])[:, None]  # (B, 1)
        end = torch.tensor([len(sequences[i]) for i in batch])[:, None]
        column = torch.arange(1, ids.shape[1])  # (T,)
        b, t = ((first <= column) & (column < end)).nonzero(as_tuple=True)  # (N,) each

        out = forward(ids[:, :-1].to(device))[b.to(device), t.to(device)]  # (N, d)
        number = torch.tensor(batch)[b]
        label = ids[:, 1:][b, t].to(device)
        yield from zip(number.split(ROWS), out.split(ROWS), label.split(ROWS))


def families(sequences, numbers):
    """Which of the sequences `numbers` are read together: [(P, members)], each in one of them.

    The first P tokens of the members are the same, and are read once. Sorted, sequences that share
    most stand side by side: that order is cut into runs of at most FAMILY, those that save most.
    """
    order = sorted(numbers, key=sequences.__getitem__)
    common = [0] * len(order)  # tokens, each one's last apart, that k shares with k - 1
    for k in range(1, len(order)):
        a, b = sequences[order[k - 1]], sequences[order[k]]
        while common[k] < min(len(a), len(b)) - 1 and a[common[k]] == b[common[k]]:
            common[k] += 1

    saved = [0]  # of the first k sequences, tokens that the best cut does not read again
    run_of = [0]  # and where the run begins that ends there
    for k in range(1, len(order) + 1):
        best = saved[k - 1], k - 1
        P = math.inf
        for first in range(k - 2, max(-1, k - 1 - FAMILY), -1):
            P = min(P, common[first + 1])
            if P < 2 or 4 * P < len(sequences[order[first]]):
                break  # `<s>` alone; or attention in a wider row would cost more than is saved
            best = max(best, (saved[first] + P * (k - 1 - first), first))
        saved.append(best[0])
        run_of.append(best[1])

    runs = []
    k = len(order)
    while k:
        first = run_of[k]
        runs.append((min(common[first + 1:k], default=0), order[first:k]))
        k = first
    return runs


def side_by_side(batch, sequences):
    """A batch of families as rows (B, T) of ids: the prefix, then what is each member's own.

    Returns ids; the tree that LM.forward takes, None where no row has two members; and {sequence:
    the places in the flattened rows (B T) at which its tokens, from the second on, are predicted}.
    """
    T = max(size_of(family, sequences) for family in batch)
    ids = np.zeros((len(batch), T), np.int64)
    place = np.zeros_like(ids)   # of a token in its own text
    branch = np.zeros_like(ids)  # 0: the prefix
    places = {}
    for b, (P, members) in enumerate(batch):
        ids[b, :P] = sequences[members[0]][:P]
        place[b, :P] = range(P)
        start = P
        for number, i in enumerate(members, 1):
            own = sequences[i][P:-1]
            stop = start + len(own)
            ids[b, start:stop] = own
            place[b, start:stop] = range(P, P + len(own))
            branch[b, start:stop] = number
            places[i] = [*range(b * T, b * T + P), *range(b * T + start, b * T + stop)]
            start = stop
    ids, place, branch = map(torch.from_numpy, (ids, place, branch))
    if all(len(members) == 1 for _, members in batch):
        return ids, None, places
    seen = (branch[:, None] == 0) | (branch[:, None] == branch[:, :, None])  # (B, T, T)
    return ids, (place, seen.tril()[:, None]), places


def size_of(family, sequences):
    """Tokens that are read of a family, each sequence's last left out."""
    P, members = family
    return P + sum(len(sequences[i]) - 1 - P for i in members)


def batch_size(waiting, sequences, batch_tokens):
    """How many of the families waiting, the longest first, are read at once.

    Up to batch_tokens padded tokens, of which PADDING at most are padding once there are FEW; and
    none that needs a tree with one that needs none.
    """
    T = size_of(waiting[0], sequences)
    alone = len(waiting[0][1]) == 1
    size = tokens = 0
    for family in waiting[:max(1, batch_tokens // T)]:
        tokens += size_of(family, sequences)
        padded = T * (size + 1)
        too_wide = padded > FEW and padded - tokens > PADDING * padded
        if size and (too_wide or (len(family[1]) == 1) != alone):
            break
        size += 1
    return size


def log_probs(model, h, row, label):
    """(N,) float32: log q(label | what hidden state h[row] has seen). h (R, d); row, label (N,).

    row is in order. At most ROWS rows of logits exist at once.
    """
    edges = torch.arange(0, len(h) + ROWS, ROWS, device=row.device)
    edges = torch.searchsorted(row, edges).tolist()
    nats = []
    for i, (start, stop) in enumerate(zip(edges, edges[1:])):
        z = model.logits(h[i * ROWS:(i + 1) * ROWS]).float()  # (ROWS, V)
        z -= z.amax(-1, keepdim=True)
        picked = z[row[start:stop] - i * ROWS, label[start:stop]]
        log_sum = z.exp_().sum(-1).log()  # in place: a second (ROWS, V) would leave the cache
        nats.append(picked - log_sum[row[start:stop] - i * ROWS])
    return torch.cat(nats)


@torch.no_grad()
def sum_log_probs(model, sequences, starts, batch_tokens=BATCH_TOKENS):
    """(n,) float64, nats: of each sequence the sum of log q(token | the tokens before).

    sequences: lists of ids; their tokens starts[i] >= 1 and on are counted. A model that is no
    network answers by its own method of this name. What sequences have in common at their
    beginning is read once, by an LM. Raises UserError where a sum is not a number.
    """
    if hasattr(model, "sum_log_probs"):
        sums = torch.as_tensor(model.sum_log_probs(sequences, starts), dtype=torch.float64)
    else:
        sums = torch.zeros(len(sequences), dtype=torch.float64)
        for number, nats in counted_log_probs(model, sequences, starts, batch_tokens):
            sums.index_add_(0, number, nats.cpu().double())
    if sums.isnan().any():
        raise UserError("the model's log-probabilities are not numbers (nan): its weights are "
                        "damaged; train it again")
    return sums


def counted_log_probs(model, sequences, starts, batch_tokens):
    """Of sum_log_probs' counted tokens: yields the sequence's number (N,) and log q (N,)."""
    # what has nothing to be counted is not read
    numbers = [i for i in range(len(sequences)) if starts[i] < len(sequences[i])]
    waiting = [(0, [i]) for i in numbers]
    if isinstance(model, LM):
        waiting = families(sequences, numbers)
    # the longest first, and those that need no tree together
    waiting.sort(key=lambda family: (len(family[1]) > 1, size_of(family, sequences)), reverse=True)
    device = next(model.parameters()).device
    with tqdm(total=len(numbers), unit="text", leave=False, disable=None) as bar:
        while waiting:
            size = batch_size(waiting, sequences, batch_tokens)
            batch = waiting[:size]
            waiting = waiting[size:]

            ids, tree, places = side_by_side(batch, sequences)
            tree = {} if tree is None else {"tree": [t.to(device) for t in tree]}
            row, label, number = [], [], []
            for i, its in places.items():
                row += its[starts[i] - 1:]
                label += sequences[i][starts[i]:]
                number += [i] * (len(sequences[i]) - starts[i])
            row, order = torch.tensor(row).sort()
            rows, row = row.unique_consecutive(return_inverse=True)  # a prefix's are used twice
            h = model(ids.to(device), **tree).flatten(0, 1)[rows.to(device)]
            label = torch.tensor(label)[order].to(device)
            yield torch.tensor(number)[order], log_probs(model, h, row.to(device), label)
            bar.update(len(places))


def longest_input(model):
    """Tokens that a model can read at once: a Llama's positions go on beyond its block_size."""
    config = getattr(model, "config", None)  # an n-gram model has none
    return config.block_size if config and config.arch == "gpt2" else math.inf


Scores = collections.namedtuple("Scores", "sums tokens cut")


def score_all(model, tokenizer, prefixes, completions, batch_tokens=BATCH_TOKENS):
    """`score`'s sums (n,), over how many tokens each is (n,), and how many contexts were cut."""
    longest = longest_input(model)
    number_of = {}  # (first token that counts, <s>, tokens) -> its number
    numbers = []
    cut = 0
    for prefix, completion in zip(prefixes, completions, strict=True):
        text = prefix + completion
        ids = tokenizer.encode(text)
        ends = np.cumsum(tokenizer.token_bytes[ids])  # in bytes, as is the prefix
        inside = int((ends <= len(prefix.encode("utf-8", "surrogatepass"))).sum())
        if len(ids) - inside > longest:
            raise UserError(f"{text[:40]!r}: {len(ids) - inside} tokens, longer than this GPT-2's "
                            f"block_size {longest}; use a llama")
        if len(ids) > longest:
            cut += 1
            inside -= len(ids) - longest
            ids = ids[-longest:]
        key = (1 + inside, tokenizer.bos_id, *ids)
        numbers.append(number_of.setdefault(key, len(number_of)))

    sequences = [list(key[1:]) for key in number_of]
    starts = [key[0] for key in number_of]
    sums = sum_log_probs(model, sequences, starts, batch_tokens)
    tokens = torch.tensor([len(key) - 1 - key[0] for key in number_of])
    numbers = torch.tensor(numbers, dtype=torch.long)
    return Scores(sums[numbers], tokens[numbers], cut)


def score(model, tokenizer, prefixes, completions, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(completion | <s> prefix), nats.

    Prefix and completion are encoded as one string; the tokens that end beyond the prefix are
    summed, so one that straddles the boundary counts. Follows the ambient autocast; softmax and
    sums are never below fp32. Equal texts are scored once. Where the two are longer than a GPT-2's
    block_size, the prefix loses its beginning; UserError if the completion alone is longer.
    """
    return score_all(model, tokenizer, prefixes, completions, batch_tokens).sums


def score_sentences(model, tokenizer, sentences, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(sentence | <s>), nats: `score` with empty prefixes."""
    return score(model, tokenizer, [""] * len(sentences), sentences, batch_tokens)


# ---------------------------------------------------------------- the suite

# result: for eval.json; share (n,): suite.shares of the items, where there are right ones;
# said: in the form of a predictions file
Answers = collections.namedtuple("Answers", "result items share said")


def answer(name, asked, model, tokenizer, seed=0):
    """What a model says to a task of the suite: Answers. asked: what suite.read gives."""
    task = suite.TASKS[name]
    do = {"choose": answer_choices, "rank": answer_ranks, "reading": answer_reading}[task.kind]
    return do(task, asked, model, tokenizer, seed)


def answer_choices(task, items, model, tokenizer, seed):
    # all of them at once, so that those of like length meet in a batch
    others = [item for item in items if item.candidates_2025]
    lists = [item.candidates for item in items] + [item.candidates_2025 for item in others]
    sums, tokens, cut = candidate_scores(model, tokenizer, lists)
    if task.per == "token":
        sums = [a / n for a, n in zip(sums, tokens)]
    of_2025 = {id(item): scores for item, scores in zip(others, sums[len(items):])}
    scores = sums[:len(items)]
    right = np.array([item.right for item in items])
    share = suite.shares(scores, right)
    share_2025 = None
    if task.in_2025:
        old = [of_2025.get(id(item), its) for item, its in zip(items, scores)]
        share_2025 = suite.shares(old, right) > 0
    result = suite.accuracies(items, share, task.over, share_2025)
    if task.per == "byte":
        sizes = [[len(text.encode("utf-8", "surrogatepass")) for _, text in item.candidates]
                 for item in items]
        each = suite.shares([a / np.array(n) for a, n in zip(scores, sizes)], right)
        per_byte = suite.accuracies(items, each, task.over)
        result["per_byte"] = {key: per_byte[key] for key in FIGURE}
    said = suite.predictions(items, suite.chosen(scores, seed))
    return Answers(result | {"cut": cut}, items, share, said)


def answer_ranks(task, items, model, tokenizer, seed):
    scores, _, cut = candidate_scores(model, tokenizer, [item.candidates for item in items])
    first = np.exp([its[0] - np.logaddexp.reduce(its) for its in scores])
    # of the odds, which keep their order where a probability is 0 or 1 to the last digit
    odds = np.array([its[0] - np.logaddexp.reduce(its[1:]) for its in scores])
    result = suite.correlation(odds, np.array([item.ratio for item in items]))
    said = suite.predictions([dataclasses.replace(item, group=task.key) for item in items],
                             suite.chosen(scores, seed), first)
    return Answers(result | {"cut": cut}, items, None, said)


def answer_reading(task, asked, model, tokenizer, seed):
    columns, words, before = asked
    known = [i for i, candidate in enumerate(before) if candidate]
    lists = [[candidate] for candidate in [*words, *(before[i] for i in known)]]
    sums, _, cut = candidate_scores(model, tokenizer, lists)
    surprisal = -np.concatenate(sums)
    prev_surprisal = np.full(len(words), np.nan)
    prev_surprisal[known] = surprisal[len(words):]
    surprisal = surprisal[:len(words)]
    result = suite.reading_figures(columns, surprisal, prev_surprisal)
    said = suite.reading_predictions(surprisal, prev_surprisal)
    return Answers(result | {"cut": cut}, words, None, said)


def candidate_scores(model, tokenizer, lists):
    """Of lists of (prefix, completion): each one's sums (k,) and tokens (k,); contexts cut."""
    flat = [candidate for candidates in lists for candidate in candidates]
    sums, tokens, cut = score_all(model, tokenizer, *zip(*flat))
    ends = np.cumsum([len(candidates) for candidates in lists])[:-1]
    return np.split(sums.numpy(), ends), np.split(tokens.numpy(), ends), cut


def minimal_pairs(model, tokenizer, rows, limit=0):
    """Which of two sentences is more likely? suite.accuracies of BLiMP's dicts, or a folder's.

    limit: pairs per paradigm, 0 all.
    """
    if isinstance(rows, (str, os.PathLike)):
        items = suite.read_folder(rows, suite.pair)
    else:
        items = suite.pairs(rows)
    items = suite.first_of_each(items, limit)
    return answer_choices(suite.TASKS["blimp"], items, model, tokenizer, 0).result


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


# ---------------------------------------------------------------- tables

def table(rows):
    """Rows of texts as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        lines.append("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]))
    return "\n".join(lines)


FIGURE = "accuracy", "interval", "at_chance", "chance", "n"  # what a line of a table wants
MARK = "* no farther from chance than 95% of guesses are"


def percent_interval(interval):
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def groups_table(name, answers):
    """A task's groups and fields, where it has any."""
    result = answers.result
    if "groups" not in result:
        return summary_table([name], [("", {name: result})])
    rows = [["group", "accuracy", "95% over items", "ties", "as until 2025", "items"]]

    def row(group, figures):
        official = figures.get("official_2025")
        return [group, f"{figures['accuracy']:.1%}", percent_interval(figures["interval"]),
                f"{figures['ties']:.1%}", "-" if official is None else f"{official:.1%}",
                str(figures["n"])]
    rows += [row(group, figures) for group, figures in result["groups"].items()]
    rows += [[f"mean of {field}", f"{accuracy:.1%}", "", "", "", ""]
             for field, accuracy in result["fields"].items()]
    over = suite.TASKS[name].over
    return table([*rows, row(f"mean over {over}", result)])


def lines_of(name, result):
    """A task's lines in a table of tasks: (title, figures, key of what counts, form)."""
    title = suite.TASKS[name].title
    if "rho" in result:
        return [(f"{title}, Spearman's rho", result, "rho", "{:.3f}")]
    if "eye_tracking" in result:
        return [(f"{title}, {part.replace('_', ' ')}, share of R2 left", result[part], "r2",
                 "{:.2%}") for part in ("eye_tracking", "self_paced")]
    lines = [(title, result, "accuracy", "{:.1%}")]
    if "per_byte" in result:
        lines.append((f"{title}, per byte", result["per_byte"], "accuracy", "{:.1%}"))
    return lines


def summary_table(names, columns):
    """Tasks as lines. columns: [(label, {task: result})], the first with interval and items.

    The last line is the mean of the accuracies that all of the first's tasks of knowledge have.
    """
    results = columns[0][1]
    rows = [["task", "figure", "95% over items", "chance", "items", *(c[0] for c in columns[1:])]]
    for name in names:
        for i, (title, its, key, form) in enumerate(lines_of(name, results[name])):
            mark = "*" if its["at_chance"] else " "
            interval = " to ".join(map(form.format, its["interval"]))
            chance = form.format(its["chance"]) if "chance" in its else "-"
            row = [title, form.format(its[key]) + mark, interval, chance, f"{its['n']:,}"]
            for _, others in columns[1:]:
                figures = lines_of(name, others[name])[i][1] if name in others else None
                mark = "*" if figures and figures["at_chance"] else " "
                row.append(form.format(figures[key]) + mark if figures else "- ")
            rows.append(row)
    value, tasks = suite.nlp_mean({name: results[name] for name in names})
    if len(tasks) > 1:
        row = [f"NLP mean of {len(tasks)} tasks: {', '.join(tasks)}", f"{value:.1%} ", "", "", ""]
        for _, others in columns[1:]:
            theirs = suite.nlp_mean({name: others[name] for name in names if name in others})
            row.append(f"{theirs[0]:.1%} " if theirs[1] == tasks else "- ")
        rows.append(row)
    marked = any("*" in cell for row in rows for cell in row[1:])
    return table(rows) + (f"\n{MARK}" if marked else "")


def remarks(name, result):
    """What must be said of a task's figures: items that lack, contexts that were cut."""
    said = []
    if result.get("lacks"):
        said.append(f"{name} is not whole, or not the challenge's: {'; '.join(result['lacks'])}")
    if result.get("cut"):
        said.append(f"{name}: {result['cut']:,} contexts lost their beginning, longer than the "
                    "GPT-2's block_size")
    return said


def against_table(label, compared):
    """compared {task: suite.compared}: differences to another run, by task and field."""
    rows = [[f"against {label}", "difference", "95%, paired", "better", "worse", "McNemar's p"]]
    for name, figures in compared.items():
        lines = {name: figures}
        if len(figures["fields"]) > 1:
            lines |= {f"  {field}": its for field, its in figures["fields"].items()}
        for title, its in lines.items():
            low, high = its["interval"]
            rows.append([title, f"{its['difference']:+.1%}", f"{low:+.1%} to {high:+.1%}",
                         str(its["better"]), str(its["worse"]), f"{its['p']:.2g}"])
    return table(rows)


def perplexity_table(result):
    rows = [["domain", "tokens", "blocks: perplexity", "bits per byte", "lines: perplexity",
             "bits per byte", "nats per byte"]]
    whole = "all; nats per byte: mean of both", result["overall"]
    for name, figures in (*result["domains"].items(), whole):
        ways = [f"{figures[way][key]:.4g}" for way in ("blocks", "lines")
                for key in ("perplexity", "bits_per_byte")]
        mean = f"{figures['mean_nats_per_byte']:.4f}"
        rows.append([name, str(figures["lines"]["tokens"]), *ways, mean])
    return table(rows)


PPL_TITLE = "other half of development text, nats per byte"
FINAL = [  # title, where it is in eval.json (trained: distill.py's own), form
    ("steps trained, those of init too", "trained.steps", "{:,.0f}"),
    ("words seen, those of init too", "trained.words", "{:,.0f}"),
    ("step of the weights shown, best.pt", "trained.best_step", "{:,.0f}"),
    ("CE above the floor, nats per token", "babytalk.ce_above_floor", "{:.4f}"),
    ("KL(p*||q), nats per token", "babytalk.kl_truth_student", "{:.4f}"),
    ("KL(q||p*): mass of q outside the language", "babytalk.mass_outside", "{:.4f}"),
    ("KL(q||p*): inside it, nats per token", "babytalk.kl_inside", "{:.4f}"),
    ("precision: samples that are in the language", "babytalk.precision", "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 10", "babytalk.recall_10", "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 3", "babytalk.recall_3", "{:.1%}"),
    ("minimal pairs of babytalk", "babytalk.minimal_pairs", "{:.1%}"),
    *((task.title, f"{name}.accuracy", "{:.1%}") for name, task in suite.TASKS.items()
      if task.kind == "choose"),
    *((f"{task.title}, Spearman's rho", f"{name}.rho", "{:.3f}")
      for name, task in suite.TASKS.items() if task.kind == "rank"),
    ("reading, eye tracking", "reading.eye_tracking.r2", "{:.2%}"),
    ("reading, self paced", "reading.self_paced.r2", "{:.2%}"),
    (PPL_TITLE, "ppl.overall.mean_nats_per_byte", "{:.4f}"),
    ("CE that chose best.pt (val_ce), nats per token", "val_ce", "{:.4f}"),
]


def look_up(results, path):
    """The figure at a path of eval.json, "babytalk.precision"; None where there is none.

    Nor is there one of a part, which earlier versions kept under the bare name.
    """
    name, *keys = path.split(".")
    figure = results.get(name)
    if isinstance(figure, dict) and "--" not in name and (figure.get("limit")
                                                          or figure.get("which") == "last"):
        return None
    for key in keys:
        figure = figure.get(key) if isinstance(figure, dict) else None
    return figure if isinstance(figure, float) else None


def final_lines(evals):
    """FINAL, and a line for each part of the text that ppl was asked of: "ppl --limit=200000"."""
    parts = {slot for _, results in evals for slot in results
             if slot.removeprefix("ppl --limit=").isdigit()}
    parts = sorted(parts, key=lambda slot: int(slot.split("=")[1]), reverse=True)
    for title, path, form in FINAL:
        yield title, path, form
        if title == PPL_TITLE:
            for part in parts:
                limit = int(part.split("=")[1])
                yield (f"{title}, of its first {limit:,} tokens a domain",
                       f"{part}.overall.mean_nats_per_byte", form)


def final_table(evals):
    """Runs side by side, a line for every figure that one of them has; below, their verdicts.

    evals: [(label, contents of its eval.json)].
    """
    rows = [["", *(label for label, _ in evals)]]
    for title, path, form in final_lines(evals):
        figures = [look_up(results, path) for _, results in evals]
        if any(figure is not None for figure in figures):
            rows.append([title, *("-" if x is None else form.format(x) for x in figures)])
    said = [line for label, results in evals
            for line in signatures.words(label, results.get("verdicts"))]
    return "\n".join([table(rows), *([""] if said else []), *said])


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


def check_babytalk(config, tokenizer):
    """UserError where babytalk's figures could not be taken from a run of this config.

    For training to ask before it begins.
    """
    babytalk.Truth(tokenizer)
    longest = babytalk.longest_line()
    if config.arch == "gpt2" and config.longest < longest:
        raise UserError(f"babytalk's longest line has {longest} tokens, more than this GPT-2's "
                        f"block_size = {config.longest} can hold; choose a larger one")


def babytalk_task(subject, options):
    check_babytalk(subject.config, subject.tokenizer)
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
