"""Rollouts and the sequence-level gradient, by enumeration: V = T = 4, all 256 sequences, float64.

    python tests/test_rollouts.py     prints the table of bias and variance of each estimator
"""
import itertools
import math
import types

import pytest
import torch
from test_losses import said

import babytalk
import losses
import rollouts
from distill import Teacher
from model import LM, ModelConfig
from onecoach import signatures
from runs import log_probs
from rollouts import Rollout, policy_coefficients, sequence_loss

V, T = 4, 4
PREFIXES = [p for n in range(T) for p in itertools.product(range(V), repeat=n)]
INDEX = {p: i for i, p in enumerate(PREFIXES)}
SEQUENCES = torch.tensor(list(itertools.product(range(V), repeat=T)))  # (256, T)
# (256, T): the prefix of each step
ROWS = torch.tensor([[INDEX[tuple(y[:t])] for t in range(T)] for y in SEQUENCES.tolist()])
EYE = torch.eye(V, dtype=torch.float64)


def table(seed, scale=1.0):
    """A random policy: logits of every prefix (85, V)."""
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(len(PREFIXES), V, generator=g, dtype=torch.float64)


def logs(z, sequences=SEQUENCES, rows=ROWS):
    """log-probability of each token of each sequence (n, T)."""
    return z.log_softmax(-1)[rows].gather(2, sequences[..., None])[..., 0]


def true_gradient(z_q, z_p):
    z = z_q.clone().requires_grad_()
    log_q = logs(z).sum(1)
    (log_q.exp() * (log_q - logs(z_p).sum(1))).sum().backward()
    return z.grad


def drawn(log_q, log_p, log_s, valid=None):
    """A Rollout of these log-probabilities (B, T).

    policy_coefficients sees no more of it than what counts.
    """
    y = torch.zeros(log_q.shape, dtype=torch.long)
    return Rollout(None, y if valid is None else y.masked_fill(~valid, -100), log_q, log_p, log_s)


def estimate(z_q, z_p, members, coefficients, exact):
    """The gradient that sequence_loss gives for a batch, as a mean over its sequences.

    members: (B,), of SEQUENCES.
    """
    z = z_q.clone().requires_grad_()
    rows = ROWS[members]
    rollout = types.SimpleNamespace(y=SEQUENCES[members], coefficients=coefficients)
    loss = sequence_loss(z[rows], EYE, said(z_p[rows]), rollout, exact, counts=len(members))
    loss.backward()
    return z.grad


def sequences_estimates(z_q, z_p, z_s, rollout_loss, length_norm=False, exact_weights=False):
    """(256, parameters): each sequence's own estimate (a baseline needs others, so it is 0)."""
    log_q, log_p, log_s = (logs(z) for z in (z_q, z_p, z_s))
    found = []
    for i in range(len(SEQUENCES)):
        one = slice(i, i + 1)
        rollout = drawn(log_q[one], log_p[one], log_s[one])
        coefficients = policy_coefficients(rollout, rollout_loss, length_norm)
        exact = rollout_loss == "single_step"

        if exact_weights:
            # the whole product of q / s up to the term, which training cannot bear
            w = (log_q - log_s)[one].exp().cumprod(1)
            c = (log_q - log_p)[one]
            # probability ratio of the prefix of step t
            reached = torch.cat([torch.ones(1, 1), w[:, :-1]], 1)
            later = (w * c).flip(1).cumsum(1).flip(1) - w * c
            coefficients, exact = (later, reached) if exact else (later + w * c, False)
        found.append(estimate(z_q, z_p, torch.tensor([i]), coefficients, exact).flatten())
    return torch.stack(found)


def mean_and_variance(estimates, z_s):
    """Of an estimator under draws from s: its expectation, its components' summed variances."""
    s = logs(z_s).sum(1).exp()
    mean = s @ estimates
    return mean, (s @ (estimates - mean).square().sum(1)).item()


@pytest.fixture(scope="module")
def policies():
    return table(0), table(1)


