"""A decoder-only transformer in two forms, Llama and GPT-2.

    lm = LM(ModelConfig(arch="llama", vocab_size=16000, n_layer=16, n_head=8, d_model=512))
    hidden = lm(ids)            # (B, T) -> (B, T, d), for the loss
    logits = lm.logits(hidden)  # (B, T, d) -> (B, T, V), for sampling

Llama (arXiv 2302.13971): rotary positions, RMSNorm before each sublayer, SwiGLU, no biases; a
config can ask for later variants. GPT-2: learned positions, LayerNorm before each sublayer, GELU
(tanh form), biases, a tied head. Both compute and start the same as Hugging Face transformers'
LlamaForCausalLM and GPT2LMHeadModel. This file imports nothing of the project: copy it alone.
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
    block_size: int = 128    # longest context in training; a Llama can go beyond, a GPT-2 cannot
    tie: bool = False        # the head is the embedding matrix
    dropout: float = 0.0
    n_kv_head: int = 0       # heads of keys and values, shared by the query heads; 0: n_head
    norm_eps: float = 0.0    # 0: 1e-6 (llama), 1e-5 (gpt2)
    rope_theta: float = 10000.0
    rope_scaling: tuple = ()  # Llama 3's: factor, low and high frequency factor, original length
    attn_bias: bool = False  # of q, k, v and their output (gpt2: always)
    mlp_bias: bool = False   # of gate, up and down (gpt2: always)


# ---------------------------------------------------------------- the parts of a block

def rope_table(head_dim, length, theta=10000.0, scaling=()):
    """Return cos and sin of the rotary angles, each (length, head_dim): arXiv 2104.09864, eq. 34.

    scaling: Llama 3's (arXiv 2407.21783) divides low frequencies by `factor`, leaves high ones,
    and interpolates between them.
    """
    freq = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if scaling:
        factor, low, high, original = scaling
        turns = original * freq / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)
        freq = freq * (share + (1 - share) / factor)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq  # (length, head_dim / 2)
    angle = torch.cat([angle, angle], dim=-1)  # both halves of a head turn by the same angles
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Apply rotary position embedding to x (B, H, T, head_dim), in the dtype of x."""
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-b, a], dim=-1) * sin.to(x.dtype)


class KVCache:
    """Keys and values of each layer, (L, B, H, length, head_dim), written in place from `pos`."""

    def __init__(self, config, batch, length, device, dtype):
        head_dim = config.d_model // config.n_head
        shape = (config.n_layer, batch, config.n_kv_head or config.n_head, length, head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.pos = 0

    def append(self, layer, k, v):
        """Store a layer's k, v (B, H, T, head_dim); return all so far, (B, H, pos + T, ...)."""
        end = self.pos + k.shape[2]
        self.k[layer, :, :, self.pos:end] = k
        self.v[layer, :, :, self.pos:end] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]


def attend(q, k, v, dropout=0.0):
    """Causal attention (arXiv 1706.03762, eq. 1). -> (B, H, T, head_dim), as the queries q.

    k and v (B, H, S, head_dim) may be longer: the queries are at the last T positions.
    """
    T, S = q.shape[2], k.shape[2]
    if T == 1:  # one query sees every key: no mask, and the cache's own dtype
        with torch.autocast(q.device.type, enabled=False):
            y = F.scaled_dot_product_attention(q.to(k.dtype), k, v, dropout_p=dropout)
        return y.to(q.dtype)
    k, v = k.to(q.dtype), v.to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and S <= 256:
        return attend_bf16_cpu(q, k, v, dropout)
    if T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
    # is_causal would align the T queries with the first keys, not the last
    mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


class Fused(nn.Linear):
    """Linear maps of one input as one product; `sizes` are their outputs, rows of the weight.

    For the optimizer Muon they are matrices of their own.
    """

    def __init__(self, d_in, sizes, bias):
        super().__init__(d_in, sum(sizes), bias=bias)
        self.sizes = sizes


