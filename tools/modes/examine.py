"""Load runs, measure each against the teacher, and compare the students with each other."""
import dataclasses
import itertools

import numpy as np

import babytalk
import eval
from data import prepare
from onecoach import files, run, signatures
from onecoach.config import UserError
from tools.modes import writing
from tools.modes.curves import compare
from tools.modes.measure import Text, frequency_bands, measure, next_word, true_next_word

LINES = 1000          # of babytalk, drawn from the truth
POSITIONS = 16_000    # of real text


@dataclasses.dataclass
class Student:
    """A run that was measured: a dict for modes.json, and more for comparisons and the page."""
    subject: eval.Subject
    label: str                 # the name, or the path, which tells it from the others
    forward: object            # ids -> log q
    teacher_forward: object    # ids -> log p, or None
    text: Text
    curves: dict               # {kind: Curve}
    result: dict
    folder = property(lambda self: self.subject.folder)
    config = property(lambda self: self.subject.config)


# ---------------------------------------------------------------- runs and their text

def load_all(folders):
    """Return [(Subject, Subject with the teachers to compare it with, or None)] of run folders.

    A run without teachers is compared with those of the first run that has some. Raises UserError
    for a folder that is given twice, or cannot be written to at the end, and for different texts.
    """
    subjects = {}
    for folder in folders:
        subject = eval.load_subject(folder, eval.Options())
        files.check_writable(subject.folder)
        if subjects.setdefault(subject.folder.resolve(), subject) is not subject:
            raise UserError(f"{folder} is given twice")
    subjects = subjects.values()
    first = next((subject for subject in subjects if subject.config.teachers), None)
    pairs = [(subject, subject if subject.config.teachers else first) for subject in subjects]
    for subject, coached in pairs:
        if coached:
            check_same_text(subject, coached)
    return pairs


def check_same_text(one, other):
    """Raise UserError if two runs have different tokenizers, or were trained on different text."""
    if one.tokenizer.hash != other.tokenizer.hash:
        raise UserError(f"{one.folder} and {other.folder} have different tokenizers, so their "
                        "distributions cannot be compared")
    if run.other_text(one.folder, other.folder):
        raise UserError(f"{one.folder} was trained on other text than {other.folder}; compare runs "
                        "of one text, with the teachers that taught them")


def choose_text(subject):
    """Return the Text that a run is measured on.

    On babytalk LINES lines drawn from the truth, with bands by 20,000 other lines; else blocks of
    the test split of the development text, POSITIONS in all, with bands by the training text.
    """
    _, model, tokenizer, config = subject
    if config.corpus == "babytalk":
        lines = babytalk.sample(LINES, "modes")
        sequences = [[tokenizer.bos_id, *tokenizer.encode(line)] for line in lines]
        tokens = tokenizer.encode("".join(babytalk.sample(20_000, "modes, bands")))
    else:
        sequences = []
        texts = eval.test_split(eval.own_data(subject).dev, tokenizer.newline_id)
        T = config.longest
        for ids in texts.values():
            blocks = eval.in_blocks(ids, T)
            n = min(len(blocks), max(1, POSITIONS // len(texts) // T))
            chosen = np.linspace(0, len(blocks) - 1, n).astype(int)
            sequences += [blocks[i].tolist() for i in chosen]
        tokens = prepare(config).train.tokens
    counts = np.bincount(tokens, minlength=tokenizer.vocab_size)
    return Text(sequences, frequency_bands(counts), next(model.parameters()).device)


def load_coach(coached, truth, device):
    """Return (names, function ids -> log p, [Subject]) of a run's teachers; truth has no Subject.

    If no run is coached, the truth is the teacher, if there is one, for it knows all. Raises
    UserError for a teacher that is not the one that taught the run.
    """
    if not coached or coached.config.teachers == ["truth"]:
        return "truth" if truth else "", truth, []
    changed = run.changed_needs(coached.folder)
    coaches = []
    for name in coached.config.teachers:
        path = coached.folder.with_name(name)
        if name in changed:
            raise UserError(f"{path} was trained again after {coached.folder}, which had another "
                            "teacher of this name; put that back, or train the student again with "
                            "--resume=no")
        coach = eval.Subject(path, *run.load(path, device))
        check_same_text(coach, coached)
        coaches.append(coach)
    forward = next_word([coach.model for coach in coaches], coached.config.ensemble)
    return " and ".join(coached.config.teachers), forward, coaches


# ---------------------------------------------------------------- one run, and all of them

def examine_one(subject, coached, text, label):
    """Measure one run against the teachers of the run `coached`, and return a Student."""
    folder, model, tokenizer, config = subject
    truth = true_next_word(tokenizer) if config.corpus == "babytalk" else None
    name, teacher, coaches = load_coach(coached, truth, text.device)
    forward = next_word([model])
    figures, curves = measure(forward, teacher, text, truth)

    longest = (coached or subject).config.longest  # a GPT-2 reads no more
    written = writing.figures(writing.write(subject), subject, teacher, longest)
    log = files.read_metrics(folder / "metrics.jsonl")
    verdicts = []
    if teacher:
        by_teacher = babytalk.sample(writing.WRITTEN, "modes, written")
        if coaches:  # of several the first one writes
            by_teacher = writing.write(coaches[0])
        varied = writing.diversity([*map(tokenizer.encode, by_teacher)], tokenizer.newline_id)
        verdicts = [signatures.averaged(figures, written, varied), signatures.rare_lost(figures)]
    accuracies = signatures.paradigms(files.read_json_or_empty(folder / "eval.json"))
    verdicts = signatures.of_run(log, accuracies, verdicts)
    result = dict(teacher=name, figures=figures, written=written, verdicts=verdicts, against={},
                  curves={kind: curve.as_json() for kind, curve in curves.items()})
    return Student(subject, label, forward, teacher, text, curves, result)


@eval.full_precision()
def examine(folders):
    """Measure the runs in folders, compare them, write modes.json of each; return [Student]."""
    pairs = load_all(folders)
    folders = [subject.folder for subject, _ in pairs]
    students = []
    texts = {}  # runs of one corpus and tokenizer read the same
    for subject, coached in pairs:
        config = subject.config
        key = (subject.tokenizer.hash, config.corpus, config.dev, config.longest)
        if key not in texts:
            texts[key] = choose_text(subject)
        label = short(subject.folder, folders)
        students.append(examine_one(subject, coached, texts[key], label))
    for other, one in itertools.combinations(students, 2):  # the later one with the earlier
        if comparable(one, other):
            one.result["against"][str(other.folder)] = {
                kind: compare(curve, other.curves[kind], kind)
                for kind, curve in one.curves.items() if kind in other.curves}
    for student in students:
        files.write_json(student.folder / "modes.json", student.result)
        # the last table shows the verdicts
        signatures.keep(student.folder, student.result["verdicts"])
    return students


def short(folder, folders):
    """Return a run's name, or the whole path if another one in folders has that name."""
    names = [other.name for other in folders]
    return folder.name if names.count(folder.name) == 1 else str(folder)


def comparable(a, b):
    """Did two runs read the same words, so that one's curve can be laid over the other's?"""
    return (a.subject.tokenizer.hash == b.subject.tokenizer.hash
            and a.text.sequences == b.text.sequences)
