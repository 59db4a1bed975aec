"""The model: transformers' function with the same weights; the cache changes nothing."""
import math

import pytest
import torch

from model import LM, KVCache, ModelConfig, RMSNorm, attend, sample
from tools.hf.weights import to_theirs

LLAMA = ModelConfig(arch="llama", vocab_size=61, n_layer=3, n_head=4, d_model=32, d_ff=48,
                    block_size=24)
GPT2 = ModelConfig(arch="gpt2", vocab_size=61, n_layer=3, n_head=4, d_model=32, d_ff=128,
                   block_size=24)

LLAMA3 = ModelConfig(**{**vars(LLAMA), "n_kv_head": 2, "rope_theta": 500.0, "attn_bias": True,
                        "rope_scaling": (8.0, 1.0, 4.0, 16.0)})


def random_lm(config, seed=0):
    """Weights large enough that every part of the model shows in the output."""
    torch.manual_seed(seed)
    lm = LM(config).eval()
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return lm


def as_transformers(lm):
    """transformers' model of the same sizes and weights."""
    import transformers
    c = lm.config
    if c.arch == "llama":
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.d_model, num_hidden_layers=c.n_layer,
            intermediate_size=c.d_ff, num_attention_heads=c.n_head,
            max_position_embeddings=c.block_size))
    else:
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=c.vocab_size, n_embd=c.d_model, n_layer=c.n_layer, n_head=c.n_head,
            n_inner=c.d_ff, n_positions=c.block_size))
    theirs.load_state_dict(to_theirs(lm.state_dict(), c), strict=c.arch == "llama")  # tied there
    return theirs.eval()


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_logits_are_transformers(config):
    lm = random_lm(config)
    theirs = as_transformers(lm)
    ids = torch.randint(0, 61, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = lm.logits(lm(ids))
        reference = theirs(input_ids=ids).logits
    assert reference.std() > 0.5  # the weights do show
    assert (ours - reference).abs().max() < 1e-4


def test_rmsnorm_by_hand():
    """Its gradients against finite differences in float64.

    It is torch's own in the precisions it runs in.
    """
    torch.manual_seed(0)
    norm = RMSNorm(8, eps=1e-2).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    of = lambda x, w: torch.func.functional_call(norm, {"weight": w}, x)
    assert torch.autograd.gradcheck(of, (x, norm.weight))

    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6),
                             (torch.bfloat16, 2**-8)):
        found = []
        for f in (RMSNorm.forward, torch.nn.RMSNorm.forward):
            y = x.detach().to(dtype).requires_grad_()
            ours = norm.to(dtype)
            ours.weight.grad = None
            out = f(ours, y)
            out.backward(torch.linspace(-1, 1, 48, dtype=dtype).view_as(y))
            found.append((out, y.grad, ours.weight.grad))
        for a, b in zip(*found):
            assert a.dtype == dtype and (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("T,S", [(16, 16), (1, 9), (5, 9), (7, 256), (7, 257)])
def test_attention_in_bfloat16_is_attention(T, S):
    """The form by hand, and torch's beyond 256 keys, against float64; gradients too."""
    g = torch.Generator().manual_seed(0)
    found = {}
    inputs = [torch.randn(2, 3, n, 8, generator=g, dtype=torch.float64) for n in (T, S, S, T)]
    for dtype in (torch.bfloat16, torch.float64):
        *qkv, up = (t.bfloat16().to(dtype) for t in inputs)
        out = attend(*(t.requires_grad_() for t in qkv))
        assert out.dtype == dtype
        out.backward(up)
        found[dtype] = [out, *(t.grad for t in qkv)]
    for low, exact in zip(*found.values()):
        assert (low - exact).norm() < 0.01 * exact.norm()
    assert found[torch.float64][1].norm() > 0


@pytest.mark.parametrize("arch,sizes,millions", [
    ("llama", dict(n_layer=16, n_head=8, d_model=512, d_ff=1024), 58.3),
    ("llama", dict(n_layer=24, n_head=8, d_model=1024, d_ff=3072), 360.0),
    ("gpt2", dict(n_layer=24, n_head=16, d_model=1536, d_ff=6144), 705)])
def test_parameter_counts_of_the_paper(arch, sizes, millions):
    with torch.device("meta"):
        n = LM(ModelConfig(arch=arch, vocab_size=16000, block_size=128, **sizes)).num_params() / 1e6
    assert round(n, 1 if millions < 700 else 0) == millions


def test_tied_head_is_the_embedding():
    config = ModelConfig(**{**vars(LLAMA), "tie": True})
    lm = LM(config)
    assert lm.head.weight is lm.embed.weight
    assert lm.num_params() == LM(LLAMA).num_params() - 61 * 32


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_initialisation_is_the_reference_releases(config):
    torch.manual_seed(0)
    big = ModelConfig(**{**vars(config), "d_model": 128, "d_ff": 512, "vocab_size": 500})
    lm = LM(big)
    for name, p in lm.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all()
        elif p.dim() == 1:
            assert (p == 1).all()
        else:
            scaled = config.arch == "gpt2" and name.endswith("proj.weight")
            assert abs(p.std() / (0.02 / math.sqrt(6) if scaled else 0.02) - 1) < 0.05, name


@pytest.mark.parametrize("config", [LLAMA, GPT2, LLAMA3], ids=["llama", "gpt2", "llama 3"])
def test_cache_gives_the_same_hidden_states_in_any_pieces(config):
    lm = random_lm(config)
    ids = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    cache = KVCache(config, 2, 20, ids.device, torch.float32)
    pieces = torch.cat([lm(part, cache) for part in ids.split([7, 1, 5, 1, 6], dim=1)], dim=1)
    assert torch.allclose(pieces, lm(ids), atol=1e-5)


@pytest.mark.parametrize("config", [LLAMA, GPT2, LLAMA3], ids=["llama", "gpt2", "llama 3"])
def test_a_text_read_token_by_token_in_bf16_is_the_whole_but_for_rounding(config):
    lm = random_lm(config)
    ids = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    lengths = [7, 1, 1, 5, 1, 5]
    with torch.no_grad():
        exact = lm.logits(lm(ids))[:, torch.tensor(lengths).cumsum(0) - 1]
        with torch.autocast("cpu", torch.bfloat16):
            step = lm.stepper(2, 20)
            logits = torch.stack([step(part) for part in ids.split(lengths, dim=1)], 1)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("config", [LLAMA, GPT2, LLAMA3], ids=["llama", "gpt2", "llama 3"])
@pytest.mark.parametrize("how", [dict(), dict(temperature=0), dict(temperature=0.7, top_k=5),
                                 dict(top_p=0.8)])
def test_generate_with_the_cache_is_generate_without(config, how):
    lm = random_lm(config)
    ids = torch.randint(0, 61, (4, 4), generator=torch.Generator().manual_seed(2))
    out = lm.generate(ids, 20, generator=torch.Generator().manual_seed(3), **how)
    plain = ids
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):  # all that was written is read again for each token
        with torch.no_grad():
            logits = lm.logits(lm(plain)[:, -1])
        plain = torch.cat([plain, sample(logits, **how, generator=generator)], 1)
    assert torch.equal(out, plain) and out.shape == (4, 24) and torch.equal(out[:, :4], ids)
    if how.get("temperature", 1):
        other = lm.generate(ids, 20, generator=torch.Generator().manual_seed(4), **how)
        assert not torch.equal(out, other)


