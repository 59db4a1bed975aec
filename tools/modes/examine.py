"""Runs and the text that they are measured on; each beside its teacher, and beside each other."""
import dataclasses
import math

import numpy as np

import babytalk
import eval
from data import prepare
from onecoach import files, run, signatures
from onecoach.config import UserError
from onecoach.scoring import longest_input
from tools.modes import rules, writing
from tools.modes.curves import compare
from tools.modes.measure import Measured, Text, bands_of, measure, next_word

LINES = 1000          # of babytalk, drawn from the truth
POSITIONS = 16_000    # of real text


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


def coach_of(folder, config, tokenizer, device):
    """(name, function ids -> log p, [Subject]) of a run's teachers; the truth is no Subject."""
    if config.teachers == ["truth"]:
        return "truth", rules.Truth(tokenizer).forward, []
    changed = run.changed_needs(folder)
    loaded = []
    for name in config.teachers:
        if name in changed:
            raise UserError(f"{folder.with_name(name)} was trained again after {folder}, which had "
                            "another teacher of this name; put that back, or train the student "
                            "again with --resume=no")
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
