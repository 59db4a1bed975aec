"""Log-probabilities in batches: of texts, of completions after prefixes, of single tokens.

    score(model, tokenizer, prefixes, completions)   # log p(completion | <s> prefix), nats
    score_sentences(model, tokenizer, sentences)
    sum_log_probs(model, sequences, starts)          # the same of token ids
    positions(forward, sequences, starts, ...)       # any function of the tokens, at each of them
"""
import collections
import math

import numpy as np
import torch
from tqdm import tqdm

from model import LM
from onecoach.config import UserError

BATCH_TOKENS = 4096  # padded tokens of a forward pass
FEW = 512            # tokens that cost little more to read than fewer would
PADDING = 0.05       # of a forward pass's tokens: sorted by length, it need not be more
ROWS = 256           # positions whose logits exist at once: few enough for a processor's cache
FAMILY = 6           # sequences at most that are read after one common prefix


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