def test_generate_stops_when_every_row_has_stopped():
    lm = random_lm(LLAMA)
    ids = torch.zeros(5, 1, dtype=torch.long)
    free = lm.generate(ids, 23, generator=torch.Generator().manual_seed(0))
    stop = int(free[0, 3])
    out = lm.generate(ids, 23, generator=torch.Generator().manual_seed(0), stop=stop)
    for row, full in zip(out[:, 1:].tolist(), free[:, 1:].tolist()):
        end = row.index(stop) if stop in row else len(row)
        assert row[:end + 1] == full[:len(row)][:end + 1] and set(row[end:]) <= {stop}


def test_top_k_and_top_p_keep_the_right_tokens():
    p = torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05]])
    draw = lambda **k: {int(sample(p.log(), generator=torch.Generator().manual_seed(i), **k))
                        for i in range(300)}
    assert draw() == {0, 1, 2, 3, 4}
    assert draw(top_k=2) == {0, 1}
    assert draw(top_p=0.6) == {0, 1}      # 0.4 alone does not reach 0.6
    assert draw(top_p=0.01) == draw(top_p=0.0) == {0}  # never empty
    assert draw(top_k=99) == {0, 1, 2, 3, 4}


def test_sampling_frequencies():
    p = torch.tensor([0.5, 0.25, 0.2, 0.05])
    n = 20000
    ids = sample(p.log().expand(n, 4), temperature=2.0, generator=torch.Generator().manual_seed(0))
    expected = (p.sqrt() / p.sqrt().sum()) * n
    chi2 = ((ids.flatten().bincount(minlength=4) - expected) ** 2 / expected).sum()
    assert chi2 < 16.3  # 0.1% point with 3 degrees of freedom


def test_longer_than_trained():
    ids = torch.randint(0, 61, (1, 40), generator=torch.Generator().manual_seed(0))
    for config in (LLAMA, LLAMA3):
        lm, fresh = random_lm(config), random_lm(ModelConfig(**{**vars(config), "block_size": 40}))
        assert torch.allclose(lm(ids), fresh(ids), atol=1e-5)  # Llama's angles go on
        assert torch.allclose(lm(ids)[:, :10], lm(ids[:, :10]), atol=1e-5)
    with pytest.raises(ValueError, match="40 tokens are longer than this GPT-2's block_size 24"):
        random_lm(GPT2)(ids)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="does not split"):
        LM(ModelConfig(d_model=30, n_head=4))
    with pytest.raises(ValueError, match="n_kv_head 3 does not divide n_head 4"):
        LM(ModelConfig(d_model=32, n_head=4, n_kv_head=3))
    with pytest.raises(ValueError, match="allowed: llama, gpt2"):
        LM(ModelConfig(arch="bert"))


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_low_precision_weights_work_without_autocast(arch):
    lm = LM(ModelConfig(arch=arch, vocab_size=50, n_layer=1, n_head=2, d_model=16, d_ff=16,
                        block_size=16)).eval()
    ids = torch.randint(0, 50, (2, 9))
    exact = lm(ids)
    low = lm.bfloat16()(ids)
    assert low.dtype == torch.bfloat16 and (low.float() - exact).norm() < 0.05 * exact.norm()
    assert lm.generate(ids, 5).shape == (2, 14)
