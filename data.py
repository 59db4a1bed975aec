"""From text to batches: corpora, cleaning, byte-level BPE trained by hand, token files, random chunks.

    python data.py CONFIG     prepare corpus, tokenizer and token files; print statistics

    corpus -> files -> clean lines -> pre-token counts -> train_bpe -> Tokenizer -> TokenFile -> Batches

`mark` is "half" by default since that has the fewest nats a byte of the same development text, mean of two scorings (lines
after `<s>`, full blocks without): none 1.750, block 1.719, half 1.711, line 1.717. One seed, early in training: `python
teacher.py configs/base_nano_1m.py --mark=M --max_steps=150`, then `python eval.py RUN --tasks=ppl --limit=30000`.
"""
import collections
import contextlib
import hashlib
import heapq
import io
import itertools
import json
import math
import operator
import os
import pathlib
import shutil
import tempfile
import time

import numpy as np
import regex
import tiktoken
import torch
from tqdm import tqdm

import babytalk
import config as config_module
import files
from config import UserError
from corpora import ALWAYS, CLEAN, CORPORA, clean, read_lines, resolve

# ---------------------------------------------------------------- byte-level BPE

# GPT-2's pre-tokens, but a newline is always one of its own and none reaches across it, so that a line has the same
# tokens alone, after <s> and after "\n"; and none is longer than 41 characters, so that a million spaces cost a million
# steps. \p{White_Space} and not \s: the regex engines that read this disagree on what \s is.
PATTERN = (r"\n|'(?:[sdmt]|ll|ve|re)| ?\p{L}{1,40}| ?\p{N}{1,40}| ?[^\p{White_Space}\p{L}\p{N}]{1,40}"
           r"|[^\P{White_Space}\n]{1,40}(?!\P{White_Space})|[^\P{White_Space}\n]{1,40}")
SPECIAL = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2


# byte -> the printable character that stands for it in Hugging Face's byte-level files (GPT-2's table)
CHARACTER = {b: chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))}
CHARACTER |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in CHARACTER)}
BYTE_ID = {b: len(SPECIAL) + i for i, b in enumerate(sorted(CHARACTER, key=CHARACTER.get))}  # ids 3 .. 258


def train_bpe(word_counts, vocab_size=0):
    """Byte pair encoding (arXiv 1508.07909, algorithm 1): merge the most frequent pair of tokens again and again.

    word_counts: dict pre-token (str) -> how often it occurs. vocab_size counts special tokens, bytes and merges; 0
    merges until no pair is left, or to a million tokens. Returns the merges in order, as pairs of bytes. Of pairs equally
    frequent the one of the smaller ids comes first, as in Hugging Face's trainer; the order of the words does not matter.
    Raises UserError if the words cannot fill vocab_size.
    """
    # A word is a string with one character a token, chr(id), and a pair a string of two: str.replace merges, from the left.
    pairs = lambda word: map(operator.add, word, word[1:])
    id_of = {bytes([b]): i for b, i in BYTE_ID.items()}
    token = {chr(i): t for t, i in id_of.items()}
    words = [word.encode().decode("latin-1").translate(BYTE_ID) for word in word_counts]
    counts = list(word_counts.values())
    pair_counts, where = collections.Counter(), collections.defaultdict(list)  # where: pair -> words that contain it, or did
    for i, word in enumerate(words):
        for pair in pairs(word):
            pair_counts[pair] += counts[i]
            where[pair].append(i)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges, size = [], len(SPECIAL) + 256
    while heap and size < (vocab_size or 10**6):
        count, pair = heapq.heappop(heap)
        if pair_counts[pair] != -count:  # counts only fall behind the heap's back: put it where it belongs now
            if pair_counts[pair] > 0:
                heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        if count == 0:
            break
        merges.append((token[pair[0]], token[pair[1]]))
        merged = b"".join(merges[-1])
        if merged not in id_of:  # the same bytes can be reached by two merges: one token
            id_of[merged], token[chr(size)] = size, merged
            size += 1
        new, raised = chr(id_of[merged]), set()
        for i in where.pop(pair):
            word, n, first = words[i], counts[i], words[i].find(pair)
            if first < 0:
                continue
            words[i] = word.replace(pair, new)
            old = word[max(0, first - 1):word.rfind(pair) + 3]  # pairs change from one token before to one after
            for p in pairs(old):
                pair_counts[p] -= n
            for p in pairs(old.replace(pair, new)):
                pair_counts[p] += n
                if new in p:
                    where[p].append(i)
                    raised.add(p)
        for p in raised:
            heapq.heappush(heap, (-pair_counts[p], p))
    if size < vocab_size:
        raise UserError(f"vocab_size = {vocab_size}: the corpus fills only {size} tokens; choose at most that, or 0 for all")
    return merges


