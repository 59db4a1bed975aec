"""Log-probabilities in batches: of texts, of completions after prefixes, of single tokens.

    score(model, tokenizer, prefixes, completions)    # log p(completion | <s> prefix), nats
    score_sentences(model, tokenizer, sentences)      # with empty prefixes
    sum_log_probs(model, sequences, starts)           # of lists of ids
    positions(forward, sequences, starts, ...)        # any function of ids, at each position
"""
import math
import sys

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from onecoach.config import UserError

BATCH_TOKENS = 4096  # padded tokens of a forward pass
ROWS = 256           # positions whose logits exist at once: few enough for a processor's cache


# ---------------------------------------------------------------- progress

class LogLines:
    """A file for tqdm: what it would draw in place becomes a line of stderr."""

    def write(self, text):
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)


def progress_bar(**keys):
    """Return tqdm's bar; if stderr is a log file, it writes a line per minute instead."""
    if not sys.stderr.isatty():
        keys |= dict(file=LogLines(), delay=60, mininterval=60, miniters=1,
                     bar_format="{desc}{n_fmt} of {total_fmt} {unit}s, {elapsed} gone, "
                     "{remaining} left")
    return tqdm(leave=False, **keys)


# ---------------------------------------------------------------- sequences of ids

def by_length(numbers, sequences, tokens):
    """Cut numbers of sequences into lists of similar length, of at most `tokens` when padded."""
    waiting = sorted(numbers, key=lambda i: -len(sequences[i]))
    while waiting:
        n = max(1, tokens // len(sequences[waiting[0]]))
        yield waiting[:n]
        waiting = waiting[n:]


@torch.no_grad()
def positions(forward, sequences, starts, batch_tokens, device):
    """Yield the values of `forward` at every position that predicts a counted token, in batches.

    The counted tokens of sequence i are those from number starts[i] >= 1 on. forward: ids (B, T) ->
    (B, T, d). Sequences of similar length form a batch, padded on the right, where causal attention
    does not look. Each item: the sequence's number (N,), on the CPU; values (N, d); tokens (N,).
    """
    # a sequence without counted tokens is not read
    numbers = [i for i in range(len(sequences)) if starts[i] < len(sequences[i])]
    with progress_bar(total=len(numbers), unit="text") as bar:
        for batch in by_length(numbers, sequences, batch_tokens):
            ids = pad_sequence([torch.as_tensor(sequences[i]) for i in batch], batch_first=True)
            first = torch.tensor([starts[i] for i in batch])[:, None]  # (B, 1)
            end = torch.tensor([len(sequences[i]) for i in batch])[:, None]
            column = torch.arange(1, ids.shape[1])  # (T,)
            b, t = ((first <= column) & (column < end)).nonzero(as_tuple=True)  # (N,) each

            values = forward(ids[:, :-1].to(device))[b.to(device), t.to(device)]  # (N, d)
            number = torch.tensor(batch)[b]
            label = ids[:, 1:][b, t].to(device)
            yield from zip(number.split(ROWS), values.split(ROWS), label.split(ROWS))
            bar.update(len(batch))


@torch.no_grad()
def sum_log_probs(model, sequences, starts):
    """Return (n,) float64, nats: for each sequence the sum of log q(token | the tokens before).

    sequences: lists of ids; the tokens from number starts[i] >= 1 on are counted. A model that is
    not a network has a method of this name. Raises UserError if a sum is not a number.
    """
    if hasattr(model, "sum_log_probs"):
        sums = torch.as_tensor(model.sum_log_probs(sequences, starts), dtype=torch.float64)
    else:
        sums = torch.zeros(len(sequences), dtype=torch.float64)
        device = next(model.parameters()).device
        for number, h, label in positions(model, sequences, starts, BATCH_TOKENS, device):
            z = model.logits(h).float()
            z -= z.amax(-1, keepdim=True)
            picked = z.gather(1, label[:, None])[:, 0]
            nats = picked - z.exp_().sum(-1).log()  # in place: a second (N, V) leaves the cache
            sums.index_add_(0, number, nats.cpu().double())
    if sums.isnan().any():
        raise UserError("the model's log-probabilities are not numbers (nan): its weights are "
                        "damaged; train it again")
    return sums


# ---------------------------------------------------------------- texts

def longest_input(model):
    """Return how many tokens a model can read; a Llama reads on beyond block_size."""
    config = getattr(model, "config", None)  # an n-gram model has none
    return config.block_size if config and config.arch == "gpt2" else math.inf


def score_all(model, tokenizer, prefixes, completions):
    """Return `score`'s sums (n,), the tokens in each (n,), and how many prefixes were cut."""
    longest = longest_input(model)
    number_of = {}  # (first counted token, <s>, tokens) -> number: equal texts are scored once
    numbers = []
    cut = 0
    for prefix, completion in zip(prefixes, completions, strict=True):
        text = prefix + completion
        ids, ends = tokenizer.encode_with_ends(text)  # in bytes, like the prefix
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

    starts = [start for start, *_ in number_of]
    sequences = [ids for _, *ids in number_of]
    sums = sum_log_probs(model, sequences, starts)
    tokens = torch.tensor([len(ids) - start for start, *ids in number_of])
    numbers = torch.tensor(numbers, dtype=torch.long)
    return sums[numbers], tokens[numbers], cut


def score(model, tokenizer, prefixes: list[str], completions: list[str]) -> torch.Tensor:
    """Return (n,) float64: log p(completion | <s> prefix), nats.

    Prefix and completion are encoded as one string; the tokens that end beyond the prefix are
    summed, so a token that straddles the boundary counts. Follows the ambient autocast; softmax and
    sums are in fp32 at least. If the two are longer than a GPT-2's block_size, the beginning of the
    prefix is left out; UserError if the completion alone is longer.
    """
    return score_all(model, tokenizer, prefixes, completions)[0]


def score_sentences(model, tokenizer, sentences: list[str]) -> torch.Tensor:
    """Return (n,) float64: log p(sentence | <s>), nats: `score` with empty prefixes."""
    return score(model, tokenizer, [""] * len(sentences), sentences)
