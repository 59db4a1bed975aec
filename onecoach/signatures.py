"""Failure signatures of a student: rules with stated thresholds, to be argued with.

eval.py judges a run by its log and by babytalk's minimal pairs; tools.modes adds the rules that
need a teacher and texts by both (`averaged`, `rare_lost`). Verdicts are kept in eval.json and
printed below the last table of a training. Three are of arXiv 2410.22081: averaged or generic
output, rare patterns lost, instability or collapse.
"""
import collections
import math
import textwrap

import torch

from onecoach import files

# found: does the run have it; said: the evidence, with figures
Verdict = collections.namedtuple("Verdict", "name found said")


# ---------------------------------------------------------------- the rules

def averaged(figures, written, written_by_teacher):
    """Judge averaged or generic output: flatter than the teacher, or bland.

    figures: from tools.modes.measure; written, written_by_teacher: from tools.modes.writing.
    """
    q, p = figures["entropy_q"], figures["entropy_p"]
    q_top, p_top = figures["q_on_top_1_of_p"], figures["p_on_top_1_of_p"]
    d_q, d_p = written["distinct_2"], written_by_teacher["distinct_2"]
    flat = q > 1.05 * p and q_top < 0.95 * p_top
    bland = d_q < 0.8 * d_p
    return Verdict("averaged or generic output", flat or bland,
                   f"entropy {q:.3f} nats, the teacher's {p:.3f}; mass on the teacher's first word "
                   f"{q_top:.3f}, its own {p_top:.3f}; distinct 2-grams {d_q:.3f}, its {d_p:.3f}")


def rare_lost(figures):
    """Judge rare patterns lost: the gap to the teacher, in CE, is widest on the rarest words.

    The rarest band is the last that holds 1% of the words.
    """
    gap = figures["ce"] - figures["ce_teacher"]
    bands = [(name, band) for name, band in figures["bands"].items() if band["share"] >= 0.01]
    name, rarest = bands[-1]
    return Verdict("rare patterns lost", rarest["gap"] > max(2 * gap, gap + 0.05),
                   f"cross-entropy over the teacher's: {rarest['gap']:+.3f} nats in the rarest "
                   f"band ({name}), {gap:+.3f} in the mean")


def unstable(log):
    """Judge instability or collapse by the lines of metrics.jsonl, which has None for a nan."""
    said = [f"step {line['step']}: val_ce is nan" for line in log if line.get("val_ce", 0) is None]
    said += [f"step {line['step']}: {text}" for line in log for text in failures(line)]
    skipped = sum(line.get("skipped") or 0 for line in log)
    if skipped:
        said.append(f"{skipped} steps skipped, loss or gradient not finite")
    rose, fits = rise(log)
    if rose and not fits:
        said.append(rose)
    if len(said) > 3:
        said[3:] = [f"{len(said) - 3} more"]
    return Verdict("instability or collapse", bool(said), "; ".join(said) or "nothing in the log")


def overfitting(log):
    """Judge overfitting: val_ce rises while the training text is predicted better."""
    said, fits = rise(log)
    if fits:
        said += (" while the training text is predicted better; take more text, fewer steps, or "
                 "more dropout or weight_decay")
    return Verdict("overfitting", fits, said or "val_ce ends near its lowest")


def rise(log):
    """Return a sentence if val_ce ends 0.1 nats over its lowest, else "", and is CE under that?"""
    val_ce = [(line["val_ce"], line["step"]) for line in log if line.get("val_ce") is not None]
    if not val_ce or val_ce[-1][0] <= min(val_ce)[0] + 0.1:
        return "", False
    lowest, step = min(val_ce)
    ce = [line["ce"] for line in log if line.get("ce") is not None]
    return (f"val_ce {val_ce[-1][0]:.3f} at the end, {lowest:.3f} at step {step}",
            bool(ce) and ce[-1] < lowest)


def paradigms_lost(accuracies):
    """Judge babytalk's minimal pairs {paradigm: accuracy}; one under 75% is lost."""
    lost = [f"{uid} {accuracy:.1%}" for uid, accuracy in accuracies.items() if accuracy < 0.75]
    said = ", ".join(lost) or f"of {len(accuracies)} none is under 75%"
    return Verdict("paradigms lost", bool(lost), said)


# ---------------------------------------------------------------- a run's verdicts

