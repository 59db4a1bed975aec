"""babytalk, the embedded corpus: a small grammar of child-directed English with a known truth p*.

    sample, log_prob, contains     lines of text, and log p* of a line
    next_words                     p* of the next word
    minimal_pairs                  right and wrong sentences, in BLiMP's form
    Truth                          p* as a teacher, over a tokenizer's tokens

A line is an independent sentence of lower-case words and ends in "\\n". Its dialect, A or B, is
drawn once (60:40). The dialects are modes that compete in the same contexts; p* is their sum.
"""
import collections
import functools
import itertools
import math
import random
import re

import numpy as np
import torch

from onecoach.config import UserError

# ---------------------------------------------------------------- the grammar

# NAME -> weight symbols | weight symbols ...      weight 1 may be left out; A: or B: in front: only
#                                                  in that dialect
# NAME  : words, the frequent ones first           weight 1 / (rank + 4); a/b are the sg and pl (or
#                                                  m and f) forms of one word
# [n] and [m] stand for sg or pl, [g] for m or f: on the left, one rule each; on the right alone,
# either with equal weight.
GRAMMAR = """
S         -> 30 SUBJ[n] VP[n] | 6 SUBJ[n] VP[n] TOO | 10 NEGATION | 10 FUTURE | 12 YESNO | 12 WH
           | 8 REFLEXIVE | 6 NPI | 4 there BE[n] NP0[n] PP | 4 COMMAND
TOO       -> A: too | B: as well
NEGATION  -> A: SUBJ[n] DO[n] not VB | B: SUBJ[n] do not VB
FUTURE    -> SUBJ[n] WILL VB
WILL      -> A: will | B: gonna
YESNO     -> 2 can SUBJ[n] VB | A: 4 DO[n] SUBJ[n] VB | B: 4 do SUBJ[n] VB
WH        -> 3 who VP[sg]
           | A: 4 WHAT DO[n] SUBJ[n] VT[pl] | A: 3 WHERE DO[n] SUBJ[n] VI[pl]
           | B: 4 WHAT do SUBJ[n] VT[pl] | B: 3 WHERE do SUBJ[n] VI[pl]
REFLEXIVE -> 3 NAME[g] VT[sg] SELF[g] | 2 HE[g] VT[sg] SELF[g]
           | 2 NP0[sg] VT[sg] itself | 3 NP0[pl] VT[pl] themselves
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
VP[n]     -> 2 VI[n] | 2 VI[n] ADV | 3 VI[n] PP | 8 VT[n] OBJ | 2 BE[n] ADJ
           | A: 2 VD[n] NP0[m] to TO | B: 2 VD[n] TO NP0[m]
           | A: 2 THINK[n] that CLAUSE | B: 2 THINK[n] CLAUSE
CLAUSE    -> TO0[m] VI[m] | TO0[m] VT[m] NP0[n] | TO0[m] BE[m] ADJ
TO        -> 3 NP0[m] | 2 NAME[g] | HIM
TO0[n]    -> NP0[n]
VB        -> 2 VI[pl] | 2 VI[pl] ADV | 2 VI[pl] PP | 6 VT[pl] OBJ
           | A: 2 VD[pl] NP0[m] to TO | B: 2 VD[pl] TO NP0[m]
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
N         : dog/dogs cat/cats baby/babies boy/boys girl/girls bear/bears bird/birds rabbit/rabbits
            duck/ducks horse/horses cow/cows pig/pigs mouse/mice child/children friend/friends
            teacher/teachers doctor/doctors sister/sisters brother/brothers lion/lions tiger/tigers
            monkey/monkeys frog/frogs sheepdog/sheepdogs puppy/puppies kitten/kittens farmer/farmers
            king/kings queen/queens goose/geese chicken/chickens spider/spiders bee/bees fox/foxes
            wolf/wolves donkey/donkeys goat/goats lamb/lambs penguin/penguins turtle/turtles
            dragon/dragons fairy/fairies giant/giants pirate/pirates robot/robots clown/clowns
VI        : sleeps/sleep runs/run laughs/laugh cries/cry jumps/jump sings/sing plays/play waits/wait
            dances/dance falls/fall smiles/smile swims/swim sneezes/sneeze hides/hide talks/talk
            works/work wins/win yawns/yawn
VT        : sees/see likes/like wants/want loves/love finds/find chases/chase hugs/hug feeds/feed
            hears/hear kisses/kiss helps/help washes/wash follows/follow catches/catch
            tickles/tickle scares/scare carries/carry pushes/push misses/miss touches/touch
VD        : gives/give shows/show brings/bring sends/send throws/throw
THINK     : thinks/think knows/know says/say hopes/hope
ADJ       : big little good happy funny red nice hungry sad tired blue new old clever soft brave
            yellow noisy pretty silly tiny green fluffy sleepy grumpy shiny gentle brown warm proud
ADV       : now again today here loudly quickly outside together slowly alone
PREP      : near behind with beside under by
"""
DIALECTS = {"A": 0.6, "B": 0.4}
FEATURES = {"n": ("sg", "pl"), "m": ("sg", "pl"), "g": ("m", "f")}
GENDERED = ("HE", "SELF", "NAME")  # classes whose a/b is m and f; of all others it is sg and pl


