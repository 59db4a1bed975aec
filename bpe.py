"""Byte pair encoding, trained by hand, and the tokenizer of its merges.

    merges = train_bpe({"low": 5, " lowest": 2})      the algorithm: arXiv 1508.07909
    tokenizer = Tokenizer(merges)                     text <-> ids, by tiktoken
    tokenizer.save("tokenizer.json")                  Hugging Face tokenizers' own format

PATTERN splits text into pre-tokens; no token reaches from one into the next. A pre-token is a
string of bytes, so no character is unknown. `plain_bpe` defines training, `train_bpe` does the same
faster. The file imports nothing of this project: copy it.
"""
import collections
import hashlib
import heapq
import itertools
import json
import operator
import pathlib
import re
import unicodedata

import numpy as np
import tiktoken

# ---------------------------------------------------------------- pre-tokens

def ranges(kind):
    """Return the characters of a kind, "L" letters or "N" numbers, as ranges: A-Za-z..."""
    category = unicodedata.ucd_3_2_0.category
    groups = itertools.groupby(range(0x30000), lambda i: category(chr(i))[0] == kind)
    groups = [list(group) for is_kind, group in groups if is_kind]
    return "".join(f"{chr(group[0])}-{chr(group[-1])}" for group in groups)


# Regex engines have different versions of Unicode: their \p{L} and \s differ at thousands of
# characters. So the classes are written out, and training (re), encoding (tiktoken) and Hugging
# Face split in the same way, whatever is installed. They are from Unicode 3.2, which every Python
# has; letters that later versions have added count as punctuation.
LETTER = ranges("L")
NUMBER = ranges("N")
SPACE = "\t\x0b-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # all but the newline

# GPT-2's pre-tokens, with two changes. A newline is always a pre-token by itself, so that a line
# has the same tokens alone, after <s> and after "\n". None is longer than 41 characters, so that a
# million spaces cost a million steps.
PATTERN = (
    r"\n"
    r"|'(?:[sdmt]|ll|ve|re)"
    rf"| ?[{LETTER}]{{1,40}}"
    rf"| ?[{NUMBER}]{{1,40}}"
    rf"| ?[^\n{SPACE}{LETTER}{NUMBER}]{{1,40}}"
    rf"|[{SPACE}]{{1,40}}(?![^\n{SPACE}])"
    rf"|[{SPACE}]{{1,40}}"
)
# Text -> list of pre-tokens; joined they give the text again.
pre_tokens = re.compile(PATTERN).findall

SPECIAL = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2

# Byte -> printable character in tokenizer.json: GPT-2's table.
CHARACTER = {b: chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))}
CHARACTER |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in CHARACTER)}
BYTE = {character: b for b, character in CHARACTER.items()}

# Byte -> id, 3 .. 258, in the order of these characters; merged tokens follow from 259.
BYTE_ID = {b: len(SPECIAL) + i for i, b in enumerate(sorted(CHARACTER, key=CHARACTER.get))}

MOST = 10**6  # tokens, if no vocab_size is given

# Two spaces in a row: whether the second begins a pre-token depends on the text around them.
RUN_OF_SPACES = re.compile(f"[{SPACE}] ")


def count_pre_tokens(texts):
    """Count the pre-tokens of texts, an iterable of str: each distinct chunk is split only once.

    Text is cut into chunks at spaces: a space after another character begins a pre-token.
    """
    counts = collections.Counter()
    chunks = collections.Counter()  # each without the space before it; a newline has none
    for text in texts:
        if RUN_OF_SPACES.search(text):
            counts.update(pre_tokens(text))
            continue
        first, *others = text.replace("\n", " \n").split(" ")
        counts.update(pre_tokens(first))
        chunks.update(others)
    for chunk, n in chunks.items():
        space = "" if chunk.startswith("\n") else " "
        for word in pre_tokens(space + chunk):
            counts[word] += n
    return counts


# ---------------------------------------------------------------- training

def train_bpe(word_counts: dict[str, int], vocab_size=0) -> list[tuple[bytes, bytes]]:
    """Learn the merges of byte pair encoding: merge the most frequent pair, again and again.

    word_counts: {pre-token: number of occurrences}. vocab_size: special tokens, bytes and merged
    tokens together; 0: merge until no pair is left. Returns the merges in order, as pairs of bytes.
    Raises ValueError if the words cannot fill vocab_size.

    The algorithm is from Sennrich et al. (arXiv 1508.07909, algorithm 1). Of equally frequent pairs
    the one with smaller ids comes first, as in Hugging Face's trainer. A merge changes only the
    neighbouring pairs. So pairs are counted once and then kept up to date; a heap has the most
    frequent one on top.
    """
    vocab = Vocabulary()
    words = [spell(word) for word in word_counts]
    counts = list(word_counts.values())
    pair_counts, words_with = count_pairs(words, counts)

    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    while len(vocab) < (vocab_size or MOST):
        pair = pop_most_frequent(heap, pair_counts)
        if pair is None:
            break
        new = vocab.merge(pair)
        for risen in merge_in_words(pair, new, words, counts, pair_counts, words_with):
            heapq.heappush(heap, (-pair_counts[risen], risen))
    vocab.must_fill(vocab_size)
    return vocab.merges


