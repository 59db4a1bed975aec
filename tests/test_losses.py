"""The loss: its value and gradients are the papers' formulas'.

Whatever the chunk, the padding or the micro-batches. Every divergence in DIVERGENCES is tested by
itself: one that is added without an ORACLE fails the first test.

    python tests/test_losses.py     prints the table of bfloat16's errors near the teacher
"""
import inspect
import math
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import losses
from losses import DIVERGENCES, LOG_FLOOR, distillation_loss, head, parse, plain_loss

N, V, D, DT = 23, 37, 8, 12
NAMES = [name + end for name, f in DIVERGENCES.items()
         for end in (("", "(0.3)") if len(inspect.signature(f).parameters) > 2 else ("",))]
def kl(a, b):
    return (a * (a / b).log()).sum()


def akl_by_hand(q, p, mu):
    order = sorted(range(len(p)), key=lambda i: -p[i])
    g = [0.0, 0.0]
    total = 0.0
    for rank, i in enumerate(order):
        total += p[i].item()
        g[0 if rank == 0 or total <= mu else 1] += abs(p[i] - q[i]).item()
    return (g[0] * kl(p, q) + g[1] * kl(q, p)) / sum(g) if sum(g) else 0 * kl(p, q)


ORACLE = {  # of probabilities q, p (V,), as the papers write them
    "fkl": lambda q, p: kl(p, q),
    "rkl": lambda q, p: kl(q, p),
    "sym": lambda q, p, l=0.5: l * kl(p, q) + (1 - l) * kl(q, p),
    "jsd": lambda q, p, b=0.5: (b * kl(p, b * p + (1 - b) * q)
                                + (1 - b) * kl(q, b * p + (1 - b) * q)),
    "skew_fkl": lambda q, p, l=0.1: kl(p, l * p + (1 - l) * q),
    "skew_rkl": lambda q, p, l=0.1: kl(q, (1 - l) * p + l * q),
    "tvd": lambda q, p: (p - q).abs().sum() / 2,
    "akl": lambda q, p, mu=0.5: akl_by_hand(q, p, mu),
}


def oracle(name):
    stem, _, number = name.removesuffix(")").partition("(")
    return lambda q, p: ORACLE[stem](q, p, *([float(number)] if number else []))


def inputs(dtype=torch.float64, teachers=1, seed=0, n=N):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, V, (n,), generator=g)
    labels[::5] = -100
    return (draw(n, D), draw(V, D), [draw(n, DT) for _ in range(teachers)],
            [draw(V, DT) for _ in range(teachers)], labels)


def materialised(h, W, h_ps, W_ps, labels, divergence="rkl", tau=1.0, alpha=0.0, mix=1.0,
                 ensemble="logits", weights=None):
    """The formula with full (N, V) tensors and autograd through all of it, row by row.

    weights: of D, a position.
    """
    rows = [i for i in range(len(labels)) if labels[i] != -100]
    ce, d = 0, 0
    for i in rows:
        z = h[i] @ W.T
        ce = ce - F.log_softmax(z, -1)[labels[i]]
        q = (z / tau).softmax(-1)
        zs = [h_p[i] @ W_p.T for h_p, W_p in zip(h_ps, W_ps)]
        p = ((torch.stack(zs).mean(0) / tau).softmax(-1) if ensemble == "logits" else
             torch.stack([(z / tau).softmax(-1) for z in zs]).mean(0))
        target = mix * p + (1 - mix) * q.detach()
        d = d + (1 if weights is None else weights[i]) * oracle(divergence)(q, target)

    scale = tau ** (1 if divergence == "tvd" else 2)
    return alpha * ce / len(rows) + (1 - alpha) * scale * d / len(rows)


def heads(h_ps, W_ps):
    return [head(h_p, W_p) for h_p, W_p in zip(h_ps, W_ps)]


def said(z_p):
    """A teacher that says these logits (..., V)."""
    return [lambda rows: z_p.reshape(-1, z_p.shape[-1])[rows]]