def readings(text):
    """Write out text for every choice of variables: NP[n] -> NP[sg], NP[pl]."""
    names = sorted(set(re.findall(r"\[([nmg])\]", text)))
    chosen = []
    for values in itertools.product(*(FEATURES[name] for name in names)):
        value_of = dict(zip(names, values))
        chosen.append(re.sub(r"\[([nmg])\]", lambda match: f"[{value_of[match[1]]}]", text))
    return chosen


def rewritings(left, right):
    """Yield (dialects, symbol, weight, body) of every alternative of a rule left -> right."""
    for alternative in right.split("|"):
        pattern = r"\s*(?:([AB]):)?\s*([\d.]+)?\s*(.*?)\s*"
        dialect, weight, body = re.fullmatch(pattern, alternative).groups()
        # each reading of the left side has this weight; readings of the right side share it
        ways = readings(f"{left} {body}")
        weight = float(weight or 1) * len(readings(left)) / len(ways)
        for way in ways:
            symbol, *parts = way.split()
            yield [dialect] if dialect else DIALECTS, symbol, weight, tuple(parts)


def compile_grammar(text, words_per_class=None):
    """Compile grammar text to rules {dialect: {symbol: [(probability, (symbol, ...)), ...]}}.

    Words are the symbols that have no rule. words_per_class: keep only so many words of each class
    (for tests that enumerate the language).
    """
    rules = {dialect: collections.defaultdict(list) for dialect in DIALECTS}
    # a line that begins with a space goes on with the rule above
    for line in re.sub(r"\n\s+", " ", text.strip()).split("\n"):
        left, kind, right = line.split(maxsplit=2)
        if kind == ":":
            if "/" in right:
                left += "[g]" if left in GENDERED else "[n]"
            expansions = [(DIALECTS, symbol, 1 / (rank + 4), (form,))
                          for rank, word in enumerate(right.split()[:words_per_class])
                          for symbol, form in zip(readings(left), word.split("/"), strict=True)]
        else:
            expansions = rewritings(left, right)
        for dialects, symbol, weight, body in expansions:
            for dialect in dialects:
                rules[dialect][symbol].append((weight, body))

    for table in rules.values():
        for symbol, options in table.items():
            total = sum(weight for weight, _ in options)
            table[symbol] = [(weight / total, body) for weight, body in options]
    return {dialect: dict(table) for dialect, table in rules.items()}


# ---------------------------------------------------------------- p*, from left to right

# the continuations of a prefix, in parallel lists: words, sorted; their probabilities, which sum to
# 1; the cumulative probabilities; the State after each word, None after "\n"
Options = collections.namedtuple("Options", "words p cumulative states")


class State:
    """A prefix and the possible derivations [((dialect, symbols to come), probability), ...]."""

    def __init__(self, language, derivations):
        self.language = language
        self.derivations = derivations

    @functools.cached_property
    def options(self):
        """The Options after this prefix."""
        mass = collections.Counter()
        after = collections.defaultdict(collections.Counter)
        for (dialect, (top, *rest)), weight in self.derivations:
            for word, symbols, p in self.language.first_words(dialect, top):
                mass[word] += weight * p
                after[word][dialect, (*symbols, *rest)] += weight * p

        # each word's own derivations, given that it is the next
        words = sorted(mass)
        p = [mass[word] for word in words]
        states = []
        for word in words:
            given = {key: weight / mass[word] for key, weight in after[word].items()}
            states.append(None if word == "\n" else self.language.state(given))
        return Options(words, p, list(itertools.accumulate(p)), states)


