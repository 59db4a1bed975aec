"""Teacher outputs on the disk: the first epoch writes them to a file, later epochs read them.

    teacher_cache = 64       # per position the 64 most likely tokens, and the remainder as one

A chunk of T tokens has one record: a keyed digest of the rest, ids (T, k), 16 bits each (32 if
V > 65536), and log p_tau (T, k + 1), fp16. The file is named by a digest of everything that a
position's target depends on, so runs of another divergence, lr, order, batch size or student share
it.

Under a lock a record is written, then its digest: a killed process leaves a record without a
digest, which is written again. Every read checks the digest; the key is made of the same things as
the name, so a record that was spoiled, swapped, or of other teachers is refused.
"""
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

AGAIN = "remove it, it will be written again"


class StoredTeacher:
    """The teachers' mixture on the chunks of data.train, read from the disk.

    It is called like any teacher. A chunk that is asked for the first time is computed, rounded and
    written, and returned as every later reader will have it. digests: {teacher's name: digest of
    its weights}; data: data.Prepared.
    """

    def __init__(self, teachers, digests, data, config, dtype):
        self.teachers = teachers
        self.tau = float(config.at(0.0).tau)
        self.ensemble = config.ensemble
        self.k = k = config.teacher_cache
        T = config.longest
        V = data.tokenizer.vocab_size

        chunks = (data.train.count - 1) // T
        self.tokens = data.train.tokens[:chunks * T].reshape(chunks, T)
        self.firsts = {}  # a chunk's tokens, as bytes -> the first chunk that has them
        for chunk, tokens in enumerate(self.tokens):
            self.firsts.setdefault(tokens.tobytes(), chunk)

        identity = {"teachers": sorted(digests[name] for name in config.teachers),
                    "ensemble": self.ensemble if len(config.teachers) > 1 else "",
                    "tau": self.tau, "k": k, "block": T, "dtype": dtype,
                    "tokens": hashlib.sha256(data.train.tokens.tobytes()).hexdigest()[:16],
                    "tokenizer": data.tokenizer.hash, "vocab_size": V}
        key = hashlib.sha256(json.dumps(identity).encode())
        self.key = key.digest()
        self.path = data.folder / f"teacher-top{k}-{key.hexdigest()[:10]}.bin"
        ids = "<u4" if V > 1 << 16 else "<u2"
        self.record = np.dtype([("digest", "<u8"), ("ids", ids, T * k),
                                ("log_p", "<f2", T * (k + 1))])
        in_turn(lambda: create(self.path, chunks * self.record.itemsize))
        self.records = np.memmap(self.path, self.record, "r+")

    @torch.no_grad()
    def __call__(self, x):
        """Map ids (B, T), whole chunks of the token file, to a losses.TopK of the B T positions.

        Raises UserError for a record that was changed after it was written.
        """
        chunks = self.find(x)
        if not self.records["digest"][chunks].all():
            self.write(chunks, self.compute(x))
        ids, log_p = self.read(chunks)
        return losses.TopK(ids.to(x.device), log_p.to(x.device))

    def written(self):
        """Return how many chunks are in the file, and how many there will be."""
        firsts = list(self.firsts.values())
        return int((self.records["digest"][firsts] != 0).sum()), len(firsts)

    def find(self, x):
        """Return (B,) the first chunk with the tokens of each row of x, in whatever order."""
        rows = x.cpu().numpy().astype(self.tokens.dtype)
        return np.array([self.firsts[row.tobytes()] for row in rows])

    def compute(self, x):
        """Return the teachers' ids (B, T k) and log p_tau (B, T (k + 1)), as they are stored."""
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
            return [torch.cat(part).view(len(x), -1).numpy() for part in zip(*parts)]

    def write(self, chunks, outputs):
        with files.locked(self.path.parent):
            for chunk, ids, log_p in zip(chunks, *outputs):
                record = self.records[chunk]  # a view: the file changes with it
                if record["digest"]:
                    continue  # it was there, or another run was faster
                record["ids"] = ids
                record["log_p"] = log_p
                record["digest"] = self.digest(chunk, record)

    def digest(self, chunk, record):
        """Digest a record in its place in this file; never 0, which means not written."""
        digest = hashlib.blake2b(self.tokens[chunk].tobytes(), digest_size=8, key=self.key,
                                 salt=int(chunk).to_bytes(8, "little"))
        digest.update(record.tobytes()[8:])
        return int.from_bytes(digest.digest(), "little") or 1

    def read(self, chunks):
        """Return ids (B T, k) int64 and log_p (B T, k + 1) fp16."""
        records = self.records[chunks]  # a copy
        for chunk, record in zip(chunks, records):
            if record["digest"] != self.digest(chunk, record):
                raise UserError(f"{self.path}: damaged, or of other teachers: the outputs of chunk "
                                f"{chunk} are not those that were written here; {AGAIN}")
        ids = torch.from_numpy(records["ids"].astype(np.int64)).view(-1, self.k)
        return ids, torch.from_numpy(records["log_p"].copy()).view(-1, self.k + 1)


def check_k(k, V):
    """Raise UserError unless the vocabulary has more than k tokens."""
    if k >= V:
        raise UserError(f"teacher_cache = {k}: the vocabulary has {V} tokens; allowed are 0 to "
                        f"{V - 1}")


def open_store(teachers, digests, data, config, dtype):
    """Open the StoredTeacher of a run and print its size; UserError if the disk is too small."""
    store = StoredTeacher(teachers, digests, data, config, dtype)
    there, chunks = store.written()
    print(f"teacher_cache: {store.record.itemsize / config.longest:.0f} bytes per token, "
          f"{store.records.nbytes / 1e9:.3g} GB in {store.path}; {there} of {chunks} chunks are "
          "there")
    return store


def create(path, size):
    """Make a file of `size` bytes without records, if there is none, and take up the disk space.

    Raises UserError for a disk that is too small, and for a file that is cut short.
    """
    with files.locked(path.parent):  # or two runs would each make one, and one of them be lost
        if not path.exists():
            free = shutil.disk_usage(path.parent).free
            if size > free:
                raise UserError(f"teacher_cache: {path} takes {size / 1e9:.3g} GB, and "
                                f"{free / 1e9:.3g} GB are free there; choose a smaller "
                                "teacher_cache, or another data_dir")
            with files.replacing(path) as f:
                f.truncate(size)
                if hasattr(os, "posix_fallocate"):  # or the disk might be full at a later write
                    os.posix_fallocate(f.fileno(), 0, size)
    if os.path.getsize(path) != size:
        raise UserError(f"{path}: cut short or too long, {os.path.getsize(path)} bytes of {size}; "
                        f"{AGAIN}")
