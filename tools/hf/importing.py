"""A Hugging Face folder as a run: read as data, refused by name, written whole or not at all."""
import contextlib
import dataclasses
import hashlib
import pathlib
import re

from bpe import Tokenizer
from model import ModelConfig
from onecoach import files
from onecoach.config import Config, UserError, check_together
from onecoach.corpora import building
from onecoach.imported import ROLES, ImportedTokenizer, marked
from onecoach.run import load
from tools.hf.weights import LLAMA3, parts_of, safetensors, to_ours

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
INDEX = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
MOST = 10**7  # no size in a config.json is larger


# ---------------------------------------------------------------- in: what the model is

def import_folder(source, folder):
    """Make the run `folder` of a Hugging Face folder `source`, whole or not at all.

    UserError, one line, for what is missing, damaged or not supported, by name.
    """
    source, folder = pathlib.Path(source), pathlib.Path(folder)
    safetensors()
    if folder.exists():
        raise UserError(f"{folder} is there already; remove it, or choose another RUN")
    form = files.read_json(source / "config.json")
    try:
        c = model_config(form)
        paths = weight_files(source)
        read = reader(paths, c)
        tokenizer = read_tokenizer(source, form)
    except Refused as e:
        raise UserError(f"{source}: {e}")
    if tokenizer.vocab_size > c.vocab_size:
        raise UserError(f"{source}: the tokenizer has {tokenizer.vocab_size} tokens, the model's "
                        f"vocabulary {c.vocab_size}")
    config = run_config(c, folder, tokenizer)

    weights = to_ours(read, c)
    if tokenizer.vocab_size < c.vocab_size:
        print(f"the last {c.vocab_size - tokenizer.vocab_size} rows of the embedding are no "
              "tokens: left out")
        for name in ("embed.weight", "head.weight"):
            weights[name] = weights[name][:tokenizer.vocab_size].clone()
    if config.tie or config.arch == "gpt2":
        weights["head.weight"] = weights["embed.weight"]
    digests = {}
    for path in paths:
        with open(path, "rb") as f:
            digests[path.name] = hashlib.file_digest(f, "sha256").hexdigest()[:16]
    notes = {"_dtype": "float32", "_text": "", "_tokenizer": tokenizer.hash,
             "_vocab_size": tokenizer.vocab_size,
             "_imported": {"from": source.resolve().name, "weights": digests}}
    with building(folder) as aside:
        files.write_json(aside / "config.json", {**dataclasses.asdict(config), **notes})
        files.write_text(aside / "tokenizer.json", tokenizer.to_json())
        files.save_checkpoint(aside / "best.pt", {"model": weights, "step": 0})
    lm = load(folder)[0]
    print(f"{folder} holds {source}: {config.arch}, {lm.num_params() / 1e6:.2f}M parameters, "
          f"{tokenizer.vocab_size} tokens; its students need --tokenizer={folder}")


class Refused(Exception):
    """Why a folder is not taken, without its name."""


def run_config(c, folder, tokenizer):
    """The Config of the run that a ModelConfig becomes."""
    config = Config()
    for field in dataclasses.fields(ModelConfig):
        setattr(config, field.name, getattr(c, field.name))
    config.rope_scaling = list(c.rope_scaling)
    config.vocab_size = 0 if tokenizer.vocab_size < 259 else tokenizer.vocab_size
    config.out_dir, config.name = str(folder.parent), folder.name
    config.corpus = ""  # what it has read is not known here
    config.mark = "none"
    check_together(config)
    return config


def model_config(form):
    """The ModelConfig of a config.json; Refused for what model.py does not do."""
    kind = form.get("model_type")
    if kind not in ("llama", "gpt2"):
        raise Refused(f"model_type = {kind!r}; only llama and gpt2 can be imported")
    for name in ("auto_map", "quantization_config", "adapter_config", "sliding_window"):
        if form.get(name):
            raise Refused(f"its config.json has {name}; a plain {kind} alone can be imported")
    return llama_config(form) if kind == "llama" else gpt2_config(form)


def size(form, name, default=None, low=1, high=MOST):
    """A whole number of a config.json, or what it is where there is none."""
    value = form.get(name)
    value = default if value is None else value
    if type(value) is not int or not low <= value <= high:
        raise Refused(f"its config.json has {name} = {value!r}")
    return value


