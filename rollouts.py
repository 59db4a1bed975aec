"""The student's own text, and the gradient of sequence-level reverse KL, told top to bottom.

The identity. J compares whole continuations y of a prompt x, drawn from the student q:

    J = E_{y~q} [log q(y|x) - log p(y|x)]
    c_t = log q(y_t|y_<t) - log p(y_t|y_<t),    R_{t+1} = c_{t+1} + ... + c_T  (0 at t = T)

    grad J = sum_t E grad KL(q(.|y_<t) || p(.|y_<t))    single-step: exact over the vocabulary
           + sum_t E R_{t+1} grad log q(y_t|y_<t)       long-term: the effect of y_t on later steps

Plain REINFORCE samples both parts, (c_t + R_{t+1}) grad log q(y_t|y_<t). The single-step
decomposition (MiniLLM, arXiv 2306.08543, section 2.2) computes the first part exactly, without the
noise of y_t. The file follows this: sampling (`sample`), the returns (`policy_coefficients`), the
loss (`rollout_loss`; the decomposition is `sequence_loss`), and last the loop's side: when rollouts
are due and who writes them (`for_step`).

Rollouts are drawn from s = r p + (1 - r) q, r = rollout_mix (MiniLLM's teacher-mixed sampling).
"""
import collections

import numpy as np
import torch
import torch.nn.functional as F

import losses
from bpe import Tokenizer
from onecoach.config import UserError
from onecoach.ranks import all_gather, shard
from onecoach.tokens import to_device

# x, y (B, T): as a corpus batch; y is -100 at positions without a loss (the prompt, a `<s>` that
# was given, a position that a teacher does not know). log_q, log_p, log_s (B, T): log-probabilities
# of y under the student, the teachers and the sampling distribution, 0 where y is -100.
# coefficients (B, T): see policy_coefficients. With rollout_every: drift (B, T), log q_old(y) -
# log q(y), and age (B,), in steps, of the student q_old that wrote it.
Rollout = collections.namedtuple("Rollout", "x y log_q log_p log_s coefficients drift age",
                                 defaults=[None] * 3)


# ---------------------------------------------------------------- sampling

@torch.no_grad()
def sample(student, teachers, x, uniforms, rollout_mix=0.0, ensemble="logits", mark_after=None,
           mark=Tokenizer.bos_id):
    """Continue the first tokens of each row of x (B, T) to T + 1 tokens drawn from s. -> Rollout.

    uniforms (B, n): the random numbers in [0, 1) of the last n tokens. The caller draws them, so
    that they do not depend on how a batch is cut. mark_after: the token after which `mark`, `<s>`,
    follows, in a corpus that opens every line with it. Student and teachers step together, each
    with a KV cache: T tokens cost each model one forward pass over T.
    """
    B, T = x.shape
    prompt_len = T + 1 - uniforms.shape[1]
    was_training = student.training
    student.eval()
    student_step = student.stepper(B, T)
    teacher_steps = [teacher.stepper(B, T) for teacher in teachers]

    # the first step reads the whole prompt, every later one the token before
    ids = new = x[:, :prompt_len]
    logs = []
    valid = []
    for u in to_device(uniforms, x.device).unbind(1):
        log_q = student_step(new).float().log_softmax(-1)  # (B, V)
        z_ps, knows = zip(*(step(new) for step in teacher_steps))
        known = torch.stack(knows).all(0)  # (B,)
        log_p = losses.teacher_log_probs([z_p.float() for z_p in z_ps], 1.0, ensemble)
        log_p = log_p.clamp_min_(losses.LOG_FLOOR)

        # inverse transform sampling: the first token at which the cumulative mass of s is over u
        share = rollout_mix * known[:, None]  # the student alone after an unknown prefix
        q, p = losses.exp(log_q), losses.exp(log_p)
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
        valid.append(known & ~marked)
    student.train(was_training)

    def with_prompt(columns):
        return F.pad(torch.stack(columns, 1), (prompt_len - 1, 0))  # (B, T)
    valid = with_prompt(valid)
    y = ids[:, 1:].masked_fill(~valid, -100)
    logs = [with_prompt(log).masked_fill(~valid, 0) for log in zip(*logs)]
    return Rollout(ids[:, :-1], y, *logs)


# ---------------------------------------------------------------- returns

