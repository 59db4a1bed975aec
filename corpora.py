"""Where text comes from: corpora by name, path or address, safe downloads, cleaning by domain.

    resolve(corpus, data_dir)        -> [(domain, path), ...], downloaded where need be
    clean(domain, read_lines(path))  -> lines of clean text

A domain is a file's name up to the first dot, as BabyLM's are: childes.train, gutenberg.dev.
"""
import collections
import glob
import hashlib
import http.client
import os
import pathlib
import shutil
import tempfile
import urllib.request
import zipfile
import zlib

import regex
from tqdm import tqdm

from config import UserError

DOMAINS = ("bnc_spoken", "childes", "gutenberg", "open_subtitles", "simple_wiki", "switchboard")
TEXT_ENDINGS = (".train", ".dev", ".test", ".txt")
HF = "https://huggingface.co/"
BABYLM = HF + "datasets/BabyLM-community/"
SMALL_2026 = BABYLM + "BabyLM-2026-Strict-Small/resolve/c92ab16b4f08858304b0815706065b3354d8fc0a/"
LARGE_2026 = BABYLM + "BabyLM-2026-Strict/resolve/main/"

# addresses: one zip, or a plain file a domain; megabytes that it may have at most, unpacked; the
# name of its development text, "" for none
Corpus = collections.namedtuple("Corpus", "addresses megabytes dev")
CORPORA = {
    # BabyLM 2024: strict-small is the paper's
    "babylm_10m": Corpus(["https://osf.io/download/y7djq"], 200, "babylm_dev"),
    "babylm_100m": Corpus(["https://osf.io/download/ywea7"], 2000, "babylm_dev"),
    "babylm_dev": Corpus(["https://osf.io/download/uyd7v"], 200, ""),
    "babylm_test": Corpus(["https://osf.io/download/ftwu3"], 200, ""),
    # BabyLM 2026: some 55 MB, and ten times that
    "babylm_2026_10m": Corpus([f"{SMALL_2026}{d}.train.txt" for d in DOMAINS], 200, ""),
    "babylm_2026_100m": Corpus([f"{LARGE_2026}{d}.train.txt" for d in DOMAINS], 2000, ""),
}


def resolve(corpus, data_dir):
    """The text files [(domain, path), ...] of a corpus, in the order of their names.

    corpus: a name in CORPORA or an address, fetched into data_dir/raw; a folder, a file or a glob.
    Raises UserError if there is no text.
    """
    if corpus in CORPORA:
        known = CORPORA[corpus]
        path = fetch(corpus, known.addresses, known.megabytes << 20, data_dir)
    elif corpus.startswith(("http://", "https://")):
        name = "url-" + hashlib.sha256(corpus.encode()).hexdigest()[:12]
        path = fetch(name, [corpus], 4 << 30, data_dir)
    else:
        path = pathlib.Path(corpus)

    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_text_name(file.name))
    elif path.is_file():
        files = [path]
    else:
        files = sorted(pathlib.Path(p) for p in glob.glob(corpus) if os.path.isfile(p))
    if not files:
        raise UserError(f"corpus {corpus!r}: no text there; known names: babytalk, "
                        f"{', '.join(CORPORA)}; else a file, a glob, or a folder with files "
                        f"{', '.join('*' + ending for ending in TEXT_ENDINGS)}")
    return [(file.name.split(".")[0], file) for file in files]


def is_text_name(name):
    return name.endswith(TEXT_ENDINGS) and not name.startswith(".")


# ---------------------------------------------------------------- downloads

HINT = "or pass a file or folder that you have: --corpus=PATH --dev=PATH"


