"""The distillation loss between a teacher p and a student q, on three pages.

    L = alpha CE + (1 - alpha) tau^2 D(q_tau, target)
    target = mix p_tau + (1 - mix) q_tau,  q held fixed in it
    p_tau = softmax(z_p / tau),  q_tau = softmax(z_q / tau)

Page 1, the divergences D, each as in its paper. `rkl` is this project's.
Page 2, `plain_loss`: the whole loss on full logits. This is the definition. `TopK`: a teacher that
is asked once, stored, and read many times.
Page 3, `distillation_loss`: the same by chunks of positions, as training computes it. Skip it until
you need it.

This file imports nothing of the project: copy it alone. To add a divergence, add one function of
(log_q, log_p) to DIVERGENCES; autograd takes its gradient.
"""
import dataclasses
import functools
import inspect
import math
import os
import re
import shutil
import typing
import warnings

import torch
import torch.nn.functional as F

LOG_FLOOR = -100.0  # of log p inside D: reverse KL to a teacher that says "never" would be infinite
IGNORE = -100       # the label of a position without a loss

# A divergence's parameter in [0, 1]; one without this annotation may be any number.
Share = typing.NewType("Share", float)


# ================================================================ page 1: the divergences
# log q, log p (..., V) -> (...)

def fkl(log_q, log_p):
    """Forward KL, KL(p||q): charges the student for lacking mass where the teacher has it."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def rkl(log_q, log_p):
    """Reverse KL, KL(q||p): charges the student for mass where the teacher has little."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def sym(log_q, log_p, l: Share = 0.5):
    """l KL(p||q) + (1 - l) KL(q||p)."""
    return l * fkl(log_q, log_p) + (1 - l) * rkl(log_q, log_p)


def jsd(log_q, log_p, b: Share = 0.5):
    """b KL(p||M) + (1 - b) KL(q||M), M = b p + (1 - b) q (GKD, arXiv 2306.13649, eq. 1).

    b = 0 and b = 1 are forward and reverse KL, the limits of jsd / b and jsd / (1 - b).
    """
    # at the ends M is p or q, and jsd itself would be 0
    if b == 0:
        return fkl(log_q, log_p)
    if b == 1:
        return rkl(log_q, log_p)
    log_m = log_mixture(log_p, log_q, b)
    return b * fkl(log_m, log_p) + (1 - b) * rkl(log_q, log_m)


def skew_fkl(log_q, log_p, l: Share = 0.1):
    """KL(p || l p + (1 - l) q) (DistiLLM, arXiv 2402.03898, eq. 3)."""
    return fkl(log_mixture(log_p, log_q, l), log_p)


def skew_rkl(log_q, log_p, l: Share = 0.1):
    """KL(q || (1 - l) p + l q) (DistiLLM, arXiv 2402.03898)."""
    return rkl(log_q, log_mixture(log_p, log_q, 1 - l))


