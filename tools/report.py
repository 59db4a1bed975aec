"""A run's pages: what was trained, what came of it, and the mode browser to play with.

    python -m tools.report RUN [RUN ...]

writes report.md and report.html into the last RUN's folder: it is who the page is about. The page
is one file: no server, no request to anywhere, readable on a phone, dark and light. All is measured
by tools.modes, whose modes.json is written too. matplotlib (optional) draws the curves; without it
the page has tables and its interactive parts, and with it a demo ends with its own page
(`after_training`). Where tools.ngram has put its yardsticks beside the runs, they stand beside the
benchmarks.

The story is a list of blocks, written once and put into both forms: (kind, content), where kind is
heading, words, table (rows of texts, the first its head), text (as it stands) or picture (a title,
curves, ...: see `Picture`).
"""
from onecoach.config import Arguments, answer_early, run_folder, run_main


def read_args(argv):
    parser = Arguments("-m tools.report", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=run_folder, help="run folders")
    return parser.parse_args(argv)


if __name__ == "__main__":
    answer_early(read_args)

from tools.modes.page import show, write_report


def main(argv):
    show(write_report(read_args(argv).runs))


if __name__ == "__main__":
    run_main(main)
