"""A run of a plan is trained and evaluated and becomes a row, in this process or in others."""
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import pathlib
import re
import signal
import threading

import torch

import distill
import eval
from data import Batches, prepare
from onecoach import files
from onecoach.config import CONFIGS, KEYS, Config, UserError, command_line, read_config
from onecoach.muon import newton_schulz_flops
from onecoach.run import (FREE_ON_RESUME, changed_needs, choose_device, is_finished, load,
                          make_model)
from tools.bench.measure import device_name

MACHINE_KEYS = ("out_dir", "data_dir", "corpus", "dev", "eval_tokens")  # not in a row's command


class Job:
    """A run of a variant with some settings on a seed.

    chosen: {variant: settings} of the variants that it needs. purpose: "tune", a point of the
    variant's grid or ladder; "report", a row; "need", the teacher or init of another job.
    needed: the Jobs of teachers and init. needs: {run: command} of all runs before it.
    """

    def __init__(self, plan, variant, settings, seed, chosen, out, purpose):
        self.variant = variant
        self.settings = settings
        self.seed = seed
        self.purpose = purpose
        self.budget = plan.budget
        self.tasks = plan.tasks if purpose == "report" else []
        self.needed = [Job(plan, name, chosen[name], seed, chosen, out, "need")
                       for name in plan.needs(variant)]
        self.needs = {}
        for need in self.needed:
            self.needs |= need.needs | {need.keys["name"]: need.command}

        keys = {**plan.common, **plan.variants[variant], **settings}
        self.base = keys.pop("base")
        runs = {need.variant: need.keys["name"] for need in self.needed}
        keys["teachers"] = [runs.get(name, name) for name in keys.get("teachers", [])]
        if "init" in keys:
            keys["init"] = runs.get(keys["init"], keys["init"])
        self.keys = {
            **keys,
            "name": run_name(variant, settings),
            "seed": seed,
            "out_dir": str(out / plan.folder / str(seed)),
            "data_dir": str(out / plan.folder / "data"),
            "baseline": "",
            "eval_tokens": keys.get("eval_tokens", 200_000) if purpose == "report" else 0,
        }
        self.folder = pathlib.Path(self.keys["out_dir"], self.keys["name"])

    @property
    def config(self):
        return read_config(CONFIGS / f"{self.base}.py", self.keys.items())

    @property
    def command(self):
        """The command that trains the same run, once teachers and init are trained."""
        given = {key: value for key, value in self.keys.items() if key not in MACHINE_KEYS}
        return f"python distill.py configs/{self.base}.py {command_line(given)}"

    def __str__(self):
        return f"{self.keys['name']}, seed {self.seed}"


def run_name(variant, settings):
    """Return a run's name: "rkl" and {"lr": 0.01} -> "rkl.lr-0.01"."""
    parts = [f"{key}-{re.sub('[^A-Za-z0-9.]+', '-', str(value)).strip('-')}"
             for key, value in settings.items()]
    return ".".join([variant, "_".join(parts)]) if parts else variant


def work(job):
    """Train and evaluate a Job and return the row; a worker without a parent ends then."""
    try:
        return train(job)
    finally:
        parent = multiprocessing.parent_process()
        if parent and not parent.is_alive():
            os._exit(1)


def train(job):
    """Train and evaluate a Job and return the row; output goes into NAME.log."""
    config = job.config
    folder = job.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f"{folder.name}.log")
    # the lock: of another command, or of one that was killed, a worker may still train this run
    with open(path, "a") as log, files.locked(path):
        if (folder / "config.json").exists() and not is_same_run(folder, config):
            aside = free_name(folder)
            folder.rename(aside)
            print(f"{job}: plan, text or teacher have changed; the old run is now {aside}")
        with contextlib.redirect_stdout(log):
            if job.budget:
                check_budget(job, planned_flops(job, config))
            distill.train(config)
            if not is_finished(folder):
                raise UserError("stopped before the last step; the same command goes on")
            if job.tasks:
                eval.evaluate(folder, job.tasks)
    row = make_row(job, config)
    check_budget(job, row["flops"])  # a teacher that is no variant is known now
    return row


def free_name(folder):
    """Return the first of FOLDER.old-1, FOLDER.old-2, ... that is not there."""
    paths = (folder.with_name(f"{folder.name}.old-{n}") for n in itertools.count(1))
    return next(path for path in paths if not path.exists())


def is_same_run(folder, config):
    """Whether the run in a folder was begun with this config, and the same text and teachers."""
    notes = files.read_json(folder / "config.json")
    stored = {**vars(Config()), **notes}  # a key that is newer than the run had its default
    keys = [name for name in KEYS if name not in FREE_ON_RESUME]
    return (all(stored[name] == getattr(config, name) for name in keys)
            and not changed_needs(folder) and notes["_text"] == prepare(config).train.corpus)


def is_trained(job):
    """Whether a job's run is finished, and is still the run that the plan asks for."""
    return is_finished(job.folder) and is_same_run(job.folder, job.config)