def tvd(log_q, log_p):
    """Total variation, sum |p - q| / 2 (arXiv 2307.15190); of first order in z_q - z_p."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def akl(log_q, log_p, mu: Share = 0.5):
    """Adaptive KL (arXiv 2404.02657): forward KL if the gap is in p's head, reverse if in the tail.

    Head: p's first token and those with cumulative p <= mu. With g = sum |p - q| over each, held
    fixed: (g_head KL(p||q) + g_tail KL(q||p)) / (g_head + g_tail).
    """
    with torch.no_grad():
        p, order = log_p.exp().sort(dim=-1, descending=True)
        gap = (p - log_q.exp().gather(-1, order)).abs()
        head = p.cumsum(-1) <= mu
        head[..., 0] = True
        g_head = (gap * head).sum(-1)
        g_all = gap.sum(-1)
        # if p = q any share will do, for D is 0; the clamp keeps nan out of the gradient
        tiny = torch.finfo(gap.dtype).tiny
        share = torch.where(g_all > 0, g_head / g_all.clamp_min(tiny), 0.5)
    return share * fkl(log_q, log_p) + (1 - share) * rkl(log_q, log_p)


def log_mixture(log_a, log_b, share):
    """log(share a + (1 - share) b); share: a number in [0, 1], or a tensor inside (0, 1)."""
    # a compiled graph has the share as a tensor: a number would be compiled into it
    if isinstance(share, torch.Tensor):
        return torch.logaddexp(log_a + share.log(), log_b + (-share).log1p())
    if share == 1:
        return log_a
    if share == 0:
        return log_b
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def fkl_gradient(log_q, log_p):
    """fkl (n,) and the gradient to the logits, q sum(p) - p; overwrites arguments."""
    d = fkl(log_q, log_p)
    p = exp_(log_p)
    q = exp_(log_q)
    return d, q.mul_(p.sum(-1, keepdim=True)).sub_(p)


def rkl_gradient(log_q, log_p):
    """rkl (n,) and the gradient to the logits, q (log q - log p - rkl); overwrites arguments."""
    ratio = log_q - log_p
    q = exp_(log_q)
    d = (q * ratio).sum(-1, keepdim=True)
    return d[:, 0], ratio.sub_(d).mul_(q)


DIVERGENCES = {f.__name__: f for f in (fkl, rkl, sym, jsd, skew_fkl, skew_rkl, tvd, akl)}
FORWARD_KL = ("sym", 1), ("jsd", 0), ("skew_fkl", 0)  # these are fkl by another name

# Training takes these gradients in closed form, because autograd needs more passes over (n, V).
# If you change a formula above, delete the entry here; `closed_gradient` refuses a mismatch.
CLOSED_GRADIENTS = {fkl: fkl_gradient, rkl: rkl_gradient}


@functools.cache
def closed_gradient(divergence):
    """The divergence's function in CLOSED_GRADIENTS, or None; checked once per process.

    Raises ValueError if it does not give the formula's value and gradient.
    """
    closed = CLOSED_GRADIENTS.get(divergence)
    if closed is None:
        return None
    # any logits will do, as long as they are the same in every process
    z = torch.linspace(0, 9, 24, dtype=torch.float64).sin().view(2, 3, 4)
    z_q = z[0].requires_grad_()
    log_p = z[1].log_softmax(-1).detach()
    with torch.enable_grad():
        d = divergence(z_q.log_softmax(-1), log_p)
        gradient, = torch.autograd.grad(d.sum(), z_q)
    closed_d, closed_grad = closed(z_q.detach().log_softmax(-1), log_p.clone())
    if not (torch.allclose(d, closed_d) and torch.allclose(gradient, closed_grad)):
        raise ValueError(f"{divergence.__name__}: its line in CLOSED_GRADIENTS is not the gradient "
                         "of its formula any more; delete that line, autograd's is then taken")
    return closed


@functools.cache
def parse(divergence):
    """"jsd(0.5)" -> a function of (log_q, log_p). Raises ValueError for one that is not allowed."""
    match = re.fullmatch(r"(\w+)(?:\((.+)\))?", divergence)
    try:
        function = DIVERGENCES[match[1]]
        numbers = [float(number) for number in (match[2] or "").split(",") if match[2]]
        given = inspect.signature(function).bind(None, None, *numbers)  # as many as it takes
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except (TypeError, LookupError, ValueError):
        raise ValueError(f"divergence is {divergence!r}; allowed: {', '.join(DIVERGENCES)}, with a "
                         "parameter as in 'jsd(0.5)'") from None
    for name, number in given.arguments.items():
        is_share = given.signature.parameters[name].annotation is Share
        if is_share and not 0 <= number <= 1:
            raise ValueError(f"divergence is {divergence!r}; {name} must be in [0, 1]")
    if not numbers:
        return function
    return lambda log_q, log_p: function(log_q, log_p, *numbers)


def check(divergence, tau, alpha, mix, ensemble, reduction, step_weights):
    """Raise ValueError for an unknown word or a number out of range."""
    parse(divergence)
    for name, word, allowed in (("ensemble", ensemble, ("logits", "probs")),
                                ("reduction", reduction, ("token", "sequence", "step"))):
        if word not in allowed:
            raise ValueError(f"{name} is {word!r}; allowed: {', '.join(allowed)}")
    for name, value, low, high in (("tau", tau, 1e-6, math.inf), ("alpha", alpha, 0, 1),
                                   ("mix", mix, 0, 1)):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value!r}; allowed: {low} to {high}")
    name, *numbers = re.findall(r"[^(,)]+", divergence)
    if mix < 1 and (name == "fkl" or (name, *map(float, numbers)) in FORWARD_KL):
        raise ValueError(f"mix is {mix} under {divergence}, forward KL: the gradient is mix times "
                         "the plain one; set alpha instead")
    linear_weights(step_weights, 2)


# ================================================================ page 2: the loss, plainly

def plain_loss(z_q: torch.Tensor, z_ps: list, labels: torch.Tensor, divergence="rkl", tau=1.0,
               alpha=0.0, mix=1.0, ensemble="logits") -> torch.Tensor:
    """The loss at the top of this file, by autograd: the definition that training follows.

    z_q: the student's logits (N, V). z_ps: a list of the teachers', or of one TopK. labels (N,),
    -100 at positions without a loss. Returns a scalar, the mean over the valid positions.
    """
    # positions without a loss are dropped first: their logits may be anything
    valid = labels != IGNORE
    log_q = F.log_softmax(z_q[valid] / tau, -1)
    z_ps = [z_p[valid] for z_p in z_ps]
    if is_top_k(z_ps):
        log_q = with_remainder(log_q, z_ps[0].ids)
        log_p = z_ps[0].log_probs(log_q.dtype)
    else:
        log_p = teacher_log_probs(z_ps, tau, ensemble).clamp_min(LOG_FLOOR)
    # q in the target is a constant: with a gradient this would be skew_rkl
    target = log_mixture(log_p, log_q.detach(), mix)
    d = parse(divergence)(log_q, target).mean()
    # CE stays at tau 1: it is about the data, not about the teacher
    ce = F.cross_entropy(z_q[valid], labels[valid])
    return alpha * ce + (1 - alpha) * temperature_factor(divergence, tau) * d


def teacher_log_probs(z_ps, tau, ensemble):
    """log p_tau (n, V) from the mean of the teachers' logits, or from the mean of their p_tau."""
    if len(z_ps) == 1 and isinstance(tau, float) and tau == 1:  # a division by 1 is a pass too
        return log_softmax(shifted(z_ps[0]))
    if len(z_ps) == 1 or ensemble == "logits":  # a mean of logits is a geometric mean of the p's
        return log_softmax(shifted(functools.reduce(torch.add, z_ps) / (len(z_ps) * tau)))
    # a mean of probabilities is a mixture: it has every teacher's modes
    log_ps = torch.stack([log_softmax(shifted(z_p / tau)) for z_p in z_ps])
    return log_ps.logsumexp(0) - math.log(len(z_ps))


