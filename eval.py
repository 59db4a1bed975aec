"""Zero-shot evaluation: perplexity, minimal pairs, babytalk's truth, samples.

    python eval.py RUN                                       # what its corpus allows, and samples
    python eval.py RUN --tasks=blimp,supplement --data=DIR   # DIR holds blimp_filtered, ...
    python eval.py RUN --tasks=sample --prompt='once upon a time' --n=5 --temperature=.8
    python eval.py RUN --tasks=ppl --dev=PATH                # of other text

    ppl                perplexity of development text (the half of the run's own that did not
                       choose best.pt, or --dev=PATH);                  --limit: tokens per domain
    blimp, supplement  minimal pairs of BLiMP, of BabyLM's supplement;  --limit: pairs per paradigm
    babytalk           against the embedded corpus's known truth;       --limit: lines
    sample             text from a prompt, also in RUN/samples.txt

What they say is kept in RUN/eval.json, a slot for each way of asking: "babytalk" is the whole of
it, on best.pt, with the usual seed; a look at a part stands beside it, as "babytalk --limit=20
--seed=1". The last table of a training reads whole ones only.
"""
import argparse
import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import shlex
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import babytalk
import files
import run
from config import UserError, run_main
from corpora import resolve
from data import prepare, write_clean
from model import LM

BATCH_TOKENS = 8192  # padded tokens of a forward pass
ROWS = 256           # positions whose logits exist at once: few enough for a processor's cache
FAMILY = 8           # sequences at most that are read after one common prefix
TIE = 1e-4           # nats: closer than this, fp32 cannot tell two sentences' sums apart
LINES = 10_000       # of babytalk, to be scored and to be sampled
STRIDE = 8           # tokens that are sampled before finished texts are taken out
SENTENCES = "sentence_good", "sentence_bad"  # BLiMP's keys


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
            if P < 2:  # `<s>` alone
                break
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
    ids = torch.zeros(len(batch), T, dtype=torch.long)
    place = torch.zeros_like(ids)  # of a token in its own text
    branch = torch.zeros_like(ids)  # 0: the prefix
    places = {}
    for b, (P, members) in enumerate(batch):
        ids[b, :P] = torch.tensor(sequences[members[0]][:P])
        place[b, :P] = torch.arange(P)
        start = P
        for branch_number, i in enumerate(members, 1):
            own = sequences[i][P:-1]
            stop = start + len(own)
            ids[b, start:stop] = torch.tensor(own)
            place[b, start:stop] = torch.arange(P, P + len(own))
            branch[b, start:stop] = branch_number
            places[i] = [*range(b * T, b * T + P), *range(b * T + start, b * T + stop)]
            start = stop
    if all(len(members) == 1 for _, members in batch):
        return ids, None, places
    seen = (branch[:, None] == 0) | (branch[:, None] == branch[:, :, None])  # (B, T, T)
    return ids, (place, seen.tril()[:, None]), places


