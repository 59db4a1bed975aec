"""Corpora by name, path or address; safe downloads; cleaning by domain.

    resolve(corpus, data_dir, split)     -> [(domain, path), ...], downloaded if necessary
    read_blocks(path)                    -> the lines of a file, a megabyte at a time
    clean(domain, block)                 -> the same lines, clean

A domain is a file's name up to the first dot, as in BabyLM: childes.train, gutenberg.dev.
"""
import collections
import contextlib
import glob
import hashlib
import http.client
import os
import pathlib
import re
import shutil
import urllib.request
import uuid
import zipfile
import zlib

from tqdm import tqdm

from onecoach.config import UserError
from onecoach.files import locked, remove_abandoned

BLOCK = 1 << 20  # bytes or characters that are read at a time

DOMAINS = ("bnc_spoken", "childes", "gutenberg", "open_subtitles", "simple_wiki", "switchboard")
TEXT_ENDINGS = (".train", ".dev", ".test", ".txt")
HF = "https://huggingface.co/"
BABYLM = HF + "datasets/BabyLM-community/"
SMALL_2026 = BABYLM + "BabyLM-2026-Strict-Small/resolve/c92ab16b4f08858304b0815706065b3354d8fc0a/"
LARGE_2026 = BABYLM + "BabyLM-2026-Strict/resolve/main/"

# addresses: one zip, or a plain file per domain; megabytes: at most so many, unpacked; dev: the
# corpus of development text, or ""
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


def resolve(corpus, data_dir, split="train"):
    """Return the text files [(domain, path), ...] of a corpus, in the order of their names.

    corpus: a name in CORPORA or an address, fetched into data_dir/raw; a folder, a file or a glob.
    split: "train" or "dev": which files of a folder. Raises UserError if there is no text.
    """
    path = pathlib.Path(os.path.expanduser(corpus))
    if not corpus:  # Path("") would be the current folder
        raise UserError("corpus is empty; name babytalk, a known corpus, a path or an address: "
                        "--corpus=PATH")
    if corpus in CORPORA:
        known = CORPORA[corpus]
        path = fetch(corpus, known.addresses, known.megabytes << 20, data_dir)
    elif corpus.startswith(("http://", "https://")):
        name = "url-" + hashlib.sha256(corpus.encode()).hexdigest()[:12]
        path = fetch(name, [corpus], 4 << 30, data_dir)

    if path.is_dir():
        texts = sorted(file for file in path.iterdir() if is_text_name(file.name))
        files = choose_split(texts, split)
    elif path.is_file():
        files = [path]
    else:
        files = sorted(pathlib.Path(p) for p in glob.glob(str(path)) if os.path.isfile(p))
    if not files:
        raise UserError(f"corpus {corpus!r}: no text there; known names: babytalk, "
                        f"{', '.join(CORPORA)}; else a file, a glob, or a folder with files "
                        f"{', '.join('*' + ending for ending in TEXT_ENDINGS)}")
    return [(file.name.split(".")[0], file) for file in files]


def is_text_name(name):
    return name.endswith(TEXT_ENDINGS) and not name.startswith(".")


def choose_split(files, split):
    """Return the files of a folder that are for "train" or "dev", so that none serves for both.

    First choice: files with that word in their names, as in childes.train or dev.txt. Second: files
    that name no split. Then, for "dev", *.test; and last, all files.
    """
    named = collections.defaultdict(list)
    for file in files:
        parts = file.name.split(".")
        named[next((part for part in parts if part in ("train", "dev", "test")), "")].append(file)
    return named[split] or named[""] or split == "dev" and named["test"] or files


# ---------------------------------------------------------------- folders that are whole

@contextlib.contextmanager
def building(folder):
    """Yield a folder to fill, which becomes `folder` if there is no error; an error leaves nothing.

    If another process has made the same folder meanwhile, that one stays. The next call removes the
    remains of a killed process. Raises UserError for a full disk.
    """
    aside = folder.parent / f".preparing-{uuid.uuid4().hex[:12]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            with locked(folder.parent):  # until aside is locked too
                remove_abandoned(folder.parent, ".preparing-*")
                aside.mkdir()
                stack.callback(shutil.rmtree, aside, ignore_errors=True)
                stack.enter_context(locked(aside))
            yield aside
            os.replace(aside, folder)
    except OSError as e:
        if not folder.is_dir():
            raise UserError(f"{folder} could not be written: {e.strerror or e}")


# ---------------------------------------------------------------- downloads

HINT = "or pass a file or folder that you have: --corpus=PATH --dev=PATH"


