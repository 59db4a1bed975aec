"""The loss: its value and gradients are the textbook formula's, whatever the chunk, the padding or the micro-batches."""
import math

import pytest
import torch
import torch.nn.functional as F

from losses import DIVERGENCES, LOG_FLOOR, distillation_loss

N, V, D, DT = 23, 37, 8, 12


def inputs(dtype=torch.float64, teachers=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, V, (N,), generator=g)
    labels[::5] = -100
    return draw(N, D), draw(V, D), [draw(N, DT) for _ in range(teachers)], [draw(V, DT) for _ in range(teachers)], labels


def materialised(h, W, h_ps, W_ps, labels, divergence, tau, alpha, mix, ensemble="logits", factor=1):
    """The formula with full (N, V) tensors and autograd through all of it, rows selected one by one."""
    rows = [i for i in range(len(labels)) if labels[i] != -100]
    ce, d = 0, 0
    for i in rows:
        z = h[i] @ W.T
        ce = ce - F.log_softmax(z, -1)[labels[i]]
        q = (z / tau).softmax(-1)
        zs = [h_p[i] @ W_p.T for h_p, W_p in zip(h_ps, W_ps)]
        p = (torch.stack(zs).mean(0) / tau).softmax(-1) if ensemble == "logits" else torch.stack(
            [(z / tau).softmax(-1) for z in zs]).mean(0)
        target = mix * p + (1 - mix) * q.detach()
        a, b = (target, q) if divergence == "fkl" else (q, target)
        d = d + (a * (a.log() - b.log())).sum()
    return alpha * ce / len(rows) + (1 - alpha) * tau**2 * factor * d / len(rows)


@pytest.mark.parametrize("divergence", list(DIVERGENCES))
@pytest.mark.parametrize("tau,alpha,mix", [(1.0, 0.0, 1.0), (2.0, 0.5, 1.0), (0.7, 0.3, 0.4), (2.0, 1.0, 1.0)])
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_equals_the_materialised_loss(divergence, tau, alpha, mix, chunk):
    h, W, h_ps, W_ps, labels = inputs()
    results = []
    for f in (lambda h, W: distillation_loss(h, W, h_ps, W_ps, labels, divergence=divergence, tau=tau, alpha=alpha,
                                             mix=mix, chunk=chunk),
              lambda h, W: materialised(h, W, h_ps, W_ps, labels, divergence, tau, alpha, mix)):
        a, b = h.clone().requires_grad_(), W.clone().requires_grad_()
        loss = f(a, b)
        (3 * loss).backward()  # a factor from outside, as gradient scaling brings
        results.append((loss.detach(), a.grad, b.grad))
    for ours, theirs in zip(*results):
        assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("divergence", list(DIVERGENCES))
def test_gradient_by_finite_differences(divergence):
    h, W, h_ps, W_ps, labels = inputs()
    f = lambda h, W: distillation_loss(h, W, h_ps, W_ps, labels, divergence=divergence, tau=1.5, alpha=0.3, chunk=5)
    assert torch.autograd.gradcheck(f, (h.requires_grad_(), W.requires_grad_()))


@pytest.mark.parametrize("ensemble", ["logits", "probs"])
def test_ensembles(ensemble):
    h, W, h_ps, W_ps, labels = inputs(teachers=3)
    ours = distillation_loss(h, W, h_ps, W_ps, labels, tau=2.0, alpha=0.5, ensemble=ensemble, chunk=6)
    assert abs(ours - materialised(h, W, h_ps, W_ps, labels, "rkl", 2.0, 0.5, 1.0, ensemble)) < 1e-12
    same = distillation_loss(h, W, [h_ps[0]] * 2, [W_ps[0]] * 2, labels, ensemble=ensemble)
    assert abs(same - distillation_loss(h, W, h_ps[0], W_ps[0], labels)) < 1e-12


def test_sequence_is_baby_llamas_batchmean():
    """KLDivLoss(batchmean) on (B, T, V): the sum over all positions over B."""
    g = torch.Generator().manual_seed(1)
    h, h_p = torch.randn(3, 5, D, generator=g).double(), torch.randn(3, 5, DT, generator=g).double()
    W, W_p = torch.randn(V, D, generator=g).double(), torch.randn(V, DT, generator=g).double()
    labels = torch.randint(0, V, (3, 5), generator=g)
    theirs = F.kl_div(F.log_softmax(h @ W.T / 2, -1), F.softmax(h_p @ W_p.T / 2, -1), reduction="batchmean") * 4
    ours = distillation_loss(h, W, h_p, W_p, labels, divergence="fkl", tau=2.0, reduction="sequence")
    assert abs(ours - theirs) < 1e-12
    token = distillation_loss(h, W, h_p, W_p, labels, divergence="fkl", tau=2.0)
    assert abs(ours - 5 * token) < 1e-12
    with pytest.raises(ValueError, match="needs T"):
        distillation_loss(h.flatten(0, 1), W, h_p.flatten(0, 1), W_p, labels.flatten(), reduction="sequence")


