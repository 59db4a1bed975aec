"""What is kept of a teacher: D over its k likeliest tokens and one for all others; the file."""
import math

import pytest
import torch
from test_losses import NAMES, V, heads, inputs, value_and_gradients

import losses
from losses import Stored, distillation_loss, head, plain_loss, store, teacher_log_probs

SETTINGS = [(1.0, 0.0, 1.0), (2.0, 0.5, 1.0), (0.7, 0.3, 0.4)]  # tau, alpha, mix


def kept(h_ps, W_ps, k, tau=1.0, ensemble="logits"):
    """The Stored of teachers' states and heads."""
    z_ps = [h_p @ W_p.T for h_p, W_p in zip(h_ps, W_ps)]
    return store(teacher_log_probs(z_ps, tau, ensemble), k)


# ---------------------------------------------------------------- the loss

@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("tau, alpha, mix", SETTINGS)
@pytest.mark.parametrize("k", [3, V - 1])
def test_what_trains_is_the_definition_by_autograd(divergence, tau, alpha, mix, k):
    """Value and gradients in fp64; at k = V - 1 they are those of all logits, too."""
    if divergence == "fkl" and mix < 1:
        return
    h, W, h_ps, W_ps, labels = inputs()
    settings = dict(divergence=divergence, tau=tau, alpha=alpha, mix=mix)
    stored = kept(h_ps, W_ps, k, tau)
    plain = value_and_gradients(
        lambda h, W: plain_loss(h @ W.T, [stored], labels, **settings), h, W)
    if k == V - 1:
        exact = value_and_gradients(
            lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, **settings), h, W)
        assert all((a - b).abs().max() < 1e-10 for a, b in zip(plain, exact))
    ours = value_and_gradients(
        lambda h, W: distillation_loss(h, W, [stored], labels, chunk=7, **settings), h, W)
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(ours, plain))


@pytest.mark.parametrize("divergence", ["rkl", "fkl", "jsd(0.3)"])
def test_gradient_by_finite_differences(divergence):
    h, W, h_ps, W_ps, labels = inputs(n=6)
    stored = kept(h_ps, W_ps, 2, 1.3)
    f = lambda h, W: distillation_loss(h, W, [stored], labels, divergence=divergence, tau=1.3,
                                       alpha=0.3)
    h.requires_grad_()
    W.requires_grad_()
    assert torch.autograd.gradcheck(f, (h, W), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("divergence", [name for name in NAMES if not name.startswith("akl")])
@pytest.mark.parametrize("mix", [1.0, 0.6])
def test_it_is_a_lower_bound_that_rises_with_k(divergence, mix):
    if divergence == "fkl" and mix < 1:
        return
    h, W, h_ps, W_ps, labels = inputs(n=40)
    settings = dict(divergence=divergence, tau=1.5, mix=mix)
    bounds = [distillation_loss(h, W, [kept(h_ps, W_ps, k, 1.5)], labels, **settings)
              for k in range(1, V)]
    exact = distillation_loss(h, W, heads(h_ps, W_ps), labels, **settings)
    assert all(a <= b + 1e-12 for a, b in zip(bounds, [*bounds[1:], exact]))
    assert bounds[0] < exact * 0.99  # of something


def test_the_tail_of_a_sharp_teacher_is_kept_exactly_and_16_bits_keep_it():
    """1 - sum of 16-bit p's would be nothing but their rounding; the tail is stored by itself."""
    z = torch.zeros(4, 1000, dtype=torch.float64)
    z[:, 7] = 20.0
    log_p = z.log_softmax(-1)
    stored = store(log_p, 8)
    tail = math.log(992) - math.log(999 + math.exp(20))
    assert (stored.log_p[:, -1] - tail).abs().max() < 1e-9
    half = Stored(stored.ids, stored.log_p.half()).log_probs(torch.float32)
    assert half.exp().sum(-1) == pytest.approx(torch.ones(4), abs=1e-6)
    assert (half[:, -1] - tail).abs().max() < 0.01


@pytest.mark.parametrize("ensemble", ["logits", "probs"])
def test_an_ensemble_is_stored_as_its_mixture(ensemble):
    h, W, h_ps, W_ps, labels = inputs(teachers=2)
    exact = distillation_loss(h, W, heads(h_ps, W_ps), labels, tau=2.0, ensemble=ensemble)
    stored = kept(h_ps, W_ps, V - 1, 2.0, ensemble)
    assert (distillation_loss(h, W, [stored], labels, tau=2.0) - exact).abs() < 1e-12
    with pytest.raises(ValueError, match="stands alone"):
        distillation_loss(h, W, [stored, head(h_ps[0], W_ps[0])], labels)


def test_the_masses_are_of_the_k_and_positions_that_do_not_count_have_no_part():
    h, W, h_ps, W_ps, labels = inputs()
    stored = kept(h_ps, W_ps, 3)
    loss, stats = distillation_loss(h, W, [stored], labels, return_stats=True)
    valid = labels != -100
    q = (h @ W.T).softmax(-1).gather(1, stored.ids).sum(-1)[valid].mean()
    p = stored.log_p[:, :-1].exp().sum(-1)[valid].mean()
    assert (stats["mass_q"].item(), stats["mass_p"].item()) == pytest.approx((q.item(), p.item()))

    h[~valid] = math.nan
    again, _ = distillation_loss(h, W, [stored], labels, return_stats=True)
    assert again == loss
    _, exact = distillation_loss(h, W, heads(h_ps, W_ps), labels, return_stats=True)
    assert "mass_q" not in exact


@pytest.mark.parametrize("where", [30.0, -30.0])
def test_a_student_far_off_has_a_finite_loss_and_gradient(where):
    """All of its mass in the tail, or none of it: in fp32, also under a mixed target."""
    z_q = torch.full((2, V), 0.0)
    z_q[:, :2] = where * 4
    stored = store(torch.arange(V).flip(0).float().expand(2, V).log_softmax(-1), 2)
    labels = torch.tensor([0, V - 1])
    for divergence in NAMES:
        for mix in (1.0, 0.5):
            if divergence == "fkl" and mix < 1:
                continue
            loss, grad, _ = value_and_gradients(
                lambda h, W: distillation_loss(h, W, [stored], labels, divergence=divergence,
                                               mix=mix, alpha=0.5), z_q, torch.eye(V))
            assert loss.isfinite() and grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [dict(tau=2.0, alpha=0.5), dict(divergence="jsd", mix=0.7)])
def test_compiled_equals_eager(settings, monkeypatch):
    if not losses.can_compile("cpu"):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    h, W, h_ps, W_ps, labels = inputs(torch.float32, n=40)
    stored = kept(h_ps, W_ps, 3, settings.get("tau", 1.0))
    both = []
    for mode in ("eager", "compiled"):
        monkeypatch.setattr(losses, "mode", mode)
        before = stored.log_p.clone()
        both.append(value_and_gradients(
            lambda h, W: distillation_loss(h, W, [stored], labels, **settings), h, W))
        assert stored.log_p.equal(before)  # it is read again and again
    for a, b in zip(*both):
        assert (a - b).abs().max() < 1e-5
