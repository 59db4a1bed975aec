"""What the student writes itself, and the gradient of sequence-level reverse KL, top to bottom.

The identity. J compares whole continuations y of a prompt x, drawn from the student q:

    J = E_{y~q} [log q(y|x) - log p(y|x)]
    c_t = log q(y_t|y_<t) - log p(y_t|y_<t),    R_{t+1} = c_{t+1} + ... + c_T  (0 at t = T)

    grad J = sum_t E grad KL(q(.|y_<t) || p(.|y_<t))    single-step: exact over the vocabulary
           + sum_t E R_{t+1} grad log q(y_t|y_<t)       long-term: what y_t does to later steps

Plain REINFORCE samples both parts, (c_t + R_{t+1}) grad log q(y_t|y_<t). The single-step
decomposition (MiniLLM, arXiv 2306.08543, section 2.2) takes the first part as it stands, without
the noise of y_t. The file follows it: when (`is_due`), what is written (`sample`), what follows
each token (`policy_coefficients`), the loss (`rollout_loss`; the decomposition is `sequence_loss`),
what can go wrong (`failures`).

Rollouts are drawn from s = r p + (1 - r) q, r = rollout_mix (MiniLLM's teacher-mixed sampling).
"""
import collections

import numpy as np
import torch
import torch.nn.functional as F

import losses
from bpe import Tokenizer

# x, y (B, T): as a corpus batch; y is -100 where a position does not count (the prompt, a `<s>`
# that was given, what a teacher does not know). log_q, log_p, log_s (B, T): log-probabilities of y
# under student, teachers, and what it was drawn from, 0 where y is -100. coefficients: of
# policy_coefficients. With rollout_every: drift (B, T), log q_old(y) - log q(y), and age (B,), in
# steps, of q_old.
Rollout = collections.namedtuple("Rollout", "x y log_q log_p log_s coefficients drift age",
                                 defaults=[None] * 3)


# ---------------------------------------------------------------- when, and what is written

def is_due(now, step):
    """Is this step one of the on_policy share that train on rollouts? Of seed and step alone."""
    return np.random.default_rng((now.seed, step, 1)).random() < now.on_policy


def draws(now, step, x):
    """(B, T + 1 - prompt_len) uniform numbers, one a token to be written; of seed and step."""
    B, T = x.shape
    rng = np.random.default_rng((now.seed, step, 1))
    rng.random()  # is_due's
    return torch.from_numpy(rng.random((B, T + 1 - now.prompt_len), dtype=np.float32))


@torch.no_grad()
def sample(student, teachers, x, uniforms, rollout_mix=0.0, ensemble="logits", mark_after=None,
           mark=Tokenizer.bos_id):
    """Continue the first tokens of each row of x (B, T) to T + 1 tokens drawn from s. -> Rollout.

    uniforms (B, n): the draws, in [0, 1), of the last n tokens; given from outside so that they do
    not depend on how a batch is cut. mark_after: the token after which `mark`, `<s>`, follows, in a
    corpus where it opens every line. Student and teachers step together, each with a KV cache: T
    tokens cost each of them one forward over T.
    """
    B, T = x.shape
    prompt_len = T + 1 - uniforms.shape[1]
    was_training = student.training
    student.eval()
    student_step = student.stepper(B, T)
    teacher_steps = [teacher.stepper(B, T) for teacher in teachers]

    ids = new = x[:, :prompt_len]
    logs = []
    counts = []
    for u in uniforms.to(x.device).unbind(1):
        log_q = student_step(new).float().log_softmax(-1)  # (B, V)
        z_ps, knows = zip(*(step(new) for step in teacher_steps))
        known = torch.stack(knows).all(0)  # (B,)
        log_p = losses.teacher_log_probs([z_p.float() for z_p in z_ps], 1.0, ensemble)
        log_p = log_p.clamp_min_(losses.LOG_FLOOR)

        # inverse transform sampling: the first token at which the cumulative mass of s is over u
        share = rollout_mix * known[:, None]  # a teacher that knows nothing has no say
        q, p = (losses.exp_(log.clone()) for log in (log_q, log_p))
        cdf = q.lerp_(p, share).cumsum(-1)
        new = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True)  # (B, 1)
        new = new.clamp_max(cdf.shape[1] - 1)
        marked = torch.zeros_like(known)
        if mark_after is not None:  # `<s>` is given there, not drawn
            marked = ids[:, -1] == mark_after
            new = new.masked_fill(marked[:, None], mark)
        ids = torch.cat([ids, new], 1)
        log_q, log_p = (log.gather(1, new)[:, 0] for log in (log_q, log_p))
        log_s = torch.where(known, losses.log_mixture(log_p, log_q, rollout_mix), log_q)
        logs.append((log_q, log_p, log_s))
        counts.append(known & ~marked)
    student.train(was_training)

    def whole(columns):
        return F.pad(torch.stack(columns, 1), (prompt_len - 1, 0))  # (B, T)
    counts = whole(counts)
    y = ids[:, 1:].masked_fill(~counts, -100)
    return Rollout(ids[:, :-1], y, *(whole(log).masked_fill(~counts, 0) for log in zip(*logs)))