def size_of(family, sequences):
    """Tokens that are read of a family, each sequence's last left out."""
    P, members = family
    return P + sum(len(sequences[i]) - 1 - P for i in members)


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
            size = max(1, batch_tokens // size_of(waiting[0], sequences))
            alone = len(waiting[0][1]) == 1
            size = sum((len(members) == 1) == alone for _, members in waiting[:size])
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
    return model.config.block_size if model.config.arch == "gpt2" else math.inf


def score(model, tokenizer, prefixes, completions, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(completion | <s> prefix), nats.

    Prefix and completion are encoded as one string; the tokens that end beyond the prefix are
    summed, so one that straddles the boundary counts. Follows the ambient autocast; softmax and
    sums are never below fp32. Equal texts are scored once. Raises UserError for a text longer than
    a GPT-2's block_size.
    """
    longest = longest_input(model)
    number_of = {}  # (first token that counts, <s>, tokens) -> its number
    numbers = []
    for prefix, completion in zip(prefixes, completions, strict=True):
        text = prefix + completion
        ids = tokenizer.encode(text)
        if len(ids) > longest:
            raise UserError(f"{text[:40]!r}: {len(ids)} tokens, longer than this GPT-2's "
                            f"block_size {longest}; use a llama")
        ends = np.cumsum(tokenizer.token_bytes[ids])  # in bytes, as is the prefix
        inside = int((ends <= len(prefix.encode("utf-8", "surrogatepass"))).sum())
        key = (1 + inside, tokenizer.bos_id, *ids)
        numbers.append(number_of.setdefault(key, len(number_of)))

    sequences = [list(key[1:]) for key in number_of]
    starts = [key[0] for key in number_of]
    sums = sum_log_probs(model, sequences, starts, batch_tokens)
    return sums[torch.tensor(numbers, dtype=torch.long)]


def score_sentences(model, tokenizer, sentences, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(sentence | <s>), nats: `score` with empty prefixes."""
    return score(model, tokenizer, [""] * len(sentences), sentences, batch_tokens)


# ---------------------------------------------------------------- minimal pairs

def read_pairs(folder):
    """The rows of folder/*.jsonl in BLiMP's form; UID is the file's stem where a row has none.

    Raises UserError naming the folder, or file and line, that is missing, empty, not JSON or lacks
    a sentence. An empty one is none: it would have probability 1 and win every time.
    """
    folder = pathlib.Path(folder)
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise UserError(f"{folder}: no *.jsonl files there; pass --data=DIR, the folder that holds "
                        f"{folder.name}")
    rows = []
    for path in paths:
        lines = path.read_bytes().split(b"\n")
        pairs = [read_pair(line, f"{path}, line {i}") for i, line in enumerate(lines, 1)
                 if line.strip()]
        if not pairs:
            raise UserError(f"{path}: empty, it has no pairs")
        for row in pairs:
            uid = str(row.get("UID") or path.stem)
            field = str(row.get("field") or "") or None
            rows.append({**row, "UID": uid, "field": field})
    return rows


def read_pair(line, where):
    """A dict with both SENTENCES from a line of JSON; UserError that says where it is wrong."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not JSON")
    for key in SENTENCES:
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise UserError(f"{where}: {key} is missing, or not text")
        if not row[key].strip():
            raise UserError(f"{where}: {key} is empty")
    return row


def wilson(share, n):
    """95% interval of a share of n (Wilson 1927): inside [0, 1], and not empty at 0 and 1."""
    z2 = 1.96**2 / n
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def mean_of(dicts, key):
    return float(np.mean([d[key] for d in dicts]))


def paradigm_figures(gaps, field):
    """What is said of one paradigm. gaps (n,): log p of the good sentence minus the bad one's."""
    won = (gaps > TIE).double().mean().item()
    tied = (gaps.abs() <= TIE).double().mean().item()
    accuracy = won + tied / 2
    return dict(accuracy=accuracy, interval=wilson(accuracy, len(gaps)), ties=tied,
                official=won + tied, n=len(gaps), field=field)


def minimal_pairs(model, tokenizer, rows, limit=0):
    """Which of two sentences is more likely? By paradigm, by field, and the paradigms' mean.

    rows: BLiMP's dicts, or a folder of them; limit: pairs per paradigm, 0 all. A tie is half a
    point; `official` counts it as a whole one, as the official scripts did until 2025. Intervals
    are 95%: Wilson's for a paradigm; for the unweighted mean over k paradigms the normal one of
    variance sum a (1 - a) / n / k^2. They are about other pairs of the same paradigms, not about
    other paradigms or other runs.
    """
    if isinstance(rows, (str, os.PathLike)):
        rows = read_pairs(rows)
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["UID"]].append(row)
    groups = {uid: group[:limit or None] for uid, group in groups.items()}

    # all sentences at once, so that those of like length meet in a batch
    texts = [row[key] for key in SENTENCES for group in groups.values() for row in group]
    good, bad = score_sentences(model, tokenizer, texts).chunk(2)
    gaps = (good - bad).split([len(group) for group in groups.values()])
    paradigms = {uid: paradigm_figures(gap, group[0].get("field"))
                 for (uid, group), gap in zip(groups.items(), gaps)}

    # unweighted, as in BLiMP: a paradigm counts as much as another of any size
    each = list(paradigms.values())
    accuracy = mean_of(each, "accuracy")
    variance = sum(p["accuracy"] * (1 - p["accuracy"]) / p["n"] for p in each) / len(each)**2
    half = 1.96 * math.sqrt(variance)
    fields = {}
    for field in dict.fromkeys(p["field"] for p in each if p["field"]):
        fields[field] = mean_of([p for p in each if p["field"] == field], "accuracy")
    return dict(accuracy=accuracy, ties=mean_of(each, "ties"), official=mean_of(each, "official"),
                interval=[max(0.0, accuracy - half), min(1.0, accuracy + half)],
                n=len(good), fields=fields, paradigms=paradigms)


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
    nats = -sum_log_probs(model, [list(s) for s in sequences],
                          [1] * len(sequences)).sum().item()
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


def precision(model, tokenizer, n, longest, seed):
    """The share of n sampled lines that are in the language, which has none beyond `longest`."""
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
    # no line has twice as many tokens as the longest of many
    right = precision(model, tokenizer, n, 2 * max(map(len, sequences)), seed)
    on_pairs = minimal_pairs(model, tokenizer, pairs)
    paradigms = {uid: figures["accuracy"] for uid, figures in on_pairs["paradigms"].items()}
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
    while len(growing):
        stride = min(STRIDE, end - growing.shape[1])
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


def pairs_table(result):
    rows = [["paradigm", "accuracy", "95% over items", "ties", "tie is right", "pairs"]]

    def row(name, figures):
        low, high = figures["interval"]
        return [name, f"{figures['accuracy']:.1%}", f"{low:.1%} to {high:.1%}",
                f"{figures['ties']:.1%}", f"{figures['official']:.1%}", str(figures["n"])]
    rows += [row(uid, figures) for uid, figures in result["paradigms"].items()]
    rows += [[f"mean of {field}", f"{mean:.1%}", "", "", "", ""]
             for field, mean in result["fields"].items()]
    return table([*rows, row("mean over paradigms", result)])


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
    ("BLiMP", "blimp.accuracy", "{:.1%}"),
    ("BLiMP supplement", "supplement.accuracy", "{:.1%}"),
    ("other half of development text, nats per byte", "ppl.overall.mean_nats_per_byte", "{:.4f}"),
    ("CE that chose best.pt (val_ce), nats per token", "val_ce", "{:.4f}"),
]


