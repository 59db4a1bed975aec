"""config.json, out and in: a ModelConfig as transformers spells it, and the other way round."""
from model import ModelConfig
from onecoach.config import UserError, check

# Their key: our key, transformers' default.
LLAMA = {
    "vocab_size": ("vocab_size", 32000),
    "hidden_size": ("d_model", 4096),
    "intermediate_size": ("d_ff", 11008),
    "num_hidden_layers": ("n_layer", 32),
    "num_attention_heads": ("n_head", 32),
    "max_position_embeddings": ("block_size", 2048),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "rope_theta": ("rope_theta", 10000.0),
    "attention_dropout": ("dropout", 0.0),
    "tie_word_embeddings": ("tie", False),
    "attention_bias": ("attn_bias", False),
    "mlp_bias": ("mlp_bias", False),
}
GPT2 = {
    "vocab_size": ("vocab_size", 50257),
    "n_embd": ("d_model", 768),
    "n_layer": ("n_layer", 12),
    "n_head": ("n_head", 12),
    "n_positions": ("block_size", 1024),
    "layer_norm_epsilon": ("norm_eps", 1e-5),
    "resid_pdrop": ("dropout", 0.1),
}
TABLES = {"llama": LLAMA, "gpt2": GPT2}
# Of other settings model.py has one value alone: transformers' default, and synonyms.
ONLY = {
    "llama": {"hidden_act": ("silu", "swish"), "partial_rotary_factor": (1.0,)},
    "gpt2": {"activation_function": ("gelu_new", "gelu_pytorch_tanh"),
             "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,),
             "add_cross_attention": (False,), "tie_word_embeddings": (True,)},
}
# Llama 3's rope scaling, in the order of ModelConfig.
SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def config_json(c):
    """Return the config.json, a dict, of a LlamaForCausalLM or a GPT2LMHeadModel."""
    form = {theirs: getattr(c, ours) for theirs, (ours, _) in TABLES[c.arch].items()}
    form |= {"model_type": c.arch, "initializer_range": 0.02, "use_cache": True}
    if c.arch == "gpt2":
        return {**form, "architectures": ["GPT2LMHeadModel"], "n_inner": c.d_ff,
                "activation_function": "gelu_new", "tie_word_embeddings": True,
                "layer_norm_epsilon": c.norm_eps or 1e-5, "embd_pdrop": c.dropout,
                "attn_pdrop": c.dropout}

    scaling = None
    if c.rope_scaling:
        *factors, length = c.rope_scaling
        scaling = {"rope_type": "llama3", **dict(zip(SCALING, [*factors, int(length)]))}
    return {**form, "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "num_key_value_heads": c.n_kv_head or c.n_head, "head_dim": c.d_model // c.n_head,
            "rms_norm_eps": c.norm_eps or 1e-6, "rope_scaling": scaling}


def model_config(form):
    """Return the ModelConfig of a config.json; ValueError names a form that model.py lacks."""
    kind = form.get("model_type")
    if kind not in TABLES:
        raise ValueError(f"model_type = {kind!r}; only llama and gpt2 can be imported")
    for name in ("auto_map", "quantization_config", "adapter_config", "sliding_window"):
        if form.get(name):
            raise ValueError(f"config.json has {name}; a plain {kind} alone can be imported")

    rope = form.get("rope_parameters") or {}  # transformers 5 has them apart
    form = {**form, **rope} if isinstance(rope, dict) else form
    keys = {ours: read(form, theirs, ours, default)
            for theirs, (ours, default) in TABLES[kind].items()}
    only = ONLY[kind]
    if kind == "gpt2":
        keys["d_ff"] = read(form, "n_inner", "d_ff", 4 * keys["d_model"])
    else:
        only = {**only, "head_dim": (keys["d_model"] // keys["n_head"],)}
        heads = read(form, "num_key_value_heads", "n_kv_head", keys["n_head"])
        keys["n_kv_head"] = 0 if heads == keys["n_head"] else heads
        keys["rope_scaling"] = read_scaling(form.get("rope_scaling") or rope)
    for name, values in only.items():
        if form.get(name) not in (None, *values):
            raise ValueError(f"config.json has {name} = {form[name]!r}; only {values[0]!r} can be "
                             "imported")
    return ModelConfig(arch=kind, **keys)


def read(form, theirs, ours, default):
    """Return a number of config.json; ValueError if it is none, or out of the bounds of our key."""
    value = form.get(theirs)
    value = default if value is None else value
    try:
        if isinstance(value, str):  # a schedule, too, which a key of ours may be
            raise UserError(f"{ours} = {value!r}: must not be a string")
        return check(ours, value)
    except UserError as e:
        raise ValueError(f"config.json: {str(e).replace(ours, theirs, 1)}")


def read_scaling(rope):
    """Return Llama 3's rope scaling as four numbers, () if there is none."""
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind not in ("default", "llama3"):
        raise ValueError(f"rope scaling is {kind!r}; known are default and llama3")
    if kind == "default":
        return ()
    numbers = {"rope_scaling": [rope.get(name) for name in SCALING]}
    return tuple(read(numbers, "rope_scaling", "rope_scaling", ()))