def policy_coefficients(rollout, rollout_loss="single_step", length_norm=False, weights=1.0):
    """The factors of grad log q(y_t|y_<t) in the gradient of J, (B, T), 0 where y is -100.

    rollout_loss "single_step": w_t R_{t+1}, the long-term part alone; "reinforce": w_t (c_t +
    R_{t+1}). w_t = q / s, per step: exact if s = q; with rollout_every q is the current student
    and s is that of the student that wrote. length_norm divides R_{t+1} by its T - t terms (biased;
    MiniLLM's). A leave-one-out baseline, the mean over the other sequences of the batch, is
    subtracted: less variance, no bias. weights: a number or (T,), losses.position_weights: of each
    c_t in J, so that `reduction` means the same here as on corpus text.
    """
    valid = rollout.y != -100
    # positions without a loss cost nothing, and nothing after them is their doing
    c = (rollout.log_q - rollout.log_p).masked_fill(~valid, 0) * weights
    w = (rollout.log_q - rollout.log_s).exp().masked_fill(~valid, 0)

    value = return_to_go(c)  # R_{t+1}
    if length_norm:
        value = value / return_to_go(valid.long()).clamp_min(1)
    if rollout_loss == "reinforce":
        value = value + c

    # the baseline leaves the row itself out, or the gradient would be biased
    others = (valid.sum(0) - valid.long()).clamp_min(1)
    baseline = ((value * valid).sum(0) - value * valid) / others  # at the same step
    return (w * (value - baseline)).masked_fill(~valid, 0)


def return_to_go(c):
    """(B, T): for each position the sum of c (B, T) over the positions after it."""
    return c.flip(1).cumsum(1).flip(1) - c


# ---------------------------------------------------------------- the loss

def rollout_loss(student, teachers, rollout, now, counts, return_stats=False):
    """D on a rollout as the key `rollout_loss` says; the gradient is divided by counts.

    token: the divergence at each position, as on corpus text (GKD, arXiv 2306.13649).
    reinforce, single_step: the gradient of J (tau and mix act on corpus batches only).
    CE is not in it. now: a config of numbers. counts: the valid positions of the whole step's
    rollouts, (T,) under reduction "step". Returns the loss, or with return_stats (loss, stats) as
    distillation_loss does.
    """
    # REINFORCE needs the teachers at the sampled tokens only: the rollout has that already
    targets = []
    if now.rollout_loss != "reinforce" or return_stats:
        targets = [teacher(rollout.x) for teacher in teachers]
    h = student(rollout.x)
    W = student.head.weight
    if now.rollout_loss == "token":
        keys = {**now.loss_keys(), "alpha": 0.0}
        return losses.distillation_loss(h, W, targets, rollout.y, counts=counts,
                                        return_stats=return_stats, **keys)
    # the only difference between the two: is the first part exact over all tokens, or sampled?
    exact = 0.0
    if now.rollout_loss == "single_step":
        exact = reduction_weights(now, counts)
    return sequence_loss(h, W, targets, rollout, exact, now.ensemble, counts.sum(), return_stats)


def sequence_loss(h, W, teachers, rollout, exact=1.0, ensemble="logits", counts=None,
                  return_stats=False):
    """A scalar with the gradient of J at a rollout, divided by counts; the value is not J.

        [exact] sum_t grad KL(q(.|y_<t) || p(.|y_<t)) + sum_t coefficients_t grad log q(y_t|y_<t)

    The trick: -log q(y_t) is the cross-entropy of the sampled token, so the sampled part is a
    cross-entropy with position weights -coefficients_t, and the chunked loss computes both at once.
    h (B, T, d), W, teachers: as in distillation_loss. rollout: its y and coefficients (B, T).
    exact: the weights of the first part, a number, (T,) or (B, T); with 0, plain REINFORCE,
    teachers may be []. return_stats: (loss, stats).
    """
    valid = rollout.y != -100
    ce_weight = (-rollout.coefficients).to(torch.promote_types(h.dtype, torch.float32)) * valid
    d_weight = (valid * exact).to(ce_weight.dtype)
    # one division for the whole step, so that micro-batches add up
    n = valid.sum() if counts is None else torch.as_tensor(counts, device=h.device)
    n = n.to(ce_weight.dtype).clamp_min(1)

    form = losses.Form(losses.rkl, ensemble, with_entropies=return_stats)
    total, terms = losses.weighted_loss(h, W, teachers, rollout.y, (ce_weight, d_weight), form)
    loss = total * (1 / n)
    if not return_stats:
        return loss
    return loss, {name: term.sum() / n for name, term in terms.items()}


def reduction_weights(now, counts):
    """The weight of each c_t in J under `reduction`; counts: valid positions of the rollouts."""
    return losses.position_weights(now.reduction, counts.float(), now.step_weights,
                                   now.longest_block)


# ---------------------------------------------------------------- the loop's side

def for_step(student, teachers, x, now, run, batches):
    """The whole batch's Rollout that continues the prompts of x, or None if none is due.

    With rollout_every = n the rollouts of n steps are written together, at the first of them. They
    wait in run.kept, which a checkpoint holds.
    """
    if not is_due(now, run.step):
        return None
    if run.step not in run.kept.get("rollouts", {}):
        prompts = due_prompts(x, now, run, batches)
        run.kept.update(written=run.step, rollouts=write(student, teachers, prompts, now, run))
    rollout = as_rollout(run.kept["rollouts"].pop(run.step), x, run)
    if now.rollout_every > 1:
        rollout = refresh_log_q(rollout, student, now, run)
    weights = reduction_weights(now, positions(rollout.y, now))
    return rollout._replace(coefficients=policy_coefficients(rollout, now.rollout_loss,
                                                             now.length_norm, weights))


