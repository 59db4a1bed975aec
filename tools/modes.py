"""Does a student seek modes? Measured on its distributions, against its teacher and other students.

    python -m tools.modes RUN [RUN ...]

Each RUN is compared with its own teacher; one without a teacher (a baseline) with the teacher of
the first RUN beside it that has one. Students in the same folder are compared with each other, at
equal entropy, so that what a lower sampling temperature would do too is not called mode-seeking.
What is found is printed in words and kept in RUN/modes.json, the verdicts in RUN/eval.json too.

Here, in this order: the runs and the text that they read; what two distributions have between them
at its positions (`measure`); the command, and its words. Beside it, a subject each: curves.py
(precision and recall over the temperature), writing.py (what a model writes freely), rules.py
(babytalk's grammar), and signatures.py, the rules of the verdicts with their thresholds.

    precision   E_q[log p], nats a token: what p thinks of what q would say
    recall      E_p[log q], nats a token: what q thinks of what p would say
    on babytalk, where the truth p* is known, also   precision: log of q's mass inside the language;
                recall: E_p*[log q]

The expectations are exact over the next word, at prefixes of the text.
"""
from onecoach.config import Arguments, UserError, read_early, run_folder, run_main


def read_args(argv):
    parser = Arguments("-m tools.modes", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=run_folder, help="run folders")
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
import losses
from data import prepare
from onecoach import files, run, signatures
from onecoach.scoring import longest_input, positions
from onecoach.tables import look_up, table
from tools import rules, writing
from tools.curves import Curve, compare, mass

LINES = 1000          # of babytalk, drawn from the truth
POSITIONS = 16_000    # of real text
BINS = 15             # of confidence, for the calibration error
TOPS = 1, 10, 100
BANDS = 10, 100, 1000, 10_000, math.inf  # ranks of word frequency


# ---------------------------------------------------------------- runs, and their text

@dataclasses.dataclass
class Text:
    """What all models of a comparison read: sequences of ids, each one's first as context."""
    sequences: list
    bands: torch.Tensor  # (V,)
    device: torch.device   # of the models that read it

    def walk(self, forward, device=None):
        """scoring.positions of a function ids (B, T) -> (B, T, d), over all of the text."""
        return positions(forward, self.sequences, [1] * len(self.sequences),
                              writing.BATCH_TOKENS, device or self.device)


def text_of(subject):
    """The Text that a run is measured on.

    On babytalk LINES lines drawn from the truth, bands by 20,000 others; else blocks of the
    reported half of the development text, POSITIONS in all, bands by the training text.
    """
    _, model, tokenizer, config = subject
    device = next(model.parameters()).device
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


def next_word(models, ensemble="logits"):
    """The function ids (B, T) -> log-probabilities (B, T, V) of one model, or of an ensemble.

    ids may be anywhere; what comes is where the models are.
    """
    device = next(models[0].parameters()).device

    def forward(ids):
        ids = ids.to(device)
        z = [model.logits(model(ids)).float() for model in models]
        return losses.teacher_log_probs(z, 1.0, ensemble)
    return forward


def coach_of(folder, config, tokenizer, device):
    """(name, function ids -> log p, [Subject]) of a run's teachers; the truth is no Subject."""
    if config.teachers == ["truth"]:
        return "truth", rules.Truth(tokenizer).forward, []
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
        subject = eval.load_subject(folder, eval.Options())
        if subject.folder.resolve() in [other.folder.resolve() for other in subjects]:
            raise UserError(f"{folder} is given twice")
        subjects.append(subject)
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


