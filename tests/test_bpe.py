"""BPE: the textbook's merges, Hugging Face's merges and ids, and encodings that do not depend on the context."""
import collections
import json
import random

import pytest
import regex

from config import UserError
from data import BYTE_ID, PATTERN, SPECIAL, Tokenizer, count_words, train_bpe

find = regex.compile(PATTERN).findall
ODD = "a b  c\n\n d\t\x1c\x1d\x1e\x1f\x85\u00a0\u2028\u3000x1½²٣é́ß中😀's'll it's 'S don't\r\n--<s></s><pad> \ufeff\u200b\x00"


def real_text(babylm, size):
    parts = sorted((babylm / "data/babylm_10m/dev").glob("*.dev"))
    return "".join(p.read_text(encoding="utf-8")[: size // len(parts)] for p in parts)


def counts_of(text):
    return collections.Counter(find(text))


def hf_trained(word_counts, vocab_size):
    """Hugging Face's merges on the same pre-tokens."""
    from tokenizers import Regex, Tokenizer as HF, models, pre_tokenizers, trainers
    hf = HF(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                                                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    hf.train_from_iterator((w for word, n in word_counts.items() for w in [word] * n), trainer)
    return hf


def same_as_hf(word_counts, vocab_size, tmp_path):
    from tokenizers import Tokenizer as HF
    merges = train_bpe(word_counts, vocab_size if vocab_size < 10**6 else 0)
    Tokenizer(merges).save(tmp_path / "ours.json")
    ours, theirs = json.loads((tmp_path / "ours.json").read_text()), json.loads(hf_trained(word_counts, vocab_size).to_str())
    assert ours["model"]["merges"] == theirs["model"]["merges"]
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]
    return Tokenizer(merges), HF.from_file(str(tmp_path / "ours.json"))


def naive_encode(text, merges):
    """The textbook's encoder: in each pre-token apply the earliest learned merge, from the left, until none applies."""
    rank = {pair: i for i, pair in reversed(list(enumerate(merges)))}
    out = []
    for word in find(text):
        parts = [bytes([b]) for b in word.encode()]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda pair: rank.get(pair, float("inf")))
            if best not in rank:
                break
            i = list(zip(parts, parts[1:])).index(best)
            parts[i:i + 2] = [best[0] + best[1]]
        out += parts
    return out


def test_words_are_counted_as_the_pattern_splits_them(babylm, tmp_path):
    """Also where spaces of all kinds stand in runs, and at the ends of lines; extra words count once."""
    rng = random.Random(0)
    loose = "".join(rng.choice([" ", " ", "\n", "\t", "\u00a0", "\x1c", "a", "é", "'s", "7", "--"]) for _ in range(20_000))
    for i, text in enumerate((real_text(babylm, 300_000), ODD, loose, "a  b\n", " a \n\n  \nb", "no line end", "")):
        (tmp_path / f"{i}.text").write_bytes(text.encode())
        assert +count_words({"": tmp_path / f"{i}.text"}, ["é", "zebra"]) == counts_of(text) + collections.Counter(["é", "zebra"]), i


def test_the_order_of_words_does_not_matter():
    words = list(counts_of("the dog sees the cat and the cat sees the dogs\n isn't it" * 3).items())
    assert train_bpe(dict(words)) == train_bpe(dict(reversed(words)))


def test_textbook_example():
    """Sennrich et al.: low 5, lowest 2, newer 6, wider 3 give e s, es t, l o, ..."""
    merges = train_bpe({"low": 5, "lowest": 2, "newer": 6, "wider": 3}, len(SPECIAL) + 256 + 3)
    assert merges == [(b"e", b"r"), (b"l", b"o"), (b"lo", b"w")]  # er 9; lo 7 and ow 7: l < o; then low 7 beats ne, ew, we
    assert train_bpe({"aaaa": 1}, 0) == [(b"a", b"a"), (b"aa", b"aa")]


def test_stops_when_no_pair_is_left():
    merges = train_bpe({"the": 1, " dog": 1, "\n": 1}, 0)
    t = Tokenizer(merges)
    assert [len(t.encode(w)) for w in ("the", " dog", "\n")] == [1, 1, 1] and len(merges) == 2 + 3
    with pytest.raises(UserError, match=r"vocab_size = 300: the corpus fills only 264 tokens"):
        train_bpe({"the": 1, " dog": 1}, 300)


def test_merges_and_ids_are_hugging_faces_on_real_text(babylm, tmp_path):
    text = real_text(babylm, 1_000_000)
    ours, theirs = same_as_hf(counts_of(text), 2000, tmp_path)
    assert ours.encode(text) == theirs.encode(text).ids
    other = regex.sub(r"<[^>]+>", "", ODD) + text[::-1][:20000]  # Hugging Face reads "<s>" in a text as the special token
    assert ours.encode(other) == theirs.encode(other).ids


@pytest.mark.parametrize("seed", range(20))
def test_merges_are_hugging_faces_with_many_ties(seed, tmp_path):
    rng = random.Random(seed)
    alphabet = "ab é" if seed % 2 else "abcd"
    words = {"".join(rng.choices(alphabet, k=rng.randint(1, 9))): rng.randint(1, 4) for _ in range(40)}
    words = collections.Counter({w: n for word, n in words.items() for w in find(word)})
    same_as_hf(words, rng.choice([270, 290, 10**6]), tmp_path)


def test_encoding_is_the_naive_one(babylm):
    text = real_text(babylm, 300_000)
    t = Tokenizer(train_bpe(counts_of(text), 3000))
    sample = text[:60_000] + ODD
    assert [t.encoding.decode_single_token_bytes(i) for i in t.encode(sample)] == naive_encode(sample, t.merges)


@pytest.fixture(scope="module")
def small():
    return Tokenizer(train_bpe(counts_of("the dog sees the cat and the cat sees the dogs\n <s> isn't it" * 3), 0))


def test_round_trip_of_any_text(small):
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000)]))
                       for _ in range(rng.randrange(40)))
        assert small.decode(small.encode(text)) == text
        assert "".join(find(text)) == text
    assert small.decode(small.encode(ODD)) == ODD


