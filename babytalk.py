"""babytalk, the embedded corpus: a small grammar of child-directed English whose truth p* is known exactly.

    sample, log_prob, contains, next_words, entropy_floor, minimal_pairs     of lines of text
    Truth                                                                   p* as a teacher, over a tokenizer's tokens

A line is an independent sentence of lower-case words, ending in "\\n". Its dialect, A or B, is drawn once (60:40); the
dialects are modes that compete in the same contexts, and p* is their sum.
"""
import collections
import itertools
import math
import random
import re

import numpy as np
import torch

from config import UserError

# NAME -> weight symbols | weight symbols ...   (weight 1 may be left out; A: or B: in front: only in that dialect)
# [n], [m] stand for sg or pl, [g] for m or f: on the left, one rule each; on the right alone, either with equal weight.
# NAME : words, the frequent ones first (weight 1 / (rank + 4)); a/b are the sg and pl (or m and f) forms of one word.
GRAMMAR = """
S         -> 30 SUBJ[n] VP[n] | 6 SUBJ[n] VP[n] TOO | 10 NEGATION | 10 FUTURE | 12 YESNO | 12 WH | 8 REFLEXIVE | 6 NPI
           | 4 there BE[n] NP0[n] PP | 4 COMMAND
TOO       -> A: too | B: as well
NEGATION  -> A: SUBJ[n] DO[n] not VB | B: SUBJ[n] do not VB
FUTURE    -> SUBJ[n] WILL VB
WILL      -> A: will | B: gonna
YESNO     -> 2 can SUBJ[n] VB | A: 4 DO[n] SUBJ[n] VB | B: 4 do SUBJ[n] VB
WH        -> 3 who VP[sg] | A: 4 WHAT DO[n] SUBJ[n] VT[pl] | A: 3 WHERE DO[n] SUBJ[n] VI[pl]
           | B: 4 WHAT do SUBJ[n] VT[pl] | B: 3 WHERE do SUBJ[n] VI[pl]
REFLEXIVE -> 3 NAME[g] VT[sg] SELF[g] | 2 HE[g] VT[sg] SELF[g] | 2 NP0[sg] VT[sg] itself | 3 NP0[pl] VT[pl] themselves
           | 2 NAME[g] REL VT[sg] NP0[m] VT[sg] SELF[g]
NPI       -> 2 no N[sg] ever VI[sg] | 2 no N[sg] ever VT[sg] OBJ | 3 SUBJ[n] never VP[n]
COMMAND   -> A: please VB | B: VB please
SUBJ[sg]  -> 8 NP[sg] | 3 NAME[g] | 2 HE[g]
SUBJ[pl]  -> 9 NP[pl] | 2 they | we | you
OBJ       -> 8 NP[m] | 2 NAME[g] | 2 HIM
NP[n]     -> 8 NP0[n] | 4 NP0[n] PP | 6 NP0[n] RC[n]
NP0[n]    -> 5 DET[n] N[n] | 4 DET[n] ADJ N[n]
PP        -> PREP NP0[m]
RC[n]     -> REL VI[n] | 3 REL VT[n] NP0[m] | 2 REL NP0[m] VT[m]
REL       -> A: that | B: what
VP[n]     -> 2 VI[n] | 2 VI[n] ADV | 3 VI[n] PP | 8 VT[n] OBJ | 2 BE[n] ADJ | A: 2 VD[n] NP0[m] to TO | B: 2 VD[n] TO NP0[m]
           | A: 2 THINK[n] that CLAUSE | B: 2 THINK[n] CLAUSE
CLAUSE    -> TO0[m] VI[m] | TO0[m] VT[m] NP0[n] | TO0[m] BE[m] ADJ
TO        -> 3 NP0[m] | 2 NAME[g] | HIM
TO0[n]    -> NP0[n]
VB        -> 2 VI[pl] | 2 VI[pl] ADV | 2 VI[pl] PP | 6 VT[pl] OBJ | A: 2 VD[pl] NP0[m] to TO | B: 2 VD[pl] TO NP0[m]
DET[sg]   -> 6 the | 4 a | this | A: 2 that | B: 2 dat | every
DET[pl]   -> 6 the | 3 some | these | A: 2 those | B: 2 them | two | many
DO        : does/do
BE        : is/are
HE        : he/she
SELF      : himself/herself
HIM       : him her it them us me
WHAT      : what who
WHERE     : where when why
NAME      : tom/anna ben/mia sam/lucy max/emma jack/rosie daddy/mummy grandpa/grandma
N         : dog/dogs cat/cats baby/babies boy/boys girl/girls bear/bears bird/birds rabbit/rabbits duck/ducks horse/horses
            cow/cows pig/pigs mouse/mice child/children friend/friends teacher/teachers doctor/doctors sister/sisters
            brother/brothers lion/lions tiger/tigers monkey/monkeys frog/frogs sheepdog/sheepdogs puppy/puppies
            kitten/kittens farmer/farmers king/kings queen/queens goose/geese chicken/chickens spider/spiders bee/bees
            fox/foxes wolf/wolves donkey/donkeys goat/goats lamb/lambs penguin/penguins turtle/turtles dragon/dragons
            fairy/fairies giant/giants pirate/pirates robot/robots clown/clowns
VI        : sleeps/sleep runs/run laughs/laugh cries/cry jumps/jump sings/sing plays/play waits/wait dances/dance
            falls/fall smiles/smile swims/swim sneezes/sneeze hides/hide talks/talk works/work wins/win yawns/yawn
VT        : sees/see likes/like wants/want loves/love finds/find chases/chase hugs/hug feeds/feed hears/hear kisses/kiss
            helps/help washes/wash follows/follow catches/catch tickles/tickle scares/scare carries/carry pushes/push
            misses/miss touches/touch
VD        : gives/give shows/show brings/bring sends/send throws/throw
THINK     : thinks/think knows/know says/say hopes/hope
ADJ       : big little good happy funny red nice hungry sad tired blue new old clever soft brave yellow noisy pretty silly
            tiny green fluffy sleepy grumpy shiny gentle brown warm proud
ADV       : now again today here loudly quickly outside together slowly alone
PREP      : near behind with beside under by
"""
DIALECTS = {"A": 0.6, "B": 0.4}
FEATURES = {"n": ("sg", "pl"), "m": ("sg", "pl"), "g": ("m", "f")}