# ---------------------------------------------------------------- exactness

@pytest.mark.parametrize("rollout_loss", ["single_step", "reinforce"])
def test_the_gradient_of_j_is_the_enumerated_one(policies, rollout_loss):
    z_q, z_p = policies
    mean, _ = mean_and_variance(sequences_estimates(z_q, z_p, z_q, rollout_loss), z_q)
    assert (mean - true_gradient(z_q, z_p).flatten()).abs().max() < 1e-9


@pytest.mark.parametrize("share", [0.2, 0.7])
@pytest.mark.parametrize("rollout_loss", ["single_step", "reinforce"])
def test_with_exact_weights_teacher_mixed_sampling_gives_it_too(policies, share, rollout_loss):
    z_q, z_p = policies
    z_s = losses.log_mixture(z_p.log_softmax(-1), z_q.log_softmax(-1), share)
    estimates = sequences_estimates(z_q, z_p, z_s, rollout_loss, exact_weights=True)
    mean, _ = mean_and_variance(estimates, z_s)
    assert (mean - true_gradient(z_q, z_p).flatten()).abs().max() < 1e-9


def test_a_tiny_transformer_too():
    """The same through our own model: hidden states, tied head, all parameters."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=V + 1, n_layer=1, n_head=1, d_model=4, d_ff=4, block_size=T,
                         tie=True)
    q, p = (LM(config).double() for _ in range(2))
    for lm in (q, p):
        for w in lm.parameters():
            w.data += 0.5 * torch.randn_like(w)

    # token V opens; the head never says it
    x = torch.cat([torch.full((len(SEQUENCES), 1), V), SEQUENCES[:, :-1]], 1)
    keep = torch.arange(V + 1) < V
    head = lambda lm: lm.head.weight[keep]
    of = lambda lm: (lm(x) @ head(lm).T).log_softmax(-1).gather(2, SEQUENCES[..., None])[..., 0]
    log_q = of(q)
    log_p = of(p).detach()
    total = log_q.sum(1)
    expected = torch.autograd.grad(
        (total.exp() * (total - log_p.sum(1))).sum(), list(q.parameters()))

    log_q = log_q.detach()
    each = [slice(i, i + 1) for i in range(len(x))]
    coefficients = torch.cat([policy_coefficients(drawn(log_q[i], log_p[i], log_q[i]))
                              for i in each])
    # the expectation over sequences, as weights of both parts
    weight = log_q.sum(1).exp()[:, None].expand(-1, T)
    rollout = types.SimpleNamespace(y=SEQUENCES, coefficients=coefficients * weight)
    teacher = losses.head(p(x).detach(), head(p).detach())
    loss = sequence_loss(q(x), head(q), [teacher], rollout, weight, counts=1)
    for ours, theirs in zip(torch.autograd.grad(loss, list(q.parameters())), expected):
        assert (ours - theirs).abs().max() < 1e-9


def test_the_baseline_is_without_bias():
    """All 256^2 pairs of sequences, weighted by their probability: batches of two."""
    z_q, z_p = table(0), table(1)
    log_q, log_p = logs(z_q), logs(z_p)
    s = log_q.sum(1).exp()

    # grad log q(y_t | y_<t)
    score = torch.zeros(len(SEQUENCES), T, len(PREFIXES) * V, dtype=torch.float64)
    q = z_q.softmax(-1)
    for t in range(T):
        for i in range(len(SEQUENCES)):
            at = score[i, t].view(len(PREFIXES), V)[ROWS[i, t]]
            at -= q[ROWS[i, t]]
            at[SEQUENCES[i, t]] += 1

    pairs = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    # R_{t+1}
    alone = torch.cat([policy_coefficients(drawn(log_q[[i]], log_p[[i]], log_q[[i]]))
                       for i in range(256)])
    a, b = policy_coefficients(drawn(log_q[[3, 7]], log_p[[3, 7]], log_q[[3, 7]]))
    # what the code does, for the sums below
    assert torch.allclose(a, alone[3] - alone[7])
    assert torch.allclose(b, alone[7] - alone[3])

    plain = (alone[:, :, None] * score).sum(1)  # (256, parameters)
    mean = s @ plain

    weight = s[pairs[:, 0]] * s[pairs[:, 1]]
    cross = torch.einsum("jt,itp->ijp", alone, score)  # R of j with the scores of i
    half = (plain[:, None] - cross) / 2  # of i in the pair (i, j)
    estimate = (half + half.transpose(0, 1)).reshape(len(pairs), -1)
    assert (weight @ estimate - mean).abs().max() < 1e-9 and mean.norm() > 0.1


def variance_in_batches(z_q, z_p, rollout_loss, with_baseline, B, n=2000):
    """B times the variance of a batch's estimate, by Monte Carlo over n batches.

    So it is comparable with one sequence's.
    """
    truth = true_gradient(z_q, z_p)
    s = logs(z_q).sum(1).exp()
    g = torch.Generator().manual_seed(0)
    log_q = logs(z_q)
    log_p = logs(z_p)
    total = 0.0
    alone = torch.cat([policy_coefficients(drawn(log_q[[i]], log_p[[i]], log_q[[i]]), rollout_loss)
                       for i in range(256)])
    for _ in range(n):
        m = torch.multinomial(s, B, replacement=True, generator=g)
        coefficients = alone[m]
        if with_baseline:
            coefficients = policy_coefficients(drawn(log_q[m], log_p[m], log_q[m]), rollout_loss)
        gradient = estimate(z_q, z_p, m, coefficients, rollout_loss == "single_step")
        total += (gradient - truth).square().sum().item()
    return B * total / n


def test_the_baseline_takes_variance_off(policies):
    """Measured at the batches that are trained with.

    Of two sequences the other one is a worse guess than 0.
    """
    for rollout_loss in ("reinforce", "single_step"):
        with_it, without = (variance_in_batches(*policies, rollout_loss, b, 32, 300)
                            for b in (True, False))
        assert with_it < 0.95 * without, rollout_loss


@pytest.mark.parametrize("rollout_loss", ["single_step", "reinforce"])
def test_monte_carlo_converges_at_one_over_root_n(policies, rollout_loss):
    z_q, z_p = policies
    truth = true_gradient(z_q, z_p)
    s = logs(z_q).sum(1).exp()
    log_q, log_p = logs(z_q), logs(z_p)
    g = torch.Generator().manual_seed(0)
    errors = []

    for n in (100, 10_000):
        squares = []
        for _ in range(40):
            members = torch.multinomial(s, n, replacement=True, generator=g)
            rollout = drawn(log_q[members], log_p[members], log_q[members])
            coefficients = policy_coefficients(rollout, rollout_loss)
            gradient = estimate(z_q, z_p, members, coefficients, rollout_loss == "single_step")
            squares.append((gradient - truth).square().sum())
        errors.append(torch.stack(squares).mean().sqrt())
    assert 8 < errors[0] / errors[1] < 12.5  # 10 is 1 / sqrt(n)


def bias_and_variance(z_q, z_p):
    """[(name, relative bias, variance of one sequence's estimate relative to REINFORCE's)]."""
    truth = true_gradient(z_q, z_p).flatten()
    z_s = losses.log_mixture(z_p.log_softmax(-1), z_q.log_softmax(-1), 0.2)
    rows = [("REINFORCE", z_q, dict(rollout_loss="reinforce")),
            ("single-step + long-term", z_q, dict(rollout_loss="single_step")),
            ("  with length_norm", z_q, dict(rollout_loss="single_step", length_norm=True)),
            ("  rollout_mix 0.2, weights a step", z_s, dict(rollout_loss="single_step")),
            ("  rollout_mix 0.2, exact weights", z_s,
             dict(rollout_loss="single_step", exact_weights=True))]
    found = [(name, *mean_and_variance(sequences_estimates(z_q, z_p, z, **k), z))
             for name, z, k in rows]
    return [(name, ((mean - truth).norm() / truth.norm()).item(), variance / found[0][2])
            for name, mean, variance in found]


def test_bias_and_variance_are_where_they_should_be(policies):
    plain, single, normed, mixed, exact = bias_and_variance(*policies)
    assert max(plain[1], single[1], exact[1]) < 1e-9 and single[2] < plain[2]
    assert 0.01 < normed[1] < 1 and 0.001 < mixed[1] < normed[1]  # the two that are biased


def bias_of_old_rollouts(z_q, z_p, size, seeds=8):
    """(relative bias, KL(q_old||q) per token) of rollouts by students that differ by `size`.

    size: the standard deviation of the difference in logits. Means over random differences.
    """
    truth = true_gradient(z_q, z_p).flatten()
    biases = []
    drifts = []
    for seed in range(seeds):
        z_old = z_q + table(100 + seed, size)
        mean, _ = mean_and_variance(sequences_estimates(z_q, z_p, z_old, "single_step"), z_old)
        biases.append((mean - truth).norm() / truth.norm())
        log_old = logs(z_old)
        drifts.append(log_old.sum(1).exp() @ (log_old - logs(z_q)).mean(1))
    return torch.stack(biases).mean().item(), torch.stack(drifts).mean().item()


def test_old_rollouts_bias_the_gradient_as_help_and_docs_say(policies):
    for size, bias, drift in ((0.05, 0.04, 0.00064), (0.2, 0.17, 0.0101), (0.5, 0.41, 0.0603)):
        found = bias_of_old_rollouts(*policies, size)
        assert found == (pytest.approx(bias, abs=0.006), pytest.approx(drift, rel=0.01)), size


def test_single_step_alone_is_the_token_loss(policies):
    z_q, z_p = policies
    members = torch.arange(10)
    ours = estimate(z_q, z_p, members, torch.zeros(10, T), True)
    z = z_q.clone().requires_grad_()
    loss = losses.distillation_loss(z[ROWS[members]], EYE, said(z_p[ROWS[members]]),
                                    SEQUENCES[members], counts=10)
    loss.backward()
    assert torch.allclose(ours, z.grad)


def test_positions_that_do_not_count_have_no_part():
    log_q = torch.randn(3, 8, dtype=torch.float64)
    log_p = torch.randn(3, 8, dtype=torch.float64)
    valid = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 1]] * 3, dtype=torch.bool)
    short_q, short_p = [x[:, valid[0]] for x in (log_q, log_p)]
    some = drawn(log_q, log_p, log_q, valid)
    all_of = drawn(short_q, short_p, short_q)
    for k in (dict(), dict(length_norm=True), dict(rollout_loss="reinforce")):
        a, b = policy_coefficients(some, **k), policy_coefficients(all_of, **k)
        assert torch.allclose(a[:, valid[0]], b) and not a[:, ~valid[0]].any()
    # on policy the mean of c over what counts is J's sample a position
    seen = [signatures.rollout_figures(rollout)["rollout_kl"] for rollout in (some, all_of)]
    assert torch.allclose(seen[0], seen[1])
    assert torch.allclose(seen[0], (log_q - log_p)[:, valid[0]].mean())


# ---------------------------------------------------------------- sampling

def small(seed, arch="llama", vocab=11, block=12):
    torch.manual_seed(seed)
    lm = LM(ModelConfig(arch=arch, vocab_size=vocab, n_layer=2, n_head=2, d_model=16, d_ff=16,
                        block_size=block))
    for w in lm.parameters():
        w.data += 0.3 * torch.randn_like(w)
    return lm


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("ensemble", ["logits", "probs"])
def test_what_a_rollout_says_of_itself_is_true(share, ensemble):
    """log q, log p, log s against full forward passes without a cache.

    Tokens against the uniform numbers.
    """
    lm = small(0)
    coaches = [small(1), small(2, "gpt2")]
    x = torch.randint(3, 11, (5, 12))
    uniforms = torch.rand(5, 9)
    out = rollouts.sample(lm, [Teacher(c.eval()) for c in coaches], x, uniforms, share, ensemble)
    assert lm.training and out.x.shape == out.y.shape == (5, 12)
    assert torch.equal(out.x[:, :4], x[:, :4])
    assert torch.equal(out.x[:, 4:], out.y[:, 3:-1])
    assert (out.y[:, :3] == -100).all()

    lm.eval()
    log_q = log_probs(lm, out.x)
    z = [c.logits(c(out.x)).detach() for c in coaches]
    log_p = losses.teacher_log_probs(z, 1.0, ensemble)
    log_s = losses.log_mixture(log_p, log_q, share)
    for found, full in ((out.log_q, log_q), (out.log_p, log_p), (out.log_s, log_s)):
        expected = full.gather(2, out.y.clamp_min(0)[..., None])[:, 3:, 0]
        assert (found[:, 3:] - expected).abs().max() < 1e-4
        assert not found[:, :3].any()
    cdf = log_s[:, 3:].exp().cumsum(-1)
    # inverse of the distribution function
    assert torch.equal((cdf <= uniforms[..., None]).sum(-1), out.y[:, 3:])


def test_rollouts_do_not_depend_on_how_a_batch_is_cut():
    lm = small(0)
    coach = Teacher(small(1))
    x = torch.randint(3, 11, (6, 12))
    u = torch.rand(6, 9)
    whole = rollouts.sample(lm, [coach], x, u, 0.2)
    parts = [rollouts.sample(lm, [coach], x_i, u_i, 0.2)
             for x_i, u_i in zip(x.chunk(3), u.chunk(3))]
    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))


def test_generating_costs_one_pass_over_the_tokens():
    """The KV cache: each model sees the prompt once and then one token at a time."""
    lm = small(0)
    coach = small(1)
    seen = []
    for model in (lm, coach):
        model.embed.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    rollouts.sample(lm, [Teacher(coach)], torch.randint(3, 11, (2, 12)), torch.rand(2, 9), 0.2)
    assert sorted(seen) == [1] * 16 + [4, 4]


def test_a_marked_corpus_is_continued_as_it_is_written():
    """`<s>` follows a newline where every line is marked; given, not drawn, it counts nowhere."""
    lm = small(0)
    newline = 7
    out = rollouts.sample(lm, [Teacher(small(1))], torch.randint(3, 11, (40, 12)),
                          torch.rand(40, 9), mark_after=newline)
    ids = torch.cat([out.x, out.y[:, -1:]], 1)
    after = (ids[:, 3:-1] == newline)
    assert after.any()
    assert (ids[:, 4:][after] == 1).all()
    assert (out.y[:, 3:][after] == -100).all()
    assert not out.log_q[:, 3:][after].any() and (out.y != -100).sum() == 40 * 9 - after.sum()


def test_the_truth_rolls_along():
    tokens = [*babytalk.forms()]
    ids = {form: i + 3 for i, form in enumerate(tokens)}
    tokenizer = types.SimpleNamespace(encode=lambda form: [ids[form]], vocab_size=len(tokens) + 3,
                                      bos_id=1)
    truth = babytalk.Truth(tokenizer)
    lm = small(0, vocab=len(tokens) + 3)
    x = torch.full((64, 12), 1)
    out = rollouts.sample(lm, [truth], x, torch.rand(64, 12), 1.0, mark_after=truth.token_of["\n"])
    text = "".join({i: form for form, i in ids.items()}.get(i, "") for i in out.x[0].tolist())
    # r = 1: the teacher's own text, whole lines of the language
    assert all(babytalk.contains(line) for line in text.split("\n")[:-1])
    assert torch.allclose(out.log_p, out.log_s) and (out.log_p > -20).all()


# ---------------------------------------------------------------- failure modes

def test_repetition_is_measured():
    circling = torch.tensor([[1, 2, 3, 4] * 6, list(range(24))])
    assert abs(signatures.repeated(circling) - (21 - 4) / 42) < 1e-6
    assert signatures.repeated(torch.full((2, 10), -100)) == 0
    assert signatures.repeated(torch.ones(2, 3)) == 0  # blocks of less than four
    masked = circling.clone()
    masked[0, :12] = -100  # what does not count is no repetition
    assert signatures.repeated(masked) < signatures.repeated(circling)


def test_plain_reinforce_asks_no_teacher_again():
    """What the teachers said of the sampled tokens stands in the rollout."""
    torch.manual_seed(0)
    student = LM(ModelConfig(vocab_size=V, n_layer=1, n_head=1, d_model=8, d_ff=8, block_size=T))
    x = torch.zeros(3, T, dtype=torch.long)
    y = torch.ones(3, T, dtype=torch.long)
    rollout = Rollout(x, y, *torch.randn(4, 3, T))
    now = types.SimpleNamespace(rollout_loss="reinforce", ensemble="logits")

    def nobody(x):
        raise AssertionError("asked")
    rollouts.rollout_loss(student, [nobody], rollout, now, torch.tensor(12)).backward()
    assert student.head.weight.grad.abs().sum() > 0


def test_draws_are_a_function_of_seed_and_step():
    now = types.SimpleNamespace(seed=3, on_policy=0.25, prompt_len=4)
    x = torch.zeros(2, 12)
    due = [step for step in range(2000) if rollouts.is_due(now, step)]
    assert abs(len(due) / 2000 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)
    assert due == [step for step in range(2000) if rollouts.is_due(now, step)]
    assert torch.equal(rollouts.draws(now, 1, x), rollouts.draws(now, 1, x))
    assert rollouts.draws(now, 1, x).shape == (2, 9)
    assert not torch.equal(rollouts.draws(now, 1, x), rollouts.draws(now, 2, x))
    always, never = (types.SimpleNamespace(seed=3, on_policy=share) for share in (1.0, 0.0))
    assert all(rollouts.is_due(always, step) and not rollouts.is_due(never, step)
               for step in range(100))


def test_log_q_now_is_of_the_student_asked_on_what_another_wrote():
    student, older = small(1), small(2)
    x = torch.randint(3, 11, (4, 12))
    rollout = rollouts.sample(older, [Teacher(small(3))], x, torch.rand(4, 9))
    log_q = rollouts.current_log_q(student, rollout)
    exact = student.logits(student(rollout.x)).log_softmax(-1)
    exact = exact.gather(2, rollout.y.clamp_min(0)[..., None])[..., 0]
    due = exact.masked_fill(rollout.y == -100, 0)
    torch.testing.assert_close(log_q, due, rtol=0, atol=1e-5)
    log_q_old = rollouts.current_log_q(older, rollout)
    torch.testing.assert_close(log_q_old, rollout.log_q, rtol=0, atol=1e-5)
    assert (log_q - rollout.log_q).abs().max() > 0.1


if __name__ == "__main__":
    unit = mean_and_variance(
        sequences_estimates(table(0), table(1), table(0), "reinforce"), table(0))[1]
    rows = bias_and_variance(table(0), table(1))
    rows += [(f"{name} + baseline, batch {B}", 0.0,
              variance_in_batches(table(0), table(1), kind, True, B) / unit)
             for name, kind in (("REINFORCE", "reinforce"), ("single-step", "single_step"))
             for B in (2, 8, 32)]
    for name, bias, variance in rows:
        print(f"{name:36} bias {bias:8.1e}   variance / REINFORCE's {variance:6.2f}")
    for size in (0.05, 0.1, 0.2, 0.5):
        bias, drift = bias_of_old_rollouts(table(0), table(1), size)
        print(f"rollout_every: rollout_drift {drift:.4f} nats per token   bias {bias:.1%}")
