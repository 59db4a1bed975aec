"""Where text comes from: corpora by name, path or address, safe downloads, cleaning per BabyLM domain. Used by data.py."""
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
HF = "https://huggingface.co/datasets/BabyLM-community/"
SMALL_2026 = HF + "BabyLM-2026-Strict-Small/resolve/c92ab16b4f08858304b0815706065b3354d8fc0a/"
# name -> (addresses: one zip, or a plain file a domain; MB that it may have at most, unpacked; name of its development text)
CORPORA = {
    "babylm_10m": (["https://osf.io/download/y7djq"], 200, "babylm_dev"),      # BabyLM 2024 strict-small: the paper's
    "babylm_100m": (["https://osf.io/download/ywea7"], 2000, "babylm_dev"),    # BabyLM 2024 strict
    "babylm_dev": (["https://osf.io/download/uyd7v"], 200, ""),
    "babylm_test": (["https://osf.io/download/ftwu3"], 200, ""),
    "babylm_2026_10m": ([SMALL_2026 + f"{d}.train.txt" for d in DOMAINS], 200, ""),  # some 55 MB
    "babylm_2026_100m": ([HF + f"BabyLM-2026-Strict/resolve/main/{d}.train.txt" for d in DOMAINS], 2000, ""),
}
TEXT_ENDINGS = (".train", ".dev", ".test", ".txt")

# ---------------------------------------------------------------- downloads

def download(url, path, limit):
    """Fetch url to path, at most limit bytes; UserError leaves a part, or what is not text (too short, HTML), there."""
    hint = "or pass a file or folder that you have: --corpus=PATH --dev=PATH"
    request = urllib.request.Request(url, headers={"User-Agent": "onecoach"})
    if os.environ.get("HF_TOKEN") and url.startswith("https://huggingface.co/"):
        request.add_unredirected_header("Authorization", f"Bearer {os.environ['HF_TOKEN']}")  # not on to other hosts
    try:
        with urllib.request.urlopen(request, timeout=30) as answer, open(path, "wb") as f:
            total = int(answer.headers.get("Content-Length") or 0)
            with tqdm.wrapattr(answer, "read", total=total or None, desc=url[-40:], disable=None) as watched:
                while block := watched.read(1 << 20):
                    f.write(block)
                    if f.tell() > limit:
                        raise UserError(f"{url} is larger than the {limit >> 20} MB expected; check the address, {hint}")
            size = f.tell()
        head = open(path, "rb").read(512)
        if total and size != total:
            raise UserError(f"{url} broke off: {size} of {total} bytes; try again, {hint}")
        if size == 0 or head.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
            raise UserError(f"{url} gave {'nothing' if size == 0 else 'a page of HTML'} where text was expected; {hint}")
    except (OSError, ValueError, EOFError, http.client.HTTPException) as e:  # URLError is an OSError
        reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or e
        raise UserError(f"{url} could not be fetched ({reason}); is there a network? Try again, {hint}")


