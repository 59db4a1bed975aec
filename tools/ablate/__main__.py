"""Tune, train and compare the variants of a plan on several seeds.

    python -m tools.ablate PLAN [--only=VARIANT] [--jobs=1] [--results=results]
                                [--corpus=PATH --dev=PATH]      # where the text is here

PLAN is a file of assignments of literals, as a config is (configs/ablate_demo.py is one):

    table         name of the folder of the rows, results/TABLE
    tuning_seeds  seeds on which settings are chosen; seeds: seeds that are reported
    common        {key: value}, keys of every run
    variants      {name: {"base": CONFIG, "ladder": {key: [values]}, key: value, ...}}; teachers
                  and init may name earlier variants, which then have their own chosen settings;
                  "settings": VARIANT instead of a ladder takes the settings of that variant
    tasks         more tasks of eval.py for the reported runs
    figures       {title: path in the row} of the summary; eval.TASK... is a path in eval.json
    contrasts     [[variant, variant, title], ...], written down before anything is run; instead
                  of a variant there may be a difference, "rkl - fkl"
    grids         {name: {key: [values]}}, for "ladder": name and "grid": name
    over          {key: [values]}: every variant once at each value, rkl as rkl_1000, rkl_3000, ...;
                  teachers and init have the same value
    budget        the most flops that a run may take, training of teachers too; 0: any
    extends       another plan in the same folder: seeds, common, variants and rows of that plan
                  are here too, and so are its figures if this plan assigns none

First a variant is tuned by the mean val_ce over the tuning seeds. A ladder, values in their order,
is searched from the config's own, one key after another, step by step, until no neighbour is
better; of a grid, "grid" instead of "ladder", every point is tried. The summary marks chosen values
at the end of a ladder or grid: make it longer, and the same command goes on from there. Then the
reported seeds are trained. An interrupted command goes on when it is given again; finished runs are
skipped, unless the plan has changed keys of the run or of a teacher. A run that fails is
reported and stops no other. val_ce is of best.pt, on the validation split of the development text;
the figures of eval.json are of the test split, or of the truth.

    results/TABLE/tuning.jsonl              every point that was tried, on every tuning seed
                  rows/VARIANT-SEED.json    a reported run: settings, figures, cost, command, commit
                  summary.json, summary.md  tables, paired differences and the chosen settings
                  frontier.svg              val_ce against all training flops, by matplotlib

--jobs is the number of runs at a time, each on one thread (a GPU takes many small ones: for
results/1m up to 23, under CUDA's MPS). To make rows again and keep the old ones, give another
--results with a copy of TABLE/tuning.jsonl, and move out/ablate away. The packages scipy and, for
the picture, matplotlib are in requirements-dev.txt.
"""
import importlib.util

from onecoach import files
from onecoach.config import Arguments, UserError, run_main
from tools.ablate.pictures import draw_frontier
from tools.ablate.plan import read_plan
from tools.ablate.summary import as_markdown, import_stats, summarise
from tools.ablate.table import Table


def read_args(argv):
    parser = Arguments("-m tools.ablate", __doc__)
    parser.add_argument("plan", metavar="PLAN")
    parser.add_argument("--only", default="", help="variants, separated by commas")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--results", default="results", help="parent folder of the table")
    parser.add_argument("--seeds", default="", help="only these of the reported seeds")
    parser.add_argument("--corpus", default="", help="text of all runs; default: the plan's")
    parser.add_argument("--dev", default="", help="development text of all runs")
    return parser.parse_args(argv)


def main(argv):
    args = read_args(argv)
    import_stats()  # or it would be missed after hours of training
    plan = read_plan(args.plan)
    own = [name for name in plan.variants if plan.tables[name] == plan.table]
    only = chosen("only", args.only, plan.variants) or own
    seeds = chosen("seeds", args.seeds, plan.seeds)
    if args.jobs < 1:
        raise UserError(f"--jobs={args.jobs}: at least 1")

    text = {"corpus": args.corpus, "dev": args.dev}
    plan.common = plan.common | {key: value for key, value in text.items() if value}
    table = Table(plan, args.results, args.jobs, seeds)
    table.make(only)
    write_summary(table)
    if table.failed:
        raise UserError(f"{len(table.failed)} runs failed: {'; '.join(table.failed)}; the same "
                        "command tries them again, from the start if a folder is moved away")


def chosen(option, text, known):
    """Return the values that an option's text names, separated by commas; all must be known."""
    values = {str(value): value for value in known}
    names = [name for name in text.split(",") if name]
    if not {*names} <= {*values}:
        raise UserError(f"--{option}={text}: the plan has {', '.join(values)}")
    return [values[name] for name in names]


def write_summary(table):
    content = summarise(table)
    text = as_markdown(table, content)
    table.folder.mkdir(parents=True, exist_ok=True)
    files.write_json(table.folder / "summary.json", content)
    files.write_text(table.folder / "summary.md", text)
    if importlib.util.find_spec("matplotlib"):
        draw_frontier(table, table.folder / "frontier.svg")
    print(f"\n{table.folder / 'summary.md'}\n\n{text}")


if __name__ == "__main__":
    run_main(main)