def test_padding_and_micro_batches_change_nothing():
    h, W, h_ps, W_ps, labels = inputs()
    f = lambda rows, **k: distillation_loss(h[rows], W, h_ps[0][rows], W_ps, labels[rows], alpha=0.5, tau=2.0, **k)
    whole, valid = f(slice(None)), labels != -100
    assert abs(whole - f(valid)) < 1e-14
    n = int(valid.sum())
    assert abs(whole - sum(f(slice(i, i + 6), counts=n) for i in range(0, N, 6))) < 1e-14


def test_no_teacher_is_cross_entropy():
    h, W, _, _, labels = inputs()
    assert abs(distillation_loss(h, W, None, None, labels) - F.cross_entropy(h @ W.T, labels)) < 1e-12


@pytest.mark.parametrize("divergence", list(DIVERGENCES))
def test_zero_at_equality_and_finite_at_extremes(divergence):
    g = torch.Generator().manual_seed(0)
    z = 5 * torch.randn(6, V, generator=g, dtype=torch.float64)
    log = F.log_softmax(z, -1)
    assert DIVERGENCES[divergence](log, log).abs().max() < 1e-12
    assert (DIVERGENCES[divergence](log, log.roll(1, 0)) > 0).all()
    eye = 1e4 * torch.eye(V)[:N]  # one-hot teacher and student that disagree
    W, labels = torch.eye(V), torch.zeros(N, dtype=torch.long)
    for student, teacher in ((eye, eye.roll(1, 1)), (eye.roll(1, 1), -eye), (0 * eye, eye)):
        h = student.clone().requires_grad_()
        loss = distillation_loss(h, W, teacher, None, labels, divergence=divergence)
        loss.backward()
        assert loss.isfinite() and h.grad.isfinite().all()
    one_hot = distillation_loss(0 * eye, W, eye, None, labels, divergence="rkl")
    uniform_to_one_hot = -math.log(V) - LOG_FLOOR * (V - 1) / V  # every wrong token costs the floor, not infinity
    assert abs(one_hot - uniform_to_one_hot) < 1e-3


def test_stats_and_autocast():
    h, W, h_ps, W_ps, labels = inputs(torch.float32)
    loss, stats = distillation_loss(h, W, h_ps, W_ps, labels, alpha=0.25, tau=2.0, return_stats=True)
    assert abs(loss - (0.25 * stats["ce"] + 0.75 * 4 * stats["divergence"])) < 1e-4
    valid = labels != -100
    for name, z in (("entropy_q", h @ W.T), ("entropy_p", h_ps[0] @ W_ps[0].T)):
        entropy = torch.distributions.Categorical(logits=z[valid] / 2).entropy().mean()
        assert abs(stats[name] - entropy) < 1e-5
    a, b = h.clone().requires_grad_(), h.clone().requires_grad_()
    distillation_loss(a, W, h_ps, W_ps, labels, tau=2.0, alpha=0.5).backward()
    with torch.autocast("cpu", torch.bfloat16):
        low = distillation_loss(b, W, h_ps, W_ps, labels, tau=2.0, alpha=0.5)
    low.backward()
    assert low.dtype == torch.float32 and b.grad.dtype == torch.float32
    assert (a.grad - b.grad).norm() < 2e-2 * a.grad.norm() and not torch.equal(a.grad, b.grad)


def test_no_full_logits_are_alive():
    """The largest tensor made on the way is a chunk of logits, not (N, V)."""
    from torch.utils._python_dispatch import TorchDispatchMode
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    n, v = 512, 1000
    h, W = torch.randn(n, D).requires_grad_(), torch.randn(v, D).requires_grad_()
    with Watch():
        distillation_loss(h, W, torch.randn(n, DT), torch.randn(v, DT), torch.zeros(n, dtype=torch.long), chunk=64).backward()
    assert 64 * v in sizes and max(sizes) < 2 * 64 * v


def test_words_not_known_are_refused():
    h, W, h_ps, W_ps, labels = inputs()
    for name in ("divergence", "ensemble", "reduction"):
        with pytest.raises(ValueError, match=f"{name} is 'nonsense'; allowed"):
            distillation_loss(h, W, h_ps, W_ps, labels, **{name: "nonsense"})