def test_special_text_is_ordinary(small):
    for s in SPECIAL:
        assert all(i >= len(SPECIAL) for i in small.encode(f"x {s}\n"))
    assert small.decode([1] + small.encode("the cat")) == "<s>the cat"
    assert (small.pad_id, small.bos_id, small.eos_id) == (0, 1, 2)


def test_a_line_is_the_same_in_every_context(small):
    lines = ["the cat", " the cat", "  the", "the  ", "\tthe\t ", "isn't it", "'s", "a" * 100, " " * 100 + "x", "\x85the"]
    for line in lines:
        alone = small.encode(line)
        for before in ("the\n", "x  \n", "\n\n", "\n \n"):
            for after in ("\n", "\n\n", "\n the"):
                ids = small.encode(before + line + after)
                n = len(small.encode(before))
                assert ids[n:n + len(alone)] == alone, (before, line, after)
    newline = small.encode("\n")
    assert len(newline) == 1 and small.encode("\n\n") == newline * 2


@pytest.mark.parametrize("what", [" ", "a", "9", "^", "\n", "\u00a0", "é", " a"])
def test_a_million_of_anything(small, what):
    text = what * 1_000_000
    assert small.decode(small.encode(text)) == text


def test_token_bytes(small):
    ids = small.encode("the cat — é\n")
    assert small.token_bytes[ids].sum() == len("the cat — é\n".encode()) and small.token_bytes[:3].sum() == 0
    assert len(small.token_bytes) == small.vocab_size and set(BYTE_ID.values()) == set(range(3, 259))


def test_save_and_load(small, tmp_path):
    small.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    assert again.hash == small.hash and again.encode(ODD) == small.encode(ODD) and again.merges == small.merges
    other = Tokenizer(small.merges[:-1])
    assert other.hash != small.hash


def test_damaged_tokenizer_files_are_refused(small, tmp_path):
    file = tmp_path / "t.json"
    small.save(file)
    good = file.read_text()
    def refused(text, words):
        file.write_text(text)
        with pytest.raises(UserError, match=words) as e:
            Tokenizer.load(file)
        assert "\n" not in str(e.value)
    refused(good[:-100], "damaged")
    refused("[]", "damaged")
    refused("{}", "damaged")
    refused(json.dumps({**json.loads(good), "model": {**json.loads(good)["model"], "vocab": None}}), "damaged")
    broken = json.loads(good)
    broken["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    refused(json.dumps(broken), "splits text in another way")
    broken = json.loads(good)
    broken["model"]["merges"] = broken["model"]["merges"][1:]
    refused(json.dumps(broken), "no earlier merge makes|does not follow")
    file.unlink()
    with pytest.raises(UserError, match="No such file"):
        Tokenizer.load(file)
