"""Token files: text as ids on the disk, mapped into memory; how one is written from clean lines."""
import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import torch

from bpe import Tokenizer
from onecoach.config import UserError
from onecoach.corpora import in_blocks

MAGIC = b"onecoach tokens\n"
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
AGAIN = "remove its folder, it will be prepared again"

# A domain in a token file: its tokens [start, stop), the words and bytes of its text.
Segment = collections.namedtuple("Segment", "name start stop words bytes")


class TokenFile:
    """A stream of token ids on disk: `tokens` (count,), memory-mapped, and what its header says.

    count; words and bytes of the text; tokenizer and corpus, digests; mark; segments, a Segment for
    each domain; bos_id and newline_id, where documents and lines begin and end.

    Raises UserError if the file is missing, cut short, no token file, or of another tokenizer than
    that of the hash given.
    """

    def __init__(self, path, tokenizer_hash=None):
        header, start = read_header(path)
        self.count = header["count"]
        self.words = header["words"]
        self.bytes = header["bytes"]
        self.tokenizer = header["tokenizer"]
        self.corpus = header["corpus"]
        self.mark = header["mark"]
        self.segments = [Segment(*segment) for segment in header["segments"]]
        self.bos_id = header.get("bos_id", Tokenizer.bos_id)
        self.newline_id = header.get("newline_id", Tokenizer.newline_id)
        self.dtype = np.dtype(DTYPES[header["dtype"]])

        size = os.path.getsize(path) - start
        due = self.count * self.dtype.itemsize
        if size != due:
            what = "cut short" if size < due else "too long"
            raise UserError(f"token file {path}: {what}, {size} bytes of {due}; {AGAIN}")
        if tokenizer_hash not in (None, self.tokenizer):
            raise UserError(f"token file {path}: made with tokenizer {self.tokenizer}, not "
                            f"{tokenizer_hash}; {AGAIN}")
        # mode c: what is written to the array does not reach the file
        self.tokens = np.memmap(path, self.dtype, "c", offset=start, shape=(self.count,))


def read_header(path):
    """(header of a token file, byte at which its tokens start); UserError if it has none."""
    try:
        with open(path, "rb") as f:
            magic = f.read(len(MAGIC))
            size = int.from_bytes(f.read(4), "little")
            header = json.loads(f.read(size)) if magic == MAGIC else {}
        if not is_whole(header):
            raise ValueError
    except OSError as e:
        raise UserError(f"token file {path}: {e.strerror}")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"token file {path}: not a token file, or damaged; {AGAIN}")
    return header, len(MAGIC) + 4 + size


def is_whole(header):
    """Is it as `write_tokens` writes it? For some that are not: KeyError, TypeError, ValueError."""
    segments = [Segment(*segment) for segment in header["segments"]]
    numbers = [header["count"], header["words"], header["bytes"]]
    numbers += [header[name] for name in ("bos_id", "newline_id") if name in header]
    numbers += [number for segment in segments for number in segment[1:]]
    words = [header["tokenizer"], header["corpus"], header["mark"]]
    words += [segment.name for segment in segments]

    # one domain after the other, from the first token to the last
    ends = [0, *(segment.stop for segment in segments)]
    tiled = ends[:-1] == [segment.start for segment in segments] and ends[-1] == header["count"]
    counted = {*map(type, numbers)} == {int} and 0 <= min(numbers) <= max(numbers) < 2**63
    named = {*map(type, words)} == {str} and header["dtype"] in DTYPES
    return counted and named and bool(segments) and tiled and ends == sorted(ends)


def write_tokens(path, tokenizer, texts, mark, seed, corpus):
    """Encode texts {domain: file of clean lines} into one token file.

    `<s>` opens each text and, as `mark` says, no line of it, half of the lines (drawn by `seed`) or
    every line. corpus: the text's digest, for the header.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    share = {"none": 0.0, "half": 0.5, "line": 1.0}[mark]  # of the lines that `<s>` opens
    rng = np.random.default_rng(seed)
    segments = []
    count = 0
    with tempfile.TemporaryFile(dir=pathlib.Path(path).parent) as body:
        for domain, file in texts.items():
            start = count
            words = 0
            for text, ids in encoded_blocks(file, tokenizer):
                ids = ids.astype(dtype)
                starts = np.flatnonzero(ids[:-1] == tokenizer.newline_id) + 1
                starts = np.concatenate([[0], starts])  # where lines begin
                chosen = rng.random(len(starts)) < share
                if count == start:  # a domain always begins with it
                    chosen[0] = True
                ids = np.insert(ids, starts[chosen], tokenizer.bos_id)
                body.write(ids.tobytes())
                count += len(ids)
                words += len(text.split())
            segments.append(Segment(domain, start, count, words, os.path.getsize(file)))

        write_file(path, body, {
            "dtype": dtype,
            "count": count,
            "words": sum(segment.words for segment in segments),
            "bytes": sum(segment.bytes for segment in segments),
            "tokenizer": tokenizer.hash,
            "corpus": corpus,
            "mark": mark,
            "bos_id": tokenizer.bos_id,
            "newline_id": tokenizer.newline_id,
            "segments": segments,
        })


def encoded_blocks(file, tokenizer):
    """Yield (text, its ids (n,)) of a file of clean lines, block after block.

    As many blocks as there are processors are encoded ahead, each in a thread: tiktoken lets go of
    Python's lock.
    """
    n = processors()
    ahead = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(n) as threads:
        for text in read_clean(file):
            ahead.append((text, threads.submit(tokenizer.encode_lines, text)))
            if len(ahead) > n:
                text, ids = ahead.popleft()
                yield text, ids.result()
        for text, ids in ahead:
            yield text, ids.result()


def processors():
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: fewer than there are, in many a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_file(path, body, header):
    """A token file of a body, an open file of tokens, and a header, a dict."""
    text = json.dumps(header).encode()
    text += b" " * (-(len(MAGIC) + 4 + len(text)) % 64)  # tokens start on a cache line
    body.seek(0)
    with open(path, "wb") as out:
        out.write(MAGIC + len(text).to_bytes(4, "little") + text)
        shutil.copyfileobj(body, out)


def read_clean(file):
    """Yield the text of a file of clean lines in blocks of whole lines."""
    with open(file, encoding="utf-8", newline="\n") as f:
        yield from in_blocks(f)


def stream(file, device="cpu"):
    """A TokenFile's tokens (count,) on a device.

    As signed integers, for torch indexes no unsigned ones; `cut` takes the sign off again.
    """
    signed = file.tokens.dtype.str.replace("u", "i")
    return torch.from_numpy(file.tokens.view(signed)).to(device)
