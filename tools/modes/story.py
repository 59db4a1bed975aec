"""The story of a page as a list of blocks: how runs were trained, and the results.

A block is (kind, content): kind is heading, words, table (rows of texts, the head first),
text (shown as it is) or picture (a `Picture`).
"""
import eval
from onecoach import files, run, tables
from tools.modes import words
from tools.modes.examine import short
from tools.modes.pictures import curve_picture, training_picture

CONTINUATIONS = 2     # of each prompt
PROMPTS = "", "the little", "once upon a time", "do you want"
BABYTALK_PROMPTS = "", "the dog", "what", "tom", "please"

WHY = ("A student q that is too small to copy its teacher p must choose its errors. Forward KL, "
       "KL(p||q), charges it for what it leaves out, so it covers; reverse KL, KL(q||p), charges "
       "it for what it says and the teacher would not, so it seeks. Both are compared at equal "
       "entropy, because a lower sampling temperature makes any student more precise.")


# ---------------------------------------------------------------- training

def trained_rows(students):
    rows = [["run", "teacher", "loss", "parameters", "steps", "best at", "on", "commit"]]
    for student in students:
        folder, model, _, config = student.subject
        notes = files.read_json(folder / "config.json")
        log = files.read_metrics(folder / "metrics.jsonl")
        best = files.best_line(log) or {"step": "-"}
        loss = config.divergence if config.teachers else "cross-entropy"
        rows.append([str(folder), ", ".join(config.teachers) or "none", loss,
                     f"{model.num_params():,}", str(max((l["step"] for l in log), default="-")),
                     str(best["step"]), f"{config.device}, {notes.get('_dtype')}",
                     str(notes.get("_commit") or "-")[:10]])
    return rows


# ---------------------------------------------------------------- evaluations

def teacher_folders(student):
    return [student.folder.with_name(name) for name in student.config.teacher_runs]


def evaluations(students):
    """Return [(label, eval.json)] of the teachers' and students' runs, each once."""
    folders = {folder.resolve(): folder for student in students
               for folder in (*teacher_folders(student), student.folder)
               if (folder / "eval.json").exists()}.values()
    return [(short(folder, folders), files.read_json(folder / "eval.json")) for folder in folders]


def result_blocks(students):
    evals = evaluations(students)
    return [("text", tables.final_table(evals))] if evals else []


# ---------------------------------------------------------------- tables

def continuation_rows(students):
    """Return prompts and how teachers and students continue them, each with the same seed."""
    teachers = {folder.resolve(): folder for student in students
                for folder in teacher_folders(student)}.values()
    readers = [(f"teacher {folder.name}", *run.load(folder)[:2]) for folder in teachers]
    readers += [(student.label, student.subject.model, student.subject.tokenizer)
                for student in students]
    rows = [["prompt", *(label for label, *_ in readers)]]
    is_babytalk = students[0].config.corpus == "babytalk"
    for prompt in BABYTALK_PROMPTS if is_babytalk else PROMPTS:
        cells = []
        for _, model, tokenizer in readers:
            texts = eval.samples(model, tokenizer, prompt, CONTINUATIONS, 24, seed=1,
                                 stop=tokenizer.newline_id)
            cells.append(" / ".join(text.strip() for text in texts))
        rows.append([prompt or "(a line begins)", *cells])
    return rows


def verdict_rows(students):
    return [["run", "signature", "found", "figures"],
            *([student.label, verdict["name"], "yes" if verdict["found"] else "no",
               verdict["said"]]
              for student in students for verdict in student.result["verdicts"])]


def comparison_blocks(students):
    """Return the comparisons of each run with the runs before it."""
    labels = {str(student.folder): student.label for student in students}
    rows = [[student.label, labels[other], line] for student in students
            for other, against in student.result["against"].items()
            for line in words.comparison_words(against)]
    if not rows:
        return []
    return [("words", "Differences, the run's figure minus the other's, at equal entropy. "
             "Intervals are 95% over texts, not over runs."),
            ("table", [["run", "beside", "difference"], *rows])]


# ---------------------------------------------------------------- the story, in blocks

def summary_blocks(students):
    """Return the beginning: an answer to the title, and why it is asked."""
    return [("words", words.plain_verdict(students)), ("words", WHY)]


def story_blocks(students):
    """Return all blocks after the summary: headings, each with the blocks below it."""
    sections = {
        "Is it more than sharpening?": [
            ("picture", curve_picture(students)), *comparison_blocks(students)],
        "Results": result_blocks(students),
        "Failure signatures": [
            ("words", "Rules with stated thresholds (signatures.py), to be argued with."),
            ("table", verdict_rows(students))],
        "The same prompts": [("table", continuation_rows(students))],
        "Distributions": [("table", words.figure_rows(students))],
        "Loss and validation": [("picture", training_picture(students))],
        "What was trained": [
            ("table", trained_rows(students)),
            ("words", "To train a run again: python distill.py RUN/config.json --resume=no")]}
    blocks = []
    for heading, section in sections.items():
        if section:
            blocks += [("heading", heading), *section]
    return [(kind, content) for kind, content in blocks if content]
