"""A Hugging Face folder as a run: read as data, refused by name, written whole or not at all."""
import contextlib
import dataclasses
import itertools
import pathlib

from onecoach import files, scoring
from onecoach.config import Config, UserError, check_together
from onecoach.corpora import building, resolve
from onecoach.imported import ROLES, ImportedTokenizer, marked
from onecoach.run import make_model
from tools.hf.configs import model_config
from tools.hf.weights import read_tensors, safetensors, to_ours

LINES = 200  # of development text, by which a bos is chosen


def import_folder(source, folder, bos="", dev=""):
    """Make the run `folder` of a Hugging Face folder `source`, whole or not at all.

    bos: the token that opens a text; by default the folder's or, if `dev` names development text,
    the one that predicts it best. UserError names anything missing, damaged or not supported.
    """
    source, folder = pathlib.Path(source), pathlib.Path(folder)
    safetensors()
    if folder.exists():
        raise UserError(f"{folder} is there already; remove it, or choose another RUN")
    try:
        form = read_form(source)
        c = model_config(form)
        theirs = read_tensors(source, c)
        tokenizer = read_tokenizer(source, form)
        if bos:
            tokenizer = with_bos(tokenizer, bos)
        V = tokenizer.vocab_size  # the model may have rows that are no tokens: they are left out
        if V > c.vocab_size:
            raise ValueError(f"the tokenizer has {V} tokens, the model's vocabulary {c.vocab_size}")
        weights = to_ours(theirs, c, V)
    except ValueError as e:
        raise UserError(f"{source}: {e}")

    # the training text is not known here
    own = dict(vocab_size=V if V >= 259 else 0, rope_scaling=list(c.rope_scaling), mark="none",
               corpus="", out_dir=str(folder.parent), name=folder.name)
    config = Config(**dataclasses.asdict(c) | own)
    check_together(config)
    lm = make_model(config, V).eval()
    lm.load_state_dict(weights)
    if tokenizer.lacking:
        print(f"the vocabulary lacks {len(tokenizer.lacking)} of the 256 bytes: text that has them "
              "loses them, as in the original")

    if dev and not bos and isinstance(tokenizer, ImportedTokenizer):
        tokenizer = choose_bos(tokenizer, lm, dev)
    notes = {"_dtype": "float32", "_text": "", "_tokenizer": tokenizer.hash, "_vocab_size": V,
             "_imported": {"from": source.resolve().name}}
    with building(folder) as aside:
        files.write_json(aside / "config.json", dataclasses.asdict(config) | notes)
        files.write_text(aside / "tokenizer.json", tokenizer.to_json())
        files.save_checkpoint(aside / "best.pt", {"model": weights, "step": 0})
    print(f"{folder} holds {source}: {config.arch}, {lm.num_params() / 1e6:.2f}M parameters, "
          f"{V} tokens, texts opened by {tokenizer.tokens()[tokenizer.bos_id].decode()}; its "
          f"students need --tokenizer={folder}")


def read_form(source):
    """Return the config.json of a folder; without one, ValueError says what is there."""
    if (source / "config.json").exists():
        form = files.read_json(source / "config.json")
        if "model_type" not in form and "arch" in form:
            raise ValueError("a run of this program already; name it as a teacher or as init")
        return form
    if not source.exists():
        raise ValueError("no such folder; `hf download NAME --local-dir DIR` fetches a model")
    raise ValueError("no config.json there: weights alone, a pickled checkpoint, llama.cpp's GGUF "
                     "and an adapter are not read; load it with transformers (an adapter: "
                     "merge_and_unload), save_pretrained(DIR), and import DIR")


# ---------------------------------------------------------------- the tokenizer

def read_tokenizer(source, form):
    """Return the tokenizer of a folder: one of our own, or taken over. Refused by name."""
    path = source / "tokenizer.json"
    if not path.is_file():
        raise ValueError("no tokenizer.json there; AutoTokenizer's save_pretrained writes one, "
                         "where it can")
    with contextlib.suppress(ValueError):
        return ImportedTokenizer.from_json(path.read_bytes())  # one of our own, or of an export
    try:
        parsed = files.read_json(path)
        return ImportedTokenizer(marked(parsed, *role_names(source, form, parsed)))
    except (ValueError, AttributeError, LookupError, TypeError) as e:
        raise ValueError(f"tokenizer.json: {e}")


def role_names(source, form, parsed):
    """Return the names of bos, eos and pad, by the folder's files, else by config.json's ids.

    Without a bos eos opens a text too; without a pad it pads.
    """
    named = (files.read_json_or_empty(source / "special_tokens_map.json")
             | files.read_json_or_empty(source / "tokenizer_config.json"))
    by_id = {token["id"]: token["content"] for token in parsed.get("added_tokens") or []}
    names = []
    for role in ROLES:
        token = named.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        i = form.get(f"{role}_token_id")
        names.append(token or by_id.get(i[0] if isinstance(i, list) and i else i))
    bos, eos, pad = names
    return bos or eos, eos or bos, pad or eos or bos


# ---------------------------------------------------------------- bos

def with_bos(tokenizer, name):
    """Return an imported tokenizer with another bos; ValueError if `name` is no added token."""
    if not isinstance(tokenizer, ImportedTokenizer):
        raise ValueError("the tokenizer is one of this program, with the bos <s>")
    eos, pad = (tokenizer.names[i].decode() for i in (tokenizer.eos_id, tokenizer.pad_id))
    return ImportedTokenizer(marked(tokenizer.form, name, eos, pad))


def choose_bos(tokenizer, lm, dev):
    """Return the tokenizer with the bos that costs the model the fewest nats per byte of text.

    An instructed model may name a token that no text of its training began with. Candidates are
    the named bos, eos and pad and 8 special tokens; the text is LINES lines of `dev`.
    """
    lines = []
    for _, path in resolve(dev, "", "dev"):
        with open(path, encoding="utf-8", errors="replace") as f:
            lines += itertools.islice((line.strip()[:200] for line in f if len(line) > 20), LINES)
    lines = lines[::1 + len(lines) // LINES]
    size = max(1, sum(len(line.encode()) for line in lines))

    special = [token["id"] for token in tokenizer.form["added_tokens"] if token.get("special")]
    named = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    costs = {}
    for i in dict.fromkeys([*named, *sorted(special)[:8]]):
        name = tokenizer.names[i].decode()
        candidate = with_bos(tokenizer, name)
        nats = -scoring.score_sentences(lm, candidate, lines).sum().item() / size
        print(f"  opened by {name}: {nats:.4f} nats per byte of {len(lines)} lines")
        costs.setdefault(nats, candidate)
    return costs[min(costs)]
