"""babytalk: p* against two derivations of its sentences written here, and what is read off it."""
import collections
import functools
import itertools
import math
import random
import re

import numpy as np
import pytest
import torch

import babytalk
from babytalk import DIALECTS, GRAMMAR, LANGUAGE
from bpe import Tokenizer, train_bpe
from onecoach.config import UserError
from runs import tokenizer_of

# Every rule of the grammar but those named here, and one word of each class: few enough sentences
# to write them all down. The words and determiners have two offices each: who, that, them.
CUT = {
    "NP0[n]": "-> DET[n] N[n]",
    "DET[sg]": "-> 6 the | A: 2 that | B: 2 dat",
    "DET[pl]": "-> 6 the | B: 2 them",
    "HIM": ": them it",
    "WHAT": ": who what",
}


def cut_rules():
    rules = re.sub(r"\n\s+", " ", GRAMMAR.strip()).split("\n")
    rules = [rule.split(maxsplit=1) for rule in rules]
    assert set(CUT) < {name for name, _ in rules}
    text = "\n".join(f"{name} {CUT.get(name, right)}" for name, right in rules)
    return babytalk.compile_grammar(text, words_per_class=1)


def derivations(table, symbol="S", known=None):
    """[(probability, words)] of every derivation of a symbol: the rules multiplied out."""
    known = {} if known is None else known
    if symbol not in table:
        return [(1.0, (symbol,))]
    if symbol not in known:
        known[symbol] = []
        for p, body in table[symbol]:
            for parts in itertools.product(*(derivations(table, part, known) for part in body)):
                probability = p * math.prod(q for q, _ in parts)
                known[symbol].append((probability, sum((words for _, words in parts), ())))
    return known[symbol]


@pytest.fixture(scope="module")
def cut():
    """(language, {line: {dialect: probabilities of its derivations}}) of the grammar cut down."""
    rules = cut_rules()
    lines = collections.defaultdict(lambda: collections.defaultdict(list))
    for dialect in DIALECTS:
        for p, words in derivations(rules[dialect]):
            lines[" ".join(words) + "\n"][dialect].append(p)
    return babytalk.Language(rules), dict(lines)


@pytest.fixture(scope="module")
def truth_of_cut(cut):
    """{line: p*}: derivations and dialects added up."""
    return {line: sum(DIALECTS[dialect] * sum(ps) for dialect, ps in its.items())
            for line, its in cut[1].items()}


def parses(table, words):
    """The probabilities of all derivations of these words, whatever the size of the grammar."""
    @functools.cache
    def of(symbol, start):
        if symbol not in table:
            return [(1.0, start + 1)] if words[start:start + 1] == [symbol] else []
        found = []
        for p, body in table[symbol]:
            partial = [(p, start)]
            for part in body:
                partial = [(p * q, end) for p, at in partial for q, end in of(part, at)]
            found += partial
        return found
    return [p for p, end in of("S", 0) if end == len(words)]


def parses_by_dialect(line):
    return {dialect: parses(LANGUAGE.rules[dialect], line.split()) for dialect in DIALECTS}


@pytest.fixture(scope="module")
def lines():
    return babytalk.sample(20_000, 7)


@pytest.fixture(scope="module")
def tokenizer(lines):
    return tokenizer_of("".join(lines[:2000]) + "\n".join(babytalk.forms()))


# ---------------------------------------------------------------- the grammar

