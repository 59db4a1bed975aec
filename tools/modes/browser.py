"""The numbers of a page's mode browser: contexts, and every model's distribution in each."""
import collections
import functools
import math

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
    by_score = contexts_of_dialect if student.config.corpus == "babytalk" else contexts_of_rivals
    chosen = {}
    for _, key, ids in sorted(by_score(student), reverse=True):
        chosen.setdefault(key, ids)  # one context per key
    return [*chosen.values()][:CONTEXTS]


def contexts_of_rivals(student):
    """Yield (score, last token, ids) of prefixes of real text, by the two likeliest next words."""
    newline = student.subject.tokenizer.newline_id
    forward = student.teacher_forward or student.forward
    for ids in student.text.sequences[::8]:
        top = forward(torch.tensor([ids[:-1]]))[0].exp().topk(2).values.tolist()
        lines = [0, *(t + 1 for t, token in enumerate(ids) if token == newline)]
        for t, (first, second) in enumerate(top[8:], 8):
            start = max(line for line in lines if line <= t - 7)  # 8 tokens at least
            has_favourite = first > 0.1
            yield (has_favourite, second / first), ids[t], ids[start:t + 1]


def contexts_of_dialect(student):
    """Yield (information, the same, ids) of prefixes of babytalk.

    The same information means the same rules of the grammar, with other words.
    """
    for ids in student.text.sequences[:500]:
        words = student.subject.tokenizer.decode(ids[1:-1]).split(" ")
        for t in range(len(words)):
            information = round(dialect_information(babytalk.LANGUAGE.read(words[:t])[1]), 3)
            yield information, information, ids[:t + 1]


@functools.cache
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

def histogram(logits):
    """Return [[logit in thousandths, count]] of logits (n,), by steps of TAIL_STEP."""
    steps = (logits * 1000 / TAIL_STEP).round().long()
    values, counts = steps.unique(return_counts=True)
    return [[v * TAIL_STEP, n] for v, n in zip(values.tolist(), counts.tolist())]


@torch.no_grad()
def browser_data(students):
    """Return the data of the page's script: models, the teacher's name, vocabulary, contexts, note.

    The models are the last run's teacher, and all runs with the same tokenizer.
    """
    lead = students[-1]
    tokenizer = lead.subject.tokenizer
    readers = {}
    teacher = ""
    if lead.teacher_forward:
        teacher = f"teacher {lead.result['teacher']}"
        readers[teacher] = lead.teacher_forward
    readers |= {student.label: student.forward for student in students
                if student.subject.tokenizer.hash == tokenizer.hash}

    truth = babytalk.Truth(tokenizer) if lead.config.corpus == "babytalk" else None
    contexts = [context_data(ids, readers, tokenizer, truth) for ids in choose_contexts(lead)]
    used = {i for context in contexts for i in context.get("words", ())}
    V = tokenizer.vocab_size
    vocabulary = [tokenizer.decode([i]) if i in used or not used else "" for i in range(V)]
    note = "Every word of the vocabulary is in these numbers."
    if not contexts:
        note = "There is no context to show: the development text's blocks are too short."
    elif used:
        note = (f"Of {V:,} words the {TOP} likeliest of each model are here, and how the logits of "
                "the others are spread, so that the bars are right at every temperature; in KL and "
                "entropy the others count as one word, so both are lower bounds.")
    return dict(models=[*readers], teacher=teacher, vocabulary=vocabulary, contexts=contexts,
                note=note)


def context_data(ids, readers, tokenizer, truth):
    """Return the text of a context and each model's logits, of all words or of the likeliest.

    With babytalk's truth also [word, p*] of those that may follow.
    """
    x = torch.tensor([ids])
    log_ps = {name: forward(x)[0, -1].cpu() for name, forward in readers.items()}
    context = dict(text=tokenizer.decode(ids[1:] if ids[0] == tokenizer.bos_id else ids))
    words = torch.arange(tokenizer.vocab_size)
    if truth:
        log_p = truth.logits(x)[0][0, -1]
        may_follow = (log_p > truth.FLOOR).nonzero()[:, 0].tolist()
        context["truth"] = [[i, round(log_p[i].exp().item(), 6)] for i in may_follow]
    elif len(words) > WHOLE:
        rest = torch.ones(len(words), dtype=torch.bool)
        words = torch.cat([log_p.topk(TOP).indices for log_p in log_ps.values()]).unique()
        rest[words] = False
        context["words"] = words.tolist()
        context["tail"] = {name: histogram(log_p[rest]) for name, log_p in log_ps.items()}
    context["logits"] = {name: (log_p[words] * 1000).round().long().tolist()
                         for name, log_p in log_ps.items()}
    return context