def plain_bpe(word_counts, vocab_size=0):
    """Do the same as train_bpe in the textbook's way: this is the definition."""
    vocab = Vocabulary()
    words = [spell(word) for word in word_counts]
    counts = list(word_counts.values())
    while len(vocab) < (vocab_size or MOST):
        pair_counts, _ = count_pairs(words, counts)
        # ties go to the smaller ids: strings compare by their characters, which are ids
        pair = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair), default=None)
        if not pair_counts[pair]:
            break
        new = vocab.merge(pair)
        words = [word.replace(pair, new) for word in words]
    vocab.must_fill(vocab_size)
    return vocab.merges


def spell(word):
    """Return a pre-token with one character chr(id) per token: then str.replace merges."""
    return word.encode().decode("latin-1").translate(BYTE_ID)


def pairs(word):
    """Return the neighbours in a word, each pair a string of two: "abc" -> "ab", "bc"."""
    return map(operator.add, word, word[1:])


def count_pairs(words, counts):
    """Return (Counter of the pairs in all words, {pair: indices of the words with it})."""
    pair_counts = collections.Counter()
    words_with = collections.defaultdict(list)
    for i, word in enumerate(words):
        for pair in pairs(word):
            pair_counts[pair] += counts[i]
            words_with[pair].append(i)  # a pair that occurs twice is listed twice: harmless
    return pair_counts, words_with


def pop_most_frequent(heap, pair_counts):
    """Take the most frequent pair from the heap; None if no pair is left.

    A count that falls leaves an old entry in the heap. When this comes to the top, the pair is
    pushed again with the right count. A count that rises was pushed at once.
    """
    while heap:
        count, pair = heapq.heappop(heap)
        if -count == pair_counts[pair]:
            return pair if count else None
        if pair_counts[pair] > 0:
            heapq.heappush(heap, (-pair_counts[pair], pair))


def merge_in_words(pair, new, words, counts, pair_counts, words_with):
    """Replace `pair` by the token `new` in all words, in place, and update the counts.

    Returns the set of pairs that have become more frequent: all that contain `new`.
    """
    risen = set()
    for i in words_with.pop(pair):
        word = words[i]
        first = word.find(pair)
        if first < 0:  # an earlier merge took the pair away
            continue
        words[i] = word.replace(pair, new)

        # pairs change from one token before the first to one after the last
        before = word[max(0, first - 1):word.rfind(pair) + 3]
        for p in pairs(before):
            pair_counts[p] -= counts[i]
        for p in pairs(before.replace(pair, new)):
            pair_counts[p] += counts[i]
            if new in p:
                words_with[p].append(i)
                risen.add(p)
    return risen


class Vocabulary:
    """The tokens so far, bytes <-> id, and the merges that made them."""

    def __init__(self):
        self.ids = {bytes([b]): i for b, i in BYTE_ID.items()}
        self.token = {i: token for token, i in self.ids.items()}
        self.merges = []

    def __len__(self):
        return len(SPECIAL) + len(self.ids)

    def merge(self, pair):
        """Merge a pair (a string of two) and return the character of the merged token."""
        left, right = (self.token[ord(character)] for character in pair)
        self.merges.append((left, right))
        new = self.ids.setdefault(left + right, len(self))
        self.token[new] = left + right
        return chr(new)

    def must_fill(self, vocab_size):
        if len(self) < vocab_size:
            raise ValueError(f"vocab_size = {vocab_size}: the corpus fills only {len(self)} "
                             "tokens; choose at most that, or 0 for all")


# ---------------------------------------------------------------- the tokenizer

# A tokenizer.json without vocabulary, merges, pattern and the names of special tokens.
FORM = """
{"version": "1.0", "truncation": null, "padding": null,
 "added_tokens": [{"single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                   "special": true}],
 "normalizer": null,
 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
  {"type": "Split", "pattern": null, "behavior": "Isolated", "invert": false},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
 "post_processor": null,
 "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
             "use_regex": false},
 "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
           "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
           "ignore_merges": false}}
"""