def test_rules_of_a_small_grammar_by_hand():
    rules = babytalk.compile_grammar("""
S      -> 3 X[n] V[n] | A: 2 hey N[m]
       | B: hey | hm
X[n]   -> N[n] | 2.5 NAME[g]
N      : dog/dogs cat/cats
V      : runs/run
NAME   : tom/anna
""")
    names = [(1.25 / 3.5, ("NAME[m]",)), (1.25 / 3.5, ("NAME[f]",))]
    both = {
        "X[sg]": [(1 / 3.5, ("N[sg]",)), *names],
        "X[pl]": [(1 / 3.5, ("N[pl]",)), *names],
        "N[sg]": [(5 / 9, ("dog",)), (4 / 9, ("cat",))],  # 1/4 : 1/5
        "N[pl]": [(5 / 9, ("dogs",)), (4 / 9, ("cats",))],
        "V[sg]": [(1, ("runs",))],
        "V[pl]": [(1, ("run",))],
        "NAME[m]": [(1, ("tom",))],
        "NAME[f]": [(1, ("anna",))],
    }
    agree = [("X[sg]", "V[sg]"), ("X[pl]", "V[pl]")]
    S = {
        "A": [(1.5 / 6, agree[0]), (1.5 / 6, agree[1]), (1 / 6, ("hey", "N[sg]")),
              (1 / 6, ("hey", "N[pl]")), (1 / 6, ("hm",))],
        "B": [(1.5 / 5, agree[0]), (1.5 / 5, agree[1]), (1 / 5, ("hey",)), (1 / 5, ("hm",))],
    }
    for dialect in DIALECTS:
        expected = both | {"S": S[dialect]}
        assert set(rules[dialect]) == set(expected)
        for symbol in expected:
            p, bodies = zip(*rules[dialect][symbol])
            expected_p, expected_bodies = zip(*expected[symbol])
            assert bodies == expected_bodies, symbol
            assert p == pytest.approx(expected_p), symbol


def rank(r, words):
    """Share of the word of this rank in a class of so many."""
    return 1 / (r + 4) / sum(1 / (k + 4) for k in range(words))


DAT_CAT = 8 / 13 * 8 / 18 * 5 / 9 * 2 / 14 * rank(1, 46)


@pytest.mark.parametrize("line, p", [
    ("tom sleeps\n", 15 / 102 * 3 / 13 / 2 * rank(0, 7) * 2 / 21 * rank(0, 18)),
    ("they will smile\n", 0.6 * 5 / 102 * 2 / 13 * 2 / 14 * rank(10, 18)),
    ("dat cat is happy\n", 0.4 * 15 / 102 * DAT_CAT * 2 / 21 * rank(3, 30)),
    ("who sees us\n", 12 / 102 * 3 / 10 * 8 / 21 * rank(0, 20) * 2 / 12 * rank(4, 6)),
])
def test_probabilities_counted_by_hand(line, p):
    assert babytalk.log_prob(line) == pytest.approx(math.log(p))


def test_every_symbol_sums_to_one_and_is_made_of_rules_and_words():
    """None contains itself: `lengths`, below, comes to an end."""
    for table in LANGUAGE.rules.values():
        for options in table.values():
            assert sum(p for p, _ in options) == pytest.approx(1) and min(options)[0] > 0
            parts = {part for _, body in options for part in body}
            assert all(part in table or re.fullmatch("[a-z]+", part) for part in parts)


def lengths(table, symbol="S", known=None):
    """P(a symbol derives k words) for k = 0, 1, ...: products of polynomials, no sentence."""
    known = {} if known is None else known
    if symbol not in table:
        return np.array([0, 1.0])
    if symbol not in known:
        terms = [p * functools.reduce(np.convolve, (lengths(table, part, known) for part in body))
                 for p, body in table[symbol]]
        longest = max(map(len, terms))
        known[symbol] = sum(np.pad(term, (0, longest - len(term))) for term in terms)
    return known[symbol]


@pytest.fixture(scope="module")
def lengths_of_lines():
    """P(a line has k words) for k = 0, 1, ...: the language from left to right to its end."""
    level = {LANGUAGE.start: 1.0}
    ended = []
    while level:
        below = collections.Counter()
        ended.append(0.0)
        for state, weight in level.items():
            words, p, _, states = state.options
            for word, q, after in zip(words, p, states):
                if word == "\n":
                    ended[-1] += weight * q
                else:
                    below[after] += weight * q
        level = below
        assert len(ended) < 100
    return np.array(ended)


def test_the_language_has_mass_one_and_lines_as_long_as_the_rules_say(lengths_of_lines):
    ended = lengths_of_lines
    expected = sum(weight * np.pad(lengths(LANGUAGE.rules[dialect]), (0, 40))[:40]
                   for dialect, weight in DIALECTS.items())
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    assert ended.sum() == pytest.approx(1, abs=1e-9)
    assert ended == pytest.approx(expected[:len(ended)], abs=1e-9)
    assert expected[len(ended):].sum() == 0
    assert babytalk.longest_line() == np.flatnonzero(ended).max() + 1 == 20  # the newline too


# ---------------------------------------------------------------- probabilities of lines

