"""Does a student seek modes? Compare its distributions with the teacher's and other students'.

    python -m tools.modes RUN [RUN ...]

Each RUN is compared with the teacher that it had. A RUN without one (a baseline) is compared with
the teacher of the first RUN that has one, and if none has, with babytalk's truth or nobody.
Students are compared with each other at equal entropy, so that an effect that a lower sampling
temperature has too is not called mode-seeking. The results are printed in words and kept in
RUN/modes.json, the verdicts in RUN/eval.json too.

    precision   E_q[log p], nats per token: how likely q's words are to p
    recall      E_p[log q], nats per token: how likely p's words are to q
    on babytalk, whose truth p* is known, also       precision: log of q's mass inside the language;
                recall: E_p*[log q]

The expectations are exact over the next word, at prefixes of the text. onecoach/signatures.py has
the thresholds of the verdicts.
"""
from onecoach.config import Arguments, run_folder, run_main


def show(students):
    """Print the figures, then verdicts and comparisons of each run."""
    from onecoach import run, tables
    from tools.modes import words
    print("\n" + tables.table(words.figure_rows(students)))
    for student in students:
        print(f"\n{student.folder}, teacher {student.result['teacher'] or 'none'}")
        for verdict in student.result["verdicts"]:
            mark = "FOUND" if verdict["found"] else "not found"
            print(f"  {verdict['name']}: {mark}. {verdict['said']}")
        for other, against in student.result["against"].items():
            for line in words.comparison_words(against):
                print(f"  beside {other}, {line}")
            if run.other_text(student.folder, other):
                print(f"  {other} was trained on other text, which may explain a difference")
    print("\nsignatures.py has the thresholds. Intervals are 95% over texts, not over runs.")


def main(argv):
    parser = Arguments("-m tools.modes", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=run_folder, help="run folders")
    folders = parser.parse_args(argv).runs
    # here, so that --help does not wait for torch
    from tools.modes.examine import examine
    show(examine(folders))


if __name__ == "__main__":
    run_main(main)