@dataclasses.dataclass
class TopK:
    """A teacher at n positions: the k most likely tokens, and the remainder as one more.

    ids (n, k) int64; log_p (n, k + 1): log p_tau of these tokens and, last, of all the others
    together. D then compares p and q on these k + 1. By the data processing inequality that is a
    lower bound of D on all V tokens, exact at k = V - 1 (akl is no f-divergence: there it is an
    estimate). Without the remainder reverse KL would take mass away from the k. A TopK is used like
    a teacher: called with rows it gives theirs.
    """
    ids: torch.Tensor
    log_p: torch.Tensor

    def __getitem__(self, rows):
        return TopK(self.ids[rows], self.log_p[rows])

    __call__ = __getitem__

    def log_probs(self, dtype):
        """log p_tau (n, k + 1), renormalised after rounding to 16 bits."""
        return log_softmax(self.log_p.to(dtype)).clamp_min(LOG_FLOOR)


def top_k(log_p, k):
    """The TopK of log p_tau (n, V), 0 < k < V; of an ensemble that is the mixture's."""
    ids = log_p.topk(k).indices
    return TopK(ids, with_remainder(log_p, ids))


def with_remainder(z, ids):
    """z (n, V), logits or log-probabilities, at ids (n, k) and for the remainder: (n, k + 1)."""
    remainder = z.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)
    return torch.cat([z.gather(1, ids), remainder], 1)


