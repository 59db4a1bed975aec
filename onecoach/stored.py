"""Teacher outputs, stored: the first epoch writes them beside the token file, what follows reads.

    teacher_cache = 64       # of each position the 64 likeliest tokens and one for all others

A chunk of T tokens has one record: ids (T, k), 16 bits each (32 where V > 65536), log p_tau
(T, k + 1), fp16, and a keyed digest of both. What a position's target depends on stands in the
header and names the file: the teachers' weights, ensemble, tau, k, block, dtype, the tokens.
Nothing else does: runs of another divergence, lr, order, batch size or student share it.

A record is written first and its digest after it, under a lock: a process killed anywhere leaves
one without a digest, and that is written again. Every read checks the digest, whose key has the
header, the chunk's number and its tokens in it: a file that was cut, swapped or spoiled is refused.
"""
import contextlib
import hashlib
import json
import os
import shutil

import numpy as np
import torch

import losses
from onecoach import files
from onecoach.config import UserError
from onecoach.ranks import in_turn
from onecoach.tokens import stream

MAGIC = b"onecoach teacher outputs\n"
AGAIN = "remove it, it will be written again"


class StoredTeacher:
    """The teachers' mixture, read from the disk; of a chunk that is not there yet, computed once.

    Called as any teacher is, with chunks of one TokenFile: those asked for the first time are
    computed, rounded and written, and given as every later reader will have them.
    """

    def __init__(self, teachers, file, config, identity, path):
        self.teachers = teachers
        self.tau = float(config.at(0.0).tau)
        self.ensemble = config.ensemble
        self.k = config.teacher_cache
        self.T = config.longest
        self.path = path

        chunks = (file.count - 1) // self.T
        self.tokens = stream(file)[:chunks * self.T].view(chunks, self.T)
        self.mask = (1 << 8 * self.tokens.element_size()) - 1  # takes the sign off, as data.cut
        self.hashes, self.by_hash = np.unique(self.hash(self.tokens), return_index=True)
        self.key = hashlib.sha256(json.dumps(identity).encode()).digest()
        wide = identity["vocab_size"] > 1 << 16
        self.record = np.dtype([("digest", "<u8"),
                                ("ids", "<u4" if wide else "<u2", self.T * self.k),
                                ("log_p", "<f2", self.T * (self.k + 1))])
        in_turn(lambda: path.exists() or create(path, identity, chunks * self.record.itemsize))
        self.start = check_file(path, identity, chunks * self.record.itemsize)
        self.file = open(path, "r+b", buffering=0)
        self.records = np.memmap(path, self.record, "r", offset=self.start, shape=(chunks,))

    @torch.no_grad()
    def __call__(self, x):
        """ids (B, T), chunks of the token file, each whole -> losses.TopK of the B T positions.

        UserError for a record that is not what was written.
        """
        chunks = self.find(x)
        if not self.records["digest"][chunks].all():
            self.write(chunks, self.compute(x))
        ids, log_p = self.read(chunks)
        return losses.TopK(ids.to(x.device), log_p.to(x.device))

    def written(self):
        """How many chunks are there."""
        return int((self.records["digest"][self.by_hash] != 0).sum()), len(self.by_hash)

    # which chunk: by its tokens, so that the batch may come in any order, cut in any way

    def hash(self, x):
        """(n,) int64 of rows of tokens (n, T); what it finds is compared token by token."""
        factors = np.random.default_rng(0).integers(-2**63, 2**63, self.T)
        rows = [(part.long() & self.mask) @ torch.from_numpy(factors) for part in x.split(4096)]
        return torch.cat(rows).numpy()

    def find(self, x):
        """(B,) the first chunk with the tokens of each row of x."""
        x = x.cpu()
        places = np.searchsorted(self.hashes, self.hash(x)).clip(max=len(self.hashes) - 1)
        chunks = self.by_hash[places]
        if not torch.equal(self.tokens[chunks].long() & self.mask, x):
            raise RuntimeError("rows that are no chunks of the token file have no stored outputs")
        return chunks

    # one record

    def compute(self, x):
        """ids (B, T k) and log p_tau (B, T (k + 1)) of the teachers, as they are on the disk."""
        teachers = [teacher(x) for teacher in self.teachers]
        n = x.numel()
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            V = teachers[0](slice(0, 1)).shape[-1]
            size = losses.chunk_size(n, V, x.device.type)
            for start in range(0, n, size):
                z_ps = [teacher(slice(start, start + size)).float() for teacher in teachers]
                log_p = losses.teacher_log_probs(z_ps, self.tau, self.ensemble)
                part = losses.top_k(log_p.clamp_min(losses.LOG_FLOOR), self.k)
                parts.append((part.ids.cpu(), part.log_p.half().cpu()))
            ids, log_p = (torch.cat(part).view(len(x), -1).numpy() for part in zip(*parts))
        return ids.astype(self.record["ids"].base), log_p

    def write(self, chunks, outputs):
        with alone(self.file):
            for chunk, ids, log_p in zip(chunks, *outputs):
                if self.records["digest"][chunk]:
                    continue  # it was there, or another run was faster
                place = self.start + int(chunk) * self.record.itemsize
                body = ids.tobytes() + log_p.tobytes()
                self.put(place + 8, body)
                self.put(place, self.digest(chunk, body).to_bytes(8, "little"))

    def put(self, place, content):
        try:
            self.file.seek(place)
            if self.file.write(content) != len(content):
                raise OSError(None, "the disk is full")
        except OSError as e:
            raise UserError(f"{self.path} could not be written: {e.strerror}")

    def digest(self, chunk, body):
        """Of a record's bytes, in their place in this file; never 0, which means not written."""
        digest = hashlib.blake2b(self.tokens[chunk].numpy().tobytes(), digest_size=8, key=self.key,
                                 salt=int(chunk).to_bytes(8, "little"))
        digest.update(body)
        return int.from_bytes(digest.digest(), "little") or 1

    def read(self, chunks):
        """ids (B T, k) int64 and log_p (B T, k + 1) fp16."""
        records = self.records[chunks]  # a copy
        for chunk, record in zip(chunks, records):
            if record["digest"] != self.digest(chunk, record.tobytes()[8:]):
                raise UserError(f"{self.path}: damaged, the outputs of chunk {chunk} are not those "
                                f"that were written; {AGAIN}")
        ids = torch.from_numpy(records["ids"].astype(np.int64)).view(-1, self.k)
        return ids, torch.from_numpy(records["log_p"].copy()).view(-1, self.k + 1)