def look_up(results, path):
    """The figure at a path of eval.json, "babytalk.precision"; None where there is none.

    Nor is there one of a part, which earlier versions kept under the bare name.
    """
    task = results.get(path.split(".")[0])
    if isinstance(task, dict) and (task.get("limit") or task.get("which") == "last"):
        return None
    for key in path.split("."):
        results = results.get(key) if isinstance(results, dict) else None
    return results if isinstance(results, float) else None


def final_table(evals):
    """Runs side by side, a line for every figure that one of them has.

    evals: [(label, contents of its eval.json)].
    """
    rows = [["", *(label for label, _ in evals)]]
    for title, path, form in FINAL:
        figures = [look_up(results, path) for _, results in evals]
        if any(figure is not None for figure in figures):
            rows.append([title, *("-" if x is None else form.format(x) for x in figures)])
    return table(rows)


# ---------------------------------------------------------------- the tasks of a run

def option(default, help, choices=None):
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices))


@dataclasses.dataclass
class Options:
    """What the command takes beside RUN and --tasks."""
    data: str = option("", "folder of blimp_filtered and supplement_filtered; default: "
                       "$BABYLM_DIR/eval")
    dev: str = option("", "text for ppl to score, named as the key dev: a file, folder, glob, "
                      "corpus; default: the run's own, the half that did not choose best.pt")
    limit: int = option(0, f"see the tasks; 0: all (babytalk: {LINES} lines)")
    which: str = option("best", "best.pt, the lowest val_ce, or ckpt.pt", ["best", "last"])
    device: str = option("auto", "where to compute", ["auto", "cpu", "cuda", "mps"])
    prompt: str = option("", "what samples begin with")
    n: int = option(5, "samples")
    temperature: float = option(0.8, "0: always the most likely token")
    top_k: int = option(0, "sample among the k most likely tokens; 0: all")
    top_p: float = option(1.0, "sample among the fewest tokens that have this probability")
    seed: int = option(0, "of samples and of babytalk's lines")

    def check(self):
        """UserError for what is out of range."""
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
    return reported_half(prepared.dev, tokenizer.newline_id)