class Tokenizer:
    """Byte-level BPE from merges, pairs of bytes in learned order: decode(encode(text)) is text.

    encode adds no special token and normalises nothing. ids: {bytes: id}. token_bytes
    (vocab_size,): the length of each token, 0 for special ones. hash: the same for the same merges,
    pattern and special tokens.
    """

    pad_id, bos_id, eos_id = 0, 1, 2
    newline_id = BYTE_ID[ord("\n")]  # PATTERN keeps it apart, so that it is never merged
    lacking = b""  # bytes without a token; vocabularies from elsewhere may have some

    def __init__(self, merges: list[tuple[bytes, bytes]]):
        self.merges = [tuple(pair) for pair in merges]
        self.ids = {bytes([b]): i for b, i in BYTE_ID.items()}
        for left, right in self.merges:
            self.ids.setdefault(left + right, len(SPECIAL) + len(self.ids))
        self.vocab_size = len(SPECIAL) + len(self.ids)
        lengths = [0] * len(SPECIAL) + [len(token) for token in self.ids]
        self.token_bytes = np.array(lengths, dtype=np.int64)

        # tiktoken merges the lowest rank first; ids are ranks, so the order is the learned one
        self.encoding = tiktoken.Encoding(
            "onecoach", pat_str=PATTERN, mergeable_ranks=self.ids,
            special_tokens={name: i for i, name in enumerate(SPECIAL)})
        form = repr((PATTERN, SPECIAL, self.merges))
        self.hash = hashlib.sha256(form.encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        return self.encoding.encode_ordinary(text)

    def encode_with_ends(self, text):
        """Return (ids, the places (n,) in the text where tokens end, in bytes)."""
        ids = self.encode(text)
        return ids, np.cumsum(self.token_bytes[ids])

    def encode_lines(self, text):
        """Return the ids (n,) of whole lines, each ended by newline_id; releases the GIL."""
        return self.encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode([int(i) for i in ids])

    def tokens(self):
        """Return the bytes of each id, in order; for special tokens their names."""
        return [*(name.encode() for name in SPECIAL), *self.ids]

    def differs_from(self, other):
        """Say how another tokenizer differs, by the first tokens that are not the same."""
        differ = []
        if self.vocab_size != other.vocab_size:
            differ.append(f"{self.vocab_size} tokens here, {other.vocab_size} there")
        differ += [f"id {i} is {ours!r} here, {theirs!r} there" for i, (ours, theirs)
                   in enumerate(zip(self.tokens(), other.tokens())) if ours != theirs]
        return ", ".join(differ[:3]) or "the same tokens, but text is split otherwise"

    def to_json(self) -> str:
        """Return the text of a tokenizer.json: tokenizers.Tokenizer.from_file gives the same ids.

        There `<s>` comes first, unless add_special_tokens is False: models of this program expect
        it before a text, and other people's tools do not put it there by themselves.
        """
        form = json.loads(FORM)
        form["added_tokens"] = [{"id": i, "content": name, **form["added_tokens"][0]}
                                for i, name in enumerate(SPECIAL)]
        form["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": PATTERN}
        bos = {"id": "<s>", "ids": [self.bos_id], "tokens": ["<s>"]}
        form["post_processor"] = opened_by("<s>", {"<s>": bos})
        names = [*SPECIAL, *map(printable, self.ids)]
        form["model"]["vocab"] = {name: i for i, name in enumerate(names)}
        form["model"]["merges"] = [[printable(token) for token in pair] for pair in self.merges]
        return json.dumps(form, ensure_ascii=False)

    def save(self, path):
        pathlib.Path(path).write_text(self.to_json(), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path):
        """Return the tokenizer in a file, or in a folder's tokenizer.json.

        ValueError, a line that begins with the file, if it is damaged or of another kind.
        """
        path = pathlib.Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        text = path.read_bytes()
        try:
            return cls.from_json(text)
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from None

    @classmethod
    def from_json(cls, text):
        """Return the tokenizer of a to_json(); ValueError names the parts that differ."""
        theirs = encoding_parts(text)
        try:
            merges = [tuple(bytes(BYTE[c] for c in part) for part in (left, right))
                      for left, right in theirs["model.merges"]]
        except (LookupError, TypeError, ValueError):
            merges = []  # they will not agree with the file's
        tokenizer = cls(merges)
        ours = encoding_parts(tokenizer.to_json())
        differ = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        if differ:
            raise ValueError("damaged, or made by another program: it differs in "
                             f"{', '.join(differ)}; train one with vocab_size")
        return tokenizer


def opened_by(name, special_tokens):
    """Return a post_processor that puts one of special_tokens, {name: ids}, before a text."""
    bos = {"SpecialToken": {"id": name, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {"type": "TemplateProcessing", "single": [bos, first], "pair": [bos, first, second],
            "special_tokens": special_tokens}


def printable(token):
    """Spell bytes as tokenizer.json does."""
    return "".join(CHARACTER[b] for b in token)


def encoding_parts(text):
    """Return {name: value} of the parts of a tokenizer.json that change how it encodes."""
    try:
        form = json.loads(text)
        model = form.pop("model")
        parts = form | {f"model.{name}": part for name, part in model.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("damaged, or no tokenizer.json") from None
    for name in ("post_processor", "padding", "truncation"):
        parts.pop(name, None)
    return parts
