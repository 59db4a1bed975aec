"""A model's weights by our names and by transformers' names; read from safetensors alone."""
import re

import torch

from model import LM
from onecoach.config import UserError


def safetensors():
    """Return the package, or UserError."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("weights need the package safetensors: pip install safetensors")
    return safetensors


# ---------------------------------------------------------------- names

# Our module: the modules of theirs, by rows one below the other. {} is the number of the layer.
LLAMA = {
    "embed": ["model.embed_tokens"],
    "blocks.{}.norm1": ["model.layers.{}.input_layernorm"],
    "blocks.{}.attn.qkv": [f"model.layers.{{}}.self_attn.{x}_proj" for x in "qkv"],
    "blocks.{}.attn.proj": ["model.layers.{}.self_attn.o_proj"],
    "blocks.{}.norm2": ["model.layers.{}.post_attention_layernorm"],
    "blocks.{}.mlp.gate_up": ["model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"],
    "blocks.{}.mlp.proj": ["model.layers.{}.mlp.down_proj"],
    "norm": ["model.norm"],
    "head": ["lm_head"],
}
GPT2 = {
    "embed": ["transformer.wte"],
    "positions": ["transformer.wpe"],
    "blocks.{}.norm1": ["transformer.h.{}.ln_1"],
    "blocks.{}.attn.qkv": ["transformer.h.{}.attn.c_attn"],
    "blocks.{}.attn.proj": ["transformer.h.{}.attn.c_proj"],
    "blocks.{}.norm2": ["transformer.h.{}.ln_2"],
    "blocks.{}.mlp.up": ["transformer.h.{}.mlp.c_fc"],
    "blocks.{}.mlp.proj": ["transformer.h.{}.mlp.c_proj"],
    "norm": ["transformer.ln_f"],
}


def their_names(ours, c):
    """Return the names of theirs for a tensor of ours; none for a head that is the embedding."""
    if c.tie and ours == "head.weight":
        return []
    module, kind = ours.rsplit(".", 1)
    layer = "".join(re.findall(r"\.(\d+)\.", module))
    names = (LLAMA if c.arch == "llama" else GPT2).get(re.sub(r"\.\d+\.", ".{}.", module), [])
    return [f"{name.format(layer)}.{kind}" for name in names]


def turn(ours, tensor, c):
    """Transpose the matrices of GPT-2's blocks: its Conv1D keeps (in, out)."""
    is_turned = c.arch == "gpt2" and ours.startswith("blocks.") and tensor.ndim == 2
    return tensor.T if is_turned else tensor


def to_theirs(weights, c):
    """Return transformers' state dict of ours: {name: tensor}."""
    theirs = {}
    for ours, tensor in weights.items():
        names = their_names(ours, c)
        sizes = len(tensor) // max(1, len(names))
        if len(names) == 3:  # keys and values may have fewer heads than queries
            sizes = [c.d_model, *2 * [(len(tensor) - c.d_model) // 2]]
        for name, part in zip(names, tensor.split(sizes)):
            theirs[name] = turn(ours, part, c).contiguous()
    return theirs


def shapes(c):
    """Return our state dict with shapes, but no numbers; ValueError if sizes do not fit."""
    with torch.device("meta"):
        return LM(c).state_dict()


# ---------------------------------------------------------------- safetensors

# A mask or a table of angles, which old folders keep and the model does not need.
IGNORED = re.compile(r".*\.attn\.(masked_)?bias|.*rotary_emb\.inv_freq|lm_head\.weight")


def read_tensors(source, c):
    """Return {transformers' name: tensor} of a folder's safetensors: one file, or shards.

    The folder's index of shards is not asked: the tensors' own names say whether all are there.
    """
    paths = sorted(source.glob("model-*.safetensors"))
    if (source / "model.safetensors").is_file():
        paths = [source / "model.safetensors"]
    if not paths:
        raise ValueError("no model.safetensors there; save_pretrained writes it. Weights that are "
                         "pickled (pytorch_model.bin) are not read: to unpickle is to execute")
    prefix = {"llama": "model.", "gpt2": "transformer."}[c.arch]  # some folders leave it out
    theirs = {}
    for path in paths:
        try:
            part = safetensors().torch.load_file(path)
        except (safetensors().SafetensorError, OSError) as e:
            raise ValueError(f"{path.name} is damaged ({str(e).splitlines()[0][:100]})")
        for name, tensor in part.items():
            name = name if name.startswith((prefix, "lm_head.")) else prefix + name
            if name in theirs:
                raise ValueError(f"{name} is twice in the files model-*.safetensors")
            theirs[name] = tensor
    return theirs


def to_ours(theirs, c, vocab_size):
    """Return our state dict with vocab_size rows of embedding, and empty `theirs`.

    ValueError unless theirs is the model of the ModelConfig c, name by name.
    """
    check_tensors(theirs, c)
    weights = {}
    for ours in shapes(c):
        parts = [turn(ours, theirs.pop(name).float(), c) for name in their_names(ours, c)]
        if parts:
            weights[ours] = torch.cat(parts).contiguous()
    for name in {"embed.weight", "head.weight"} & weights.keys():
        weights[name] = weights[name][:vocab_size].clone()
    weights.setdefault("head.weight", weights["embed.weight"])
    return weights


def check_tensors(theirs, c):
    expected = to_theirs(shapes(c), c)
    for name, blank in expected.items():
        tensor = theirs.get(name)
        if tensor is None:
            raise ValueError(f"the weights lack {name}")
        if tensor.shape != blank.shape:
            raise ValueError(f"{name} is {list(tensor.shape)}, by config.json {list(blank.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is of type {tensor.dtype}, no floating point")
    for name in theirs.keys() - expected.keys():
        if not IGNORED.fullmatch(name):
            raise ValueError(f"the weights have {name}, which a plain {c.arch} has not")

    # a head of its own must not be dropped
    embedding = theirs[next(iter(expected))]
    is_tied = c.tie or c.arch == "gpt2"
    if is_tied and not torch.equal(theirs.get("lm_head.weight", embedding), embedding):
        raise ValueError("config.json ties the head to the embedding, but lm_head.weight is "
                         "another; for a Llama set tie_word_embeddings to false there")