def fill(text, values):
    """Put values {variable: feature} into text: NP[n] -> NP[sg]."""
    return re.sub(r"\[([nmg])\]", lambda match: f"[{values.get(match[1], match[1])}]", text)


def settings(text, known=()):
    """All values of the variables in text that are not yet known: [{"n": "sg"}, {"n": "pl"}]."""
    names = sorted(set(re.findall(r"\[([nmg])\]", text)) - set(known))
    return [dict(zip(names, v)) for v in itertools.product(*(FEATURES[name] for name in names))]


def compile_grammar(text, words_a_class=None):
    """Grammar text -> rules {dialect: {symbol: [(probability, (symbol, ...)), ...]}}; words are symbols without a rule.

    words_a_class: keep only that many words of each class (for tests that enumerate the language).
    """
    rules = {d: collections.defaultdict(list) for d in DIALECTS}
    for line in re.sub(r"\n\s+", " ", text.strip()).split("\n"):
        if " : " in line:
            name, words = line.split(" : ")
            for rank, word in enumerate(words.split()[:words_a_class]):
                forms = word.split("/")
                features = {1: [""], 2: ["[m]", "[f]"] if name.strip() in ("HE", "SELF", "NAME") else ["[sg]", "[pl]"]}[len(forms)]
                for d, (form, feature) in itertools.product(DIALECTS, zip(forms, features)):
                    rules[d][name.strip() + feature].append((1 / (rank + 4), (form,)))
            continue
        left, right = (part.strip() for part in line.split("->"))
        for values, alternative in itertools.product(settings(left), right.split("|")):
            dialect, weight, body = re.fullmatch(r"\s*(?:([AB]):)?\s*([\d.]+)?\s*(.*?)\s*", alternative).groups()
            ways = settings(fill(body, values))
            for d, way in itertools.product([dialect] if dialect else DIALECTS, ways):
                rules[d][fill(left, values)].append((float(weight or 1) / len(ways), tuple(fill(fill(body, values), way).split())))
    for table in rules.values():
        for symbol, options in table.items():
            total = sum(w for w, _ in options)
            table[symbol] = [(w / total, body) for w, body in options]
    return {d: dict(table) for d, table in rules.items()}