@torch.no_grad()
def log_q_now(student, rollout):
    """log q(y) (B, T) under the student as it is, of a rollout that it wrote some steps ago."""
    was_training = student.training
    student.eval()
    h = student(rollout.x)
    student.train(was_training)
    none = torch.zeros_like(rollout.log_q)
    _, terms = losses.weighted_loss(h, student.head.weight, [], rollout.y, (none, none),
                                    losses.Form())
    return -terms["ce"].view_as(rollout.log_q)


# ---------------------------------------------------------------- what follows each token

def policy_coefficients(rollout, rollout_loss="single_step", length_norm=False, weights=1.0):
    """What multiplies grad log q(y_t|y_<t) in the gradient of J, (B, T), 0 where y is -100.

    rollout_loss "single_step": w_t R_{t+1}, the long-term part alone; "reinforce": w_t (c_t +
    R_{t+1}). w_t = q / s, a step: exact where s = q; with rollout_every q is the student's now, s
    that of the one that wrote. length_norm divides R_{t+1} by the T - t terms that it has (biased;
    MiniLLM's). The mean over the other sequences of the batch is taken off, a baseline: less
    variance, no bias. weights: a number or (T,), losses.position_weights: of each
    c_t in J, so that `reduction` means the same here as on corpus text.
    """
    valid = rollout.y != -100
    c = (rollout.log_q - rollout.log_p).masked_fill(~valid, 0) * weights
    w = (rollout.log_q - rollout.log_s).exp().masked_fill(~valid, 0)

    # what a token is blamed for: what came after it, in REINFORCE its own cost too
    value = after(c)  # R_{t+1}
    if length_norm:
        value = value / after(valid.long()).clamp_min(1)
    if rollout_loss == "reinforce":
        value = value + c

    # less than the others' mean is to its credit; a row's own value in it would bias the gradient
    others = (valid.sum(0) - valid.long()).clamp_min(1)
    baseline = ((value * valid).sum(0) - value * valid) / others  # of the others, at the same step
    return (w * (value - baseline)).masked_fill(~valid, 0)


def after(c):
    """(B, T): of each position the sum over those after it."""
    return c.flip(1).cumsum(1).flip(1) - c


# ---------------------------------------------------------------- the loss

def rollout_loss(student, teachers, rollout, now, counts, return_stats=False):
    """D on a rollout as `rollout_loss` says; its gradient is divided by counts. CE is not in it.

    token: the divergence at each position, as on corpus text (GKD, arXiv 2306.13649).
    reinforce, single_step: the gradient of J (tau and mix act on corpus batches only).
    now: a config of numbers. counts: the valid positions of the whole step's rollouts, (T,) under
    reduction "step". Returns the loss, or with return_stats (loss, stats) as distillation_loss.
    """
    # what the teachers said of the sampled tokens, all that REINFORCE needs, is in the rollout
    asked = now.rollout_loss != "reinforce" or return_stats
    targets = [teacher(rollout.x) for teacher in teachers] if asked else []
    h = student(rollout.x)
    W = student.head.weight
    if now.rollout_loss == "token":
        keys = {**now.loss_keys(), "alpha": 0.0}
        return losses.distillation_loss(h, W, targets, rollout.y, counts=counts,
                                        return_stats=return_stats, **keys)
    # the one difference between the two: is the first part taken over all tokens, or sampled?
    exact = weights_in(now, counts) if now.rollout_loss == "single_step" else 0.0
    return sequence_loss(h, W, targets, rollout, exact, now.ensemble, counts.sum(), return_stats)


def weights_in(now, counts):
    """What c_t weighs in J, by `reduction`; counts: the valid positions of the step's rollouts."""
    return losses.position_weights(now.reduction, counts.float(), now.step_weights,
                                   now.longest_block)