def is_top_k(teachers):
    """Is this one TopK, instead of functions or logits? Raises ValueError for one among several."""
    stored = [isinstance(teacher, TopK) for teacher in teachers]
    if any(stored) and len(stored) > 1:
        raise ValueError("a TopK must be the only teacher: it holds the mixture of several")
    return any(stored)


def temperature_factor(divergence, tau):
    """tau^2 keeps the size of D's gradient at any tau (Hinton, arXiv 1503.02531); for tvd tau."""
    return tau if divergence == "tvd" else tau**2


def linear_weights(step_weights, T, **kind):
    """(T,) weights, linear from the first of step_weights to the last, of mean 1; None: all 1."""
    step_weights = step_weights or (1.0, 1.0)
    if len(step_weights) != 2 or min(step_weights) < 0 or sum(step_weights) <= 0:
        raise ValueError(f"step_weights is {step_weights!r}; allowed: two numbers >= 0, not both 0")
    return torch.linspace(*step_weights, T, **kind) * (2 / sum(step_weights))


# ================================================================ page 3: the same by chunks
# No (N, V) tensor ever exists: logits and their gradient are computed for one chunk of positions at
# a time. From the outside in: the loss, the walk over the chunks, the terms of a chunk.

def head(h, W):
    """Make a teacher for the loss from hidden states h (..., d) and a head W (V, d).

    It is a function: rows (a slice of the positions) -> logits (n, V). The products run in the
    ambient autocast's dtype; h and W are cast to it here, once.
    """
    dtype = product_dtype(h)
    h = h.reshape(-1, h.shape[-1]).to(dtype)
    W = W.to(dtype)
    return lambda rows: h[rows] @ W.T


def distillation_loss(h: torch.Tensor, W: torch.Tensor, teachers: list, labels: torch.Tensor, *,
                      divergence="rkl", tau=1.0, alpha=0.0, mix=1.0, ensemble="logits",
                      reduction="token", step_weights=None, T=None, counts=None,
                      ignore_index=IGNORE, chunk=None, return_stats=False):
    """alpha CE + (1 - alpha) tau^2 D (tau for tvd) from hidden states; gradients to h and W.

    h: (N, d) or (B, T, d), the student's last hidden states. W: (V, d), the head.
    teachers: a list of functions, rows (a slice of the N or B T positions) -> logits (n, V), as
        `head` makes them; several are an ensemble; none: cross-entropy alone. Or a list of one TopK
        that holds all the positions, made at this tau.
    labels: (N,) or (B, T), ignore_index at positions without a loss.
    divergence: a name in DIVERGENCES, with a parameter as in "jsd(0.5)".
    tau, alpha, mix: as at the top of this file (mix: arXiv 2410.22081).
    ensemble: the mean of the teachers' "logits" (arXiv 2308.02019) or of their "probs".
    reduction, of D only; CE is a mean over valid positions. "token": so is D. "sequence": that
        times T, Baby Llama's batchmean on (B, T, V) (arXiv 2308.02019). "step": the mean over the
        time steps of each step's own mean, weighted by step_weights, two numbers: linear from the
        first step to the last, scaled to mean 1.
    T: the longest block of the run, for "sequence"; default labels.shape[1].
    counts: valid positions of the whole optimiser step, so that micro-batches add up: a number, or
        (T,) for "step"; default: the valid positions of these labels.
    chunk: positions per chunk (default `chunk_size`).

    Follows the ambient autocast: products in its dtype, softmax and sums in fp32. Returns the
    scalar loss; with return_stats (loss, stats), detached means of "ce" and, with teachers,
    "divergence" (before tau^2 and reduction), "entropy_q", "entropy_p", all at tau, and for "step"
    "per_step" (T,). With a TopK they are over its k + 1 tokens; "mass_q", "mass_p": of the k.
    """
    check(divergence, tau, alpha, mix, ensemble, reduction, step_weights)
    steps = labels.shape[1] if labels.dim() == 2 else None
    T = T or steps
    if reduction == "step" and not steps or reduction == "sequence" and not T:
        raise ValueError(f"reduction {reduction!r} on (N, d) needs (B, T, d), or T if it is "
                         "'sequence'")
    valid = labels != ignore_index
    ce_weight = d_weight = valid.to(torch.promote_types(h.dtype, torch.float32))

    # n, the positions of the whole step, divides the sum once, at the very end
    counts = step_counts(counts, d_weight, reduction)
    n = counts.sum().clamp_min(1)

    # the weights of a position in the sum: alpha's share, temperature and reduction are in them
    if teachers:
        ce_weight = alpha * ce_weight
    d_weight = d_weight * position_weights(reduction, counts, step_weights, T)
    d_weight = d_weight * ((1 - alpha) * temperature_factor(divergence, tau))

    form = Form(parse(divergence), ensemble, with_ce=not teachers or alpha > 0 or return_stats,
                with_entropies=return_stats, at_tau_1=tau == 1, mixed=mix < 1)
    labels = labels.masked_fill(~valid, IGNORE)
    total, terms = weighted_loss(h, W, teachers, labels, (ce_weight, d_weight), form, tau, mix,
                                 chunk)
    loss = total * (1 / n)
    if not return_stats:
        return loss
    stats = {name: term.sum() / n for name, term in terms.items()}
    if not teachers:
        return loss, {"ce": stats["ce"]}
    if reduction == "step":
        stats["per_step"] = terms["divergence"].view(-1, steps).sum(0) / counts.clamp_min(1)
    return loss, stats