def fetch(name, addresses, limit, data_dir):
    """Return the folder data_dir/raw/name of a corpus, downloaded if it is not there yet.

    limit: bytes of a file, or of an unpacked zip, at most. Raises UserError if a file is not whole,
    or no text.
    """
    folder = pathlib.Path(data_dir) / "raw" / name
    if folder.exists():
        return folder
    with building(folder) as aside:
        for url in addresses:
            file = aside / (url.rstrip("/").rsplit("/", 1)[-1].split("?")[0] or "text")
            download(url, file, limit)
            with open(file, "rb") as f:
                is_zip = f.read(2) == b"PK"  # also one that is cut: unzip will say so
            texts = [file]
            if is_zip:
                archive = file.rename(aside / ".zip")
                texts = unzip(archive, aside, limit, url)
                archive.unlink()
            elif not is_text_name(file.name):
                if name in CORPORA:  # it should have been a zip
                    raise UserError(f"{url} is not a whole zip; try again, {HINT}")
                texts = [file.rename(aside / f"{file.name}.txt")]
            for text in texts:
                for _ in read_blocks(text, f"{url}: {text.name}"):  # UTF-8 to its end, or UserError
                    pass
    return folder


class SameHost(urllib.request.HTTPRedirectHandler):
    """Follow redirects as usual; the token goes along within Hugging Face, and to no other host."""

    def redirect_request(self, request, *answer):
        onward = super().redirect_request(request, *answer)
        token = request.get_header("Authorization")
        if onward and token and onward.full_url.startswith(HF):
            onward.add_unredirected_header("Authorization", token)
        return onward


def download(url, path, limit):
    """Fetch url to the file path; UserError if it gives nothing, not all, or over `limit` bytes."""
    request = urllib.request.Request(url, headers={"User-Agent": "onecoach"})
    token = os.environ.get("HF_TOKEN")
    if token and url.startswith(HF):
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        answer = urllib.request.build_opener(SameHost).open(request, timeout=30)
        with answer, open(path, "wb") as f:
            total = int(answer.headers.get("Content-Length") or 0)
            shown = dict(total=total or None, desc=url[-40:], disable=None)
            with tqdm.wrapattr(answer, "read", **shown) as body:
                while block := body.read(1 << 20):
                    f.write(block)
                    if f.tell() > limit:
                        raise ValueError(f"larger than the {limit >> 20} MB expected")
            size = f.tell()
            if not size or size != (total or size):
                raise ValueError(f"it gave nothing, or broke off: {size} of {total} bytes")
    except (OSError, ValueError, EOFError, http.client.HTTPException) as e:
        code = getattr(e, "code", None)
        reason = getattr(e, "reason", None) or getattr(e, "strerror", None) or e
        remedy = "check the address and the network, try again"
        if code in (401, 403) and e.url.startswith(HF):
            remedy = ("set HF_TOKEN to a token of yours (huggingface.co/settings/tokens), and "
                      "accept the terms of the data on the page if there are any")
        raise UserError(f"{url} could not be fetched ({code or 'no answer'}: {reason}); {remedy}, "
                        f"{HINT}")


def unzip(archive, folder, limit, name):
    """Unpack the text files of a zip into `folder`, without their own folders; return their paths.

    name: the zip's name in errors. Raises UserError for a damaged zip, one that unpacks to more
    than `limit` bytes, holds no text, or holds a link or a path that leads outside.
    """
    try:
        with zipfile.ZipFile(archive) as z:
            texts = {}  # file -> member
            for member in z.infolist():
                path = pathlib.PurePosixPath(member.filename.replace("\\", "/"))
                is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
                if is_link or path.is_absolute() or ".." in path.parts or ":" in member.filename:
                    raise UserError(f"{name}: the zip holds {member.filename!r}, which would "
                                    "leave its folder")
                if not is_text_name(path.name) or "__MACOSX" in path.parts or member.is_dir():
                    continue
                if folder / path.name in texts:
                    raise UserError(f"{name}: the zip holds {path.name!r} in several folders; "
                                    "unpack it yourself and pass a path")
                texts[folder / path.name] = member
            if not texts:
                raise UserError(f"{name}: the zip holds no text file ({', '.join(TEXT_ENDINGS)})")
            if sum(member.file_size for member in texts.values()) > limit:
                raise UserError(f"{name}: the zip unpacks to more than {limit >> 20} MB")

            for path, member in texts.items():
                with z.open(member) as source, open(path, "wb") as target:
                    shutil.copyfileobj(source, target)
            return list(texts)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
            OSError) as e:
        raise UserError(f"{name}: not a whole zip ({e}); try again, or pass a path: "
                        "--corpus=PATH")


# ---------------------------------------------------------------- reading

# The beginnings of files that are something else.
NO_TEXT = {
    r"\s*<(?i:!doctype|html)": "a page of HTML",
    r"\s*<\?xml": "XML",
    r"\s*(\[\s*)?\{\s*[\"}]": "JSON",
    r"version https://git-lfs": "a Git LFS pointer to the file (git lfs pull fetches it)",
    r"\xff\xfe|\xfe\xff": "UTF-16",
}


def in_blocks(file):
    """Yield an open file, of text or of bytes, in blocks of whole lines."""
    while block := file.read(BLOCK) + file.readline():
        yield block


