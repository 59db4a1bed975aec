"""Write a page about runs: their training, their results, and a mode browser to play with.

    python -m tools.report RUN [RUN ...]

The page is report.html in the last RUN's folder, the run that it is about; an earlier page there is
replaced. It is one file, asks no server for anything, and can be read on a phone, in dark and in
light. tools.modes measures the runs and writes their modes.json.
"""
from onecoach.config import Arguments, run_folder, run_main


def main(argv):
    parser = Arguments("-m tools.report", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=run_folder, help="run folders")
    folders = parser.parse_args(argv).runs
    # here, so that --help does not wait for torch
    from tools.modes.page import write_report
    path = write_report(folders)
    print(f"the page: {path} ({path.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    run_main(main)