def step_counts(counts, valid, reduction):
    """The valid positions of the whole step, by default those of this call: 0-d; (T,) for "step".

    valid: 1 at a valid position, 0 at others. All stays on the device: a GPU is never waited for.
    """
    own = valid.sum(0) if reduction == "step" else valid.sum()
    counts = own if counts is None else torch.as_tensor(counts, dtype=own.dtype, device=own.device)
    if counts.shape != own.shape:
        raise ValueError(f"counts has shape {tuple(counts.shape)}; allowed: a number, or (T,) for "
                         "reduction 'step'")
    return counts


def position_weights(reduction, counts, step_weights=None, T=None):
    """The weight of D at a position, before the division by all positions: a number or (T,).

    counts: the valid positions of the whole step, (T,) under "step".
    """
    if reduction == "token":
        return 1.0
    if reduction == "sequence":
        return T
    # all the weight goes to the time steps that have positions (a rollout's prompt has none)
    weights = linear_weights(step_weights, len(counts), dtype=counts.dtype, device=counts.device)
    weights = weights * (counts > 0)
    share = weights / weights.sum().clamp_min(1e-6)
    return share * counts.sum() / counts.clamp_min(1)


@dataclasses.dataclass(frozen=True)
class Form:
    """The terms to compute for a chunk: fixed for all chunks of a call and for a compiled graph."""
    divergence: object = rkl      # a function of (log_q, log_p)
    ensemble: str = "logits"
    with_ce: bool = True
    with_entropies: bool = False
    at_tau_1: bool = True
    mixed: bool = False           # mix < 1
    # weighted_loss sets the rest
    with_gradient: bool = False
    closed: object = None         # a function of CLOSED_GRADIENTS; None: autograd
    padded: bool = True           # there may be positions without a loss


