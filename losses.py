"""The distillation loss: a family of divergences between teacher p and student q, and one chunked loss around them.

    L = alpha CE + (1 - alpha) tau^2 D(p_tau, q_tau)        p_tau = softmax(z_p / tau), q_tau = softmax(z_q / tau)

First page: the divergences, each the line it is in its paper. Then the loss of one chunk of positions with its gradient,
the walk over the chunks, and `distillation_loss`. Imports nothing of the project; copy it alone. Adding a divergence is
adding one function of (log_q, log_p) to DIVERGENCES; its gradient is autograd's.
"""
import functools
import inspect
import math
import os
import re
import shutil
import warnings

import torch
import torch.nn.functional as F

LOG_FLOOR = -100.0  # of log p inside D: reverse KL to a teacher that says "never" would otherwise be infinite


# ---------------------------------------------------------------- divergences: log q, log p (..., V) -> (...)

def fkl(log_q, log_p):
    """Forward KL, KL(p||q) = sum p (log p - log q): charges the student for lacking mass where the teacher has it."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def rkl(log_q, log_p):
    """Reverse KL, KL(q||p) = sum q (log q - log p): charges the student for mass where the teacher has little."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def sym(log_q, log_p, l=0.5):
    """l KL(p||q) + (1 - l) KL(q||p)."""
    return l * fkl(log_q, log_p) + (1 - l) * rkl(log_q, log_p)


def jsd(log_q, log_p, b=0.5):
    """Generalised Jensen-Shannon, b KL(p||M) + (1 - b) KL(q||M), M = b p + (1 - b) q (GKD, arXiv 2306.13649, eq. 1).

    b = 0 and b = 1 are forward and reverse KL by definition, the limits of jsd / b and jsd / (1 - b).
    """
    if b in (0, 1):
        return rkl(log_q, log_p) if b else fkl(log_q, log_p)
    log_m = log_mixture(log_p, log_q, b)
    return b * fkl(log_m, log_p) + (1 - b) * rkl(log_q, log_m)


def skew_fkl(log_q, log_p, l=0.1):
    """KL(p || l p + (1 - l) q) (DistiLLM, arXiv 2402.03898, eq. 3)."""
    return fkl(log_mixture(log_p, log_q, l), log_p)


def skew_rkl(log_q, log_p, l=0.1):
    """KL(q || (1 - l) p + l q) (DistiLLM, arXiv 2402.03898)."""
    return rkl(log_q, log_mixture(log_p, log_q, 1 - l))