# ---------------------------------------------------------------- the file

def check_k(k, V):
    """UserError where not even the vocabulary has so many tokens, and one for all others."""
    if k >= V:
        raise UserError(f"teacher_cache = {k}: the vocabulary has {V} tokens; allowed are 0 to "
                        f"{V - 1}")


def open_store(teachers, digests, data, config, dtype):
    """The StoredTeacher of a run; prints what it takes. UserError for a disk that is too small.

    digests: {teacher's name: digest of its weights}; data: what was prepared.
    """
    V = data.tokenizer.vocab_size
    k = config.teacher_cache
    tokens = hashlib.sha256(data.train.tokens.tobytes()).hexdigest()[:16]
    identity = {"teachers": sorted(digests[name] for name in config.teachers),
                "ensemble": config.ensemble if len(config.teachers) > 1 else "",
                "tau": float(config.at(0.0).tau), "k": k, "block": config.longest, "dtype": dtype,
                "tokens": tokens, "tokenizer": data.tokenizer.hash, "vocab_size": V}
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]
    path = data.folder / f"teacher-top{k}-{name}.bin"
    store = StoredTeacher(teachers, data.train, config, identity, path)
    there, chunks = store.written()
    print(f"teacher_cache: {store.record.itemsize / config.longest:.0f} bytes a token, "
          f"{os.path.getsize(path) / 1e9:.3g} GB in {path}; {there} of {chunks} chunks are there")
    return store


def create(path, identity, size):
    """A file of `size` bytes of records, none written; its place on the disk is taken at once."""
    header = json.dumps(identity).encode()
    header += b" " * (-(len(MAGIC) + 4 + len(header)) % 64)
    head = MAGIC + len(header).to_bytes(4, "little") + header
    free = shutil.disk_usage(path.parent).free
    if len(head) + size > free:
        raise UserError(f"teacher_cache: {path} takes {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB "
                        "are free there; choose a smaller teacher_cache, or another data_dir")
    with files.replacing(path) as f:
        f.write(head)
        f.flush()
        f.truncate(len(head) + size)
        if hasattr(os, "posix_fallocate"):  # else a disk that fills up is noticed at the write
            os.posix_fallocate(f.fileno(), 0, len(head) + size)


def check_file(path, identity, size):
    """The byte at which the records start; UserError for a file that is another, or cut short."""
    with open(path, "rb") as f:
        magic = f.read(len(MAGIC))
        length = int.from_bytes(f.read(4), "little")
        header = f.read(min(length, 1 << 16))
    try:
        there = json.loads(header) if magic == MAGIC else None
    except (ValueError, RecursionError):
        there = None
    if not isinstance(there, dict):
        raise UserError(f"{path}: not a file of teacher outputs, or damaged; {AGAIN}")
    differ = [f"{name} = {there.get(name)!r} there, {value!r} here"
              for name, value in identity.items() if there.get(name) != value]
    if differ:
        raise UserError(f"{path} holds other outputs: {'; '.join(differ)}; {AGAIN}")
    start = len(MAGIC) + 4 + length
    if os.path.getsize(path) != start + size:
        raise UserError(f"{path}: cut short or too long, {os.path.getsize(path)} bytes of "
                        f"{start + size}; {AGAIN}")
    return start


@contextlib.contextmanager
def alone(file):
    """One process at a time; where there are no locks, or not on this file system, as it comes."""
    try:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
