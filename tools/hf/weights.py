"""A model's weights by our names and by transformers' names; the package safetensors."""
import collections
import re

import torch

from onecoach import files
from onecoach.config import UserError

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = ("F64", "F32", "F16", "BF16")


def safetensors():
    """Return the package, which nothing else here needs."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("Hugging Face's weights need the package safetensors: pip install "
                        "safetensors")
    return safetensors


# Their tensor, of `shape`, is the next rows of our tensor. flip: theirs is the transpose.
Part = collections.namedtuple("Part", "ours theirs shape flip", defaults=[False])


def model_parts(c):
    """Return every Part of the model of a ModelConfig, in transformers' names."""
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
    """Return transformers' state dict of ours: {name: tensor}."""
    theirs = {}
    start = collections.Counter()  # rows already taken from each of our tensors
    for part in model_parts(c):
        rows = part.shape[-1] if part.flip else part.shape[0]
        tensor = weights[part.ours].narrow(0, start[part.ours], rows)
        theirs[part.theirs] = (tensor.T if part.flip else tensor).contiguous()
        start[part.ours] += rows
    return theirs


def to_ours(read, c):
    """Return our state dict. read: transformers' name -> tensor."""
    weights = collections.defaultdict(list)
    for part in model_parts(c):
        tensor = read(part.theirs).float()
        weights[part.ours].append(tensor.T if part.flip else tensor)
    weights = {name: torch.cat(tensors).contiguous() for name, tensors in weights.items()}
    weights.setdefault("head.weight", weights["embed.weight"])
    return weights


# ---------------------------------------------------------------- safetensors

Tensor = collections.namedtuple("Tensor", "path name shape dtype")  # by a file's header

# A mask or a table of angles, which old folders keep and the model does not need.
IGNORED = re.compile(r"h\.\d+\.attn\.(masked_)?bias|.*rotary_emb\.inv_freq")
LAYER = re.compile(r"(?:layers|h)\.(\d{1,9})\.")


def weight_files(source):
    """Return the safetensors files of a folder: one, or the shards that the index names."""
    if (source / "model.safetensors").is_file():
        return [source / "model.safetensors"]
    if not (source / INDEX).is_file():
        pickles = [path.name for pattern in PICKLES for path in sorted(source.glob(pattern))]
        if pickles:
            raise ValueError(f"the weights are pickled ({pickles[0]}), and to unpickle is to "
                             "execute; save them as safetensors: AutoModelForCausalLM"
                             ".from_pretrained(DIR).save_pretrained(DIR), where you trust them")
        raise ValueError("no model.safetensors there; save_pretrained writes it")
    shards = files.read_json(source / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{INDEX} has no weight_map")
    names = [*dict.fromkeys(map(str, shards.values()))]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", name):
            raise ValueError(f"{INDEX} names {name[:80]!r}, no file of that folder")
        if not (source / name).is_file():
            raise ValueError(f"shard {name} is missing")
    return [source / name for name in names]


def plain_name(name):
    """Return a tensor's name in the bare model; some folders leave out the prefix."""
    return name.removeprefix("model.").removeprefix("transformer.")


def read_headers(paths):
    """Return {plain name: Tensor} of safetensors files; nothing is allocated."""
    tensors = {}
    for path in paths:
        try:
            with safetensors().safe_open(path, "pt") as f:
                for name in f.keys():
                    if plain_name(name) in tensors:
                        raise ValueError(f"it has {name} twice")
                    piece = f.get_slice(name)
                    tensors[plain_name(name)] = Tensor(path, name, tuple(piece.get_shape()),
                                                       piece.get_dtype())
        except (safetensors().SafetensorError, OSError) as e:
            raise ValueError(f"{path.name} is damaged ({str(e).splitlines()[0][:100]})")
    return tensors


def check_headers(tensors, c):
    """Raise ValueError unless the files hold the model of a ModelConfig, name by name."""
    layers = {int(match[1]) for match in map(LAYER.match, tensors) if match}
    if len(layers) != c.n_layer:  # before there is a list of as many parts
        raise ValueError(f"config.json has {c.n_layer} layers, the weights {len(layers)}")
    parts = {plain_name(part.theirs): part for part in model_parts(c)}
    for name, part in parts.items():
        if name not in tensors:
            raise ValueError(f"the weights lack {part.theirs}")
        tensor = tensors[name]
        if tensor.shape != part.shape:
            raise ValueError(f"{part.theirs} is {list(tensor.shape)}, by config.json "
                             f"{list(part.shape)}")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{part.theirs} is of type {tensor.dtype}; known are "
                             f"{', '.join(FLOATS)}")
    for name in tensors.keys() - parts.keys():
        if not IGNORED.fullmatch(name) and name != "lm_head.weight":
            raise ValueError(f"the weights have {name}, which a plain {c.arch} has not")


def check_head(tensors, c):
    """Raise ValueError where a model is tied by config.json, but not by the weights."""
    if "lm_head.weight" not in tensors or not (c.tie or c.arch == "gpt2"):
        return
    embedding = "model.embed_tokens.weight" if c.arch == "llama" else "transformer.wte.weight"
    if not torch.equal(read_tensor(tensors, "lm_head.weight"), read_tensor(tensors, embedding)):
        remedy = ("set tie_word_embeddings to false there" if c.arch == "llama" else
                  "only a GPT-2 with a tied head can be imported")
        raise ValueError("config.json ties the head to the embedding, but lm_head.weight "
                         f"is another; {remedy}")


def read_tensor(tensors, name):
    """Return the tensor of that name, which read_headers has seen."""
    tensor = tensors[plain_name(name)]
    with safetensors().safe_open(tensor.path, "pt") as f:
        return f.get_tensor(tensor.name)
