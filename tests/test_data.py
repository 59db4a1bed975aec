"""Corpora to batches: what cleaning removes, what a token file holds, that batches are a function of seed and step."""
import pathlib

import numpy as np
import pytest
import torch

import corpora
import data
from config import UserError
from corpora import CLEAN, clean
from data import Batches, TokenFile, eval_blocks, prepare, tokens_a_line


@pytest.fixture
def texts(tmp_path):
    """A folder of two domains with some 3,000 words."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "childes.train").write_text("".join(f"*MOT: the cat sees {i} dogs [laughs].\n" for i in range(400)))
    (folder / "gutenberg.train.txt").write_text("".join(f"It was the year {i}, and _nobody_ knew.\n\n" for i in range(300)))
    return folder


def tree(folder):
    return {p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def plain(file, tokenizer):
    ids = np.asarray(file.tokens)
    return tokenizer.decode(ids[ids != 1])


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
    ("other", "  a\tb   c\x00 \n", "a b c"),
    ("other", "*MOT: kept _so_ [x]", "*MOT: kept _so_ [x]"),
    ("other", " -- ... ", None),
])
def test_cleaning(domain, line, expected):
    assert list(clean(domain, [line])) == ([] if expected is None else [expected])


def test_every_cleaning_rule_says_what_it_removes():
    assert set(CLEAN) == set(corpora.DOMAINS)
    for rules in CLEAN.values():
        assert all(len(rule) == 2 and len(rule[1]) > 5 for rule in rules)


# ---------------------------------------------------------------- preparation

def test_prepare(texts, make_config):
    cfg = make_config(corpus=str(texts), vocab_size=300, mark="none")
    p = prepare(cfg)
    train, dev = plain(p.train, p.tokenizer), plain(p.dev, p.tokenizer)
    assert train.startswith("the cat sees 0 dogs.\nthe cat sees 1 dogs.\n") and "[laughs]" not in train
    assert dev == "".join(f"the cat sees {i} dogs.\n" for i in range(392, 400)) + "".join(
        f"It was the year {i}, and nobody knew.\n" for i in range(294, 300))  # the last 2% of each file, kept out of training
    assert "dogs.\nIt was" in train and not any(line in train for line in dev.splitlines())
    assert p.tokenizer.vocab_size == 300 and p.train.tokens.dtype == np.uint16
    assert [s[0] for s in p.train.segments] == ["childes", "gutenberg"]
    for name, start, stop, words, size in p.train.segments:
        assert p.train.tokens[start] == 1 and (np.asarray(p.train.tokens[start + 1:stop]) != 1).all()  # <s> opens a file
        text = p.tokenizer.decode(p.train.tokens[start + 1:stop])
        assert len(text.split()) == words and len(text.encode()) == size
    assert p.train.words == sum(s[3] for s in p.train.segments) == len(train.split())


@pytest.mark.parametrize("mark", ["none", "half", "line"])
def test_marks(texts, make_config, mark):
    p = prepare(make_config(corpus=str(texts), vocab_size=300, mark=mark))
    ids = np.asarray(p.train.tokens)
    newline = p.tokenizer.encode("\n")[0]
    starts = np.concatenate([[True], ids[:-1] == newline])
    marked, lines = (ids == 1).sum(), (ids == newline).sum()
    assert starts[ids == 1].all()
    if mark == "none":
        assert marked == 2
    if mark == "line":
        assert marked == lines
    if mark == "half":
        assert abs(marked - lines / 2) < 4 * np.sqrt(lines / 4)
    x, y = Batches(p.train, 16, 8, 0, True, mark).batch(0)
    assert (x[:, 0] == 1).all() == (mark == "block")


def test_babytalk_words_are_single_tokens(make_config):
    import babytalk
    p = prepare(make_config(corpus="babytalk", sentences=300))
    assert all(len(p.tokenizer.encode(form)) == 1 for form in babytalk.forms())
    assert p.train.tokens.shape != p.dev.tokens.shape


def test_prepare_twice_does_nothing_twice(texts, make_config):
    cfg = make_config(corpus=str(texts), vocab_size=300)
    first = prepare(cfg)
    before = tree(first.folder.parent)
    assert prepare(cfg).folder == first.folder and tree(first.folder.parent) == before
    assert prepare(make_config(corpus=str(texts), vocab_size=300, seed=1)).folder != first.folder
    (texts / "childes.train").write_text("other text\n" * 500)
    assert prepare(cfg).folder != first.folder  # the text counts, not its name


def test_prepare_is_deterministic(texts, make_config, tmp_path):
    cfg = make_config(corpus=str(texts), vocab_size=300)
    a = tree(prepare(cfg).folder)
    b = tree(prepare(make_config(corpus=str(texts), vocab_size=300, data_dir=str(tmp_path / "again"))).folder)
    assert {k: v[1] for k, v in a.items()} == {k: v[1] for k, v in b.items()} and len(a) == 3


@pytest.mark.parametrize("where", ["train_bpe", "write_tokens", "TokenFile.__init__"])
def test_interrupted_preparation_leaves_nothing_half_written(texts, make_config, monkeypatch, where):
    cfg = make_config(corpus=str(texts), vocab_size=300)
    calls = []

    def interrupt(*args):
        calls.append(1)
        raise KeyboardInterrupt
    owner, name = (data, where) if "." not in where else (TokenFile, "__init__")
    with monkeypatch.context() as m:
        m.setattr(owner, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(cfg)
    folders = list(pathlib.Path(cfg.data_dir).iterdir())
    assert calls and (len(folders) == (1 if "." in where else 0))  # all of it, or nothing
    assert prepare(cfg).train.count > 1000


def test_given_tokenizer(texts, make_config, tmp_path):
    first = prepare(make_config(corpus=str(texts), vocab_size=300))
    given = prepare(make_config(corpus=str(texts), vocab_size=300, tokenizer=str(first.folder)))
    assert given.tokenizer.hash == first.tokenizer.hash and given.folder != first.folder
    assert np.array_equal(given.train.tokens, first.train.tokens)


def test_max_words(texts, make_config):
    whole = prepare(make_config(corpus=str(texts), vocab_size=300))
    part = prepare(make_config(corpus=str(texts), vocab_size=300, max_words=1000))
    assert 950 < part.train.words <= 1000
    shares = [a[3] / b[3] for a, b in zip(part.train.segments, whole.train.segments)]
    assert abs(shares[0] - shares[1]) < 0.01
    assert plain(whole.train, whole.tokenizer).startswith(plain(part.train, part.tokenizer)[:500])


# ---------------------------------------------------------------- bad input

def one_line(function, *args, match):
    with pytest.raises(UserError, match=match) as e:
        function(*args)
    assert "\n" not in str(e.value)


def test_bad_corpora(texts, make_config, tmp_path):
    one_line(prepare, make_config(corpus="nowhere/at/all"), match="'nowhere/at/all': no text there; known names: babytalk, babylm_10m")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n--\n")
    one_line(prepare, make_config(corpus=str(empty)), match="empty.txt: empty, no text is left")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"fine\ncaf\xe9\n")
    one_line(prepare, make_config(corpus=str(latin)), match="latin.txt, line 2: not UTF-8")
    one_line(prepare, make_config(corpus=str(texts), vocab_size=50_000), match="vocab_size = 50000: the corpus fills only")
    one_line(prepare, make_config(corpus=str(texts), tokenizer=str(tmp_path / "none.json")), match="none.json: No such file")
    assert not [p for p in (tmp_path / "out/data").iterdir()]  # a refused preparation leaves nothing


def test_bad_token_files(texts, make_config, tmp_path):
    p = prepare(make_config(corpus=str(texts), vocab_size=300))
    good, file = (p.folder / "train.bin").read_bytes(), tmp_path / "t.bin"
    def refused(content, match, *args):
        file.write_bytes(content)
        one_line(TokenFile, file, *args, match=match)
    refused(good[:-2], "cut short")
    refused(good + b"xx", "too long")
    refused(good[:30], "damaged")
    refused(b"", "not a token file")
    refused(b"x" + good[1:], "not a token file")
    refused(good.replace(b'"uint16"', b'"object"'), "damaged")
    refused(good, "made with tokenizer .*, not abc", "abc")
    file.write_bytes(good)
    assert TokenFile(file, p.tokenizer.hash).count == p.train.count
    one_line(TokenFile, tmp_path / "none.bin", match="No such file")


def test_corpus_smaller_than_one_batch(texts, make_config):
    p = prepare(make_config(corpus=str(texts), vocab_size=300))
    one_line(Batches, p.train, 128, 10**6, 0, match="fewer than one batch of 1000000 x 128")
    one_line(eval_blocks, p.dev, 10**6, match="fewer than one block of 1000000")


# ---------------------------------------------------------------- batches

class Stream:
    """A token file whose token i is i + 3: a batch shows where it was cut."""
    def __init__(self, count):
        self.tokens, self.count = np.arange(3, count + 3, dtype=np.uint16), count


@pytest.mark.parametrize("random_offset", [True, False])
def test_an_epoch_takes_every_chunk_once(random_offset):
    T, B = 8, 5
    batches = Batches(Stream(1000), T, B, 0, random_offset)
    epochs = []
    for epoch in range(2):
        x = torch.cat([batches.batch(epoch * batches.per_epoch + i)[0] for i in range(batches.per_epoch)])
        assert (x[:, 1:] - x[:, :-1] == 1).all()
        chunk, offset = (x[:, 0] - 3) // T, (x[:, 0] - 3) % T
        epochs.append((x[:, 0].tolist(), offset))
        if random_offset:
            assert len(set(offset.tolist())) == T
        else:
            assert (offset == 0).all() and len(set(chunk.tolist())) == batches.per_epoch * B == batches.chunks // B * B
    assert epochs[0][0] != epochs[1][0]


def test_batches_are_a_function_of_seed_and_step():
    a, b = Batches(Stream(1000), 8, 5, 7), Batches(Stream(1000), 8, 5, 7)
    for step in (0, 3, 40, 41, 3):  # in any order, across epochs
        fresh = Batches(Stream(1000), 8, 5, 7).batch(step)
        assert all(torch.equal(s, t) for s, t in zip(a.batch(step), fresh))
    assert not torch.equal(b.batch(0)[0], Batches(Stream(1000), 8, 5, 8).batch(0)[0])


def test_labels_are_the_next_tokens_and_never_the_mark():
    stream = Stream(500)
    stream.tokens[::10] = 1
    for mark in ("none",):
        x, y = Batches(stream, 8, 5, 0, True, mark).batch(0)
        assert (y != 1).all() and (y == -100).any()
        if mark == "block":
            assert torch.equal(torch.where(y[:, :-1] == -100, 1, y[:, :-1]), x[:, 1:])  # x is <s> and then y, shifted
        else:
            assert torch.equal(torch.where(y[:, :-1] == -100, 1, y[:, :-1]), x[:, 1:]) and (x == 1).any()


def test_order_draws_from_the_easiest_until_half_way():
    batches, plain = Batches(Stream(4010), 8, 5, 7), Batches(Stream(4010), 8, 5, 7)
    hardness = np.random.default_rng(0).permutation(batches.chunks)
    batches.sort(hardness)
    for progress in (0.0, 0.1, 0.3, 0.49):
        drawn = np.concatenate([hardness[(batches.batch(step, None, progress)[0][:, 0].numpy() - 3) // 8] for step in range(400)])
        share = (0.01 + 0.99 * progress / 0.5) ** 0.5
        assert drawn.max() < share * batches.chunks and len(set(drawn)) > 0.9 * share * batches.chunks
    for step in (0, 7):
        assert torch.equal(batches.batch(step, None, 0.5)[0], plain.batch(step)[0])  # the full mix is the usual order
        assert torch.equal(batches.batch(step, 4, 0.2)[0].view(5, 8), batches.batch(step, None, 0.2)[0])
        assert len(set(batches.batch(step, None, 0.0)[0][:, 0].tolist())) == 5


def test_tokens_a_line_of_chunks_and_of_domains():
    file = Stream(64)
    file.tokens = np.array(([7, 2] * 8 + [7, 7, 7, 2] * 4 + [7] * 8 + [7, 2] * 4 + [7] * 16), dtype=np.uint16)  # 2 is the newline
    file.segments = [["short", 0, 32, 0, 0], ["long", 32, 64, 0, 0]]
    assert tokens_a_line("length", file, 7, 8, 2).tolist() == [8 / 5, 8 / 5, 8 / 3, 8 / 3, 8, 8 / 5, 8]
    assert tokens_a_line("domain", file, 7, 8, 2).tolist() == [32 / 13] * 4 + [32 / 5] * 3
    file.segments = file.segments[:1]
    with pytest.raises(UserError, match="one domain only"):
        tokens_a_line("domain", file, 7, 8, 2)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_every_id_that_the_file_can_hold_is_kept(dtype):
    file = Stream(101)
    file.tokens = np.linspace(3, min(np.iinfo(dtype).max, 2**31), 101).astype(dtype)
    x, y = eval_blocks(file, 10)
    assert torch.equal(x.flatten(), torch.from_numpy(file.tokens[:100].astype(np.int64))) and y[-1, -1] == file.tokens[100]


def test_eval_blocks():
    x, y = eval_blocks(Stream(101), 10)
    assert torch.equal(x.flatten(), torch.arange(3, 103)) and torch.equal(y.flatten(), torch.arange(4, 104))
    few, _ = eval_blocks(Stream(1001), 10, 50)
    assert few[:, 0].tolist() == [3, 253, 503, 743, 993]  # five blocks of a hundred, evenly spread


def test_the_same_files_in_other_roles_are_prepared_anew(tmp_path, make_config):
    """Text that was trained on yesterday and is development text today must not be trained on again."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in "ab":
        (corpus / f"{name}.txt").write_text("".join(f"{name} word {i} is here\n" for i in range(500)))
    both = prepare(make_config(corpus=str(corpus), vocab_size=262))
    (corpus / "b.txt").rename(tmp_path / "b.txt")
    apart = prepare(make_config(corpus=str(corpus), dev=str(tmp_path / "b.txt"), vocab_size=262))
    assert both.folder != apart.folder and [s[0] for s in apart.train.segments] == ["a"] and [s[0] for s in apart.dev.segments] == ["b"]


def test_a_corpus_too_short_for_a_tail_says_so(tmp_path, make_config):
    (tmp_path / "t.txt").write_text("a b c\n" * 20)
    one_line(prepare, make_config(corpus=str(tmp_path / "t.txt"), vocab_size=260), match="last 2%.*--dev")
