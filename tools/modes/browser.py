"""The numbers of a page's mode browser: contexts, and every model's distribution in each."""
import math

import numpy as np
import torch

import babytalk
from tools.modes.examine import text_of
from tools.modes.pictures import role_of
from tools.modes.words import label_of

CONTEXTS = 30         # of the mode browser
WHOLE = 1000          # words of a vocabulary that are all inlined; of a larger one TOP a model
TOP = 200
TAIL_STEP = 100       # thousandths of a nat: the width of the histogram of the other words' logits


def contexts_of(found):
    """[ids of a prefix, `<s>` first] in which more than one word is likely, CONTEXTS at most.

    On babytalk where the next word says most about the dialect, by p* (mutual information), for
    there the two dialects are modes in the same context; else where the teacher's second word is
    nearest to its first.
    """
    text = text_of(found.subject)
    if found.subject.config.corpus == "babytalk":
        return dialect_contexts(found.subject.tokenizer, text.sequences)
    tokenizer = found.subject.tokenizer
    clear, flat = [], []  # the teacher has a favourite, or none
    for ids in text.sequences[::8]:
        log_p = found.teacher_forward(torch.as_tensor(ids[:-1])[None].long())[0]
        first, second = log_p.exp().topk(2).values.T
        for t in range(8, len(ids) - 1):
            start = last_line(ids[:t + 1], tokenizer.newline_id)
            scored = (second[t] / first[t]).item(), tuple(ids[start:t + 1])
            (clear if first[t] > 0.1 else flat).append(scored)
    return distinct_ends(sorted(clear or flat, reverse=True))


def last_line(ids, newline_id):
    """Where the line begins that ids end in, with at least 8 tokens before the end."""
    ends = np.flatnonzero(np.asarray(ids[:-8]) == newline_id)
    return int(ends[-1]) + 1 if len(ends) else 0


def distinct_ends(scored):
    """The first CONTEXTS prefixes of [(score, ids)] whose last two tokens nobody before has."""
    chosen = {}
    for _, ids in scored:
        chosen.setdefault(ids[-2:], ids)
    return [*chosen.values()][:CONTEXTS]


def dialect_contexts(tokenizer, sequences):
    scored = {(tokenizer.bos_id,): told_of_dialect(babytalk.LANGUAGE.start)}
    for ids in sequences[:500]:
        words = tokenizer.decode(ids[1:-1]).split(" ")
        for t in range(1, len(words)):
            _, state = babytalk.LANGUAGE.read(words[:t])
            scored[tuple(int(i) for i in ids[:t + 1])] = told_of_dialect(state)
    return distinct_ends(sorted(((score, ids) for ids, score in scored.items()), reverse=True))


def told_of_dialect(state):
    """Nats that the next word says about the dialect after a State of babytalk."""
    joint = {}
    for (dialect, (top, *_)), weight in state.derivations:
        for word, _, p in babytalk.LANGUAGE.first_words(dialect, top):
            of_word = joint.setdefault(word, {"A": 0.0, "B": 0.0})
            of_word[dialect] += weight * p
    of_dialect = {d: sum(of_word[d] for of_word in joint.values()) for d in "AB"}
    return sum(p * math.log(p / sum(of_word.values()) / of_dialect[d])
               for of_word in joint.values() for d, p in of_word.items() if p)


def shown_words(log_ps, true=()):
    """Ids that are inlined of log-probabilities {name: (V,)}: all of a small V, else the likely.

    true: ids that are among them in any case.
    """
    V = len(next(iter(log_ps.values())))
    if V <= WHOLE:
        return [*range(V)]
    tops = [log_p.topk(TOP).indices for log_p in log_ps.values()]
    return torch.cat([*tops, torch.tensor(true, dtype=torch.long)]).unique().tolist()


def histogram(logits):
    """[[logit in thousandths, how many]] of logits (n,), by steps of TAIL_STEP."""
    steps = (logits * 1000 / TAIL_STEP).round().long()
    values, counts = steps.unique(return_counts=True)
    return [[v * TAIL_STEP, n] for v, n in zip(values.tolist(), counts.tolist())]


@torch.no_grad()
def browser_data(founds):
    """What the page's script reads: models, vocabulary, contexts with logits and truth, a note.

    Of the last run's teacher and of the runs beside it.
    """
    lead = founds[-1]
    beside = [found for found in founds
              if found.subject.folder.parent == lead.subject.folder.parent
              and found.subject.tokenizer.hash == lead.subject.tokenizer.hash]
    tokenizer = lead.subject.tokenizer
    readers = {f"teacher {lead.teacher}": lead.teacher_forward}
    models = [dict(name=f"teacher {lead.teacher}", role="teacher", colour="teacher")]
    for found in beside:
        name = label_of(found, beside)
        readers[name] = found.forward
        models.append(dict(name=name, role="student", colour=role_of(found)))
    truth = babytalk.Truth(tokenizer) if lead.subject.config.corpus == "babytalk" else None
    contexts = [context_data(ids, readers, tokenizer, truth) for ids in contexts_of(lead)]
    used = {i for context in contexts for i in context.get("words") or []}
    V = tokenizer.vocab_size
    vocabulary = [tokenizer.decode([i]) if V <= WHOLE or i in used else "" for i in range(V)]
    note = "Every word of the vocabulary is in these numbers."
    if not contexts:
        note = "There is no context to show: the development text's blocks are too short."
    elif V > WHOLE:
        note = (f"Of {V:,} words the {TOP} likeliest of each model are here, and how the logits of "
                "the others are spread, so that the bars are right at every temperature; in KL and "
                "entropy the others count as one word, so both are lower bounds.")
    return dict(models=models, vocabulary=vocabulary, contexts=contexts, note=note)


def context_data(ids, readers, tokenizer, truth):
    x = torch.tensor([ids])
    log_ps = {name: forward(x)[0, -1].cpu() for name, forward in readers.items()}
    p = truth.logits(x)[0][0, -1] if truth else torch.empty(0)
    inside = (p > babytalk.Truth.FLOOR).nonzero()[:, 0].tolist()
    words = shown_words(log_ps, inside)
    rest = torch.ones(tokenizer.vocab_size, dtype=torch.bool)
    rest[words] = False
    context = dict(text=tokenizer.decode(ids[1:] if ids[0] == tokenizer.bos_id else ids),
                   logits={name: (log_p[words] * 1000).round().long().tolist()
                           for name, log_p in log_ps.items()})
    if rest.any():
        context["words"] = words
        context["tail"] = {name: histogram(log_p[rest]) for name, log_p in log_ps.items()}
    if truth:  # [place in words, p*] of those that may follow
        context["truth"] = [[words.index(i), round(p[i].exp().item(), 6)] for i in inside]
    return context
