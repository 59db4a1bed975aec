"""Two distributions over the next word, compared exactly at the positions of a text."""
import collections
import dataclasses
import math

import torch
import torch.nn.functional as F

import babytalk
import losses
from onecoach.scoring import positions
from tools.modes import writing
from tools.modes.curves import Curve, mass

BINS = 15             # of confidence, for the calibration error
TOPS = 1, 10, 100
BANDS = 10, 100, 1000, 10_000, math.inf  # ranks of word frequency
ALONE = "ce", "entropy_q", "calibration_error", "positions"  # figures that need no teacher


@dataclasses.dataclass
class Text:
    """The text that all models of a comparison read: sequences of ids, the first as context."""
    sequences: list
    bands: torch.Tensor    # (V,)
    device: torch.device   # of the models

    def walk(self, forward):
        """Yield scoring.positions of a function ids (B, T) -> (B, T, d), over all of the text."""
        return positions(forward, self.sequences, [1] * len(self.sequences),
                         writing.BATCH_TOKENS, self.device)


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


def true_next_word(truth):
    """Return the function ids (B, T) -> log p* (B, T, V) of a babytalk.Truth."""
    return lambda ids: truth.logits(ids)[0]


def frequency_bands(counts):
    """Return (V,) the band in BANDS of each token, by the rank of the count; counts: (V,)."""
    rank = torch.empty(len(counts), dtype=torch.long)
    rank[torch.as_tensor(counts).argsort(descending=True, stable=True)] = torch.arange(len(counts))
    return torch.bucketize(rank, torch.tensor(BANDS[:-1]), right=True)


def band_names():
    starts = [1, *(edge + 1 for edge in BANDS[:-1])]
    return [f"rank {a:,} to {b:,}" if b < math.inf else f"beyond {a - 1:,}"
            for a, b in zip(starts, BANDS)]


class Sums:
    """Means over positions, added up chunk by chunk; `figures` at the end.

    bands: (V,) from frequency_bands, on the CPU.
    """

    def __init__(self, bands):
        self.bands = bands
        self.terms = collections.Counter()
        self.n = 0
        self.in_band = torch.zeros(3, len(BANDS), dtype=torch.float64)  # n, CE of q, CE of p
        self.overconfidence = torch.zeros(BINS, dtype=torch.float64)  # confidence minus hits

    def add(self, log_q, log_p, label):
        """Add positions with log_q, log_p (N, V) for the next word, which was label (N,)."""
        q = mass(log_q)
        p = mass(log_p)
        ce_q = F.nll_loss(log_q, label, reduction="none")
        ce_p = F.nll_loss(log_p, label, reduction="none")
        terms = dict(ce=ce_q, ce_teacher=ce_p, fkl=(p * (log_p - log_q)).sum(-1),
                     rkl=(q * (log_q - log_p)).sum(-1), entropy_q=-(q * log_q).sum(-1),
                     entropy_p=-(p * log_p).sum(-1), precision=(q * log_p).sum(-1),
                     recall=(p * log_q).sum(-1))

        # the mass of each on the likeliest words of either
        masses = dict(q=q, p=p)
        for judge, judged_by in masses.items():
            top = judged_by.topk(min(max(TOPS), q.shape[1])).indices
            for name, judged in masses.items():
                on_top = judged.gather(1, top)
                for k in TOPS:
                    terms[f"{name}_on_top_{k}_of_{judge}"] = on_top[:, :k].sum(-1)
        self.terms.update({name: term.cpu().double().sum().item() for name, term in terms.items()})
        self.n += len(label)

        counted = torch.stack([torch.ones_like(ce_q), ce_q, ce_p]).cpu().double()
        self.in_band.index_add_(1, self.bands[label.cpu()], counted)
        confidence, guess = q.max(-1)
        bin = (confidence * BINS).long().clamp_max(BINS - 1)
        self.overconfidence.index_add_(0, bin.cpu(), (confidence - (guess == label).double()).cpu())

    def figures(self):
        """Return {name: mean}, with bands {name: ...} that have a word, and calibration_error."""
        means = {name: total / self.n for name, total in self.terms.items()}
        bands = {}
        for name, (n, ce_q, ce_p) in zip(band_names(), self.in_band.T.tolist()):
            if n:
                bands[name] = dict(share=n / self.n, ce=ce_q / n, ce_teacher=ce_p / n,
                                   gap=(ce_q - ce_p) / n)
        error = self.overconfidence.abs().sum().item() / self.n
        return dict(**means, bands=bands, calibration_error=error, positions=self.n)


@torch.no_grad()
def measure(student, teacher, text, truth=None):
    """Measure a student against a teacher: (figures, {kind: Curve}).

    student, teacher, truth: functions ids (B, T) -> log-probabilities (B, T, V). Without a teacher
    (None) the figures are ALONE and bands; babytalk's truth adds a Curve.
    """
    forwards = dict(student=student, teacher=teacher, truth=truth)
    forwards = {kind: forward for kind, forward in forwards.items() if forward}
    sums = Sums(text.bands)
    curves = {kind: Curve(text.sequences) for kind in forwards if kind != "student"}
    for chunks in zip(*map(text.walk, forwards.values())):
        number, log_q, label = chunks[0]
        values = {kind: log_probs for kind, (_, log_probs, _) in zip(forwards, chunks)}
        sums.add(log_q, values.get("teacher", log_q), label)
        if teacher:
            log_p = values["teacher"]
            curves["teacher"].add(number, log_q, log_p, mass(log_p))
        if truth:
            inside = (values["truth"] > babytalk.Truth.FLOOR).float()
            curves["truth"].add(number, log_q, inside, mass(values["truth"]) * inside, log=True)

    figures = sums.figures()
    if not teacher:
        bands = {name: dict(share=band["share"], ce=band["ce"])
                 for name, band in figures["bands"].items()}
        figures = {name: figures[name] for name in ALONE} | {"bands": bands}
    return figures, curves
