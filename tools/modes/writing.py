"""Texts that a model writes freely: do they vary and end, do teacher and model find them likely?"""
import math

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

import babytalk
import eval
from onecoach import signatures
from tools.modes.measure import Text

WRITTEN = 500         # texts that each model writes
DIVERSITY = 2000      # n-grams among which the distinct are counted: their share falls with length


def write(subject):
    """Return WRITTEN texts by a model after `<s>` at temperature 1.

    A text ends at the first newline if every line of the corpus was marked by `<s>`; else it goes
    on to 64 tokens.
    """
    _, model, tokenizer, config = subject
    stop = tokenizer.newline_id if config.mark == "line" else -1
    return eval.samples(model, tokenizer, "", WRITTEN, seed=0, stop=stop)


def diversity(texts, newline):
    """Return figures of how texts (lists of ids) vary, repeat and reach a newline, their end."""
    texts = [*filter(None, texts)]
    bigrams = [pair for ids in texts for pair in zip(ids, ids[1:])][:DIVERSITY]
    y = pad_sequence([*map(torch.tensor, texts)], batch_first=True, padding_value=-100)
    return dict(distinct_2=len(set(bigrams)) / max(1, len(bigrams)),
                repeated=signatures.repeated(y).item(),
                mean_length=float(np.mean([*map(len, texts)])),
                never_ends=float(np.mean([newline not in ids for ids in texts])), texts=len(texts))


def figures(texts, subject, teacher, longest):
    """Return figures of texts that a student wrote: their `diversity` and how likely they are.

    log_p: the mean per token under the teacher, if there is one, of the first `longest` tokens. On
    babytalk: right, the share in the language, and dialect_a.
    """
    _, model, tokenizer, config = subject
    ids = [*map(tokenizer.encode, texts)]
    found = diversity(ids, tokenizer.newline_id)
    if teacher:
        device = next(model.parameters()).device
        sequences = [[tokenizer.bos_id, *tokens[:longest]] for tokens in ids]
        scored = Text(sequences, None, device).walk(teacher)
        log_p = torch.cat([log_p.gather(1, label[:, None]) for _, log_p, label in scored])
        found["log_p"] = log_p.double().mean().item()
    if config.corpus == "babytalk":
        right = [text.endswith("\n") and babytalk.contains(text) for text in texts]
        found["right"] = float(np.mean(right))
        found["dialect_a"] = share_of_dialect_a(texts)
    return found


def share_of_dialect_a(lines):
    """Return the mean of p*(dialect A | line) over lines of the language; nan if there are none."""
    only_a = babytalk.Language(babytalk.LANGUAGE.rules)
    only_a.start = only_a.state({("A", ("S", "\n")): babytalk.DIALECTS["A"]})
    shares = [math.exp(babytalk.log_prob(line, only_a) - babytalk.log_prob(line))
              for line in lines if babytalk.contains(line)]
    return float(np.mean(shares)) if shares else np.nan
