"""config.json, out and in: a ModelConfig as transformers spells it, and the other way round."""
from model import ModelConfig

LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
MOST = 10**7  # no size in a config.json is larger


# ---------------------------------------------------------------- out

def llama_form(c):
    """Return the config.json of a LlamaForCausalLM."""
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
    """Return the config.json of a GPT2LMHeadModel."""
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


# ---------------------------------------------------------------- in

def model_config(form):
    """Return the ModelConfig of a config.json; ValueError names what model.py does not do."""
    kind = form.get("model_type")
    if kind not in ("llama", "gpt2"):
        raise ValueError(f"model_type = {kind!r}; only llama and gpt2 can be imported")
    for name in ("auto_map", "quantization_config", "adapter_config", "sliding_window"):
        if form.get(name):
            raise ValueError(f"config.json has {name}; a plain {kind} alone can be imported")
    return llama_config(form) if kind == "llama" else gpt2_config(form)


def number(form, name, default, low=1, high=MOST):
    """Return a number of a config.json, whole where its default is; ValueError out of range."""
    value = form.get(name)
    value = default if value is None else value
    kinds = (int,) if type(default) is int else (int, float)
    if type(value) not in kinds or not low <= value <= high:
        raise ValueError(f"config.json has {name} = {value!r}")
    return type(default)(value)


def flag(form, name):
    value = form.get(name) or False
    if type(value) is not bool:
        raise ValueError(f"config.json has {name} = {value!r}")
    return value


def must_be(form, name, default, *synonyms):
    """Raise ValueError unless a setting is its default, or a synonym of that."""
    value = form.get(name, default)
    if value not in (None, default, *synonyms):
        raise ValueError(f"config.json has {name} = {value!r}; only {default!r} can be "
                         "imported")


def llama_config(form):
    must_be(form, "hidden_act", "silu", "swish")
    heads = number(form, "num_attention_heads", 32)
    width = number(form, "hidden_size", 4096)
    kv = number(form, "num_key_value_heads", heads)
    if width % heads or width // heads % 2 or heads % kv:
        raise ValueError(f"config.json has hidden_size = {width}, {heads} heads and {kv} of "
                         "keys: they do not divide one another")
    must_be(form, "head_dim", width // heads)
    theta, scaling = read_rope(form)
    return ModelConfig(
        arch="llama",
        vocab_size=number(form, "vocab_size", 32000),
        d_model=width,
        n_head=heads,
        n_kv_head=0 if kv == heads else kv,
        n_layer=number(form, "num_hidden_layers", 32),
        d_ff=number(form, "intermediate_size", 11008),
        rope_theta=theta,
        rope_scaling=scaling,
        # no weights show it, and there is a table of as many angles
        block_size=number(form, "max_position_embeddings", 2048, low=2, high=2**18),
        norm_eps=number(form, "rms_norm_eps", 1e-6, low=0, high=1),
        tie=flag(form, "tie_word_embeddings"),
        attn_bias=flag(form, "attention_bias"),
        mlp_bias=flag(form, "mlp_bias"),
        dropout=number(form, "attention_dropout", 0.0, low=0, high=0.99))


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


def gpt2_config(form):
    must_be(form, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    must_be(form, "scale_attn_weights", True)
    must_be(form, "scale_attn_by_inverse_layer_idx", False)
    must_be(form, "add_cross_attention", False)
    must_be(form, "tie_word_embeddings", True)
    width = number(form, "n_embd", 768)
    heads = number(form, "n_head", 12)
    if width % heads:
        raise ValueError(f"config.json has n_embd = {width} and n_head = {heads}: it does not "
                         "divide")
    return ModelConfig(
        arch="gpt2",
        vocab_size=number(form, "vocab_size", 50257),
        d_model=width,
        n_head=heads,
        n_layer=number(form, "n_layer", 12),
        d_ff=number(form, "n_inner", 4 * width),
        block_size=number(form, "n_positions", 1024, low=2),
        norm_eps=number(form, "layer_norm_epsilon", 1e-5, low=0, high=1),
        dropout=number(form, "resid_pdrop", 0.1, low=0, high=0.99))
