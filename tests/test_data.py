"""Corpora to batches: what cleaning removes, what a token file holds, what a batch is made of."""
import collections
import itertools
import json
import pathlib
import random
import re
import shutil
import time

import numpy as np
import pytest
import torch

import data
from bpe import BYTE_ID, Tokenizer, pre_tokens
from data import Batches, TokenFile, count_words, prepare, validation_blocks
from onecoach import corpora, tokens
from onecoach.config import UserError
from onecoach.corpora import ALWAYS, CLEAN, clean, read_blocks
from onecoach.tokens import drop_shared_lines


@pytest.fixture
def texts(tmp_path):
    """A folder of two domains with some 3,000 words."""
    folder = tmp_path / "texts"
    folder.mkdir()
    said = [f"*MOT: the cat sees {i} dogs [laughs].\n" for i in range(400)]
    written = [f"It was the year {i}, and _nobody_ knew.\n\n" for i in range(300)]
    (folder / "childes.train").write_text("".join(said))
    (folder / "gutenberg.train.txt").write_text("".join(written))
    return folder


def tree(folder):
    """{file: (time of its last change, content)}."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def plain(file, tokenizer):
    """The text of a token file, without `<s>`."""
    ids = np.asarray(file.tokens)
    return tokenizer.decode(ids[ids != 1])


def one_line(function, *args, match):
    with pytest.raises(UserError, match=match) as e:
        function(*args)
    assert "\n" not in str(e.value)


# ---------------------------------------------------------------- cleaning

@pytest.mark.parametrize("domain,line,expected", [
    ("childes", "*MOT: where is it [laughs] ?", "where is it?"),
    ("childes", "*CHI: xxx want dis 0diary.", "want dis."),
    ("childes", "*CHI: [cries].", None),
    ("childes", "*A: why ?", "why?"),
    ("childes", "go on. = = = childes/Eng-NA/Brown/a.cha = = = *MOT: no.", "go on. *MOT: no."),
    ("gutenberg", "the end = = = PG53602 = = = Chapter I", "the end Chapter I"),
    ("other", "one\u2028two\x85three\ufefffour\x0b  five", "one two threefour five"),
    ("childes", "2 dogs and 10 cats", "2 dogs and 10 cats"),
    ("switchboard", "A:\tYou too,", "You too,"),
    ("switchboard", "I said: no", "I said: no"),
    ("bnc_spoken", "er <pause> yes", "er yes"),
    ("gutenberg", "for _not_ going [12] away", "for not going away"),
    ("gutenberg", "* * * * *", None),
    ("gutenberg", "[Illustration: A dog] Hello", "Hello"),
    ("gutenberg", "snake_case", "snakecase"),
    ("open_subtitles", "- <i>Yes.</i> [door opens] ♪", "Yes."),
    ("open_subtitles", "well - no", "well - no"),
    ("simple_wiki", "= = = Confetti = = =", None),
    ("simple_wiki", "388||69||22", None),
    ("simple_wiki", "Dre) = = = 1 = 1", "Dre) 1 = 1"),
    ("other", "  a\tb   c\x00 ", "a b c"),
    ("other", "*MOT: kept _so_ [x]", "*MOT: kept _so_ [x]"),
    ("other", " -- ... ", None),
])
def test_cleaning(domain, line, expected):
    """Also of a line among others, which stay."""
    cleaned = "" if expected is None else f"{expected}\n"
    assert clean(domain, f"{line}\n") == cleaned
    assert clean(domain, f"one\n{line}\n{line}\ntwo\n") == f"one\n{cleaned}{cleaned}two\n"


RULES = [rule[0] for rules in [*CLEAN.values(), ALWAYS] for rule in rules]
UNITS = ["\n", "[", "[a", "[]", "[Illustration", "[1", "{", "{1", "<", "<a", "</a b", "=", "= ",
         "=    ", "= = = PG1 ", "= = = childes/a", "*", "* ", "_", "_.", "-", "'", "&a", " 0a", "#",
         "|", " ", " .", ". ", "\t", "xxx ", "♪", "\x00", "\x0b ", "\ufeff", "*MOT:", "A:", "a",
         "7"]


def seconds(function, *args):
    start = time.process_time()
    function(*args)
    return time.process_time() - start


@pytest.mark.parametrize("pattern", sorted(set(RULES)))
def test_a_rule_takes_no_longer_than_a_line_is_long(pattern):
    """30,000 characters: a rule that goes by the square of them takes seconds, others 0.02.

    1,000 first: there one that goes by the cube takes seconds, and not a day.
    """
    rule = re.compile(pattern, re.MULTILINE)
    rng = random.Random(0)
    units = UNITS + ["".join(rng.choices(UNITS, k=rng.randint(2, 4))) for _ in range(60)]
    for n, unit in itertools.product((1000, 30_000), units):
        for start, end in itertools.product(("", "[", "= ="), ("x", " ]", "=")):
            line = start + unit * (n // len(unit)) + end
            assert seconds(rule.sub, "", line) < 0.5, (n, start, unit, end)


def test_old_line_ends_are_prepared_like_new_ones(tmp_path, make_config):
    texts = []
    for end in ("\n", "\r\n", "\r"):
        file = tmp_path / "a.txt"
        file.write_bytes(b"".join(f"this is line {i}{end}".encode() for i in range(200)))
        p = prepare(make_config(corpus=str(file), vocab_size=265))
        texts.append((plain(p.train, p.tokenizer), plain(p.dev, p.tokenizer), p.train.corpus))
    assert texts[0] == texts[1] == texts[2]
    assert texts[0][0].endswith("line 195\n") and texts[0][1].startswith("this is line 196\n")


@pytest.mark.parametrize("content,what", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS"),
    (b'{"error": "Repository not found"}', "JSON"),
    (b'\xef\xbb\xbf [ {\n "text": "the cat"}]', "JSON"),
    (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML"),
    (b"\n<!DOCTYPE html><html>sign in</html>", "a page of HTML"),
    ("the cat sees the dog.\n".encode("utf-16"), "UTF-16"),
    ("the cat sees the dog.\n".encode("utf-16-le") * 100, "UTF-16"),
    (bytes(1000), "UTF-16 or something else"),
])
def test_what_is_no_text_is_said_to_be_that(tmp_path, make_config, content, what):
    (tmp_path / "a.txt").write_bytes(content)
    config = make_config(corpus=str(tmp_path / "a.txt"), vocab_size=260)
    one_line(prepare, config, match=f"a.txt is .*{what}.*no text; .*--corpus=PATH")


def test_text_that_looks_a_little_like_something_else(tmp_path):
    for content in (b"{ I said }\n", b"[one]\n", b"<s>the cat</s>\n", b"the\x00 cat sees the dog\n",
                    b"\xef\xbb\xbfversion one\n"):
        (tmp_path / "a.txt").write_bytes(content)
        assert list(read_blocks(tmp_path / "a.txt")) == [content.decode()]


# ---------------------------------------------------------------- preparation

def test_prepare(texts, make_config):
    p = prepare(make_config(corpus=str(texts), vocab_size=300, mark="none"))
    train = plain(p.train, p.tokenizer)
    dev = plain(p.dev, p.tokenizer)
    assert train.startswith("the cat sees 0 dogs.\nthe cat sees 1 dogs.\n")
    assert "[laughs]" not in train
    assert "dogs.\nIt was" in train
    # the last 2% of each file, kept out of training
    said = [f"the cat sees {i} dogs.\n" for i in range(392, 400)]
    written = [f"It was the year {i}, and nobody knew.\n" for i in range(294, 300)]
    assert dev == "".join(said + written)
    assert not any(line in train for line in dev.splitlines())

    assert p.tokenizer.vocab_size == 300
    assert p.train.tokens.dtype == np.uint16
    assert [s.name for s in p.train.segments] == ["childes", "gutenberg"]
    for name, start, stop, words, size in p.train.segments:
        ids = np.asarray(p.train.tokens[start:stop])
        assert ids[0] == 1 and (ids[1:] != 1).all()  # <s> opens a file
        text = p.tokenizer.decode(ids[1:])
        assert len(text.split()) == words and len(text.encode()) == size
    assert p.train.words == sum(s.words for s in p.train.segments) == len(train.split())


@pytest.mark.parametrize("mark", ["none", "half", "line"])
def test_marks(texts, make_config, mark):
    p = prepare(make_config(corpus=str(texts), vocab_size=300, mark=mark))
    ids = np.asarray(p.train.tokens)
    newline = p.tokenizer.encode("\n")[0]
    starts = np.concatenate([[True], ids[:-1] == newline])
    marked = (ids == 1).sum()
    lines = (ids == newline).sum()
    assert starts[ids == 1].all()
    if mark == "half":
        assert abs(marked - lines / 2) < 4 * np.sqrt(lines / 4)
    else:
        assert marked == {"none": 2, "line": lines}[mark]


def test_words_are_counted_as_the_pattern_splits_them(tmp_path, monkeypatch):
    """Also where spaces of all kinds stand in runs, and where a piece ends; extra ones once."""
    rng = random.Random(0)
    kinds = [" ", " ", "\n", "\t", "\u00a0", "\x1c", "a", "é", "'s", "7", "--"]
    loose = "".join(rng.choice(kinds) for _ in range(20_000))
    odd = ("x\x1d\x1e\x1f\x85\u2028\u3000x1½²٣é́ß中😀"
           "'s'll 'S don't\r\n--<s></s> \ufeff\u200b\x00")
    monkeypatch.setattr(corpora, "BLOCK", 100)
    for i, text in enumerate((loose, odd, "a  b\n", " a \n\n  \nb", "no line end", "")):
        file = tmp_path / f"{i}.text"
        file.write_bytes(text.encode())
        expected = collections.Counter(pre_tokens(text) + ["é", "zebra"])
        assert count_words({"": file}, ["é", "zebra"]) == expected, i


def test_prepare_twice_does_nothing_twice(texts, make_config):
    cfg = make_config(corpus=str(texts), vocab_size=300)
    first = prepare(cfg)
    before = tree(first.folder.parent)
    assert prepare(cfg).folder == first.folder and tree(first.folder.parent) == before
    assert prepare(make_config(corpus=str(texts), vocab_size=300, seed=1)).folder != first.folder
    (texts / "childes.train").write_text("other text\n" * 500)
    assert prepare(cfg).folder != first.folder  # the text counts, not its name


@pytest.mark.parametrize("processors, block", [(2, 1 << 20), (1, 300), (2, 300), (5, 1)])
def test_what_is_prepared_does_not_depend_on_processors_and_blocks(processors, block, texts,
                                                                   make_config, monkeypatch,
                                                                   tmp_path):
    def prepared(where, processors, block):
        monkeypatch.setattr(tokens.os, "cpu_count", lambda: processors)
        monkeypatch.setattr(corpora, "BLOCK", block)
        config = make_config(corpus=str(texts), vocab_size=300, data_dir=str(tmp_path / where))
        return {name: content for name, (_, content) in tree(prepare(config).folder).items()}

    here = prepared("here", processors, block)
    assert here == prepared("there", 1, 1 << 20) and len(here) == 5


@pytest.mark.parametrize("where", ["train_bpe", "write_tokens", "TokenFile.__init__"])
def test_interrupted_preparation_leaves_nothing_half(texts, make_config, monkeypatch, where):
    cfg = make_config(corpus=str(texts), vocab_size=300)
    calls = []

    def interrupt(*args):
        calls.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(f"data.{where}", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(cfg)
    folders = list(pathlib.Path(cfg.data_dir).iterdir())
    assert calls and len(folders) == ("." in where)  # all of it, or nothing
    assert prepare(cfg).train.count > 1000


def test_given_tokenizer(texts, make_config, tmp_path):
    first = prepare(make_config(corpus=str(texts), vocab_size=300))
    given = prepare(make_config(corpus=str(texts), vocab_size=270, tokenizer=str(first.folder)))
    assert given.tokenizer.hash == first.tokenizer.hash
    assert given.folder.name.startswith("texts-300-half-")
    assert given.folder != first.folder
    assert np.array_equal(given.train.tokens, first.train.tokens)


def test_max_words(texts, make_config):
    whole = prepare(make_config(corpus=str(texts), vocab_size=300))
    part = prepare(make_config(corpus=str(texts), vocab_size=300, max_words=1000))
    assert 950 < part.train.words <= 1000
    shares = [a.words / b.words for a, b in zip(part.train.segments, whole.train.segments)]
    assert abs(shares[0] - shares[1]) < 0.01
    start = plain(part.train, part.tokenizer)[:500]
    assert plain(whole.train, whole.tokenizer).startswith(start)


# ---------------------------------------------------------------- the same text, other text

def test_the_digest_is_of_the_prepared_text(texts, make_config, tmp_path):
    """Not of how it is called, where it lies and what is made of it."""
    def digest(**keys):
        p = prepare(make_config(**{"corpus": str(texts), "vocab_size": 300, **keys}))
        assert p.train.corpus == p.dev.corpus
        return p.train.corpus

    first = digest()
    other = tmp_path / "other"
    shutil.copytree(texts, other)
    (other / "gutenberg.train.txt").rename(other / "gutenberg.train")
    given = prepare(make_config(corpus=str(texts), vocab_size=300)).folder
    for name in (f"{texts}/", f"{texts}/*", str(other)):
        assert digest(corpus=name) == first
    assert digest(seed=1) == digest(mark="line") == digest(vocab_size=0) == first
    assert digest(tokenizer=str(given)) == first
    assert digest(max_words=1000) != first
    assert digest(dev=str(other / "childes.train")) != first

    lines = (texts / "childes.train").read_text().splitlines(keepends=True)
    lines[7] = lines[7].replace("cat", "dog")
    (texts / "childes.train").write_text("".join(lines))
    assert digest() == digest(tokenizer=str(given)) != first


def test_the_digest_of_babytalk(make_config):
    def digest(**keys):
        keys = {"sentences": 300, "mark": "none", **keys}
        return prepare(make_config(corpus="babytalk", **keys)).train.corpus

    assert digest() == digest(mark="line")
    assert len({digest(), digest(sentences=301), digest(seed=1)}) == 3


# ---------------------------------------------------------------- leaks

@pytest.fixture
def splits(tmp_path):
    """A folder with a file a split, each of lines of its own."""
    folder = tmp_path / "splits"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        lines = [f"{split} line {i} of many\n" for i in range(300)]
        (folder / f"childes.{split}").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("names", ["a.{}", "a.{}.txt", "{}.txt"])
def test_of_a_folder_only_the_training_text_trains(splits, make_config, names):
    for split in ("train", "dev", "test"):
        (splits / f"childes.{split}").rename(splits / names.format(split))
    p = prepare(make_config(corpus=str(splits), vocab_size=265))
    assert {line.split()[0] for line in plain(p.train, p.tokenizer).splitlines()} == {"train"}
    assert {line.split()[0] for line in plain(p.dev, p.tokenizer).splitlines()} == {"train"}

    p = prepare(make_config(corpus=str(splits), dev=str(splits), vocab_size=265))
    assert {line.split()[0] for line in plain(p.train, p.tokenizer).splitlines()} == {"train"}
    assert {line.split()[0] for line in plain(p.dev, p.tokenizer).splitlines()} == {"dev"}


def test_a_folder_whose_names_say_less(splits):
    (splits / "more.txt").write_text("more\n")
    for gone, train, dev in (("childes.train", "more.txt", "childes.dev"),
                             ("childes.dev", "more.txt", "more.txt"),
                             ("more.txt", "childes.test", "childes.test")):
        (splits / gone).unlink()
        names = [path.name for split in ("train", "dev")
                 for _, path in corpora.resolve(str(splits), "none", split)]
        assert names == [train, dev]


def test_the_home_folder_is_found(splits, monkeypatch):
    monkeypatch.setenv("HOME", str(splits.parent))
    for name in ("~/splits", "~/splits/*.train", "~/splits/childes.train"):
        assert corpora.resolve(name, "none") == [("childes", splits / "childes.train")]


def test_a_file_that_is_in_both_is_refused(splits, texts, make_config, tmp_path):
    def refused(corpus, dev):
        config = make_config(corpus=str(corpus), dev=str(dev), vocab_size=265)
        one_line(prepare, config, match="is in corpus = .* and in dev = .*without dev")

    refused(splits / "childes.dev", splits / "childes.dev")
    refused(splits / "*", splits)
    refused(texts, texts)
    (tmp_path / "link.txt").symlink_to(splits / "childes.train")
    refused(splits, tmp_path / "link.txt")
    refused(splits, splits / "../splits/childes.train")


def test_development_lines_that_are_trained_on_are_counted(splits, make_config, capsys):
    p = prepare(make_config(corpus=str(splits), dev=str(splits / "childes.test"), vocab_size=265))
    assert "development lines" not in capsys.readouterr().out and p.dev.shared == 0
    with open(splits / "childes.dev", "a") as f:
        f.write("*MOT: train line 3 of many\ntrain line 3 of many\ntrain line 4 of many\n")
    p = prepare(make_config(corpus=str(splits), dev=str(splits), vocab_size=265))
    assert p.dev.shared == pytest.approx(15 / (300 * 5 + 15))
    said = capsys.readouterr().out
    assert "3 of the 303 development lines, 1.0% of the words, stand in the training text" in said
    prepare(make_config(corpus=str(splits), dev=str(splits), vocab_size=265, max_words=4 * 5))
    assert "2 of the 303 development lines, 0.7% of the words" in capsys.readouterr().out


@pytest.mark.parametrize("mark", ["none", "half", "line"])
def test_lines_of_the_training_text_can_be_left_out(splits, make_config, mark):
    with open(splits / "childes.dev", "a") as f:
        f.write("train line 3 of many\ndev line 300 of many\ntrain line 4 of many\n")
    p = prepare(make_config(corpus=str(splits), dev=str(splits), vocab_size=265, mark=mark))
    texts = {"childes": p.dev.tokens, "none of it": p.train.tokens[:100]}
    unseen = drop_shared_lines(p.train, texts)
    text = p.tokenizer.decode(unseen["childes"])
    assert text == "".join(f"dev line {i} of many\n" for i in range(301))
    left = p.tokenizer.decode(unseen["none of it"])
    assert "\n" not in left and left  # the last line was cut, so it is another one


# ---------------------------------------------------------------- other machines, other sizes

def test_what_is_written_is_the_same_on_windows(texts, make_config, tmp_path, monkeypatch):
    """There a file opened for text writes "\\r\\n" and cp1252, unless it is told not to."""
    def prepared(where):
        folder = prepare(make_config(corpus=str(texts), vocab_size=265,
                                     data_dir=str(tmp_path / where))).folder
        return {name: content for name, (_, content) in tree(folder).items()}

    here = prepared("here")
    real_open = open

    def windows_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest):
        if "b" not in mode:
            encoding = encoding or "cp1252"
            newline = "\r\n" if newline is None and "r" not in mode else newline
        return real_open(file, mode, buffering, encoding, errors, newline, *rest)

    monkeypatch.setattr("builtins.open", windows_open)
    monkeypatch.setattr("io.open", windows_open)  # pathlib's
    assert prepared("there") == here


def test_two_that_prepare_the_same_at_once(texts, make_config, monkeypatch):
    """Both begin; the one that ends first leaves the folder, the other one takes it."""
    config = make_config(corpus=str(texts), vocab_size=300)
    first = []

    def build_after_another(*args):
        monkeypatch.setattr(data, "build", build)
        first.append(prepare(config).folder)
        build(*args)

    build = data.build
    monkeypatch.setattr(data, "build", build_after_another)
    assert prepare(config).folder == first[0]
    assert list(pathlib.Path(config.data_dir).iterdir()) == first


# ---------------------------------------------------------------- bad input

def test_bad_corpora(texts, make_config, tmp_path):
    def refused(match, **keys):
        one_line(prepare, make_config(**keys), match=match)

    refused("'nowhere/at/all': no text there; known names: babytalk, babylm_10m",
            corpus="nowhere/at/all")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n--\n")
    refused("empty.txt: empty, no text is left", corpus=str(empty))
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"fine\ncaf\xe9\n")
    refused("latin.txt, line 2: not UTF-8", corpus=str(latin))
    refused("vocab_size = 50000: the corpus fills only", corpus=str(texts), vocab_size=50_000)
    refused("tokenizer .*none.json: No such file",
            corpus=str(texts), tokenizer=str(tmp_path / "none.json"))
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    refused("tokenizer .*bad.json: damaged", corpus=str(texts), tokenizer=str(bad))
    assert not list((tmp_path / "out/data").iterdir())  # a refused preparation leaves nothing


def test_a_corpus_too_short_for_a_tail_says_so(tmp_path, make_config):
    (tmp_path / "t.txt").write_text("a b c\n" * 20)
    config = make_config(corpus=str(tmp_path / "t.txt"), vocab_size=260)
    one_line(prepare, config, match="last 2%.*--dev")


def test_bad_token_files(texts, make_config, tmp_path):
    p = prepare(make_config(corpus=str(texts), vocab_size=300))
    good, about = ((p.folder / f"train{ending}").read_bytes() for ending in (".bin", ".json"))
    file = tmp_path / "t.bin"
    for content, said, match in (
            (good[:-2], about, "damaged, [0-9]+ bytes of"),
            (good + b"xx", about, "damaged, [0-9]+ bytes of"),
            (b"", about, "not a token file"),
            (good, b"", "damaged"), (good, about[:-1], "damaged"),
            (good, about.replace(b'"uint16"', b'"object"'), "damaged")):
        file.write_bytes(content)
        file.with_suffix(".json").write_bytes(said)
        one_line(TokenFile, file, match=match)

    file.write_bytes(good)
    file.with_suffix(".json").write_bytes(about)
    one_line(TokenFile, file, "abc", match="made with tokenizer .*, not abc")
    assert TokenFile(file, p.tokenizer.hash).count == p.train.count
    file.unlink()
    one_line(TokenFile, file, match="No such file")


@pytest.mark.parametrize("altered", [
    {"segments": ""}, {"segments": []}, {"segments": [["a", 0, 10**9, 1, 1]]},
    {"segments": [["a", 1, "end", 1, 1]]}, {"segments": [[1, 0, "end", 1, 1]]},
    {"segments": [["a", 0, "end", -1, 1]]}, {"segments": [["a", 0, True, 1, 1]]},
    {"bos_id": 10**400}, {"tokenizer": None}, {"mark": 3}, {"dtype": ["uint16"]}])
def test_a_token_file_whose_parts_do_not_hold_together(texts, make_config, tmp_path, altered):
    folder = prepare(make_config(corpus=str(texts), vocab_size=300)).folder
    about = json.loads((folder / "dev.json").read_bytes())
    for segment in altered.get("segments", ()):  # "end": where it would have to end
        segment[:] = [about["segments"][-1][2] if x == "end" else x for x in segment]
    (tmp_path / "dev.json").write_text(json.dumps({**about, **altered}))
    shutil.copy(folder / "dev.bin", tmp_path)
    one_line(TokenFile, tmp_path / "dev.bin", match="token file, or damaged")


def test_corpus_smaller_than_one_batch(texts, make_config):
    config = make_config(corpus=str(texts), vocab_size=300, batch_size=10**6)
    p = prepare(config)
    one_line(Batches, p.train, config, match="fewer than one batch of 1000000 x 128")
    one_line(validation_blocks, p.dev, 10**6, match="fewer than one block of 1000000")


def test_the_same_files_in_other_roles_are_prepared_anew(tmp_path, make_config):
    """Text that was trained on yesterday and is development text today is not trained on again."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in "ab":
        lines = [f"{name} word {i} is here\n" for i in range(500)]
        (corpus / f"{name}.txt").write_text("".join(lines))
    both = prepare(make_config(corpus=str(corpus), vocab_size=262))
    dev = (corpus / "b.txt").rename(tmp_path / "b.txt")
    apart = prepare(make_config(corpus=str(corpus), dev=str(dev), vocab_size=262))
    assert both.folder != apart.folder
    assert [s.name for s in apart.train.segments] == ["a"]
    assert [s.name for s in apart.dev.segments] == ["b"]


