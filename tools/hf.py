"""Hugging Face in and out: a run as a folder that transformers loads, such a folder as a run.

    python -m tools.hf export RUN DIR                  its best weights; DIR is not there yet
    python -m tools.hf export RUN DIR --checkpoints    and DIR/chck_1M ..., a revision each
    python -m tools.hf import DIR RUN                  of a Llama or GPT-2; RUN is not there yet

Exported are config.json, model.safetensors, generation_config.json, tokenizer.json with its two
companions, and README.md, the model card. AutoModelForCausalLM and AutoTokenizer load them without
code of ours, in transformers 4 and 5. The tokenizer puts `<s>` before a text and else gives our own
ids: its merges are such that tiktoken and Hugging Face agree (bpe.astray), and split_special_tokens
has it read "<s>" in a text as text.

A stranger's folder is data: weights are read from safetensors alone, and only after all their names
and shapes are what its config.json says; nothing in it is unpickled or executed. What our model or
tokenizer would not do as the original does is refused by name. A run that was imported has
config.json, tokenizer.json and best.pt: it can teach, be evaluated, be `init`. Students of it take
its vocabulary: tokenizer = "RUN". Needs the package safetensors.
"""
from onecoach.config import Arguments, read_early, run_folder, run_main


def read_args(argv):
    parser = Arguments("-m tools.hf", __doc__)
    parser.add_argument("what", choices=["export", "import"])
    parser.add_argument("source", metavar="FROM", type=run_folder, help="RUN, or DIR to import")
    parser.add_argument("target", metavar="TO", help="DIR, or RUN to import; not there yet")
    parser.add_argument("--checkpoints", action="store_true", help="export those by words, too")
    return parser.parse_args(argv)


if __name__ == "__main__":
    read_early(read_args)

import collections
import dataclasses
import functools
import hashlib
import pathlib
import random
import re
import unicodedata

import torch

from bpe import Tokenizer, astray
from model import ModelConfig
from onecoach import files
from onecoach.config import Config, UserError, check_together
from onecoach.corpora import building
from onecoach.imported import ROLES, ImportedTokenizer, marked
from onecoach.run import load, word_checkpoints
from tools.card import card

LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
INDEX = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
MOST = 10**7  # no size in a config.json is larger