def other_text(name, subject):
    """The same of any other text, all of it: cleaned and encoded as the run's own."""
    paths = resolve(name, subject.config.data_dir, "dev")
    with tempfile.TemporaryDirectory() as folder:
        cleaned = write_clean(paths, pathlib.Path(folder), "dev")
        texts = {domain: path.read_bytes().decode() for domain, path in cleaned.items()}
    return {domain: np.array(subject.tokenizer.encode(text), np.int64)
            for domain, text in texts.items()}


def ppl_task(subject, options):
    texts = other_text(options.dev, subject) if options.dev else own_text(subject)
    model, tokenizer, config = subject[1:]
    result = perplexity(model, tokenizer, texts, config.longest, options.limit)
    return result, perplexity_table(result)


def pairs_task(name, subject, options):
    data = options.data or os.path.join(os.environ.get("BABYLM_DIR", "."), "eval")
    pairs = pathlib.Path(data, f"{name}_filtered")
    result = minimal_pairs(subject.model, subject.tokenizer, pairs, options.limit)
    return result, pairs_table(result)


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


# do: (subject, options) -> result for eval.json, text for the screen; heeds: what its result is of
Task = collections.namedtuple("Task", "do heeds")
PART = ("limit", "which")
SAMPLING = ("prompt", "n", "temperature", "top_k", "top_p", "seed", "which")
TASKS = {
    "ppl": Task(ppl_task, (*PART, "dev")),
    "blimp": Task(functools.partial(pairs_task, "blimp"), PART),
    "supplement": Task(functools.partial(pairs_task, "supplement"), PART),
    "babytalk": Task(babytalk_task, (*PART, "seed")),
    "sample": Task(sample_task, SAMPLING),
}


def usual_tasks(config):
    """What is done where no tasks are named, and after training."""
    return ("babytalk" if config.corpus == "babytalk" else "ppl", "sample")


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


@full_precision()
def evaluate(folder, tasks=(), **options):
    """Do `tasks` on the run in `folder`, print tables, return all of its eval.json.

    tasks: by default babytalk, on that corpus, or ppl, and sample. options: the fields of Options.
    Each task's result is put into its slot of eval.json as soon as it is there. Raises UserError
    for what is unknown or missing.
    """
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"unknown task {task!r}; known are {', '.join(TASKS)}")
    options = Options(**options)
    options.check()
    folder = pathlib.Path(folder)
    model, tokenizer, config = run.load(folder, which=options.which)
    device = run.device_of(dataclasses.replace(config, device=options.device))
    subject = Subject(folder, model.to(device), tokenizer, config)

    path = folder / "eval.json"
    results = files.read_json(path) if path.exists() else {}
    results[slot("val_ce", ["which"], options)] = validated(folder, options.which)
    for task in tasks or usual_tasks(config):
        do, heeds = TASKS[task]
        result, shown = do(subject, options)
        key = slot(task, heeds, options)
        asked = {name: getattr(options, name) for name in heeds}
        results[key] = asked | result
        files.write_json(path, results)
        print(f"\n{key} of {folder} ({options.which})\n{shown}")
    return results


def validated(folder, which):
    """val_ce of best.pt or ckpt.pt as metrics.jsonl has it; None where there is none.

    best.pt is of steps after 0: the weights that a run begins with are not its own.
    """
    lines = [line for line in files.read_json_lines(folder / "metrics.jsonl")
             if isinstance(line.get("val_ce"), float)]
    if which == "best":
        return min((line["val_ce"] for line in lines if line["step"] > 0), default=None)
    return lines[-1]["val_ce"] if lines else None


def main(argv):
    parser = argparse.ArgumentParser(prog="python eval.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    def refuse(message):
        raise UserError(f"{message}; --help shows how")
    parser.error = refuse
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--tasks", default="", help=f"of {','.join(TASKS)}; default: babytalk (on "
                        "that corpus) or ppl, and sample")
    for field in dataclasses.fields(Options):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default,
                            **field.metadata)
    args = vars(parser.parse_args(argv))
    tasks = [task for task in args.pop("tasks").split(",") if task]
    evaluate(args.pop("run"), tasks, **args)


if __name__ == "__main__":
    run_main(main)
