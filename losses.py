"""The distillation loss: divergences between teacher p and student q, and one chunked loss around them.

    L = alpha CE + (1 - alpha) tau^2 D(p_tau, q_tau)        p_tau = softmax(z_p / tau), q_tau = softmax(z_q / tau)

Imports nothing of the project; copy it alone. Adding a divergence is adding one function of (log_q, log_p) to DIVERGENCES.
"""
import math

import torch
import torch.nn.functional as F

LOG_FLOOR = -100.0  # of log p inside D: reverse KL to a teacher that says "never" would otherwise be infinite


def fkl(log_q, log_p):
    """Forward KL, KL(p||q) = sum p (log p - log q): charges the student for lacking mass where the teacher has it."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def rkl(log_q, log_p):
    """Reverse KL, KL(q||p) = sum q (log q - log p): charges the student for mass where the teacher has little."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


DIVERGENCES = {"fkl": fkl, "rkl": rkl}  # name -> function of log-probabilities (..., V), (..., V) -> (...)


def teacher_log_probs(z_ps, tau, ensemble):
    """log p_tau (n, V) of one or several teachers' logits: of their mean (geometric mean of the p's), or of the p's mean."""
    if len(z_ps) == 1 or ensemble == "logits":
        log_p = F.log_softmax(sum(z_ps) / (len(z_ps) * tau), -1)
    else:
        log_p = torch.stack([F.log_softmax(z / tau, -1) for z in z_ps]).logsumexp(0) - math.log(len(z_ps))
    return log_p.clamp_min(LOG_FLOOR)


def chunk_loss(z_q, z_ps, labels, valid, ce_weight, d_weight, divergence, tau, mix, ensemble, entropies):
    """Sums over the valid positions of one chunk: z_q and each of z_ps (n, V), labels and valid (n,).

    Returns (ce_weight CE + d_weight D, what return_stats reports: CE, D, entropy of q_tau, of p_tau), each summed.
    """
    weight = valid.to(z_q.dtype)
    ce = weight @ F.cross_entropy(z_q, labels, reduction="none")
    stats = [ce.detach()] + 3 * [torch.zeros_like(ce)]
    objective = ce_weight * ce
    if z_ps:
        log_q, log_p = F.log_softmax(z_q / tau, -1), teacher_log_probs(z_ps, tau, ensemble)
        target = log_p
        if mix < 1:  # p~ = mix p + (1 - mix) q, held fixed: no gradient flows through the target
            fixed = log_q.detach()
            target = torch.logaddexp(log_p + math.log(mix), fixed + math.log1p(-mix)) if mix > 0 else fixed
        d = weight @ DIVERGENCES[divergence](log_q, target)
        objective = objective + d_weight * d
        stats[1] = d.detach()
        if entropies:
            with torch.no_grad():
                stats[2:] = [-(weight @ (log.exp() * log).sum(-1)) for log in (log_q, log_p)]
    return objective, torch.stack(stats)


class ChunkedLoss(torch.autograd.Function):
    """Walks over chunks of positions, logits and gradient of one chunk at a time: no (N, V) tensor ever exists.

    The gradient is computed here, in the forward pass, while a chunk's logits are at hand; backward only scales it.
    """

    @staticmethod
    def forward(ctx, h_q, W_q, h_ps, W_ps, labels, valid, scale, chunk, terms):
        need_h, need_W = ctx.needs_input_grad[:2]
        kind = h_q.device.type
        # Under autocast the products run in its dtype, cast once; softmax and sums stay in fp32 (fp64 if that came in).
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        product = low or h_q.dtype
        full = torch.promote_types(h_q.dtype, torch.float32)
        with torch.autocast(kind, enabled=False):
            W, Ws = W_q.to(product), [W_p if W_p is None else W_p.to(product) for W_p in W_ps]
            grad_h = torch.empty(h_q.shape, dtype=full, device=h_q.device) if need_h else None
            grad_W = torch.zeros(W_q.shape, dtype=full, device=h_q.device) if need_W else None
            loss, stats = torch.zeros((), dtype=full, device=h_q.device), 0
            for i in range(0, len(labels), chunk):
                part = slice(i, i + chunk)
                h = h_q[part].to(product)
                z_q = (h @ W.T).to(full)  # (chunk, V)
                z_ps = [(h_p[part] if W_p is None else h_p[part].to(product) @ W_p.T).to(full) for h_p, W_p in zip(h_ps, Ws)]
                with torch.enable_grad():
                    z_q.requires_grad_(need_h or need_W)
                    objective, stat = chunk_loss(z_q, z_ps, labels[part], valid[part], **terms)
                loss, stats = loss + objective.detach(), stats + stat
                if not (need_h or need_W):
                    continue
                dz = torch.autograd.grad(objective, z_q)[0].to(product)  # (chunk, V)
                # dz is not yet divided by the number of positions: its entries are of order one, safe in fp16 too.
                if need_h:
                    grad_h[part] = dz @ W
                if need_W and product == full:
                    grad_W.addmm_(dz.T, h)
                elif need_W:
                    grad_W += dz.T @ h
        ctx.save_for_backward(*[None if g is None else g.mul_(scale) for g in (grad_h, grad_W)])
        ctx.dtypes = h_q.dtype, W_q.dtype
        ctx.mark_non_differentiable(stats)
        return loss * scale, stats

    @staticmethod
    def backward(ctx, grad, _):
        grads = [None if g is None else (g * grad).to(dtype) for g, dtype in zip(ctx.saved_tensors, ctx.dtypes)]
        return *grads, None, None, None, None, None, None, None