class Tokenizer:
    """Byte-level BPE from its merges. encode adds no special token and normalises nothing: decode(encode(text)) is text."""

    pad_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.id_of = id_of = {bytes([b]): i for b, i in BYTE_ID.items()}
        for a, b in self.merges:
            if a not in id_of or b not in id_of:
                raise UserError(f"tokenizer: the merge {a!r} {b!r} uses a token that no earlier merge makes")
            id_of.setdefault(a + b, len(SPECIAL) + len(id_of))
        self.vocab_size = len(SPECIAL) + len(id_of)
        self.token_bytes = np.array([0] * len(SPECIAL) + [len(t) for t in id_of], dtype=np.int64)
        # tiktoken merges first what has the lowest rank; ids are ranks, so its order is ours
        self.encoding = tiktoken.Encoding("onecoach", pat_str=PATTERN, mergeable_ranks=id_of,
                                          special_tokens={s: i for i, s in enumerate(SPECIAL)})
        self.hash = hashlib.sha256(repr((PATTERN, SPECIAL, self.merges)).encode()).hexdigest()[:16]

    def encode(self, text):
        return self.encoding.encode_ordinary(text)

    def decode(self, ids):
        return self.encoding.decode([int(i) for i in ids])

    def save(self, path):
        """Write Hugging Face tokenizers' own tokenizer.json: tokenizers.Tokenizer.from_file gives the same ids."""
        text = lambda token: "".join(CHARACTER[b] for b in token)
        vocab = {t: i for i, t in enumerate([*SPECIAL, *map(text, self.id_of)])}
        special = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                    "special": True} for i, s in enumerate(SPECIAL)]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
        form = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "post_processor": None,
            "decoder": byte_level, "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": [[text(a), text(b)] for a, b in self.merges]}}
        with files.replacing(path) as f:
            f.write(json.dumps(form, ensure_ascii=False).encode())

    @staticmethod
    def load(path):
        """Read what save wrote, path a file or its folder; UserError for one missing, damaged, or of another kind."""
        path = pathlib.Path(path, "tokenizer.json" if os.path.isdir(path) else "")
        byte_of = {c: b for b, c in CHARACTER.items()}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            pattern = found["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            merges = [tuple(bytes(byte_of[c] for c in part) for part in pair) for pair in found["model"]["merges"]]
            size, two = len(found["model"]["vocab"]), all(len(pair) == 2 for pair in merges)
        except OSError as e:
            raise UserError(f"tokenizer {path}: {e.strerror}")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise UserError(f"tokenizer {path}: damaged, or not one that this program wrote")
        if pattern != PATTERN or not two:
            raise UserError(f"tokenizer {path}: splits text in another way than this program; train one with vocab_size")
        tokenizer = Tokenizer(merges)
        if size != tokenizer.vocab_size:
            raise UserError(f"tokenizer {path}: its vocabulary does not follow from its merges")
        return tokenizer


# ---------------------------------------------------------------- token files

MAGIC = b"onecoach tokens\n"


class TokenFile:
    """A stream of token ids on disk, memory-mapped: `tokens` (count,), and the header's fields as attributes:
    count, words, bytes, tokenizer (hash), corpus (hash), mark, segments [[domain, start, stop, words, bytes], ...].

    Raises UserError if the file is missing, cut short, not a token file, or of another tokenizer than the one given.
    """

    def __init__(self, path, tokenizer_hash=None):
        again = "; remove its folder, it will be prepared again"
        try:
            with open(path, "rb") as f:
                magic, size = f.read(len(MAGIC)), int.from_bytes(f.read(4), "little")
                header = json.loads(f.read(size)) if magic == MAGIC and size < 1 << 20 else {}
            self.dtype, self.count = np.dtype({"uint16": "<u2", "uint32": "<u4"}[header["dtype"]]), int(header["count"])
            self.words, self.bytes, self.mark = header["words"], header["bytes"], header["mark"]
            self.tokenizer, self.corpus, self.segments = header["tokenizer"], header["corpus"], header["segments"]
            if not all(type(n) is int for n in [self.words, self.bytes, *(n for _, *four in self.segments for n in four)]):
                raise ValueError
        except OSError as e:
            raise UserError(f"token file {path}: {e.strerror}")
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            raise UserError(f"token file {path}: not a token file, or damaged{again}")
        start = len(MAGIC) + 4 + size
        there, due = os.path.getsize(path) - start, self.count * self.dtype.itemsize
        if there != due:
            what = "cut short" if there < due else "too long"
            raise UserError(f"token file {path}: {what}, {there} bytes of {due}{again}")
        if tokenizer_hash not in (None, self.tokenizer):
            raise UserError(f"token file {path}: made with tokenizer {self.tokenizer}, not {tokenizer_hash}{again}")
        self.tokens = np.memmap(path, dtype=self.dtype, mode="c", offset=start, shape=(self.count,))  # c: nothing reaches the file


def write_tokens(path, tokenizer, texts, mark, seed, corpus):
    """Encode texts {domain: file of clean lines} into one token file; `<s>` opens each file, and lines as `mark` says."""
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    newline, rng = tokenizer.encode("\n")[0], np.random.default_rng(seed)
    share = {"line": 1, "half": 0.5}.get(mark, 0)  # of lines that `<s>` opens
    segments, count = [], 0
    with tempfile.TemporaryFile(dir=pathlib.Path(path).parent) as body, open(path, "wb") as out:
        for domain, file in texts.items():
            start, words = count, 0
            with open(file, encoding="utf-8", newline="\n") as f:
                while lines := f.readlines(1 << 22):
                    pieces = ["".join(lines[i:i + 5000]) for i in range(0, len(lines), 5000)]
                    words += sum(len(p.split()) for p in pieces)
                    encoded = tokenizer.encoding.encode_ordinary_batch(pieces, num_threads=os.cpu_count() or 1)
                    ids = np.fromiter(itertools.chain.from_iterable(encoded), dtype=dtype)
                    starts = np.concatenate([[0], np.flatnonzero(ids[:-1] == newline) + 1])  # where lines begin
                    chosen = rng.random(len(starts)) < share
                    chosen[0] |= count == start
                    ids = np.insert(ids, starts[chosen], tokenizer.bos_id)
                    body.write(ids.tobytes())
                    count += len(ids)
            segments.append([domain, start, count, words, os.path.getsize(file)])
        words, size = (sum(s[i] for s in segments) for i in (3, 4))
        header = json.dumps(dict(dtype=dtype, count=count, words=words, bytes=size, tokenizer=tokenizer.hash,
                                 corpus=corpus, mark=mark, segments=segments)).encode()
        header += b" " * (-(len(MAGIC) + 4 + len(header)) % 64)  # tokens start on a cache line
        out.write(MAGIC + len(header).to_bytes(4, "little") + header)
        body.seek(0)
        shutil.copyfileobj(body, out)


# ---------------------------------------------------------------- preparation

Prepared = collections.namedtuple("Prepared", "tokenizer train dev folder")  # Tokenizer, TokenFile, TokenFile, Path


def write_clean(files, folder, split, start=0.0, stop=1.0):
    """Clean files [(domain, path)] into folder: of each the lines from the share start to stop. -> {domain: file}."""
    texts = {}
    for domain, path in tqdm(files, desc="clean", disable=None):
        n = sum(1 for _ in open(path, "rb"))
        lines = itertools.islice(read_lines(path), round(n * start), round(n * stop))
        out = texts.setdefault(domain, folder / f"{domain}.{split}.text")
        with open(out, "a", encoding="utf-8", newline="\n") as f:
            f.writelines(line + "\n" for line in clean(domain, lines))
    if not any(file.stat().st_size for file in texts.values()):
        if start:
            raise UserError("the last 2% of the corpus's lines, kept for development, hold no text; name development text with --dev")
        raise UserError(f"corpus {', '.join(str(p) for _, p in files)[:200]}: empty, no text is left after cleaning")
    return texts


def keep_words(texts, max_words):
    """Cut each text file, from its start, to the same share, so that about max_words are left in all."""
    sizes = {file: np.fromiter(((len(line.decode().split()), len(line)) for line in open(file, "rb")), (np.int64, 2)).T
             for file in texts.values()}  # of each line words and bytes: (2, lines)
    share = max_words / max(1, sum(words.sum() for words, _ in sizes.values()))
    for file, (words, size) in sizes.items() if share < 1 else ():
        os.truncate(file, size[words.cumsum() <= words.sum() * share].sum())


def count_words(texts, extra=()):
    """Pre-token -> count over all texts, and 1 for each of extra."""
    counts, chunks, find = collections.Counter(extra), collections.Counter(), regex.compile(PATTERN).findall
    for file in tqdm(texts.values(), desc="count words", disable=None):
        with open(file, encoding="utf-8", newline="\n") as f:
            while lines := f.readlines(1 << 22):
                text = "".join(lines)
                found = collections.Counter(text.replace(" ", "\n ").split("\n"))
                if any(chunk[-1:].isspace() for chunk in found):  # a run of spaces was cut, and it belongs together
                    counts.update(find(text))
                else:
                    chunks.update(found)
                    counts["\n"] += text.count("\n")
    for chunk, n in chunks.items():  # no pre-token reaches across a single space: each distinct chunk is split but once
        for word in find(chunk):
            counts[word] += n
    return counts


def prepare(cfg):
    """Tokenizer and token files of cfg's corpus, from disk if they have been prepared before. Uses the keys corpus, dev,
    data_dir, tokenizer, vocab_size, mark, seed, sentences, max_words. Raises UserError for what cannot be prepared."""
    given = Tokenizer.load(cfg.tokenizer) if cfg.tokenizer else None
    digest = hashlib.sha256(repr((PATTERN, CLEAN, ALWAYS, given.hash if given else cfg.vocab_size, cfg.mark, cfg.seed,
                                  cfg.max_words)).encode())
    dev_name = cfg.dev or (CORPORA[cfg.corpus][2] if cfg.corpus in CORPORA else "")
    train_files, dev_files = [], []
    if cfg.corpus == "babytalk":
        digest.update(repr(cfg.sentences).encode() + pathlib.Path(babytalk.__file__).read_bytes())
    else:
        train_files = resolve(cfg.corpus, cfg.data_dir)
        dev_files = resolve(dev_name, cfg.data_dir) if dev_name else []
        for split, domain, path in [("train", *f) for f in train_files] + [("dev", *f) for f in dev_files]:
            digest.update(repr((split, domain, path.stat().st_size)).encode())
            with open(path, "rb") as f:
                hashlib.file_digest(f, lambda: digest)
    label = regex.sub(r"[^A-Za-z0-9._-]+", "_", pathlib.Path(cfg.corpus).stem or "corpus")[:40]
    folder = pathlib.Path(cfg.data_dir) / f"{label}-{cfg.vocab_size or 'all'}-{cfg.mark}-{digest.hexdigest()[:10]}"
    if not folder.exists():
        print(f"preparing {cfg.corpus} in {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".preparing-", dir=folder.parent) as aside:
                build(cfg, pathlib.Path(aside), train_files, dev_files, given, digest.hexdigest()[:16])
                os.chmod(aside, 0o755)  # a temporary one is for its user alone
                os.replace(aside, folder)
        except OSError as e:
            if not folder.exists():  # it does if another process has prepared the same meanwhile
                raise UserError(f"{folder} could not be written: {e.strerror or e}")
    tokenizer = Tokenizer.load(folder)
    train, dev = (TokenFile(folder / f"{s}.bin", tokenizer.hash) for s in ("train", "dev"))
    if max(file.tokens.max(initial=0) for file in (train, dev)) >= tokenizer.vocab_size:
        raise UserError(f"{folder}: a token file is damaged, it holds what is no token; remove the folder, it will be prepared again")
    return Prepared(tokenizer, train, dev, folder)


def build(cfg, folder, train_files, dev_files, tokenizer, corpus):
    """Everything prepare leaves, into folder."""
    if cfg.corpus == "babytalk":
        texts, dev_texts = ({"babytalk": folder / f"{split}.text"} for split in ("train", "dev"))
        texts["babytalk"].write_text("".join(babytalk.sample(cfg.sentences, cfg.seed)))
        dev_lines = babytalk.sample(max(200, min(10_000, cfg.sentences // 20)), cfg.seed + 2**31)
        dev_texts["babytalk"].write_text("".join(dev_lines))
    else:
        texts = write_clean(train_files, folder, "train", stop=1.0 if dev_files else 0.98)
        dev_texts = write_clean(dev_files or train_files, folder, "dev", start=0.0 if dev_files else 0.98)
    if cfg.max_words:
        keep_words(texts, cfg.max_words)
    if tokenizer is None:
        forms = babytalk.forms() if cfg.corpus == "babytalk" else ()
        tokenizer = Tokenizer(train_bpe(count_words(texts, forms), cfg.vocab_size))
    tokenizer.save(folder / "tokenizer.json")
    for path, files in ((folder / "train.bin", texts), (folder / "dev.bin", dev_texts)):
        write_tokens(path, tokenizer, files, cfg.mark, cfg.seed, corpus)
        for file in files.values():
            file.unlink()


# ---------------------------------------------------------------- batches

class OldBatches:
    """Random chunks of a token stream: batch(step) -> x, y (B, T) int64, a pure function of seed and step.

    Each epoch takes every chunk once in a new order, shifted by an offset of its own in [0, T) if random_offset
    (Baby Llama's loader), else 0. y is x one position on; `<s>` is never a label (-100). mark "block": x starts with
    `<s>`. per_epoch: batches an epoch. On a GPU the stream and the epoch's order lie in its memory: a step reads and copies
    nothing. Raises UserError if the corpus is smaller than one batch.
    """

    def __init__(self, file, block_size, batch_size, seed, random_offset=True, mark="none", device="cpu"):
        self.tokens, self.T, self.B, self.seed, self.mark = stream(file, device), block_size, batch_size, seed, mark
        self.random_offset, self.epoch, self.easy = random_offset, None, None
        self.chunks = (file.count - 1 - (block_size - 1 if random_offset else 0)) // block_size
        self.per_epoch = self.chunks // batch_size
        if self.per_epoch < 1:
            raise UserError(f"the corpus has {file.count} tokens, fewer than one batch of {batch_size} x {block_size}; choose a "
                            f"smaller batch_size or block_size, or a larger corpus")

    def sort(self, difficulty):
        """Remember the chunks by their difficulty (chunks,), the easiest first; equal ones in an order of the seed's."""
        self.easy = np.lexsort((np.random.default_rng((self.seed, 2)).random(self.chunks), difficulty)) * self.T

    def batch(self, step, block=None, progress=1.0):
        """block: a divisor of block_size; the same tokens, cut into shorter sequences, (B T / block, block). progress: of the
        run; sorted chunks are drawn at random from the easiest ones, c(t) of all, until c is 1 half way: c(t)^2 rises in a
        straight line from 0.1^2 (competence, arXiv 1903.09848, eq. 7)."""
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(self.chunks) * self.T  # where the epoch's chunks begin, as they are read
            order += rng.integers(0, self.T, self.chunks) * self.random_offset
            self.epoch, self.order = epoch, torch.from_numpy(order).to(self.tokens.device)
        starts, block = self.order[i * self.B:(i + 1) * self.B], block or self.T
        if self.easy is not None and progress < 0.5:
            rng, known = np.random.default_rng((self.seed, step, 2)), math.sqrt(0.01 + 0.99 * progress / 0.5) * self.chunks
            starts = self.easy[rng.choice(max(self.B, int(known)), self.B, replace=False)]
            starts = torch.from_numpy(starts + rng.integers(0, self.T, self.B) * self.random_offset).to(self.tokens.device)
        return cut(self.tokens, (starts[:, None] + torch.arange(0, self.T, block, device=starts.device)).ravel(), block, self.mark)


def tokens_a_line(by, file, chunks, T, newline):
    """(chunks,) the mean tokens of a line, of each chunk of T tokens or, by "domain", of the whole domain that it begins in."""
    if by == "length":
        return T / (1 + (file.tokens[:chunks * T].reshape(chunks, T) == newline).sum(1))
    if len(file.segments) < 2:
        raise UserError("order = domain: the corpus has one domain only; order by length or perplexity")
    means = np.array([(stop - start) / (1 + np.count_nonzero(file.tokens[start:stop] == newline))
                      for _, start, stop, *_ in file.segments])
    return means[np.searchsorted([start for _, start, *_ in file.segments], np.arange(chunks) * T, side="right") - 1]


def stream(file, device="cpu"):
    """A TokenFile's tokens (count,) on a device; signed, for torch indexes little that is not: `cut` takes the sign off."""
    return torch.from_numpy(file.tokens.view(file.tokens.dtype.str.replace("u", "i"))).to(device)


def cut(tokens, starts, T, mark):
    """x, y (B, T) int64 of the chunks of a `stream` that begin at starts (B,), a tensor beside it."""
    ids = tokens[starts[:, None] + torch.arange(T + 1, device=starts.device)].long()  # (B, T + 1)
    ids &= (1 << 8 * tokens.element_size()) - 1
    x, y = ids[:, :-1], ids[:, 1:]
    if mark == "block":
        x, y = torch.cat([torch.full_like(ids[:, :1], Tokenizer.bos_id), ids[:, :-2]], dim=1), ids[:, :-1]
    return x.contiguous(), y.masked_fill(y == Tokenizer.bos_id, -100)


def eval_blocks(file, block_size, max_tokens=0, mark="none"):
    """x, y (n, T): the stream's blocks in order without overlap, or evenly spread ones with about max_tokens tokens."""
    n = (file.count - 1) // block_size
    if n < 1:
        raise UserError(f"the development text has {file.count} tokens, fewer than one block of {block_size}")
    wanted = min(n, max(1, max_tokens // block_size)) if max_tokens else n
    starts = torch.from_numpy(np.linspace(0, n - 1, wanted).round().astype(np.int64)) * block_size
    return cut(stream(file), starts, block_size, mark)


class Batches(OldBatches):
    def __init__(self, file, config, device="cpu"):
        super().__init__(file, config.longest, config.batch_size, config.seed, config.random_offset, config.mark, device)
        if config.order:
            self.sort(tokens_a_line("length", file, self.chunks, self.T, BYTE_ID[10]))

    def batch(self, step, now):
        return super().batch(step, now.block_size, now.progress)


def main(argv):
    config = config_module.parse_args(argv, __doc__)
    started = time.monotonic()
    prepared = prepare(config)
    print(f"{prepared.folder}: vocabulary {prepared.tokenizer.vocab_size}, mark {config.mark}, {time.monotonic() - started:.1f} s")
    print(f"{'':7}{'domain':16}{'words':>12}{'bytes':>13}{'tokens':>12}{'tokens/word':>12}")
    for split, file in (("train", prepared.train), ("dev", prepared.dev)):
        for name, start, stop, words, size in file.segments + [["all", 0, file.count, file.words, file.bytes]]:
            print(f"{split:7}{name:16}{words:12,}{size:13,}{stop - start:12,}{(stop - start) / max(1, words):12.3f}")


if __name__ == "__main__":
    config_module.run_main(main)
