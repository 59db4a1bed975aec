"""A byte-level tokenizer that was trained elsewhere: GPT-2's, SmolLM's, Llama 3's, Baby Llama's.

    tokenizer = load_tokenizer(path)    one of these, or one of our own

Its tokenizer.json is the original's, with a post-processor that says which tokens are bos, eos and
pad. The package tokenizers encodes text, so the ids are the original's. A text that spells a
special token is ordinary text, as in the program's own tokenizers.
"""
import hashlib
import json
import re

import numpy as np

from bpe import BYTE, CHARACTER, Tokenizer, opened_by
from onecoach.config import UserError

ROLES = ("bos", "eos", "pad")


def marked(form, bos, eos, pad):
    """Return a parsed tokenizer.json with the added tokens that have these roles; a new dict."""
    ids = {token["content"]: token["id"] for token in form.get("added_tokens") or []}
    special = {}
    for role, name in zip(ROLES, (bos, eos, pad)):
        if name not in ids:
            raise ValueError(f"the {role} token {name!r} is none of the added_tokens")
        special[role] = {"id": role, "ids": [ids[name]], "tokens": [name]}
    return {**form, "post_processor": opened_by("bos", special), "truncation": None,
            "padding": None}


class ImportedTokenizer(Tokenizer):
    """A bpe.Tokenizer of `form`, a marked tokenizer.json, parsed; ValueError if it is damaged."""

    def __init__(self, form):
        try:
            import tokenizers
        except ImportError:
            raise UserError("an imported tokenizer needs the package tokenizers: pip install "
                            "tokenizers")
        self.form = form
        self.hash = hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]
        try:
            self.original = tokenizers.Tokenizer.from_str(json.dumps(form))
            special = form["post_processor"]["special_tokens"]
            self.bos_id, self.eos_id, self.pad_id = (special[role]["ids"][0] for role in ROLES)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:  # the package panics at some files, and a panic is no Exception
            raise ValueError(f"damaged, or no tokenizer.json ({str(e)[:100]})") from None
        if form["model"].get("dropout"):
            raise ValueError("the model leaves out merges at random (dropout)")
        self.original.encode_special_tokens = True

        vocab = self.original.get_vocab()
        added = self.original.get_added_tokens_decoder()
        self.vocab_size = len(vocab)
        self.names = read_names(vocab, added)
        came_back = b"".join(self.names[i] for i in self.encode("a a"))
        if came_back not in (b"a a", b" a a"):
            raise ValueError(f"it encodes 'a a' as {came_back!r}: it is not byte-level")

        # A vocabulary without a newline ends a line in eos. A tokenizer that adds a space before
        # each line counts no byte for the newline, so that a line has the bytes of the text.
        self.newline_id = vocab.get(CHARACTER[ord("\n")], self.eos_id)
        self.lacking = bytes(b for b, character in CHARACTER.items() if character not in vocab)
        self.token_bytes = np.array([*map(len, self.names)], dtype=np.int64)
        self.token_bytes[[i for i, token in added.items() if token.special]] = 0
        if came_back.startswith(b" "):
            self.token_bytes[self.newline_id] = 0

    def encode(self, text):
        return self.encode_with_ends(text)[0]

    def encode_with_ends(self, text):
        # half of a surrogate pair is U+FFFD, as tiktoken reads it
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
        encoding = self.original.encode(text, add_special_tokens=False)
        # the original tells each token's end in characters, whatever its normalizer did
        size = np.cumsum([0, *(len(letter.encode()) for letter in text)])
        return encoding.ids, size[np.array([end for _, end in encoding.offsets], dtype=np.int64)]

    def encode_lines(self, text):
        # each line alone: other people's patterns may join a newline to the text before it
        lines = text.removesuffix("\n").split("\n")
        encodings = self.original.encode_batch_fast(lines, add_special_tokens=False)
        return np.fromiter((i for line in encodings for i in (*line.ids, self.newline_id)),
                           np.uint32)

    def decode(self, ids):
        return b"".join(self.names[i] for i in ids).decode(errors="replace")

    def tokens(self):
        return self.names

    def to_json(self):
        return json.dumps(self.form, ensure_ascii=False)

    @classmethod
    def from_json(cls, text):
        """Return the tokenizer whose to_json() is `text`: an imported one, or bpe's own."""
        try:
            form = json.loads(text)
            is_marked = {*ROLES} <= form["post_processor"]["special_tokens"].keys()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            is_marked = False
        return cls(form) if is_marked else Tokenizer.from_json(text)


def read_names(vocab, added):
    """Return the bytes of each id; of added tokens their names. ValueError if not byte-level."""
    if sorted(vocab.values()) != [*range(len(vocab))]:
        raise ValueError("the ids are not those from 0 on, each once")
    names = [b""] * len(vocab)
    for name, i in vocab.items():
        try:
            names[i] = name.encode() if i in added else bytes(BYTE[c] for c in name)
        except KeyError:
            raise ValueError(f"the token {name[:40]!r} is not spelled in bytes; only byte-level "
                             "tokenizers can be taken") from None
    return names


def say_lost(tokenizer, texts):
    """Print how many bytes of texts, an iterable of str, have no token and are left out."""
    lacking = tokenizer.lacking.replace(b"\n", b"")  # a newline is eos
    lost = 0
    for text in texts if lacking else ():
        if tokenizer.original.normalizer:
            text = tokenizer.original.normalizer.normalize_str(text)
        raw = text.encode(errors="replace")
        lost += len(raw) - len(raw.translate(None, lacking))
    if lost:
        print(f"{lost:,} bytes of the text have no token in this vocabulary: left out, as by the "
              "original tokenizer")


def load_tokenizer(path):
    """Return the tokenizer of a file tokenizer.json, or of a folder; UserError where none is."""
    try:
        return ImportedTokenizer.load(path)  # or one of our own
    except OSError as e:
        raise UserError(f"tokenizer {e.filename}: {e.strerror}")
    except ValueError as e:  # it begins with the file
        raise UserError(f"tokenizer {e}")