class Attention(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        self.n_head = c.n_head
        self.n_kv_head = c.n_kv_head or c.n_head
        self.layer = layer
        self.dropout = c.dropout
        bias = c.attn_bias or c.arch == "gpt2"
        kv = self.n_kv_head * (c.d_model // c.n_head)
        self.qkv = Fused(c.d_model, [c.d_model, kv, kv], bias)
        self.proj = nn.Linear(c.d_model, c.d_model, bias=bias)

    def forward(self, x, rope, cache):
        (B, T, d), H, K = x.shape, self.n_head, self.n_kv_head

        # one matrix, so one product, for queries, keys and values of all heads
        qkv = self.qkv(x).view(B, T, H + 2 * K, d // H).transpose(1, 2)
        q, k, v = qkv.split([H, K, K], dim=1)  # (B, H, T, head_dim), of keys and values K heads
        if rope is not None:
            q = rotate(q, *rope)
            k = rotate(k, *rope)

        if cache is not None:  # it has the keys and values of earlier tokens
            k, v = cache.append(self.layer, k, v)
        if K < H:  # arXiv 2305.13245: each head serves H / K query heads
            k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))
        y = attend(q, k, v, self.dropout if self.training else 0.0)
        return self.proj(y.transpose(1, 2).reshape(B, T, d))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), arXiv 2002.05202."""

    def __init__(self, c):
        super().__init__()
        self.gate_up = Fused(c.d_model, [c.d_ff, c.d_ff], c.mlp_bias)
        self.proj = nn.Linear(c.d_ff, c.d_model, bias=c.mlp_bias)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, T, d_ff) each
        return self.proj(F.silu(gate) * up)


class GELU(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.up = nn.Linear(c.d_model, c.d_ff)
        self.proj = nn.Linear(c.d_ff, c.d_model)

    def forward(self, x):
        return self.proj(F.gelu(self.up(x), approximate="tanh"))


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean x^2 + eps) * weight, arXiv 1910.07467, eq. 4."""

    def forward(self, x):
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return RMSNormCPU.apply(x, self.weight, self.eps)


def norm(c):
    if c.arch == "llama":
        return RMSNorm(c.d_model, eps=c.norm_eps or 1e-6)
    return nn.LayerNorm(c.d_model, eps=c.norm_eps or 1e-5)


class Block(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        self.norm1 = norm(c)
        self.attn = Attention(c, layer)
        self.norm2 = norm(c)
        self.mlp = SwiGLU(c) if c.arch == "llama" else GELU(c)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x, rope, cache):
        x = x + self.drop(self.attn(self.norm1(x), rope, cache))
        return x + self.drop(self.mlp(self.norm2(x)))


# ---------------------------------------------------------------- the language model

class LM(nn.Module):
    """A language model. forward: ids (B, T) -> hidden states after the last norm (B, T, d).

    Raises ValueError if the sizes do not fit, or a GPT-2 input is longer than block_size.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        c = self.config = config
        if c.arch not in ("llama", "gpt2"):
            raise ValueError(f"arch is {c.arch!r}; allowed: llama, gpt2")
        head_dim, rest = divmod(c.d_model, c.n_head)
        if rest or c.arch == "llama" and head_dim % 2:
            raise ValueError(f"d_model {c.d_model} does not split into {c.n_head} heads of an even "
                             "size")
        if c.n_head % (c.n_kv_head or c.n_head):
            raise ValueError(f"n_kv_head {c.n_kv_head} does not divide n_head {c.n_head}")
        self.embed = nn.Embedding(c.vocab_size, c.d_model)
        self.positions = nn.Embedding(c.block_size, c.d_model) if c.arch == "gpt2" else None
        self.drop = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.n_layer))
        self.norm = norm(c)
        self.head = nn.Linear(c.d_model, c.vocab_size, bias=False)

        # as Hugging Face transformers initialises them
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if c.arch == "gpt2":  # projections into the residual stream are scaled by its additions
            for name, p in self.named_parameters():
                if name.endswith("proj.weight"):
                    nn.init.normal_(p, std=0.02 / math.sqrt(2 * c.n_layer))
        if c.tie or c.arch == "gpt2":  # input and output embeddings are one matrix
            self.head.weight = self.embed.weight
        if c.arch == "llama":  # buffers move with .to(device); the config has them: not saved
            cos, sin = rope_table(head_dim, c.block_size, c.rope_theta, c.rope_scaling)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        start = 0 if cache is None else cache.pos
        end = start + ids.shape[1]
        x = self.embed(ids)  # (B, T, d)
        rope = None
        c = self.config
        if self.positions is not None:
            if end > c.block_size:
                raise ValueError(f"{end} tokens are longer than this GPT-2's block_size "
                                 f"{c.block_size}")
            x = x + self.positions.weight[start:end]
        else:
            if end > self.cos.shape[0]:  # longer than the model was trained on: the angles go on
                cos, sin = rope_table(self.cos.shape[1], 2 * end, c.rope_theta, c.rope_scaling)
                self.cos, self.sin = cos.to(ids.device), sin.to(ids.device)
            rope = self.cos[start:end], self.sin[start:end]  # (T, head_dim)

        x = self.drop(x)
        for block in self.blocks:
            x = block(x, rope, cache)
        if cache is not None:
            cache.pos = end
        return self.norm(x)  # not logits: the loss computes those a chunk at a time

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., d) -> (..., V)."""
        return self.head(hidden)

    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def flops(self, T):
        """Return the operations per token of a forward pass over T tokens; training takes thrice.

        Matrix products only, as PaLM counts MFU (arXiv 2204.02311, appendix B).
        """
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return 2 * weights + 4 * T * self.config.d_model * self.config.n_layer

    def stepper(self, batch, length):
        """Return a function: the next ids (B, n) of texts -> logits (B, V) for the token after.

        Its cache has room for `length` tokens. On a CPU this is fp32 at least, because attention
        with one query per row takes three times as long there in bf16.
        """
        kind = self.embed.weight.device.type
        dtype = self.embed.weight.dtype
        if kind == "cpu":
            dtype = torch.promote_types(dtype, torch.float32)
        elif torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        cache = KVCache(self.config, batch, length, self.embed.weight.device, dtype)

        def step(ids):
            return self.logits(self.forward(ids, cache)[:, -1])  # forward: not the compiled one
        return step

    @torch.no_grad()
    def generate(self, ids: torch.Tensor, n: int, temperature=1.0, top_k=0, top_p=1.0,
                 generator=None, stop=-1) -> torch.Tensor:
        """Continue ids (B, T) by up to n sampled tokens: (B, T + n).

        It ends early once every row has produced `stop`, and fills finished rows up with it.
        The caller chooses train or eval mode.
        """
        B, T = ids.shape
        step = self.stepper(B, T + n)
        done = torch.zeros(B, dtype=torch.bool, device=ids.device)
        new = ids
        for _ in range(n):
            new = sample(step(new).float(), temperature, top_k, top_p, generator)  # (B, 1)
            new = new.masked_fill(done[:, None], stop)
            done |= new[:, 0] == stop
            ids = torch.cat([ids, new], dim=1)
            if stop >= 0 and done.all():  # without a stop a GPU need not wait for the answer
                break
        return ids