class Language:
    """p* of a compiled grammar, read from left to right."""

    def __init__(self, rules):
        self.rules = rules
        self.states = {}
        self.start = self.state({(d, ("S", "\n")): weight for d, weight in DIALECTS.items()})

    def state(self, weights):
        """Return the State of {(dialect, symbols): weight}; equal ones are one object."""
        key = frozenset((derivation, round(weight, 12)) for derivation, weight in weights.items())
        return self.states.setdefault(key, State(self, sorted(weights.items())))

    @functools.cache
    def first_words(self, dialect, symbol):
        """Return [(word, symbols after it, probability)] of a symbol's leftmost derivations."""
        if symbol not in self.rules[dialect]:
            return [(symbol, (), 1.0)]
        return [(word, after + body[1:], p * q)
                for p, body in self.rules[dialect][symbol]
                for word, after, q in self.first_words(dialect, body[0])]

    def read(self, words):
        """Return (log p* of the prefix `words`, State after it); (-inf, None) if there is none."""
        state = self.start
        total = 0.0
        for word in words:
            if state is None or word not in state.options.words:
                return -math.inf, None
            i = state.options.words.index(word)
            total += math.log(state.options.p[i])
            state = state.options.states[i]
        return total, state


def vocabulary(rules):
    """Return every word of a compiled grammar, sorted: the symbols without a rule."""
    bodies = [body for table in rules.values() for options in table.values() for _, body in options]
    return sorted(set(itertools.chain(*bodies)).difference(*rules.values()))


LANGUAGE = Language(compile_grammar(GRAMMAR))
LEXICON = vocabulary(LANGUAGE.rules)


def spelled(word, opens_line):
    """Spell a word in a line: a space before all but the first."""
    return word if opens_line or word == "\n" else " " + word


def forms():
    """Return every token of the language: words at a line's start, words after a space, "\\n"."""
    return [*LANGUAGE.start.options.words, *(" " + word for word in LEXICON), "\n"]


def sample(n, seed, language=LANGUAGE):
    """Draw n lines from p*, each with a "\\n"; the same for the same seed."""
    rng = random.Random(seed)
    lines = []
    for _ in range(n):
        words = []
        state = language.start
        while state:
            options = state.options
            i, = rng.choices(range(len(options.words)), cum_weights=options.cumulative)
            words.append(options.words[i])
            state = options.states[i]
        lines.append(" ".join(words[:-1]) + "\n")
    return lines


def log_prob(line, language=LANGUAGE):
    """Return log p*(line) in nats, "\\n" included; -inf if the line is not in the language."""
    return language.read([*line.removesuffix("\n").split(" "), "\n"])[0]


def contains(line):
    """Is the line in the language, in either dialect?"""
    return log_prob(line) > -math.inf


def next_words(prefix):
    """Return exact p*(next token | words of the line so far): {token text: probability}.

    "\\n" ends the line. {} after a prefix of no sentence.
    """
    _, state = LANGUAGE.read(prefix)
    options = zip(state.options.words, state.options.p) if state else ()
    return {spelled(word, not prefix): p for word, p in options}


@functools.cache
def longest_line():
    """Return the tokens of the longest line of the language, "\\n" included."""
    def longest(dialect, symbol):
        if symbol not in LANGUAGE.rules[dialect]:
            return 1
        bodies = [body for _, body in LANGUAGE.rules[dialect][symbol]]
        return max(sum(longest(dialect, part) for part in body) for body in bodies)
    return max(longest(dialect, "S") for dialect in DIALECTS) + 1


# ---------------------------------------------------------------- minimal pairs

@functools.cache
def other_form(*classes):
    """Return {word: the form of the other number or gender} for all words of these classes."""
    other = {}
    for name in classes:
        words = re.search(rf"^{name} +:(.*(?:\n .*)*)", GRAMMAR, re.M)[1]
        forms = re.findall(r"(\w+)/(\w+)", words)
        other |= {a: b for pair in forms for a, b in (pair, pair[::-1])}
    return other


def swap(words, other, positions=None):
    """Replace the first of the words, at `positions` or anywhere, that `other` {word: word} has.

    None if there is none.
    """
    for i in range(len(words)) if positions is None else positions:
        if words[i] in other:
            return [*words[:i], other[words[i]], *words[i + 1:]]
    return None


