"""How much of a model's next-word mass each rule of babytalk's grammar has, and how much of p*'s.

After a prefix of the language each next word has its derivations, and these use rules:
p*(rule | prefix, word) is known. So q(word | prefix) tells how often a model would use each rule
there, and no sample is drawn. A rule that q hardly uses is a lost mode with a name.
"""
import collections
import functools
import re

import numpy as np

import babytalk

# name: "A: TOO -> too", a dialect in front if the other has no such rule.
# p, q: uses per line, under p* and under the model
Rule = collections.namedtuple("Rule", "name p q")


class Truth(babytalk.Truth):
    """babytalk's truth as the teacher that a run names "truth": ids -> log p*, zeros kept."""

    def forward(self, ids):
        return self.logits(ids)[0]


@functools.cache
def rule_names():
    """Return {(dialect, symbol, body): the rule's name}, without features like number and gender.

    The readings of a rule for several features have the same name.
    """
    names = {(dialect, symbol, body): re.sub(r"\[\w+\]", "", f"{symbol} -> {' '.join(body)}")
             for dialect, table in babytalk.LANGUAGE.rules.items()
             for symbol, options in table.items() for _, body in options}
    dialects = collections.defaultdict(set)
    for (dialect, *_), name in names.items():
        dialects[name].add(dialect)
    for key, name in names.items():
        if len(dialects[name]) == 1:
            names[key] = f"{key[0]}: {name}"
    return names


@functools.cache
def expansions(dialect, symbol):
    """Return [(first word, probability, names of the rules on the way)] of a symbol."""
    rules = babytalk.LANGUAGE.rules[dialect]
    if symbol not in rules:
        return [(symbol, 1.0, ())]
    return [(word, p * q, (rule_names()[dialect, symbol, body], *names))
            for p, body in rules[symbol]
            for word, q, names in expansions(dialect, body[0])]


def rule_uses(truth, q_of_row, visits, lines):
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
        n = visits[row].item()
        p = dict(zip(state.options.words, state.options.p))
        q = {word: q_of_row[row, truth.token_of[babytalk.spelled(word, opens_line)]].item()
             for word in p}
        for (dialect, (top, *_)), weight in state.derivations:
            for word, p_word, names in expansions(dialect, top):
                joint = weight * p_word  # p*(word, by these rules | prefix)
                for name in names:
                    p_uses[name] += n * joint
                    q_uses[name] += q[word] * joint / p[word]
    return [Rule(name, p_uses[name] / lines, q_uses[name] / lines)
            for name in sorted(p_uses, key=p_uses.get)]


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
