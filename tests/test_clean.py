r"""Cleaning by the block is cleaning line by line, byte for byte.

    python -m pytest tests/test_clean.py                            a slice of each domain
    python tests/test_clean.py ../shared/data/babylm_10m/train/*    whole files

The plain form, from which the rules of corpora.py were taken: each line by itself.
"""
import pathlib
import random
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import pytest

import data
from onecoach import corpora
from onecoach.config import UserError
from onecoach.corpora import clean, read_blocks

# ---------------------------------------------------------------- line by line

PLAIN = {
    "childes": [r"^\*[A-Z0-9]{1,7}:\s*",
                r"=(?: =){2} childes/\S+ =(?: =){2}",
                r"\[[^\[\]]*\]",
                r"\b(?:xxx|yyy|www)\b",
                r"(?:^|(?<=\s))[&0][A-Za-z~=:]+(?=\s|$|[.?!,])",
                r"(?<!\s)\s+(?=[.?!,])"],
    "switchboard": [r"^[A-Z]:\s+"],
    "bnc_spoken": [r"<[^>]{1,40}>",
                   r"\[[^\[\]]*\]"],
    "gutenberg": [r"=(?: =){2} PG\d+ =(?: =){2}",
                  r"^\s*(?:[*=_-]\s*){3,}$",
                  r"\[(?:Illustration|Footnote|Sidenote)[^\]]*\]?",
                  r"\[(?:\d+|Pg \d+|[A-Z])\]|\{\d+\}",
                  r"_(?=\w)|(?<=[\w.,;:!?'’-])_"],
    "open_subtitles": [r"<[^>]{1,40}>|\{[^}]{1,40}\}",
                       r"\[[^\[\]]*\]",
                       r"[♪♫#]+",
                       r"^\s*-+\s*"],
    "simple_wiki": [r"^.*\|\|.*$",
                    r"^\s*=\s*=.*=\s*=\s*$",
                    r"=(?:\s*=){2,}",
                    r"\[\[|\]\]|'{2,}|</?[a-z]{1,10}[^>]{0,40}>|^[*#:]+\s+"],
}
DOMAINS = [*PLAIN, "other"]