def test_all_sentences_of_the_grammar_cut_down(cut, truth_of_cut):
    language, sentences = cut
    assert 10_000 < len(sentences) < 200_000
    for dialect in DIALECTS:
        total = sum(p for line in sentences.values() for p in line[dialect])
        assert total == pytest.approx(1, abs=1e-9)
    assert sum(truth_of_cut.values()) == pytest.approx(1, abs=1e-9)
    log_p = [babytalk.log_prob(line, language) for line in truth_of_cut]
    assert log_p == pytest.approx([math.log(p) for p in truth_of_cut.values()], abs=1e-9)


def test_one_derivation_a_dialect(cut):
    _, sentences = cut
    assert all(len(ps) <= 1 for line in sentences.values() for ps in line.values())
    both = [line for line in sentences.values() if line["A"] and line["B"]]
    assert 100 < len(both) < len(sentences) - 100  # lines of both dialects, and lines of one
    assert any(line["A"][0] != pytest.approx(line["B"][0]) for line in both)


def test_probabilities_and_derivations_in_the_whole_grammar(lines):
    shared = 0
    for line in lines[:200]:
        found = parses_by_dialect(line)
        assert max(map(len, found.values())) == 1, line
        assert line.endswith("\n") and babytalk.contains(line)
        shared += all(found.values())
        p = sum(DIALECTS[dialect] * p for dialect, ps in found.items() for p in ps)
        assert babytalk.log_prob(line) == pytest.approx(math.log(p), abs=1e-9)
    assert 20 < shared < 180


# ---------------------------------------------------------------- next words

def test_next_words_are_shares_of_the_sentences_that_begin_so(cut, truth_of_cut, monkeypatch):
    monkeypatch.setattr(babytalk, "LANGUAGE", cut[0])
    after = collections.defaultdict(collections.Counter)
    for line, p in truth_of_cut.items():
        words = line.split()
        for i in range(len(words) + 1):
            space = " " * (0 < i < len(words))
            after[tuple(words[:i])][space + [*words, "\n"][i]] += p

    prefixes = [(), *random.Random(0).sample(sorted(after), 2000)]
    assert max(map(len, prefixes)) > 12
    for prefix in prefixes:
        whole = sum(after[prefix].values())
        expected = {word: p / whole for word, p in after[prefix].items()}
        assert babytalk.next_words(list(prefix)) == pytest.approx(expected, rel=1e-9)


def test_next_words_multiply_to_the_probability_of_the_line(lines):
    for line in lines[:200]:
        words = line.split()
        p = 1.0
        for i, form in enumerate([words[0], *(" " + word for word in words[1:]), "\n"]):
            options = babytalk.next_words(words[:i])
            assert sum(options.values()) == pytest.approx(1)
            p *= options[form]
        assert p == pytest.approx(math.exp(babytalk.log_prob(line)))


@pytest.mark.parametrize("prefix", [
    ["dogs"], [" the"], ["the", "the"], ["the", " dog"], ["the", ""], ["\n"], ["tom", "sleep"],
    ["tom", "sleeps", "\n"], ["tom", "sleeps", "\n", "tom"], ["tom", "will", "gonna"]])
def test_nothing_follows_a_wrong_prefix(prefix):
    assert babytalk.next_words(prefix) == {}


# ---------------------------------------------------------------- samples

def agree(counts, expected):
    """Pearson's chi-square within 4 sigma of its expectation.

    Both sum to the same, and every expected count is 5 or more.
    """
    counts, expected = np.array(counts), np.array(expected)
    assert min(expected) >= 5 and counts.sum() == pytest.approx(expected.sum())
    freedom = len(counts) - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    return abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


def merged(counts, expected, least=20):
    """Neighbours added up until each expected count is at least that."""
    groups = []
    group = np.zeros(2)
    # ties in any order but that of the counts
    for pair in sorted(zip(expected, counts), key=lambda pair: -pair[0]):
        group = group + pair
        if group[0] >= least:
            groups.append(group)
            group = np.zeros(2)
    groups[-1] = groups[-1] + group
    return [n for _, n in groups], [e for e, _ in groups]


def test_sentences_are_drawn_as_often_as_they_should(cut, truth_of_cut):
    n = 20_000
    drawn = collections.Counter(babytalk.sample(n, 11, cut[0]))
    assert set(drawn) <= set(truth_of_cut)
    counts, expected = merged([drawn[line] for line in truth_of_cut],
                              [n * p for p in truth_of_cut.values()])
    assert len(counts) > 300 and agree(counts, expected)