def value_and_gradients(f, h, W):
    a, b = (x.detach().clone().requires_grad_() for x in (h, W))
    loss = f(a, b)
    (3 * loss).backward()  # a factor from outside, as gradient scaling brings
    return loss.detach(), a.grad, b.grad


# ---------------------------------------------------------------- the formula

def test_every_divergence_has_an_oracle():
    assert set(DIVERGENCES) == set(ORACLE)


@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("tau, alpha, mix", [(1.0, 0.0, 1.0), (2.0, 0.5, 1.0), (0.7, 0.3, 0.4),
                                             (1.0, 0.3, 0.4), (2.0, 1.0, 0.0)])
@pytest.mark.parametrize("teachers, ensemble", [(1, "logits"), (2, "logits"), (2, "probs")])
def test_the_definition_is_the_formula_and_what_trains(divergence, tau, alpha, mix, teachers,
                                                       ensemble):
    """plain_loss, of full logits and autograd's gradient, equals the formula row by row.

    And distillation_loss equals it, whatever the chunk.
    """
    if divergence == "fkl" and mix < 1:
        return  # refused, see below

    h, W, h_ps, W_ps, labels = inputs(teachers=teachers)
    settings = dict(divergence=divergence, tau=tau, alpha=alpha, mix=mix, ensemble=ensemble)
    z_ps = [h_p @ W_p.T for h_p, W_p in zip(h_ps, W_ps)]
    formula = value_and_gradients(
        lambda h, W: materialised(h, W, h_ps, W_ps, labels, **settings), h, W)
    ours = [value_and_gradients(lambda h, W: plain_loss(h @ W.T, z_ps, labels, **settings), h, W)]
    ours += [value_and_gradients(
        lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, chunk=chunk, **settings),
        h, W) for chunk in (1, 7, None)]
    for one in ours:
        assert all((a - b).abs().max() < 1e-10 for a, b in zip(one, formula))


@pytest.mark.parametrize("name", losses.CLOSED_GRADIENTS)
def test_a_formula_that_is_changed_changes_training_or_is_named(monkeypatch, name):
    """A student multiplies rkl by 5, and the closed gradient no longer fits.

    The loss says which line to delete.
    """
    original = name
    name = name.__name__
    changed = lambda log_q, log_p: 5 * original(log_q, log_p)
    changed.__name__ = name
    monkeypatch.setitem(DIVERGENCES, name, changed)
    monkeypatch.setitem(losses.CLOSED_GRADIENTS, changed, losses.CLOSED_GRADIENTS[original])

    h, W, h_ps, W_ps, labels = inputs()
    f = lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, divergence=name)
    for cached in (losses.parse, losses.closed_gradient):
        cached.cache_clear()

    try:
        with pytest.raises(ValueError, match=f"{name}: its line in CLOSED_GRADIENTS"):
            value_and_gradients(f, h, W)
        monkeypatch.delitem(losses.CLOSED_GRADIENTS, changed)
        losses.closed_gradient.cache_clear()
        five = value_and_gradients(f, h, W)
    finally:
        monkeypatch.undo()
        for cached in (losses.parse, losses.closed_gradient):
            cached.cache_clear()

    for a, b in zip(five, value_and_gradients(f, h, W)):
        assert (a - 5 * b).abs().max() < 1e-12 and b.abs().max() > 1e-3


@pytest.mark.parametrize("divergence", NAMES)
def test_fp32_equals_fp64(divergence):
    found = []
    for dtype in (torch.float32, torch.float64):
        h, W, h_ps, W_ps, labels = inputs(dtype)
        found.append(value_and_gradients(lambda h, W: distillation_loss(
            h, W, heads(h_ps, W_ps), labels, divergence=divergence, tau=2.0, alpha=0.5, chunk=7),
            h, W))
    for low, exact in zip(*found):
        assert (low - exact).norm() < 2e-5 * exact.norm()


