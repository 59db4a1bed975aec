"""Does a student seek modes? Measured on its distributions, against its teacher and other students.

    python -m tools.modes RUN [RUN ...]

Each RUN is compared with its own teacher; one without a teacher (a baseline) with the teacher of
the first RUN beside it that has one. Students in the same folder are compared with each other, at
equal entropy, so that what a lower sampling temperature would do too is not called mode-seeking.
What is found is printed in words and kept in RUN/modes.json.

In this order: what the distributions have between them at the positions of a text (`measure`);
precision and recall over the temperature, and two curves at equal entropy (`Curve`, `compare`);
what a student writes freely (`written`); failure signatures, each a rule with its thresholds
(`signatures`); the command.

    precision   E_q[log p], nats a token: what p thinks of what q would say
    recall      E_p[log q], nats a token: what q thinks of what p would say
    on babytalk, where the truth p* is known, also   precision: log of q's mass inside the language;
                recall: E_p*[log q]

The expectations are exact over the next word, at prefixes of the text.
"""
from config import Arguments, UserError, read_early, run_main


def read_args(argv):
    parser = Arguments("-m tools.modes", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders")
    return parser.parse_args(argv)


if __name__ == "__main__":
    read_early(read_args)

import collections
import dataclasses
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

import babytalk
import eval
import files
import losses
import rollouts
import run
from data import prepare
from tools import rules

LINES = 1000          # of babytalk, drawn from the truth
POSITIONS = 16_000    # of real text
WRITTEN = 500         # texts that each model writes
DIVERSITY = 2000      # tokens of them by which distinct n-grams are counted: it falls with length
BATCH_TOKENS = 2048   # of a forward pass that keeps all logits
BINS = 15             # of confidence, for the calibration error
TOPS = 1, 10, 100
BANDS = 10, 100, 1000, 10_000, math.inf  # ranks of word frequency
TEMPERATURES = [round(0.5 + 0.05 * i, 2) for i in range(21)]


# ---------------------------------------------------------------- at the positions of a text

def next_word(models, ensemble="logits"):
    """The function ids (B, T) -> log-probabilities (B, T, V) of one model, or of an ensemble."""
    def forward(ids):
        z = [model.logits(model(ids)).float() for model in models]
        return losses.teacher_log_probs(z, 1.0, ensemble)
    return forward


def mass(log_p):
    """exp, of what is over e^-80: below, fp32 runs into denormal numbers, which are slow."""
    return log_p.clamp_min(-80).exp()


def bands_of(counts):
    """(V,) the band in BANDS of each token, by the rank of its count; counts: (V,)."""
    rank = torch.empty(len(counts), dtype=torch.long)
    rank[torch.as_tensor(counts).argsort(descending=True, stable=True)] = torch.arange(len(counts))
    return torch.bucketize(rank, torch.tensor(BANDS[:-1]), right=True)


def band_names():
    starts = [1, *(edge + 1 for edge in BANDS[:-1])]
    return [f"rank {a:,} to {b:,}" if b < math.inf else f"beyond {a - 1:,}"
            for a, b in zip(starts, BANDS)]


class Sums:
    """Means over positions, added up chunk by chunk: `figures` at the end.

    bands: (V,) of bands_of, on the CPU.
    """

    def __init__(self, bands):
        self.bands = bands
        self.terms = collections.Counter()
        self.n = 0
        self.in_band = torch.zeros(3, len(BANDS), dtype=torch.float64)  # n, CE of q, CE of p
        self.in_bin = torch.zeros(3, BINS, dtype=torch.float64)  # n, confidence, hits

    def add(self, log_q, log_p, label):
        """log_q, log_p (N, V) of the next word, label (N,) the one that came."""
        q = mass(log_q)
        p = mass(log_p)
        ce_q = F.nll_loss(log_q, label, reduction="none")
        ce_p = F.nll_loss(log_p, label, reduction="none")
        terms = dict(ce=ce_q, ce_teacher=ce_p, fkl=(p * (log_p - log_q)).sum(-1),
                     rkl=(q * (log_q - log_p)).sum(-1), entropy_q=-(q * log_q).sum(-1),
                     entropy_p=-(p * log_p).sum(-1), precision=(q * log_p).sum(-1),
                     recall=(p * log_q).sum(-1))
        for k in TOPS:
            k_or_all = min(k, q.shape[1])
            tops_p, of_p = p.topk(k_or_all)
            tops_q, of_q = q.topk(k_or_all)
            terms[f"q_on_top_{k}_of_p"] = q.gather(1, of_p).sum(-1)
            terms[f"p_on_top_{k}_of_p"] = tops_p.sum(-1)
            terms[f"p_on_top_{k}_of_q"] = p.gather(1, of_q).sum(-1)
            terms[f"q_on_top_{k}_of_q"] = tops_q.sum(-1)
        self.terms.update({name: term.double().sum().item() for name, term in terms.items()})
        self.n += len(label)

        band = self.bands[label.cpu()]
        counted = torch.stack([torch.ones_like(ce_q), ce_q, ce_p]).double().cpu()
        self.in_band.index_add_(1, band, counted)
        confidence, guess = q.max(-1)
        bin = (confidence * BINS).long().clamp_max(BINS - 1).cpu()
        hit = (guess == label).float()
        counted = torch.stack([torch.ones_like(hit), confidence, hit]).double().cpu()
        self.in_bin.index_add_(1, bin, counted)

    def figures(self):
        """{name: mean}, bands {name: ...} of those that have a word, calibration_error (ECE)."""
        means = {name: total / self.n for name, total in self.terms.items()}
        bands = {}
        for name, (n, ce_q, ce_p) in zip(band_names(), self.in_band.T.tolist()):
            if n:
                bands[name] = dict(share=n / self.n, ce=ce_q / n, ce_teacher=ce_p / n,
                                   gap=(ce_q - ce_p) / n)
        _, confidence, hits = self.in_bin
        error = (confidence - hits).abs().sum().item() / self.n
        return dict(**means, bands=bands, calibration_error=error, positions=self.n)


Measured = collections.namedtuple("Measured", "figures curves rules")


@torch.no_grad()
def measure(student, teacher, text, truth=None):
    """A student beside its teacher on a Text: Measured(figures, {kind: Curve}, [rules.Rule]).

    student, teacher: functions ids (B, T) -> log-probabilities (B, T, V). With truth, a
    babytalk.Truth, there is a second Curve, and what falls to each rule of the grammar.
    """
    sums = Sums(text.bands)
    curves = {"teacher": Curve(text.sequences)}
    rows = []
    if truth:
        curves["truth"] = Curve(text.sequences)
        rows = [row[:, 0] for _, row, _ in text.walk(lambda ids: truth.rows(ids)[..., None])]
        visits = torch.cat(rows).bincount(minlength=len(truth.table))
        q_of_row = torch.zeros(truth.table.shape)
    chunks = zip(text.walk(student), text.walk(teacher))
    for i, ((number, log_q, label), (_, log_p, _)) in enumerate(chunks):
        sums.add(log_q, log_p, label)
        if truth:
            log_p_star = truth.table[rows[i]].to(log_q.device)
            inside = (log_p_star > truth.FLOOR).float()
            q_of_row.index_add_(0, rows[i], mass(log_q).cpu())
            curves["truth"].add(number, log_q, inside, mass(log_p_star) * inside, log=True)
        curves["teacher"].add(number, log_q, log_p, mass(log_p))
    of_rules = []
    if truth:
        of_rules = rules.rule_masses(truth, q_of_row, visits, len(text.sequences))
    return Measured(sums.figures(), curves, of_rules)


# ---------------------------------------------------------------- two students at equal entropy

class Curve:
    """Entropy, precision and recall at each of TEMPERATURES, kept a text, for intervals.

    sums (texts, temperatures, 3) float64; tokens (texts,) that are predicted.
    """

    def __init__(self, sequences):
        self.sequences = sequences
        self.sums = torch.zeros(len(sequences), len(TEMPERATURES), 3, dtype=torch.float64)
        self.tokens = torch.tensor([len(s) - 1 for s in sequences], dtype=torch.float64)

    def add(self, number, log_q, judged, p, log=False):
        """Positions of texts `number` (N,), of a student's log_q (N, V) at temperature 1.

        judged (N, V): what precision is the mean of under q, with log the log of that mean; p
        (N, V): what recall is the mean under.
        """
        expected = (p * log_q).sum(-1)  # at temperature T this is divided by T
        for t, temperature in enumerate(TEMPERATURES):
            z = log_q / temperature
            log_z = z.logsumexp(-1)
            q = mass(z - log_z[:, None])
            entropy = log_z - (q * log_q).sum(-1) / temperature
            precision = (q * judged).sum(-1)
            if log:
                precision = precision.clamp_min(1e-30).log()
            recall = expected / temperature - log_z
            terms = torch.stack([entropy, precision, recall], -1)
            self.sums[:, t].index_add_(0, number, terms.double().cpu())

    def means(self):
        """(temperatures, 3) float64: entropy, precision, recall, nats a token."""
        return self.sums.sum(0) / self.tokens.sum()

    def at_entropy(self, entropy):
        """(temperature, sums (texts, 2) of precision and recall) where the entropy is this one.

        On straight lines between TEMPERATURES; None where no temperature has it.
        """
        have = self.means()[:, 0].numpy()  # rises with the temperature
        if not have[0] <= entropy <= have[-1]:
            return None
        where = float(np.interp(entropy, have, np.arange(len(have))))
        i = min(int(where), len(have) - 2)
        share = where - i
        sums = (1 - share) * self.sums[:, i] + share * self.sums[:, i + 1]
        return float(np.interp(where, np.arange(len(have)), TEMPERATURES)), sums[:, 1:]

    def as_json(self):
        entropy, precision, recall = self.means().T.tolist()
        return dict(temperature=TEMPERATURES, entropy=entropy, precision=precision, recall=recall)


# Below these, nats a token, a difference is none, however sure: of precision, of recall. Against
# the truth precision is the log of a mass near 1: 0.002 a token is one line in fifty.
SAME = {"teacher": (0.01, 0.01), "truth": (0.002, 0.01)}

SAID = {  # signs of the differences in precision and recall at equal entropy -> what that is
    (0, 0): "the curves coincide: what parts them is sharpening alone",
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
    """Two Curves on the same text, at the entropy that `one` has at temperature 1.

    The temperature that gives `other` this entropy; differences (one - other) of precision and
    recall, nats a token, each with its 95% interval over texts; how they range over all entropies
    that both reach; and in words what it is (SAID): a difference counts if it is beyond SAME[kind]
    and its interval is on one side of 0. Where no temperature brings the entropies together there
    is said that, and no figure.
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

    ranges = []
    for entropy_t, precision, recall in one.means().tolist():
        there = other.at_entropy(entropy_t)
        if there:
            means = there[1].sum(0) / other.tokens.sum()
            ranges.append([precision - means[0].item(), recall - means[1].item()])
    low, high = np.min(ranges, 0), np.max(ranges, 0)
    for axis, a, b in zip(("precision", "recall"), low.tolist(), high.tolist()):
        differences[axis]["over_the_curve"] = [a, b]
    said = SAID[tuple(signs)]
    if signs == [0, 0] and abs(temperature - 1) < 0.03:
        said = "no difference: one curve, and equally sharp"
    return dict(entropy=entropy, temperature=temperature, **differences, signs=signs, said=said)


def ratio_interval(sums, tokens):
    """(mean, low, high), 95%: sums over texts divided by their tokens; texts are what varies."""
    mean = (sums.sum() / tokens.sum()).item()
    error = (sums - mean * tokens).square().sum().sqrt().item() / tokens.sum().item()
    return mean, mean - 1.96 * error, mean + 1.96 * error


# ---------------------------------------------------------------- what it writes freely

def distinct(texts, n):
    """Share of different n-grams among those of texts (lists of ids), of their first DIVERSITY."""
    grams = [tuple(ids[i:i + n]) for ids in texts for i in range(len(ids) - n + 1)][:DIVERSITY]
    return len(set(grams)) / max(1, len(grams))


def longest_repeat(ids):
    """Tokens of the longest span of ids that stands in them twice; the two may overlap."""
    ids = np.asarray(ids)
    longest = 0
    for lag in range(1, len(ids)):
        same = np.concatenate([[0], ids[:-lag] == ids[lag:], [0]])
        breaks = np.flatnonzero(same == 0)
        longest = max(longest, int(np.diff(breaks).max()) - 1)
    return longest


def diversity(texts, ended):
    """What texts (lists of ids) are like; ended: a bool each."""
    width = max(map(len, texts))
    y = torch.tensor([[*ids, *[-100] * (width - len(ids))] for ids in texts])
    repeated = rollouts.repeated(y).item() if width >= 4 else 0.0
    return dict(**{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}, repeated=repeated,
                longest_repeat=max(map(longest_repeat, texts)),
                mean_length=float(np.mean([len(ids) for ids in texts])),
                never_ends=1 - float(np.mean(ended)), texts=len(texts))


def log_likelihood(forward, tokenizer, texts, device):
    """Mean log-probability a token, nats, of texts (lists of ids), each after `<s>`."""
    sequences = [[tokenizer.bos_id, *ids] for ids in texts]
    total = 0.0
    for _, log_p, label in eval.positions(forward, sequences, [1] * len(texts), BATCH_TOKENS,
                                          device):
        total -= F.nll_loss(log_p, label, reduction="sum").item()
    return total / sum(map(len, texts))


def written(subject, forward, teacher, longest, seed=0):
    """Figures of WRITTEN texts that a model writes after `<s>` at temperature 1, and some of them.

    log_p, log_q: mean a token under teacher and model. A text ends at its first newline where
    every line of the corpus was marked by `<s>`; else it goes on to 64 tokens, and one without a
    newline never ended. On babytalk: right, the share that is in the language, and dialect_a.
    longest: tokens of a text that are scored, for a GPT-2 among the readers reads no more.
    """
    _, model, tokenizer, config = subject
    newline = tokenizer.newline_id
    stop = newline if config.mark == "line" else -1
    texts = eval.samples(model, tokenizer, "", WRITTEN, seed=seed, stop=stop)
    ids = [tokenizer.encode(text) for text in texts]
    ids = [tokens for tokens in ids if tokens]
    device = next(model.parameters()).device
    figures = diversity(ids, [newline in tokens for tokens in ids])
    scored = [tokens[:longest] for tokens in ids]
    figures["log_p"] = log_likelihood(teacher, tokenizer, scored, device)
    figures["log_q"] = log_likelihood(forward, tokenizer, scored, device)
    if config.corpus == "babytalk":
        right = [text.endswith("\n") and babytalk.contains(text) for text in texts]
        figures["right"] = float(np.mean(right))
        figures["dialect_a"] = float(rules.dialect_shares(texts)[0])
    return figures | {"examples": texts[:5]}


# ---------------------------------------------------------------- failure signatures

# found: does the run have it; said: what was found, with the figures
Verdict = collections.namedtuple("Verdict", "name found said")


def averaged(figures, of_student, of_teacher):
    """Averaged or generic output: flatter than the teacher and less on its first word, or bland.

    figures: of `measure`; of_student, of_teacher: of `written`. Thresholds: entropy over 1.05
    times the teacher's and mass on its first word under 0.95 times its own; or distinct 2-grams
    under 0.8 times the teacher's.
    """
    q, p = figures["entropy_q"], figures["entropy_p"]
    q_top, p_top = figures["q_on_top_1_of_p"], figures["p_on_top_1_of_p"]
    d_q, d_p = of_student["distinct_2"], of_teacher["distinct_2"]
    flat = q > 1.05 * p and q_top < 0.95 * p_top
    bland = d_q < 0.8 * d_p
    return Verdict("averaged or generic output", flat or bland,
                   f"entropy {q:.3f} nats, the teacher's {p:.3f}; mass on the teacher's first word "
                   f"{q_top:.3f}, its own {p_top:.3f}; distinct 2-grams {d_q:.3f}, its {d_p:.3f}")


def rare_lost(figures, of_rules=()):
    """Rare patterns lost: the gap to the teacher is widest where words are rare, or a rule is gone.

    Thresholds: in the rarest band that holds 1% of the words a gap in cross-entropy over twice the
    mean gap and 0.05 nats over it; a rule of the grammar with less than a tenth of p*'s mass.
    """
    gap = figures["ce"] - figures["ce_teacher"]
    bands = [(name, band) for name, band in figures["bands"].items() if band["share"] >= 0.01]
    name, rarest = bands[-1]
    beyond = rarest["gap"] > max(2 * gap, gap + 0.05)
    lost = [rule for rule in of_rules if rule.q < rule.p / 10]
    said = (f"cross-entropy over the teacher's: {rarest['gap']:+.3f} nats in the rarest band "
            f"({name}), {gap:+.3f} in the mean")
    if of_rules:
        worst = min(of_rules, key=lambda rule: rule.q / rule.p)
        named = ", ".join(rule.name for rule in lost[-5:]) or "none"  # the commonest of them
        said += (f"; rules with under a tenth of the truth's mass ({len(lost)} of "
                 f"{len(of_rules)}): {named}; the least is {worst.name} ({worst.q:.2g} for "
                 f"{worst.p:.2g} uses a line)")
    return Verdict("rare patterns lost", beyond or bool(lost), said)


def unstable(log):
    """Instability or collapse, by the lines of metrics.jsonl.

    Thresholds: those of rollouts.failures (entropy under a third of the teacher's, ...); steps
    skipped for they were not finite; a last val_ce 0.1 nats over the lowest.
    """
    said = [f"step {line['step']}: {words}" for line in log for words in rollouts.failures(line)]
    skipped = sum(line.get("skipped", 0) for line in log)
    if skipped:
        said.append(f"{skipped} steps skipped, loss or gradient not finite")
    val_ce = [(line["val_ce"], line["step"]) for line in log
              if isinstance(line.get("val_ce"), float)]
    if val_ce and val_ce[-1][0] > min(val_ce)[0] + 0.1:
        lowest, step = min(val_ce)
        said.append(f"val_ce {val_ce[-1][0]:.3f} at the end, {lowest:.3f} at step {step}")
    words = "; ".join([*said[:3], *([f"{len(said) - 3} more"] if len(said) > 3 else [])])
    return Verdict("instability or collapse", bool(said), words or "nothing in the log")


def degenerate(of_student, of_teacher):
    """Circling: thresholds: over half of the 4-grams were there before, or 30% more texts than of
    the teacher's never end."""
    circles = of_student["repeated"] > 0.5
    endless = of_student["never_ends"] > of_teacher["never_ends"] + 0.3
    return Verdict("repetition, texts without an end", circles or endless,
                   f"{of_student['repeated']:.1%} of 4-grams repeated (the teacher's "
                   f"{of_teacher['repeated']:.1%}), {of_student['never_ends']:.1%} never end "
                   f"({of_teacher['never_ends']:.1%})")


def paradigms_lost(accuracies):
    """Minimal pairs of babytalk {paradigm: accuracy} that are lost; threshold: under 75%."""
    lost = [f"{uid} {accuracy:.1%}" for uid, accuracy in accuracies.items() if accuracy < 0.75]
    said = ", ".join(lost) or f"of {len(accuracies)} none is under 75%"
    return Verdict("paradigms lost", bool(lost), said)


def signatures(measured, of_student, of_teacher, log, accuracies):
    """All Verdicts of a run."""
    verdicts = [averaged(measured.figures, of_student, of_teacher),
                rare_lost(measured.figures, measured.rules),
                unstable(log), degenerate(of_student, of_teacher)]
    return verdicts + ([paradigms_lost(accuracies)] if accuracies else [])


# ---------------------------------------------------------------- runs, and their text

@dataclasses.dataclass
class Text:
    """What all models of a comparison read: sequences of ids, each one's first as context."""
    sequences: list
    bands: torch.Tensor  # (V,)
    device: torch.device

    def walk(self, forward):
        """eval.positions of a function ids (B, T) -> (B, T, d), over all of the text."""
        return eval.positions(forward, self.sequences, [1] * len(self.sequences), BATCH_TOKENS,
                              self.device)


def text_of(subject, device):
    """The Text that a run is measured on.

    On babytalk LINES lines drawn from the truth, bands by 20,000 others; else blocks of the
    reported half of the development text, POSITIONS in all, bands by the training text.
    """
    _, _, tokenizer, config = subject
    if config.corpus == "babytalk":
        lines = babytalk.sample(LINES, "modes")
        sequences = [np.array([tokenizer.bos_id, *tokenizer.encode(line)]) for line in lines]
        others = tokenizer.encode("".join(babytalk.sample(20_000, "modes, bands")))
        counts = np.bincount(others, minlength=tokenizer.vocab_size)
        return Text(sequences, bands_of(counts), device)
    sequences = []
    halves = eval.own_text(subject)
    T = config.longest
    for ids in halves.values():
        blocks = eval.in_blocks(ids, T)
        n = min(len(blocks), max(1, POSITIONS // len(halves) // T))
        sequences += [blocks[i] for i in np.linspace(0, len(blocks) - 1, n).astype(int)]
    tokens = prepare(config).train.tokens
    counts = np.bincount(tokens, minlength=tokenizer.vocab_size)
    return Text(sequences, bands_of(counts), device)


class Truth(babytalk.Truth):
    """babytalk's truth as the teacher that a run names "truth": ids -> log p*, its zeros kept."""

    def rows(self, ids):
        """The table's row (B, T) after each of ids (B, T)."""
        return self.walk(ids, [{}] * len(ids))

    def forward(self, ids):
        return self.logits(ids)[0]


def coach_of(folder, config, tokenizer, device):
    """(name, function ids -> log p, [Subject]) of a run's teachers; the truth is no Subject."""
    if config.teachers == ["truth"]:
        return "truth", Truth(tokenizer).forward, []
    loaded = []
    for name in config.teachers:
        if name == "truth":
            raise UserError(f"{folder}: the truth in an ensemble is not measured here")
        model, its, its_config = run.load(folder.with_name(name), device)
        if its.hash != tokenizer.hash:
            raise UserError(f"{folder.with_name(name)}: another tokenizer than {folder}'s")
        if run.other_text(folder, folder.with_name(name)):
            raise UserError(f"{folder.with_name(name)} was trained on other text than {folder}, "
                            "which it is said to have taught; put the teacher back that did")
        loaded.append(eval.Subject(folder.with_name(name), model, its, its_config))
    forward = next_word([subject.model for subject in loaded], config.ensemble)
    return " and ".join(config.teachers), forward, loaded


def load_all(folders):
    """[(Subject, the Subject whose teachers it is compared with)] of run folders.

    UserError where a folder is given twice.
    """
    subjects = []
    for folder in folders:
        folder = pathlib.Path(folder)
        model, tokenizer, config = run.load(folder)
        device = run.device_of(config)
        subjects.append(eval.Subject(folder, model.to(device), tokenizer, config))
        if folder.resolve() in [s.folder.resolve() for s in subjects[:-1]]:
            raise UserError(f"{folder} is given twice")
    return [(subject, coached_for(subject, subjects)) for subject in subjects]


def coached_for(subject, subjects):
    """The Subject whose teachers this one is compared with: its own, or those of a run beside it.

    UserError where nobody has a teacher, or that run has another tokenizer or other text.
    """
    if subject.config.teachers:
        return subject
    coached = [other for other in subjects if other.config.teachers]
    beside = [other for other in coached if other.folder.parent == subject.folder.parent]
    if not coached:
        raise UserError(f"{subject.folder} has no teacher to be compared with; name a run that was "
                        "distilled beside it")
    chosen = (beside or coached)[0]
    if chosen.tokenizer.hash != subject.tokenizer.hash:
        raise UserError(f"{subject.folder} and {chosen.folder} have different tokenizers, so their "
                        "distributions cannot be compared")
    if run.other_text(subject.folder, chosen.folder):
        raise UserError(f"{subject.folder} was trained on other text than {chosen.folder}, so its "
                        "distance from that one's teacher says nothing; name a run that was "
                        "distilled on the same text")
    return chosen


# ---------------------------------------------------------------- the command

@dataclasses.dataclass
class Found:
    """What is found of one run: its dict for modes.json, and what pictures need beside it."""
    subject: eval.Subject
    teacher: str
    forward: object            # ids -> log q
    teacher_forward: object    # ids -> log p
    measured: Measured
    result: dict


def look_at(subject, coached, text):
    """The Found of one run beside the teachers that the run `coached` names."""
    folder, model, tokenizer, config = subject
    truth = Truth(tokenizer) if config.corpus == "babytalk" else None
    name, teacher, coaches = coach_of(coached.folder, coached.config, tokenizer, text.device)
    forward = next_word([model])
    measured = measure(forward, teacher, text, truth)

    longest = min(eval.longest_input(reader.model) for reader in (subject, *coaches))
    longest = None if longest == math.inf else longest
    of_student = written(subject, forward, teacher, longest)
    if coaches:  # of several the first one writes
        of_teacher = written(coaches[0], teacher, teacher, longest)
    else:  # the truth writes for itself
        lines = babytalk.sample(WRITTEN, "modes, written")
        ids = [tokenizer.encode(line) for line in lines]
        of_teacher = diversity(ids, [True] * len(ids)) | {"examples": lines[:5]}
    log = files.read_metrics(folder / "metrics.jsonl")
    path = folder / "eval.json"
    evaluated = files.read_json(path) if path.exists() else {}
    accuracies = (evaluated.get("babytalk") or {}).get("paradigms", {})
    verdicts = signatures(measured, of_student, of_teacher, log, accuracies)
    result = dict(teacher=name, text=dict(texts=len(text.sequences)), figures=measured.figures,
                  curves={kind: curve.as_json() for kind, curve in measured.curves.items()},
                  written=of_student, written_by_teacher=of_teacher, paradigms=accuracies,
                  rules=[rule._asdict() for rule in measured.rules],
                  verdicts=[verdict._asdict() for verdict in verdicts], against={})
    return Found(subject, name, forward, teacher, measured, result)


def examine(folders):
    """Measure the runs in folders, compare them, write each one's modes.json; [Found].

    Students are compared with those before them in the same parent folder; where no two are in
    one, each with each.
    """
    founds = []
    texts = {}  # runs of one corpus and tokenizer read the same
    for subject, coached in load_all(folders):
        config = subject.config
        key = (subject.tokenizer.hash, config.corpus, config.dev, config.longest)
        if key not in texts:
            texts[key] = text_of(subject, run.device_of(config))
        founds.append(look_at(subject, coached, texts[key]))
    for one, other in pairs_of(founds):
        against = {kind: compare(curve, other.measured.curves[kind], kind)
                   for kind, curve in one.measured.curves.items()}
        one.result["against"][str(other.subject.folder)] = against
    for found in founds:
        files.write_json(found.subject.folder / "modes.json", without_nan(found.result))
    return founds


def pairs_of(founds):
    """[(one, other)] that are compared: the later of two with the earlier, of equal text."""
    pairs = [(founds[j], founds[i]) for j in range(len(founds)) for i in range(j)]
    pairs = [(a, b) for a, b in pairs if comparable(a, b)]
    beside = [(a, b) for a, b in pairs if a.subject.folder.parent == b.subject.folder.parent]
    return beside or pairs


def comparable(a, b):
    """Did two runs read the same words, so that their curves can be laid over each other?"""
    texts = [found.measured.curves["teacher"].sequences for found in (a, b)]
    same = len(texts[0]) == len(texts[1]) and all(map(np.array_equal, *texts))
    return same and a.subject.tokenizer.hash == b.subject.tokenizer.hash


def without_nan(value):
    """JSON has no nan: None for what is not a number."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


FIGURES = [  # title, where it is in modes.json, form
    ("CE, nats a token", "figures.ce", "{:.4f}"),
    ("KL(p||q) to the teacher", "figures.fkl", "{:.4f}"),
    ("KL(q||p)", "figures.rkl", "{:.4f}"),
    ("entropy of q, nats", "figures.entropy_q", "{:.4f}"),
    ("entropy of its teacher", "figures.entropy_p", "{:.4f}"),
    ("precision E_q[log p]", "figures.precision", "{:.4f}"),
    ("recall E_p[log q]", "figures.recall", "{:.4f}"),
    *[(f"q on the teacher's top {k}", f"figures.q_on_top_{k}_of_p", "{:.4f}") for k in TOPS],
    *[(f"the teacher on q's top {k}", f"figures.p_on_top_{k}_of_q", "{:.4f}") for k in TOPS],
    ("calibration error (ECE)", "figures.calibration_error", "{:.4f}"),
    ("written: log p a token", "written.log_p", "{:.4f}"),
    ("written: in the language", "written.right", "{:.1%}"),
    ("written: in dialect A (60%)", "written.dialect_a", "{:.1%}"),
    *[(f"written: distinct {n}-grams", f"written.distinct_{n}", "{:.3f}") for n in (1, 2, 3)],
    ("written: 4-grams repeated", "written.repeated", "{:.1%}"),
    ("written: longest repeated span", "written.longest_repeat", "{:.0f}"),
    ("written: mean length, tokens", "written.mean_length", "{:.1f}"),
    ("written: never ends", "written.never_ends", "{:.1%}"),
]


def look_up(result, path):
    for key in path.split("."):
        result = result.get(key) if isinstance(result, dict) else None
    return result


def figure_rows(founds):
    """The table of FIGURES as rows of texts, a column a run."""
    rows = [["", *(str(found.subject.folder) for found in founds)]]
    for title, path, form in FIGURES:
        values = [look_up(found.result, path) for found in founds]
        if any(value is not None for value in values):
            rows.append([title, *("-" if v is None else form.format(v) for v in values)])
    return rows


def comparison_words(against):
    """Lines that say what was found of one run against another, a line a kind of curve."""
    for kind, result in against.items():
        if result["temperature"] is None:
            yield f"against the {kind}: {result['said']} ({result['entropy']:.3f} nats)"
            continue
        parts = []
        for axis in ("precision", "recall"):
            low, high = result[axis]["interval"]
            parts.append(f"{axis} {result[axis]['mean']:+.4f} ({low:+.4f} to {high:+.4f})")
        yield (f"against the {kind}: {result['said']}. At entropy {result['entropy']:.3f} (the "
               f"other at temperature {result['temperature']:.2f}): {', '.join(parts)} nats a "
               "token")


def rule_words(of_rules, n=5):
    """The rules that lost most of their mass, and most gained, a line each."""
    for rule in sorted(of_rules, key=lambda rule: rule["q"] / rule["p"])[:n]:
        yield (f"{rule['name']}: {rule['q'] / rule['p']:.2f} of the truth's mass ({rule['q']:.2g} "
               f"for {rule['p']:.2g} uses a line)")


def over_seeds(founds):
    """Lines that sum up the same pair of names in several folders, one figure each."""
    groups = collections.defaultdict(list)
    for found in founds:
        for other, against in found.result["against"].items():
            for kind, result in against.items():
                if result["temperature"] is not None:
                    groups[found.subject.folder.name, pathlib.Path(other).name,
                           kind].append(result)
    for (one, other, kind), results in groups.items():
        if len(results) > 1:
            parts = []
            for axis in ("precision", "recall"):
                each = [result[axis]["mean"] for result in results]
                figures = " ".join(f"{x:+.4f}" for x in each)
                parts.append(f"{axis} {np.mean(each):+.4f} ({figures})")
            said = collections.Counter(result["said"] for result in results)
            words = "; ".join(f"{n} of {len(results)}: {text}" for text, n in said.most_common())
            yield f"{one} against {other}, by the {kind}: {', '.join(parts)}. {words}"


def show(founds):
    """Print what was found."""
    print("\n" + eval.table(figure_rows(founds)))
    for found in founds:
        print(f"\n{found.subject.folder}, teacher {found.teacher}")
        for verdict in found.result["verdicts"]:
            mark = "FOUND" if verdict["found"] else "not found"
            print(f"  {verdict['name']}: {mark}. {verdict['said']}")
        for line in rule_words(found.result["rules"], 3):
            print(f"  rule {line}")
        for other, against in found.result["against"].items():
            for line in comparison_words(against):
                print(f"  beside {other}, {line}")
            if run.other_text(found.subject.folder, other):
                print(f"  {other} was trained on other text, which may be what parts them")
    for line in over_seeds(founds):
        print(f"\nover folders: {line}")
    print("\nThresholds stand in tools/modes.py. Intervals are 95% over texts, not over runs.")


def main(argv):
    with eval.full_precision():
        show(examine(read_args(argv).runs))


if __name__ == "__main__":
    run_main(main)
