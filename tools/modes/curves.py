"""Precision and recall over the sampling temperature, and two students at equal entropy.

Any student that is sampled below temperature 1 is more precise, so one figure does not show
mode-seeking. A `Curve` has precision and recall at each temperature, and `compare` compares two of
them at equal entropy. A difference that is left there is more than sharpening.
"""
import numpy as np
import torch

TEMPERATURES = [round(0.5 + 0.05 * i, 2) for i in range(21)]


def mass(log_p):
    """Return exp(log_p), at least e^-80: below, fp32 has denormal numbers, which are slow."""
    return log_p.clamp_min(-80).exp_()


class Curve:
    """Entropy, precision and recall at each of TEMPERATURES, summed for each text, for intervals.

    sums (texts, temperatures, 3) float64; tokens (texts,) that are predicted.
    """

    def __init__(self, sequences):
        self.sums = torch.zeros(len(sequences), len(TEMPERATURES), 3, dtype=torch.float64)
        self.tokens = torch.tensor([len(s) - 1 for s in sequences], dtype=torch.float64)

    def add(self, number, log_q, judged, p, log=False):
        """Add positions of texts `number` (N,) with a student's log_q (N, V) at temperature 1.

        Precision is the mean of judged (N, V) under q, or with `log` the logarithm of that mean;
        recall is the mean of log q under p (N, V).
        """
        expected = (p * log_q).sum(-1)  # at temperature T this is divided by T
        sides = torch.stack([torch.ones_like(log_q), log_q, judged], 1)  # (N, 3, V)
        w = torch.empty_like(log_q)
        for t, temperature in enumerate(TEMPERATURES):
            # q_T = w / Z; Z cannot vanish, for some word has log_q >= -log V. `mass`, but in place:
            # of a large vocabulary this is most of the work, and new memory most of that
            torch.div(log_q, temperature, out=w).clamp_min_(-80).exp_()
            Z, of_log_q, of_judged = torch.einsum("nv,nkv->kn", w, sides)  # (N,) each
            log_z = Z.log()
            entropy = log_z - of_log_q / Z / temperature
            precision = of_judged / Z
            if log:
                precision = precision.clamp_min(1e-30).log()
            recall = expected / temperature - log_z
            terms = torch.stack([entropy, precision, recall], -1)
            self.sums[:, t].index_add_(0, number, terms.cpu().double())

    def means(self):
        """Return (temperatures, 3) float64: entropy, precision, recall, nats per token."""
        return self.sums.sum(0) / self.tokens.sum()

    def at_entropy(self, entropy):
        """Return (temperature, sums (texts, 2) of precision and recall) at this mean entropy.

        On straight lines between TEMPERATURES; None if no temperature has this entropy.
        """
        entropies = self.means()[:, 0].numpy()  # rises with the temperature
        if not entropies[0] <= entropy <= entropies[-1]:
            return None
        place = float(np.interp(entropy, entropies, np.arange(len(entropies))))
        i = min(int(place), len(entropies) - 2)
        share = place - i
        sums = torch.lerp(self.sums[:, i], self.sums[:, i + 1], share)
        return TEMPERATURES[i] + share * (TEMPERATURES[i + 1] - TEMPERATURES[i]), sums[:, 1:]

    def as_json(self):
        entropy, precision, recall = self.means().T.tolist()
        return dict(temperature=TEMPERATURES, entropy=entropy, precision=precision, recall=recall)


# Smaller differences in precision and recall, nats per token, do not count, however sure. Against
# the truth precision is the log of a mass near 1: 0.002 per token is one line in fifty.
SAME = {"teacher": (0.01, 0.01), "truth": (0.002, 0.01)}

SAID = {  # signs of the differences in precision and recall at equal entropy -> words
    (0, 0): "the curves coincide: the difference is sharpening alone",
    (1, 0): "more precise at equal entropy and no less recall: its curve lies over the other",
    (1, 1): "more precise at equal entropy and more recall: its curve lies over the other",
    (0, 1): "more recall at equal entropy and no less precise: its curve lies over the other",
    (1, -1): "mode-seeking beyond sharpening: at equal entropy more precise, and leaves more out",
    (-1, 1): "mode-covering beyond sharpening: at equal entropy leaves less out, less precise",
    (-1, 0): "less precise at equal entropy and no more recall: its curve lies under the other",
    (0, -1): "less recall at equal entropy and no more precise: its curve lies under the other",
    (-1, -1): "less precise at equal entropy and less recall: its curve lies under the other",
}


def compare(one, other, kind):
    """Compare two Curves on the same text, at the entropy that `one` has at temperature 1.

    Returns a dict: the temperature that gives `other` this entropy; differences (one - other) of
    precision and recall, nats per token, with 95% intervals over texts; signs, and words for them
    (SAID). A difference counts if it is beyond SAME[kind] and the interval is on one side of 0. If
    no temperature gives `other` this entropy, there are words alone.
    """
    at_1 = TEMPERATURES.index(1.0)
    entropy = one.means()[at_1, 0].item()
    matched = other.at_entropy(entropy)
    if matched is None:
        return dict(entropy=entropy, temperature=None, signs=None,
                    said="at no temperature from 0.5 to 1.5 has the other this entropy, so they "
                         "cannot be compared")
    temperature, theirs = matched
    differences = {}
    signs = []
    gaps = one.sums[:, at_1, 1:] - theirs  # (texts, 2)
    for axis, small, gap in zip(("precision", "recall"), SAME[kind], gaps.T):
        mean, low, high = ratio_interval(gap, one.tokens)
        differences[axis] = dict(mean=mean, interval=[low, high])
        counts = abs(mean) > small and (low > 0) == (high > 0)
        signs.append(int(np.sign(mean)) if counts else 0)
    said = SAID[tuple(signs)]
    if signs == [0, 0] and abs(temperature - 1) < 0.03:
        said = "no difference: one curve, and equally sharp"
    return dict(entropy=entropy, temperature=temperature, **differences, signs=signs, said=said)


def ratio_interval(sums, tokens):
    """Return (mean, low, high), 95% over texts, of sums (texts,) divided by all their tokens."""
    mean = (sums.sum() / tokens.sum()).item()
    error = (sums - mean * tokens).square().sum().sqrt().item() / tokens.sum().item()
    return mean, mean - 1.96 * error, mean + 1.96 * error