class State:
    """What is known after a prefix: the weights of the possible derivation stacks of both dialects, and from it the next
    words, their probabilities (sum 1), and the state after each. END is "\\n"."""

    def __init__(self, language, items):
        self.language, self.items, self.found = language, items, None

    def expand(self):
        """-> (words, probabilities, {word: next State}); computed once."""
        if self.found is None:
            mass, after = collections.Counter(), collections.defaultdict(collections.Counter)
            for (d, stack), weight in self.items:
                for word, rest, p in self.language.first_words(d, stack):
                    mass[word] += weight * p
                    after[word][d, rest] += weight * p
            words = sorted(mass)
            nexts = {w: self.language.state({k: v / mass[w] for k, v in after[w].items()}) if w != "\n" else None for w in words}
            self.found = words, [mass[w] for w in words], nexts
            self.cumulative = list(itertools.accumulate(self.found[1]))
        return self.found


class Language:
    """p* of a compiled grammar, read from left to right. Stacks are tuples of symbols still to be derived."""

    def __init__(self, rules):
        self.rules, self.states, self.first = rules, {}, {}
        self.start = self.state({(d, ("S",)): w for d, w in DIALECTS.items()})

    def state(self, weights):
        """The State of {(dialect, stack): probability}: prefixes that leave the same weights share one."""
        key = frozenset((k, round(v, 12)) for k, v in weights.items())
        if key not in self.states:
            self.states[key] = State(self, sorted(weights.items()))
        return self.states[key]

    def first_words(self, d, stack):
        """[(word, stack after it, probability)] of a stack in one dialect, leftmost derivations; memoised."""
        if not stack:
            return [("\n", (), 1.0)]
        top, rest = stack[0], stack[1:]
        if top not in self.rules[d]:
            return [(top, rest, 1.0)]
        if (d, top) not in self.first:
            self.first[d, top] = [(word, after, p * q) for p, body in self.rules[d][top]
                                  for word, after, q in self.first_words(d, body)]
        return [(word, after + rest, p) for word, after, p in self.first[d, top]]

    def walk(self, words):
        """(log p* of the prefix `words`, State after it); (-inf, None) if no sentence begins so."""
        state, total = self.start, 0.0
        for word in words:
            if state is None:
                return -math.inf, None
            options, mass, nexts = state.expand()
            if word not in nexts:
                return -math.inf, None
            total += math.log(mass[options.index(word)])
            state = nexts[word]
        return total, state


LANGUAGE = Language(compile_grammar(GRAMMAR))
LEXICON = sorted({s for table in LANGUAGE.rules.values() for options in table.values() for _, body in options for s in body} -
                 {s for table in LANGUAGE.rules.values() for s in table})


def forms():
    """Every token of the language: words as they open a line, words after a space, and the newline."""
    return LANGUAGE.start.expand()[0] + [" " + w for w in LEXICON] + ["\n"]


def sample(n, seed, language=LANGUAGE):
    """n lines drawn from p*, each with its "\\n"; the same for the same seed."""
    rng, lines = random.Random(seed), []
    for _ in range(n):
        words, state = [], language.start
        while state is not None:
            options, mass, nexts = state.expand()
            draw, low, high = rng.random() * state.cumulative[-1], 0, len(options) - 1
            while low < high:  # bisection
                middle = (low + high) // 2
                low, high = (middle + 1, high) if state.cumulative[middle] < draw else (low, middle)
            words.append(options[low])
            state = nexts[options[low]]
        lines.append(" ".join(words[:-1]) + "\n")
    return lines


def log_prob(line, language=LANGUAGE):
    """log p*(line), nats, its "\\n" included; -inf if the line is not in the language."""
    line = line.removesuffix("\n")
    words = line.split(" ")
    if "" in words or "\n" in line:
        return -math.inf
    return language.walk(words + ["\n"])[0]


def contains(line):
    return log_prob(line) > -math.inf