def distillation_loss(h_q, W_q, h_p, W_p, labels, *, divergence="rkl", tau=1.0, alpha=0.0, mix=1.0, ensemble="logits",
                      reduction="token", T=None, counts=None, ignore_index=-100, chunk=None, return_stats=False):
    """alpha CE + (1 - alpha) tau^2 D, means over valid positions, without ever holding (N, V) logits.

    h_q (N, d) or (B, T, d) student's last hidden states, W_q (V, d) its head; labels (N,) or (B, T), ignore_index where
    a position does not count. h_p, W_p the teacher's alike, or lists of them (an ensemble); W_p None: h_p is the
    teacher's logits (..., V). h_p None or []: cross-entropy alone. Gradients flow to h_q and W_q.
    divergence, tau, mix, ensemble: see DIVERGENCES and DESIGN's words in README. CE is at tau 1 always.
    reduction: "token" D's mean over valid positions; "sequence" that times T, the run's longest block: Baby Llama's
    batchmean on (B, T, V) (arXiv 2308.02019). T defaults to h.shape[1].
    counts: valid positions of the whole optimiser step (default: this call's own), so that micro-batches add up.
    chunk: positions a chunk (default from N and V alone, so that results do not depend on the machine).
    Follows the ambient autocast: products in its dtype, softmax and sums in fp32.
    Returns the scalar loss; with return_stats (loss, dict of detached ce, divergence, entropy_q, entropy_p: means a
    position, divergence and entropies at tau and before tau^2 and reduction).
    Raises ValueError for an unknown divergence, ensemble or reduction, and for `sequence` without T on (N, d).
    """
    h_ps = [] if h_p is None else list(h_p) if isinstance(h_p, (list, tuple)) else [h_p]
    W_ps = list(W_p) if isinstance(W_p, (list, tuple)) else [W_p] * len(h_ps)
    for name, value, allowed in (("divergence", divergence, DIVERGENCES), ("ensemble", ensemble, ("logits", "probs")),
                                 ("reduction", reduction, ("token", "sequence"))):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    if reduction == "sequence" and T is None:
        if h_q.dim() != 3:
            raise ValueError("reduction 'sequence' on (N, d) needs T, the run's longest block")
        T = h_q.shape[1]
    flat = labels.reshape(-1)
    h_q, h_ps = h_q.reshape(-1, h_q.shape[-1]), [h.reshape(-1, h.shape[-1]) for h in h_ps]
    valid = flat != ignore_index
    full = torch.promote_types(h_q.dtype, torch.float32)
    n = valid.sum(dtype=full) if counts is None else counts  # stays on the device: a GPU never waits for it
    d_weight = (1 - alpha) * tau**2 * (T if reduction == "sequence" else 1) if h_ps else 0.0
    terms = dict(ce_weight=alpha if h_ps else 1.0, d_weight=d_weight, divergence=divergence, tau=tau, mix=mix,
                 ensemble=ensemble, entropies=return_stats)
    chunk = chunk or max(16, 2**22 // W_q.shape[0])
    loss, stats = ChunkedLoss.apply(h_q, W_q, h_ps, W_ps, flat.masked_fill(~valid, 0), valid, 1.0 / n, chunk, terms)
    if not return_stats:
        return loss
    return loss, dict(zip(("ce", "divergence", "entropy_q", "entropy_p"), (stats / valid.sum()).unbind()))