def weighted_loss(h, W, teachers, labels, weights, form, tau=1.0, mix=1.0, chunk=None):
    """The sum over positions of ce_weight CE + d_weight D, with gradients to h and W.

    h (..., d), labels (...) with IGNORE; weights: (ce_weight, d_weight), each (...), 0 at IGNORE.
    Returns the sum and the terms {"ce", "divergence", "entropy_q", "entropy_p"}, with a TopK also
    "mass_q" and "mass_p", each (N,): their values at every position, 0 if form does not ask.
    """
    h = h.reshape(-1, h.shape[-1])
    labels = labels.reshape(-1)
    weights = torch.stack([weight.reshape(-1) for weight in weights])  # (2, N)
    valid = labels != IGNORE
    N, V, kind = len(labels), len(W), h.device.type
    # the closed forms are for the teacher's own distribution
    closed = None if form.mixed else closed_gradient(form.divergence)
    form = dataclasses.replace(
        form, with_gradient=torch.is_grad_enabled() and (h.requires_grad or W.requires_grad),
        closed=closed, padded=kind != "cpu" or not valid.all())  # on a GPU all() would wait
    if form.padded:  # hidden states there may be anything, nan too
        h = h.masked_fill(~valid[:, None], 0)

    # tensors, not numbers: a schedule that changes them every step must not compile again
    scalars = [torch.full((), x, dtype=weights.dtype, device=h.device) for x in (tau, mix)]
    chunk = chunk or chunk_size(N, V, kind)
    terms, cached = functools.partial(chunk_terms, form=form), 2**19
    if form.with_gradient and path(kind, N, V) == "compiled":
        terms, cached = compiled_terms(form), 2**21
    block = chunk
    if kind == "cpu":  # the logits of so many rows stay in a processor's cache
        block = max(1, cached // V)
    total, values = ChunkedLoss.apply(h, W, teachers, labels, weights, scalars, terms, chunk,
                                      block, form.with_gradient)
    names = "ce", "divergence", "entropy_q", "entropy_p", "mass_q", "mass_p"
    return total, dict(zip(names, values.masked_fill(~valid, 0)))


class ChunkedLoss(torch.autograd.Function):
    """The walk over the chunks. It computes the gradient on the way, from the logits at hand.

    Backward only scales it. The gradient is that of the sum, not divided by the number of
    positions: its entries are of order one, safe in fp16 too.
    """

    @staticmethod
    def forward(ctx, h, W, teachers, labels, weights, scalars, terms, chunk, block, with_gradient):
        dtype = product_dtype(h)
        full = weights.dtype
        W_low = W.to(dtype)
        if with_gradient:  # fp32 sums over the chunks, whatever the products run in
            grad_h, grad_W = (torch.empty_like(x, dtype=full) for x in (h, W))
            ctx.save_for_backward(grad_h, grad_W)
        values = weights.new_empty(4 + 2 * is_top_k(teachers), len(labels))
        # all chunks share one buffer of logits: fresh memory would have to be paged in each time
        logits = h.new_empty(min(chunk, len(labels)), len(W), dtype=dtype)

        # the dtypes below are explicit: autocast would cast the products' arguments once more
        with torch.autocast(h.device.type, enabled=False):
            for start in range(0, len(labels), chunk):
                rows = slice(start, start + chunk)
                h_rows = h[rows].to(dtype)
                z_q = torch.mm(h_rows, W_low.T, out=logits[:len(h_rows)])  # (n, V)
                z_ps = [teacher(rows) for teacher in teachers]
                same_vocabulary(z_q, z_ps)
                # the elementwise part goes over the logits several times, a cache's worth at once
                for i in range(0, len(z_q), block):
                    part = slice(i, i + block)
                    here = slice(start + i, min(start + i + block, start + len(z_q)))
                    values[:, here] = terms(z_q[part], [z_p[part] for z_p in z_ps], labels[here],
                                            weights[:, here], *scalars)
                del z_ps  # or two chunks' would be in memory at once
                if not with_gradient:
                    continue
                dz = z_q  # terms overwrote it by the gradient to the logits
                if dtype == full:  # in place; a low-precision product needs a cast
                    torch.mm(dz, W_low, out=grad_h[rows])
                    grad_W.addmm_(dz.T, h_rows, beta=min(start, 1))  # the first chunk fills it
                else:
                    grad_h[rows] = dz @ W_low
                    add = grad_W.add_ if start else grad_W.copy_
                    add(dz.T @ h_rows)
            total = weights[0] @ values[0] + weights[1] @ values[1]
        ctx.mark_non_differentiable(values)
        return total, values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _):
        return *(saved * grad for saved in ctx.saved_tensors), *[None] * 8


