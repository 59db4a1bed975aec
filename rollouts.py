"""Rollouts: continuations of corpus prompts that the student, or a mix with its teachers, writes itself, to be trained on.

    s = r p + (1 - r) q, at temperature 1      r: the key rollout_mix (MiniLLM's teacher-mixed sampling, arXiv 2306.08543, 2.2)

Student and teachers step together, each with its KV cache, so T tokens cost each of them about one forward over T.
"""
import collections

import numpy as np
import torch
import torch.nn.functional as F

import losses
from config import value_at as at
from bpe import Tokenizer
from model import KVCache


class Rollout(collections.namedtuple("Rollout", "x y log_q log_p log_s")):
    """x, y (B, T): as a corpus batch, y -100 where a position does not count (the prompt, `<s>`, an unknown teacher).

    log_q, log_p, log_s (B, T): log-probabilities of y under student, teachers, and what it was drawn from; 0 elsewhere.
    """


@torch.no_grad()
def sample(lm, teachers, x, prompt_len, share, uniforms, ensemble="logits", mark_after=None):
    """Continue the first prompt_len tokens of each row of x (B, T) to T + 1 tokens drawn from share p + (1 - share) q.

    uniforms (B, T + 1 - prompt_len) in [0, 1): the draws, given from outside so that they do not depend on how a batch is
    cut. mark_after: a token after which `<s>` follows, as in a corpus where every line is marked. -> Rollout
    """
    B, T = x.shape
    was_training = lm.training
    lm.eval()
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else lm.embed.weight.dtype
    models = [lm] + [teacher.lm for teacher in teachers if teacher.lm is not None]
    caches = [KVCache(model.config, B, T, x.device, dtype) for model in models]
    ids, new, logs, counts = x[:, :prompt_len], x[:, :prompt_len], [], []
    for u in uniforms.to(x.device).unbind(1):
        z_q, *z_ps = (model.logits(model(new, cache)[:, -1]).float() for model, cache in zip(models, caches))  # each (B, V)
        known = torch.ones(B, dtype=torch.bool, device=x.device)
        for teacher in teachers:
            if teacher.lm is None:
                z, defined = (t[:, -1].to(x.device) for t in teacher.truth.logits(ids.cpu()))
                z_ps, known = z_ps + [z], known & defined
        log_q = z_q.log_softmax(-1)
        log_p = losses.teacher_log_probs(z_ps, 1.0, ensemble).clamp_min(losses.LOG_FLOOR)
        log_s = losses.log_mixture(log_p, log_q, share)
        cdf = log_s.exp().cumsum(-1)
        new = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True).clamp_max(cdf.shape[1] - 1)  # (B, 1)
        forced = ids[:, -1] == mark_after if mark_after is not None else torch.zeros_like(known)
        new = new.masked_fill(forced[:, None], Tokenizer.bos_id)
        ids = torch.cat([ids, new], 1)
        logs.append([log.gather(1, new)[:, 0] for log in (log_q, log_p, log_s)])
        counts.append(known & ~forced)
    lm.train(was_training)
    whole = lambda columns: F.pad(torch.stack(columns, 1), (prompt_len - 1, 0))  # (B, T)
    counts = whole(counts)
    return Rollout(ids[:, :-1], ids[:, 1:].masked_fill(~counts, -100), *(whole(log).masked_fill(~counts, 0) for log in zip(*logs)))


def draws(config, step, progress, shape):
    """(B, T + 1 - prompt_len) uniform numbers if step is one of the on_policy share, else None; a function of seed and step."""
    rng = np.random.default_rng((config.seed, step, 1))
    if rng.random() >= at(config.on_policy, progress):
        return None
    return torch.from_numpy(rng.random((shape[0], shape[1] + 1 - config.prompt_len), dtype=np.float32))


def weigh(rollout, config):
    """Coefficients (B, T) of the rollout's tokens for losses.sequence_loss, and what the log shows of a rollout batch."""
    valid = rollout.y != -100
    coefficients, terms = losses.policy_coefficients(*rollout[2:], valid, config.rollout_loss, config.length_norm)
    weights = (rollout.log_q - rollout.log_s).masked_fill(~valid, 0).exp()
    return coefficients, {"rollout_kl": terms.sum() / valid.sum().clamp_min(1), "rollout_weight": weights.amax(),
                          "rollout_repeated": repeated(rollout.y)}


def failures(seen):
    """Sentences that name what goes wrong, from what a log line shows (floats)."""
    if seen.get("entropy_p") and seen["entropy_q"] < seen["entropy_p"] / 3:
        yield (f"entropy collapse: the student's entropy is {seen['entropy_q']:.3f} nats, the teacher's {seen['entropy_p']:.3f}; "
               f"raise alpha or rollout_mix, lower lr or on_policy, or use mix < 1")
    if seen.get("rollout_repeated", 0) > 0.5:
        yield (f"repetition: {seen['rollout_repeated']:.0%} of the 4-grams of the rollouts were there before; raise rollout_mix or alpha, "
               f"or start from a better student (init)")
    if seen.get("rollout_weight", 0) > 10:
        yield (f"exploding weights: q / s reaches {seen['rollout_weight']:.0f} in the rollouts; lower rollout_mix (q / s is at most "
               f"1 / (1 - rollout_mix))")


def repeated(y, n=4):
    """Share of the n-grams of the continuations y (B, T), -100 elsewhere, that their own row had before: 0 in natural text,
    near 1 where a student circles. A 0-d tensor."""
    grams = y.unfold(1, n, 1)  # (B, T - n + 1, n)
    valid = (grams != -100).all(-1)
    same = (grams[:, :, None] == grams[:, None]).all(-1) & valid[:, :, None] & valid[:, None]  # (B, G, G)
    before = same.tril(-1).any(-1)
    return before.sum() / valid.sum().clamp_min(1)