# akl holds its shares fixed
@pytest.mark.parametrize("divergence", [name for name in NAMES if not name.startswith("akl")])
def test_gradient_by_finite_differences(divergence):
    h, W, h_ps, W_ps, labels = inputs(n=7)
    f = lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, divergence=divergence,
                                       tau=1.5, alpha=0.3, chunk=5)
    assert torch.autograd.gradcheck(f, (h.requires_grad_(), W.requires_grad_()))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_jsd_is_gkds(beta):
    """TRL's generalized_jsd_loss, as published (Liger's is the same sum, by torch.lerp)."""
    log_q, log_p = two(1.0)
    kl = lambda log_a, log_b: F.kl_div(log_a, log_b, reduction="none", log_target=True).sum(-1)
    if beta in (0, 1):
        expected = kl(log_p, log_q) if beta else kl(log_q, log_p)
    else:
        b = torch.tensor(beta, dtype=log_q.dtype)
        mixture = torch.logsumexp(
            torch.stack([log_q + torch.log1p(-b), log_p + torch.log(b)]), dim=0)
        expected = b * kl(mixture, log_p) + (1 - b) * kl(mixture, log_q)
    assert (parse(f"jsd({beta})")(log_q, log_p) - expected).abs().max() < 1e-12


# ---------------------------------------------------------------- what is known of the divergences

def two(scale=2.0, seed=0, rows=6):
    g = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(rows, V, generator=g, dtype=torch.float64)).log_softmax(-1)
            for _ in range(2)]


def test_ends_of_jsd_sym_and_the_skews():
    log_q, log_p = two(1.0)
    D = lambda name: parse(name)(log_q, log_p)
    for l in (0, 1):
        assert torch.equal(D(f"jsd({l})"), D("rkl" if l else "fkl"))
        assert torch.equal(D(f"sym({l})"), D("fkl" if l else "rkl"))
        assert torch.equal(D(f"skew_fkl({l})"), D("fkl") * (1 - l))
        assert torch.equal(D(f"skew_rkl({l})"), D("rkl") * (1 - l))


@pytest.mark.parametrize("divergence", NAMES)
def test_zero_with_zero_gradient_at_equality_positive_elsewhere(divergence):
    log_q, log_p = two()
    D = parse(divergence)
    assert (D(log_q, log_p) > 0).all()
    same = log_p.clone().requires_grad_()
    d = D(same, log_p)
    gradient, = torch.autograd.grad(d.sum(), same)
    gradient = gradient - log_p.exp() * gradient.sum(-1, keepdim=True)  # back through log_softmax
    assert d.abs().max() < 1e-12 and gradient.abs().max() < 1e-12


@pytest.mark.parametrize("divergence", NAMES)
def test_a_shift_of_logits_changes_nothing(divergence):
    h, W, h_ps, W_ps, labels = inputs()
    settings = dict(divergence=divergence, tau=1.5, alpha=0.4, chunk=6)
    z_q = h @ W.T
    z_p = h_ps[0] @ W_ps[0].T
    eye = torch.eye(V, dtype=torch.float64)
    loss = distillation_loss(z_q, eye, said(z_p), labels, **settings)
    shifted = distillation_loss(z_q + 50, eye, said(z_p - 70), labels, **settings)
    assert abs(loss - shifted) < 1e-11
    # logits are as good as states and head
    assert abs(loss - distillation_loss(h, W, heads(h_ps, W_ps), labels, **settings)) < 1e-11


# ---------------------------------------------------------------- mixed targets and ensembles

@pytest.mark.parametrize("mix", [0.2, 0.9])
def test_reverse_kl_to_a_mixed_target_has_the_value_of_the_skewed_one_and_another_gradient(mix):
    """With the gradient let through the target it would be skew_rkl(1 - mix).

    That is DistiLLM's, not the paper's.
    """
    h, W, h_ps, W_ps, labels = inputs()
    of = lambda **k: value_and_gradients(
        lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, tau=2.0, **k), h, W)
    a, da, _ = of(divergence="rkl", mix=mix)
    b, db, _ = of(divergence=f"skew_rkl({1 - mix})")
    assert abs(a - b) < 1e-12 and (da - db).norm() > 0.01 * db.norm()


