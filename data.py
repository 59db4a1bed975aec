"""From text to batches: a corpus is cleaned, encoded into a token file, and read in random chunks.

    python data.py CONFIG     prepare corpus, tokenizer and token files; print statistics

    corpus -> files -> clean lines -> word counts -> train_bpe -> Tokenizer -> TokenFile -> Batches

Text is read by the block, a megabyte of whole lines, and a block is cleaned, counted or encoded at
once.

`mark` is "half" by default since that has the fewest nats a byte of the same development text, mean
of two scorings (lines after `<s>`, full blocks without): none 1.750, half 1.711, line 1.717. One
seed, early in training: `python teacher.py configs/base_nano_1m.py --mark=M --max_steps=150`, then
`python eval.py RUN --tasks=ppl --limit=30000`.
"""
from onecoach.config import answer_early, parse_args

if __name__ == "__main__":
    answer_early(lambda argv: parse_args(argv, __doc__, early=True))

import collections
import hashlib
import os
import pathlib
import re
import time

import numpy as np
import torch
from tqdm import tqdm

import babytalk
from bpe import PATTERN, Tokenizer, count_pre_tokens, train_bpe
from onecoach.config import UserError, run_main
from onecoach.corpora import (
    ALWAYS,
    CLEAN,
    CORPORA,
    building,
    clean,
    read_blocks,
    resolve,
)
from onecoach.imported import load_tokenizer, say_lost
from onecoach.tokens import (
    AGAIN,
    FORM,
    Segment,
    TokenFile,
    read_clean,
    stream,
    write_tokens,
)


# ---------------------------------------------------------------- preparation

Prepared = collections.namedtuple("Prepared", "tokenizer train dev folder")


def prepare(config):
    """What a run reads: Prepared(tokenizer: Tokenizer, train and dev: TokenFile, folder: Path).

    From disk, if it has been prepared before. What counts is the text itself and the keys
    tokenizer, vocab_size, mark, seed, sentences and max_words, not how corpus and dev are called.
    train.corpus, and dev.corpus too, is a digest of all the clean text: where that agrees two runs
    have read the same, whatever else their configs say. Raises UserError for what cannot be
    prepared.
    """
    given = load_tokenizer(config.tokenizer) if config.tokenizer else None
    train_files, dev_files = corpus_files(config)
    digest = digest_of(config, given, train_files, dev_files)
    name = pathlib.Path(config.corpus).stem or "corpus"
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:40]
    size = given.vocab_size if given else config.vocab_size
    name = f"{name}-{size or 'all'}-{config.mark}-{digest[:10]}"
    folder = pathlib.Path(config.data_dir, name)

    if not folder.exists():
        print(f"preparing {config.corpus} in {folder}")
        try:
            with building(folder) as aside:
                build(config, aside, train_files, dev_files, given)
        except OSError as e:
            raise UserError(f"{folder} could not be written: {e.strerror or e}")

    tokenizer = load_tokenizer(folder)
    train = TokenFile(folder / "train.bin", tokenizer.hash)
    dev = TokenFile(folder / "dev.bin", tokenizer.hash)
    for file in (train, dev):  # an id that is none would end a step on a GPU, without a word
        if file.tokens.max(initial=0) >= tokenizer.vocab_size:
            raise UserError(f"{folder}: a token file is damaged, it holds what is no token; "
                            f"{AGAIN}")
    return Prepared(tokenizer, train, dev, folder)


def corpus_files(config):
    """The files of the training and the development text, each [(domain, path), ...].

    None for babytalk, which is generated; no development files where the corpus has none of its
    own: then the end of each training file is kept for that. UserError for a file in both.
    """
    if config.corpus == "babytalk":
        return [], []
    train = resolve(config.corpus, config.data_dir, "train")
    name = config.dev
    if not name and config.corpus in CORPORA:
        name = CORPORA[config.corpus].dev
    dev = resolve(name, config.data_dir, "dev") if name else []

    # by where they are, not by how they are spelled
    trained_on = {path.resolve() for _, path in train}
    for _, path in dev:
        if path.resolve() in trained_on:
            raise UserError(f"{path} is in corpus = {config.corpus!r} and in dev = {name!r}: a "
                            "model cannot be judged by what it was trained on; leave it out of one "
                            "(without dev, the last 2% of each file are kept for it)")
    return train, dev