def sample(logits, temperature=1.0, top_k=0, top_p=1.0, generator=None):
    """Draw one token per row from logits (B, V): (B, 1).

    temperature 0 takes the most likely token; top_k > 0 keeps the k most likely; top_p < 1 keeps
    the smallest set of tokens with probability p or more.
    """
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    z = logits / temperature
    if top_k > 0:
        kth = z.topk(min(top_k, z.shape[-1])).values[:, -1:]
        z = z.masked_fill(z < kth, -math.inf)
    if top_p < 1:
        sorted_z, order = z.sort(dim=-1, descending=True)
        p = sorted_z.softmax(-1)
        drop = p.cumsum(-1) - p >= top_p  # the mass before reaches top_p
        drop[:, 0] = False
        z = z.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)
    return torch.multinomial(z.softmax(-1), 1, generator=generator)


# ---------------------------------------------------------------- the same numbers, faster on a CPU

def attend_bf16_cpu(q, k, v, dropout):
    """`attend` by plain products: torch's kernel takes twice the time for short texts in bf16."""
    (B, H, T, head_dim), S = q.shape, k.shape[2]
    bias = torch.full((T, S), -math.inf, dtype=q.dtype).triu(1 + S - T).expand(B * H, T, S)
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    z = torch.baddbmm(bias, q, k.mT, alpha=head_dim**-0.5)
    return (F.dropout(z.softmax(-1), dropout) @ v).view(B, H, T, head_dim)


class RMSNormCPU(torch.autograd.Function):
    """`RMSNorm` uncompiled: autograd's form stores more and makes more passes."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        full = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=full)
        rstd = norm.square().div(x.shape[-1]).add(eps).rsqrt()
        ctx.save_for_backward(x, weight, rstd)
        return (x * rstd).mul_(weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        # y = w x r with r = rstd: dL/dx = r w g - x r^3 / d sum(w g x), dL/dw = sum of g x r
        x, weight, rstd = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            gx = g.to(rstd.dtype) * x
            w = weight.to(rstd.dtype)
            d_weight = gx.flatten(0, -2).T @ rstd.flatten()
            shrink = (gx @ w)[..., None] * rstd**3 / x.shape[-1]
            d_x = torch.mul(x, -shrink, out=gx).addcmul_(g * w, rstd.expand_as(gx))
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None
