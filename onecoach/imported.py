"""A byte-level BPE tokenizer that was trained elsewhere: GPT-2's, SmolLM's, Llama 3's.

    form = marked(json.loads(text), bos="<|endoftext|>", eos=..., pad=...)
    tokenizer = ImportedTokenizer(form)     text <-> ids, as bpe.Tokenizer

A run that tools.hf has imported, and its students, have such a tokenizer.json: the original's, with
a post-processor that puts `<s>`, whatever that is called there, before a text, and says which
tokens are bos, eos and pad. What would encode otherwise than the original is refused by name.

As in the program's own tokenizers text that spells a special token is ordinary text: transformers
does the same where a tokenizer has split_special_tokens. An added token that is none, a run of
spaces say, is found in text as in the original.
"""
import hashlib
import itertools
import json

import numpy as np
import tiktoken

from bpe import CHARACTER, Tokenizer, astray
from onecoach.config import UserError

BYTE = {character: b for b, character in CHARACTER.items()}
ROLES = ("bos", "eos", "pad")

CONTRACTION = r"'s|'t|'re|'ve|'m|'ll|'d"
WORD = r" ?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+"
SPACES = r"\s+(?!\S)|\s+"
GPT2 = f"{CONTRACTION}|{WORD}| ?\\p{{N}}+|{SIGNS}|{SPACES}"
# each digit is a piece before GPT-2's pattern sees the others: spaces end there
DIGITS = f"{CONTRACTION}|{WORD}|\\p{{N}}|{SIGNS}|\\s+(?=\\p{{N}})|{SPACES}"


def marked(form, bos, eos, pad):
    """A tokenizer.json, parsed, as the form that ImportedTokenizer reads; a new dict.

    bos, eos, pad: the added tokens that have these roles. Raises ValueError where one is none.
    """
    id_of = {token.get("content"): token.get("id") for token in form.get("added_tokens") or []}
    special = {}
    for role, name in zip(ROLES, (bos, eos, pad)):
        if name not in id_of:
            raise ValueError(f"its {role} token {name!r} is none of its added_tokens")
        special[role] = {"id": role, "ids": [id_of[name]], "tokens": [name]}
    first = {"SpecialToken": {"id": "bos", "type_id": 0}}
    single = [first, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single,
                "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": special}
    return {**form, "post_processor": template, "truncation": None, "padding": None}


class ImportedTokenizer(Tokenizer):
    """What bpe.Tokenizer is, of a marked tokenizer.json, parsed: `form`.

    Raises ValueError, one line, that names what it cannot do as the original does.
    """

    def __init__(self, form):
        self.form = form
        try:
            self.read(form)
        except (KeyError, TypeError, AttributeError, IndexError) as e:
            raise ValueError(f"damaged, or no tokenizer.json ({type(e).__name__}: {e})") from None
        try:
            self.to_json().encode()
        except UnicodeEncodeError:
            raise ValueError("a string in it is no text (half of a surrogate pair)") from None
        self.hash = hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]

    def read(self, form):
        special = form["post_processor"]["special_tokens"]
        self.bos_id, self.eos_id, self.pad_id = (special[role]["ids"][0] for role in ROLES)
        must_be_plain(form)
        pattern = pattern_of(form["pre_tokenizer"])
        added = added_tokens(form["added_tokens"])
        self.id_of, self.merges = ranks_of(form["model"], added)

        self.found = {name for name, token in added.items() if not token["special"]}
        ids = {token: i for token, i in self.id_of.items()}
        ids |= {name.encode(): token["id"] for name, token in added.items()}
        by_id = sorted(ids, key=ids.get)
        if sorted(ids.values()) != [*range(len(ids))]:
            raise ValueError("its ids are not those from 0 on, each once")
        if not {self.bos_id, self.eos_id, self.pad_id} <= {*range(len(ids))}:
            raise ValueError("its bos, eos or pad is no token")
        self.vocab_size = len(by_id)
        self.names = by_id
        silent = {name.encode() for name in added} - {name.encode() for name in self.found}
        lengths = [0 if token in silent else len(token) for token in by_id]
        self.token_bytes = np.array(lengths, dtype=np.int64)
        self.newline_id = self.id_of[b"\n"]
        try:
            self.encoding = tiktoken.Encoding(
                "imported", pat_str=pattern, mergeable_ranks=self.id_of,
                special_tokens={name: token["id"] for name, token in added.items()})
        except ValueError as e:
            raise ValueError(f"its pattern {pattern[:70]!r} cannot be read: {e}") from None

    def encode(self, text):
        if not self.found:
            return self.encoding.encode_ordinary(text)
        return self.encoding.encode(text, allowed_special=self.found, disallowed_special=())

    def encode_lines(self, text):
        """The ids (n,) of whole lines, each encoded alone and ended by newline_id.

        For other people's patterns may join a newline to what is before it.
        """
        lines = text.removesuffix("\n").split("\n")
        ids = itertools.chain.from_iterable([*self.encode(line), self.newline_id]
                                            for line in lines)
        return np.fromiter(ids, np.uint32)

    def tokens(self):
        return self.names

    def to_json(self):
        return json.dumps(self.form, ensure_ascii=False)

    @classmethod
    def from_json(cls, text):
        """The tokenizer whose to_json() is `text`: an imported one, or bpe's own."""
        try:
            form = json.loads(text)
            marks = form["post_processor"]["special_tokens"]
            is_marked = all(role in marks for role in ROLES)
        except (ValueError, KeyError, TypeError, RecursionError):
            is_marked = False
        return cls(form) if is_marked else Tokenizer.from_json(text)


