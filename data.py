"""From text to batches: a corpus is cleaned, encoded into a token file, and read in random chunks.

    python data.py CONFIG     prepare corpus, tokenizer and token files; print statistics

    corpus -> files -> clean lines -> word counts -> train_bpe -> Tokenizer -> TokenFile -> Batches

Text is read in blocks of whole lines, a megabyte each, and a block is cleaned, counted or encoded
at once.

`mark` is "half" by default because it has the fewest nats per byte on the same development text,
mean of two scorings (lines after `<s>`, full blocks without): none 1.750, half 1.711, line 1.717.
One seed, early in training: `python teacher.py configs/base_nano_1m.py --mark=M --max_steps=150`,
then `python eval.py RUN --tasks=ppl --limit=30000`.
"""
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
from onecoach.config import UserError, parse_args, run_main
from onecoach.corpora import ALWAYS, CLEAN, CORPORA, building, clean, read_blocks, resolve
from onecoach.imported import load_tokenizer, say_lost
from onecoach.tokens import (AGAIN, FORM, Segment, TokenFile, read_clean, stream, to_device,
                             write_tokens)

# ---------------------------------------------------------------- preparation

Prepared = collections.namedtuple("Prepared", "tokenizer train dev folder")


def prepare(config):
    """Return Prepared(tokenizer: Tokenizer, train and dev: TokenFile, folder: Path) for a config.

    The folder's name has a digest of the text and of the keys, so nothing is prepared twice.
    train.corpus, equal to dev.corpus, is a digest of all the clean text. Raises UserError.
    """
    given = load_tokenizer(config.tokenizer) if config.tokenizer else None
    train_files, dev_files = corpus_files(config)
    digest = digest_inputs(config, given, train_files, dev_files)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", pathlib.Path(config.corpus).stem or "corpus")[:40]
    size = given.vocab_size if given else config.vocab_size
    name = f"{name}-{size or 'all'}-{config.mark}-{digest[:10]}"
    folder = pathlib.Path(config.data_dir, name)

    if not folder.exists():
        print(f"preparing {config.corpus} in {folder}")
        with building(folder) as aside:
            build(config, aside, train_files, dev_files, given)

    tokenizer = load_tokenizer(folder)
    train = TokenFile(folder / "train.bin", tokenizer.hash)
    dev = TokenFile(folder / "dev.bin", tokenizer.hash)
    for file in (train, dev):  # an id beyond V would end a step on a GPU without a message
        if file.tokens.max(initial=0) >= tokenizer.vocab_size:
            raise UserError(f"{folder}: a token file is damaged, it holds ids beyond the "
                            f"vocabulary; {AGAIN}")
    return Prepared(tokenizer, train, dev, folder)


def corpus_files(config):
    """Return the files [(domain, path), ...] of the training and of the development text.

    babytalk has none. A corpus without development text has no files for it: the end of each
    training file is kept instead. Raises UserError for a file in both.
    """
    if config.corpus == "babytalk":
        return [], []
    train = resolve(config.corpus, config.data_dir, "train")
    name = config.dev or (CORPORA[config.corpus].dev if config.corpus in CORPORA else "")
    dev = resolve(name, config.data_dir, "dev") if name else []

    trained_on = {path.resolve() for _, path in train}  # two spellings of one path are one file
    for _, path in dev:
        if path.resolve() in trained_on:
            raise UserError(f"{path} is in corpus = {config.corpus!r} and in dev = {name!r}: a "
                            "model is not judged by text that it learned from; leave it out of one "
                            "(without dev, the last 2% of each file are kept for it)")
    return train, dev


def digest_inputs(config, tokenizer, train_files, dev_files):
    """Digest everything that the prepared data depend on, the content of the files included."""
    vocabulary = tokenizer.hash if tokenizer else config.vocab_size
    # another version of this program may have other rules, or another form of token files
    keys = (PATTERN, CLEAN, ALWAYS, FORM, vocabulary, config.mark, config.seed, config.max_words)
    files = [(repr((split, domain, path.stat().st_size)), path)
             for split, pairs in (("train", train_files), ("dev", dev_files))
             for domain, path in pairs]
    if config.corpus == "babytalk":
        files = [(repr(config.sentences), babytalk.__file__)]
    return digest_files(repr(keys), files)


def digest_files(text, files):
    """Digest a text, and the text and the content of each of files [(text, path), ...]."""
    digest = hashlib.sha256(text.encode())
    for text, path in files:
        digest.update(text.encode())
        with open(path, "rb") as f:
            hashlib.file_digest(f, lambda: digest)
    return digest.hexdigest()