def is_due(now, step):
    """Does this step train on rollouts? A share on_policy does, drawn by seed and step."""
    return np.random.default_rng((now.seed, step, 1)).random() < now.on_policy


def draws(now, step, x):
    """(B, T + 1 - prompt_len) uniform random numbers, one per token to write; by seed and step."""
    B, T = x.shape
    rng = np.random.default_rng((now.seed, step, 1))
    rng.random()  # is_due's
    return torch.from_numpy(rng.random((B, T + 1 - now.prompt_len), dtype=np.float32))


def due_prompts(x, now, run, batches):
    """Return {step: x} of this step's batch x (B, T) and of the steps to be written with it."""
    # up to the next multiple of rollout_every, so that a resumed run writes the same groups
    prompts = {run.step: x}
    end = min((run.step // now.rollout_every + 1) * now.rollout_every, run.steps)
    for later in range(run.step + 1, end):
        then = run.config.at(later / run.steps)
        if is_due(then, later):
            prompts[later], _ = batches.batch(later, then)
    return prompts


def write(student, teachers, prompts, now, run):
    """{step: the first five fields of its Rollout} from prompts {step: x}, sampled in one call.

    Each rank writes the rows of its own micro-batches.
    """
    # steps become a second dimension, so that ranks and micro-batches cut the rows alone
    x = torch.stack([*prompts.values()], 1)  # (B, steps, T)
    uniforms = torch.stack([draws(now, step, x) for step, x in prompts.items()], 1)
    mark = {}
    if now.mark == "line":  # `<s>` opens the next line
        mark = dict(mark_after=run.tokenizer.newline_id, mark=run.tokenizer.bos_id)
    parts = []
    with run.autocast():
        for x_i, u_i, _ in micro_batches(x, uniforms, None, now):
            part = sample(student, teachers, x_i.flatten(0, 1), u_i.flatten(0, 1),
                          now.rollout_mix, now.ensemble, **mark)
            parts.append([field.unflatten(0, x_i.shape[:2]) for field in part[:5]])
    batch = [all_gather(torch.cat(field)).unbind(1) for field in zip(*parts)]
    return {step: [field.clone() for field in fields]
            for step, fields in zip(prompts, zip(*batch))}


def as_rollout(fields, x, run):
    """The Rollout of fields that were kept for a step on x; UserError for a damaged checkpoint."""
    tensors = isinstance(fields, (list, tuple)) and all(isinstance(t, torch.Tensor) for t in fields)
    if not tensors or [t.shape for t in fields] != [x.shape] * 5:
        raise UserError(f"{run.folder / 'ckpt.pt'}: the rollouts in it are damaged; train anew "
                        "with --resume=no")
    return Rollout(*(t.to(x.device, non_blocking=True) for t in fields))


def refresh_log_q(rollout, student, now, run):
    """Recompute log q under the current student; an older one may have written the rollout."""
    # the drift goes into the log: it says how biased the weights q / q_old are
    with run.autocast():
        parts = [current_log_q(student, rollout_i)
                 for *_, rollout_i in micro_batches(rollout.x, rollout.y, rollout, now)]
    log_q = all_gather(torch.cat(parts))
    age = torch.full((len(log_q),), run.step - run.kept["written"], device=log_q.device)
    return rollout._replace(log_q=log_q, drift=rollout.log_q - log_q, age=age)


@torch.no_grad()
def current_log_q(student, rollout):
    """log q(y) (B, T) of a rollout under the student as it is now."""
    was_training = student.training
    student.eval()
    h = student(rollout.x)
    student.train(was_training)
    none = torch.zeros_like(rollout.log_q)
    _, terms = losses.weighted_loss(h, student.head.weight, [], rollout.y, (none, none),
                                    losses.Form())
    return -terms["ce"].view_as(rollout.log_q)


def micro_batches(x, y, rollout, now):
    """Yield x, y and rollout (or None) of this rank's rows in grad_accum micro-batches."""
    tensors = [x, y, *(t for t in rollout or () if t is not None)]
    for x_i, y_i, *fields in zip(*(shard(t).chunk(now.grad_accum) for t in tensors)):
        yield x_i, y_i, Rollout(*fields) if fields else None


def positions(y, now):
    """The number of valid positions of labels y (B, T): 0-d; (T,) under reduction "step"."""
    return (y != -100).sum(0 if now.reduction == "step" else (0, 1))