def test_first_words_and_lengths_are_drawn_as_often_as_they_should(lines, lengths_of_lines):
    drawn = collections.Counter(line.split()[0] for line in lines)
    first = babytalk.next_words([])
    assert set(drawn) <= set(first)
    assert agree(*merged([drawn[word] for word in first],
                         [len(lines) * p for p in first.values()]))
    drawn = np.bincount([len(line.split()) for line in lines], minlength=len(lengths_of_lines))
    assert agree(*merged(drawn, len(lines) * lengths_of_lines))


def test_a_seed_draws_the_same_lines_from_a_language_used_or_new():
    a, b, other = (babytalk.sample(200, seed) for seed in (1, 1, 2))
    assert a == b and len(set(a) & set(other)) < 100
    assert babytalk.sample(200, 1, babytalk.Language(babytalk.compile_grammar(GRAMMAR))) == a
    assert babytalk.sample(20, "1/0") == babytalk.sample(20, "1/0") != babytalk.sample(20, "1/1")


# ---------------------------------------------------------------- membership

@pytest.mark.parametrize("line", [
    "", "\n", " ", "tom", "the dog\n", "tom sleeps\n\n", "\ntom sleeps\n", "tom\nsleeps\n",
    "tom  sleeps\n", " tom sleeps\n", "tom sleeps \n", "tom sleeps \n\n", "tom\tsleeps\n",
    "Tom sleeps\n", "tom sleeps.\n", "tom sleeps\r\n", "sleeps tom\n", "tom sleeps tom sleeps\n"])
def test_what_is_no_line_of_the_language(line):
    assert not babytalk.contains(line) and babytalk.log_prob(line) == -math.inf
    assert babytalk.contains("tom sleeps\n")
    assert babytalk.log_prob("tom sleeps") == babytalk.log_prob("tom sleeps\n") < 0


@pytest.mark.parametrize("good, bad", [
    ("the dogs near the cat sleep", "the dogs near the cat sleeps"),
    ("the dog that the cats see sleeps", "the dog that the cats sees sleeps"),
    # dat and what are B's, that is A's
    ("the dog what the cats see sleeps", "dat dog that the cats see sleeps"),
    ("tom knows that the dogs sleep", "tom knows that the dogs sleeps"),
    ("tom knows dat dog sleeps", "tom knows that dat dog sleeps"),
    ("those dogs will sleep", "those dog will sleep"),
    ("them dogs gonna sleep", "them dogs will sleep"),
    ("tom sees them", "tom sees they"),
    ("does the dog sleep", "does the dog sleeps"),
    ("do the dog sleep", "do dat dog sleeps"),
    ("what does tom see", "what does tom see the cat"),
    ("the dogs do not sleep", "the dogs not sleep"),
    ("anna sees herself", "anna sees himself"),
    ("tom that sees the girls sees himself", "tom that sees the girls sees themselves"),
    ("no dog ever sleeps", "the dog ever sleeps"),
    ("there are two dogs near a cat", "there is two dogs near a cat"),
    ("please give the cat to me", "please give me the cat"),
    ("give me the cat please", "give the cat to me please"),
    ("we sleep too", "we sleep too as well"),
])
def test_good_and_bad_sentences_by_hand(good, bad):
    assert babytalk.contains(good) and not babytalk.contains(bad)


def test_damaged_sentences_are_in_exactly_when_they_are_among_all_sentences(cut, truth_of_cut):
    rng = random.Random(0)
    seen = collections.Counter()
    vocabulary = sorted({word for line in truth_of_cut for word in line.split()})

    def damaged(words):
        i, j = rng.randrange(len(words)), rng.randrange(len(words))
        yield "cut", words[:i]
        yield "dropped", words[:i] + words[i + 1:]
        yield "replaced", words[:i] + [rng.choice(vocabulary)] + words[i + 1:]
        exchanged = list(words)
        exchanged[i], exchanged[j] = words[j], words[i]
        yield "exchanged", exchanged
        yield "doubled", words[:i] + words[i:i + 1] + words[i:]

    for line in rng.sample(sorted(truth_of_cut), 1500):
        for kind, words in damaged(line.split()):
            line = " ".join(words) + "\n"
            seen[kind, line in truth_of_cut] += 1
            inside = babytalk.log_prob(line, cut[0]) > -math.inf
            assert inside == (line in truth_of_cut), line
    for kind in ("cut", "dropped", "replaced", "exchanged", "doubled"):
        assert seen[kind, False] > 100
    assert sum(n for (_, inside), n in seen.items() if inside) > 300


