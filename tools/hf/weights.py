"""A model's weights by our names and by transformers' names; the package safetensors."""
import collections

import torch

from onecoach.config import UserError

LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def safetensors():
    """The package, which nothing else here needs."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("Hugging Face's weights need the package safetensors: pip install "
                        "safetensors")
    return safetensors


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