def build(config, folder, train_files, dev_files, tokenizer):
    """Fill `folder` with tokenizer and token files; train a tokenizer if None is given."""
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
        # babytalk's truth needs one token per word, also for rare words that were not drawn
        forms = babytalk.forms() if config.corpus == "babytalk" else ()
        try:
            tokenizer = Tokenizer(train_bpe(count_words(texts, forms), config.vocab_size))
        except ValueError as e:  # too few pairs to fill the vocabulary
            raise UserError(str(e))
    tokenizer.save(folder / "tokenizer.json")

    files = [*texts.values(), *dev_texts.values()]
    say_lost(tokenizer, (text for file in files for text in read_clean(file)))
    digest = digest_files("", [(f"{file.stat().st_size}\n", file) for file in files])[:16]
    write_tokens(folder / "train.bin", tokenizer, texts, config.mark, config.seed, digest)
    write_tokens(folder / "dev.bin", tokenizer, dev_texts, config.mark, config.seed, digest,
                 shared)
    for file in files:  # the clean text is as large as the corpus
        file.unlink()


def generate(folder, split, n, seed):
    """Write n lines of babytalk to a file in `folder`; return {domain: file}."""
    file = folder / f"babytalk.{split}.text"
    file.write_text("".join(babytalk.sample(n, seed)), encoding="utf-8", newline="\n")
    return {"babytalk": file}


def write_clean(files, folder, split, start=0.0, stop=1.0):
    """Clean files [(domain, path), ...] into `folder`; return {domain: file}.

    start, stop: the share of each file's lines to take. Raises UserError if no text is left.
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
    """Yield a file's lines in blocks, from the share `start` of them to the share `stop`."""
    n = sum(block.count("\n") for block in read_blocks(path))
    first = round(n * start)
    last = round(n * stop)
    for block in read_blocks(path):
        lines = block.split("\n")[:-1]
        yield "".join(f"{line}\n" for line in lines[max(0, first):max(0, last)])
        first -= len(lines)
        last -= len(lines)


def keep_words(texts, max_words):
    """Cut the end of each text file, the same share of all, so that at most max_words are left."""
    sizes = {}  # file -> words and bytes of each line, (lines, 2)
    for file in texts.values():
        with open(file, "rb") as f:
            lines = ((len(line.decode().split()), len(line)) for line in f)
            sizes[file] = np.fromiter(lines, (np.int64, 2))
    share = max_words / max(1, sum(lines[:, 0].sum() for lines in sizes.values()))
    for file, lines in sizes.items():
        words, size = lines.T
        kept = words.cumsum() <= words.sum() * min(1, share)
        os.truncate(file, size[kept].sum())


def share_in_training(texts, dev_texts):
    """Return the share of the development text's words in lines of the training text; print it."""
    dev_lines = collections.Counter()
    for file in dev_texts.values():
        with open(file, "rb") as f:
            dev_lines.update(f)
    in_both = set()
    for file in texts.values():
        with open(file, "rb") as f:
            in_both |= dev_lines.keys() & f

    words = {line: n * len(line.split()) for line, n in dev_lines.items()}
    share = sum(words[line] for line in in_both) / sum(words.values())
    if in_both:
        shared = sum(dev_lines[line] for line in in_both)
        print(f"{shared:,} of the {dev_lines.total():,} development lines, {share:.1%} of the "
              "words, stand in the training text too")
    return share


def count_words(texts, extra=()):
    """Count the pre-tokens of all texts {domain: file}, and each of `extra` once more."""
    files = tqdm(texts.values(), desc="count words", disable=None)
    counts = count_pre_tokens(block for file in files for block in read_clean(file))
    counts.update(extra)
    return counts


# ---------------------------------------------------------------- batches