# ---------------------------------------------------------------- minimal pairs

PAIRS = 25


@pytest.fixture(scope="module")
def pairs():
    return babytalk.minimal_pairs(PAIRS, 3)


@pytest.fixture(scope="module")
def many_pairs():
    return babytalk.minimal_pairs(150, 5)


def test_pairs_have_the_form_of_blimp(pairs):
    keys = {"sentence_good", "sentence_bad", "UID", "field", "linguistics_term", "pair_id"}
    assert all(set(row) == keys for row in pairs)
    paradigms = collections.defaultdict(list)
    for row in pairs:
        paradigms[row["UID"]].append(row)
    assert len(paradigms) >= 8 and babytalk.minimal_pairs(PAIRS, 3) == pairs
    for rows in paradigms.values():
        assert [row["pair_id"] for row in rows] == list(range(PAIRS))
        assert len({row["sentence_good"] for row in rows}) == PAIRS
        assert len({(row["field"], row["linguistics_term"]) for row in rows}) == 1
    fields = {row["field"] for row in pairs}
    assert fields <= {"morphology", "syntax", "semantics", "syntax_semantics"}  # BLiMP's four
    assert len(fields) > 1


def test_the_good_one_is_in_the_language_and_the_bad_one_in_no_dialect(pairs):
    for row in pairs:
        good, bad = row["sentence_good"], row["sentence_bad"]
        assert good == " ".join(good.split()) and bad == " ".join(bad.split())
        assert any(parses_by_dialect(good).values()) and babytalk.contains(good), row
        assert not any(parses_by_dialect(bad).values()) and not babytalk.contains(bad), row


def test_a_change_that_leaves_a_sentence_of_the_language_is_no_pair(monkeypatch):
    # the first of them is a sentence
    changes = {2: ["tom", "sleeps"], 3: ["sleeps", "tom"]}
    pair = "syntax", "order", lambda words: changes.get(len(words))
    monkeypatch.setattr(babytalk, "PAIRS", {"some": pair})
    rows = babytalk.minimal_pairs(20, 0)
    assert [row["sentence_bad"] for row in rows] == ["sleeps tom"] * 20
    assert {len(row["sentence_good"].split()) for row in rows} == {3}


CLASSES = collections.defaultdict(set)  # word -> the classes that it is in, without their numbers
for TABLE in LANGUAGE.rules.values():
    for SYMBOL, OPTIONS in TABLE.items():
        for _, (FIRST, *REST) in OPTIONS:
            if not REST and FIRST not in TABLE:
                CLASSES[FIRST].add(SYMBOL.split("[")[0])
VERBS = {"VI", "VT", "VD", "BE", "THINK"}


def is_a(word, *classes):
    return not CLASSES[word].isdisjoint(classes)


# UID -> whether the first word that differs stands where it should: of it and the words before it
WHAT_DIFFERS = {
    "subject_verb_agreement": lambda word, before: (
        is_a(word, *VERBS) and is_a(before[-1], "N", "NAME", "HE", "SUBJ")),
    "agreement_across_phrase": lambda word, before: (
        is_a(word, *VERBS) and is_a(before[-1], "N") and any(is_a(w, "PREP") for w in before)),
    "agreement_across_clause": lambda word, before: (
        is_a(word, *VERBS) and any(is_a(w, "REL") for w in before)),
    "determiner_noun_agreement": lambda word, before: is_a(word, "N") and is_a(before[-1], "DET"),
    "reflexive_gender": lambda word, before: word in ("himself", "herself"),
    "reflexive_number": lambda word, before: word in ("itself", "themselves"),
    "pronoun_case": lambda word, before: is_a(word, "HE", "HIM", "SUBJ"),
    "question_verb_form": lambda word, before: (
        is_a(word, *VERBS) and (is_a(before[0], "DO", "WHAT", "WHERE") or before[0] == "can")),
    "negation_verb_form": lambda word, before: is_a(word, *VERBS) and "not" in before,
    "npi_licensing": lambda word, before: word == "no" and not before,
    "filler_gap": lambda word, before: is_a(before[0], "WHAT", "WHERE") and not word,
    "transitivity": lambda word, before: is_a(before[-1], "VT") and word,
}


