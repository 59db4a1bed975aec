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
from onecoach.config import Arguments, read_early, run_main


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

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import re
import shlex
import signal
import time

import numpy as np
import torch

import distill
import eval
from onecoach import files
from onecoach.config import CONFIGS, UserError, command_line, read_assignments, read_config
from onecoach.run import device_of, folder_of, is_finished, load
from tools.measure import name_of

OUT = pathlib.Path("out/ablate")


# ---------------------------------------------------------------- the plan

@dataclasses.dataclass
class Plan:
    """What a plan's file assigns; see the head of this file."""
    table: str
    seeds: list
    tuning_seeds: list
    variants: dict
    figures: dict
    common: dict = dataclasses.field(default_factory=dict)
    tasks: list = dataclasses.field(default_factory=list)
    contrasts: list = dataclasses.field(default_factory=list)
    over: dict = dataclasses.field(default_factory=dict)
    curves: dict = dataclasses.field(default_factory=dict)
    extends: str = ""
    tables: dict = dataclasses.field(default_factory=dict)  # {variant: where its rows lie}

    @property
    def runs(self):
        """The folder of its runs: the first plan's, whose teachers those that extend it share."""
        return next(iter(self.tables.values()))  # the first plan's variants stand first

    @property
    def over_points(self):
        """The values of `over`'s one key."""
        points, = self.over.values()
        return points

    def needs(self, variant):
        """The variants whose runs a variant needs: its teachers and its init."""
        keys = self.variants[variant]
        names = [*keys.get("teachers", []), keys.get("init", "")]
        return [name for name in names if name in self.variants]

    def all_needs(self, variant):
        """The same, and before them those that they need in turn."""
        names = self.needs(variant)
        return [far for name in names for far in self.all_needs(name)] + names

    def points(self, variant):
        """The settings {key: value} of a variant's grid, one dict a point."""
        grid = self.variants[variant].get("grid", {})
        return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def read_plan(path, extended_by=()):
    """The Plan of a file; UserError for what is missing, unknown, or names what is not there."""
    path = pathlib.Path(path)
    if path in extended_by:
        raise UserError(f"{path}: a plan cannot extend itself")
    values = read_assignments(path)
    for name in values:
        if name not in TYPES:
            raise UserError(f"{path}: unknown {name!r}; a plan assigns {', '.join(TYPES)}")
        if not isinstance(values[name], TYPES[name]):
            raise UserError(f"{path}: {name} must be a {TYPES[name].__name__}")

    for variant, keys in values.get("variants", {}).items():
        if not isinstance(variant, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", variant):
            raise UserError(f"{path}: variant {variant!r}: a name of letters, digits, '_' and '-'")
        if not isinstance(keys, dict) or "base" not in keys:
            raise UserError(f"{path}: variant {variant} has no base, the config that it alters")
        if not isinstance(keys.get("teachers", []), list):
            raise UserError(f"{path}: variant {variant}: teachers must be a list")
    spell_grids_out(values.get("variants", {}), values.pop("grids", {}), path)
    over = values.get("over", {})
    if len(over) > 1 or not all(isinstance(points, list) and points for points in over.values()):
        raise UserError(f"{path}: over must be {{key: [values]}}, of one key")
    variants = at_each_value(values.get("variants", {}), over)
    tables = {}
    if "extends" in values:
        before = read_plan(path.with_name(f"{values['extends']}.py"), [*extended_by, path])
        for name in ("seeds", "tuning_seeds", "common"):
            if name in values:
                raise UserError(f"{path}: {name} is {before.table}'s, or its rows would not belong "
                                "beside these")
        again = [*set(variants) & set(before.variants)]
        if again:
            raise UserError(f"{path}: {before.table} has a variant {again[0]!r} already")
        tables = before.tables
        variants = before.variants | variants
        # each plan asks its own
        questions = {"contrasts": [], "tasks": [], "over": {}, "curves": {}}
        values = dataclasses.asdict(before) | questions | values
    for name in ("table", "seeds", "tuning_seeds", "variants", "figures"):
        if name not in values:
            raise UserError(f"{path}: {name} is missing; python -m tools.ablate --help says what "
                            "it is")
    tables = tables | {name: values["table"] for name in variants if name not in tables}
    plan = Plan(**{**values, "variants": variants, "tables": tables})
    check_plan(plan, path)
    return plan


def spell_grids_out(variants, grids, path):
    """Put grids[name] where a variant's grid is "name"; UserError where there is none of it."""
    for variant, keys in variants.items():
        grid = keys.get("grid")
        if isinstance(grid, str):
            if grid not in grids:
                raise UserError(f"{path}: variant {variant}: grids has no {grid!r}")
            keys["grid"] = grids[grid]


def at_each_value(variants, over):
    """Variants {name: keys} once at each value of over, {key: [values]}: rkl becomes rkl_1000 ...

    Teachers and init that are variants are those of the same value. Without over all stays.
    """
    if not over:
        return variants
    (key, points), = over.items()
    spread = {}
    for point in points:
        for name, keys in variants.items():
            keys = {**keys, key: point}
            if "teachers" in keys:
                keys["teachers"] = [at(teacher, point) if teacher in variants else teacher
                                    for teacher in keys["teachers"]]
            if keys.get("init") in variants:
                keys["init"] = at(keys["init"], point)
            spread[at(name, point)] = keys
    return spread


def at(variant, point):
    """The name of a variant at a value of the plan's `over`."""
    return f"{variant}_{point}"


def check_plan(plan, path):
    if not re.fullmatch(r"[A-Za-z0-9_-]+", plan.table):
        raise UserError(f"{path}: table = {plan.table!r}: letters, digits, '_' and '-' only")
    for variant, keys in plan.variants.items():
        grid = keys.get("grid", {})
        if not isinstance(grid, dict) or not all(isinstance(values, list) and values
                                                 for values in grid.values()):
            raise UserError(f"{path}: variant {variant}: a grid must be {{key: [values]}}")
        if len(plan.points(variant)) > 1 and not plan.tuning_seeds:
            raise UserError(f"{path}: variant {variant} has a grid, and there are no tuning_seeds "
                            "to choose on")
        for name in plan.needs(variant):
            if [*plan.variants].index(name) >= [*plan.variants].index(variant):
                raise UserError(f"{path}: variant {variant} needs {name}, which must stand before "
                                "it")
    for panel, names in plan.curves.items():
        for name in names:
            if not plan.over or at(name, plan.over_points[0]) not in plan.variants:
                raise UserError(f"{path}: curves: over spreads no variant {name!r}")
    for contrast in plan.contrasts:
        is_list = isinstance(contrast, list) and len(contrast) == 3
        if not is_list or not all(isinstance(text, str) for text in contrast):
            raise UserError(f"{path}: contrasts: {contrast!r} is not [variant, variant, title]")
        one, other, title = contrast
        for name in [*one.split(" - "), *other.split(" - ")]:
            if name not in plan.variants:
                raise UserError(f"{path}: contrasts: there is no variant {name!r}")
        if title not in plan.figures:
            raise UserError(f"{path}: contrasts: there is no figure {title!r}")


TYPES = {"table": str, "seeds": list, "tuning_seeds": list, "variants": dict, "figures": dict,
         "common": dict, "tasks": list, "contrasts": list, "grids": dict, "over": dict,
         "curves": dict, "extends": str}


# ---------------------------------------------------------------- a run of the plan

# keys that a row's command leaves out
OF_THIS_MACHINE = ("out_dir", "data_dir", "corpus", "dev", "eval_tokens")


class Job:
    """A run of a variant with some settings on a seed. chosen: {variant: settings} before it.

    purpose: "tune", a point of the variant's grid; "report", a row; "need", another's teacher or
    init, of which only the weights are wanted.
    """

    def __init__(self, plan, variant, settings, seed, chosen, out, purpose):
        self.variant = variant
        self.settings = settings
        self.seed = seed
        self.purpose = purpose
        reported = purpose == "report"
        keys = {**plan.common, **plan.variants[variant], **settings}
        keys.pop("grid", None)
        self.base = keys.pop("base")

        def run_of(name):
            return run_name(name, chosen[name]) if name in plan.variants else name
        keys["teachers"] = [run_of(name) for name in keys.get("teachers", [])]
        if "init" in keys:
            keys["init"] = run_of(keys["init"])
        self.keys = {
            **keys,
            "name": run_name(variant, settings),
            "seed": seed,
            "out_dir": str(out / plan.runs / str(seed)),
            "data_dir": str(out / plan.runs / "data"),
            "baseline": "",
            "eval_tokens": keys.get("eval_tokens", 200_000) if reported else 0,
        }
        self.tasks = plan.tasks if reported else []

    @property
    def config(self):
        return read_config(CONFIGS / f"{self.base}.py", list(self.keys.items()))

    @property
    def command(self):
        """What a user would type for the same run, after the commands of its teachers and init."""
        given = {key: value for key, value in self.keys.items() if key not in OF_THIS_MACHINE}
        return f"python distill.py configs/{self.base}.py {command_line(given)}"

    def __str__(self):
        return f"{self.keys['name']}, seed {self.seed}"


def run_name(variant, settings):
    """"rkl" and {"lr": 0.01} -> "rkl.lr-0.01": a run's name may hold no other signs."""
    parts = [f"{key}-{re.sub('[^A-Za-z0-9.]+', '-', str(value)).strip('-')}"
             for key, value in settings.items()]
    return ".".join([variant, "_".join(parts)]) if parts else variant


def work(job, threads=0):
    """Train and evaluate a Job; its row, a dict. What it says goes into a file beside its run."""
    if threads:
        torch.set_num_threads(threads)
    config = job.config
    folder = folder_of(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.log"), "a") as log, contextlib.redirect_stdout(log):
        distill.train(config)
        if not is_finished(folder):
            raise UserError("stopped before its last step; the same command goes on")
        if job.tasks:
            eval.evaluate(folder, job.tasks)
    return row_of(job, config)


def row_of(job, config):
    """What results/ keeps of a run that is there: no weights."""
    folder = folder_of(config)
    lines = files.read_metrics(folder / "metrics.jsonl")
    notes = files.read_json(folder / "config.json")
    best = files.best_line(lines)
    steps, words = distill.trained_for(folder)
    row = dict(variant=job.variant, seed=job.seed, settings=job.settings, val_ce=best["val_ce"],
               val_fkl=best.get("val_fkl"), val_rkl=best.get("val_rkl"),
               best_step=best["step"], steps=int(steps), words=int(words),
               tokens=tokens_of(folder), flops=flops_of(folder),
               teacher_hash=notes["_needs"], dtype=notes["_dtype"],
               threads=notes["_threads"],
               curve=[[line["step"], line["val_ce"]] for line in lines if line.get("val_ce")],
               text=notes["_text"], processor=name_of(device_of(config)),
               versions=notes["_versions"], commit=notes["_commit"], command=job.command)
    if job.purpose == "report" and (folder / "eval.json").exists():
        row["eval"] = files.read_json(folder / "eval.json")
    return row


def flops_of(folder):
    """Of all that a run took: its own training, what its teachers said, and their training.

    So is that of its init, of each run once. Rollouts' writing is not in it.
    """
    total = 0.0
    for run in {folder} | all_before(folder):
        lm, _, config = load(run)
        teachers = [load(run.with_name(name))[0] for name in config.teachers if name != "truth"]
        a_token = 3 * lm.flops(config.longest) + sum(t.flops(config.longest) for t in teachers)
        total += a_token * own_tokens(run, config)
    return total


def all_before(folder):
    """The folders of the runs that a run needed: teachers, init, and theirs in turn."""
    config = read_config(folder / "config.json")
    names = {*config.teachers, config.init} - {"truth", ""}
    needs = {folder.with_name(name) for name in names}
    return needs.union(*map(all_before, needs))


def own_tokens(folder, config):
    """How many tokens a run itself was trained on, those of its init not counted."""
    steps, _ = distill.trained_for(folder)
    if config.init:
        steps -= distill.trained_for(folder.with_name(config.init))[0]
    return int(steps) * config.batch_size * config.longest


def tokens_of(folder):
    """How many tokens a run's weights have been trained on, those of its init too."""
    config = read_config(folder / "config.json")
    before = tokens_of(folder.with_name(config.init)) if config.init else 0
    return before + own_tokens(folder, config)


# ---------------------------------------------------------------- all of them

class Table:
    """A plan, its results on disk, and the processes that make what is missing."""

    def __init__(self, plan, results, jobs=1, seeds=None, again=False):
        self.plan = plan
        self.results = pathlib.Path(results)
        self.folder = self.results / plan.table
        self.jobs = jobs
        self.seeds = seeds or plan.seeds  # that are made here; a summary has all that are there
        self.again = again
        self.out = OUT.with_name("again") / time.strftime("%Y%m%d-%H%M%S") if again else OUT
        self.trained = set()  # runs that were found finished
        self.failed = []
        self.read_tuning()

    def read_tuning(self):
        """Read what was tuned, of the plans that it extends too, and choose.

        tuned: {point: {seed: val_ce}} of the grid points that are there, a point as `point_of` has
        it; chosen: {variant: settings} of the variants whose grid is whole, and those they need.
        """
        lines = {}  # by variant
        for table in dict.fromkeys(self.plan.tables.values()):
            for line in files.read_json_lines(self.results / table / "tuning.jsonl", "seed"):
                lines.setdefault(line["variant"], []).append(line)

        self.tuned = {}
        self.chosen = {}
        for variant in self.plan.variants:
            if not all(name in self.chosen for name in self.plan.needs(variant)):
                continue
            for line in lines.get(variant, []):
                if self.is_current(line):
                    of_point = self.tuned.setdefault(point_of(variant, line["settings"]), {})
                    of_point[line["seed"]] = line["val_ce"]
            points = self.plan.points(variant)
            if len(points) == 1:
                self.chosen[variant] = points[0]
                continue
            means = [self.mean_tuned(variant, settings) for settings in points]
            if None not in means:
                self.chosen[variant] = points[means.index(min(means))]

    def is_current(self, line):
        """Is a row or a line of tuning.jsonl of the run that the plan would make now?

        Neither its keys nor the settings of those that it needs may have changed since.
        """
        job = self.job(line["variant"], line["settings"], line["seed"], "tune")
        return keys_in(line.get("command", "")) == keys_in(job.command)

    def mean_tuned(self, variant, settings):
        """A grid point's mean val_ce over the tuning seeds; None unless all are there."""
        of_point = self.tuned.get(point_of(variant, settings), {})
        if set(self.plan.tuning_seeds) - set(of_point):
            return None
        return float(np.mean([of_point[seed] for seed in self.plan.tuning_seeds]))

    def rows(self):
        """{variant: {seed: row}} of the reported runs that are there."""
        found = {}
        for variant in self.plan.variants:
            of_seed = {seed: self.row(variant, seed) for seed in self.plan.seeds}
            found[variant] = {seed: row for seed, row in of_seed.items() if row}
        return found

    def row(self, variant, seed):
        """A reported run's row; None unless it is there, of the settings that are chosen now for
        this variant and for those that it needs (a grid may have grown since)."""
        path = self.path(variant, seed)
        if variant not in self.chosen or not path.exists():
            return None
        row = files.read_json(path)
        return row if row["settings"] == self.chosen[variant] and self.is_current(row) else None

    def path(self, variant, seed):
        return self.results / self.plan.tables[variant] / "rows" / f"{variant}-{seed}.json"

    def make(self, variants):
        """Tune and report variants, each as far as it is missing, self.jobs runs at a time."""
        self.check_needs(variants)
        begun = set()
        running = {}  # {future: job}

        def may_begin(job):  # a run may first be a "need" and later, trained, be reported
            failed_or_running = [*self.failed, *map(str, running.values())]
            return (str(job), job.purpose) not in begun and str(job) not in failed_or_running

        threads = 1 if self.jobs > 1 else 0  # 0: as many as torch takes
        with processes(self.jobs) as pool:
            while True:
                # asked anew whenever a run ends: others may have waited for it
                for job in self.due(variants):
                    if len(running) == self.jobs:
                        break
                    if may_begin(job):
                        begun.add((str(job), job.purpose))
                        running[pool.submit(work, job, threads)] = job
                if not running:
                    break
                ended, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                for future in ended:
                    self.keep(running.pop(future), future)
        self.say_what_is_left(variants, begun)

    def check_needs(self, variants):
        """UserError where variants need one that is not tuned, and that is not among them."""
        for variant in variants:
            for name in self.plan.all_needs(variant):
                if name not in self.chosen and name not in variants:
                    raise UserError(f"{variant} needs {name}, which has no settings yet: run the "
                                    f"plan of {self.plan.tables[name]} first, or name it too")

    def due(self, variants):
        """Yield the jobs that could begin now: of each variant its grid's, then its rows'.

        Where one needs a run that is not trained, that comes in its place.
        """
        for variant in variants:
            if all(name in self.chosen for name in self.plan.all_needs(variant)):
                for job in self.missing(variant):
                    yield from self.untrained(job) or [job]

    def missing(self, variant):
        """The jobs that a variant, whose needs have their settings, still lacks."""
        if variant in self.chosen:
            return [self.job(variant, self.chosen[variant], seed, "report")
                    for seed in self.seeds if self.again or not self.row(variant, seed)]
        if self.again:
            return []
        return [self.job(variant, settings, seed, "tune")
                for seed in self.plan.tuning_seeds for settings in self.plan.points(variant)
                if seed not in self.tuned.get(point_of(variant, settings), {})]

    def untrained(self, job):
        """The runs to train before a job's own, each once those that it needs itself are there."""
        jobs = []
        for name in self.plan.needs(job.variant):
            need = self.job(name, self.chosen[name], job.seed, "need")
            if not self.is_trained(need):
                jobs += self.untrained(need) or [need]
        return jobs

    def is_trained(self, job):
        with contextlib.suppress(UserError):  # what is wrong with it is said when it is begun
            if str(job) not in self.trained and is_finished(folder_of(job.config)):
                self.trained.add(str(job))
        return str(job) in self.trained

    def say_what_is_left(self, variants, begun):
        for variant in variants:
            unknown = [name for name in self.plan.all_needs(variant) if name not in self.chosen]
            if unknown:
                print(f"{variant}: not begun, for {unknown[0]} has no settings")
            elif variant not in self.chosen:
                print(f"{variant}: its grid is not whole, so nothing is chosen and nothing "
                      "reported")
            else:
                for job in self.missing(variant):
                    if (str(job), job.purpose) not in begun:
                        print(f"{job}: not begun, for a run that it needs failed")

    def job(self, variant, settings, seed, purpose):
        return Job(self.plan, variant, settings, seed, self.chosen, self.out, purpose)

    def keep(self, job, future):
        """What came of a job: a line of tuning.jsonl, a row, or what went wrong."""
        try:
            row = future.result()
        except concurrent.futures.BrokenExecutor:
            raise
        except Exception as e:  # one that fails must not stop the rest
            self.failed.append(str(job))
            print(f"{job}: {type(e).__name__}: {e}", flush=True)
            return
        print(f"{job}: val_ce {row['val_ce']:.4f} at step {row['best_step']} of {row['steps']}",
              flush=True)
        if job.purpose == "tune":
            line = {key: row[key] for key in ("variant", "seed", "settings", "val_ce",
                                              "best_step", "steps", "curve", "command")}
            append(self.results / self.plan.tables[job.variant] / "tuning.jsonl", line)
            self.read_tuning()
            if job.variant in self.chosen:
                print(f"{job.variant}: {self.chosen[job.variant]}", flush=True)
        elif job.purpose == "report" and self.again:
            self.compare(row, self.row(job.variant, job.seed))
        elif job.purpose == "report":
            path = self.path(job.variant, job.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, row)

    def compare(self, new, old):
        rows = [[f"{new['variant']}, seed {new['seed']}", "kept", "again"]]
        for title, path in self.plan.figures.items():
            rows.append([title, *(form(figure(row, path)) for row in (old or {}, new))])
        print(eval.table(rows))


class Here(concurrent.futures.Executor):
    """Does what is submitted there and then, in this process, with all its threads."""

    def submit(self, f, *args, **keys):
        future = concurrent.futures.Future()
        try:
            future.set_result(f(*args, **keys))
        except Exception as e:  # Ctrl-C is none: it ends the command
            future.set_exception(e)
        return future


@contextlib.contextmanager
def processes(n):
    """An executor of n processes; of one, this."""
    if n == 1:
        yield Here()
        return
    # glibc, as it comes, gives each step's memory back to the system: a sixth of a demo step's time
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))  # the most that it takes
    # a terminal sends Ctrl-C to the workers too, and two signals would end a run unsaved
    deaf = dict(initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(n, context, **deaf) as pool:
        try:
            yield pool
        except concurrent.futures.BrokenExecutor:  # it has ended the others itself
            raise UserError(f"one of --jobs={n} was killed, most likely for memory: try fewer")
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def keys_in(command):
    """The config and the keys of a row's command, but for those that change nothing of its run."""
    return sorted(word for word in shlex.split(command)
                  if not word.startswith(("--name=", "--baseline=")))


def point_of(variant, settings):
    """A point of a variant's grid as text, whether it comes from a plan or from JSON."""
    return f"{variant} {json.dumps(settings, sort_keys=True)}"


def append(path, line):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as f:
        f.write(json.dumps(line) + "\n")


# ---------------------------------------------------------------- what it comes to

def figure(row, path):
    """The number at "eval.babytalk.precision" of a row; None where there is none."""
    for key in path.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    return row if isinstance(row, (int, float)) else None


def form(number):
    return "-" if number is None else f"{number:.4g}"


def paired(differences):
    """Mean, 95% interval and two-sided p of Student's t for paired differences, two or more."""
    d = np.array(differences)
    n = len(d)
    error = d.std(ddof=1) / math.sqrt(n)
    tails = t_tails(n - 1)
    p = tails(abs(d.mean()) / error) if error else float(d.mean() == 0)
    low, high = 0.0, 1e4  # the t whose tails hold 5%, by halving
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tails(middle) > 0.05 else (low, middle)
    return float(d.mean()), [float(d.mean() - low * error), float(d.mean() + low * error)], p


def t_tails(df):
    """t >= 0 -> P(|T| > t), Student's with df degrees of freedom.

    With t = sqrt(df) tan(a) its density becomes cos(a)^(df - 1), which is summed up here.
    """
    a = np.linspace(0, np.pi / 2, 100_001)
    area = np.concatenate([[0], np.cumsum(np.cos((a[1:] + a[:-1]) / 2)**(df - 1))])
    return lambda t: float(1 - np.interp(math.atan(t / math.sqrt(df)), a, area) / area[-1])


def holm(ps):
    """Holm's (1979) adjusted p of each: with them the chance of any false one stays under 5%."""
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted.tolist()


def summary(table):
    """{variants, contrasts, chosen} of what is there."""
    plan = table.plan
    rows = table.rows()
    figures = {variant: {title: {seed: figure(row, path) for seed, row in of_seed.items()}
                         for title, path in plan.figures.items()}
               for variant, of_seed in rows.items()}
    contrasts = []
    for one, other, title in plan.contrasts:
        a, b = (difference(figures, text, title) for text in (one, other))
        seeds = [seed for seed in plan.seeds if seed in a and seed in b]
        if len(seeds) > 1:  # one seed has no spread
            mean, interval, p = paired([a[seed] - b[seed] for seed in seeds])
            contrasts.append(dict(one=one, other=other, figure=title, seeds=seeds, mean=mean,
                                  interval=interval, p=p))
    ps = [contrast["p"] for contrast in contrasts]
    missing = len(plan.contrasts) - len(ps)  # counted too: half a table must not look better
    for contrast, p in zip(contrasts, holm([*ps, *[1.0] * missing])):
        contrast["p_holm"] = p
    return dict(table=plan.table, chosen=table.chosen, figures=figures, contrasts=contrasts)


def difference(figures, text, title):
    """{seed: figure} of a variant, or of "one - other" where both have the seed."""
    one, *rest = [figures[variant][title] for variant in text.split(" - ")]
    values = {seed: value for seed, value in one.items() if value is not None}
    for other in rest:
        values = {seed: value - other[seed] for seed, value in values.items()
                  if other.get(seed) is not None}
    return values


COSTS = [("steps", "steps", 1),  # title, key of a row, unit
         ("step of best.pt", "best_step", 1),
         ("million words read", "words", 1e6),
         ("training, with its teachers', TFLOP", "flops", 1e12)]


def as_markdown(table, found):
    """summary.md: means of all variants, all seeds of each figure, contrasts, what was tried."""
    plan = table.plan
    rows = table.rows()
    tuned = tried(table, found)
    lines = [f"# {plan.table}", "", f"Means over seeds {plan.seeds}. " + (
        f"Settings were chosen on seeds {plan.tuning_seeds}, by val_ce." if tuned else
        "Nothing was tuned."), ""]
    means = [["", *plan.figures, *(title for title, *_ in COSTS)]]
    for variant in plan.variants:
        of_seed = found["figures"][variant]
        costs = [{seed: row[key] / unit for seed, row in rows[variant].items()}
                 for _, key, unit in COSTS]
        means.append([variant, *(mean_of(values) for values in (*of_seed.values(), *costs))])
    lines += markdown(means)

    for title in plan.figures:
        lines += ["", f"## {title}", ""]
        lines += markdown([["", "mean", *(f"seed {seed}" for seed in plan.seeds)]] + [
            [variant, mean_of(of_seed[title]), *(form(of_seed[title].get(seed))
                                                 for seed in plan.seeds)]
            for variant, of_seed in found["figures"].items()])

    if found["contrasts"]:
        lines += ["", "## Contrasts", "", f"Paired over seeds; {len(plan.contrasts)} were named "
                  f"before anything was run, {len(found['contrasts'])} are here; p by Student's "
                  "t, Holm's over all that were named.", ""]
        lines += markdown([["", "difference", "95% over seeds", "p", "p, Holm", "seeds"]] + [
            [f"{in_brackets(c['one'])} - {in_brackets(c['other'])}: {c['figure']}",
             f"{c['mean']:+.4g}", f"{c['interval'][0]:+.4g} to {c['interval'][1]:+.4g}",
             f"{c['p']:.3f}", f"{c['p_holm']:.3f}", str(len(c["seeds"]))]
            for c in found["contrasts"]])
    if tuned:
        head = ["variant", "settings", "val_ce", ""]
        lines += ["", "## What was tried", "", "Mean val_ce over the tuning seeds.", ""]
        lines += markdown([head, *tuned])
    return "\n".join(lines) + "\n"


def tried(table, found):
    """Every point of every grid, and which was chosen, as rows of texts."""
    plan = table.plan
    rows = []
    for variant in plan.variants:
        points = plan.points(variant)
        for point in points if len(points) > 1 else ():
            mean = table.mean_tuned(variant, point)
            words = ", ".join(f"{key} {value}" for key, value in point.items())
            mark = "chosen" if found["chosen"].get(variant) == point else ""
            rows.append([variant, words, "-" if mean is None else f"{mean:.4f}", mark])
    return rows


def mean_of(values):
    """The mean of {seed: figure or None}, as text."""
    there = [value for value in values.values() if value is not None]
    return form(float(np.mean(there))) if there else "-"


@contextlib.contextmanager
def picture(plan, path, rows, columns, size, **shared):
    """pyplot's axes (rows, columns), saved as SVG at the end: the same drawing, the same bytes."""
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    style = {"svg.hashsalt": plan.table, "svg.fonttype": "none", "font.size": 8,
             "font.family": "sans-serif", "axes.grid": True, "grid.color": "#dddddd"}
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, **shared)
        yield axes
        for axis in axes.flat:
            axis.set_axisbelow(True)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def draw(table, found, path):
    """Every seed and the mean of each figure that a contrast names, a row a variant, as SVG."""
    titles = [*dict.fromkeys(title for *_, title in table.plan.contrasts)]
    variants = [*table.plan.variants][::-1]  # the first at the top
    size = (1.4 + 2.6 * len(titles), 0.8 + 0.26 * len(variants))
    with picture(table.plan, path, 1, len(titles), size, sharey=True) as axes:
        for axis, title in zip(axes[0], titles):
            for row, variant in enumerate(variants):
                values = [*difference(found["figures"], variant, title).values()]
                axis.plot(values, [row] * len(values), "o", color="#888888", markersize=3)
                if values:
                    axis.plot(float(np.mean(values)), row, "|", color="#c03020", markersize=12,
                              markeredgewidth=2)
            axis.set_title(title, fontsize=8)
            axis.margins(y=0.5 / len(variants))
        axes[0][0].set_yticks(range(len(variants)), variants)