def product_dtype(x):
    """The dtype of matrix products: the ambient autocast's, or x's own."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def same_vocabulary(z_q, z_ps):
    for z_p in z_ps:
        if not isinstance(z_p, TopK) and z_p.shape != z_q.shape:
            raise ValueError(f"a teacher gives logits {tuple(z_p.shape)} where the student's are "
                             f"{tuple(z_q.shape)}: both need the same positions and vocabulary")


def chunk_size(N, V, kind="cpu"):
    """Positions per chunk: about 4M logits, 16 MB in fp32, and about 64 chunks at most.

    On a GPU 32M, because it waits for the launches of each chunk. It depends on the sizes and the
    kind of device alone, so that results do not depend on the machine.
    """
    logits = {"cuda": 2**25}.get(kind, 2**22)
    return max(16, max(logits // V, N // 64) // 16 * 16)


# ---------------------------------------------------------------- the terms of a chunk

def chunk_terms(z_q, z_ps, labels, weights, tau, mix, form):
    """CE, D, entropy of q_tau and of p_tau (4, n) from logits z_q and each of z_ps (n, V).

    With a TopK in z_ps also the mass of its k tokens in q and in p: (6, n). labels (n,); weights
    (2, n) of CE and D; tau and mix: 0-d tensors. With form.with_gradient z_q is overwritten by the
    gradient of ce_weight CE + d_weight D to it.
    """
    logits = z_q
    # sums over V in fp32, whatever the products ran in
    z_q = shifted(z_q.to(weights.dtype))
    ce = d = entropy_q = entropy_p = z_q.new_zeros(len(z_q))
    masses = []
    gradient = None

    # CE, at tau 1; the gradient to the logits is q, minus 1 at the label (below, with the rest)
    if form.with_ce or form.at_tau_1:
        log_q = log_softmax(z_q)
    if form.with_ce:
        ce = -log_q.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        if form.with_gradient:
            gradient = exp(log_q).mul_(weights[0, :, None])

    # D, at tau, on all V tokens, or on the top k and the remainder
    if z_ps:
        if not form.at_tau_1:
            log_q = z_q / tau  # not normalised yet
        top = z_ps[0] if is_top_k(z_ps) else None
        if top:
            log_p = top.log_probs(weights.dtype)
            log_q, shares = top_k_of_student(log_q, top.ids)
            masses = [-log[:, -1].expm1() for log in (log_q, log_p)]
        else:
            log_p = floored_log_p(z_ps, labels, weights.dtype, tau, form)
            if not form.at_tau_1:
                log_q = log_softmax(log_q)
        if form.with_entropies:
            entropy_q, entropy_p = (-(log.exp() * log).sum(-1) for log in (log_q, log_p))

        # value and gradient together, while log q and log p are in a cache
        if form.with_gradient:
            d, d_gradient = divergence_and_gradient(log_q, log_p, mix, form)
            d_gradient.mul_((weights[1] / tau)[:, None])  # it was to z_q / tau
            if top:
                d_gradient = spread(d_gradient, shares, top.ids)
            gradient = d_gradient if gradient is None else gradient.add_(d_gradient)
        else:
            d = mixed_divergence(log_q, log_p, mix, form)

    if form.with_gradient:
        if form.with_ce:
            gradient = subtract_at_label(gradient, labels, weights[0])
        logits.copy_(gradient)  # low precision rounds it here, and nowhere before
    return torch.stack([ce, d, entropy_q, entropy_p, *masses])


def subtract_at_label(gradient, labels, weight):
    """Subtract weight (n,) from gradient (n, V) at each row's label; weight is 0 at IGNORE.

    It must come before the gradient is rounded: if the student is sure, q is near 1, and q - 1
    would keep only the rounding error. It overwrites gradient.
    """
    labels = labels.clamp_min(0)[:, None]
    if torch.compiler.is_compiling():  # a comparison stays in the fused loop
        here = torch.arange(gradient.shape[1], device=gradient.device) == labels
        return torch.where(here, gradient - weight[:, None], gradient)
    return gradient.scatter_add_(1, labels, -weight[:, None])


def floored_log_p(z_ps, labels, dtype, tau, form):
    """log p_tau (n, V), at least LOG_FLOOR; the logits may be nan at positions without a loss."""
    z_ps = [z_p.to(dtype) for z_p in z_ps]
    if form.at_tau_1:
        tau = 1.0  # as a number: teacher_log_probs then divides by nothing
    log_p = teacher_log_probs(z_ps, tau, form.ensemble).clamp_min_(LOG_FLOOR)
    if form.padded:
        log_p.masked_fill_((labels == IGNORE)[:, None], 0)
    return log_p


def top_k_of_student(z, ids):
    """log q (n, k + 1), as `with_remainder`, from logits z (n, V), which it overwrites.

    Also the shares of all tokens in the remainder, a softmax (n, V) that is 0 at ids.
    """
    # without the k tokens the softmax of the rest gives their shares and their total at once
    z_k = z.gather(1, ids)
    z = z.scatter_(1, ids, -math.inf)
    largest = z.amax(1, keepdim=True)
    shares = exp_(z.sub_(largest))
    total = shares.sum(1, keepdim=True)
    return log_softmax(torch.cat([z_k, largest + total.log()], 1)), shares.div_(total)


def spread(gradient, shares, ids):
    """Turn a gradient to these k + 1 logits into one to all V; overwrites the shares (n, V)."""
    return shares.mul_(gradient[:, -1:]).scatter_(1, ids, gradient[:, :-1])


def mixed_divergence(log_q, log_p, mix, form):
    """D (n,) of q against mix p + (1 - mix) q, with the target's q held fixed."""
    if form.mixed:
        log_p = log_mixture(log_p, log_q.detach(), mix)
    return form.divergence(log_q, log_p)