def make_row(job, config):
    """Return a finished run as results/ keeps it: everything but the weights."""
    folder = job.folder
    lines = files.read_metrics(folder / "metrics.jsonl")
    notes = files.read_json(folder / "config.json")
    best = files.best_line(lines)
    steps, words = distill.trained_for(folder)
    sizes = {name: load(folder.with_name(name))[0].num_params()
             for name in (config.name, *config.teacher_runs)}
    row = dict(variant=job.variant, seed=job.seed, settings=job.settings, val_ce=best["val_ce"],
               val_fkl=best.get("val_fkl"), val_rkl=best.get("val_rkl"),
               best_step=best["step"], steps=int(steps), words=int(words),
               tokens=tokens_seen(folder), flops=total_flops(folder),
               parameters=sizes.pop(config.name), teacher_parameters=sizes,
               text_tokens=prepare(config).train.count,
               teacher_hash=notes["_needs"], dtype=notes["_dtype"], threads=notes["_threads"],
               curve=[[line["step"], line["val_ce"]] for line in lines if line.get("val_ce")],
               text=notes["_text"], processor=device_name(choose_device(config)),
               versions=notes["_versions"], commit=notes["_commit"], command=job.command,
               needs=job.needs)
    if job.purpose == "report" and (folder / "eval.json").exists():
        row["eval"] = files.read_json(folder / "eval.json")
    return row


# ---------------------------------------------------------------- the cost of a run

def total_flops(folder):
    """Count the flops of a run and of the training of teachers and init.

    Each run counts once, with teachers' forward passes and Muon's products. The writing of
    rollouts is not counted.
    """
    return sum(map(own_flops, lineage(folder)))


def own_flops(folder):
    """Count the flops of a run's training, with the teachers' forward passes."""
    lm, _, config = load(folder)
    teachers = [load(folder.with_name(name))[0] for name in config.teacher_runs]
    return flops_per_step(lm, teachers, config) * own_steps(folder)


def flops_per_step(lm, teachers, config):
    per_token = 3 * lm.flops(config.longest) + sum(t.flops(config.longest) for t in teachers)
    products = newton_schulz_flops(distill.make_optimizer(lm, config))
    return per_token * config.batch_size * config.longest + products


def planned_flops(job, config):
    """Count as total_flops does, before the run is trained and after all that it needs is."""
    data = prepare(config)
    steps = config.max_steps or max(1, round(config.epochs * Batches(data.train, config).per_epoch))
    lm = make_model(config, data.tokenizer.vocab_size)
    teachers = [load(need.folder)[0] for need in job.needed
                if need.keys["name"] in config.teachers]
    before = set().union(*(lineage(need.folder) for need in job.needed))
    return flops_per_step(lm, teachers, config) * steps + sum(map(own_flops, before))


def check_budget(job, flops):
    """Raise UserError for a run that takes more than the plan's budget."""
    if job.budget and flops > job.budget:
        raise UserError(f"{flops / 1e12:.4g} TFLOP with all that it needs, and the budget is "
                        f"{job.budget / 1e12:.4g}; take fewer steps or a smaller model")


def lineage(folder):
    """Return the folders of a run and of all that it needed: teachers, init, theirs in turn."""
    config = read_config(folder / "config.json")
    names = {*config.teacher_runs, config.init} - {""}
    return {folder}.union(*(lineage(folder.with_name(name)) for name in names))


def own_steps(folder):
    """Count the steps of a run itself, without those of init."""
    return max((line["step"] for line in files.read_metrics(folder / "metrics.jsonl")), default=0)


def tokens_seen(folder):
    """Count the tokens that a run's weights were trained on, with those of init."""
    config = read_config(folder / "config.json")
    before = tokens_seen(folder.with_name(config.init)) if config.init else 0
    return before + own_steps(folder) * config.batch_size * config.longest


# ---------------------------------------------------------------- processes

class InProcess(concurrent.futures.Executor):
    """Do each job as it is submitted, in this process, with all threads."""

    def submit(self, do, *args):
        future = concurrent.futures.Future()
        try:
            future.set_result(do(*args))
        except Exception as e:  # Ctrl-C is not one: it ends the command
            future.set_exception(e)
        return future


def begin_worker():
    """Let a worker process use one thread, ignore Ctrl-C, and end with the parent process."""
    torch.set_num_threads(1)
    # a terminal sends Ctrl-C to the workers too, and two signals would end a run unsaved
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent():
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)  # a run is saved first
    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def processes(n):
    """Yield an executor of n processes, or of this one. After an error they save and end."""
    if n == 1:
        yield InProcess()
        return
    # by default glibc gives each step's memory back to the system, a sixth of a demo step's time
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))  # the largest that it allows
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(n, context, begin_worker) as pool:
        try:
            yield pool
        except concurrent.futures.BrokenExecutor:  # it has ended the others itself
            raise UserError(f"one of --jobs={n} was killed, most likely for memory: try fewer")
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