def test_forward_kl_to_a_mixed_target_is_alpha_in_disguise_and_refused():
    h, W, h_ps, W_ps, labels = inputs()
    for name in ("sym(1)", "sym(1.0)", "jsd(0)", "skew_fkl(0)"):  # are fkl too
        with pytest.raises(ValueError, match=re.escape(f"mix is 0.3 under {name}, forward KL")):
            losses.check(name, 1.0, 0.0, 0.3, "logits", "token", None)
        log_q, log_p = torch.randn(2, 3, V).log_softmax(-1)
        assert torch.equal(losses.parse(name)(log_q, log_p), losses.fkl(log_q, log_p))
    losses.check("sym(0.9)", 1.0, 0.0, 0.3, "logits", "token", None)
    with pytest.raises(ValueError, match="mix is 0.3 under fkl.*alpha"):
        distillation_loss(h, W, heads(h_ps, W_ps), labels, divergence="fkl", mix=0.3)
    mixed = value_and_gradients(lambda h, W: materialised(
        h, W, h_ps, W_ps, labels, divergence="fkl", mix=0.3), h, W)[1]
    plain = value_and_gradients(lambda h, W: distillation_loss(
        h, W, heads(h_ps, W_ps), labels, divergence="fkl"), h, W)[1]
    assert (mixed - 0.3 * plain).abs().max() < 1e-12  # the reason


def test_a_mixed_target_bounds_the_log_ratio():
    """Reverse KL to (1 - m) q + m p is at most -log(1 - m), whatever the teacher.

    Zero-forcing is softened.
    """
    eye = 1e4 * torch.eye(V)
    labels = torch.zeros(V, dtype=torch.long)
    for mix in (0.5, 0.9):
        loss = distillation_loss(eye, torch.eye(V), said(eye.roll(1, 1)), labels, mix=mix)
        assert abs(loss + math.log(1 - mix)) < 1e-4


@pytest.mark.parametrize("ensemble", ["logits", "probs"])
def test_a_teacher_twice_is_the_teacher(ensemble):
    h, W, h_ps, W_ps, labels = inputs()
    same = distillation_loss(h, W, heads(h_ps, W_ps) * 2, labels, ensemble=ensemble)
    assert abs(same - distillation_loss(h, W, heads(h_ps, W_ps), labels)) < 1e-12


# ---------------------------------------------------------------- reductions and micro-batches

def batch(B=3, T=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, V, (B, T), generator=g)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    return draw(B, T, D), draw(V, D), draw(B, T, DT), draw(V, DT), labels


def test_sequence_is_baby_llamas_batchmean():
    """KLDivLoss(batchmean) on (B, T, V): the sum over all positions over B."""
    h, W, h_p, W_p, labels = batch()
    theirs = F.kl_div(F.log_softmax(h @ W.T / 2, -1), F.softmax(h_p @ W_p.T / 2, -1),
                      reduction="batchmean") * 4
    ours = distillation_loss(h, W, [head(h_p, W_p)], labels, divergence="fkl", tau=2.0,
                             reduction="sequence")
    token = distillation_loss(h, W, [head(h_p, W_p)], labels, divergence="fkl", tau=2.0)
    assert abs(ours - theirs) < 1e-12 and abs(ours - 5 * token) < 1e-12
    longest = distillation_loss(h, W, [head(h_p, W_p)], labels, divergence="fkl", tau=2.0,
                                reduction="sequence", T=8)
    assert abs(longest - 8 * token) < 1e-12

    flat = (h.flatten(0, 1), W, [head(h_p, W_p)], labels.flatten())
    assert distillation_loss(*flat, reduction="sequence", T=5) > 0
    for reduction in ("sequence", "step"):
        with pytest.raises(ValueError, match=r"\(N, d\) needs"):
            distillation_loss(*flat, reduction=reduction)


def test_step_with_unit_weights_and_full_blocks_is_token():
    h, W, h_p, W_p, labels = batch()
    of = lambda **k: value_and_gradients(lambda h, W: distillation_loss(
        h, W, [head(h_p, W_p)], labels, alpha=0.3, tau=2.0, **k), h, W)
    for ours in (of(reduction="step"), of(reduction="step", step_weights=(2.0, 2.0))):
        assert all((a - b).abs().max() < 1e-12 for a, b in zip(ours, of()))