def divergence_and_gradient(log_q, log_p, mix, form):
    """D (n,) and the gradient of sum D to the logits behind log_q (n, V); overwrites both."""
    if form.closed:
        return form.closed(log_q, log_p)
    if torch.compiler.is_compiling():  # one fused graph; run eagerly it is slower than autograd
        d, vjp = torch.func.vjp(lambda log_q: mixed_divergence(log_q, log_p, mix, form), log_q)
        gradient = vjp(torch.ones_like(d))[0]
    else:
        log_q = log_q.detach().requires_grad_()
        with torch.enable_grad():
            d = mixed_divergence(log_q, log_p, mix, form)
            gradient = torch.autograd.grad(d.sum(), log_q)[0]
    q = exp_(log_q.detach())
    # through log_softmax: g - q sum(g)
    return d.detach(), gradient.addcmul_(q, gradient.sum(-1, keepdim=True), value=-1)


def shifted(z):
    """Subtract each row's maximum if compiled: then several log_softmax share that one pass."""
    if torch.compiler.is_compiling():
        return z - z.amax(-1, keepdim=True)
    return z


def log_softmax(z):
    """log softmax over V of shifted logits."""
    if torch.compiler.is_compiling():  # written out, the fused loop keeps two numbers per row
        return z - z.exp().sum(-1, keepdim=True).log()
    return F.log_softmax(z, -1)


def exp(log):
    """exp as a power of 2: torch's exp on a CPU can take three times as long."""
    return log.mul(1 / math.log(2)).exp2_()


def exp_(log):
    """`exp` in place."""
    return log.mul_(1 / math.log(2)).exp2_()


# ---------------------------------------------------------------- eager or compiled

mode = "auto"  # "eager" or "compiled" overrules `path`


def path(kind, N, V):
    """How the terms of N positions and V tokens run on a kind of device: "compiled" or "eager".

    Compiling takes seconds, so it pays from 2^24 logits on.
    """
    if mode != "auto":
        return mode
    if N * V >= 2**24 and can_compile(kind):
        return "compiled"
    return "eager"


@functools.cache
def can_compile(kind):
    """Try torch.compile: it needs a C++ compiler on a CPU, Triton on a GPU."""
    if kind not in ("cpu", "cuda"):
        return False
    if kind == "cpu" and not shutil.which(os.environ.get("CXX") or "g++"):
        return False
    # whether a tool chain works shows only when it is used
    try:
        x = torch.ones(2, 3, device=kind)
        f = torch.compile(lambda x: F.log_softmax(x, -1).exp(), dynamic=True)
        return bool((f(x).sum() - 2).abs() < 1e-3)
    except Exception as e:  # whatever a broken tool chain raises
        warnings.warn(f"the loss runs uncompiled: torch.compile fails here ({type(e).__name__})")
        return False


@functools.cache
def compiled_terms(form):
    """chunk_terms of this form as one fused graph; sizes are dynamic, so it compiles once."""
    dynamo = torch._dynamo.config
    # the limit counts across forms, and a run needs several: training, validation, rollouts
    dynamo.recompile_limit = max(64, dynamo.recompile_limit)
    return torch.compile(functools.partial(chunk_terms, form=form), dynamic=True)