def fetch(name, addresses, limit, data_dir):
    """The folder data_dir/raw/name of a corpus, downloaded where it is not there yet.

    limit: bytes that a file, or what a zip unpacks to, may have. It is built aside and renamed, so
    that what is there is whole. Raises UserError.
    """
    folder = pathlib.Path(data_dir) / "raw" / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as aside:
        for url in addresses:
            file_name = url.rstrip("/").rsplit("/", 1)[-1].split("?")[0] or "text"
            file = pathlib.Path(aside, file_name)
            download(url, file, limit)
            with open(file, "rb") as f:
                is_zip = f.read(2) == b"PK"  # also one that is cut: unzip will say so
            if is_zip:
                archive = file.rename(file.with_name(".zip"))
                unzip(archive, file.parent, limit)
                archive.unlink()
            elif not file.name.endswith(TEXT_ENDINGS):
                if name in CORPORA:  # it should have been a zip
                    raise UserError(f"{url} is not a whole zip; try again, {HINT}")
                file.rename(file.with_name(file.name + ".txt"))
        os.replace(aside, folder)
    return folder


def download(url, path, limit):
    """Fetch url to the file path, at most `limit` bytes.

    Raises UserError if it cannot be fetched, if it breaks off, and for what is no text: nothing, a
    page of HTML, too much. What has arrived stays there.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "onecoach"})
    token = os.environ.get("HF_TOKEN")
    if token and url.startswith(HF):
        # not on to another host
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer, open(path, "wb") as f:
            total = int(answer.headers.get("Content-Length") or 0)
            shown = dict(total=total or None, desc=url[-40:], disable=None)
            with tqdm.wrapattr(answer, "read", **shown) as body:
                while block := body.read(1 << 20):
                    f.write(block)
                    if f.tell() > limit:
                        raise UserError(f"{url} is larger than the {limit >> 20} MB expected; "
                                        f"check the address, {HINT}")
            size = f.tell()
    except (OSError, ValueError, EOFError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or e
        raise UserError(f"{url} could not be fetched ({reason}); is there a network? Try again, "
                        f"{HINT}")

    if total and size != total:
        raise UserError(f"{url} broke off: {size} of {total} bytes; try again, {HINT}")
    with open(path, "rb") as f:
        head = f.read(512).lstrip().lower()
    if size == 0 or head.startswith((b"<!doctype", b"<html")):
        what = "a page of HTML" if size else "nothing"
        raise UserError(f"{url} gave {what} where text was expected; {HINT}")


def unzip(archive, folder, limit):
    """Unpack the text files of a zip into `folder`, without their own folders.

    Raises UserError for a damaged zip, one that unpacks to more than `limit` bytes, or holds a link
    or a path that leads outside.
    """
    try:
        with zipfile.ZipFile(archive) as z:
            members = [m for m in z.infolist() if not m.is_dir() and "__MACOSX" not in m.filename]
            for member in members:
                if leads_outside(member):
                    raise UserError(f"{archive}: the zip holds {member.filename!r}, which would "
                                    "leave its folder; not unpacked")
            if sum(member.file_size for member in members) > limit:
                raise UserError(f"{archive}: the zip unpacks to more than {limit >> 20} MB; not "
                                "unpacked")
            unpack(z, members, archive, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
            OSError) as e:
        raise UserError(f"{archive}: not a whole zip ({e}); try again, or pass a path: "
                        "--corpus=PATH")


def leads_outside(member):
    """True for a member of a zip that is a link, or whose path leaves the folder it is put in."""
    path = pathlib.PurePosixPath(member.filename.replace("\\", "/"))
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    return is_link or path.is_absolute() or ".." in path.parts or ":" in member.filename


def unpack(z, members, archive, folder):
    """Those members of a zip that are text, into the folder; UserError if there are none."""
    texts = [(pathlib.PurePosixPath(member.filename).name, member) for member in members]
    texts = [(name, member) for name, member in texts if is_text_name(name)]
    if not texts:
        raise UserError(f"{archive}: the zip holds no text file ({', '.join(TEXT_ENDINGS)})")
    for name, member in texts:
        if (folder / name).exists():
            raise UserError(f"{archive}: the zip holds {name!r} in several folders; unpack it "
                            "yourself and pass a path")
        with z.open(member) as source, open(folder / name, "wb") as target:
            shutil.copyfileobj(source, target)


# ---------------------------------------------------------------- cleaning

# What is removed, by domain, in this order.
CLEAN = {
    "childes": [
        (r"^\*[A-Z0-9]{1,7}:\s*", "speaker mark: *MOT: where is it ?"),
        (r"=(?: =){2} childes/\S+ =(?: =){2}", "name of a file: = = = childes/Eng-NA/x.cha = = ="),
        (r"\[[^\]]*\]", "transcriber's comment: [laughs]"),
        (r"\b(?:xxx|yyy|www)\b", "unintelligible or untranscribed speech"),
        (r"(?:^|(?<=\s))[&0][A-Za-z~=:]+(?=\s|$|[.?!,])",
         "fragments and words left out: &ah 0diary"),
        (r"\s+(?=[.?!,])", "space left before punctuation"),
    ],
    "switchboard": [
        (r"^[A-Z]:\s+", "speaker mark: A:"),
    ],
    "bnc_spoken": [
        (r"<[^>]{1,40}>", "markup: <pause>"),
        (r"\[[^\]]*\]", "transcriber's comment: [laugh]"),
    ],
    "gutenberg": [
        (r"=(?: =){2} PG\d+ =(?: =){2}", "number of a book: = = = PG53602 = = ="),
        (r"^\s*(?:[*=_-]\s*){3,}$", "rule between sections: * * * * *"),
        (r"\[(?:Illustration|Footnote|Sidenote)[^\]]*\]?",
         "editor's insertion: [Illustration: A dog]"),
        (r"\[(?:\d+|Pg \d+|[A-Z])\]|\{\d+\}", "footnote and page marks: [12] {34}"),
        (r"_(?=\w)|(?<=[\w.,;:!?'’-])_", "italics: _not_"),
    ],
    "open_subtitles": [
        (r"<[^>]{1,40}>|\{[^}]{1,40}\}", "markup: <i> {y:i}"),
        (r"\[[^\]]*\]", "sound for the deaf: [door opens]"),
        (r"[♪♫#]+", "song mark"),
        (r"^\s*-+\s*", "dash of a new speaker: - Yes."),
    ],
    "simple_wiki": [
        (r"^.*\|\|.*$", "row of a table: 388||69||22"),
        (r"^\s*=(?:\s*=)+.*=(?:\s*=)+\s*$", "heading: = = = Confetti = = ="),
        (r"=(?:\s*=){2,}", "mark of a heading broken over lines: = = ="),
        (r"\[\[|\]\]|'{2,}|</?[a-z]{1,10}[^>]{0,40}>|^[*#:]+\s+",
         "markup: [[link]] ''italic'' <ref> * item"),
    ],
}
# Then, in every domain: what becomes what.
ALWAYS = [
    (r"\ufeff", "", "byte order mark"),
    (r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]|[^\S\n]+", " ",
     "control characters, runs of spaces: one space stays"),
    (r" {2,}", " ", "what that left"),
]
# HTML's entities (&amp;) stay: some 400 lines of simple_wiki.


def clean(domain, lines):
    """Yield lines of text cleaned as their domain asks, without line ends.

    A line in which no letter and no digit is left is dropped.
    """
    rules = [(regex.compile(pattern), "") for pattern, _ in CLEAN.get(domain, [])]
    rules += [(regex.compile(pattern), becomes) for pattern, becomes, _ in ALWAYS]
    for line in lines:
        for rule, becomes in rules:
            line = rule.sub(becomes, line)
        if regex.search(r"[\p{L}\p{N}]", line):
            yield line.strip()


def read_lines(path):
    """Yield the lines of a UTF-8 file without their ends; UserError names one that is not UTF-8."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {number}: not UTF-8 text; convert the file first")