def test_step_weighs_each_steps_own_mean():
    h, W, h_p, W_p, labels = batch()
    labels[0, 3:] = labels[1, 1] = -100  # steps have 3, 2, 3, 2, 2 valid positions
    counts = torch.tensor([3, 2, 3, 2, 2])
    wanted = torch.tensor([0.5, 0.75, 1.0, 1.25, 1.5]).double()
    # `materialised` divides by all 12
    weights = (wanted * 12 / (5 * counts)).expand(3, 5).flatten()
    flat = lambda h, W: materialised(h.flatten(0, 1), W, [h_p.flatten(0, 1)], [W_p],
                                     labels.flatten(), alpha=0.3, weights=weights)
    ours = lambda h, W: distillation_loss(h, W, [head(h_p, W_p)], labels, alpha=0.3,
                                          reduction="step", step_weights=(0.5, 1.5), chunk=4)
    for a, b in zip(value_and_gradients(ours, h, W), value_and_gradients(flat, h, W)):
        assert (a - b).abs().max() < 1e-12

    loss, stats = distillation_loss(h, W, [head(h_p, W_p)], labels, reduction="step",
                                    step_weights=(0.5, 1.5), return_stats=True)
    assert abs(loss - (stats["per_step"] * wanted).mean()) < 1e-12
    parts = [distillation_loss(h[i:i + 1], W, [head(h_p[i:i + 1], W_p)], labels[i:i + 1],
                               alpha=0.3, reduction="step", step_weights=(0.5, 1.5),
                               counts=counts) for i in range(3)]
    assert abs(sum(parts) - ours(h, W)) < 1e-12  # micro-batches add up

    for wrong in ((0, 0), (-1, 1)):
        with pytest.raises(ValueError, match="step_weights"):
            distillation_loss(h, W, [head(h_p, W_p)], labels, reduction="step", step_weights=wrong)
    with pytest.raises(ValueError, match="counts has shape"):
        distillation_loss(h, W, [head(h_p, W_p)], labels, reduction="step", counts=12)


def test_padding_is_ignored_exactly_and_micro_batches_add_up():
    h, W, h_ps, W_ps, labels = inputs()
    f = lambda rows, **k: distillation_loss(h[rows], W, [head(h_ps[0][rows], W_ps[0])],
                                            labels[rows], alpha=0.5, tau=2.0, **k)
    whole = f(slice(None))
    valid = labels != -100
    assert abs(whole - f(valid)) < 1e-14
    n = int(valid.sum())
    assert abs(whole - sum(f(slice(i, i + 6), counts=n) for i in range(0, N, 6))) < 1e-14

    loss = lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, alpha=0.5, tau=2.0)
    before = value_and_gradients(loss, h, W)
    h[~valid], h_ps[0][~valid] = math.nan, math.inf  # whatever stands there
    after = value_and_gradients(loss, h, W)
    assert all(torch.equal(a, b) for a, b in zip(before, after)) and not after[1][~valid].any()
    nothing = value_and_gradients(lambda h, W: distillation_loss(
        h, W, heads(h_ps, W_ps), labels * 0 - 100, alpha=0.5), h, W)
    assert all(not x.any() for x in nothing)


def test_no_teacher_is_cross_entropy():
    h, W, _, _, labels = inputs()
    ours = value_and_gradients(lambda h, W: distillation_loss(h, W, [], labels, chunk=7), h, W)
    theirs = value_and_gradients(lambda h, W: F.cross_entropy(h @ W.T, labels), h, W)
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(ours, theirs))


def test_only_what_is_asked_for_gets_a_gradient():
    h, W, h_ps, W_ps, labels = inputs()
    h.requires_grad_()
    distillation_loss(h, W, heads(h_ps, W_ps), labels).backward()
    alone = h.grad
    assert W.grad is None
    third = value_and_gradients(lambda h, W: distillation_loss(
        h, W, heads(h_ps, W_ps), labels) / 3, h, W)[1]
    assert torch.equal(alone, third)
    with torch.no_grad():
        assert not distillation_loss(h, W, heads(h_ps, W_ps), labels).requires_grad


# ---------------------------------------------------------------- extremes

