"""How much of a model's next-word mass each rule of babytalk's grammar has, and how much of p*'s.

After a prefix of the language each next word has its derivations, and these use rules:
p*(rule | prefix, word) is known. So q(word | prefix) tells how often a model would use each rule
there, and no sample is drawn. A rule that q hardly uses is a lost mode with a name.
"""
import collections
import functools
import re

import numpy as np
import torch

import babytalk

# name: "A: TOO -> too", a dialect in front where the other has no such rule; is_word: it only
# chooses a word of a class. p, q: uses a line, under p* and under the model
Rule = collections.namedtuple("Rule", "name is_word p q")


def bare(symbols):
    """Return symbols without features: the readings of a rule for number and gender are one."""
    return re.sub(r"\[\w+\]", "", " ".join(symbols))


@functools.cache
def rule_names():
    """Return {(dialect, symbol, body): the rule's name}."""
    dialects = collections.defaultdict(set)
    for dialect, table in babytalk.LANGUAGE.rules.items():
        for symbol, options in table.items():
            for _, body in options:
                dialects[f"{bare([symbol])} -> {bare(body)}"].add(dialect)
    names = {}
    for dialect, table in babytalk.LANGUAGE.rules.items():
        for symbol, options in table.items():
            for _, body in options:
                name = f"{bare([symbol])} -> {bare(body)}"
                mark = f"{dialect}: " if len(dialects[name]) == 1 else ""
                names[dialect, symbol, body] = mark + name
    return names


@functools.cache
def word_classes():
    """Return the symbols that only choose a word: N, VT, NAME, ..."""
    return set(re.findall(r"^(\w+) +:", babytalk.GRAMMAR, re.M))


@functools.cache
def expansions(dialect, symbol):
    """Return [(first word, probability, names of the rules on the way)] of a symbol."""
    rules = babytalk.LANGUAGE.rules[dialect]
    if symbol not in rules:
        return [(symbol, 1.0, ())]
    return [(word, p * q, (rule_names()[dialect, symbol, body], *names))
            for p, body in rules[symbol]
            for word, q, names in expansions(dialect, body[0])]


def rules_of_words(state):
    """Return {word: {rule: p*(rule | prefix, word)}} after a State of the language."""
    mass = collections.Counter()
    joint = collections.defaultdict(collections.Counter)
    for (dialect, (top, *_)), weight in state.derivations:
        for word, p, names in expansions(dialect, top):
            mass[word] += weight * p
            for name in names:
                joint[word][name] += weight * p
    return {word: {name: both / mass[word] for name, both in joint[word].items()}
            for word in mass}


class Truth(babytalk.Truth):
    """babytalk's truth as the teacher that a run names "truth": ids -> log p*, its zeros kept."""

    def rows(self, ids):
        """Return the table's row (B, T) after each of ids (B, T)."""
        return self.walk(ids, [{}] * len(ids))

    def forward(self, ids):
        return self.logits(ids)[0]


class Uses:
    """A student's next-word mass at the positions of a measure.Text, added up for each prefix.

    Chunks are numbered as text.walk yields them.
    """

    def __init__(self, truth, text):
        self.truth = truth
        self.lines = len(text.sequences)
        walk = text.walk(lambda ids: truth.rows(ids)[..., None], device="cpu")
        self.chunks = [row[:, 0] for _, row, _ in walk]
        self.q_of_row = torch.zeros(truth.table.shape)

    def log_p(self, i):
        """Return (N, V) log p* at the positions of chunk i, on the CPU."""
        return self.truth.table[self.chunks[i]]

    def add(self, i, q):
        """Add the student's distributions q (N, V), on the CPU, at the positions of chunk i."""
        self.q_of_row.index_add_(0, self.chunks[i], q)

    def rules(self):
        """Return [Rule] of all rules that p* used, the rarest first."""
        visits = torch.cat(self.chunks).bincount(minlength=len(self.truth.table))
        return rule_masses(self.truth, self.q_of_row, visits, self.lines)


def rule_masses(truth, q_of_row, visits, lines):
    """Return [Rule] of all rules that p* used, the rarest first.

    truth: a Truth that has met the prefixes. q_of_row (rows, V): the sum of the model's next-word
    distributions over the visits (rows,) to each row of truth's table; lines: how many in the text.
    """
    p_uses = collections.Counter()
    q_uses = collections.Counter()
    for state, (row, _) in truth.known.items():
        if state is None or not visits[row]:
            continue
        opens_line = state is babytalk.LANGUAGE.start
        rules = rules_of_words(state)
        for word, p in zip(state.options.words, state.options.p):
            q = q_of_row[row, truth.token_of[babytalk.spelled(word, opens_line)]]
            for name, share in rules[word].items():
                p_uses[name] += float(visits[row]) * p * share
                q_uses[name] += float(q) * share
    names = sorted(p_uses, key=p_uses.get)
    classes = word_classes()
    return [Rule(name, name.split(": ")[-1].split(" ->")[0] in classes, p_uses[name] / lines,
                 q_uses[name] / lines) for name in names]


def dialect_shares(lines):
    """Return the shares of A and B among lines of the language, by p*(dialect | line).

    (nan, nan) if no line is in the language.
    """
    total = np.zeros(2)
    for line in lines:
        words = line.removesuffix("\n").split(" ")
        _, state = babytalk.LANGUAGE.read(words)
        ends = collections.Counter()
        for (dialect, (top, *_)), weight in state.derivations if state else ():
            if top == "\n":
                ends[dialect] += weight
        if ends:
            total += np.array([ends["A"], ends["B"]]) / ends.total()
    return tuple(total / total.sum()) if total.sum() else (np.nan, np.nan)