# ---------------------------------------------------------------- batches

class Stream:
    """A token file whose token i is i + first: a batch shows where it was cut.

    first is beyond the special tokens and the bytes, so that there is no `<s>` and no newline.
    """
    first = 300
    bos_id, newline_id = Tokenizer.bos_id, Tokenizer.newline_id

    def __init__(self, count):
        self.tokens = np.arange(self.first, self.first + count, dtype=np.uint16)
        self.count = count


@pytest.fixture
def small(make_config):
    """small(**keys): a Config of 5 x 8 tokens a batch and seed 7."""
    return lambda **keys: make_config(**{"block_size": 8, "batch_size": 5, "seed": 7, **keys})


def first_tokens(x):
    """(B,) where the chunks x (B, T) of a Stream begin."""
    return x[:, 0].numpy() - Stream.first


@pytest.mark.parametrize("random_offset", [True, False])
def test_an_epoch_takes_every_chunk_once(small, random_offset):
    config = small(random_offset=random_offset)
    now = config.at(0)
    batches = Batches(Stream(1000), config)
    n = batches.per_epoch
    assert n == batches.chunks // 5
    epochs = []
    for epoch in range(2):
        x = torch.cat([batches.batch(epoch * n + i, now)[0] for i in range(n)])
        assert (x[:, 1:] - x[:, :-1] == 1).all()
        starts = first_tokens(x)
        epochs.append(starts.tolist())
        if random_offset:
            assert set(starts % 8) == set(range(8))
        else:
            assert set(starts % 8) == {0}
            assert len(set(starts // 8)) == n * 5
    assert epochs[0] != epochs[1]


def test_batches_are_a_function_of_seed_and_step(small):
    config = small()
    now = config.at(0)
    batches = Batches(Stream(1000), config)
    for step in (0, 3, 40, 41, 3):  # in any order, across epochs
        fresh = Batches(Stream(1000), config).batch(step, now)
        assert all(torch.equal(s, t) for s, t in zip(batches.batch(step, now), fresh))
    other = Batches(Stream(1000), small(seed=8))
    assert not torch.equal(batches.batch(0, now)[0], other.batch(0, now)[0])


def test_labels_are_the_next_tokens_and_never_the_mark(small):
    stream = Stream(500)
    stream.tokens[::10] = 1
    x, y = Batches(stream, small()).batch(0, small().at(0))
    assert (y != 1).all() and (y == -100).any() and (x == 1).any()
    assert torch.equal(torch.where(y[:, :-1] == -100, 1, y[:, :-1]), x[:, 1:])


def test_short_blocks_are_the_same_tokens(small):
    config = small(block_size="stages(0: 4, 0.5: 8)")
    batches = Batches(Stream(1000), config)
    x, y = batches.batch(3, config.at(0.5))
    short_x, short_y = batches.batch(3, config.at(0))
    assert x.shape == (5, 8) and short_x.shape == (10, 4)
    assert torch.equal(short_x.view(5, 8), x)
    assert torch.equal(short_y.view(5, 8), y)


def with_lines(count):
    """A Stream with newlines in it, and for each chunk of 8 tokens how many: some 0 to 5."""
    stream = Stream(count)
    rng = np.random.default_rng(0)
    newlines = rng.random(count) < np.repeat(rng.random(count // 8 + 1), 8)[:count] * 0.6
    stream.newlines = np.add.reduceat(newlines, np.arange(0, count, 8))
    stream.tokens = np.where(newlines, BYTE_ID[ord("\n")], stream.tokens).astype(np.uint16)
    return stream


def test_tokens_a_line_of_chunks():
    file = Stream(64)
    n = BYTE_ID[ord("\n")]
    file.tokens = np.array([7, n] * 8 + [7, 7, 7, n] * 4 + [7] * 8 + [7, n] * 4 + [7] * 16)
    expected = [8 / 5, 8 / 5, 8 / 3, 8 / 3, 8, 8 / 5, 8]
    assert data.line_length(file, 7, 8).tolist() == expected


def test_order_draws_from_the_easiest_until_half_way(small):
    """The easiest: chunks of the shortest lines, equal ones by chance."""
    config = small(order="length", random_offset=False, block_size="stages(0: 8, 0.9: 4)")
    file = with_lines(4010)
    batches = Batches(file, config)
    usual = Batches(Stream(4010), small(random_offset=False))
    batches.tokens = usual.tokens  # sorted by their newlines, chunks show now where they are
    newlines = file.newlines[:batches.chunks]

    for progress in (0.0, 0.1, 0.3, 0.49):
        now = config.at(progress)
        drawn = [first_tokens(batches.batch(step, now)[0]) // 8 for step in range(400)]
        assert all(len(set(chunks)) == 5 for chunks in drawn)
        drawn = np.concatenate(drawn)
        n = int((0.01 + 0.99 * progress / 0.5) ** 0.5 * batches.chunks)
        assert newlines[drawn].min() >= sorted(newlines)[-n]
        assert 0.9 * n < len(set(drawn)) <= n
    for step in (0, 7):  # the full mix is the usual order
        now = config.at(0.5)
        assert torch.equal(batches.batch(step, now)[0], usual.batch(step, now)[0])


@pytest.mark.parametrize("order", ["", "length"])
def test_the_words_that_were_read_are_counted(texts, make_config, order):
    """Against the text of all batches: short lines have fewer words per token than the rest."""
    (texts / "childes.train").write_text("".join(f"*MOT: no {i % 7} .\n" for i in range(3000)))
    (texts / "gutenberg.train.txt").write_text("it was the best of times and the worst\n" * 1500)
    config = make_config(corpus=str(texts), vocab_size=0, order=order, mark="line", block_size=16,
                         batch_size=8)
    p = prepare(config)
    batches = Batches(p.train, config)
    steps = 400
    words_read = batches.words_read(steps, p.tokenizer)
    read = [words_read(step) for step in range(steps + 1)]
    assert read[0] == 0

    words = 0
    for step in range(steps):
        x, _ = batches.batch(step, config.at(step / steps))
        ids = x.numpy()
        begins = [p.tokenizer.tokens()[i][:1] in (b" ", b"\n") for i in ids[ids != 1]]
        words += sum(begins)
        if step + 1 in (100, 200, 400):
            assert read[step + 1] == pytest.approx(words, rel=0.02)
    claimed = 100 * 8 * 16 * p.train.words / p.train.count  # as if every chunk had as many
    assert (read[100] < 0.95 * claimed) == (order == "length")


def test_order_with_offsets_and_short_blocks(small):
    config = small(order="length", block_size="stages(0: 4, 0.3: 8)")
    batches = Batches(with_lines(4010), config)
    short, _ = batches.batch(7, config.at(0.2))
    long = config.at(0.2)
    long.block_size = 8
    assert torch.equal(short.view(5, 8), batches.batch(7, long)[0])
    fresh = Batches(with_lines(4010), config)
    assert torch.equal(short, fresh.batch(7, config.at(0.2))[0])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_every_id_that_the_file_can_hold_is_kept(dtype):
    file = Stream(101)
    file.tokens = np.linspace(3, min(np.iinfo(dtype).max, 2**31), 101).astype(dtype)
    file.segments = [["all", 0, 202, 0, 0]]
    x, y = validation_blocks(file, 10)
    assert torch.equal(x.flatten(), torch.from_numpy(file.tokens[:100].astype(np.int64)))
    assert y[-1, -1] == file.tokens[100]


def of_segments(*ends):
    """A Stream of segments that end there."""
    file = Stream(ends[-1])
    starts = [0, *ends[:-1]]
    file.segments = [["domain", start, end, 0, 0] for start, end in zip(starts, ends)]
    return file


def test_the_first_half_of_each_domain_validates():
    x, y = validation_blocks(of_segments(202), 10)
    assert torch.equal(x.flatten(), torch.arange(100) + Stream.first)
    assert torch.equal(y, x + 1)
    few, _ = validation_blocks(of_segments(2002), 10, 50)
    assert first_tokens(few).tolist() == [0, 250, 500, 740, 990]  # five of a hundred, evenly spread

    of_two, _ = validation_blocks(of_segments(60, 110), 10)  # of 0 .. 29 and of 60 .. 84
    assert first_tokens(of_two).tolist() == [0, 10, 60, 70]