def draw_curves(table, found, path):
    """The same figures over the values of `over`, a panel for each of the plan's curves, as SVG."""
    plan = table.plan
    titles = [*dict.fromkeys(title for *_, title in plan.contrasts)]
    rows, columns = len(plan.curves), len(titles)
    key, = plan.over
    with picture(plan, path, rows, columns, (3.4 * columns, 2.8 * rows), sharey="col") as axes:
        for row, (panel, names) in zip(axes, plan.curves.items()):
            for axis, title in zip(row, titles):
                for i, name in enumerate(names):
                    draw_curve(axis, found, name, plan.over_points, title, f"C{i}")
                axis.set_xscale("log")
                low, high = axis.dataLim.intervaly
                if 0 < 10 * low < high:  # else the small values lie on one line
                    axis.set_yscale("log")
                    axis.yaxis.set_major_formatter("{x:g}")
                axis.xaxis.set_major_formatter("{x:,g}")
                axis.set_xlabel(key)
                axis.set_title(f"{panel}: {title}", fontsize=8)
            row[-1].legend()


def draw_curve(axis, found, name, points, title, color):
    """Every seed of a variant at each point, and a line through the means."""
    means = {}
    for point in points:
        values = [*difference(found["figures"], at(name, point), title).values()]
        axis.plot([point] * len(values), values, "o", color=color, markersize=2)
        if values:
            means[point] = float(np.mean(values))
    axis.plot([*means], [*means.values()], color=color, label=name)


def in_brackets(text):
    return f"({text})" if " - " in text else text


def markdown(rows):
    """Rows of texts as a table; the first is its head."""
    head, *body = [[text.replace("|", "\\|") for text in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body]]


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