class Batches:
    """Random chunks of a TokenFile: batch(step, now) -> x, y, a pure function of seed and step.

    An epoch takes every chunk of T tokens once, in a new order; with random_offset each chunk is
    shifted by an offset in [0, T), as in Baby Llama's loader. On a GPU the stream and the epoch's
    order are in GPU memory: a step copies nothing.

    order "length": until half of the run a batch is drawn from the chunks of the shortest lines, a
    share c of all: competence (arXiv 1903.09848, eq. 7), c^2 rises in a straight line from 0.1^2 to
    1. Raises UserError if the corpus is smaller than one batch.
    """

    def __init__(self, file, config, device="cpu"):
        self.T = config.longest
        self.B = config.batch_size
        self.seed = config.seed
        self.random_offset = config.random_offset
        self.file = file
        self.tokens = stream(file, device)
        self.epoch = None  # the epoch of self.order

        # the last chunk must end within the stream also at the largest offset, label included
        reach = self.T - 1 if self.random_offset else 0
        self.chunks = (file.count - 1 - reach) // self.T
        self.per_epoch = self.chunks // self.B
        if self.per_epoch < 1:
            raise UserError(f"the corpus has {file.count} tokens, fewer than one batch of {self.B} "
                            f"x {self.T}; choose a smaller batch_size or block_size, or a larger "
                            "corpus")
        self.easiest = None
        if config.order == "length":
            rng = np.random.default_rng((self.seed, 2))
            hardness = line_length(file, self.chunks, self.T)
            self.easiest = np.lexsort((rng.random(self.chunks), hardness))  # ties at random

    def batch(self, step, now):
        """Return x, y (B, T) int64; y is x one position on, -100 (no label) at a `<s>`.

        now: the result of config.at(progress). A shorter block_size, a divisor of T, cuts the same
        tokens into shorter sequences: (B T / block_size, block_size).
        """
        if self.easiest is not None and now.progress < 0.5:
            starts = self.easy_starts(step, now.progress)
        else:
            starts = self.usual_starts(step)
        # each chunk is cut here, so that the tokens of a step do not depend on block_size
        within = torch.arange(0, self.T, now.block_size, device=starts.device)
        starts = (starts[:, None] + within).flatten()
        return cut(self.tokens, starts, now.block_size, self.file.bos_id)

    def usual_starts(self, step):
        """Return (B,), the first positions of a step's chunks, in the epoch's order."""
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self.order = self.place(rng.permutation(self.chunks), rng)
            self.epoch = epoch
        return self.order[i * self.B:(i + 1) * self.B]

    def easy_starts(self, step, progress):
        """Return (B,), the first positions of a step's chunks, drawn from the easiest ones."""
        rng = np.random.default_rng((self.seed, step, 2))  # of the step alone: resume is exact
        n = int(self.count_easy(progress))
        return self.place(self.easiest[rng.choice(n, self.B, replace=False)], rng)

    def count_easy(self, progress):
        """Return how many of the easiest chunks a step before half of the run draws from."""
        competence = np.sqrt(0.01 + 0.99 * progress / 0.5)
        return np.maximum(self.B, (competence * self.chunks).astype(np.int64))

    def words_read(self, steps, tokenizer):
        """Return a function: step -> the expected words that a run of `steps` has read before it.

        Short lines have fewer words per token, so order "length" reads fewer at first.
        """
        per_token = self.file.words / self.file.count
        if self.easiest is None:
            return lambda step: step * self.B * self.T * per_token

        # a word begins at a space, the first one of a line at the newline before it
        begins = np.array([name.startswith((b" ", b"\n")) for name in tokenizer.tokens()])
        begins[self.file.newline_id] = tokenizer.token_bytes[self.file.newline_id] > 0
        tokens = self.file.tokens[:self.chunks * self.T].reshape(self.chunks, self.T)
        words = begins[tokens].sum(1)[self.easiest]
        mean = words.cumsum() / np.arange(1, self.chunks + 1)  # of the easiest 1, 2, ...

        progress = np.arange(steps) / steps
        n = self.count_easy(np.minimum(progress, 0.5))
        relative = np.where(progress < 0.5, mean[n - 1] / mean[-1], 1.0)  # to the whole text
        totals = np.concatenate([[0.0], relative.cumsum()]) * self.B * self.T * per_token
        return lambda step: totals[min(step, steps)]

    def place(self, chunks, rng):
        """Return the first positions of chunks (n,), with an offset each; on the device."""
        offsets = rng.integers(0, self.T, len(chunks)) * self.random_offset
        starts = torch.from_numpy(chunks * self.T + offsets)
        return to_device(starts, self.tokens.device)


def line_length(file, chunks, T):
    """Return (chunks,): the mean tokens per line in each chunk of T tokens."""
    tokens = file.tokens[:chunks * T].reshape(chunks, T)
    return T / (1 + (tokens == file.newline_id).sum(1))


def cut(tokens, starts, T, bos_id=Tokenizer.bos_id):
    """Return x, y (B, T) int64, cut from a `stream` at the positions starts (B,)."""
    positions = starts[:, None] + torch.arange(T + 1, device=starts.device)
    ids = tokens[positions].long()  # (B, T + 1)
    ids &= (1 << 8 * tokens.element_size()) - 1
    x = ids[:, :-1].contiguous()
    y = ids[:, 1:]
    return x, y.masked_fill(y == bos_id, -100)


def validation_blocks(file, block_size, max_tokens=0):
    """Return x, y (n, T): blocks of T tokens of the validation split, in order, without overlap.

    The validation split, which chooses best.pt, is the first half of each domain of a TokenFile;
    the second half is the test split (eval.test_split). max_tokens: take evenly spread blocks with
    about that many tokens; 0: all. Raises UserError if there is no block.
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
    print(f"{prepared.folder}: vocabulary {prepared.tokenizer.vocab_size}, mark {config.mark}, "
          f"{time.monotonic() - started:.1f} s")
    print(f"{'':7}{'domain':16}{'words':>12}{'bytes':>13}{'tokens':>12}{'tokens/word':>12}")
    for split, file in (("train", prepared.train), ("dev", prepared.dev)):
        whole = Segment("all", 0, file.count, file.words, file.bytes)
        for part in [*file.segments, whole]:
            tokens = part.stop - part.start
            print(f"{split:7}{part.name:16}{part.words:12,}{part.bytes:13,}{tokens:12,}"
                  f"{tokens / max(1, part.words):12.3f}")
    print(f"{prepared.dev.shared:.1%} of the words of dev stand in lines of train")


if __name__ == "__main__":
    run_main(main)