@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_finite_at_extremes(divergence, tau):
    eye = 1e4 * torch.eye(V)
    W = torch.eye(V)
    labels = torch.zeros(V, dtype=torch.long)
    never = torch.where(torch.arange(V) % 3 == 0, -math.inf, eye)  # log p is floored there
    for student, teacher in ((eye, eye.roll(1, 1)), (eye.roll(1, 1), -eye), (0 * eye, eye),
                             (eye, never), (-eye, never)):
        h = student.clone().requires_grad_()
        loss = distillation_loss(h, W, said(teacher), labels, divergence=divergence, tau=tau,
                                 alpha=0.5)
        loss.backward()
        assert loss.isfinite() and h.grad.isfinite().all()


def test_a_teacher_that_says_never_costs_the_floor():
    eye = 1e4 * torch.eye(V)
    loss = distillation_loss(0 * eye, torch.eye(V), said(eye), torch.zeros(V, dtype=torch.long),
                             divergence="rkl")
    # every wrong token costs the floor, not infinity
    assert abs(loss - (-math.log(V) - LOG_FLOOR * (V - 1) / V)) < 1e-3


def test_heads_of_two_vocabularies_are_named():
    h, W, h_ps, W_ps, labels = inputs()
    message = r"a teacher gives logits \(23, 36\) where the student's are \(23, 37\)"
    with pytest.raises(ValueError, match=message):
        distillation_loss(h, W, [head(h_ps[0], W_ps[0][1:])], labels)


# ---------------------------------------------------------------- dtypes, memory, compiling

def test_stats_and_autocast():
    h, W, h_ps, W_ps, labels = inputs(torch.float32)
    loss, stats = distillation_loss(h, W, heads(h_ps, W_ps), labels, alpha=0.25, tau=2.0,
                                    return_stats=True)
    assert abs(loss - (0.25 * stats["ce"] + 0.75 * 4 * stats["divergence"])) < 1e-4
    assert "per_step" not in stats
    valid = labels != -100
    for name, z in (("entropy_q", h @ W.T), ("entropy_p", h_ps[0] @ W_ps[0].T)):
        entropy = torch.distributions.Categorical(logits=z[valid] / 2).entropy().mean()
        assert abs(stats[name] - entropy) < 1e-5

    exact = value_and_gradients(lambda h, W: distillation_loss(
        h, W, [head(h_ps[0].double(), W_ps[0].double())], labels, tau=2.0, alpha=0.5),
        h.double(), W.double())
    with torch.autocast("cpu", torch.bfloat16):
        low = value_and_gradients(lambda h, W: distillation_loss(
            h, W, heads(h_ps, W_ps), labels, tau=2.0, alpha=0.5), h, W)
        loss, stats = distillation_loss(h, W, heads(h_ps, W_ps), labels, tau=2.0, alpha=0.5,
                                        return_stats=True)
    # the mean itself is not rounded to bf16
    assert abs(loss - (0.5 * stats["ce"] + 0.5 * 4 * stats["divergence"])) < 1e-5
    for a, b in zip(low, exact):
        assert a.dtype == torch.float32
        assert 1e-5 < (a - b).norm() / b.norm() < 1e-2  # it did run in bf16, and well enough


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_where_a_student_is_sure_bf16_does_not_cancel_its_gradient(mode, monkeypatch):
    """q - 1 at the label is taken before it is rounded: near 1 bf16 has steps of 2^-8."""
    monkeypatch.setattr(losses, "mode", mode)
    labels = torch.arange(V)
    h = 10 * torch.eye(V)  # logits 10 at the label and 0 elsewhere, exact in bf16
    W = torch.eye(V)

    def ce(h, W):
        return distillation_loss(h, W, [], labels)
    exact = value_and_gradients(ce, h.double(), W.double())
    with torch.autocast("cpu", torch.bfloat16):
        low = value_and_gradients(ce, h, W)
    assert (1 - torch.softmax(h[0], 0)[0]) < 2**-8
    for a, b in zip(low[1:], exact[1:]):
        assert (a - b).norm() < 1e-2 * b.norm()


