"""BPE: the textbook's merges, Hugging Face's merges and ids, encodings that no context changes."""
import collections
import json
import random

import pytest
import regex
from tokenizers import Regex, Tokenizer as HF, models, pre_tokenizers, trainers

from bpe import BYTE_ID, PATTERN, SPECIAL, Tokenizer, plain_bpe, pre_tokens, train_bpe

ODD = ("a b  c\n\n d\t\x1c\x1d\x1e\x1f\x85\u00a0\u2028\u3000x1½²٣é́ß中😀's'll it's 'S don't\r\n"
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


def test_stops_when_no_pair_is_left():
    merges = train_bpe({"the": 1, " dog": 1, "\n": 1})
    t = Tokenizer(merges)
    assert [len(t.encode(w)) for w in ("the", " dog", "\n")] == [1, 1, 1]
    assert len(merges) == 2 + 3


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
    assert ours.encode(text) == theirs.encode(text).ids
    # Hugging Face reads "<s>" in a text as the special token
    other = regex.sub(r"<[^>]+>", "", ODD) + text[::-1][:20000]
    assert ours.encode(other) == theirs.encode(other).ids


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
    with pytest.raises(ValueError, match=words) as e:
        Tokenizer.load(path)
    assert "\n" not in str(e.value) and str(e.value).startswith(f"{path}: ")


def test_damaged_tokenizer_files_are_refused(small, tmp_path):
    file = tmp_path / "t.json"
    good = small.to_json()
    refused(good[:-100], "damaged", file)
    refused("[]", "damaged", file)
    refused("{}", "damaged", file)
    broken = json.loads(good)
    broken["model"]["vocab"] = None
    refused(json.dumps(broken), "damaged", file)
    broken = json.loads(good)
    broken["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    refused(json.dumps(broken), "splits text in another way", file)
    broken = json.loads(good)
    del broken["model"]["merges"][0]
    refused(json.dumps(broken), "no earlier merge makes|does not follow", file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(file)
