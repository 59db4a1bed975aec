"""The numbers of a page's mode browser: contexts, and every model's distribution in each."""
import collections
import math

import numpy as np
import torch

import babytalk

CONTEXTS = 30         # of the mode browser
WHOLE = 1000          # words of a vocabulary that are all inlined; of a larger one TOP per model
TOP = 200
TAIL_STEP = 100       # thousandths of a nat: the width of the histogram of the other words' logits


# ---------------------------------------------------------------- contexts

def choose_contexts(student):
    """Return [ids of a prefix, `<s>` first] before which several words are likely, <= CONTEXTS.

    On babytalk the next word tells most about the dialect there, by p* (mutual information), for
    the two dialects are modes in the same context. Elsewhere the teacher's second word is nearest
    to the first.
    """
    sequences = student.text.sequences
    tokenizer = student.subject.tokenizer
    if student.config.corpus == "babytalk":
        return dialect_contexts(tokenizer, sequences)
    forward = student.teacher_forward or student.forward
    clear, flat = [], []  # the teacher has a favourite, or none
    for ids in sequences[::8]:
        log_p = forward(torch.as_tensor(ids[:-1])[None].long())[0]
        first, second = log_p.exp().topk(2).values.T
        lines = np.flatnonzero(np.asarray(ids) == tokenizer.newline_id) + 1
        for t in range(8, len(ids) - 1):
            # a whole line up to t, of 8 tokens at least
            start = max(lines[lines <= t - 7], default=0)
            scored = (second[t] / first[t]).item(), tuple(ids[start:t + 1])
            (clear if first[t] > 0.1 else flat).append(scored)
    return first_distinct((ids, ids[-1]) for _, ids in sorted(clear or flat, reverse=True))


def first_distinct(prefixes):
    """Return the first CONTEXTS ids of (ids, key) with different keys."""
    chosen = {}
    for ids, key in prefixes:
        chosen.setdefault(key, ids)
    return [*chosen.values()][:CONTEXTS]


def dialect_contexts(tokenizer, sequences):
    scored = {(tokenizer.bos_id,): dialect_information(babytalk.LANGUAGE.start)}
    for ids in sequences[:500]:
        words = tokenizer.decode(ids[1:-1]).split(" ")
        for t in range(1, len(words)):
            _, state = babytalk.LANGUAGE.read(words[:t])
            scored[tuple(int(i) for i in ids[:t + 1])] = dialect_information(state)
    # the same information means the same rules of the grammar, with other words
    ordered = sorted(((round(score, 3), ids) for ids, score in scored.items()), reverse=True)
    return first_distinct((ids, score) for score, ids in ordered)


def dialect_information(state):
    """Return how many nats the next word tells about the dialect, after a State of babytalk."""
    joint = collections.Counter()
    of_word = collections.Counter()
    of_dialect = collections.Counter()
    for (dialect, (top, *_)), weight in state.derivations:
        for word, _, p in babytalk.LANGUAGE.first_words(dialect, top):
            joint[word, dialect] += weight * p
            of_word[word] += weight * p
            of_dialect[dialect] += weight * p
    return sum(p * math.log(p / of_word[word] / of_dialect[dialect])
               for (word, dialect), p in joint.items())


# ---------------------------------------------------------------- distributions

def shown_words(log_ps, true=()):
    """Return the ids to inline from log-probabilities {name: (V,)}: all of a small V, or the top.

    true: ids that are shown in any case.
    """
    V = len(next(iter(log_ps.values())))
    if V <= WHOLE:
        return [*range(V)]
    tops = [log_p.topk(TOP).indices for log_p in log_ps.values()]
    return torch.cat([*tops, torch.tensor(true, dtype=torch.long)]).unique().tolist()


def histogram(logits):
    """Return [[logit in thousandths, count]] of logits (n,), by steps of TAIL_STEP."""
    steps = (logits * 1000 / TAIL_STEP).round().long()
    values, counts = steps.unique(return_counts=True)
    return [[v * TAIL_STEP, n] for v, n in zip(values.tolist(), counts.tolist())]


@torch.no_grad()
def browser_data(students, colours):
    """Return the data of the page's script: models, vocabulary, contexts, and a note.

    The models are the last run's teacher, and the runs in the same folder with the same tokenizer.
    colours: {label: name of a colour}.
    """
    lead = students[-1]
    tokenizer = lead.subject.tokenizer
    models = []
    readers = {}
    if lead.teacher_forward:
        name = f"teacher {lead.result['teacher']}"
        models.append(dict(name=name, role="teacher", colour="teacher"))
        readers[name] = lead.teacher_forward
    for student in students:
        same_words = student.subject.tokenizer.hash == tokenizer.hash
        if student.folder.parent == lead.folder.parent and same_words:
            name = student.label
            models.append(dict(name=name, role="student", colour=colours[name]))
            readers[name] = student.forward

    truth = babytalk.Truth(tokenizer) if lead.config.corpus == "babytalk" else None
    contexts = [context_data(ids, readers, tokenizer, truth) for ids in choose_contexts(lead)]
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