def sequence_loss(h, W, teachers, rollout, exact=1.0, ensemble="logits", counts=None,
                  return_stats=False):
    """A scalar whose gradient is that of J at a rollout, divided by counts; its value is no J.

        [exact] sum_t grad KL(q(.|y_<t) || p(.|y_<t)) + sum_t coefficients_t grad log q(y_t|y_<t)

    The trick: -log q(y_t) is the cross-entropy of the sampled token, so the sampled part is a
    cross-entropy whose positions weigh -coefficients_t, and the chunked loss computes both at once.
    h (B, T, d), W, teachers: as in distillation_loss. rollout: its y and coefficients (B, T).
    exact: the weights of the first part, a number, (T,) or (B, T); with 0, plain REINFORCE,
    teachers may be []. return_stats: (loss, stats).
    """
    valid = rollout.y != -100
    ce_weight = (-rollout.coefficients).to(torch.promote_types(h.dtype, torch.float32)) * valid
    d_weight = torch.as_tensor(exact, dtype=ce_weight.dtype, device=h.device) * valid
    n = valid.sum() if counts is None else torch.as_tensor(counts, device=h.device)
    n = n.to(ce_weight.dtype).clamp_min(1)

    form = losses.Form(losses.rkl, ensemble, with_entropies=return_stats)
    total, terms = losses.weighted_loss(h, W, teachers, rollout.y, (ce_weight, d_weight), form)
    loss = total * (1 / n)
    if not return_stats:
        return loss
    return loss, {name: term.sum() / n for name, term in terms.items()}


# ---------------------------------------------------------------- what the log shows of rollouts

def figures(rollout):
    """What the log shows: an estimate of J per position, the largest q / s, the share repeated.

    With rollout_every also the age, in steps, and the drift: an estimate of KL(q_old||q), nats a
    token.
    """
    if rollout is None:
        return {}
    valid = rollout.y != -100
    w = (rollout.log_q - rollout.log_s).masked_fill(~valid, 0).exp()
    c = (rollout.log_q - rollout.log_p).masked_fill(~valid, 0)
    shown = {"rollout_kl": (w * valid * c).sum() / valid.sum().clamp_min(1),
             "rollout_weight": w.amax(), "rollout_repeated": repeated(rollout.y)}
    if rollout.age is not None:
        shown["rollout_age"] = rollout.age.float().mean()
        shown["rollout_drift"] = rollout.drift.sum() / valid.sum().clamp_min(1)
    return shown


def repeated(y, n=4):
    """Share of the n-grams of continuations y (B, T) that their own row had before. A 0-d tensor.

    y is -100 where there is none. 0 in natural text, near 1 where a student circles.
    """
    if y.shape[1] < n:
        return torch.zeros((), device=y.device)
    grams = y.unfold(1, n, 1)  # (B, T - n + 1, n)
    valid = (grams != -100).all(-1)
    same = (grams[:, :, None] == grams[:, None]).all(-1)  # (B, G, G)
    same = same & valid[:, :, None] & valid[:, None]
    before = same.tril(-1).any(-1)
    return before.sum() / valid.sum().clamp_min(1)


def failures(line):
    """Sentences that name what goes wrong and what helps, from the figures of a log line."""
    if line.get("entropy_p") and line["entropy_q"] < line["entropy_p"] / 3:
        remedy = "raise alpha, lower lr, or use mix < 1"
        if "rollout_kl" in line:  # on rollouts
            remedy = "raise alpha or rollout_mix, lower lr or on_policy, or use mix < 1"
        yield (f"entropy collapse: the student's entropy is {line['entropy_q']:.3f} nats, the "
               f"teacher's {line['entropy_p']:.3f}; {remedy}")
    if line.get("rollout_repeated", 0) > 0.5:
        yield (f"repetition: {line['rollout_repeated']:.0%} of the 4-grams of the rollouts were "
               "there before; raise rollout_mix or alpha, or start from a better student (init)")
    if line.get("rollout_weight", 0) > 10:
        remedy = "rollout_mix (q / s is at most 1 / (1 - rollout_mix))"
        if line.get("rollout_age"):  # then there is no such bound
            remedy = "rollout_every, lr or rollout_mix"
        yield (f"exploding weights: q / s reaches {line['rollout_weight']:.0f} in the rollouts; "
               f"lower {remedy}")