def tvd(log_q, log_p):
    """Total variation, sum |p - q| / 2 (arXiv 2307.15190). Scaled by tau, not tau^2: it is of first order in z_q - z_p."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def akl(log_q, log_p, mu=0.5):
    """Adaptive KL (arXiv 2404.02657): forward KL where the gap lies in p's head, reverse KL where it lies in the tail.

    Head: p's first token and those with cumulative p <= mu. With g = sum |p - q| over each, held fixed:
    (g_head KL(p||q) + g_tail KL(q||p)) / (g_head + g_tail).
    """
    with torch.no_grad():
        p, order = log_p.exp().sort(dim=-1, descending=True)
        gap = (p - log_q.exp().gather(-1, order)).abs()
        head = p.cumsum(-1) <= mu
        head[..., 0] = True
        g_head, g_all = (gap * head).sum(-1), gap.sum(-1)
        share = torch.where(g_all > 0, g_head / g_all.clamp_min(torch.finfo(gap.dtype).tiny), 0.5)  # p = q: D is 0 anyway
    return share * fkl(log_q, log_p) + (1 - share) * rkl(log_q, log_p)


def log_mixture(log_a, log_b, share):
    """log(share a + (1 - share) b); share: a number in [0, 1], or a tensor."""
    if not isinstance(share, torch.Tensor):
        if share in (0, 1):
            return log_a if share else log_b
        return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))
    return torch.logaddexp(log_a + share.log(), log_b + (-share).log1p())


DIVERGENCES = {f.__name__: f for f in (fkl, rkl, sym, jsd, skew_fkl, skew_rkl, tvd, akl)}
# What tau^2 D becomes of as tau grows is curvature x |z_q - z_p|^2 / 2V (centred): the slope of D's gradient at p = q.
# 1 where nothing stands here; `unit_curvature` divides by it, so that the same alpha means the same pull.
CURVATURE = {"jsd": lambda b: b * (1 - b) if 0 < b < 1 else 1.0, "skew_fkl": lambda l: (1 - l) ** 2,
             "skew_rkl": lambda l: (1 - l) ** 2, "tvd": lambda: 0.0}  # tvd has a kink there, and no slope


@functools.cache
def parse(divergence):
    """"jsd(0.5)" -> (function of (log_q, log_p), curvature). Raises ValueError for an unknown name or parameter."""
    name, _, number = divergence.removesuffix(")").partition("(")
    if not re.fullmatch(r"\w+(\(\d*\.?\d+(e-?\d+)?\))?", divergence) or name not in DIVERGENCES:
        raise ValueError(f"divergence is {divergence!r}; allowed: {', '.join(DIVERGENCES)}, with a parameter as in 'jsd(0.5)'")
    function, curvature = DIVERGENCES[name], CURVATURE.get(name, lambda *_: 1.0)
    parameters = list(inspect.signature(function).parameters.values())[2:]
    if not parameters:
        if number:
            raise ValueError(f"divergence is {divergence!r}; {name} has no parameter")
        return function, curvature()
    value = float(number) if number else parameters[0].default
    if not 0 <= value <= 1:
        raise ValueError(f"divergence is {divergence!r}; {name}'s {parameters[0].name} lies in [0, 1]")
    return lambda log_q, log_p: function(log_q, log_p, value), curvature(value)


def pull(divergence, mix=1.0, mix_grad=False):
    """The curvature of D against the target mix p + (1 - mix) q: what `unit_curvature` divides by.

    Raises ValueError where it is 0: tvd, mix 0, a skew of 1.
    """
    check_mix(divergence, mix, mix_grad)
    slope = parse(divergence)[1] * (mix**2 if mix_grad else mix)
    if slope == 0:
        raise ValueError(f"unit_curvature: {divergence} with mix {mix} has no curvature at p = q to divide by")
    return slope


def check_mix(divergence, mix, mix_grad):
    if mix < 1 and not mix_grad and divergence == "fkl":
        raise ValueError(f"mix is {mix} under fkl: without mix_grad its gradient is mix times the plain one; set alpha instead")


# ---------------------------------------------------------------- one chunk: values and gradient to the logits

def shifted(z):
    """z less its largest, where what follows is compiled: log_softmax at several temperatures then looks for it once."""
    return z - z.amax(-1, keepdim=True) if torch.compiler.is_compiling() else z


def log_softmax(z):
    """log of softmax over V of shifted logits."""
    if torch.compiler.is_compiling():  # written out, so that the fused loop keeps two numbers a row and no (n, V) buffer
        return z - z.exp().sum(-1, keepdim=True).log()
    return F.log_softmax(z, -1)


def exp_(log):
    """exp in place, by way of 2^x: the exp that torch calls on a CPU can take three times as long, fresh memory adds to it."""
    return log.mul_(1 / math.log(2)).exp2_()


def teacher_log_probs(z_ps, tau, ensemble):
    """log p_tau (n, V) of one or several teachers' logits: of their mean (geometric mean of the p's), or of the p's mean."""
    if len(z_ps) == 1 or ensemble == "logits":
        return log_softmax(shifted(functools.reduce(torch.add, z_ps) / (len(z_ps) * tau)))
    return torch.stack([log_softmax(shifted(z / tau)) for z in z_ps]).logsumexp(0) - math.log(len(z_ps))


