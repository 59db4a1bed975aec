"""A run of a plan: trained, evaluated, its row; in this process or in others."""
import concurrent.futures
import contextlib
import multiprocessing
import os
import re
import signal

import torch

import distill
import eval
from onecoach import files
from onecoach.config import CONFIGS, UserError, command_line, read_config
from onecoach.run import device_of, folder_of, is_finished, load
from tools.measure import name_of

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