def read_blocks(path, name=None):
    r"""Yield the lines of a UTF-8 file in blocks; they end in \n, \r\n or \r there, in \n here.

    name: the file's name in errors. Raises UserError for a file that is no text, and names the line
    that is not UTF-8.
    """
    name = name or path
    lines = 0
    with open(path, "rb") as f:
        if kind := recognise(f.read(1 << 16)):
            raise UserError(f"{name} is {kind}, no text; pass text: --corpus=PATH --dev=PATH")
        f.seek(0)
        for block in in_blocks(f):
            try:
                text = block.decode("utf-8").removesuffix("\n") + "\n"
            except UnicodeDecodeError as e:
                line = lines + block.count(b"\n", 0, e.start) + 1
                raise UserError(f"{name}, line {line}: not UTF-8 text; convert the file first")
            lines += block.count(b"\n")
            if "\r" in text:  # several before a \n are one end with it
                text = re.sub(r"(?<!\r)\r+\n|\r", "\n", text)
            yield text


def recognise(head):
    """Return the kind of file that begins with `head`, if it is no text; else ""."""
    beginning = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    for pattern, kind in NO_TEXT.items():
        if re.match(pattern, beginning):
            return kind
    if head.count(0) > len(head) / 10:  # in UTF-16 every second byte of English
        return "UTF-16 or something else"
    return ""


# ---------------------------------------------------------------- cleaning

# Removed, by domain, in this order. A rule sees thousands of lines at once: ^ and $ are the ends of
# each, and nothing may look beyond them; [^\S\n] is a space within a line. A line may have any
# length, so a rule must take time in proportion to it: it may not look through a run of something
# from each place in that run.
CLEAN = {
    "childes": [
        (r"^\*[A-Z0-9]{1,7}:[^\S\n]*", "speaker mark: *MOT: where is it ?"),
        (r"=(?: =){2} childes/\S+ =(?: =){2}", "name of a file: = = = childes/Eng-NA/x.cha = = ="),
        (r"\[[^\[\]\n]*\]", "transcriber's comment: [laughs]"),
        (r"\b(?:xxx|yyy|www)\b", "unintelligible or untranscribed speech"),
        (r"(?<!\S)[&0][A-Za-z~=:]+(?![^\s.?!,])", "fragments and words left out: &ah 0diary"),
        (r"(?<![^\S\n])[^\S\n]+(?=[.?!,])", "space left before punctuation"),
    ],
    "switchboard": [(r"^[A-Z]:[^\S\n]+", "speaker mark: A:")],
    "bnc_spoken": [
        (r"<[^>\n]{1,40}>", "markup: <pause>"),
        (r"\[[^\[\]\n]*\]", "transcriber's comment: [laugh]"),
    ],
    "gutenberg": [
        (r"=(?: =){2} PG\d+ =(?: =){2}", "number of a book: = = = PG53602 = = ="),
        (r"^[^\S\n]*(?:[*=_-][^\S\n]*){3,}$", "rule between sections: * * * * *"),
        (r"\[(?:Illustration|Footnote|Sidenote)[^\]\n]*\]?",
         "editor's insertion: [Illustration: A dog]"),
        (r"\[(?:\d+|Pg \d+|[A-Z])\]|\{\d+\}", "footnote and page marks: [12] {34}"),
        (r"_(?:(?=\w)|(?<=[\w.,;:!?'’-]_))", "italics: _not_"),
    ],
    "open_subtitles": [
        (r"<[^>\n]{1,40}>|\{[^}\n]{1,40}\}", "markup: <i> {y:i}"),
        (r"\[[^\[\]\n]*\]", "sound for the deaf: [door opens]"),
        (r"[♪♫#]+", "song mark"),
        (r"^[^\S\n]*-+[^\S\n]*", "dash of a new speaker: - Yes."),
    ],
    "simple_wiki": [
        (r"^.*\|\|.*$", "row of a table: 388||69||22"),
        (r"^[^\S\n]*=[^\S\n]*=.*=[^\S\n]*=[^\S\n]*$", "heading: = = = Confetti = = ="),
        (r"=(?:[^\S\n]*=){2,}", "mark of a heading broken over lines: = = ="),
        (r"^[*#:]+[^\S\n]+", "mark of an item: * item"),
        (r"\[\[|\]\]|'{2,}|</?[a-z]{1,10}[^>\n]{0,40}>", "markup: [[link]] ''italic'' <ref>"),
    ],
}
# Replaced afterwards, in every domain. There is a newline before the first line too.
ALWAYS = [
    (r"\ufeff", "", "byte order mark"),
    (r"[\x00-\x09\x0b-\x1f\x7f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]", " ",
     "control characters, and all kinds of spaces"),
    (r"  +", " ", "runs of spaces: one stays"),
    (r"\n ", "\n", "space before a line"),
    (r" \n", "\n", "space after it"),
    (r"\n[\W_]*(?=\n)", "", "lines in which no letter and no digit is left"),
]
# HTML's entities (&amp;) stay: some 400 lines of simple_wiki.


def clean(domain, text):
    r"""Clean lines by the rules of their domain; each line ends in \n, before and after.

    A line is cleaned alone: the result does not depend on its neighbours.
    """
    rules = [(pattern, "") for pattern, _ in CLEAN.get(domain, [])]
    rules += [(pattern, becomes) for pattern, becomes, _ in ALWAYS]
    text = "\n" + text
    for pattern, becomes in rules:
        text = re.sub(pattern, becomes, text, flags=re.MULTILINE)
    return text[1:]