def fkl_gradient(log_q, log_p):
    """fkl (n,) and its gradient to the logits, q sum(p) - p: what autograd finds, in fewer passes. Overwrites its arguments."""
    d, p, q = fkl(log_q, log_p), exp_(log_p), exp_(log_q)
    return d, q.mul_(p.sum(-1, keepdim=True)).sub_(p)


def rkl_gradient(log_q, log_p):
    """rkl (n,) and its gradient to the logits, q (log q - log p - rkl). Overwrites its arguments."""
    ratio, q = log_q - log_p, exp_(log_q)
    d = (q * ratio).sum(-1, keepdim=True)
    return d[:, 0], ratio.sub_(d).mul_(q)


CLOSED_FORM = {fkl: fkl_gradient, rkl: rkl_gradient}


def rows_and_gradient(rows, log_q):
    """rows: log_q (n, V) -> D (n,). Returns D and the gradient of its sum to the logits behind log_q. Overwrites log_q."""
    if torch.compiler.is_compiling():  # one fused graph of value and gradient; run eagerly it is slower than autograd
        d, back = torch.func.vjp(rows, log_q)
        gradient = back(torch.ones_like(d))[0]
    else:
        log_q = log_q.detach().requires_grad_()
        with torch.enable_grad():
            d = rows(log_q)
            gradient = torch.autograd.grad(d.sum(), log_q)[0]
    return d.detach(), gradient.addcmul_(exp_(log_q.detach()), gradient.sum(-1, keepdim=True), value=-1)  # through log_softmax


def chunk_terms(z_q, z_ps, labels, ce_weight, d_weight, tau, mix, *, divergence, ensemble, with_ce, with_gradient,
                with_entropies, tau_is_1, mixed, mix_grad, masked):
    """z_q and each of z_ps (n, V), labels and the weights of CE and D (n,), tau and mix scalars; divergence: a function.

    Returns CE, D, entropy of q_tau and of p_tau (4, n), 0 where it was not asked for. With with_gradient z_q is
    overwritten by the gradient of ce_weight CE + d_weight D to it, without the -1 of CE at the label, which the caller
    subtracts.
    """
    logits, full = z_q, torch.promote_types(z_q.dtype, torch.float32)
    z_q, z_ps = shifted(z_q.to(full)), [z.to(full) for z in z_ps]
    ce = d = entropy_q = entropy_p = z_q.new_zeros(len(z_q))
    dz = None
    log_q = log_softmax(z_q) if with_ce or tau_is_1 else None
    if with_ce:
        ce = -log_q.gather(1, labels[:, None])[:, 0]
        if with_gradient:
            dz = exp_(log_q.clone() if tau_is_1 else log_q).mul_(ce_weight[:, None])
    if z_ps:
        log_p = teacher_log_probs(z_ps, tau, ensemble)
        if masked:  # what the caller has ruled out is out in both; both sides get the same floor there, so it adds 0 to D
            out = ~(log_p > -math.inf)  # also nan, where all is ruled out
            log_q = log_softmax(shifted((z_q / tau).masked_fill(out, torch.finfo(full).min / 2))).masked_fill(out, LOG_FLOOR)
            log_p = log_p.masked_fill(out, LOG_FLOOR)
        elif not tau_is_1:
            log_q = log_softmax(z_q / tau)
        log_p = log_p.clamp_min_(LOG_FLOOR)

        def rows(log_q):
            if not mixed:
                return divergence(log_q, log_p)
            return divergence(log_q, log_mixture(log_p, log_q if mix_grad else log_q.detach(), mix))

        if with_entropies:
            entropy_q, entropy_p = (-(log.exp() * log).sum(-1) for log in (log_q, log_p))
        if with_gradient:
            closed = None if mixed else CLOSED_FORM.get(divergence)
            d, gradient = closed(log_q, log_p) if closed else rows_and_gradient(rows, log_q)
            gradient.mul_((d_weight / tau)[:, None])
            dz = gradient if dz is None else dz.add_(gradient)
        else:
            d = rows(log_q)
    if with_gradient:
        logits.copy_(dz)
    return torch.stack([ce, d, entropy_q, entropy_p])