# ---------------------------------------------------------------- at the positions of a text

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
        longest = min(max(TOPS), q.shape[1])
        p_of_p, at = p.topk(longest)
        q_of_p = q.gather(1, at)
        q_of_q, at = q.topk(longest)
        p_of_q = p.gather(1, at)
        for k in TOPS:
            terms[f"q_on_top_{k}_of_p"] = q_of_p[:, :k].sum(-1)
            terms[f"p_on_top_{k}_of_p"] = p_of_p[:, :k].sum(-1)
            terms[f"p_on_top_{k}_of_q"] = p_of_q[:, :k].sum(-1)
            terms[f"q_on_top_{k}_of_q"] = q_of_q[:, :k].sum(-1)
        self.terms.update({name: term.cpu().double().sum().item() for name, term in terms.items()})
        self.n += len(label)

        band = self.bands[label.cpu()]
        counted = torch.stack([torch.ones_like(ce_q), ce_q, ce_p]).cpu().double()
        self.in_band.index_add_(1, band, counted)
        confidence, guess = q.max(-1)
        bin = (confidence * BINS).long().clamp_max(BINS - 1).cpu()
        hit = (guess == label).float()
        counted = torch.stack([torch.ones_like(hit), confidence, hit]).cpu().double()
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
    rules.Truth, there is a second Curve, and what falls to each rule of the grammar.
    """
    sums = Sums(text.bands)
    curves = {"teacher": Curve(text.sequences)}
    if truth:
        curves["truth"] = Curve(text.sequences)
        uses = rules.Uses(truth, text)
    chunks = zip(text.walk(student), text.walk(teacher))
    for i, ((number, log_q, label), (_, log_p, _)) in enumerate(chunks):
        sums.add(log_q, log_p, label)
        curves["teacher"].add(number, log_q, log_p, mass(log_p))
        if truth:
            log_p_star = uses.log_p(i).to(log_q.device)
            inside = (log_p_star > truth.FLOOR).float()
            curves["truth"].add(number, log_q, inside, mass(log_p_star) * inside, log=True)
            uses.add(i, mass(log_q).cpu())
    return Measured(sums.figures(), curves, uses.rules() if truth else [])


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
    truth = rules.Truth(tokenizer) if config.corpus == "babytalk" else None
    name, teacher, coaches = coach_of(coached.folder, coached.config, tokenizer, text.device)
    forward = next_word([model])
    measured = measure(forward, teacher, text, truth)

    longest = min(longest_input(reader.model) for reader in (subject, *coaches))
    longest = None if longest == math.inf else longest
    of_student = writing.written(subject, forward, teacher, longest)
    if coaches:  # of several the first one writes
        of_teacher = writing.written(coaches[0], teacher, teacher, longest)
    else:
        of_teacher = writing.written_by_truth(tokenizer)

    path = folder / "eval.json"
    evaluated = files.read_json_or_empty(path)
    accuracies = signatures.paradigms(evaluated)
    log = files.read_metrics(folder / "metrics.jsonl")
    verdicts = signatures.of_student(measured.figures, measured.rules, of_student, of_teacher, log,
                                     accuracies)
    result = dict(teacher=name, text=dict(texts=len(text.sequences)), figures=measured.figures,
                  curves={kind: curve.as_json() for kind, curve in measured.curves.items()},
                  written=of_student, written_by_teacher=of_teacher, paradigms=accuracies,
                  rules=[rule._asdict() for rule in measured.rules],
                  verdicts=verdicts, against={})
    return Found(subject, name, forward, teacher, measured, result)


def examine(folders):
    """Measure the runs in folders, compare them, keep what is found of each; [Found].

    Students are compared with those before them in the same parent folder; where no two are in
    one, each with each.
    """
    founds = []
    texts = {}  # runs of one corpus and tokenizer read the same
    for subject, coached in load_all(folders):
        config = subject.config
        key = (subject.tokenizer.hash, config.corpus, config.dev, config.longest)
        if key not in texts:
            texts[key] = text_of(subject)
        founds.append(look_at(subject, coached, texts[key]))
    for one, other in pairs_of(founds):
        against = {kind: compare(curve, other.measured.curves[kind], kind)
                   for kind, curve in one.measured.curves.items()}
        one.result["against"][str(other.subject.folder)] = against
    for found in founds:
        keep(found)
    return founds


def keep(found):
    """Write modes.json, and the verdicts into eval.json, where the last table finds them."""
    folder = found.subject.folder
    files.write_json(folder / "modes.json", without_nan(found.result))
    signatures.keep(folder, found.result["verdicts"])


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


# ---------------------------------------------------------------- in words

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
    """The n rules with the least share of the truth's mass, a line each."""
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
    print("\n" + table(figure_rows(founds)))
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
    print("\nThresholds stand in signatures.py. Intervals are 95% over texts, not over runs.")


def main(argv):
    with eval.full_precision():
        show(examine(read_args(argv).runs))


if __name__ == "__main__":
    run_main(main)
