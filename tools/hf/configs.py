"""config.json, out and in: a ModelConfig as transformers spells it, and the other way round."""
from model import ModelConfig

LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
MOST = 10**7  # no size in a config.json is larger

# Their key: our key, transformers' default, and the range that is taken, if not 1 to MOST.
LLAMA = {
    "vocab_size": ("vocab_size", 32000),
    "hidden_size": ("d_model", 4096),
    "intermediate_size": ("d_ff", 11008),
    "num_hidden_layers": ("n_layer", 32),
    "num_attention_heads": ("n_head", 32),
    # no weights show this one, and there is a table of as many angles
    "max_position_embeddings": ("block_size", 2048, 2, 2**18),
    "rms_norm_eps": ("norm_eps", 1e-6, 0, 1),
    "attention_dropout": ("dropout", 0.0, 0, 0.99),
}
LLAMA_FLAGS = {"tie_word_embeddings": "tie", "attention_bias": "attn_bias", "mlp_bias": "mlp_bias"}
GPT2 = {
    "vocab_size": ("vocab_size", 50257),
    "n_embd": ("d_model", 768),
    "n_layer": ("n_layer", 12),
    "n_head": ("n_head", 12),
    "n_positions": ("block_size", 1024, 2),
    "layer_norm_epsilon": ("norm_eps", 1e-5, 0, 1),
    "resid_pdrop": ("dropout", 0.1, 0, 0.99),
}


# ---------------------------------------------------------------- out

def config_json(c):
    """Return the config.json, a dict, of a LlamaForCausalLM or a GPT2LMHeadModel."""
    table = LLAMA if c.arch == "llama" else GPT2
    form = {theirs: getattr(c, ours) for theirs, (ours, *_) in table.items()}
    form |= {"model_type": c.arch, "initializer_range": 0.02, "use_cache": True}
    if c.arch == "gpt2":
        return {**form, "architectures": ["GPT2LMHeadModel"], "n_inner": c.d_ff,
                "activation_function": "gelu_new", "tie_word_embeddings": True,
                "layer_norm_epsilon": c.norm_eps or 1e-5, "embd_pdrop": c.dropout,
                "attn_pdrop": c.dropout}

    scaling = None
    if c.rope_scaling:
        scaling = {"rope_type": "llama3", **dict(zip(LLAMA3, c.rope_scaling))}
        scaling[LLAMA3[3]] = int(scaling[LLAMA3[3]])
    form |= {theirs: getattr(c, ours) for theirs, ours in LLAMA_FLAGS.items()}
    return {**form, "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "num_key_value_heads": c.n_kv_head or c.n_head, "head_dim": c.d_model // c.n_head,
            "rms_norm_eps": c.norm_eps or 1e-6, "rope_theta": c.rope_theta,
            "rope_scaling": scaling}


# ---------------------------------------------------------------- in

def model_config(form):
    """Return the ModelConfig of a config.json; ValueError names what model.py does not do."""
    kind = form.get("model_type")
    if kind not in ("llama", "gpt2"):
        raise ValueError(f"model_type = {kind!r}; only llama and gpt2 can be imported")
    for name in ("auto_map", "quantization_config", "adapter_config", "sliding_window"):
        if form.get(name):
            raise ValueError(f"config.json has {name}; a plain {kind} alone can be imported")
    table = LLAMA if kind == "llama" else GPT2
    keys = {ours: number(form, theirs, *limits) for theirs, (ours, *limits) in table.items()}
    keys |= llama_keys(form, **keys) if kind == "llama" else gpt2_keys(form, **keys)
    return ModelConfig(arch=kind, **keys)


def number(form, name, default, low=1, high=MOST):
    """Return a number of a config.json, whole if the default is; ValueError out of range."""
    value = form.get(name)
    value = default if value is None else value
    kinds = (int,) if type(default) is int else (int, float)
    if type(value) not in kinds or not low <= value <= high:
        raise ValueError(f"config.json has {name} = {value!r}")
    return type(default)(value)


def must_be(form, name, default, *synonyms):
    """Raise ValueError unless a setting is the default, or a synonym of that."""
    value = form.get(name, default)
    if value not in (None, default, *synonyms):
        raise ValueError(f"config.json has {name} = {value!r}; only {default!r} can be imported")


def llama_keys(form, d_model, n_head, **_):
    kv = number(form, "num_key_value_heads", n_head)
    if d_model % n_head or d_model // n_head % 2 or n_head % kv:
        raise ValueError(f"config.json has hidden_size = {d_model}, {n_head} heads and {kv} of "
                         "keys: they do not divide one another")
    must_be(form, "hidden_act", "silu", "swish")
    must_be(form, "head_dim", d_model // n_head)
    theta, scaling = read_rope(form)
    keys = {"n_kv_head": 0 if kv == n_head else kv, "rope_theta": theta, "rope_scaling": scaling}
    for theirs, ours in LLAMA_FLAGS.items():
        keys[ours] = form.get(theirs) or False
        if type(keys[ours]) is not bool:
            raise ValueError(f"config.json has {theirs} = {keys[ours]!r}")
    return keys


def read_rope(form):
    """Return (theta, Llama 3's scaling or ()) of a config.json of transformers 4 or 5."""
    new = form.get("rope_parameters") or {}
    scaling = form.get("rope_scaling") or new
    if not isinstance(new, dict) or not isinstance(scaling, dict):
        raise ValueError(f"config.json has rope_scaling = {scaling!r}")
    must_be({**form, **new}, "partial_rotary_factor", 1.0)
    theta = number({**form, **new}, "rope_theta", 10000.0, high=1e12)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, ()
    if kind != "llama3":
        raise ValueError(f"rope scaling is {kind!r}; known are default and llama3")
    numbers = tuple(number(scaling, name, 0.0, low=1e-9) for name in LLAMA3)
    if numbers[1] >= numbers[2]:
        raise ValueError(f"rope scaling is {scaling!r}")
    return theta, numbers


def gpt2_keys(form, d_model, n_head, **_):
    must_be(form, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    must_be(form, "scale_attn_weights", True)
    must_be(form, "scale_attn_by_inverse_layer_idx", False)
    must_be(form, "add_cross_attention", False)
    must_be(form, "tie_word_embeddings", True)
    if d_model % n_head:
        raise ValueError(f"config.json has n_embd = {d_model} and n_head = {n_head}: it does not "
                         "divide")
    return {"d_ff": number(form, "n_inner", 4 * d_model)}
