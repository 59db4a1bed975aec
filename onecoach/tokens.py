"""Token files: text as ids on the disk, mapped into memory; how one is written from clean lines.

    train.bin     the ids, one after the other, 16 bits each (32 if V > 65536), little-endian
    train.json    dtype, domains, the digests of tokenizer and text, and a digest of all this
"""
import collections
import concurrent.futures
import hashlib
import itertools
import json
import os
import pathlib

import numpy as np
import torch

from onecoach.config import UserError
from onecoach.corpora import in_blocks

FORM = 4  # of these files; text in another form is prepared again
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
AGAIN = "remove the folder, it will be prepared again"

# A domain in a token file: tokens [start, stop), words and bytes of the text.
Segment = collections.namedtuple("Segment", "name start stop words bytes")


class TokenFile:
    """A stream of token ids on disk: `tokens` (count,), memory-mapped.

    Its JSON says: tokenizer and corpus, digests; segments, a Segment for each domain; shared, the
    share of a development text's words in lines of the training text; mark, bos_id, newline_id.
    Raises UserError if it is missing or damaged, or made with a tokenizer of another hash.
    """

    def __init__(self, path, tokenizer_hash=None):
        vars(self).update(read_about(path))
        self.count = self.segments[-1].stop
        self.words = sum(segment.words for segment in self.segments)
        self.bytes = sum(segment.bytes for segment in self.segments)

        dtype = np.dtype(DTYPES[self.dtype])
        size = os.path.getsize(path)
        expected = self.count * dtype.itemsize
        if size != expected:
            raise UserError(f"token file {path}: damaged, {size} bytes of {expected}; {AGAIN}")
        if tokenizer_hash not in (None, self.tokenizer):
            raise UserError(f"token file {path}: made with tokenizer {self.tokenizer}, not "
                            f"{tokenizer_hash}; {AGAIN}")
        # mode c: what is written to the array does not reach the file
        self.tokens = np.memmap(path, dtype, "c")


def read_about(path):
    """Read the JSON of a token file; UserError if one of the two is missing or damaged."""
    try:
        about = json.loads(pathlib.Path(path).with_suffix(".json").read_bytes())
        if about.pop("digest") == digest(about) and os.path.getsize(path):
            about["segments"] = [Segment(*segment) for segment in about["segments"]]
            return about
    except OSError as e:
        raise UserError(f"token file {e.filename}: {e.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"token file {path}: not a token file, or damaged; {AGAIN}")


def digest(about):
    """Digest the JSON of a token file, to tell a damaged one."""
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def write_tokens(path, tokenizer, texts, mark, seed, corpus, shared=0.0):
    """Encode texts {domain: file of clean lines} into one token file.

    `<s>` opens each text and, as `mark` says, none of its lines, half of them (drawn by `seed`) or
    every line. corpus: the text's digest; shared: see TokenFile.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    share = {"none": 0.0, "half": 0.5, "line": 1.0}[mark]  # of the lines that `<s>` opens
    rng = np.random.default_rng(seed)
    segments = []
    count = 0
    with open(path, "wb") as out:
        for domain, file in texts.items():
            start = count
            words = 0
            for text, ids in encoded_blocks(file, tokenizer):
                ends = ids[:-1] == tokenizer.newline_id
                starts = np.flatnonzero(np.insert(ends, 0, True))  # of lines
                chosen = rng.random(len(starts)) < share
                if count == start:  # a domain always begins with it
                    chosen[0] = True
                ids = np.insert(ids, starts[chosen], tokenizer.bos_id)
                out.write(ids.astype(DTYPES[dtype]).tobytes())
                count += len(ids)
                words += len(text.split())
            segments.append(Segment(domain, start, count, words, os.path.getsize(file)))

    about = {"dtype": dtype, "tokenizer": tokenizer.hash, "corpus": corpus, "mark": mark,
             "bos_id": tokenizer.bos_id, "newline_id": tokenizer.newline_id, "shared": shared,
             "segments": segments}
    about["digest"] = digest(about)
    pathlib.Path(path).with_suffix(".json").write_text(json.dumps(about))


def encoded_blocks(file, tokenizer):
    """Yield (text, ids (n,)) of each block of a file of clean lines.

    As many as there are processors are encoded at once: tiktoken releases Python's lock.
    """
    n = os.cpu_count() or 1
    blocks = read_clean(file)
    with concurrent.futures.ThreadPoolExecutor(n) as threads:
        while texts := [*itertools.islice(blocks, n)]:
            yield from zip(texts, threads.map(tokenizer.encode_lines, texts))


def read_clean(file):
    """Yield the text of a file of clean lines in blocks of whole lines."""
    with open(file, encoding="utf-8", newline="\n") as f:
        yield from in_blocks(f)


def drop_shared_lines(file, texts):
    """Return texts {domain: ids (n,)} without the lines that are in a TokenFile, and without `<s>`.

    Both have the same tokenizer, so the same lines have the same ids.
    """
    lines = {domain: split_lines(ids, file) for domain, ids in texts.items()}
    unseen = set(itertools.chain.from_iterable(lines.values()))
    for _, start, stop, *_ in file.segments:
        unseen -= unseen.intersection(split_lines(file.tokens[start:stop], file))
    kept = {domain: b"".join(filter(unseen.__contains__, lines[domain])) for domain in lines}
    return {domain: np.frombuffer(ids, file.tokens.dtype) for domain, ids in kept.items()}


def split_lines(ids, file):
    """Return [the ids of a line, as bytes] of all lines of ids (n,), without `<s>`."""
    ids = ids[ids != file.bos_id].astype(file.tokens.dtype)
    ends = np.flatnonzero(ids == file.newline_id) + 1
    return [line.tobytes() for line in np.split(ids, ends) if len(line)]


def stream(file, device="cpu"):
    """Return a TokenFile's tokens (count,) on a device, as signed integers for torch's indexing."""
    signed = file.tokens.dtype.str.replace("u", "i")
    return torch.from_numpy(file.tokens.view(signed)).to(device)


def to_device(t, device):
    """Copy a tensor to a device, to a GPU from pinned memory: other memory waits for the copy."""
    if torch.device(device).type == "cuda":
        t = t.pin_memory()
    return t.to(device, non_blocking=True)