def next_words(prefix):
    """Exact p*(next token | words of the line so far): {token text: probability}, "\\n" the end; {} for a wrong prefix."""
    _, state = LANGUAGE.walk(prefix)
    if state is None:
        return {}
    words, mass, _ = state.expand()
    return {w if w == "\n" or not prefix else " " + w: p for w, p in zip(words, mass)}


def entropy_floor(lines):
    """Nats a token (words and "\\n") below which no model's cross-entropy on these lines lies in expectation."""
    return -sum(map(log_prob, lines)) / sum(len(line.split()) + 1 for line in lines)


# ---------------------------------------------------------------- minimal pairs

def other_form(*classes):
    """word -> its form of the other number or gender, for all words of these classes."""
    rows = [line.split(" : ") for line in re.sub(r"\n\s+", " ", GRAMMAR.strip()).split("\n") if " : " in line]
    pairs = [w.split("/") for name, words in rows if name.strip() in classes for w in words.split()]
    return {a: b for x, y in pairs for a, b in ((x, y), (y, x))}


def swap_at(words, i, to):
    return words[:i] + [to] + words[i + 1:]


def flip_verb(words, between):
    """Give the first verb after the subject its other number; `between`: the words that part them must hold this one."""
    verbs, nouns = other_form("VI", "VT", "VD", "THINK", "BE"), other_form("N")
    rel, prep = {"that", "what"}, set("near behind with beside under by".split())
    heads = [i for i, w in enumerate(words) if w in nouns][:1]
    if not heads or {"who", "where", "when", "why", "can", "do", "does", "please", "not", "will", "gonna"} & set(words):
        return None
    if words[1] in rel:  # tom that sees the dog feeds ...: the first noun is not the subject
        return None
    finite = [i for i, w in enumerate(words) if w in verbs and i > heads[0]]
    marks = [w for w in words[heads[0]:] if w in rel | prep]
    if between == "none":
        return swap_at(words, finite[0], verbs[words[finite[0]]]) if finite[:1] == [heads[0] + 1] else None
    if words[heads[0] + 1:heads[0] + 2] != marks[:1] or not marks or (marks[0] in rel) != (between == "clause"):
        return None
    which = 1 if between == "clause" else 0  # the first verb is the clause's own
    return swap_at(words, finite[which], verbs[words[finite[which]]]) if len(finite) > which else None


def flip_noun(words):
    """Number of the noun after a determiner that says its number: these dogs / these dog."""
    nouns, says = other_form("N"), set("a this that every these those two many".split())
    at = [i for i in range(1, len(words)) if words[i] in nouns and words[i - 1] in says]
    return swap_at(words, at[0], nouns[words[at[0]]]) if at else None


def replace_first(choices, condition=lambda words: True):
    """A function that replaces the first word found in choices {word: other}, where condition(words) holds."""
    def change(words):
        at = [i for i, w in enumerate(words) if w in choices]
        return swap_at(words, at[0], choices[words[at[0]]]) if at and condition(words) else None
    return change


def inflect_after(*auxiliaries):
    """does the dog sleep / does the dog sleeps: after an auxiliary the verb has no ending."""
    def change(words):
        bare = {b: a for a, b in other_form("VI", "VT", "VD").items() if len(a) > len(b)}
        start = min((words.index(a) for a in auxiliaries if a in words), default=len(words))
        at = [i for i in range(start + 1, len(words)) if words[i] in bare]
        return swap_at(words, at[0], bare[words[at[0]]]) if len(at) == 1 else None
    return change


def fill_gap(words):
    """what does tom see / what does tom see the ball: the question word is the object already."""
    return words + ["the", "dog"] if words[0] in ("what", "who") and words[1] in ("do", "does") else None


