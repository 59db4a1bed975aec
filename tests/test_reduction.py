"""reduction means one thing: on corpus text, on rollouts, and in each form of rollout_loss."""
import pytest
import torch
from test_rollouts import ROWS, SEQUENCES, T, drawn, estimate, logs, mean_and_variance, small
from test_rollouts import table

import losses
import rollouts
from distill import Teacher
from onecoach.config import Config
from rollouts import policy_coefficients, positions

V, B, BLOCK, PROMPT = 11, 4, 12, 5


def gradient(lm, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*lm.parameters()])])


@pytest.fixture(scope="module")
def written():
    """A student, its teacher, and a rollout of the last BLOCK - PROMPT + 1 tokens of each row."""
    student, other = (small(seed, vocab=V, block=BLOCK).double() for seed in (0, 1))
    teacher = Teacher(other)
    x = torch.randint(3, V, (B, BLOCK), generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(B, BLOCK + 1 - PROMPT, generator=torch.Generator().manual_seed(1))
    return student, teacher, rollouts.sample(student, [teacher], x, uniforms)


def gradient_of(written, **keys):
    """The gradient of a rollout's D under a config of these keys, as the loop takes it."""
    student, teacher, rollout = written
    now = Config(block_size=BLOCK, tau=1.0, divergence="rkl", prompt_len=PROMPT, **keys).at(0.0)
    counts = positions(rollout.y, now)
    weights = rollouts.reduction_weights(now, counts)
    coefficients = policy_coefficients(rollout, now.rollout_loss, now.length_norm, weights)
    rollout = rollout._replace(coefficients=coefficients)
    return gradient(student, rollouts.rollout_loss(student, [teacher], rollout, now, counts))


FORMS = ["token", "single_step", "reinforce"]


@pytest.mark.parametrize("rollout_loss", FORMS)
def test_reductions_are_multiples_of_token(written, rollout_loss):
    """sequence: times the longest block. step with unit weights: token, whatever the prompt."""
    token, sequence, step = (
        gradient_of(written, reduction=reduction, rollout_loss=rollout_loss, **keys)
        for reduction, keys in (("token", {}), ("sequence", {}),
                                ("step", dict(step_weights=[1.0, 1.0]))))
    # the log-probabilities of a rollout are in fp32
    assert (sequence - BLOCK * token).norm() < 1e-6 * sequence.norm() and token.norm() > 1e-3
    assert (step - token).norm() < 1e-5 * token.norm()


@pytest.mark.parametrize("rollout_loss", FORMS)
def test_step_weights_are_felt_in_every_form(written, rollout_loss):
    first, last = (gradient_of(written, reduction="step", step_weights=w, rollout_loss=rollout_loss)
                   for w in ([1.0, 0.0], [0.0, 1.0]))
    assert (first - last).norm() > 0.1 * last.norm()


def test_steps_without_a_position_are_left_out():
    counts = torch.tensor([0.0, 0.0, 3.0, 2.0, 3.0])
    weights = losses.position_weights("step", counts, (0.5, 1.5))
    wanted = torch.tensor([0.0, 0.0, 1.0, 1.25, 1.5])  # of each step's own mean
    assert torch.allclose(weights * counts / counts.sum(), wanted / wanted.sum())
    full = losses.position_weights("step", torch.full((5,), 7.0), (0.5, 1.5))
    assert torch.allclose(full, torch.tensor([0.5, 0.75, 1.0, 1.25, 1.5]))
    assert not losses.position_weights("step", torch.zeros(5), (0.5, 1.5)).any()
    assert losses.position_weights("token", counts.sum()) == 1
    assert losses.position_weights("sequence", counts.sum(), T=8) == 8


@pytest.mark.parametrize("rollout_loss", ["single_step", "reinforce"])
def test_weights_are_those_of_each_steps_cost_in_j(rollout_loss):
    """By enumeration of all 256 sequences: the gradient of sum_t w_t E c_t, to 1e-9."""
    z_q, z_p = table(0), table(1)
    w = torch.tensor([0.4, 0.8, 1.2, 1.6], dtype=torch.float64)
    log_q, log_p = logs(z_q), logs(z_p)
    estimates = []
    for i in range(len(SEQUENCES)):
        rollout = drawn(log_q[[i]], log_p[[i]], log_q[[i]])
        coefficients = policy_coefficients(rollout, rollout_loss, weights=w)
        exact = w if rollout_loss == "single_step" else False
        estimates.append(estimate(z_q, z_p, torch.tensor([i]), coefficients, exact).flatten())
    mean, _ = mean_and_variance(torch.stack(estimates), z_q)

    z = z_q.clone().requires_grad_()
    cost = (w * (logs(z) - log_p)).sum(1)
    (logs(z).sum(1).exp() * cost).sum().backward()
    assert ROWS.shape[1] == T and (mean - z.grad.flatten()).abs().max() < 1e-9