@pytest.mark.parametrize("uid", babytalk.PAIRS)
def test_pairs_differ_in_what_their_paradigm_is_about(uid, many_pairs):
    """The change is a word, or two at the end, and stands where the paradigm's name says."""
    for row in [row for row in many_pairs if row["UID"] == uid][:100]:
        good, bad = row["sentence_good"].split(), row["sentence_bad"].split()
        differ = [k for k, (a, b) in enumerate(zip(good, bad)) if a != b]
        i = differ[0] if differ else min(len(good), len(bad))
        assert len(bad) - len(good) == {"filler_gap": 2, "transitivity": -1}.get(uid, 0)
        assert good[i + 1:] == bad[i + 1:] or uid == "filler_gap"
        before = [word for word in good[:i] if word != "never"]
        assert WHAT_DIFFERS[uid]("".join(good[i:i + 1]), before), row


# ---------------------------------------------------------------- tokens

def test_every_form_is_one_token_and_a_line_is_its_forms(tokenizer, lines):
    ids = [tokenizer.encode(form) for form in babytalk.forms()]
    assert all(len(i) == 1 for i in ids) and len({i for i, in ids}) == len(ids)
    for line in lines[-1000:]:  # the tokenizer has not seen these
        words = line.split()
        forms = [words[0], *(" " + word for word in words[1:]), "\n"]
        assert tokenizer.encode(line) == [tokenizer.encode(form)[0] for form in forms]
    joined = tokenizer.encode("".join(lines[-100:]))  # at the start and after a newline alike
    assert joined == sum(map(tokenizer.encode, lines[-100:]), [])


# ---------------------------------------------------------------- the truth as a teacher

def expected_of(tokenizer, ids):
    """{token: p*} after each position of one block, {} where it is not defined.

    Decoded and asked word by word.
    """
    words, out = None, []
    for token in ids:
        text = "" if token < 3 else tokenizer.decode([token])
        if token == tokenizer.bos_id or text == "\n":
            words = []
        elif words is not None and text.startswith(" ") == bool(words):
            words = words + [text.removeprefix(" ")]
        elif words is not None:  # a line's first word has no space before it, all others have
            words = ["not a word"]
        options = {} if words is None else babytalk.next_words(words)
        out.append({tokenizer.encode(form)[0]: p for form, p in options.items()})
    return out


def blocks(tokenizer, lines, B, T, seed=0):
    """(B, T) ids of lines after <s> or "\\n", from the middle of a line on.

    In every other block some tokens are wrong.
    """
    rng = random.Random(seed)
    rows = []
    for b in range(B):
        ids = []
        while len(ids) < 2 * T:
            ids += [tokenizer.bos_id] * (rng.random() < 0.5) + tokenizer.encode(rng.choice(lines))
        start = rng.randrange(T)
        rows.append([rng.randrange(tokenizer.vocab_size) if b % 2 and rng.random() < 0.1 else i
                     for i in ids[start:start + T]])
    return torch.tensor(rows)


def test_logits_are_the_logs_of_the_next_words_and_defined_where_there_are_some(tokenizer, lines):
    truth = babytalk.Truth(tokenizer)
    ids = blocks(tokenizer, lines, B=12, T=60)
    for _ in range(2):  # the second time the rows of all states are known
        logits, defined = truth.logits(ids)
        assert logits.shape == (12, 60, tokenizer.vocab_size) and logits.dtype == torch.float32
        wanted = torch.full(logits.shape, -100.0)
        where = torch.zeros(ids.shape, dtype=torch.bool)
        for b, row in enumerate(ids.tolist()):
            for t, options in enumerate(expected_of(tokenizer, row)):
                where[b, t] = bool(options)
                for token, p in options.items():
                    wanted[b, t, token] = math.log(p)
        assert torch.equal(defined, where) and 100 < where.sum() < where.numel() - 100
        torch.testing.assert_close(logits[where], wanted[where], atol=1e-5, rtol=1e-6)
        assert torch.equal(logits[where] == -100, wanted[where] == -100)
        sums = logits.exp().sum(-1)[where]
        torch.testing.assert_close(sums, torch.ones(where.sum()), atol=1e-5, rtol=0)