PAIRS = {  # UID -> (field, linguistics term, words of a good sentence -> words of a bad one, or None)
    "subject_verb_agreement": ("morphology", "subject_verb_agreement", lambda w: flip_verb(w, "none")),
    "agreement_across_phrase": ("morphology", "subject_verb_agreement", lambda w: flip_verb(w, "phrase")),
    "agreement_across_clause": ("morphology", "subject_verb_agreement", lambda w: flip_verb(w, "clause")),
    "determiner_noun_agreement": ("morphology", "determiner_noun_agreement", flip_noun),
    "reflexive_gender": ("syntax_semantics", "binding", replace_first(other_form("SELF"))),
    "reflexive_number": ("syntax_semantics", "binding", replace_first({"themselves": "itself", "itself": "themselves"})),
    "pronoun_case": ("syntax", "case", replace_first({"him": "he", "us": "we", "he": "him", "they": "them", "we": "us"})),
    "question_verb_form": ("syntax", "do_support", lambda w: None if "not" in w else inflect_after("does", "do", "can")(w)),
    "negation_verb_form": ("syntax", "do_support", inflect_after("not")),
    "npi_licensing": ("semantics", "npi_licensing", replace_first({"no": "the"}, lambda w: "ever" in w)),
    "filler_gap": ("syntax", "filler_gap_dependency", fill_gap),
    "transitivity": ("syntax", "argument_structure",
                     lambda w: w[:-1] if w[-1] in ("him", "us", "me", "it") and w[-2] != "to" else None),
}


def minimal_pairs(n, seed):
    """n pairs of each paradigm in BLiMP's JSON form. The good sentence is in the language, the bad one in no dialect."""
    rows = []
    for uid, (field, term, change) in PAIRS.items():
        found, chunk = {}, 0
        while len(found) < n:
            for line in sample(1000, f"{seed}/{chunk}"):
                bad = change(line.split())
                if bad and len(found) < n and not contains(" ".join(bad)):
                    found.setdefault(line.strip(), " ".join(bad))
            chunk += 1
        rows += [{"sentence_good": good, "sentence_bad": bad, "field": field, "linguistics_term": term, "UID": uid, "pair_id": i}
                 for i, (good, bad) in enumerate(found.items())]
    return rows


# ---------------------------------------------------------------- the truth as a teacher

class Truth:
    """p* over a tokenizer's tokens. Raises UserError if a word is not one token."""

    FLOOR = -100.0  # of log p*: zeros are not masked, or reverse KL would not charge bad grammar

    def __init__(self, tokenizer):
        self.id_of = {}
        for form in forms():
            ids = tokenizer.encode(form)
            if len(ids) != 1:
                raise UserError(f"babytalk's truth needs one token a word, but {form!r} has {len(ids)}; use vocab_size = 0")
            self.id_of[form] = ids[0]
        self.V, self.bos, self.newline = tokenizer.vocab_size, tokenizer.bos_id, self.id_of["\n"]
        self.index, self.steps, self.rows = {}, [], torch.empty(0, self.V)  # state -> row; row -> {token: row after it}
        self.row_of(LANGUAGE.start)

    def row_of(self, state):
        """Row of a state in the table of log p*; a new state gets a new row."""
        if state in self.index:
            return self.index[state]
        row = self.index[state] = len(self.steps)
        if row >= len(self.rows):  # grow by doubling
            self.rows = torch.cat([self.rows, torch.full((max(64, row), self.V), self.FLOOR)])
        words, mass, nexts = state.expand()
        ids = [self.id_of[w if w == "\n" or row == 0 else " " + w] for w in words]
        self.rows[row, ids] = torch.tensor(np.log(mass), dtype=torch.float32)
        self.steps.append({i: nexts[w] for i, w in zip(ids, words)})
        return row

    def logits(self, ids):
        """ids (B, T) on the CPU -> log p*(next token | the line so far) (B, T, V), and (B, T) bool: where it is defined.

        It is not before a block's first line start, nor after a prefix that no sentence has, until the next line.
        """
        where = np.full(ids.shape, -1)
        for b, row in enumerate(ids.tolist()):
            at = -1
            for t, token in enumerate(row):
                if token == self.bos or token == self.newline:
                    at = 0
                elif at >= 0:
                    after = self.steps[at].get(token)
                    if after is not None and not isinstance(after, int):  # seen for the first time: remember its row
                        after = self.steps[at][token] = self.row_of(after)
                    at = -1 if after is None else after
                where[b, t] = at
        where = torch.from_numpy(where)
        return self.rows[where.clamp_min(0)], where >= 0