def unzip(archive, folder, limit):
    """Unpack the text files of a zip flat into folder; UserError for a damaged one, links, outside paths, over limit."""
    try:
        with zipfile.ZipFile(archive) as z:
            members = [m for m in z.infolist() if not m.is_dir() and "__MACOSX" not in m.filename]
            for m in members:
                parts = pathlib.PurePosixPath(m.filename.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts or ":" in m.filename or (m.external_attr >> 16) & 0o170000 == 0o120000:
                    raise UserError(f"{archive}: the zip holds {m.filename!r}, which would leave its folder; not unpacked")
            if sum(m.file_size for m in members) > limit:
                raise UserError(f"{archive}: the zip unpacks to more than {limit >> 20} MB; not unpacked")
            names = [pathlib.PurePosixPath(m.filename).name for m in members]
            texts = [(n, m) for n, m in zip(names, members) if n.endswith(TEXT_ENDINGS) and not n.startswith(".")]
            if not texts:
                raise UserError(f"{archive}: the zip holds no text file ({', '.join(TEXT_ENDINGS)})")
            for name, m in texts:
                if (folder / name).exists():
                    raise UserError(f"{archive}: the zip holds {name!r} in several folders; unpack it yourself and pass a path")
                with z.open(m) as source, open(folder / name, "wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as e:
        raise UserError(f"{archive}: not a whole zip ({e}); try again, or pass a path: --corpus=PATH")


def fetch(name, addresses, limit, data_dir):
    """Folder of a downloaded corpus: built aside and renamed, so that what is there is whole."""
    folder = pathlib.Path(data_dir) / "raw" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as aside:
            for url in addresses:
                file = pathlib.Path(aside, url.rstrip("/").rsplit("/", 1)[-1].split("?")[0] or "text")
                download(url, file, limit)
                if open(file, "rb").read(2) == b"PK":  # also a zip that is cut: unzip will say so
                    archive = file.rename(file.with_name(".zip"))
                    unzip(archive, file.parent, limit)
                    archive.unlink()
                elif not file.name.endswith(TEXT_ENDINGS):
                    if len(addresses) == 1 and name in CORPORA:  # it should have been a zip: cut or something else
                        raise UserError(f"{url} is not a whole zip; try again, or pass a path: --corpus=PATH")
                    file.rename(file.with_name(file.name + ".txt"))
            os.replace(aside, folder)
    return folder


def resolve(corpus, data_dir):
    """The text files [(domain, path), ...] of a corpus: a known name, an address, a folder, a file or a glob."""
    if corpus in CORPORA:
        addresses, megabytes, _ = CORPORA[corpus]
        path = fetch(corpus, addresses, megabytes << 20, data_dir)
    elif corpus.startswith(("http://", "https://")):
        path = fetch("url-" + hashlib.sha256(corpus.encode()).hexdigest()[:12], [corpus], 4 << 30, data_dir)
    else:
        path = pathlib.Path(corpus)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.endswith(TEXT_ENDINGS) and not p.name.startswith("."))
    else:
        files = [path] if path.is_file() else sorted(pathlib.Path(p) for p in glob.glob(str(corpus)) if os.path.isfile(p))
    if not files:
        raise UserError(f"corpus {corpus!r}: no text there; known names: babytalk, {', '.join(CORPORA)}; else a file, a glob, or a "
                        f"folder with files {', '.join('*' + e for e in TEXT_ENDINGS)}")
    return [(p.name.split(".")[0], p) for p in files]


# ---------------------------------------------------------------- cleaning: what is removed, a domain, in this order

CLEAN = {
    "childes": [
        (r"^\*[A-Z0-9]{1,7}:\s*", "speaker mark: *MOT: where is it ?"),
        (r"=(?: =){2} childes/\S+ =(?: =){2}", "name of a file: = = = childes/Eng-NA/x.cha = = ="),
        (r"\[[^\]]*\]", "transcriber's comment: [laughs]"),
        (r"\b(?:xxx|yyy|www)\b", "unintelligible or untranscribed speech"),
        (r"(?:^|(?<=\s))[&0][A-Za-z~=:]+(?=\s|$|[.?!,])", "fragments and words left out: &ah 0diary"),
        (r"\s+(?=[.?!,])", "space left before punctuation"),
    ],
    "switchboard": [(r"^[A-Z]:\s+", "speaker mark: A:")],
    "bnc_spoken": [(r"<[^>]{1,40}>", "markup: <pause>"), (r"\[[^\]]*\]", "transcriber's comment: [laugh]")],
    "gutenberg": [
        (r"=(?: =){2} PG\d+ =(?: =){2}", "number of a book: = = = PG53602 = = ="),
        (r"^\s*(?:[*=_-]\s*){3,}$", "rule between sections: * * * * *"),
        (r"\[(?:Illustration|Footnote|Sidenote)[^\]]*\]?", "editor's insertion: [Illustration: A dog]"),
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
        (r"\[\[|\]\]|'{2,}|</?[a-z]{1,10}[^>]{0,40}>|^[*#:]+\s+", "markup: [[link]] ''italic'' <ref> * item"),
    ],
}
ALWAYS = [  # then, in every domain; a line in which no letter or digit is left goes too
    (r"\ufeff", "byte order mark"),
    (r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]|[^\S\n]+", "control characters, runs of spaces: one space stays"),
    (r" {2,}", "what that left"),
]  # HTML's entities (&amp;) stay: some 400 lines of simple_wiki


def clean(domain, lines):
    """Yield lines of text cleaned as their domain asks (CLEAN, ALWAYS), without line ends; those that lose all letters are dropped."""
    rules = [(regex.compile(pattern), "") for pattern, _ in CLEAN.get(domain, [])]
    rules += [(regex.compile(ALWAYS[0][0]), "")] + [(regex.compile(pattern), " ") for pattern, _ in ALWAYS[1:]]
    for line in lines:
        for pattern, to in rules:
            line = pattern.sub(to, line)
        if regex.search(r"[\p{L}\p{N}]", line):
            yield line.strip()


def read_lines(path):
    """Lines of a UTF-8 file without their ends; UserError names the line that is not UTF-8."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {number}: not UTF-8 text; convert the file first")
