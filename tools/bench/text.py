"""The tokenizer: training and encoding, ours and that of Hugging Face tokenizers."""
import pathlib
import tempfile

import numpy as np

import babytalk
import data
from bpe import Tokenizer, train_bpe
from onecoach import corpora
from onecoach.tokens import TokenFile, write_tokens
from tools.bench import measure, peers


def bench_bpe(args):
    """Measure the training of a tokenizer, and the encoding of the text that it was trained on."""
    measure.machine()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus, V = raw_text(args, folder)
        texts = data.write_clean(corpora.resolve(corpus, folder), folder, "train")
        contenders = {"ours": (our_bpe, (texts, V, folder / "ours.bin"))}
        if args.peers:
            contenders["tokenizers"] = peers.hf_bpe, (texts, V, folder / "theirs.bin")
        times = measure.median_times(measure.made(contenders), 3, warm_up=0)
        rows = {name: dict(seconds=seconds, gb=measure.memory(*contenders[name], runs=1)[1])
                for name, seconds in times.items()}
        details = text_details(folder / "ours.bin", folder / "theirs.bin")
        return measure.show(rows) | details


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


def our_bpe(texts, V, out):
    """() -> None: train a tokenizer on the texts {domain: file}, and encode them into `out`."""
    def once():
        tokenizer = Tokenizer(train_bpe(data.count_words(texts), V))
        write_tokens(out, tokenizer, texts, "none", 0, "")
    return once
