"""From text to tokens: all of data.py, and the tokenizer alone, against Hugging Face tokenizers."""
import pathlib
import tempfile

import numpy as np

import babytalk
import data
from bpe import Tokenizer, train_bpe
from onecoach import corpora
from onecoach.config import Config
from onecoach.tokens import TokenFile, write_tokens
from tools.bench import measure, peers


def bench_text(args):
    """Measure all of data.py (prepare), or the tokenizer's training and encoding alone (bpe)."""
    measure.machine()
    prepares = args.what == "prepare"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus, V = raw_text(args, folder)
        dev = measure.BABYLM / "data/babylm_10m/dev"
        dev = str(dev.resolve()) if prepares and not args.data and dev.exists() else ""
        # data.py keeps the end of a corpus without development text for validation
        stop = 0.98 if prepares and not dev else 1.0
        texts = data.write_clean(corpora.resolve(corpus, folder), folder, "train", stop=stop)

        contenders = {"ours": (our_bpe, (texts, V, folder / "ours.bin"))}
        if prepares:
            contenders["ours"] = prepare, (corpus, dev, V, folder)
        if args.peers:
            contenders["tokenizers"] = peers.hf_bpe, (texts, V, folder / "theirs.bin")
        times = measure.median_times(measure.made(contenders), 3, warm_up=0)
        rows = {}
        for name, seconds in times.items():
            peak, added = measure.memory(*contenders[name], runs=1)
            rows[name] = dict(seconds=seconds, gb=peak if prepares else added)

        file = next(folder.glob("prepared-*/*/train.bin")) if prepares else folder / "ours.bin"
        return measure.show(rows) | text_details(file, folder / "theirs.bin")


def raw_text(args, folder):
    """Return the key `corpus` and the size of the vocabulary, 0 for all merges."""
    train = measure.BABYLM / "data/babylm_10m/train"
    if args.data:
        return args.data, measure.V
    if train.exists():
        return str(train.resolve()), measure.V
    print(f"no text in {train}: babytalk instead, merged until no pair is left")
    file = folder / "babytalk.txt"
    file.write_text("".join(babytalk.sample(200_000, 0)))
    return str(file), 0


def text_details(ours, theirs):
    """Print and return the size of the token file `ours`, and whether `theirs` has the same ids."""
    file = TokenFile(ours)
    ids = file.tokens[file.tokens != Tokenizer.bos_id]  # it opens texts and lines, in ours alone
    same = np.array_equal(ids, np.fromfile(theirs, ids.dtype)) if theirs.exists() else None
    print(f"{file.words} words, {file.bytes / 1e6:.1f} MB of clean training text, {len(ids)} "
          f"tokens; ids the same: {'not compared' if same is None else same}")
    return dict(ids_same=same, words=file.words, tokens=len(ids))


# ---------------------------------------------------------------- ours

def prepare(corpus, dev, V, folder):
    """() -> None: prepare a corpus as data.py does, in a new folder each time."""
    def once():
        data_dir = tempfile.mkdtemp(prefix="prepared-", dir=folder)
        data.prepare(Config(corpus=corpus, dev=dev, vocab_size=V, data_dir=data_dir))
    return once


def our_bpe(texts, V, out):
    """() -> None: train a tokenizer on the texts {domain: file}, and encode them into `out`."""
    def once():
        tokenizer = Tokenizer(train_bpe(data.count_words(texts), V))
        write_tokens(out, tokenizer, texts, "none", 0, "")
    return once