# ---------------------------------------------------------------- the compiled form of the same chunk

mode = "auto"  # set to "eager" or "compiled" to overrule `path`


@functools.cache
def can_compile(kind):
    """Is there what torch.compile needs on this kind of device: a C++ compiler on a CPU, Triton on a GPU? It is tried."""
    if kind not in ("cpu", "cuda") or kind == "cpu" and not shutil.which(os.environ.get("CXX") or "g++"):
        return False
    try:
        x = torch.ones(2, 3, device=kind)
        return bool((torch.compile(lambda x: F.log_softmax(x, -1).exp(), dynamic=True)(x).sum() - 2).abs() < 1e-3)
    except Exception as e:  # whatever a broken tool chain raises
        warnings.warn(f"the loss runs uncompiled: torch.compile does not work here ({type(e).__name__})")
        return False


def path(kind, N, V):
    """"compiled" or "eager": how the elementwise part of a loss over N positions and V tokens runs on a device's kind.

    Compiling takes seconds, so it is done where there is enough to win: from 2^24 logits on (4096 x 4096).
    """
    if mode != "auto":
        return mode
    return "compiled" if N * V >= 2**24 and can_compile(kind) else "eager"


@functools.cache
def compiled_terms(statics):
    """chunk_terms with these keywords, fused by torch.compile; sizes are left open, so that it compiles once."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # it counts across keywords
    keywords = dict(statics)
    return torch.compile(lambda *tensors: chunk_terms(*tensors, **keywords), dynamic=True)


# ---------------------------------------------------------------- the walk over the chunks

def chunk_size(N, V):
    """Positions a chunk: some 4M logits, 16 MB in fp32, which a processor's cache holds; at most 64 chunks a call.

    From N and V alone, so that results do not depend on the machine.
    """
    return max(16, max(2**22 // V, N // 64) // 16 * 16)


class ChunkedLoss(torch.autograd.Function):
    """Walks over chunks of positions, logits and gradient of one chunk at a time: no (N, V) tensor ever exists.

    The gradient is computed here, in the forward pass, while a chunk's logits are at hand; backward only scales it.
    Returns the loss and what was found a position: CE, D, entropy of q, of p, (4, N), 0 where it was not asked for.
    """

    @staticmethod
    def forward(ctx, h_q, W_q, h_ps, W_ps, labels, valid, ce_weight, d_weight, scale, tau, mix, chunk, statics):
        need_h, need_W = ctx.needs_input_grad[:2]
        N, kind = len(labels), h_q.device.type
        # Under autocast the products run in its dtype, cast once; softmax and sums stay in fp32 (fp64 if that came in).
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        product, full = low or h_q.dtype, torch.promote_types(h_q.dtype, torch.float32)
        terms, block = functools.partial(chunk_terms, **statics), max(1, 2**19 // W_q.shape[0])
        if statics["with_gradient"] and path(kind, N, W_q.shape[0]) == "compiled":
            terms, block = compiled_terms(tuple(statics.items())), max(1, 2**21 // W_q.shape[0])
        block = block if kind == "cpu" else chunk  # rows at a time, for a processor's cache; no row sees another
        new = functools.partial(torch.zeros, dtype=full, device=h_q.device)
        grad_h, grad_W, found = new(h_q.shape) if need_h else None, new(W_q.shape) if need_W else None, new(4, N)
        out = ~valid[:, None]
        with torch.autocast(kind, enabled=False):
            W, Ws = W_q.to(product), [W_p if W_p is None else W_p.to(product) for W_p in W_ps]
            for i in range(0, N, chunk):
                part = slice(i, i + chunk)
                h = h_q[part].to(product).masked_fill(out[part], 0)  # what is padding may be anything, also nan
                hs = [h_p[part].masked_fill(out[part], 0) for h_p in h_ps]
                z_ps = [h_p if W_p is None else h_p.to(product) @ W_p.T for h_p, W_p in zip(hs, Ws)]  # each (chunk, V)
                z_q = h @ W.T
                for j in range(0, len(z_q), block):
                    some, at = slice(j, j + block), slice(i + j, i + min(j + block, len(z_q)))
                    found[:, at] = terms(z_q[some], [z[some] for z in z_ps], labels[at], ce_weight[at], d_weight[at], tau, mix)
                if not statics["with_gradient"]:
                    continue
                dz = z_q  # the logits have done their work
                if statics["with_ce"]:
                    dz[torch.arange(len(dz), device=dz.device), labels[part]] -= ce_weight[part].to(dz.dtype)
                # dz is not yet divided by the number of positions: its entries are of order one, safe in fp16 too.
                if need_h:
                    grad_h[part] = dz @ W
                if need_W and product == full:
                    grad_W.addmm_(dz.T, h)
                elif need_W:
                    grad_W += dz.T @ h
            loss = scale * (ce_weight @ found[0] + d_weight @ found[1])  # autocast would round this product too
        ctx.save_for_backward(*[None if g is None else g.mul_(scale) for g in (grad_h, grad_W)])
        ctx.dtypes = h_q.dtype, W_q.dtype
        ctx.mark_non_differentiable(found)
        return loss, found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _):
        grads = [None if g is None else (g * grad).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes)]
        return *grads, *[None] * 11


def weights_of_steps(step_weights, T, **kind):
    """(T,) weights from the first to the last of step_weights in a straight line, of mean 1."""
    step_weights = step_weights or (1.0, 1.0)
    if len(step_weights) != 2 or min(step_weights) < 0 or sum(step_weights) <= 0:
        raise ValueError(f"step_weights is {step_weights!r}; allowed: two numbers >= 0, not both 0")
    return torch.linspace(*step_weights, T, **kind) * (2 / sum(step_weights))


def distillation_loss(h_q, W_q, h_p, W_p, labels, *, divergence="rkl", tau=1.0, alpha=0.0, mix=1.0, mix_grad=False,
                      unit_curvature=False, ensemble="logits", reduction="token", step_weights=None, T=None, counts=None,
                      ignore_index=-100, chunk=None, return_stats=False):
    """alpha CE + (1 - alpha) tau^2 D (tau for tvd), without ever holding (N, V) logits; gradients flow to h_q and W_q.

    h_q: (N, d) or (B, T, d), the student's last hidden states. W_q: (V, d), its head.
    h_p, W_p: the teacher's alike, or lists of them (an ensemble); W_p None: h_p is the teacher's logits (..., V), and
        what is -inf there is ruled out in both. h_p None or []: cross-entropy alone.
    labels: (N,) or (B, T), ignore_index where a position does not count.
    divergence: a name in DIVERGENCES, with a parameter as in "jsd(0.5)". CE is the mean over valid positions, at tau 1.
    mix: D's target is mix p + (1 - mix) q, q held fixed unless mix_grad (arXiv 2410.22081; with it rkl is
        skew_rkl(1 - mix)).
    unit_curvature: divide D by its curvature at p = q (see `pull`).
    ensemble: the mean of the teachers' "logits" (arXiv 2308.02019) or of their "probs".
    reduction, of D only: "token" mean over valid positions; "sequence" that times T, the run's longest block: Baby
        Llama's batchmean on (B, T, V) (arXiv 2308.02019); "step" the mean over the T time steps of each step's own
        mean, weighted by step_weights, two numbers: linear from the first step to the last, scaled to mean 1.
    T: for "sequence", default h_q.shape[1].
    counts: valid positions of the whole optimiser step, so that micro-batches add up: a number, or (T,) for "step".
    chunk: positions a chunk (default `chunk_size`).
    Follows the ambient autocast: products in its dtype, softmax and sums in fp32.
    Returns the scalar loss; with return_stats (loss, dict of detached ce, divergence, per_step, entropy_q, entropy_p:
    means a position, at tau, before tau^2, curvature and reduction; per_step (T,), None for (N, d)).
    Raises ValueError for words not known, numbers out of range, and `sequence` without T or `step` on (N, d).
    """
    h_ps, W_ps = as_lists(h_p, W_p)
    for name, value, allowed in (("ensemble", ensemble, ("logits", "probs")), ("reduction", reduction, ("token", "sequence", "step"))):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    for name, value, low, high in (("tau", tau, 1e-6, math.inf), ("alpha", alpha, 0, 1), ("mix", mix, 0, 1)):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value!r}; allowed: {low} to {high}")
    check_mix(divergence, mix, mix_grad)
    if h_q.dim() != 3 and (reduction == "step" or reduction == "sequence" and T is None):
        raise ValueError(f"reduction {reduction!r} on (N, d) needs " + ("(B, T, d)" if reduction == "step" else "T, the run's longest block"))
    steps = h_q.shape[1] if h_q.dim() == 3 else None
    full = torch.promote_types(h_q.dtype, torch.float32)
    valid = labels.reshape(-1) != ignore_index
    d_weight = valid.to(full)  # D's weight a position; all is divided by n, the number of positions, at the very end
    if counts is None:  # counted on the device: a GPU is never waited for
        counts = d_weight.view(-1, steps).sum(0) if reduction == "step" else d_weight.sum()
    counts = torch.as_tensor(counts, dtype=full, device=h_q.device)
    if counts.shape != ((steps,) if reduction == "step" else ()):
        raise ValueError(f"counts has shape {tuple(counts.shape)}; allowed: a number, or (T,) for reduction 'step'")
    n = counts.sum().clamp_min(1)
    if reduction == "sequence":
        d_weight = d_weight * (T or steps)
    elif reduction == "step":
        share = weights_of_steps(step_weights, steps, dtype=full, device=h_q.device) * n / (steps * counts).clamp_min(1)
        d_weight = (d_weight.view(-1, steps) * share).view(-1)
    factor = (1 - alpha) * tau ** (1 if divergence == "tvd" else 2)
    d_weight = d_weight * (factor / pull(divergence, mix, mix_grad) if unit_curvature else factor)
    ce_weight = valid.to(full) * (alpha if h_ps else 1.0)
    loss, found, stats = walk(h_q, W_q, h_ps, W_ps, labels, valid, ce_weight, d_weight, n, divergence, tau, mix, mix_grad,
                              ensemble, not h_ps or alpha > 0 or return_stats, return_stats, chunk)
    if not return_stats:
        return loss
    per_step = found[1].view(-1, steps).sum(0) / valid.view(-1, steps).sum(0).clamp_min(1) if steps and h_ps else None
    return loss, {"per_step": per_step, **stats}


def as_lists(h_p, W_p):
    h_ps = [] if h_p is None else list(h_p) if isinstance(h_p, (list, tuple)) else [h_p]
    return h_ps, list(W_p) if isinstance(W_p, (list, tuple)) else [W_p] * len(h_ps)


def walk(h_q, W_q, h_ps, W_ps, labels, valid, ce_weight, d_weight, n, divergence, tau, mix, mix_grad, ensemble, with_ce,
         with_entropies, chunk):
    """(sum of ce_weight CE + d_weight D over all positions) / n, what was found a position (4, N), and the means of that."""
    labels, statics = labels.reshape(-1).masked_fill(~valid, 0), dict(
        divergence=parse(divergence)[0], ensemble=ensemble, with_ce=with_ce, with_entropies=with_entropies, tau_is_1=tau == 1,
        with_gradient=torch.is_grad_enabled() and (h_q.requires_grad or W_q.requires_grad), mixed=mix < 1, mix_grad=mix_grad,
        masked=None in W_ps)
    scalars = [torch.full((), x, dtype=ce_weight.dtype, device=h_q.device) for x in (tau, mix)]
    loss, found = ChunkedLoss.apply(h_q.reshape(-1, h_q.shape[-1]), W_q, [h.reshape(-1, h.shape[-1]) for h in h_ps], W_ps, labels,
                                    valid, ce_weight, d_weight, 1 / n, *scalars, chunk or chunk_size(len(labels), len(W_q)), statics)
    found = found.masked_fill(~valid, 0)
    means = (found.sum(1) / valid.sum().clamp_min(1)).unbind()
    return loss, found, dict(zip(("ce", "divergence", "entropy_q", "entropy_p"), means))


# ---------------------------------------------------------------- the sequence-level gradient

def policy_coefficients(log_q, log_p, log_s, valid, rollout_loss="single_step", length_norm=False):
    """What multiplies grad log q(y_t | y_<t) in the gradient of J = E_{y~q} [log q(y|x) - log p(y|x)], from sampled y.

    log_q, log_p, log_s (B, T): log-probabilities of the sampled tokens under student, teacher and the distribution s that
    they were drawn from; valid (B, T). With c_t = log q - log p and R_{t+1} = sum_{s>t} c_s (arXiv 2306.08543, eq. 4):
    rollout_loss "single_step" w_t R_{t+1}, the long-term part alone; "reinforce" w_t (c_t + R_{t+1}). length_norm divides
    R_{t+1} by the T - t terms it has (biased). w_t = q / s, a step: exact where s = q. The mean over the other sequences of
    the batch is taken off (a baseline: variance, no bias). Returns (B, T), 0 where not valid, and w c, whose mean estimates J
    a position.
    """
    c, w = (log_q - log_p).masked_fill(~valid, 0), (log_q - log_s).exp().masked_fill(~valid, 0)
    value = c.flip(1).cumsum(1).flip(1) - c  # R_{t+1}
    if length_norm:
        left = valid.flip(1).cumsum(1).flip(1) - valid.long()  # valid positions after t
        value = value / left.clamp_min(1)
    if rollout_loss == "reinforce":
        value = value + c
    others = (valid.sum(0) - valid.long()).clamp_min(1)
    baseline = ((value * valid).sum(0) - value * valid) / others  # of the other sequences, at the same step
    return (w * (value - baseline)).masked_fill(~valid, 0), w * c


def sequence_loss(h_q, W_q, h_p, W_p, tokens, coefficients, *, exact=True, ensemble="logits", counts=None, ignore_index=-100,
                  chunk=None, return_stats=False):
    """The sequence-level reverse KL's gradient at sampled tokens, divided by counts (arXiv 2306.08543, section 2.2):

        [exact] sum_t grad KL(q(. | y_<t) || p(. | y_<t))  +  sum_t coefficients_t grad log q(y_t | y_<t)

    h_q (B, T, d), tokens and coefficients (B, T) (`policy_coefficients`); teachers, ensemble, counts, chunk as in
    distillation_loss, tau 1 and the target unmixed. Returns a scalar whose gradient this is (its value is no objective's);
    with return_stats also a dict of detached ce, divergence, entropy_q, entropy_p: means a position. exact: True, False, or
    weights (B, T) of the first part.
    """
    h_ps, W_ps = as_lists(h_p, W_p)
    valid = tokens.reshape(-1) != ignore_index
    full = torch.promote_types(h_q.dtype, torch.float32)
    n = (valid.sum() if counts is None else torch.as_tensor(counts, device=h_q.device)).to(full).clamp_min(1)
    if exact is False and not return_stats:
        h_ps, W_ps = [], []
    d_weight = torch.as_tensor(exact, dtype=full, device=h_q.device).reshape(-1) * valid
    loss, _, stats = walk(h_q, W_q, h_ps, W_ps, tokens, valid, -coefficients.reshape(-1).to(full) * valid, d_weight, n, "rkl",
                          1.0, 1.0, False, ensemble, True, return_stats, chunk)  # CE is -log q(y_t)
    return (loss, stats) if return_stats else loss


def check(divergence, tau, alpha, mix, ensemble, reduction, step_weights):
    parse(divergence)
    weights_of_steps(step_weights, 2)
    check_mix(divergence, mix, False)