def of_run(log, accuracies, others=()):
    """Return the Verdicts on a run as dicts: `others`, of its log, of its `paradigms`."""
    verdicts = [*others]
    if log:
        verdicts += [unstable(log), overfitting(log)]
    if accuracies:
        verdicts.append(paradigms_lost(accuracies))
    return [verdict._asdict() for verdict in verdicts]


def paradigms(results):
    """Return {paradigm: accuracy} of babytalk's minimal pairs in an eval.json, {} without them."""
    try:
        accuracies = results["babytalk"]["paradigms"].items()
        return {uid: accuracy for uid, accuracy in accuracies if isinstance(accuracy, float)}
    except (LookupError, TypeError, AttributeError):
        return {}


def keep(folder, verdicts):
    """Put verdicts into a run's eval.json, in the place of equal names; return all of it."""
    path = folder / "eval.json"
    names = [verdict["name"] for verdict in verdicts]
    with files.locked(folder):
        results = files.read_json_or_empty(path)
        before = readable(results.get("verdicts"))
        results["verdicts"] = [old for old in before if old["name"] not in names] + verdicts
        files.write_json(path, results)
    return results


def readable(verdicts):
    """Return the verdicts of eval.json that have their form; the file may be damaged."""
    if not isinstance(verdicts, list):
        return []
    return [verdict for verdict in verdicts if isinstance(verdict, dict)
            and type(verdict.get("name")) is type(verdict.get("said")) is str]


def words(label, verdicts):
    """Return lines that tell a run's verdicts, as eval.json has them."""
    verdicts = readable(verdicts)
    found = [verdict for verdict in verdicts if verdict.get("found")]
    absent = [verdict["name"] for verdict in verdicts if verdict not in found]
    said = [f"{label}: {verdict['name'].upper()}: {verdict['said']}" for verdict in found]
    if absent:
        said.append(f"{label}: no sign of {'; '.join(absent)}")
    return wrapped(said)


def wrapped(texts):
    return [line for text in texts for line in textwrap.wrap(text, 80, subsequent_indent="    ")]


# ---------------------------------------------------------------- the log's figures and warnings

def rollout_figures(rollout):
    """Return figures for the log: an estimate of J per position, the largest q / s, and so on.

    With rollout_every also the age, in steps, and the drift, KL(q_old||q) in nats per token.
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
    """Return the share (0-d) of the n-grams of y (B, T) that their row had before; -100 is none."""
    if y.shape[1] < n:
        return torch.zeros((), device=y.device)
    grams = y.unfold(1, n, 1)  # (B, T - n + 1, n)
    valid = (grams != -100).all(-1)
    same = (grams[:, :, None] == grams[:, None]).all(-1)  # (B, G, G)
    same = same & valid[:, :, None] & valid[:, None]
    before = same.tril(-1).any(-1)
    return before.sum() / valid.sum().clamp_min(1)


def failures(line):
    """Yield sentences that name a failure and its remedy, from the figures of a log line."""
    line = {name: figure for name, figure in line.items() if figure is not None}  # None is a nan
    # with teacher_cache entropies are over the top k and the remainder as one token: they tell
    # nothing of a student with most of its mass in the remainder, a young one
    is_known = line.get("mass_q", 1.0) > 0.5
    q, p = line.get("entropy_q", math.inf), line.get("entropy_p", 0.0)
    if is_known and q < p / 3:
        remedy = "raise alpha, lower lr, or use mix < 1"
        if "rollout_kl" in line:  # on rollouts
            remedy = "raise alpha or rollout_mix, lower lr or on_policy, or use mix < 1"
        yield (f"entropy collapse: the student's entropy is {q:.3f} nats, the teacher's {p:.3f}; "
               f"{remedy}")
    if line.get("rollout_repeated", 0) > 0.5:
        yield (f"repetition: {line['rollout_repeated']:.0%} of the 4-grams of the rollouts were "
               "there before; raise rollout_mix or alpha, or start from a better student (init)")
    if line.get("rollout_weight", 0) > 10:
        remedy = "rollout_mix (q / s is at most 1 / (1 - rollout_mix))"
        if line.get("rollout_age"):  # then there is no such bound
            remedy = "rollout_every, lr or rollout_mix"
        yield (f"exploding weights: q / s reaches {line['rollout_weight']:.0f} in the rollouts; "
               f"lower {remedy}")
    if line.get("rollout_drift", 0) > 0.01:  # a bias of a sixth: tests/test_rollouts.py
        yield (f"stale rollouts: the student has moved {line['rollout_drift']:.3f} nats per token "
               "since it wrote them, and their gradient is biased; lower rollout_every or lr")
