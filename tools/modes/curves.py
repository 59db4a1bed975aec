"""Precision and recall over the sampling temperature, and two students at equal entropy.

Any student that is sampled below temperature 1 is more precise, so one figure does not show
mode-seeking. A `Curve` has precision and recall at each temperature, and `compare` compares two of
them at equal entropy. A difference that is left there is more than sharpening.
"""
import numpy as np
import torch

TEMPERATURES = [round(0.5 + 0.05 * i, 2) for i in range(21)]
AT_1 = TEMPERATURES.index(1.0)


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

# signs of the differences in precision and recall at equal entropy -> words
SAYS = {1: "says less that is wrong", 0: "says as much that is wrong",
        -1: "says more that is wrong"}
LEAVES = {1: "leaves less out", 0: "leaves as much out", -1: "leaves more out"}
EFFECTS = {(1, -1): "mode-seeking beyond sharpening", (-1, 1): "mode-covering beyond sharpening",
           (0, 0): "sharpening alone, for the curves coincide"}


def compare(one, other, kind):
    """Compare two Curves on the same text, at the entropy that `one` has at temperature 1.

    Returns a dict: the temperature that gives `other` this entropy; differences (one - other) of
    precision and recall, nats per token, with 95% intervals over texts; their signs, and words for
    them. A difference counts if it is beyond SAME[kind] and the interval is on one side of 0. If no
    temperature gives `other` this entropy, there are words alone.
    """
    entropy = one.means()[AT_1, 0].item()
    matched = other.at_entropy(entropy)
    if matched is None:
        return dict(entropy=entropy, temperature=None, signs=None,
                    said="at no temperature from 0.5 to 1.5 has the other this entropy, so they "
                         "cannot be compared")
    temperature, theirs = matched
    differences = {}
    signs = []
    gaps = one.sums[:, AT_1, 1:] - theirs  # (texts, 2)
    for axis, small, gap in zip(("precision", "recall"), SAME[kind], gaps.T):
        mean, low, high = ratio_interval(gap, one.tokens)
        differences[axis] = dict(mean=mean, interval=[low, high])
        counts = abs(mean) > small and (low > 0) == (high > 0)
        signs.append(int(counts * np.sign(mean)))
    said = in_words(*signs)
    if signs == [0, 0] and abs(temperature - 1) < 0.03:
        said = "no difference: one curve, and equally sharp"
    return dict(entropy=entropy, temperature=temperature, **differences, signs=signs, said=said)


def in_words(precision, recall):
    """Say in words the signs of two differences at equal entropy."""
    place = "over" if precision + recall > 0 else "under"
    effect = EFFECTS.get((precision, recall), f"its curve lies {place} the other")
    return f"{effect}: at equal entropy it {SAYS[precision]} and {LEAVES[recall]}"


def ratio_interval(sums, tokens):
    """Return (mean, low, high), 95% over texts, of sums (texts,) divided by all their tokens."""
    mean = (sums.sum() / tokens.sum()).item()
    error = (sums - mean * tokens).square().sum().sqrt().item() / tokens.sum().item()
    return mean, mean - 1.96 * error, mean + 1.96 * error
