"""BPE: the textbook's merges, Hugging Face's merges and ids, encodings that no context changes."""
import collections
import hashlib
import json
import random
import re
import unicodedata

import pytest
import regex
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HF

from bpe import BYTE_ID, PATTERN, SPECIAL, Tokenizer, count_pre_tokens, plain_bpe, pre_tokens
from bpe import train_bpe

ODD = ("a b  c\n\n d\t\x1c\x1d\x1e\x1f\x85\u00a0\u2028\u3000x1½²٣é́ß中😀"
       "'s'll it's 'S don't\r\n"
       "--<s></s><pad> \ufeff\u200b\x00")


def real_text(babylm, size):
    parts = sorted((babylm / "data/babylm_10m/dev").glob("*.dev"))
    return "".join(p.read_text(encoding="utf-8")[: size // len(parts)] for p in parts)


def counts_of(text):
    return collections.Counter(pre_tokens(text))


@pytest.fixture(scope="module")
def small():
    text = "the dog sees the cat and the cat sees the dogs\n <s> isn't it" * 3
    return Tokenizer(train_bpe(counts_of(text)))


# ---------------------------------------------------------------- training

def test_textbook_example():
    """Sennrich et al.'s words; the bytes and special tokens are 259."""
    merges = train_bpe({"low": 5, "lowest": 2, "newer": 6, "wider": 3}, 259 + 3)
    # er 9; lo 7 and ow 7: l < o; then low 7 beats ne, ew, we
    assert merges == [(b"e", b"r"), (b"l", b"o"), (b"lo", b"w")]
    assert train_bpe({"aaaa": 1}) == [(b"a", b"a"), (b"aa", b"aa")]


@pytest.mark.parametrize("train", [train_bpe, plain_bpe])
def test_words_that_cannot_fill_the_vocabulary_are_refused(train):
    words = {"the": 1, " dog": 1}
    with pytest.raises(ValueError, match="vocab_size = 300: the corpus fills only 264 tokens"):
        train(words, 300)
    assert len(train(words, 264)) == len(train(words)) == 5


def test_the_order_of_words_does_not_matter():
    words = list(counts_of("the dog sees the cat and the cat sees the dogs\n isn't it" * 3).items())
    assert train_bpe(dict(words)) == train_bpe(dict(reversed(words)))


@pytest.mark.parametrize("seed", range(20))
def test_training_is_the_plain_algorithm(seed):
    """Many ties, repeated letters, and the same bytes reached by several merges."""
    rng = random.Random(seed)
    words = collections.Counter()
    for _ in range(60):
        words["".join(rng.choices("ab " if seed % 2 else "abé", k=rng.randint(1, 12)))] += 1
    words["c"] = 0
    words["cd"] = 0
    assert train_bpe(words) == plain_bpe(words)
    assert train_bpe(words, 280) == plain_bpe(words, 280) == plain_bpe(words)[:21]


def test_counting_by_chunks_is_counting_pre_tokens():
    """Also of texts with runs of spaces of all kinds, beside others without."""
    rng = random.Random(0)
    single = [" ", "\n", "a", "b", "'s", "'", "7", "--", "é", "x" * 45, "?" * 50, "<s>"]
    spaces = ["\t", "  ", "\u00a0", "\x1c", "\x85", "\u3000"]
    for i in range(500):
        kinds = single + spaces * (i % 2)
        texts = ["".join(rng.choices(kinds, k=rng.randint(0, 30))) for _ in range(5)]
        if i % 2 == 0:  # those that are cut into chunks
            texts = [regex.sub("  +", " ", text) for text in texts]
        assert count_pre_tokens(texts) == sum(map(counts_of, texts), collections.Counter())


def test_training_is_the_plain_algorithm_on_real_text(babylm):
    words = counts_of(real_text(babylm, 30_000))
    assert train_bpe(words, 500) == plain_bpe(words, 500)


# ---------------------------------------------------------------- Hugging Face's trainer

def hf_trained(word_counts, vocab_size):
    """Hugging Face's merges on the same pre-tokens."""
    hf = HF(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    words = (word for word, n in word_counts.items() for _ in range(n))
    hf.train_from_iterator(words, trainer)
    return hf


def same_as_hf(word_counts, vocab_size, tmp_path):
    merges = train_bpe(word_counts, vocab_size if vocab_size < 10**6 else 0)
    Tokenizer(merges).save(tmp_path / "ours.json")
    ours = json.loads((tmp_path / "ours.json").read_text(encoding="utf-8"))
    theirs = json.loads(hf_trained(word_counts, vocab_size).to_str())
    assert ours["model"]["merges"] == theirs["model"]["merges"]
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    return Tokenizer(merges), HF.from_file(str(tmp_path / "ours.json"))


def test_merges_and_ids_are_hugging_faces_on_real_text(babylm, tmp_path):
    text = real_text(babylm, 1_000_000)
    ours, theirs = same_as_hf(counts_of(text), 2000, tmp_path)
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    # Hugging Face reads "<s>" in a text as the special token
    other = regex.sub(r"<[^>]+>", "", ODD) + text[::-1][:20000]
    assert ours.encode(other) == theirs.encode(other, add_special_tokens=False).ids


@pytest.mark.parametrize("seed", range(20))
def test_merges_are_hugging_faces_with_many_ties(seed, tmp_path):
    rng = random.Random(seed)
    alphabet = "ab é" if seed % 2 else "abcd"
    words = collections.Counter()
    for _ in range(40):
        text = "".join(rng.choices(alphabet, k=rng.randint(1, 9)))
        n = rng.randint(1, 4)
        for word in pre_tokens(text):
            words[word] += n
    same_as_hf(words, rng.choice([270, 290, 10**6]), tmp_path)


# ---------------------------------------------------------------- encoding

def naive_encode(text, merges):
    """The textbook's encoder, in bytes.

    In each pre-token the merge that was learned first is applied, from the left, until there is
    none.
    """
    rank = {pair: i for i, pair in reversed(list(enumerate(merges)))}
    out = []
    for word in pre_tokens(text):
        parts = [bytes([b]) for b in word.encode()]
        while len(parts) > 1:
            neighbours = list(zip(parts, parts[1:]))
            best = min(neighbours, key=lambda pair: rank.get(pair, float("inf")))
            if best not in rank:
                break
            i = neighbours.index(best)
            parts[i:i + 2] = [best[0] + best[1]]
        out += parts
    return out


def test_encoding_is_the_naive_one(babylm):
    text = real_text(babylm, 300_000)
    t = Tokenizer(train_bpe(counts_of(text), 3000))
    sample = text[:60_000] + ODD
    encoded = [t.encoding.decode_single_token_bytes(i) for i in t.encode(sample)]
    assert encoded == naive_encode(sample, t.merges)


def test_pre_tokens_are_the_same_everywhere():
    """On every code point: Unicode 3.2's classes, read alike by re, tiktoken and Hugging Face."""
    splitter = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    any_byte = [bytes([b]) for b in range(256)]
    tokenizer = Tokenizer([(b"a", b) for b in any_byte] + [(b"1", b) for b in any_byte]
                          + [(b, b"-") for b in any_byte])  # they show what tiktoken keeps together
    kind_of_id = {i: "LN-"[(i - 259) // 256] for i in range(259, tokenizer.vocab_size)}

    for start in range(0, 0x110000, 1024):
        text = ""
        expected = []
        for c in map(chr, range(start, start + 1024)):
            if unicodedata.category(c) == "Cs":  # half a pair: no character
                continue
            kind = kind_of(c)
            around = f"a{c}1{c}-"
            text += around
            expected += {
                "L": [f"a{c}", "1", c, "-"],
                "N": ["a", f"{c}1{c}", "-"],
                "-": ["a", c, "1", f"{c}-"],
                "space": ["a", c, "1", c, "-"],
                " ": ["a", f"{c}1", f"{c}-"],
            }[kind]
            if c != " ":
                joined = {kind_of_id[i] for i in tokenizer.encode(around) if i in kind_of_id}
                assert joined == {kind} - {"space"}, hex(ord(c))
        assert pre_tokens(text) == expected, start
        assert [piece for piece, _ in splitter.pre_tokenize_str(text)] == expected, start


is_space = regex.compile(r"\p{White_Space}").match


def kind_of(c):
    """L, N, - for anything else, " ", or space for the other spaces."""
    if is_space(c):
        return " " if c == " " else "space"
    kind = unicodedata.ucd_3_2_0.category(c)[0]
    return kind if kind in "LN" else "-"


def test_the_pattern_is_fixed():
    """Whatever Python it is: token files and tokenizers hang on it."""
    digest = hashlib.sha256(PATTERN.encode()).hexdigest()[:16]
    assert (len(PATTERN), digest) == (2244, "a11d3ce1a3aa5c13")


def test_round_trip_of_any_text(small):
    rng = random.Random(0)
    ranges = [(32, 127), (1, 0xD800), (0xE000, 0x110000)]
    for _ in range(200):
        n = rng.randrange(40)
        text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(n))
        assert small.decode(small.encode(text)) == text
        assert "".join(pre_tokens(text)) == text
    assert small.decode(small.encode(ODD)) == ODD


def test_special_text_is_ordinary(small):
    for s in SPECIAL:
        assert all(i >= len(SPECIAL) for i in small.encode(f"x {s}\n"))
    assert small.decode([1] + small.encode("the cat")) == "<s>the cat"
    assert (small.pad_id, small.bos_id, small.eos_id) == (0, 1, 2)


def test_a_line_is_the_same_in_every_context(small):
    lines = ["the cat", " the cat", "  the", "the  ", "\tthe\t ", "isn't it", "'s", "a" * 100,
             " " * 100 + "x", "\x85the"]
    for line in lines:
        alone = small.encode(line)
        for before in ("the\n", "x  \n", "\n\n", "\n \n"):
            for after in ("\n", "\n\n", "\n the"):
                ids = small.encode(before + line + after)
                n = len(small.encode(before))
                assert ids[n:n + len(alone)] == alone, (before, line, after)
    assert small.encode("\n") == [small.newline_id]
    assert small.encode("\n\n") == [small.newline_id] * 2


@pytest.mark.parametrize("what", [" ", "a", "9", "^", "\n", "\u00a0", "é", " a"])
def test_a_million_of_anything(small, what):
    text = what * 1_000_000
    assert small.decode(small.encode(text)) == text


def test_token_bytes(small):
    text = "the cat — é\n"
    ids = small.encode(text)
    assert small.token_bytes[ids].sum() == len(text.encode())
    assert small.token_bytes[:3].sum() == 0
    assert len(small.token_bytes) == small.vocab_size
    assert set(BYTE_ID.values()) == set(range(3, 259))


# ---------------------------------------------------------------- its file

def test_save_and_load(small, tmp_path):
    small.save(tmp_path / "tokenizer.json")
    for path in (tmp_path / "tokenizer.json", tmp_path, str(tmp_path)):
        again = Tokenizer.load(path)
        assert again.hash == small.hash
        assert again.merges == small.merges
        assert again.encode(ODD) == small.encode(ODD)
    assert Tokenizer(small.merges[:-1]).hash != small.hash


def refused(text, words, path):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as e:
        Tokenizer.load(path)
    message = str(e.value)
    assert "\n" not in message and message.startswith(f"{path}: ")
    assert re.search(words, message.removeprefix(f"{path}: ")), message


def test_damaged_tokenizer_files_are_refused(small, tmp_path):
    file = tmp_path / "t.json"
    good = small.to_json()
    refused(good[:-100], "damaged", file)
    refused("[]", "damaged", file)
    refused("{}", "damaged", file)
    refused('{"model": []}', "damaged", file)
    for merges in (None, 5, [5], [["a"]], [["a", "b", "c"]], [["a", " "]], [["a", 5]]):
        form = json.loads(good)
        form["model"]["merges"] = merges
        refused(json.dumps(form), "damaged", file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(file)


def exchange(vocab, a, b):
    vocab[a], vocab[b] = vocab[b], vocab[a]


# What is done to our own file, to the whole, its model or its vocabulary: and the part named then.
ALTERED = {
    "no pattern": (lambda f, m, v: f["pre_tokenizer"]["pretokenizers"].pop(0), "pre_tokenizer"),
    "its pattern": (lambda f, m, v: f["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": r"\w+"}), "pre_tokenizer"),
    "pieces removed": (lambda f, m, v: f["pre_tokenizer"]["pretokenizers"][0].update(
        behavior="Removed"), "pre_tokenizer"),
    "prefix space": (lambda f, m, v: f["pre_tokenizer"]["pretokenizers"][1].update(
        add_prefix_space=True), "pre_tokenizer"),
    "no pre-tokens": (lambda f, m, v: f.update(pre_tokenizer=None), "pre_tokenizer"),
    "NFKC": (lambda f, m, v: f.update(normalizer={"type": "NFKC"}), "normalizer"),
    "no decoder": (lambda f, m, v: f.update(decoder=None), "decoder"),
    "a token added": (lambda f, m, v: f["added_tokens"].append(
        {**f["added_tokens"][0], "id": len(v), "content": "zebra"}), "added_tokens"),
    "a special token less": (lambda f, m, v: f["added_tokens"].pop(), "added_tokens"),
    "special tokens strip": (lambda f, m, v: f["added_tokens"][1].update(lstrip=True),
                             "added_tokens"),
    "<s> at 0": (lambda f, m, v: exchange(v, "<pad>", "<s>"), "model.vocab"),
    "ids of merges exchanged": (lambda f, m, v: exchange(v, *list(v)[-2:]), "model.vocab"),
    "special last": (lambda f, m, v: v.update({t: (i - 3) % len(v) for t, i in v.items()}),
                     "model.vocab"),
    "a token more": (lambda f, m, v: v.update(zebra=len(v)), "model.vocab"),
    "a token less": (lambda f, m, v: v.popitem(), "model.vocab"),
    "a merge less": (lambda f, m, v: m["merges"].pop(), "model.vocab"),
    "merges exchanged": (lambda f, m, v: exchange(m["merges"], 0, 1), "model.vocab"),
    "dropout": (lambda f, m, v: m.update(dropout=0.1), "model.dropout"),
    "whole words first": (lambda f, m, v: m.update(ignore_merges=True), "model.ignore_merges"),
    "unknown": (lambda f, m, v: m.update(unk_token="<pad>"), "model.unk_token"),
    "WordPiece": (lambda f, m, v: m.update(type="WordPiece"), "model.type"),
    "word ends": (lambda f, m, v: m.update(end_of_word_suffix="</w>"), "model.end_of_word"),
    "merges as strings": (lambda f, m, v: m.update(merges=[" ".join(p) for p in m["merges"]]),
                          "model.merges"),
}


@pytest.mark.parametrize("name", list(ALTERED))
def test_a_file_that_says_anything_else_is_refused(small, tmp_path, name):
    """It would encode otherwise than it says: the part that differs is named."""
    change, part = ALTERED[name]
    form = json.loads(small.to_json())
    change(form, form["model"], form["model"]["vocab"])
    refused(json.dumps(form), part, tmp_path / "t.json")


def test_what_does_not_touch_encode_is_left_aside(small, tmp_path):
    """The file as tokenizers and transformers write it; padding, truncation, post-processor."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    small.save(tmp_path / "tokenizer.json")
    hf = HF.from_file(str(tmp_path / "tokenizer.json"))
    hf.enable_padding(pad_id=0, pad_token="<pad>", length=100)
    hf.enable_truncation(50)
    hf.post_processor = None
    hf.save(str(tmp_path / "again.json"))
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **names)
    fast.save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "again.json", tmp_path / "saved"):
        assert Tokenizer.load(path).hash == small.hash

    fast = AutoTokenizer.from_pretrained(tmp_path / "saved")
    fast.add_tokens(["zebra"])
    fast.save_pretrained(tmp_path / "more")
    with pytest.raises(ValueError, match="added_tokens"):
        Tokenizer.load(tmp_path / "more")


def test_other_peoples_tools_put_the_mark_before_a_text(small, tmp_path):
    """So that the official pipeline scores the first word too; our own encode adds nothing."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    small.save(tmp_path / "tokenizer.json")
    ids = small.encode("the cat")
    hf = HF.from_file(str(tmp_path / "tokenizer.json"))
    assert hf.encode("the cat").ids == [1, *ids]
    assert hf.encode("the cat", "the cat").ids == [1, *ids, *ids]
    assert hf.encode("the cat", add_special_tokens=False).ids == ids

    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **names)
    assert fast("the cat")["input_ids"] == [1, *ids]
    assert fast.decode([1, *ids], skip_special_tokens=True) == "the cat"
    fast.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("the cat")["input_ids"] == [1, *ids]
