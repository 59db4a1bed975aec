"""A decoder-only transformer in two forms: Llama and GPT-2. Imports nothing of the project; copy it alone.

    lm = LM(ModelConfig(arch="llama", vocab_size=16000, n_layer=16, n_head=8, d_model=512, d_ff=1024))
    hidden = lm(ids)            # (B, T) -> (B, T, d): the loss takes hidden states, so full logits need never exist
    logits = lm.logits(hidden)  # (B, T, d) -> (B, T, V), for the few places that want them

Llama (arXiv 2302.13971): rotary positions, RMSNorm before each sublayer, SwiGLU, no biases, head tied or not.
GPT-2: learned positions, LayerNorm before each sublayer, GELU (tanh form), biases, head always tied.
Both are the mathematics of Hugging Face transformers' LlamaForCausalLM and GPT2LMHeadModel, and start from their
initialisation; q, k, v are one matrix here, and so are SwiGLU's gate and up: fewer, larger products.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class ModelConfig:
    arch: str = "llama"      # llama | gpt2
    vocab_size: int = 16000
    n_layer: int = 16
    n_head: int = 8
    d_model: int = 512
    d_ff: int = 1024
    block_size: int = 128    # longest context trained on; GPT-2 has no positions beyond it, Llama's can be extended
    tie: bool = False        # the head is the embedding matrix
    dropout: float = 0.0


def rope_table(head_dim, length, theta=10000.0):
    """cos and sin of the rotary angles, each (length, head_dim), halves repeated (arXiv 2104.09864, eq. 34)."""
    freq = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq  # (length, head_dim / 2)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Rotary position embedding of x (B, H, T, head_dim), in x's own dtype."""
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-b, a], dim=-1) * sin.to(x.dtype)


class KVCache:
    """Keys and values of every layer, (L, B, H, length, head_dim), written in place from position `pos` on."""

    def __init__(self, config, batch, length, device, dtype):
        shape = (config.n_layer, batch, config.n_head, length, config.d_model // config.n_head)
        self.k, self.v = torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype)
        self.pos = 0

    def append(self, layer, k, v):
        """Store k, v (B, H, T, head_dim) of one layer; return all that is known so far (B, H, pos + T, head_dim)."""
        end = self.pos + k.shape[2]
        self.k[layer, :, :, self.pos:end], self.v[layer, :, :, self.pos:end] = k, v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]


class RMSNormFunction(torch.autograd.Function):
    """x / sqrt(mean x^2 + eps) * weight in few passes, for a CPU without compiling: autograd's own form keeps, and goes over, more."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        full = torch.promote_types(x.dtype, torch.float32)
        rstd = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=full).square().div(x.shape[-1]).add(eps).rsqrt()
        ctx.save_for_backward(x, weight, rstd)
        return (x * rstd).mul_(weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):  # y = w x r, r = rstd: dL/dx = r w g - x r^3 / d sum(w g x), dL/dw = sum over positions (g x r)
        x, weight, rstd = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            gx, w = g.to(rstd.dtype) * x, weight.to(rstd.dtype)
            d_weight = gx.flatten(0, -2).T @ rstd.flatten()
            shrink = (gx @ w)[..., None] * rstd**3 / x.shape[-1]
            d_x = torch.mul(x, -shrink, out=gx).addcmul_(g * w, rstd.expand_as(gx))
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None


class RMSNorm(nn.RMSNorm):
    """arXiv 1910.07467, eq. 4."""

    def forward(self, x):
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return RMSNormFunction.apply(x, self.weight, self.eps)


def attend(q, k, v, dropout=0.0):
    """Causal attention (arXiv 1706.03762, eq. 1) of queries (B, H, T, hd), the last T of the S positions that k and v have: as q."""
    (B, H, T, hd), S = q.shape, k.shape[2]
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and S <= 256:  # torch's kernel takes twice the time here
        mask = torch.full((T, S), -math.inf, dtype=q.dtype).triu(1 + S - T).expand(B * H, T, S)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        z = torch.baddbmm(mask, q, k.mT, alpha=hd**-0.5)
        return (F.dropout(z.softmax(-1), dropout) @ v).view(B, H, T, hd)
    mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T) if 1 < T < S else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=1 < T == S, dropout_p=dropout)


class Attention(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        self.n_head, self.layer, self.dropout = c.n_head, layer, c.dropout
        self.qkv = nn.Linear(c.d_model, 3 * c.d_model, bias=c.arch == "gpt2")
        self.proj = nn.Linear(c.d_model, c.d_model, bias=c.arch == "gpt2")

    def forward(self, x, rope, cache):
        B, T, d = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, d // self.n_head).permute(2, 0, 3, 1, 4)  # each (B, H, T, hd)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = (t.to(q.dtype) for t in cache.append(self.layer, k, v))
        y = attend(q, k, v, self.dropout if self.training else 0.0)
        return self.proj(y.transpose(1, 2).reshape(B, T, d))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), arXiv 2002.05202."""

    def __init__(self, c):
        super().__init__()
        self.gate_up = nn.Linear(c.d_model, 2 * c.d_ff, bias=False)
        self.proj = nn.Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.proj(F.silu(gate) * up)