def flip_verb(words, between):
    """The dog sleeps / the dog sleep: flip the number of the first verb after the subject.

    between: "none", "phrase" or "clause", between the two. None if the words have no such pair.
    """
    nouns = other_form("N")
    verbs = other_form("VI", "VT", "VD", "THINK", "BE")
    relatives = {"that", "what"}
    opens = {"none": verbs.keys(), "clause": relatives,
             "phrase": {"near", "behind", "with", "beside", "under", "by"}}[between]
    no_agreement = {"who", "where", "when", "why", "can", "do", "does", "please", "not", "will",
                    "gonna"}
    head = next((i for i, word in enumerate(words[:-1]) if word in nouns), None)
    # tom that sees the dog feeds ...: the first noun is no subject
    if head is None or words[1] in relatives or words[head + 1] not in opens:
        return None
    if no_agreement & set(words):
        return None

    finite = [i for i in range(head + 1, len(words)) if words[i] in verbs]
    if between == "clause":
        finite = finite[1:]  # the clause's own verb comes first
    return swap(words, verbs, finite)


def flip_noun(words):
    """These dogs / these dog: flip a noun after a determiner that tells the number."""
    telling = {"a", "this", "that", "every", "these", "those", "two", "many"}
    positions = [i for i in range(1, len(words)) if words[i - 1] in telling]
    return swap(words, other_form("N"), positions)


flip_reflexive_gender = functools.partial(swap, other=other_form("SELF"))
flip_reflexive_number = functools.partial(swap, other={"themselves": "itself",
                                                       "itself": "themselves"})
flip_case = functools.partial(swap, other={"him": "he", "us": "we", "he": "him", "they": "them",
                                           "we": "us"})


def inflect_after(words, auxiliaries):
    """Does the dog sleep / does the dog sleeps: after an auxiliary the verb has no ending."""
    pairs = other_form("VI", "VT", "VD").items()
    inflected = {bare: form for form, bare in pairs if len(form) > len(bare)}
    positions = [i for i, word in enumerate(words)
                 if word in inflected and auxiliaries & set(words[:i])]
    return swap(words, inflected, positions) if len(positions) == 1 else None


def inflect_question(words):
    return None if "not" in words else inflect_after(words, {"does", "do", "can"})


inflect_negation = functools.partial(inflect_after, auxiliaries={"not"})


def take_the_licence(words):
    """No dog ever sleeps / the dog ever sleeps."""
    return swap(words, {"no": "the"}) if "ever" in words else None


def fill_the_gap(words):
    """What does tom see / what does tom see the dog: the question word is the object already."""
    asks = words[0] in ("what", "who") and words[1] in ("do", "does")
    return [*words, "the", "dog"] if asks else None


def drop_the_object(words):
    """Tom sees him / tom sees."""
    is_object = words[-1] in ("him", "us", "me", "it") and words[-2] != "to"
    return words[:-1] if is_object else None


PAIRS = {  # UID -> field, linguistics term, words of a good sentence -> words of a bad one, or None
    "subject_verb_agreement": ("morphology", "subject_verb_agreement",
                               functools.partial(flip_verb, between="none")),
    "agreement_across_phrase": ("morphology", "subject_verb_agreement",
                                functools.partial(flip_verb, between="phrase")),
    "agreement_across_clause": ("morphology", "subject_verb_agreement",
                                functools.partial(flip_verb, between="clause")),
    "determiner_noun_agreement": ("morphology", "determiner_noun_agreement", flip_noun),
    "reflexive_gender": ("syntax_semantics", "binding", flip_reflexive_gender),
    "reflexive_number": ("syntax_semantics", "binding", flip_reflexive_number),
    "pronoun_case": ("syntax", "case", flip_case),
    "question_verb_form": ("syntax", "do_support", inflect_question),
    "negation_verb_form": ("syntax", "do_support", inflect_negation),
    "npi_licensing": ("semantics", "npi_licensing", take_the_licence),
    "filler_gap": ("syntax", "filler_gap_dependency", fill_the_gap),
    "transitivity": ("syntax", "argument_structure", drop_the_object),
}


