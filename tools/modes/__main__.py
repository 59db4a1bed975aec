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
from onecoach.config import Arguments, answer_early, run_folder, run_main


def read_args(argv):
    parser = Arguments("-m tools.modes", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=run_folder, help="run folders")
    return parser.parse_args(argv)


if __name__ == "__main__":
    answer_early(read_args)

import eval
from onecoach import run
from onecoach.tables import table
from tools.modes.examine import examine
from tools.modes.words import comparison_words, figure_rows, over_seeds, rule_words


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
