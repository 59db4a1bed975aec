"""The table of a plan: which runs are finished, which are due, and which settings were chosen."""
import concurrent.futures
import contextlib
import functools
import json
import pathlib
import shlex

import numpy as np

import eval
from onecoach import files, suite
from onecoach.config import UserError
from tools.ablate.jobs import Job, is_trained, processes, work

OUT = pathlib.Path("out/ablate")


class Table:
    """A plan with the results on disk, and the processes that make missing results."""

    def __init__(self, plan, results, jobs=1, seeds=None):
        self.plan = plan
        self.results = pathlib.Path(results)
        self.folder = self.results / plan.table
        self.jobs = jobs
        self.seeds = seeds or plan.seeds  # the seeds to make; a summary has all that are there
        self.trained = set()  # runs known to be finished
        self.failed = []
        self.read_tuning()

    # ------------------------------------------------------------ results on disk

    def read_tuning(self):
        """Read tuning.jsonl, of the plans that it extends too, and choose settings.

        tuned: {variant: {point as JSON: {seed: val_ce}}}; chosen: {variant: settings} of the
        variants that are tuned; due_points: {variant: the points that the search asks for now}.
        """
        lines = []
        for table in dict.fromkeys(self.plan.tables.values()):
            lines += files.read_json_lines(self.results / table / "tuning.jsonl", "seed")

        self.tuned = {variant: {} for variant in self.plan.variants}
        self.chosen = {}
        self.due_points = {}
        for variant, points in self.tuned.items():
            if not self.chosen.keys() >= {*self.plan.needs(variant)}:
                continue
            for line in lines:
                if line["variant"] == variant and self.is_current(line, variant, line["seed"]):
                    seeds = points.setdefault(point_key(line["settings"]), {})
                    seeds[line["seed"]] = line["val_ce"]
            mean = functools.partial(self.mean_tuned, variant)
            settings, self.due_points[variant] = self.plan.search(variant, mean)
            if variant in self.plan.same:
                settings = self.chosen.get(self.plan.same[variant])
            if settings is not None:
                self.chosen[variant] = settings

    def is_current(self, line, variant, seed):
        """Whether a row, or a line of tuning.jsonl, belongs to the run that the plan has now.

        The keys of the run, and of all runs that it needs, must be the same.
        """
        job = self.job(variant, line["settings"], seed, "tune")
        now = {"command": job.command, **job.needs}
        then = {"command": line.get("command", ""), **line.get("needs", {})}
        return all(compared_words(then[name]) == compared_words(now.get(name, ""))
                   for name in then)  # rows of earlier versions have no needs

    def mean_tuned(self, variant, settings):
        """Return a point's mean val_ce over the tuning seeds; None unless all are there."""
        seeds = self.tuned[variant].get(point_key(settings), {})
        if not seeds.keys() >= {*self.plan.tuning_seeds}:
            return None
        return float(np.mean([seeds[seed] for seed in self.plan.tuning_seeds]))

    def rows(self):
        """Return {variant: {seed: row}} of the reported runs that are there."""
        return {variant: {seed: row for seed in self.plan.seeds
                          if (row := self.row(variant, seed))}
                for variant in self.plan.variants}

    def row(self, variant, seed):
        """Return a reported run's row; None if there is none, or one of other settings."""
        path = self.path(variant, seed)
        if variant not in self.chosen or not path.exists():
            return None
        row = files.read_json(path)
        is_chosen = row["settings"] == self.chosen[variant]
        return row if is_chosen and self.is_current(row, variant, seed) else None

    def path(self, variant, seed):
        return self.results / self.plan.tables[variant] / "rows" / f"{variant}-{seed}.json"

    # ------------------------------------------------------------ the runs that are due

    def make(self, variants):
        """Tune and report variants as far as they are missing, self.jobs runs at a time."""
        for variant in variants:
            for name in self.plan.all_needs(variant):
                if name not in self.chosen and name not in variants:
                    raise UserError(f"{variant} needs {name}, which has no settings yet: run the "
                                    f"plan of {self.plan.tables[name]} first, or name it too")
        if next(self.due(variants), None):  # a missing benchmark is missed before hours of training
            for name in {*eval.named_tasks(self.plan.tasks)} & {*suite.TASKS}:
                suite.read(name, eval.data_folder(eval.Options()), limit=1)

        begun = set()  # a run may first be a "need" and later, trained, be reported
        running = {}  # {future: job}
        with processes(self.jobs) as pool:
            while True:
                # each run that ends may have been waited for by others
                for job in self.due(variants):
                    if len(running) == self.jobs:
                        break
                    known = (str(job), job.purpose) in begun or str(job) in self.failed
                    if not known and str(job) not in map(str, running.values()):
                        begun.add((str(job), job.purpose))
                        running[pool.submit(work, job)] = job
                if not running:
                    break
                ended, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                for future in ended:
                    self.keep(running.pop(future), future)
        for variant in variants:
            if variant not in self.chosen:
                print(f"{variant}: the tuning is not complete, so there are no rows")

    def due(self, variants):
        """Yield the jobs that can begin now: for each variant the tuning, then the rows.

        If a job needs runs that are not trained yet, these come instead.
        """
        for variant in variants:
            if self.chosen.keys() >= {*self.plan.all_needs(variant)}:
                for job in self.missing(variant):
                    yield from self.untrained(job) or [job]

    def missing(self, variant):
        """Return the jobs that a variant still lacks; all that it needs must have settings."""
        if variant in self.chosen:
            return [self.job(variant, self.chosen[variant], seed, "report")
                    for seed in self.seeds if not self.row(variant, seed)]
        return [self.job(variant, settings, seed, "tune")
                for seed in self.plan.tuning_seeds for settings in self.due_points[variant]
                if seed not in self.tuned[variant].get(point_key(settings), {})]

    def untrained(self, job):
        """Return the runs to train before a job, each once the runs that it needs are trained."""
        jobs = []
        for need in job.needed:
            with contextlib.suppress(UserError):  # an error is reported when the job is begun
                if str(need) not in self.trained and is_trained(need):
                    self.trained.add(str(need))
            if str(need) not in self.trained:
                jobs += self.untrained(need) or [need]
        return jobs

    def job(self, variant, settings, seed, purpose):
        return Job(self.plan, variant, settings, seed, self.chosen, OUT, purpose)

    # ------------------------------------------------------------ results

    def keep(self, job, future):
        """Keep the result of a job: a line of tuning.jsonl, or a row; or print its error."""
        try:
            row = future.result()
        except concurrent.futures.BrokenExecutor:
            raise
        except Exception as e:  # the other runs go on
            self.failed.append(str(job))
            print(f"{job}: {type(e).__name__}: {e}; the folder is {job.folder}", flush=True)
            return
        print(f"{job}: val_ce {row['val_ce']:.4f} at step {row['best_step']} of {row['steps']}",
              flush=True)

        if job.purpose == "tune":
            line = {key: row[key] for key in ("variant", "seed", "settings", "val_ce",
                                              "best_step", "steps", "curve", "command", "needs")}
            append(self.results / self.plan.tables[job.variant] / "tuning.jsonl", line)
            self.read_tuning()
            if job.variant in self.chosen:
                print(f"{job.variant}: {self.chosen[job.variant]}", flush=True)
        elif job.purpose == "report":
            path = self.path(job.variant, job.seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, row)


def compared_words(command):
    """Return config and keys of a row's command, but for keys that change no weight."""
    return sorted(word for word in shlex.split(command)
                  if not word.startswith(("--name=", "--baseline=")))


def point_key(settings):
    """Return a point as text, the same for one from a plan and one from JSON."""
    return json.dumps(settings, sort_keys=True)


def append(path, line):
    """Add a line to tuning.jsonl, to which other commands may add; on a full disk it stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path.parent):
        lines = files.read_json_lines(path, "seed")
        files.write_text(path, "".join(json.dumps(each) + "\n" for each in [*lines, line]))