class Operators(TorchDispatchMode):
    """Collects [(name, elements of the result)] of what a GPU would launch."""

    def __init__(self):
        super().__init__()
        self.launched = []

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        if not f.is_view and isinstance(out, torch.Tensor):
            self.launched.append((f.overloadpacket.__name__, out.numel()))
        return out


def test_no_full_logits_are_alive():
    """The largest tensor made on the way is a chunk of logits, not (N, V)."""
    n, v = 512, 1000
    h = torch.randn(n, D).requires_grad_()
    W = torch.randn(v, D).requires_grad_()
    with Operators() as mode:
        loss = distillation_loss(h, W, [head(torch.randn(n, DT), torch.randn(v, DT))],
                                 torch.zeros(n, dtype=torch.long), chunk=64)
        loss.backward()
    sizes = [size for _, size in mode.launched]
    assert 64 * v in sizes and max(sizes) < 2 * 64 * v


def test_chunks_do_not_grow_with_the_batch():
    for device in ("cpu", "cuda"):
        small, large = (losses.chunk_size(n, 16_000, device) for n in (4096, 8192))
        assert 16 <= small == large < 4096
    assert losses.chunk_size(1, 10**9) == 16


@pytest.mark.parametrize("dtype, per_chunk, in_all", [
    (torch.float32, 34, 100), (torch.bfloat16, 39, 113)])
def test_a_chunk_is_few_launches(dtype, per_chunk, in_all):
    """Uncompiled, reverse KL at tau 2 with CE; nothing as large as the head is only filled."""
    def launched(chunk):
        torch.manual_seed(0)
        h, h_p = torch.randn(2, 512, 32)
        W, W_p = torch.randn(2, 100, 32)
        h.requires_grad_()
        W.requires_grad_()
        labels = torch.randint(100, (512,))
        with Operators() as mode, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            distillation_loss(h, W, [losses.head(h_p, W_p)], labels, divergence="rkl", tau=2.0,
                              alpha=0.5, chunk=chunk).backward()
        allocate = ("empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view")
        return [(name, size) for name, size in mode.launched if name not in allocate]
    launched(512)  # the first call checks the closed gradient
    two, four = launched(256), launched(128)
    assert len(four) - len(two) <= 2 * per_chunk and len(two) <= in_all
    fills = {"clone", "fill_", "full", "full_like", "new_zeros", "zero_", "zeros", "zeros_like"}
    assert not {name for name, size in two if name in fills and size >= 100 * 32}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    dict(divergence="rkl", tau=2.0, alpha=0.5),
    dict(divergence="rkl", tau=1.0, alpha=0.0, mix=0.8),
    dict(divergence="jsd(0.3)", tau=2.0, alpha=0.5, mix=0.8),
    dict(divergence="akl", tau=1.0)], ids=str)
def test_compiled_equals_eager(settings, monkeypatch):
    if not losses.can_compile("cpu"):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    h, W, h_ps, W_ps, labels = inputs(torch.float32, teachers=2)
    # chunks of 10, 10 and 3
    f = lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, chunk=10, **settings)
    results = []
    for losses_mode in ("eager", "compiled"):
        monkeypatch.setattr(losses, "mode", losses_mode)
        results.append(value_and_gradients(f, h, W))
    for a, b in zip(*results):
        assert (a - b).norm() < 1e-5 * b.norm()


