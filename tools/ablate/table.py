"""All runs of a plan: what is there, what is due, and what was chosen."""
import concurrent.futures
import contextlib
import json
import pathlib
import shlex
import time

import numpy as np

from onecoach import files, tables
from onecoach.config import UserError
from onecoach.run import folder_of, is_finished
from tools.ablate.jobs import Job, processes, work
from tools.ablate.summary import figure, form

OUT = pathlib.Path("out/ablate")


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
        print(tables.table(rows))


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