def plain_lines(path):
    r"""The lines of a file without their ends, which may be \n, \r\n or \r."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {number}: not UTF-8 text; convert the file first")
            yield from text.rstrip("\r\n").split("\r")


def plain_clean(domain, line):
    r"""A clean line with its "\n"; "" if no letter and no digit is left."""
    for pattern in PLAIN.get(domain, []):
        line = re.sub(pattern, "", line)
    line = line.replace("\ufeff", "")
    line = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]|[^\S\n]+", " ", line)
    line = re.sub(" {2,}", " ", line)
    return f"{line.strip()}\n" if any(map(str.isalnum, line)) else ""


def same(domain, path):
    """The clean text of a file by either form, which is to be the same."""
    by_block = "".join(clean(domain, block) for block in read_blocks(path))
    by_line = "".join(plain_clean(domain, line) for line in plain_lines(path))
    assert by_block == by_line, path
    return by_block


# ---------------------------------------------------------------- real text

@pytest.mark.parametrize("domain", PLAIN)
@pytest.mark.parametrize("block", [20_000, 1 << 20])
def test_a_slice_of_each_domain(domain, block, babylm, monkeypatch, tmp_path):
    """Half a megabyte of development text, and 300 kB from within the training text."""
    monkeypatch.setattr(corpora, "BLOCK", block)
    folder = babylm / "data/babylm_10m"
    assert len(same(domain, folder / f"dev/{domain}.dev")) > 80_000
    with open(folder / f"train/{domain}.train", "rb") as f:
        f.seek(300_000)
        f.readline()
        lines = f.read(300_000) + f.readline()
    (tmp_path / "slice.txt").write_bytes(lines)
    assert len(same(domain, tmp_path / "slice.txt")) > 150_000


# ---------------------------------------------------------------- text made to be difficult

UNITS = ["[", "]", "[a]", "[laughs", "[Illustration", "[Footnote: a]", "[1", "[12]", "[Pg 3]", "{",
         "{1}", "}", "<", "<a>", "</ref b>", ">", "=", "= ", "= = =", "= = = PG1 = = =",
         "= = = childes/a.cha = = =", "*", "* ", "**", "#", ":", "_", "_a_", "_.", ".", "?", ",",
         " ", "  ", "\t", " .", " ,", "-", "--", "- ", "'", "''", "’", "|", "||", "&a", "&", "0",
         "0a ", " 0a.", "♪", "♫#", "xxx", "yyy ", "*MOT:", "*MOT: ",
         "A:", "A: ", "a", "é", "B",
         "7", "the cat ", "中", "😀", "٣", "½", "\x00", "\x01", "\x0b", "\x0c", "\x1c",
         "\x1f",
         "\x7f", "\x85", "\xa0", "\u200b", "\u2003", "\u2028", "\u2029", "\u3000", "\ufeff"]
ENDS = ["\n", "\n", "\n\n", "\r\n", "\r", "\r\r\n", "\n\r", ""]


def odd_line(rng, units):
    """Of a few units, so that they meet; sometimes one of them many times."""
    line = [rng.choice(units) * (rng.randint(40, 400) if rng.random() < 0.03 else 1)
            for _ in range(rng.randint(0, 12))]
    return "".join(line)


@pytest.mark.parametrize("domain", DOMAINS)
def test_odd_lines(domain):
    rng = random.Random(domain)
    for _ in range(300):
        units = rng.sample(UNITS, rng.randint(2, 12))
        lines = [odd_line(rng, units) for _ in range(rng.randint(0, 12))]
        text = "".join(f"{line}\n" for line in lines)
        assert clean(domain, text) == "".join(plain_clean(domain, line) for line in lines)


def test_every_character_within_a_line_and_alone():
    characters = [chr(i) for i in range(0x10000) if not 0xd800 <= i < 0xe000]  # no half pairs
    characters = sorted({*characters} - {"\n", "\r"})
    for lines in ([f"a{c}b" for c in characters], characters):
        by_line = "".join(plain_clean("other", line) for line in lines)
        assert clean("other", "".join(f"{line}\n" for line in lines)) == by_line


@pytest.mark.parametrize("domain", DOMAINS)
def test_odd_files(domain, monkeypatch, tmp_path):
    """Of line ends of all kinds, wherever a block ends; cut into shares as lines are."""
    monkeypatch.setattr(corpora, "recognise", lambda head: "")  # some look like something else
    rng = random.Random(domain)
    file = tmp_path / "a.txt"
    for i in range(100):
        lines = [odd_line(rng, UNITS) + rng.choice(ENDS) for _ in range(rng.randint(0, 30))]
        file.write_bytes("".join(lines).encode())
        monkeypatch.setattr(corpora, "BLOCK", rng.choice([1, 10, 100, 1 << 20]))
        same(domain, file)

        start, stop = sorted([rng.random(), rng.random()])
        lines = list(plain_lines(file))
        share = lines[round(len(lines) * start):round(len(lines) * stop)]
        read = "".join(data.read_share(file, start, stop))
        assert read == "".join(f"{line}\n" for line in share), i


def test_the_line_that_is_no_text_is_named(monkeypatch, tmp_path):
    """By its number in the file, in whatever block it is."""
    rng = random.Random(0)
    file = tmp_path / "a.txt"
    for _ in range(100):
        lines = [rng.choice([b"the cat", b"a\rb", "é中".encode(), b""]) for _ in range(30)]
        for i in rng.sample(range(30), rng.randint(1, 2)):
            lines[i] += rng.choice([b"\xe9", b"\xff", b"\xc3", b"\xe4\xb8"])
        file.write_bytes(rng.choice([b"\n", b"\r\n"]).join(lines))
        monkeypatch.setattr(corpora, "BLOCK", rng.choice([1, 50, 1 << 20]))
        with pytest.raises(UserError) as by_line:
            list(plain_lines(file))
        with pytest.raises(UserError) as by_block:
            list(read_blocks(file))
        assert str(by_block.value) == str(by_line.value)


if __name__ == "__main__":
    for path in map(pathlib.Path, sys.argv[1:]):
        text = same(path.name.split(".")[0], path)
        print(f"{path}: {len(text):,} characters are left, the same by either form")