def test_where_the_truth_is_defined_by_hand(tokenizer):
    truth, encode = babytalk.Truth(tokenizer), tokenizer.encode
    ids = [*encode(" dog sleeps\n"), *encode("tom sleep now\n"), *encode("tom sleeps\n"),
           1, *encode("tom"), 2, *encode(" sleeps\n"), *encode(" tom sleeps"), 1, *encode("a")]
    expected = [0, 0, 1,  # no line has started before the first newline
                1, 0, 0, 1,  # "tom sleep": wrong, until the next line
                1, 1, 1,
                1, 1, 0, 0, 1,  # <s> tom </s> sleeps
                0, 0, 1, 1]  # a first word after a space is none
    assert truth.logits(torch.tensor([ids]))[1][0].int().tolist() == expected


def test_as_a_teacher_it_gives_rows_of_its_logits(tokenizer, lines):
    """A function of slices and of index tensors over the flattened positions, finite everywhere."""
    x = blocks(tokenizer, lines, B=6, T=40)
    logits, defined = babytalk.Truth(tokenizer).logits(x)
    logits, defined = logits.flatten(0, 1), defined.flatten()
    truth = babytalk.Truth(tokenizer)  # its table is empty still
    teacher = truth(x)
    truth(blocks(tokenizer, lines, B=6, T=40, seed=1))  # the table grows; what was given stays
    index = torch.randperm(240, generator=torch.Generator().manual_seed(0))[:70]
    for rows in (slice(0, 240), slice(100, 164), index, slice(8, 8)):
        some = teacher(rows)
        known = defined[rows]
        assert some.shape == logits[rows].shape and some.dtype == torch.float32
        assert torch.equal(some[known], logits[rows][known]) and some.isfinite().all()
    assert 50 < defined.sum() < 230


def test_labels_count_where_the_truth_is_defined(tokenizer, lines):
    truth = babytalk.Truth(tokenizer)
    ids = blocks(tokenizer, lines, B=6, T=41)
    x, y = ids[:, :-1], ids[:, 1:].clone()
    y[y == tokenizer.bos_id] = -100
    defined = truth.logits(x)[1]
    labels = truth.labels(x, y)
    assert torch.equal(labels[defined], y[defined]) and (labels[~defined] == -100).all()
    assert (~defined & (y != -100)).sum() > 10 and (y != -100).any()  # y itself stays as it was


def test_a_stepper_says_what_logits_say_and_reads_each_token_once(tokenizer, lines, monkeypatch):
    x = blocks(tokenizer, lines, B=8, T=50)
    truth = babytalk.Truth(tokenizer)
    logits, defined = truth.logits(x)
    step = truth.stepper(8, 50)
    read = []
    walk = truth.walk
    monkeypatch.setattr(truth, "walk", lambda ids, ahead: read.append(ids) or walk(ids, ahead))
    cuts = [0, 7, 8, 9, 9 + 20, 48, 49, 50]  # a prompt, single tokens, several at once
    for start, stop in zip(cuts, cuts[1:]):
        z, known = step(x[:, start:stop])
        assert known.dtype == torch.bool and torch.equal(known, defined[:, stop - 1])
        assert torch.equal(z[known], logits[:, stop - 1][known]) and z.isfinite().all()
    assert torch.equal(torch.cat(read, 1), x)


def test_two_steppers_do_not_share_what_they_have_read(tokenizer):
    truth = babytalk.Truth(tokenizer)
    tom, sleeps = (torch.tensor([tokenizer.encode(form)]) for form in ("tom", " sleeps"))
    first, second = truth.stepper(1, 8), truth.stepper(1, 8)
    assert first(torch.tensor([[tokenizer.bos_id]]))[1].item()
    assert not second(tom)[1].item()  # no line has started there
    assert first(tom)[1].item() and first(sleeps)[1].item()


@pytest.mark.parametrize("form", ["every", " grumpy", " as"])
def test_a_tokenizer_that_splits_one_word_is_refused(form):
    words = [f for f in babytalk.forms() if f != form]
    with pytest.raises(UserError, match="vocab_size = 0") as e:
        babytalk.Truth(Tokenizer(train_bpe(dict.fromkeys(words, 1))))
    assert repr(form) in str(e.value) and "\n" not in str(e.value)
    babytalk.Truth(Tokenizer(train_bpe(dict.fromkeys(words + [form], 1))))