def digest_of(config, tokenizer, train_files, dev_files):
    """A digest of all that the prepared data depend on: of the files their content."""
    vocabulary = tokenizer.hash if tokenizer else config.vocab_size
    # the rules and the form too, for another version of this program may have others
    keys = (PATTERN, CLEAN, ALWAYS, FORM, vocabulary, config.mark, config.seed, config.max_words)
    digest = hashlib.sha256(repr(keys).encode())
    if config.corpus == "babytalk":
        digest.update(repr(config.sentences).encode())
        digest.update(pathlib.Path(babytalk.__file__).read_bytes())
    for split, files in (("train", train_files), ("dev", dev_files)):
        for domain, path in files:
            digest.update(repr((split, domain, path.stat().st_size)).encode())
            with open(path, "rb") as f:
                hashlib.file_digest(f, lambda: digest)
    return digest.hexdigest()


def build(config, folder, train_files, dev_files, tokenizer):
    """Everything that prepare leaves, into `folder`; a tokenizer is trained if none is given."""
    if config.corpus == "babytalk":
        texts = generate(folder, "train", config.sentences, config.seed)
        n = max(2000, min(10_000, config.sentences // 20))  # fewer would be too coarse a measure
        dev_texts = generate(folder, "dev", n, config.seed + 2**31)
    elif dev_files:
        texts = write_clean(train_files, folder, "train")
        dev_texts = write_clean(dev_files, folder, "dev")
    else:
        texts = write_clean(train_files, folder, "train", stop=0.98)
        dev_texts = write_clean(train_files, folder, "dev", start=0.98)
    if config.max_words:
        keep_words(texts, config.max_words)
    shared = share_in_training(texts, dev_texts)

    if tokenizer is None:
        # babytalk's rare words too are tokens, drawn or not: its truth needs one token a word
        forms = babytalk.forms() if config.corpus == "babytalk" else ()
        tokenizer = train_tokenizer(count_words(texts, forms), config.vocab_size)
    tokenizer.save(folder / "tokenizer.json")

    # only tokens stay: what was written on the way is as large as the corpus
    files = [*texts.values(), *dev_texts.values()]
    say_lost(tokenizer, (text for file in files for text in read_clean(file)))
    digest = digest_of_text(files)
    write_tokens(folder / "train.bin", tokenizer, texts, config.mark, config.seed, digest)
    write_tokens(folder / "dev.bin", tokenizer, dev_texts, config.mark, config.seed, digest,
                 shared)
    for file in files:
        file.unlink()


def generate(folder, split, n, seed):
    """n lines of babytalk, in a file in `folder`; {domain: file}."""
    file = folder / f"babytalk.{split}.text"
    file.write_text("".join(babytalk.sample(n, seed)), encoding="utf-8", newline="\n")
    return {"babytalk": file}


def write_clean(files, folder, split, start=0.0, stop=1.0):
    """Clean files [(domain, path), ...] into `folder`; {domain: file}.

    start, stop: which share of each file's lines to take. Raises UserError if no text is left.
    """
    texts = {}
    for domain, path in tqdm(files, desc="clean", disable=None):
        texts[domain] = folder / f"{domain}.{split}.text"
        with open(texts[domain], "a", encoding="utf-8", newline="\n") as f:
            for block in read_share(path, start, stop):
                f.write(clean(domain, block))

    if not any(file.stat().st_size for file in texts.values()):
        if start:
            raise UserError("the last 2% of the corpus's lines, kept for development, hold no "
                            "text; name development text with --dev")
        names = ", ".join(str(path) for _, path in files)
        raise UserError(f"corpus {names[:200]}: empty, no text is left after cleaning")
    return texts


def read_share(path, start, stop):
    """Yield the lines of a file from a share `start` of them to `stop`, as read_blocks does."""
    if (start, stop) == (0, 1):
        yield from read_blocks(path)
        return
    n = sum(block.count("\n") for block in read_blocks(path))
    first = round(n * start)
    last = round(n * stop)
    for block in read_blocks(path):
        lines = block.split("\n")[:-1]
        yield "".join(f"{line}\n" for line in lines[max(0, first):max(0, last)])
        first -= len(lines)
        last -= len(lines)


def keep_words(texts, max_words):
    """Cut each text file to the same share, from its start: max_words are left in all, or fewer."""
    lines_of = {}  # file -> of each line words and bytes, (lines, 2)
    for file in texts.values():
        with open(file, "rb") as f:
            sizes = ((len(line.decode().split()), len(line)) for line in f)
            lines_of[file] = np.fromiter(sizes, (np.int64, 2))
    share = max_words / max(1, sum(lines[:, 0].sum() for lines in lines_of.values()))
    if share >= 1:
        return
    for file, lines in lines_of.items():
        words, sizes = lines.T
        kept = words.cumsum() <= words.sum() * share
        os.truncate(file, sizes[kept].sum())


def share_in_training(texts, dev_texts):
    """Return the share of the development text's words in lines of the training text; print it."""
    dev_lines = collections.Counter()
    for file in dev_texts.values():
        with open(file, "rb") as f:
            dev_lines.update(f)
    shared = collections.Counter()
    for file in texts.values():
        with open(file, "rb") as f:
            for line in f:
                if line in dev_lines:
                    shared[line] = dev_lines[line]

    words, all_words = (sum(n * len(line.split()) for line, n in lines.items())
                        for lines in (shared, dev_lines))
    if shared:
        print(f"{shared.total():,} of the {dev_lines.total():,} development lines, "
              f"{words / all_words:.1%} of the words, stand in the training text too")
    return words / all_words


def digest_of_text(files):
    """A digest of clean text, and of where its files begin."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.stat().st_size}\n".encode())
        with open(file, "rb") as f:
            hashlib.file_digest(f, lambda: digest)
    return digest.hexdigest()[:16]


def count_words(texts, extra=()):
    """Counter of the pre-tokens of all texts {domain: file}, and 1 for each of `extra`."""
    files = tqdm(texts.values(), desc="count words", disable=None)
    counts = count_pre_tokens(block for file in files for block in read_clean(file))
    counts.update(extra)
    return counts


def train_tokenizer(word_counts, vocab_size):
    """A Tokenizer trained on word counts; UserError if they cannot fill vocab_size."""
    try:
        return Tokenizer(train_bpe(word_counts, vocab_size))
    except ValueError as e:
        raise UserError(str(e))


# ---------------------------------------------------------------- batches

class Batches:
    """Random chunks of a TokenFile: batch(step, now) -> x, y, a pure function of seed and step.

    From the config: longest block T, batch_size B, seed, random_offset and order. An epoch takes
    every chunk of T tokens once, in a new order, each shifted by an offset of its own in [0, T) if
    random_offset (Baby Llama's loader), else 0. per_epoch: batches an epoch. On a GPU the stream
    and the epoch's order lie in its memory: a step copies nothing.

    order "length": text of short lines comes first. Until half of the run a batch is drawn from the
    easiest chunks, the share c of them all: competence (arXiv 1903.09848, eq. 7), c^2 rising in a
    straight line from 0.1^2 to 1. After that the order is the usual one.

    Raises UserError if the corpus is smaller than one batch.
    """

    def __init__(self, file, config, device="cpu"):
        self.T = config.longest
        self.B = config.batch_size
        self.seed = config.seed
        self.random_offset = config.random_offset
        self.tokens = stream(file, device)
        self.bos_id = file.bos_id
        self.epoch = None  # whose order is in self.order

        # the last chunk must end within the stream also at the largest offset, label included
        reach = self.T - 1 if self.random_offset else 0
        self.chunks = (file.count - 1 - reach) // self.T
        self.per_epoch = self.chunks // self.B
        if self.per_epoch < 1:
            raise UserError(f"the corpus has {file.count} tokens, fewer than one batch of {self.B} "
                            f"x {self.T}; choose a smaller batch_size or block_size, or a larger "
                            "corpus")
        self.easiest = None
        self.file = file
        if config.order == "length":
            rng = np.random.default_rng((self.seed, 2))
            hardness = line_length(file, self.chunks, self.T)
            self.easiest = np.lexsort((rng.random(self.chunks), hardness))  # equal ones by chance

    def batch(self, step, now):
        """x, y (B, T) int64; y is x one position on, -100 (no label) where that is `<s>`.

        now: what config.at(progress) gives. A block_size shorter than T, a divisor, cuts the same
        tokens into shorter sequences: (B T / block_size, block_size).
        """
        if self.easiest is not None and now.progress < 0.5:
            starts = self.easy_starts(step, now.progress)
        else:
            starts = self.usual_starts(step)
        # each chunk is cut here, so that the tokens of a step do not depend on block_size
        within = torch.arange(0, self.T, now.block_size, device=starts.device)
        starts = (starts[:, None] + within).flatten()
        return cut(self.tokens, starts, now.block_size, self.bos_id)

    def usual_starts(self, step):
        """(B,) where the chunks of a step begin, by the order of its epoch."""
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            rng = np.random.default_rng((self.seed, epoch))
            chunks = rng.permutation(self.chunks)
            self.order = self.starts_of(chunks, rng)
            self.epoch = epoch
        return self.order[i * self.B:(i + 1) * self.B]

    def easy_starts(self, step, progress):
        """(B,) where the chunks of a step begin, drawn from the easiest ones."""
        rng = np.random.default_rng((self.seed, step, 2))  # by the step: exact when gone on with
        n = int(self.count_easy(progress))
        return self.starts_of(self.easiest[rng.choice(n, self.B, replace=False)], rng)

    def count_easy(self, progress):
        """Return how many of the easiest chunks a step before half of the run draws from."""
        competence = np.sqrt(0.01 + 0.99 * progress / 0.5)
        return np.maximum(self.B, (competence * self.chunks).astype(np.int64))

    def words_read(self, steps, tokenizer):
        """Return (steps + 1,): the words that a run of `steps` steps has read after each, expected.

        Order "length" reads fewer per token at first, where a mark or a newline is every fifth one.
        """
        per_step = np.ones(steps)  # relative to that of the whole text
        if self.easiest is not None:
            # a word begins at a space, the first one of a line at the newline before it
            begins = np.array([name.startswith((b" ", b"\n")) for name in tokenizer.tokens()])
            begins[self.file.newline_id] = tokenizer.token_bytes[self.file.newline_id] > 0
            tokens = self.file.tokens[:self.chunks * self.T].reshape(self.chunks, self.T)
            words = begins[tokens].sum(1)[self.easiest]
            mean = words.cumsum() / np.arange(1, self.chunks + 1)  # of the easiest 1, 2, ...
            progress = np.arange(steps) / steps
            n = self.count_easy(np.minimum(progress, 0.5))
            per_step = np.where(progress < 0.5, mean[n - 1] / mean[-1], 1.0)
        per_token = self.file.words / self.file.count
        return np.concatenate([[0.0], per_step.cumsum()]) * self.B * self.T * per_token

    def starts_of(self, chunks, rng):
        """Where chunks (n,) begin in the stream, each at an offset of its own; on the device."""
        offsets = rng.integers(0, self.T, len(chunks)) * self.random_offset
        return torch.from_numpy(chunks * self.T + offsets).to(self.tokens.device)


def line_length(file, chunks, T):
    """(chunks,) mean tokens of a line, of each chunk of T tokens."""
    tokens = file.tokens[:chunks * T].reshape(chunks, T)
    return T / (1 + (tokens == file.newline_id).sum(1))


def cut(tokens, starts, T, bos_id=Tokenizer.bos_id):
    """x, y (B, T) int64 of the chunks of a `stream` that begin at starts (B,), on its device."""
    positions = starts[:, None] + torch.arange(T + 1, device=starts.device)
    ids = tokens[positions].long()  # (B, T + 1)
    ids &= (1 << 8 * tokens.element_size()) - 1
    x = ids[:, :-1].contiguous()
    y = ids[:, 1:]
    return x, y.masked_fill(y == bos_id, -100)


def validation_blocks(file, block_size, max_tokens=0):
    """x, y (n, T): blocks of T tokens of the text that chooses best.pt, in order, without overlap.

    That is the first half of each domain of a TokenFile; the second half is the test split
    (eval.test_split). max_tokens: take evenly spread blocks with about that many tokens; 0: all.
    Raises UserError if there is not one.
    """
    halves = [(start, (start + stop) // 2) for _, start, stop, *_ in file.segments]
    starts = np.concatenate([np.arange(start, end - block_size, block_size)
                             for start, end in halves])
    if not len(starts):
        raise UserError(f"the development text has {file.count} tokens, half of them to choose the "
                        f"best weights by: fewer than one block of {block_size}")
    if max_tokens:
        n = min(len(starts), max(1, max_tokens // block_size))
        starts = starts[np.linspace(0, len(starts) - 1, n).round().astype(np.int64)]
    return cut(stream(file), torch.from_numpy(starts), block_size, file.bos_id)


def main(argv):
    config = parse_args(argv, __doc__)
    started = time.monotonic()
    prepared = prepare(config)
    seconds = time.monotonic() - started
    print(f"{prepared.folder}: vocabulary {prepared.tokenizer.vocab_size}, mark {config.mark}, "
          f"{seconds:.1f} s")
    print(f"{'':7}{'domain':16}{'words':>12}{'bytes':>13}{'tokens':>12}{'tokens/word':>12}")
    for split, file in (("train", prepared.train), ("dev", prepared.dev)):
        whole = Segment("all", 0, file.count, file.words, file.bytes)
        for part in [*file.segments, whole]:
            tokens = part.stop - part.start
            print(f"{split:7}{part.name:16}{part.words:12,}{part.bytes:13,}{tokens:12,}"
                  f"{tokens / max(1, part.words):12.3f}")


if __name__ == "__main__":
    run_main(main)