def real(form, name, default=None, low=0.0, high=1e12):
    value = form.get(name, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise Refused(f"its config.json has {name} = {value!r}")
    return float(value)


def must_be(form, name, default, *others):
    """Refused unless a setting is its default, or one of others that mean the same."""
    value = form.get(name, default)
    if value not in (None, default, *others):
        raise Refused(f"its config.json has {name} = {value!r}; only {default!r} can be imported")


def flag(form, name):
    value = form.get(name) or False
    if type(value) is not bool:
        raise Refused(f"its config.json has {name} = {value!r}")
    return value


def llama_config(form):
    must_be(form, "hidden_act", "silu", "swish")
    heads = size(form, "num_attention_heads", 32)
    width = size(form, "hidden_size", 4096)
    kv = size(form, "num_key_value_heads", heads)
    if width % heads or width // heads % 2 or heads % kv:
        raise Refused(f"its config.json has hidden_size = {width}, {heads} heads and {kv} of keys: "
                      "they do not divide one another")
    must_be(form, "head_dim", width // heads)
    theta, scaling = rope_of(form)
    return ModelConfig(
        arch="llama", vocab_size=size(form, "vocab_size", 32000), d_model=width, n_head=heads,
        n_kv_head=0 if kv == heads else kv, n_layer=size(form, "num_hidden_layers", 32),
        d_ff=size(form, "intermediate_size", 11008), rope_theta=theta, rope_scaling=scaling,
        # no weights show it, and there is a table of as many angles
        block_size=size(form, "max_position_embeddings", 2048, low=2, high=2**18),
        norm_eps=real(form, "rms_norm_eps", 1e-6, high=1.0), tie=flag(form, "tie_word_embeddings"),
        attn_bias=flag(form, "attention_bias"), mlp_bias=flag(form, "mlp_bias"),
        dropout=real(form, "attention_dropout", 0.0, high=0.99))


def rope_of(form):
    """(theta, Llama 3's scaling or ()) of a config.json of transformers 4 or 5."""
    new = form.get("rope_parameters") or {}
    scaling = form.get("rope_scaling") or new
    if not isinstance(new, dict) or not isinstance(scaling, dict):
        raise Refused(f"its config.json has rope_scaling = {scaling!r}")
    theta = real(new if "rope_theta" in new else form, "rope_theta", 10000.0, low=1.0)
    must_be({**form, **new}, "partial_rotary_factor", 1.0)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, ()
    if kind != "llama3":
        raise Refused(f"its rope scaling is {kind!r}; known are default and llama3")
    numbers = tuple(real(scaling, name) for name in LLAMA3)
    if min(numbers) <= 0 or numbers[1] >= numbers[2]:
        raise Refused(f"its rope scaling is {scaling!r}")
    return theta, numbers


def gpt2_config(form):
    must_be(form, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    must_be(form, "scale_attn_weights", True)
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        must_be(form, name, False)
    must_be(form, "tie_word_embeddings", True)
    width = size(form, "n_embd", 768)
    heads = size(form, "n_head", 12)
    if width % heads:
        raise Refused(f"its config.json has n_embd = {width} and n_head = {heads}: it does not "
                      "divide")
    return ModelConfig(
        arch="gpt2", vocab_size=size(form, "vocab_size", 50257), d_model=width, n_head=heads,
        n_layer=size(form, "n_layer", 12), d_ff=size(form, "n_inner", 4 * width),
        block_size=size(form, "n_positions", 1024, low=2),
        norm_eps=real(form, "layer_norm_epsilon", 1e-5, high=1.0),
        dropout=real(form, "resid_pdrop", 0.1, high=0.99))


# ---------------------------------------------------------------- in: its weights

def weight_files(source):
    """The safetensors files of a folder: one, or the shards that its index names."""
    if (source / "model.safetensors").is_file():
        return [source / "model.safetensors"]
    if not (source / INDEX).is_file():
        pickles = [path.name for pattern in PICKLES for path in sorted(source.glob(pattern))]
        if pickles:
            raise Refused(f"its weights are pickled ({pickles[0]}), and to unpickle is to execute; "
                          "let transformers save them as safetensors")
        raise Refused("no model.safetensors there")
    shards = files.read_json(source / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise Refused(f"{INDEX} has no weight_map")
    names = []
    for name in dict.fromkeys(map(str, shards.values())):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", name):
            raise Refused(f"{INDEX} names {name[:80]!r}, no file of that folder")
        if not (source / name).is_file():
            raise Refused(f"its shard {name} is missing")
        names.append(name)
    return [source / name for name in names]


def plain_name(name):
    """A tensor's name as in the bare model: some folders have that, with or without its prefix."""
    return name.removeprefix("model.").removeprefix("transformer.")


def says_nothing(name, c):
    """Is it a tensor that the model does not need: a mask, a table of angles, a tied head?"""
    tied = c.tie or c.arch == "gpt2"
    return (re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name)
            or name.endswith("rotary_emb.inv_freq") or tied and name == "lm_head.weight")


def reader(paths, c):
    """A function: name -> tensor. Refused unless the files hold the model of c, by their headers.

    Nothing is allocated before every name, shape and type is right.
    """
    found = {}  # plain name -> (file, its name there, shape, type)
    for path in paths:
        try:
            with safetensors().safe_open(path, "pt") as f:
                for name in f.keys():
                    if plain_name(name) in found:
                        raise Refused(f"it has {name} twice")
                    piece = f.get_slice(name)
                    found[plain_name(name)] = (path, name, tuple(piece.get_shape()),
                                               piece.get_dtype())
        except (safetensors().SafetensorError, OSError) as e:
            raise Refused(f"{path.name} is damaged ({str(e).splitlines()[0][:100]})")

    layers = {int(match[1]) for match in map(re.compile(r"(?:layers|h)\.(\d{1,9})\.").match, found)
              if match}
    if len(layers) != c.n_layer:  # before there is a list of as many parts
        raise Refused(f"its config.json has {c.n_layer} layers, its weights {len(layers)}")
    for part in parts_of(c):
        path, _, shape, dtype = found.pop(plain_name(part.theirs), (None, None, None, None))
        if path is None:
            raise Refused(f"its weights lack {part.theirs}")
        if shape != part.shape:
            raise Refused(f"{part.theirs} is {list(shape)}, by its config.json {list(part.shape)}")
        if dtype not in FLOATS:
            raise Refused(f"{part.theirs} is of type {dtype}; known are {', '.join(FLOATS)}")
    more = [name for name in found if not says_nothing(name, c)]
    if more:
        raise Refused(f"its weights have {more[0]}, which a plain {c.arch} has not")
    return read_from(paths)


def read_from(paths):
    """name -> tensor, of files whose headers are known to be right."""
    place = {}
    for path in paths:
        with safetensors().safe_open(path, "pt") as f:
            place |= {plain_name(name): (path, name) for name in f.keys()}

    def read(name):
        path, there = place[plain_name(name)]
        with safetensors().safe_open(path, "pt") as f:
            return f.get_tensor(there)
    return read


# ---------------------------------------------------------------- in: its tokenizer

def read_tokenizer(source, form):
    """Return the tokenizer of a folder: one of our own, or taken over. Refused by name."""
    path = source / "tokenizer.json"
    if not path.is_file():
        raise Refused("no tokenizer.json there; AutoTokenizer's save_pretrained writes one, where "
                      "it can")
    with contextlib.suppress(ValueError):
        return Tokenizer.from_json(path.read_bytes())  # one of our own
    parsed = files.read_json(path)
    try:
        marks = (parsed.get("post_processor") or {}).get("special_tokens") or {}
        if not all(role in marks for role in ROLES):
            parsed = marked(parsed, *role_names(source, form, parsed))
        return ImportedTokenizer(parsed)
    except (ValueError, AttributeError, TypeError) as e:
        raise Refused(f"tokenizer.json: {e}")


def role_names(source, form, parsed):
    """Return the names of bos, eos and pad, by the folder's files, else by config.json's ids.

    Without a bos eos opens a text too; without a pad it pads.
    """
    named = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (source / name).is_file():
            named |= files.read_json(source / name)
    by_id = {token.get("id"): token.get("content") for token in parsed.get("added_tokens") or []}
    names = {}
    for role in ROLES:
        token = named.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        i = form.get(f"{role}_token_id")
        names[role] = token or by_id.get(i[0] if isinstance(i, list) and i else i)
    bos = names["bos"] or names["eos"]
    eos = names["eos"] or bos
    return bos, eos, names["pad"] or eos