def safetensors():
    """The package, which nothing else here needs."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("Hugging Face's weights need the package safetensors: pip install "
                        "safetensors")
    return safetensors


# ---------------------------------------------------------------- the weights' names

# theirs, of `shape`, is part of our tensor: the next rows of it. flip: it is kept transposed there.
Part = collections.namedtuple("Part", "ours theirs shape flip", defaults=[False])


def parts_of(c):
    """Every Part of the model of a ModelConfig, as transformers names them."""
    return [*(llama_parts(c) if c.arch == "llama" else gpt2_parts(c))]


def llama_parts(c):
    d, f = c.d_model, c.d_ff
    kv = d // c.n_head * (c.n_kv_head or c.n_head)
    yield Part("embed.weight", "model.embed_tokens.weight", (c.vocab_size, d))
    for i in range(c.n_layer):
        a, b = f"blocks.{i}.", f"model.layers.{i}."
        yield Part(a + "norm1.weight", b + "input_layernorm.weight", (d,))
        yield Part(a + "norm2.weight", b + "post_attention_layernorm.weight", (d,))
        for ours, theirs, shape, bias in (
                ("attn.qkv", "self_attn.q_proj", (d, d), c.attn_bias),
                ("attn.qkv", "self_attn.k_proj", (kv, d), c.attn_bias),
                ("attn.qkv", "self_attn.v_proj", (kv, d), c.attn_bias),
                ("attn.proj", "self_attn.o_proj", (d, d), c.attn_bias),
                ("mlp.gate_up", "mlp.gate_proj", (f, d), c.mlp_bias),
                ("mlp.gate_up", "mlp.up_proj", (f, d), c.mlp_bias),
                ("mlp.proj", "mlp.down_proj", (d, f), c.mlp_bias)):
            yield Part(f"{a}{ours}.weight", f"{b}{theirs}.weight", shape)
            if bias:
                yield Part(f"{a}{ours}.bias", f"{b}{theirs}.bias", shape[:1])
    yield Part("norm.weight", "model.norm.weight", (d,))
    if not c.tie:
        yield Part("head.weight", "lm_head.weight", (c.vocab_size, d))


def gpt2_parts(c):
    d, f = c.d_model, c.d_ff
    yield Part("embed.weight", "transformer.wte.weight", (c.vocab_size, d))
    yield Part("positions.weight", "transformer.wpe.weight", (c.block_size, d))
    for i in range(c.n_layer):
        a, b = f"blocks.{i}.", f"transformer.h.{i}."
        for ours, theirs, shape in (
                ("norm1", "ln_1", (d,)), ("attn.qkv", "attn.c_attn", (d, 3 * d)),
                ("attn.proj", "attn.c_proj", (d, d)), ("norm2", "ln_2", (d,)),
                ("mlp.up", "mlp.c_fc", (d, f)), ("mlp.proj", "mlp.c_proj", (f, d))):
            # Conv1D keeps (in, out)
            yield Part(f"{a}{ours}.weight", f"{b}{theirs}.weight", shape, len(shape) == 2)
            yield Part(f"{a}{ours}.bias", f"{b}{theirs}.bias", shape[-1:])
    yield Part("norm.weight", "transformer.ln_f.weight", (d,))
    yield Part("norm.bias", "transformer.ln_f.bias", (d,))


def to_theirs(weights, c):
    """Our state dict as theirs: {name: tensor}."""
    theirs = {}
    start = collections.Counter()  # of each of our tensors the rows that are taken
    for part in parts_of(c):
        rows = part.shape[-1] if part.flip else part.shape[0]
        tensor = weights[part.ours].narrow(0, start[part.ours], rows)
        theirs[part.theirs] = (tensor.T if part.flip else tensor).contiguous()
        start[part.ours] += rows
    return theirs


def to_ours(read, c):
    """Our state dict of theirs. read: name -> tensor."""
    weights = collections.defaultdict(list)
    for part in parts_of(c):
        tensor = read(part.theirs).float()
        weights[part.ours].append(tensor.T if part.flip else tensor)
    weights = {name: torch.cat(tensors).contiguous() for name, tensors in weights.items()}
    weights.setdefault("head.weight", weights["embed.weight"])
    return weights


# ---------------------------------------------------------------- out

def export(folder, target, checkpoints=False):
    """Write the run in `folder` as a folder `target`, whole or not at all.

    checkpoints: also those by words, each a folder in it. UserError where target is there already.
    """
    folder, target = pathlib.Path(folder), pathlib.Path(target)
    safetensors()
    if target.exists():
        raise UserError(f"{target} is there already; remove it, or choose another DIR")
    kept = word_checkpoints(folder) if checkpoints else []
    if checkpoints and not kept:
        raise UserError(f"{folder} has no checkpoints by words; train it with "
                        "checkpoints = \"babylm\"")
    with building(target) as aside:
        export_one(folder, aside, "best")
        for which in kept:
            (aside / which).mkdir()
            export_one(folder, aside / which, which)
    print(f"{target} holds {', '.join([str(folder), *kept])}; "
          f"from_pretrained({str(target)!r}) loads it")


def export_one(folder, aside, which):
    lm, tokenizer, _ = load(folder, which=which)
    token = astray(tokenizer.id_of, tokenizer.merges)
    if token is not None:
        raise UserError(f"{folder / 'tokenizer.json'}: its own bytes are not merged to the token "
                        f"{token!r}; Hugging Face would encode otherwise. Train another one")
    tensors = to_theirs(lm.state_dict(), lm.config)
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id,
               "pad_token_id": tokenizer.pad_id}
    names = tokenizer.tokens()
    tokens = {name.removesuffix("_id"): names[i].decode() for name, i in special.items()}
    form = llama_form if lm.config.arch == "llama" else gpt2_form

    safetensors().torch.save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
    files.write_json(aside / "config.json", {**form(lm.config), **special,
                                             "torch_dtype": "float32"})
    files.write_json(aside / "generation_config.json", special)
    files.write_text(aside / "tokenizer.json", tokenizer.to_json())
    files.write_json(aside / "special_tokens_map.json", tokens)
    files.write_json(aside / "tokenizer_config.json", {
        **tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",  # 5.x has other names, which 4.x lacks
        "model_max_length": lm.config.block_size,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # "<s>" in a text is text, as in bpe.py
        "padding_side": "right"})
    files.write_text(aside / "README.md", card(folder, which, lm))


def llama_form(c):
    """config.json of a LlamaForCausalLM."""
    scaling = None
    if c.rope_scaling:
        scaling = {"rope_type": "llama3", **dict(zip(LLAMA3, c.rope_scaling))}
        scaling[LLAMA3[3]] = int(scaling[LLAMA3[3]])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head or c.n_head,
        "head_dim": c.d_model // c.n_head,
        "max_position_embeddings": c.block_size,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps or 1e-6,
        "rope_theta": c.rope_theta,
        "rope_scaling": scaling,
        "attention_bias": c.attn_bias,
        "mlp_bias": c.mlp_bias,
        "attention_dropout": c.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": c.tie,
        "use_cache": True,
    }


def gpt2_form(c):
    """config.json of a GPT2LMHeadModel."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": c.vocab_size,
        "n_embd": c.d_model,
        "n_inner": c.d_ff,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_positions": c.block_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": c.norm_eps or 1e-5,
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
    }


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
    """The tokenizer of a folder: one of our own, or taken over. Refused by name."""
    path = source / "tokenizer.json"
    if not path.is_file():
        raise Refused("no tokenizer.json there; AutoTokenizer's save_pretrained writes one, where "
                      "it can")
    text = path.read_bytes()
    try:
        return Tokenizer.from_json(text)
    except ValueError:
        pass  # not ours
    its = files.read_json(path)
    try:
        marks = (its.get("post_processor") or {}).get("special_tokens") or {}
        if not all(role in marks for role in ROLES):
            its = marked(its, *role_names(source, form, its))
        tokenizer = ImportedTokenizer(its)
    except (ValueError, AttributeError, TypeError) as e:
        raise Refused(f"tokenizer.json: {e}")
    for text in probes(tokenizer):  # its pattern may leave out what it does not match
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise Refused(f"tokenizer.json: {text[:60]!r} would not come back from its ids")
    text = differs_on(tokenizer, path)
    if text is not None:
        raise Refused(f"tokenizer.json: {text[:60]!r} would have other ids than the original gives")
    return tokenizer