class GELU(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.up = nn.Linear(c.d_model, c.d_ff)
        self.proj = nn.Linear(c.d_ff, c.d_model)

    def forward(self, x):
        return self.proj(F.gelu(self.up(x), approximate="tanh"))


def norm(c):
    return RMSNorm(c.d_model, eps=1e-6) if c.arch == "llama" else nn.LayerNorm(c.d_model, eps=1e-5)


class Block(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        self.norm1, self.attn = norm(c), Attention(c, layer)
        self.norm2, self.mlp = norm(c), SwiGLU(c) if c.arch == "llama" else GELU(c)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x, rope, cache):
        x = x + self.drop(self.attn(self.norm1(x), rope, cache))
        return x + self.drop(self.mlp(self.norm2(x)))


class LM(nn.Module):
    """A language model. forward: ids (B, T) -> hidden states after the last norm (B, T, d).

    The head's matrix (V, d) is `lm.head.weight`; with `tie` (always for gpt2) it is the embedding's own.
    Raises ValueError where the sizes do not fit each other, or a GPT-2 input is longer than block_size.
    """

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        if c.arch not in ("llama", "gpt2"):
            raise ValueError(f"arch is {c.arch!r}; allowed: llama, gpt2")
        if c.d_model % c.n_head or (c.arch == "llama" and c.d_model // c.n_head % 2):
            raise ValueError(f"d_model {c.d_model} does not split into {c.n_head} heads of an even size")
        self.embed = nn.Embedding(c.vocab_size, c.d_model)
        self.positions = nn.Embedding(c.block_size, c.d_model) if c.arch == "gpt2" else None
        self.drop = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.n_layer))
        self.norm = norm(c)
        self.head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        self.apply(self._init)
        if c.arch == "gpt2":  # GPT-2 scales what enters the residual stream by its number of additions
            for name, p in self.named_parameters():
                if name.endswith("proj.weight"):
                    nn.init.normal_(p, std=0.02 / math.sqrt(2 * c.n_layer))
        if c.tie or c.arch == "gpt2":
            self.head.weight = self.embed.weight
        if c.arch == "llama":  # buffers follow .to(device); not saved: they follow from the config
            cos, sin = rope_table(c.d_model // c.n_head, c.block_size)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    @staticmethod
    def _init(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, ids, cache=None):
        start, T = (0 if cache is None else cache.pos), ids.shape[1]
        x, rope = self.embed(ids), None  # (B, T, d)
        if self.positions is not None:
            if start + T > self.config.block_size:
                raise ValueError(f"{start + T} tokens are longer than this GPT-2's block_size {self.config.block_size}")
            x = x + self.positions.weight[start:start + T]
        else:
            if start + T > self.cos.shape[0]:  # a longer text than the model was trained on: the angles go on
                cos, sin = rope_table(self.cos.shape[1], 2 * (start + T))
                self.cos, self.sin = cos.to(self.cos.device), sin.to(self.sin.device)
            rope = self.cos[start:start + T], self.sin[start:start + T]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, rope, cache)
        if cache is not None:
            cache.pos += T
        return self.norm(x)

    def logits(self, hidden):
        """(..., d) -> (..., V)."""
        return self.head(hidden)

    def num_params(self):
        return sum(p.numel() for p in self.parameters())

    def operations(self, T):
        """Floating-point operations of a forward pass, a token of T, head included: those of its matrix products, a product and
        a sum each; attention's in full, as PaLM counts MFU (arXiv 2204.02311, appendix B). Training takes three times as many."""
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return 2 * weights + 4 * T * self.config.d_model * self.config.n_layer

    @torch.no_grad()
    def generate(self, ids, n, temperature=1.0, top_k=0, top_p=1.0, generator=None, stop=None, use_cache=True):
        """Continue ids (B, T) by up to n sampled tokens: (B, T + n), or shorter once every row has produced `stop`.

        temperature 0 takes the most likely token; top_k > 0 keeps the k most likely; top_p < 1 keeps the smallest set
        of tokens whose probability reaches p. `generator` (torch.Generator on the model's device) seeds the draws. A row
        that has produced `stop` is filled up with it. The caller chooses train or eval mode.
        """
        B, T = ids.shape
        cache = KVCache(self.config, B, T + n, ids.device, self.embed.weight.dtype) if use_cache else None
        done = torch.zeros(B, dtype=torch.bool, device=ids.device)
        new = ids
        for _ in range(n):
            hidden = self(new, cache) if use_cache else self(ids)
            new = sample(self.logits(hidden[:, -1]).float(), temperature, top_k, top_p, generator)  # (B, 1)
            if stop is not None:
                new = new.masked_fill(done[:, None], stop)
                done |= new[:, 0] == stop
            ids = torch.cat([ids, new], dim=1)
            if stop is not None and done.all():
                break
        return ids


def sample(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    """Draw one token a row from logits (B, V): (B, 1)."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    z = logits / temperature
    if top_k > 0:
        z = z.masked_fill(z < z.topk(min(top_k, z.shape[-1])).values[:, -1:], -math.inf)
    if top_p < 1:
        sorted_z, order = z.sort(dim=-1, descending=True)
        p = sorted_z.softmax(-1)
        drop = p.cumsum(-1) - p >= top_p  # mass before this token already reaches top_p; the first is always kept
        z = z.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)
    return torch.multinomial(z.softmax(-1), 1, generator=generator)
