"""A plan of variants times seeds, every variant tuned alike; one row of results a run.

    python -m tools.ablate PLAN [--only=VARIANT] [--jobs=1] [--again] [--results=results]
                                [--corpus=PATH --dev=PATH]      # where the plan's text lies here

PLAN is read as a config is, assignments of literals (configs/ablate_demo.py is one):

    table         its rows lie in results/TABLE
    tuning_seeds  on which settings are chosen; seeds: on which they are reported
    common        {key: value}, keys of every run
    variants      {name: {"base": CONFIG, "grid": {key: [values]}, key: value, ...}}; teachers and
                  init may name variants that stand before, each then at its own chosen settings
    tasks         of eval.py for the reported runs, beside what follows a training anyhow
    figures       {title: path in eval.json} of the summary
    contrasts     [[variant, variant, title], ...], written down before anything is run; in the
                  place of a variant may stand a difference, "rkl - fkl"
    grids         {name: grid}: then "grid": name
    over          {key: [values]}: every variant once at each value, rkl as rkl_1000, rkl_3000, ...;
                  the teachers and the init that it names are those of the same value
    curves        {panel: [variants]}: a line each over those values, in curves.svg
    extends       another plan of its folder: its variants stand in this one too, with the rows
                  that it made, and what is not assigned here is its

First every point of a variant's grid is trained on every tuning seed; the point with the lowest
mean val_ce is its settings. Then the reported seeds. What was interrupted goes on; what is there is
skipped, unless the plan would now make another run of it, with other keys or by teachers of other
settings; a run that fails is said and stops no other. val_ce is of best.pt, on the half of the
development text that chooses; what eval.json says is of the other half, or of the truth.

    results/TABLE/tuning.jsonl              every grid point on every tuning seed
                  rows/VARIANT-SEED.json    a reported run: settings, figures, cost, command, commit
                  summary.json, summary.md  tables, paired differences and what was chosen
                  summary.svg, curves.svg   every seed of the contrasts' figures, by matplotlib

--again makes reported rows anew, teachers too, beside those that are there, and shows both: nothing
in results/ is touched. --jobs: runs at a time, of any variants, a thread each (a GPU takes many
small ones: for results/1m up to 23, under CUDA's MPS).
"""
from onecoach.config import Arguments, UserError, read_early, run_main


def read_args(argv):
    parser = Arguments("-m tools.ablate", __doc__)
    parser.add_argument("plan", metavar="PLAN")
    parser.add_argument("--only", default="", help="variants, with commas between them")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--again", action="store_true", help="make rows anew, beside those kept")
    parser.add_argument("--results", default="results", help="parent folder of the table's")
    parser.add_argument("--seeds", default="", help="of the reported seeds only these")
    parser.add_argument("--corpus", default="", help="text of all runs; default: as the plan says")
    parser.add_argument("--dev", default="", help="its development text")
    return parser.parse_args(argv)


if __name__ == "__main__":
    read_early(read_args)

import importlib.util

from onecoach import files
from tools.ablate.pictures import draw, draw_curves
from tools.ablate.plan import read_plan
from tools.ablate.summary import as_markdown, summary
from tools.ablate.table import Table


def main(argv):
    args = read_args(argv)
    plan = read_plan(args.plan)
    own = [name for name in plan.variants if plan.tables[name] == plan.table]
    only = [name for name in args.only.split(",") if name] or own
    for name in only:
        if name not in plan.variants:
            raise UserError(f"--only={name}: the plan has {', '.join(plan.variants)}")
    if args.jobs < 1:
        raise UserError(f"--jobs={args.jobs}: at least 1")
    seeds = [seed for seed in args.seeds.split(",") if seed]
    if not all(seed.isdecimal() and int(seed) in plan.seeds for seed in seeds):
        raise UserError(f"--seeds={args.seeds}: the plan reports seeds "
                        f"{', '.join(map(str, plan.seeds))}")
    plan.common |= {key: value for key, value in (("corpus", args.corpus), ("dev", args.dev))
                    if value}
    table = Table(plan, args.results, args.jobs, [int(seed) for seed in seeds], args.again)
    table.make(only)
    if not args.again:
        table.folder.mkdir(parents=True, exist_ok=True)
        found = summary(table)
        files.write_json(table.folder / "summary.json", found)
        files.write_text(table.folder / "summary.md", as_markdown(table, found))
        if plan.contrasts and importlib.util.find_spec("matplotlib"):
            draw(table, found, table.folder / "summary.svg")
            if plan.curves:
                draw_curves(table, found, table.folder / "curves.svg")
        print(f"\n{table.folder / 'summary.md'}\n\n{as_markdown(table, found)}")
    if table.failed:
        raise UserError(f"{len(table.failed)} runs failed: {'; '.join(table.failed)}; the same "
                        "command tries them again")


if __name__ == "__main__":
    run_main(main)
