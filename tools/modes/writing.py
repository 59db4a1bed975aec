"""Texts that a model writes freely: do they vary and end, do teacher and model find them likely?"""
import collections

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

import babytalk
import eval
from onecoach import signatures
from onecoach.scoring import positions

WRITTEN = 500         # texts that each model writes
DIVERSITY = 2000      # n-grams among which the distinct are counted: their share falls with length
BATCH_TOKENS = 2048   # of a forward pass that keeps all logits


def distinct(texts, n):
    """Return the share of different n-grams among the first DIVERSITY of texts (lists of ids)."""
    grams = [tuple(ids[i:i + n]) for ids in texts for i in range(len(ids) - n + 1)][:DIVERSITY]
    return len(set(grams)) / max(1, len(grams))


def diversity(texts, ended):
    """Return figures of how texts (lists of ids) vary, repeat and end; ended: a bool each."""
    y = pad_sequence([*map(torch.tensor, texts)], batch_first=True, padding_value=-100)
    return dict(distinct_2=distinct(texts, 2), repeated=signatures.repeated(y).item(),
                mean_length=float(np.mean([*map(len, texts)])),
                never_ends=1 - float(np.mean(ended)), texts=len(texts))


def written(subject, teacher, longest):
    """Return figures of WRITTEN texts by a model after `<s>` at temperature 1, with examples.

    A text ends at the first newline if every line of the corpus was marked by `<s>`; else it goes
    on to 64 tokens, and one without a newline never ended. log_p: the mean per token under the
    teacher, if there is one, of the first `longest` tokens: a GPT-2 reads no more. On babytalk:
    right, the share in the language, and dialect_a.
    """
    _, model, tokenizer, config = subject
    newline = tokenizer.newline_id
    stop = newline if config.mark == "line" else -1
    texts = eval.samples(model, tokenizer, "", WRITTEN, seed=0, stop=stop)
    ids = [tokenizer.encode(text) for text in texts]
    ids = [tokens for tokens in ids if tokens]
    figures = diversity(ids, [newline in tokens for tokens in ids])
    if teacher:
        device = next(model.parameters()).device
        sequences = [[tokenizer.bos_id, *tokens[:longest]] for tokens in ids]
        scored = positions(teacher, sequences, [1] * len(ids), BATCH_TOKENS, device)
        log_p = torch.cat([log_p.gather(1, label[:, None]) for _, log_p, label in scored])
        figures["log_p"] = log_p.double().mean().item()
    if config.corpus == "babytalk":
        right = [text.endswith("\n") and babytalk.contains(text) for text in texts]
        figures["right"] = float(np.mean(right))
        figures["dialect_a"] = float(dialect_shares(texts)[0])
    return figures | {"examples": texts[:5]}


def dialect_shares(lines):
    """Return the shares of A and B among lines of the language, by p*(dialect | line).

    (nan, nan) if no line is in the language.
    """
    total = np.zeros(2)
    for line in lines:
        _, state = babytalk.LANGUAGE.read(line.removesuffix("\n").split(" "))
        ends = collections.Counter()
        for (dialect, (top, *_)), weight in state.derivations if state else ():
            if top == "\n":
                ends[dialect] += weight
        if ends:
            total += np.array([ends["A"], ends["B"]]) / ends.total()
    return tuple(total / total.sum()) if total.sum() else (np.nan, np.nan)


def written_by_truth(tokenizer):
    """Return the figures that need no model, of WRITTEN lines by babytalk's truth."""
    lines = babytalk.sample(WRITTEN, "modes, written")
    ids = [tokenizer.encode(line) for line in lines]
    return diversity(ids, [True] * len(ids)) | {"examples": lines[:5]}
