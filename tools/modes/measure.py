"""Two distributions over the next word, compared exactly at the positions of a text."""
import collections
import dataclasses
import math

import torch
import torch.nn.functional as F

import babytalk
import losses
from onecoach.scoring import positions
from tools.modes.curves import Curve, mass

BINS = 15             # of confidence, for the calibration error
BATCH_TOKENS = 2048   # of a forward pass that keeps all logits
BANDS = {"rank 1 to 10": 10, "rank 11 to 100": 100, "rank 101 to 1,000": 1000,
         "rank 1,001 to 10,000": 10_000, "beyond 10,000": math.inf}  # of word frequency


@dataclasses.dataclass
class Text:
    """The text that all models of a comparison read: sequences of ids, the first as context."""
    sequences: list
    bands: torch.Tensor    # (V,)
    device: torch.device   # of the models

    def walk(self, forward):
        """Yield scoring.positions of a function ids (B, T) -> (B, T, d), over all of the text."""
        return positions(forward, self.sequences, [1] * len(self.sequences), BATCH_TOKENS,
                         self.device)


def next_word(models, ensemble="logits"):
    """Return the function ids (B, T) -> log-probabilities (B, T, V) of a model or an ensemble.

    The ids may be on any device; the log-probabilities are on the models'.
    """
    device = next(models[0].parameters()).device

    def forward(ids):
        ids = ids.to(device)
        z = [model.logits(model(ids)).float() for model in models]
        return losses.teacher_log_probs(z, 1.0, ensemble)
    return forward


def true_next_word(tokenizer):
    """Return the function ids (B, T) -> log p* (B, T, V) of babytalk's truth."""
    truth = babytalk.Truth(tokenizer)
    return lambda ids: truth.logits(ids)[0]


def frequency_bands(counts):
    """Return (V,) the number of the band of each token, by the rank of the count; counts: (V,)."""
    rank = torch.as_tensor(counts).argsort(descending=True, stable=True).argsort()
    return torch.bucketize(rank, torch.tensor([*BANDS.values()][:-1]), right=True)


def terms(log_q, log_p, label):
    """Return {figure: (N,)} at positions with log_q, log_p (N, V) for the next word, label (N,).

    Without a teacher (log_p is None) there are the figures of q alone.
    """
    q = mass(log_q)
    ce = F.nll_loss(log_q, label, reduction="none")
    alone = dict(ce=ce, entropy_q=-(q * log_q).sum(-1))
    if log_p is None:
        return alone
    p = mass(log_p)
    ce_teacher = F.nll_loss(log_p, label, reduction="none")
    first = log_p.argmax(-1, keepdim=True)
    return alone | dict(
        ce_teacher=ce_teacher, gap=ce - ce_teacher, entropy_p=-(p * log_p).sum(-1),
        fkl=(p * (log_p - log_q)).sum(-1), rkl=(q * (log_q - log_p)).sum(-1),
        precision=(q * log_p).sum(-1), recall=(p * log_q).sum(-1),
        q_on_top_1_of_p=q.gather(1, first)[:, 0], p_on_top_1_of_p=p.gather(1, first)[:, 0])


class Sums:
    """`terms` added up chunk by chunk, in bands of word frequency; `figures` at the end."""

    def __init__(self, bands):
        self.bands = bands  # (V,) from frequency_bands, on the CPU
        self.sums = collections.Counter()  # figure -> (BANDS,) float64
        self.counts = torch.zeros(len(BANDS), dtype=torch.float64)
        self.overconfidence = torch.zeros(BINS, dtype=torch.float64)  # confidence minus hits

    def add(self, log_q, log_p, label):
        band = self.bands[label.cpu()]
        self.counts += torch.bincount(band, minlength=len(BANDS))
        for name, term in terms(log_q, log_p, label).items():
            self.sums[name] += torch.bincount(band, term.cpu().double(), len(BANDS))

        log_confidence, guess = log_q.max(-1)
        confidence = log_confidence.exp()
        bin = (confidence * BINS).long().clamp_max(BINS - 1)
        over = confidence - (guess == label).double()
        self.overconfidence.index_add_(0, bin.cpu(), over.cpu())

    def figures(self):
        """Return {figure: mean}, the same in bands that have a word, and calibration_error."""
        n = self.counts.sum().item()
        means = {name: sums.sum().item() / n for name, sums in self.sums.items()}
        bands = {}
        for i, name in enumerate(BANDS):
            if count := self.counts[i].item():
                bands[name] = {"share": count / n} | {
                    figure: sums[i].item() / count for figure, sums in self.sums.items()}
        error = self.overconfidence.abs().sum().item() / n
        return dict(**means, bands=bands, calibration_error=error, positions=int(n))


@torch.no_grad()
def measure(student, teacher, text, truth=None):
    """Measure a student against a teacher: (figures, {kind: Curve}).

    student, teacher, truth: functions ids (B, T) -> log-probabilities (B, T, V). Without a teacher
    (None) there are the figures of q alone; babytalk's truth adds a Curve.
    """
    forwards = dict(student=student, teacher=teacher, truth=truth)
    forwards = {kind: forward for kind, forward in forwards.items() if forward}
    sums = Sums(text.bands)
    curves = {kind: Curve(text.sequences) for kind in forwards if kind != "student"}
    for chunks in zip(*map(text.walk, forwards.values())):
        number, log_q, label = chunks[0]
        values = {kind: log_probs for kind, (_, log_probs, _) in zip(forwards, chunks)}
        sums.add(log_q, values.get("teacher"), label)
        if teacher:
            log_p = values["teacher"]
            curves["teacher"].add(number, log_q, log_p, mass(log_p))
        if truth:
            inside = (values["truth"] > babytalk.Truth.FLOOR).float()
            curves["truth"].add(number, log_q, inside, mass(values["truth"]) * inside, log=True)

    return sums.figures(), curves