def test_without_a_compiler_it_runs_eagerly(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    losses.can_compile.cache_clear()
    try:
        assert not losses.can_compile("cpu") and not losses.can_compile("mps")
    finally:
        losses.can_compile.cache_clear()


def test_words_not_known_are_refused():
    h, W, h_ps, W_ps, labels = inputs()
    for name in ("divergence", "ensemble", "reduction"):
        with pytest.raises(ValueError, match=f"{name} is 'nonsense'; allowed"):
            distillation_loss(h, W, heads(h_ps, W_ps), labels, **{name: "nonsense"})
    for wrong in ("jsd(2)", "jsd(x)", "rkl(0.5)", "jsd(0.5", "jsd(--)", "fkl()", ""):
        with pytest.raises(ValueError, match="divergence is"):
            parse(wrong)
    for name, value in (("tau", 0.0), ("alpha", 1.5), ("mix", -0.1), ("tau", math.nan)):
        with pytest.raises(ValueError, match=f"{name} is"):
            distillation_loss(h, W, heads(h_ps, W_ps), labels, **{name: value})


def test_a_new_divergence_may_have_any_parameters(monkeypatch):
    """Renyi's has an order of any size, the alpha-beta divergence has two."""
    def renyi(log_q, log_p, order):
        return (order * log_q + (1 - order) * log_p).logsumexp(-1) / (order - 1)

    def scaled(log_q, log_p, a=1.0, b=0.0):
        return a * losses.rkl(log_q, log_p) + b
    monkeypatch.setitem(DIVERGENCES, "renyi", renyi)
    monkeypatch.setitem(DIVERGENCES, "scaled", scaled)
    log_q, log_p = torch.randn(2, 5, 7, dtype=torch.float64).log_softmax(-1)
    order_2 = (log_q.exp()**2 / log_p.exp()).sum(-1).log()
    torch.testing.assert_close(parse("renyi(2)")(log_q, log_p), order_2)
    torch.testing.assert_close(parse("scaled(-3, 0.5)")(log_q, log_p),
                               0.5 - 3 * losses.rkl(log_q, log_p))
    for wrong in ("renyi(2, 3)", "renyi(nan)", "renyi()", "renyi(2", "scaled(1,)"):
        with pytest.raises(ValueError, match="divergence is"):
            parse(wrong)


# ---------------------------------------------------------------- bfloat16 near the teacher

def errors_near_the_teacher(name, distance, dtype):
    """D, and the relative errors of its gradients to h and W against fp64, in `dtype`'s products.

    The student's states are the teacher's plus `distance` of noise, their heads are the same.
    """
    generator = torch.Generator().manual_seed(0)
    h_p, noise, W = (torch.randn(n, 32, generator=generator, dtype=torch.float64) / 2
                     for n in (512, 512, 300))
    labels = torch.zeros(512, dtype=torch.long)

    def loss(h, W):
        teacher = head(h_p.to(h.dtype), W.detach())
        return distillation_loss(h, W, [teacher], labels, divergence=name)
    exact = value_and_gradients(loss, h_p + distance * noise, 2 * W)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        low = value_and_gradients(loss, (h_p + distance * noise).float(), 2 * W.float())
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(low[1:], exact[1:])]
    return exact[0].item(), *errors


@pytest.mark.parametrize("name", NAMES)
def test_near_the_teacher_bfloat16_loses_the_gradient_and_fp32_does_not(name):
    """The gradient lives on log q - log p, and bf16 rounds both: the error is 1 / distance.

    (tvd's is of the sign of p - q: rounding turns it over where the two are close.)
    """
    first_order = name == "tvd"
    for distance, bound in ((0.03, 0.45), (0.1, 0.15), (0.3, 0.06)):
        _, *errors = errors_near_the_teacher(name, distance, "bfloat16")
        assert max(errors) < (0.6 if first_order else bound), (distance, errors)
        _, *errors = errors_near_the_teacher(name, distance, "float32")
        assert max(errors) < 1e-3, (distance, errors)


def test_reverse_kl_loses_no_more_than_forward_kl():
    """Near the teacher the two are the same to second order, and so are their errors."""
    for distance in (0.03, 0.1, 0.3):
        rkl, fkl = (errors_near_the_teacher(name, distance, "bfloat16")[1:]
                    for name in ("rkl", "fkl"))
        for one, other in zip(rkl, fkl):
            assert one < 1.25 * other


if __name__ == "__main__":
    print("| | " + " | ".join(f"distance {x}" for x in (0.03, 0.1, 0.3)) + " |")
    for NAME in ("fkl", "rkl", "jsd", "skew_rkl", "tvd", "akl"):
        CELLS = ["D {:.3f}, h {:.1%}, W {:.1%}".format(
            *errors_near_the_teacher(NAME, x, "bfloat16")) for x in (0.03, 0.1, 0.3)]
        print(f"| {NAME} | " + " | ".join(CELLS) + " |")