def role_names(source, form, its):
    """The names of bos, eos and pad. By the folder's files, else by the ids in its config.json.

    Where there is no bos eos opens a text too, and where there is no pad it pads.
    """
    said = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (source / name).is_file():
            said |= files.read_json(source / name)
    by_id = {token.get("id"): token.get("content") for token in its.get("added_tokens") or []}
    names = {}
    for role in ROLES:
        token = said.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        i = form.get(f"{role}_token_id")
        names[role] = token or by_id.get(i[0] if isinstance(i, list) and i else i)
    bos = names["bos"] or names["eos"]
    eos = names["eos"] or bos
    return bos, eos, names["pad"] or eos


def differs_on(tokenizer, path):
    """The first probe whose ids are not those of the file at `path` by Hugging Face, or None.

    Without the package tokenizers it is not asked: what imported.py checks must do.
    """
    try:
        import tokenizers
    except ImportError:
        print("the package tokenizers is not here: ids are not compared on probes")
        return None
    try:
        original = tokenizers.Tokenizer.from_file(str(path))
    except Exception as e:  # it has no other kind
        raise Refused(f"tokenizer.json: tokenizers cannot read it ({str(e)[:100]})")
    original.encode_special_tokens = True
    original.no_truncation()
    original.no_padding()
    for text in probes(tokenizer):
        if tokenizer.encode(text) != original.encode(text, add_special_tokens=False).ids:
            return text
    return None


def probes(tokenizer):
    """Texts to compare ids on: words, numbers, spaces, all of Unicode 3.2, special tokens.

    Later versions' characters are left out: the engines of two packages may be of different ones.
    """
    rng = random.Random(0)
    known = characters()
    yield from ("The dog's 2 cats don't SEE it; they've seen 12345.67 of 'em!\n",
                "a  b   c\t\td \n\n e\r\n\r\nf    \n   g 1 23\u00a0456 7 \u00bd\u0663\u2167x",
                "x.\ny!?\n\n  z  ", "'S'LL 'd'Re \u2019s", " ", "", "\n", "a" * 300, "ab" * 150,
                " " * 200, "1" * 99)
    for token in tokenizer.tokens():
        if token in tokenizer.id_of or len(token) < 2:
            continue
        name = token.decode(errors="replace")
        yield f"a {name}b{name[:-1]} {name}{name}"
    for i in range(0, len(known), 200):  # each of them once, beside letters, digits and spaces
        yield "".join(c + rng.choice("a1 .\n") for c in known[i:i + 200])
    for _ in range(300):
        letters = rng.choice(["ab ", "abcdefgh 12.\n", "".join(rng.sample(known, 8)) + " a1\n"])
        yield "".join(rng.choices(letters, k=rng.randint(1, 60)))


@functools.cache
def characters():
    """Those of Unicode 3.2."""
    kind = unicodedata.ucd_3_2_0.category
    return [c for c in map(chr, range(0x30000)) if kind(c) not in ("Cn", "Cs", "Co")]


# ---------------------------------------------------------------- the command

def main(argv):
    args = read_args(argv)
    if args.what == "export":
        export(args.source, args.target, args.checkpoints)
    elif args.checkpoints:
        raise UserError("--checkpoints is about export")
    else:
        import_folder(args.source, args.target)


if __name__ == "__main__":
    run_main(main)