# ---------------------------------------------------------------- what a tokenizer.json says

def must_be_plain(form):
    """ValueError that names the first part of it that is not read here."""
    model = form["model"]
    if model.get("type") != "BPE":
        raise ValueError(f"its model is {model.get('type')!r}, no BPE")
    if form.get("normalizer") is not None:
        raise ValueError(f"its normalizer {form['normalizer'].get('type')!r} changes the text")
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                 "fuse_unk", "byte_fallback"):
        if model.get(name):
            raise ValueError(f"its model has {name} = {model[name]!r}")
    if (form.get("decoder") or {}).get("type") != "ByteLevel":
        raise ValueError("its decoder is not ByteLevel: its tokens are not spelled in bytes")


def pattern_of(pre_tokenizer):
    """The pattern of its pieces; ValueError for ways to split that are not known here."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    last = steps[-1]
    kinds = [step["type"] for step in steps]
    if kinds[-1] == "ByteLevel" and last.get("add_prefix_space", True):
        raise ValueError("its pre_tokenizer adds a space before a text (add_prefix_space)")
    if kinds == ["Split", "ByteLevel"] and last.get("use_regex") is False:
        split = steps[0]
        pattern = split["pattern"].get("Regex")
        if pattern and split["behavior"] == "Isolated" and not split["invert"]:
            return pattern
    if kinds[-1] == "ByteLevel" and last.get("use_regex", True):
        if len(kinds) == 1:
            return GPT2
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
            return DIGITS
    raise ValueError(f"its pre_tokenizer is {json.dumps(pre_tokenizer)[:150]}; known are ByteLevel "
                     "alone, after one isolated Split, after individual Digits")


def added_tokens(tokens):
    """{name: token} of those beside the merges; ValueError for one that is not found plainly."""
    added = {token["content"]: token for token in tokens}
    found = [name for name, token in added.items() if not token["special"]]
    for name in found:
        token = added[name]
        if any(token.get(key) for key in ("single_word", "lstrip", "rstrip")):
            raise ValueError(f"its added token {name!r} takes what is around it into account")
        if token.get("normalized") != added[found[0]].get("normalized"):
            raise ValueError(f"its added token {name!r} is looked for after others (normalized)")
        for other in added:
            ends = any(name.endswith(other[:i]) or other.endswith(name[:i])
                       for i in range(1, 1 + min(len(name), len(other))))
            if other != name and (ends or name in other or other in name):
                raise ValueError(f"its added tokens {name!r} and {other!r} overlap")
    return added


def ranks_of(model, added):
    """({bytes: id}, pairs) of the bytes and of what the merges make.

    ValueError where ids are not in the merges' order, or the text could be joined otherwise than
    its merges say.
    """
    vocab = {name: i for name, i in model["vocab"].items() if name not in added}
    missing = [character for character in BYTE if character not in vocab]
    if missing:
        raise ValueError(f"its vocabulary lacks {len(missing)} of the 256 bytes, {missing[0]!r}")
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    made = [left + right for left, right in merges]
    for name in itertools.chain(made, *merges):
        if name not in vocab:
            raise ValueError(f"its merges use {name!r}, which is no token")
    unmade = set(vocab) - set(made) - set(BYTE)
    if unmade:
        raise ValueError(f"no merge makes its token {min(unmade)!r}")
    order = [vocab[name] for name in made]
    if order != sorted(order):
        raise ValueError("its ids are not in the order of its merges")

    spelled = {name: bytes(BYTE[character] for character in name) for name in vocab}
    id_of = {spelled[name]: i for name, i in sorted(vocab.items(), key=lambda item: item[1])}
    pairs = [(spelled[left], spelled[right]) for left, right in merges]
    token = astray(id_of, pairs)
    if token is not None:
        raise ValueError(f"its token {token!r} is not what its own bytes are merged to")
    return id_of, pairs


def load_tokenizer(path):
    """The Tokenizer of a tokenizer.json, or of its folder; UserError if it cannot be read."""
    try:
        return ImportedTokenizer.load(path)  # or one of our own
    except OSError as e:
        raise UserError(f"tokenizer {e.filename}: {e.strerror}")
    except ValueError as e:  # it begins with the file
        raise UserError(f"tokenizer {e}")