def minimal_pairs(n, seed):
    """Make n pairs of each paradigm in BLiMP's JSON form.

    The good sentence is in the language, the bad one in no dialect.
    """
    rows = []
    for uid, (field, term, change) in PAIRS.items():
        bad_of = {}  # good sentence -> bad one
        chunks = (sample(1000, f"{seed}/{i}") for i in itertools.count())
        lines = itertools.chain.from_iterable(chunks)
        while len(bad_of) < n:
            line = next(lines)
            bad = " ".join(change(line.split()) or ())
            if bad and not contains(bad):
                bad_of[line.strip()] = bad
        for i, (good, bad) in enumerate(bad_of.items()):
            rows.append({"sentence_good": good, "sentence_bad": bad, "field": field,
                         "linguistics_term": term, "UID": uid, "pair_id": i})
    return rows


# ---------------------------------------------------------------- p* as a teacher

class Truth:
    """p* over a tokenizer's tokens, a teacher like any other. UserError if a word is not one token.

    p* looks back to the line's start. It is not defined before a block's first line start, nor
    after a prefix of no sentence, until the next line. Every State that was met has a row of log p*
    in one table, (rows, V); row 0 is for positions without p*.
    """

    FLOOR = -100.0  # of log p*: zeros are not masked, or reverse KL would not charge bad grammar

    def __init__(self, tokenizer):
        self.token_of = {}
        for form in forms():
            ids = tokenizer.encode(form)
            if len(ids) != 1:
                raise UserError(f"babytalk's truth needs one token per word, but {form!r} has "
                                f"{len(ids)}; use vocab_size = 0")
            self.token_of[form] = ids[0]
        self.line_starts = {tokenizer.bos_id, self.token_of["\n"]}
        V = tokenizer.vocab_size
        self.table = torch.full((1, V), -math.log(V))  # not defined: anything finite, so uniform
        self.known = {None: (0, {})}  # State -> its row, {token: State after it}

    def look_up(self, state):
        """Return (row of a State, {token: State after it}); a new State gets a new row."""
        if state not in self.known:
            row = len(self.known)
            if row == len(self.table):  # grow by doubling
                new = torch.full((max(64, row), self.table.shape[1]), self.FLOOR)
                self.table = torch.cat([self.table, new])
            words, p, _, states = state.options
            opens_line = state is LANGUAGE.start
            tokens = [self.token_of[spelled(word, opens_line)] for word in words]
            self.table[row, tokens] = torch.tensor(np.log(p), dtype=torch.float32)
            self.known[state] = row, dict(zip(tokens, states))
        return self.known[state]

    def walk(self, ids, ahead=None):
        """Return rows of the table (B, n) int64, on the CPU, after each token of ids (B, n).

        ahead: for each of the B texts {token: State after it}, updated in place.
        """
        ahead = ahead or [{}] * len(ids)
        rows = np.empty(ids.shape, np.int64)
        for b, tokens in enumerate(ids.tolist()):
            for t, token in enumerate(tokens):
                state = LANGUAGE.start if token in self.line_starts else ahead[b].get(token)
                rows[b, t], ahead[b] = self.look_up(state)
        return torch.from_numpy(rows)

    def logits(self, ids, ahead=None):
        """Return log p* of the tokens after ids (B, T): (B, T, V), and if it is defined (B, T)."""
        where = self.walk(ids, ahead)
        return self.table[where].to(ids.device), (where > 0).to(ids.device)

    # the methods of distill.Teacher

    def __call__(self, x):
        """Return a function rows -> log p* (n, V) of the tokens after ids x (B, T), on x's device.

        rows: a slice of the B T positions, or an index tensor.
        """
        where = self.walk(x).ravel().to(x.device)  # (B T,)
        return lambda rows: self.table[where[rows].cpu()].to(x.device)

    def labels(self, x, y):
        """Return labels y (B, T) with -100 if the truth is not defined after x (B, T)."""
        return y.masked_fill((self.walk(x) == 0).to(y.device), -100)

    def stepper(self, batch, length):
        """Return a function: next ids (B, n) -> log p* (B, V) after them, and defined (B,) bool."""
        ahead = [{}] * batch

        def step(ids):
            log_p, defined = self.logits(ids, ahead)
            return log_p[:, -1], defined[:, -1]
        return step


def check_babytalk(config, tokenizer):
    """Raise UserError, before training, if babytalk's figures could not be taken from the run."""
    Truth(tokenizer)
    longest = longest_line()
    if config.arch == "gpt2" and config.longest < longest:
        raise UserError(f"babytalk's longest line has {longest} tokens, more than this GPT-2's "
                        f"block_size = {config.longest} can hold; choose a larger one")
