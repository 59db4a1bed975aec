"""A plan of variants is tuned, trained, reported, and goes on where it was interrupted."""
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch

import distill
from data import prepare
from onecoach import files
from onecoach.config import UserError, parse_args, read_config
from tools.ablate import jobs, pictures
from tools.ablate import table as tables
from tools.ablate.__main__ import main
from tools.ablate.plan import climb, grid_points, open_ends, read_plan
from tools.ablate.summary import as_markdown, frontier, holm, paired, summarise
from tools.ablate.table import Table, append

TINY = dict(device="cpu", dtype="float32", corpus="babytalk", sentences=300, mark="line",
            vocab_size=0, n_layer=1, n_head=2, d_model=8, d_ff=16, block_size=16, batch_size=4,
            max_steps=6, warmup=1, val_every=3, val_tokens=500, log_every=3, eval_tokens=0)
PLAN = dict(table="some", tuning_seeds=[100], seeds=[0, 1], common=TINY,
            figures={"val_ce": "val_ce"},
            variants={"coach": {"base": "base_demo", "grid": {"lr": [1e-3, 1e-2]}},
                      "rkl": {"base": "rkl_demo", "teachers": ["coach"], "alpha": 0.5}},
            contrasts=[["rkl", "coach", "val_ce"]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a plan is run: everything that it leaves lies in it."""
    monkeypatch.setattr(tables, "OUT", tmp_path / "out")
    return tmp_path


def write(folder, **changes):
    path = folder / "plan.py"
    path.write_text("".join(f"{k} = {v!r}\n" for k, v in {**PLAN, **changes}.items()))
    return str(path)


def first_point(plan, variant):
    """The settings of a variant if all of its points were equally good."""
    return plan.search(variant, lambda point: 0.0)[0]


def keep_rows(table, val_ce):
    """Rows as of runs that were made: {variant: [of seed 0, of seed 1, ...]}. What no tuning has
    chosen stands at its grid's first point."""
    for variant in table.plan.variants:
        table.chosen.setdefault(variant, first_point(table.plan, variant))
    for variant, values in val_ce.items():
        for seed, value in enumerate(values):
            job = table.job(variant, table.chosen[variant], seed, "report")
            path = table.path(variant, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path, dict(variant=variant, seed=seed, settings=job.settings,
                                        val_ce=value, command=job.command, steps=1000,
                                        best_step=1000, words=1, flops=1.0,
                                        parameters=1, teacher_parameters={}, text_tokens=1,
                                        curve=[[0, 9.0], [1000, value]]))


def keep_tuned(table, lr, val_ce):
    """A line of tuning.jsonl as of the coach's run with this lr."""
    job = table.job("coach", {"lr": lr}, 100, "tune")
    append(table.results / "some/tuning.jsonl",
                  dict(variant="coach", seed=100, settings={"lr": lr}, val_ce=val_ce,
                       command=job.command))
    table.read_tuning()


@pytest.mark.slow
def test_a_plan_is_tuned_reported_and_summed_up(folder, capsys):
    results = folder / "results"
    argv = [write(folder), f"--results={results}"]
    main(argv)
    rows = {path.stem: files.read_json(path) for path in (results / "some/rows").iterdir()}
    assert sorted(rows) == ["coach-0", "coach-1", "rkl-0", "rkl-1"]
    tuning = files.read_json_lines(results / "some/tuning.jsonl", "seed")
    val_ce = {line["settings"]["lr"]: line["val_ce"] for line in tuning}
    assert len(tuning) == len(val_ce) == 2
    best = min(val_ce, key=val_ce.get)
    assert rows["coach-0"]["settings"] == {"lr": best}

    # a student's cost holds its teacher's training and what that said
    row = rows["rkl-1"]
    assert [*row["teacher_hash"]] == [f"coach.lr-{best}"]
    assert row["flops"] > 2 * rows["coach-1"]["flops"] and row["tokens"] == 6 * 4 * 16

    # and its table says how many parameters there are for each token of the text
    assert row["teacher_parameters"] == {f"coach.lr-{best}": rows["coach-1"]["parameters"]}
    lm = jobs.load(folder / f"out/some/1/coach.lr-{best}")[0]
    assert rows["coach-1"]["parameters"] == lm.num_params()
    ids = prepare(read_config(folder / "out/some/1/rkl/config.json")).train.tokens
    assert row["text_tokens"] == len(ids)
    lines = (results / "some/summary.md").read_text().splitlines()
    coach, = (line.split(" | ") for line in lines if line.startswith("| coach | ")
              and line.endswith(" - |"))
    assert any(line.startswith("| rkl | ") and line.endswith(f" | {coach[-2]} |")
               for line in lines)

    summary = files.read_json(results / "some/summary.json")
    difference = sum(rows[f"rkl-{s}"]["val_ce"] - rows[f"coach-{s}"]["val_ce"] for s in (0, 1)) / 2
    assert summary["contrasts"][0]["mean"] == pytest.approx(difference)
    assert f"| coach | lr {best} |" in (results / "some/summary.md").read_text()

    # a row that is there is left alone; one that is missing comes again, the same
    path = results / "some/rows/rkl-1.json"
    path.unlink()
    kept = (results / "some/rows/rkl-0.json").stat().st_mtime_ns
    capsys.readouterr()
    main(argv)
    assert files.read_json(path)["curve"] == row["curve"]
    assert (results / "some/rows/rkl-0.json").stat().st_mtime_ns == kept
    assert len(files.read_json_lines(results / "some/tuning.jsonl", "seed")) == 2

    # one seed's rows are made alone, and the summary has the others still
    path.unlink()
    main([*argv, "--only=rkl", "--seeds=1"])
    assert files.read_json(results / "some/summary.json") == summary

    # a row's command is the run: its keys but for this machine's
    config = parse_args(shlex.split(row["command"])[2:])
    there = read_config(folder / f"out/some/1/{config.name}/config.json")
    aside = {key: getattr(there, key) for key in jobs.MACHINE_KEYS}
    assert dataclasses.replace(config, **aside) == there


@pytest.mark.slow
def test_a_changed_plan_makes_its_runs_again(folder, capsys):
    """Runs of a plan as it was are moved aside: teachers of other keys, and what they taught."""
    variants = {"coach": {"base": "base_demo"}, "rkl": PLAN["variants"]["rkl"]}
    results = folder / "results"
    main([write(folder, variants=variants, seeds=[0]), f"--results={results}"])
    before = files.read_json(results / "some/rows/rkl-0.json")
    weights = (folder / "out/some/0/coach/best.pt").read_bytes()

    # another coach, and its student first: its row alone is asked for
    variants["coach"]["d_model"] = 16
    plan = write(folder, variants=variants, seeds=[0])
    main([plan, f"--results={results}", "--only=rkl"])
    row = files.read_json(results / "some/rows/rkl-0.json")
    assert row["teacher_hash"] != before["teacher_hash"]
    assert read_config(folder / "out/some/0/coach/config.json").d_model == 16
    assert (folder / "out/some/0/coach.old-1/best.pt").read_bytes() == weights
    assert (folder / "out/some/0/rkl.old-1/best.pt").exists()
    assert "the old run is now" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_begins_nothing_that_waits(folder, monkeypatch):
    variants = {"alone": {"base": "base_demo"}}
    plan = read_plan(write(folder, variants=variants, contrasts=[], seeds=[*range(8)]))
    table = Table(plan, folder / "results", jobs=2)

    def interrupt(job, future):
        raise KeyboardInterrupt
    monkeypatch.setattr(table, "keep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        table.make(["alone"])
    assert len([*(folder / "out").rglob("best.pt")]) <= 2


class Desk(concurrent.futures.Executor):
    """Takes jobs, and does the one that came first when it is waited for."""

    def __init__(self):
        self.jobs = {}
        self.said = []
        self.done = set()

    def submit(self, do, job):
        future = concurrent.futures.Future()
        self.jobs[future] = job
        self.said.append(f"{job.purpose} {job}")
        return future

    def wait(self, running, return_when):
        future = next(iter(self.jobs))
        job = self.jobs.pop(future)
        assert future in running
        if job.variant.startswith("broken"):
            future.set_exception(ValueError("broken"))
        else:
            self.done.add(str(job))
            future.set_result(dict(variant=job.variant, seed=job.seed, settings=job.settings,
                                   val_ce=job.settings.get("lr", 1.0), best_step=1, steps=1,
                                   words=1, flops=1.0, curve=[[1, 1.0]], command=job.command,
                                   parameters=1, teacher_parameters={}, text_tokens=1,
                                   needs=job.needs))
        self.said.append(f"end {job}")
        return {future}, ()


def test_whatever_is_due_runs_side_by_side(folder, monkeypatch, capsys):
    """Of all variants; but a student after its teachers' settings, and their run of its seed."""
    desk = Desk()
    monkeypatch.setattr(tables, "processes", lambda n: contextlib.nullcontext(desk))
    monkeypatch.setattr(tables.concurrent.futures, "wait", desk.wait)
    monkeypatch.setattr(tables, "is_trained", lambda job: str(job) in desk.done)
    variants = {**PLAN["variants"],
                "broken": {"base": "base_demo"},
                "taught": {"base": "rkl_demo", "teachers": ["broken"]},
                "broken_grid": {"base": "base_demo", "grid": {"lr": [1.0, 2.0]}},
                "near": {"base": "rkl_demo", "init": "broken_grid"},
                "far": {"base": "rkl_demo", "teachers": ["near"]}}
    plan = read_plan(write(folder, variants=variants, seeds=[0]))
    table = Table(plan, folder, jobs=3)
    table.make([*variants])
    best = "coach.lr-0.001"
    assert desk.said == [
        "tune coach.lr-0.001, seed 100", "tune coach.lr-0.01, seed 100", "report broken, seed 0",
        f"end {best}, seed 100", "tune broken_grid.lr-1.0, seed 100",
        "end coach.lr-0.01, seed 100", f"report {best}, seed 0", "end broken, seed 0",
        "tune broken_grid.lr-2.0, seed 100", "end broken_grid.lr-1.0, seed 100",
        f"end {best}, seed 0", "report rkl, seed 0", "end broken_grid.lr-2.0, seed 100",
        "end rkl, seed 0"]
    assert table.failed == ["broken, seed 0", "broken_grid.lr-1.0, seed 100",
                            "broken_grid.lr-2.0, seed 100"]
    assert {v: len(rows) for v, rows in table.rows().items() if rows} == {"coach": 1, "rkl": 1}
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"{name}: the tuning is not complete, so there are no rows"
        for name in ("broken_grid", "near", "far")]

    # a second time nothing of what is whole is left
    desk.said.clear()
    table.make(["coach", "rkl"])
    assert desk.said == []

    # a row that was lost comes again, where its teacher's run is lost too
    desk.done.clear()
    table = Table(plan, folder, jobs=3)
    table.path("rkl", 0).unlink()
    table.make(["rkl"])
    assert desk.said == [f"need {best}, seed 0", f"end {best}, seed 0", "report rkl, seed 0",
                         "end rkl, seed 0"]

    # what one needs that nobody tunes is said before anything is begun
    desk.said.clear()
    with pytest.raises(UserError, match="far needs broken_grid, which has no settings yet"):
        table.make(["far"])
    assert desk.said == []


@pytest.mark.slow
def test_a_killed_worker_is_said(folder, monkeypatch):
    plan = read_plan(write(folder, variants={"alone": {"base": "base_demo"}}, contrasts=[],
                                  seeds=[0, 1]))
    table = Table(plan, folder, jobs=2)
    monkeypatch.setattr(tables, "work", die)
    with pytest.raises(UserError, match="one of --jobs=2 was killed"):
        table.make(["alone"])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_a_command_that_was_killed_goes_on_when_it_is_given_again(folder):
    """Its workers end with it, saving their runs first; the new ones wait for them."""
    plan = write(folder, variants={"alone": {"base": "base_demo"}}, contrasts=[],
                 common=TINY | {"max_steps": 1000, "val_every": 500})
    argv = [plan, "--jobs=2", f"--results={folder}"]
    command = [sys.executable, "-m", "tools.ablate", *argv]
    how = dict(cwd=folder, stderr=subprocess.PIPE, text=True,
               env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent.parent)})
    parent = subprocess.Popen(command, **how)
    runs = [folder / f"out/ablate/some/{seed}/alone" for seed in (0, 1)]
    wait_until(lambda: all((run / "metrics.jsonl").exists() for run in runs))
    parent.kill()
    parent.wait()

    again = subprocess.run(command, **how)
    assert again.returncode == 0, again.stderr
    for seed, run in enumerate(runs):
        assert files.read_json(folder / f"some/rows/alone-{seed}.json")["steps"] == 1000
        log = run.with_name("alone.log").read_text()
        assert re.search(r", from step [1-9]", log)


def wait_until(is_so):
    for _ in range(3000):
        if is_so():
            return
        time.sleep(0.1)
    raise TimeoutError


def die(job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_rows_of_settings_that_are_chosen_no_longer_are_not_there(folder):
    grid = {"lr": [1e-3, 1e-2]}
    variants = {"coach": {"base": "base_demo", "grid": grid}, "rkl": PLAN["variants"]["rkl"]}

    def table_of(**changes):
        plan = read_plan(write(folder, **{"variants": variants, **changes}))
        return Table(plan, folder)
    table = table_of()
    keep_tuned(table, 1e-3, 3.0)
    keep_tuned(table, 1e-2, 2.0)
    keep_rows(table, {"coach": [1.0, 3.0], "rkl": [2.0, 4.5]})
    assert [*map(len, table.rows().values())] == [2, 2]

    # the grid grows, another point is chosen: neither its rows nor its student's are of that
    grid["lr"].append(1e-1)
    assert [*map(len, table_of().rows().values())] == [0, 0]
    keep_tuned(table_of(), 1e-1, 2.5)
    assert [*map(len, table_of().rows().values())] == [2, 2]
    keep_tuned(table_of(), 1e-1, 1.5)
    assert [*map(len, table_of().rows().values())] == [0, 0]
    keep_tuned(table_of(), 1e-1, 2.5)

    # a key of the student's changes: its rows are gone; one of all: what was tuned is too
    other = {**variants, "rkl": {**variants["rkl"], "alpha": 0.25}}
    assert [*map(len, table_of(variants=other).rows().values())] == [2, 0]
    longer = table_of(common=TINY | {"max_steps": 7})
    assert longer.tuned["coach"] == {} and [*map(len, longer.rows().values())] == [0, 0]
    assert [*map(len, table_of().rows().values())] == [2, 2]


def search(ladder, start, val_ce):
    """The chosen point and all that were tried, in their order."""
    tried = []
    while True:
        known = {str(point): val_ce(point) for point in tried}
        chosen, due = climb(ladder, start, lambda point: known.get(str(point)))
        if chosen:
            return chosen, tried
        assert not any(point in tried for point in due)
        tried += due


def test_a_ladder_is_searched_a_key_at_a_time_until_no_neighbour_is_better():
    ladder = {"lr": [1, 2, 3, 4, 5], "dropout": [0, 1, 2, 3, 4]}

    def val_ce(point):  # a valley across both keys: the best lr depends on the dropout
        lr, dropout = point["lr"] - 2, point["dropout"] - 4
        return lr**2 + dropout**2 + 0.5 * lr * dropout
    chosen, tried = search(ladder, {"lr": 5, "dropout": 0}, val_ce)
    assert chosen == {"lr": 2, "dropout": 4}
    assert tried[:2] == [{"lr": 5, "dropout": 0}, {"lr": 4, "dropout": 0}]
    assert len(tried) < 25
    near = [{**chosen, "lr": 1}, {**chosen, "lr": 3}, {**chosen, "dropout": 3}]
    assert all(point in tried and val_ce(point) > val_ce(chosen) for point in near)
    # equally good is not better: the config's own point stays
    assert search(ladder, {"lr": 3, "dropout": 2}, lambda point: 1.0)[0] == {"lr": 3, "dropout": 2}
    assert search({"lr": [7]}, {"lr": 7}, lambda point: 1.0) == ({"lr": 7}, [{"lr": 7}])


def test_an_end_is_open_unless_the_key_itself_ends_there():
    space = {"lr": [1e-2, 1e-3], "dropout": [0.0, 0.1, 0.2], "weight_decay": [0, 0.3],
             "alpha": [0.5, 1.0], "optimizer": ["adamw", "muon"], "tau": [1.0],
             "tie": [False, True]}
    least = dict(lr=1e-3, dropout=0.0, weight_decay=0, alpha=1.0, optimizer="adamw", tau=1.0,
                 tie=False)
    assert open_ends(space, least) == ["lr"]
    most = least | dict(dropout=0.2, weight_decay=0.3, alpha=0.5)
    assert open_ends(space, most) == ["lr", "dropout", "weight_decay", "alpha"]
    assert open_ends(space, most | {"dropout": 0.1}) == ["lr", "weight_decay", "alpha"]
    schedules = {"alpha": ["linear(0: 1, 0.5: 0)", "linear(0: 1, 0.7: 0)", "linear(0: 1, 1: 0)"]}
    assert open_ends(schedules, {"alpha": schedules["alpha"][2]}) == ["alpha"]
    assert open_ends(schedules, {"alpha": schedules["alpha"][1]}) == []


def test_the_points_of_a_ladder_are_run_as_they_are_asked_for_and_kept(folder, monkeypatch):
    desk = Desk()
    monkeypatch.setattr(tables, "processes", lambda n: contextlib.nullcontext(desk))
    monkeypatch.setattr(tables.concurrent.futures, "wait", desk.wait)
    monkeypatch.setattr(tables, "is_trained", lambda job: str(job) in desk.done)
    ladder = {"lr": [0.1, 0.01, 0.001], "epochs": [2, 4]}
    variants = {"coach": {"base": "base_demo", "lr": 0.1, "epochs": 4, "max_steps": 0,
                          "ladder": ladder},
                "member": {"base": "base_demo", "settings": "coach", "init_seed": 1,
                           "max_steps": 0},
                "rkl": {"base": "rkl_demo", "teachers": ["coach", "member"]}}
    plan = read_plan(write(folder, variants=variants, seeds=[0]))
    Table(plan, folder).make(["coach", "member", "rkl"])
    names = [f"coach.lr-{lr}_epochs-{epochs}" for lr, epochs in
             ((0.1, 4), (0.01, 4), (0.001, 4), (0.001, 2))]  # its val_ce is lr: lower is better
    assert [said for said in desk.said if not said.startswith("end")] == [
        *(f"tune {name}, seed 100" for name in names), f"report {names[2]}, seed 0",
        "report member.lr-0.001_epochs-4, seed 0", "report rkl, seed 0"]

    # a longer ladder goes on from there; no point is run twice
    desk.said.clear()
    ladder["lr"].append(0.0001)
    plan = read_plan(write(folder, variants=variants, seeds=[0]))
    table = Table(plan, folder)
    assert table.rows() == {"coach": {}, "member": {}, "rkl": {}}
    table.make(["coach"])
    assert [said for said in desk.said if said.startswith("tune")] == [
        f"tune coach.lr-0.0001_epochs-{epochs}, seed 100" for epochs in (4, 2)]
    text = as_markdown(table, summarise(table))
    assert text.count("| coach | lr ") == 6
    assert "| coach | lr 0.0001, epochs 4 | 0.0001 | chosen, at the end of lr, epochs |" in text
    assert "## Not at their best" in text and "| coach | lr, epochs |  |" in text


def test_a_summary_says_where_best_pt_comes_long_before_the_end(folder):
    table = Table(read_plan(write(folder)), folder)
    keep_rows(table, {"coach": [1.0, 3.0], "rkl": [2.0, 4.5]})
    for seed, best_step in ((0, 100), (1, 500)):
        path = table.path("rkl", seed)
        files.write_json(path, files.read_json(path) | {"best_step": best_step})
    text = as_markdown(table, summarise(table))
    assert "| rkl |  | 0.30 |" in text and "| coach | lr |  |" in text


def test_a_students_grid_is_of_its_teachers_settings(folder):
    """Where a teacher is chosen anew, so are its students' settings."""
    variants = {"coach": {"base": "base_demo", "grid": {"lr": [1e-3, 1e-2]}},
                "rkl": {"base": "rkl_demo", "teachers": ["coach"], "grid": {"alpha": [0.1, 0.2]}}}
    table = Table(read_plan(write(folder, variants=variants)), folder)
    keep_tuned(table, 1e-3, 1.0)
    keep_tuned(table, 1e-2, 2.0)
    for alpha in (0.1, 0.2):
        job = table.job("rkl", {"alpha": alpha}, 100, "tune")
        append(folder / "some/tuning.jsonl",
                      dict(variant="rkl", seed=100, settings=job.settings, val_ce=alpha,
                           command=job.command))
    table.read_tuning()
    assert table.chosen["rkl"] == {"alpha": 0.1} and not table.missing("coach")[2:]
    keep_tuned(table, 1e-2, 0.5)
    assert "rkl" not in table.chosen and len(table.missing("rkl")) == 2


def test_a_row_counts_for_its_own_seed_alone(folder):
    """A row's file under the name of another seed is no second run."""
    table = Table(read_plan(write(folder)), folder)
    keep_rows(table, {"coach": [1.0]})
    table.path("coach", 1).write_bytes(table.path("coach", 0).read_bytes())
    assert [*table.rows()["coach"]] == [0]


def test_a_teacher_may_be_a_config_and_no_variant(folder):
    variants = {"taught": {"base": "rkl_demo", "teachers": ["llama_demo"]}}
    table = Table(read_plan(write(folder, variants=variants, contrasts=[])), folder)
    path = table.path("taught", 0)
    path.parent.mkdir(parents=True)
    command = table.job("taught", {}, 0, "report").command
    files.write_json(path, dict(variant="taught", seed=0, settings={}, command=command))
    assert table.row("taught", 0)


@pytest.mark.slow
def test_a_plans_text_may_lie_elsewhere_and_no_row_names_the_place(folder):
    texts = {}
    for name, line in (("train", "the dog sees a cat .\n"), ("dev", "a cat sees the dog .\n")):
        texts[name] = folder / f"{name}.txt"
        texts[name].write_text(line * 400)
    variants = {"alone": {"base": "base_demo"}}
    plan = write(folder, variants=variants, seeds=[0], contrasts=[],
                 common=TINY | {"vocab_size": 270})
    main([plan, f"--results={folder}", f"--corpus={texts['train']}",
                 f"--dev={texts['dev']}"])
    row = files.read_json(folder / "some/rows/alone-0.json")
    assert str(folder) not in row["command"]
    other = write(folder, variants=variants, seeds=[0], contrasts=[], table="other",
                  common=TINY | {"vocab_size": 270})
    texts["train"].write_text("a cat sees the dog .\n" * 400)
    main([other, f"--results={folder}", f"--corpus={texts['train']}",
                 f"--dev={texts['dev']}"])
    again = files.read_json(folder / "other/rows/alone-0.json")
    assert row["command"] == again["command"] and row["text"] != again["text"]


@pytest.mark.slow
def test_a_run_that_fails_is_said_and_stops_no_other(folder, capsys):
    variants = {"wide": {"base": "base_demo", "batch_size": 10**6},
                "sound": {"base": "base_demo"}}
    plan = write(folder, variants=variants, seeds=[0], contrasts=[])
    with pytest.raises(UserError, match="1 runs failed: wide, seed 0"):
        main([plan, f"--results={folder}", "--jobs=2"])
    assert "wide, seed 0: UserError: " in capsys.readouterr().out
    assert [path.name for path in (folder / "some/rows").iterdir()] == ["sound-0.json"]


@pytest.mark.parametrize("changes, words", [
    (dict(seeds=3), "cannot be read as a plan .TypeError: can only concatenate list"),
    (dict(seeds=[0, 1, 1, 1, 1]), "seeds \\[0, 1, 1, 1, 1\\] .* must be whole numbers, each"),
    (dict(seeds=[0, 0.5]), "seeds \\[0, 0.5\\] .* must be whole numbers"),
    (dict(seeds=[0, False]), "seeds \\[0, False\\] .* must be whole numbers"),
    (dict(tuning_seeds=[100, 100]), "tuning_seeds \\[100, 100\\] must be whole numbers"),
    (dict(tuning_seeds=[1, 100]), "no settings are chosen on a seed that is reported"),
    (dict(wrong=1), "unknown 'wrong'"),
    (dict(variants={"a": {"lr": 1.0}}, contrasts=[]), "cannot be read as a plan .KeyError: 'base'"),
    (dict(variants={"a": 1}, contrasts=[]), "cannot be read as a plan .TypeError: argument of"),
    (dict(contrasts=[["rkl", "none", "val_ce"]]), "no variant 'none'"),
    (dict(contrasts=[["rkl", "coach", "beauty"]]), "no figure 'beauty'"),
    (dict(contrasts=[["rkl", "coach"]]), "cannot be read as a plan .ValueError: not enough values"),
    (dict(over={"tau": 1.0}), "cannot be read as a plan .TypeError: 'float'"),
    (dict(over={"tau": [1.0, 2.0]}), "no variant 'rkl'"),  # they are rkl_1.0 and rkl_2.0 now
    (dict(over={"tau": [1.0, 0.0]}), "tau = 0.0: must be > 0"),
    (dict(variants={"a": {"base": "base_demo", "grid": {"lr": 1e-3}}}),
     "cannot be read as a plan .TypeError: 'float'"),
    (dict(variants={"a": {"base": "base_demo", "grid": {"lr": []}}}),
     "cannot be read as a plan .IndexError"),
    (dict(variants={"a": {"base": "rkl_demo", "teachers": "llama_demo"}}),
     "variant a: teachers = 'llama_demo': must be a list of strings"),
    (dict(variants={"a": {"base": "base_demoo"}}), "variant a: config .*base_demoo.py"),
    (dict(variants={"a": {"base": "base_demo", "lrr": 1.0}}), "variant a: unknown key 'lrr'; did"),
    (dict(variants={"a": {"base": "base_demo", "grid": {"lr": [1.0, -1.0]}}}),
     "variant a: lr = -1.0: must be >= 0"),
    (dict(variants={"a": {"base": "base_demo", "grid": {"tau": [1.0]}, "ladder": {"lr": [1.0]}}}),
     "variant a has a grid and a ladder"),
    (dict(variants={"a": {"base": "base_demo", "settings": "b"}}),
     "variant a: settings must name an earlier variant"),
    (dict(variants={"a": {"base": "base_demo", "lr": 0.3, "ladder": {"lr": [0.1, 1.0]}}}),
     "variant a: the search starts from lr = 0.3, which is not on"),
    (dict(variants={"a": {"base": "base_demo", "epochs": 1, "ladder": {"epochs": [1, 2]}}}),
     "variant a: epochs has no effect beside max_steps"),
    (dict(variants={"a": {"base": "base_demo", "lr": 0.1, "ladder": {"lr": [0.1, -1.0]}}}),
     "variant a: lr = -1.0: must be >= 0"),
    (dict(tasks=["blimpp"]), "unknown task 'blimpp'"),
    (dict(figures={"val_ce": "eval.blimp.accuracy"}), "from a task that tasks does not name"),
    (dict(common=TINY | {"d_model": 7}), "variant coach: d_model 7 does not split"),
    (dict(variants={"a": {"base": "base_demo", "grid": "none"}}), "KeyError: 'none'"),
    (dict(tuning_seeds=[]), "coach has a grid or ladder, and there"),
    (dict(variants={"a": {"base": "rkl_demo", "teachers": ["a"]}}), "a needs a, which must come"),
])
def test_what_a_plan_cannot_be(folder, changes, words):
    with pytest.raises(UserError, match=words):
        read_plan(write(folder, **changes))


def test_a_benchmark_that_is_not_there_is_said_before_anything_is_run(folder, monkeypatch):
    monkeypatch.setenv("BABYLM_DIR", str(folder))
    with pytest.raises(UserError, match="blimp_filtered"):
        main([write(folder, tasks=["blimp"]), f"--results={folder / 'results'}"])
    assert not (folder / "out").exists()


def test_a_plan_over_values_keeps_what_belongs_together_apart(folder):
    variants = {"coach": {"base": "base_demo"},
                "rkl": {"base": "rkl_demo", "teachers": ["coach", "truth"], "init": "coach"}}
    contrasts = [["rkl_100", "rkl_300", "val_ce"]]
    plan = read_plan(write(folder, variants=variants, contrasts=contrasts,
                           over={"sentences": [100, 300]}))
    assert [*plan.variants] == ["coach_100", "rkl_100", "coach_300", "rkl_300"]
    assert plan.variants["rkl_300"] == {"base": "rkl_demo", "teachers": ["coach_300", "truth"],
                                        "init": "coach_300", "sentences": 300}


@pytest.mark.parametrize("option, words", [
    ("--seeds=a,1", "the plan has 0, 1"), ("--seeds=1,7", "the plan has 0, 1"),
    ("--only=coach,none", "the plan has coach, rkl"), ("--jobs=0", "at least 1")])
def test_options_that_do_not_fit_the_plan_are_refused(folder, option, words):
    with pytest.raises(UserError, match=f"{option}: {words}"):
        main([write(folder), option])


def test_a_missing_scipy_is_named_before_anything_is_run(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match="need scipy: pip install scipy"):
        main([write(folder), f"--results={folder}"])
    assert not (folder / "out").exists()


def test_a_missing_assignment_is_named(folder):
    path = folder / "plan.py"
    path.write_text("table = 'some'\n")
    with pytest.raises(UserError, match="seeds is missing"):
        read_plan(path)


def test_the_plans_that_come_with_the_program_can_be_read():
    plans = sorted([*jobs.CONFIGS.glob("ablate_*.py"), *jobs.CONFIGS.glob("record_*.py")])
    assert plans
    for path in plans:
        plan = read_plan(path)
        for variant in plan.variants:
            chosen = {name: first_point(plan, name) for name in plan.variants}
            for settings in grid_points(plan.spaces[variant]):
                job = jobs.Job(plan, variant, settings, 0, chosen, pathlib.Path("out"),
                                 "report")
                assert job.config.seed == 0


def test_a_paired_difference_by_hand():
    # 1, 2, 3: mean 2, deviation 1, error 1 / sqrt(3); t of 2 degrees at 5% is 4.3027
    mean, (low, high), p = paired([1.0, 2.0, 3.0])
    assert mean == 2
    assert [2 - low, high - 2] == pytest.approx([4.3027 / 3**0.5] * 2, abs=1e-4)
    assert p == pytest.approx(0.0742, abs=1e-4)


def change_rows(table, variant, **changes):
    for seed in table.plan.seeds:
        path = table.path(variant, seed)
        files.write_json(path, files.read_json(path) | changes)


def test_the_frontier_counts_all_that_a_run_needs_once(folder):
    variants = {"coach": {"base": "base_demo"},
                "rkl": {"base": "rkl_demo", "teachers": ["coach"]},
                "more": {"base": "rkl_demo", "teachers": ["coach"], "init": "rkl"}}
    table = Table(read_plan(write(folder, variants=variants)), folder)
    keep_rows(table, {"coach": [1.0, 3.0], "rkl": [2.0, 4.0], "more": [1.0, 2.0]})
    change_rows(table, "coach", flops=100.0)
    change_rows(table, "rkl", flops=400.0, curve=[[0, 9.0], [500, 5.0], [1000, 3.0]])
    change_rows(table, "more", flops=500.0, curve=[[0, 9.0], [20, 2.5], [100, 1.5]])
    by_hand = {"coach": [(100, 2)], "rkl": [(250, 5), (400, 3)], "more": [(420, 2.5), (500, 1.5)]}
    rows = table.rows()
    assert {variant: frontier(table.plan, rows, variant) for variant in rows} == by_hand

    # without its teacher's row nobody knows what a student took
    table.path("coach", 0).unlink()
    table.path("coach", 1).unlink()
    assert frontier(table.plan, table.rows(), "rkl") == []
    pytest.importorskip("matplotlib")
    pictures.draw_frontier(table, folder / "frontier.svg")
    assert not (folder / "frontier.svg").exists()
    keep_rows(table, {"coach": [1.0, 3.0]})
    pictures.draw_frontier(table, folder / "frontier.svg")
    svg = (folder / "frontier.svg").read_text()
    assert all(text in svg for text in ("sentences 300", "coach", "rkl", "more", "flops"))


def test_unseen_lines_of_real_text_stand_beside_all_lines(folder):
    figures = {"val_ce": "val_ce", "nats": "eval.ppl --limit=9.overall.mean_nats_per_byte"}
    table = Table(read_plan(write(folder, figures=figures)), folder)
    keep_rows(table, {"coach": [1.0, 3.0], "rkl": [2.0, 4.5]})
    assert "unseen" not in as_markdown(table, summarise(table))
    change_rows(table, "rkl", eval={"ppl --limit=9": {
        "overall": {"mean_nats_per_byte": 1.5}, "unseen": {"mean_nats_per_byte": 1.75},
        "shared": 0.25}})
    text = as_markdown(table, summarise(table))
    assert "| nats | nats, unseen lines | share of the test split that was seen | steps |" in text
    assert "| rkl | 3.25 | 1.5 | 1.75 | 0.25 |" in text and "## nats, unseen lines" in text


def test_holm_adjusts_the_smallest_most_and_never_out_of_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]


def test_a_row_counts_all_that_its_run_took_each_run_once(folder, make_config, tmp_path):
    """first <- kid, of teacher first; kid <- more, of twice the batch and no teacher."""
    keys = {**TINY, "max_steps": 2}
    for name, own in (("first", {}), ("kid", dict(teachers=["first"], divergence="rkl")),
                      ("more", dict(init="kid", batch_size=8, max_steps=3)),
                      ("last", dict(init="kid", teachers=["first"]))):
        distill.train(make_config(**{**keys, **own, "name": name}))
    out = tmp_path / "out"
    a_token = jobs.load(out / "first")[0].flops(16)
    first = 2 * 64 * 3 * a_token
    kid = 2 * 64 * 4 * a_token
    assert jobs.total_flops(out / "first") == first
    assert jobs.total_flops(out / "kid") == first + kid
    assert jobs.total_flops(out / "more") == first + kid + 3 * 128 * 3 * a_token
    assert jobs.total_flops(out / "last") == first + 2 * kid
    assert jobs.tokens_seen(out / "more") == 2 * 64 + 3 * 128


def test_a_run_beyond_the_budget_is_refused(folder, capsys):
    """Before it is trained; or, if its teacher was no variant, when its row would be made."""
    coach = {"base": "base_demo", "max_steps": 2}
    rkl = {"base": "rkl_demo", "teachers": ["coach"], "max_steps": 0, "epochs": 0.05}
    path = write(folder, tuning_seeds=[], seeds=[0], variants={"coach": coach, "rkl": rkl})
    main([path, f"--results={folder}"])
    coach_flops, flops = [files.read_json(folder / f"some/rows/{name}-0.json")["flops"]
                          for name in ("coach", "rkl")]
    assert 0 < coach_flops < flops

    for out, budget in (("exact", flops), ("less", flops - 1)):
        path = write(folder, tuning_seeds=[], seeds=[0], budget=budget,
                     variants={"coach": coach, "rkl": rkl}, table=out)
        with contextlib.ExitStack() as stack:
            if out == "less":
                stack.enter_context(pytest.raises(UserError, match="1 runs failed: rkl, seed 0"))
            main([path, f"--results={folder}"])
    assert (folder / "exact/rows/rkl-0.json").exists()
    assert (folder / "less/rows/coach-0.json").exists()
    assert not (folder / "less/rows/rkl-0.json").exists()
    assert "TFLOP with all that it needs, and the budget is" in capsys.readouterr().out
    assert not (folder / "out/less/0/rkl/metrics.jsonl").exists()

    alone = {"base": "rkl_demo", "teachers": ["llama_demo"], "max_steps": 2}
    path = write(folder, tuning_seeds=[], seeds=[0], table="late", variants={"rkl": alone},
                 contrasts=[], budget=coach_flops)
    with pytest.raises(UserError, match="1 runs failed: rkl, seed 0"):
        main([path, f"--results={folder}"])
    assert (folder / "out/late/0/rkl/best.pt").exists()
    assert not (folder / "late/rows").exists()


def test_flops_count_muons_own_products(folder, make_config, tmp_path):
    """By hand: of a layer q, k, v and out (8, 8), gate and up (16, 8), down (8, 16)."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has no Muon")
    for name in ("adamw", "muon"):
        distill.train(make_config(**TINY, name=name, optimizer=name))
    difference = (jobs.total_flops(tmp_path / "out/muon")
                  - jobs.total_flops(tmp_path / "out/adamw"))
    assert difference == 6 * 5 * sum(4 * 64 * n + 2 * 512 for n in (8, 8, 8, 8, 16, 16, 16))


def test_a_line_of_tuning_is_whole_after_a_torn_one(folder):
    path = folder / "t/tuning.jsonl"
    append(path, {"seed": 1})
    path.write_text(path.read_text() + '{"seed": 2, "val')
    append(path, {"seed": 3})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"seed": 1},
                                                                            {"seed": 3}]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_leaves_tuning_as_it_was(folder, monkeypatch):
    path = folder / "t/tuning.jsonl"
    append(path, {"seed": 1})
    full = open("/dev/full", "wb")
    monkeypatch.setattr(files, "open", lambda *args: full, raising=False)
    with pytest.raises(UserError, match="No space left"):
        append(path, {"seed": 2})
    assert path.read_text() == '{"seed": 1}\n'


def test_a_plan_that_extends_another_has_its_variants_rows_and_settings(folder):
    write(folder)
    (folder / "plan.py").rename(folder / "first.py")
    write(folder, extends="first", table="second", contrasts=[["rkl_again - coach", "rkl - coach",
                                                               "val_ce"]],
          variants={"rkl_again": {"base": "rkl_demo", "teachers": ["coach"]}})
    text = (folder / "plan.py").read_text()
    own = [line for line in text.splitlines()
           if not line.startswith(("seeds", "tuning_seeds", "common", "figures"))]
    (folder / "plan.py").write_text("\n".join(own))
    plan = read_plan(folder / "plan.py")
    assert [*plan.variants] == ["coach", "rkl", "rkl_again"] and plan.seeds == [0, 1]
    assert plan.tables == {"coach": "some", "rkl": "some", "rkl_again": "second"}

    table = Table(plan, folder / "results")
    keep_tuned(table, 1e-3, 2.0)
    with pytest.raises(UserError, match="rkl_again needs coach, which has no settings yet"):
        table.make(["rkl_again"])
    keep_tuned(table, 1e-2, 1.0)
    job = table.job("rkl_again", {}, 0, "report")
    assert job.keys["teachers"] == ["coach.lr-0.01"]
    assert pathlib.Path(job.keys["out_dir"]).parts[-2:] == ("some", "0")  # its teacher is there

    keep_rows(table, {"coach": [1, 2], "rkl": [3, 5], "rkl_again": [7, 11]})
    contrast, = summarise(table)["contrasts"]
    assert contrast["mean"] == ((7 - 1) - (3 - 1) + (11 - 2) - (5 - 2)) / 2

    (folder / "plan.py").write_text("\n".join([*own, "seeds = [7]"]))
    with pytest.raises(UserError, match="seeds comes from some"):
        read_plan(folder / "plan.py")


def test_each_plan_has_grids_of_its_own(folder):
    write(folder, contrasts=[], grids={"lr": {"lr": [1.0]}},
          variants={"coach": {"base": "base_demo", "grid": "lr"}})
    second = folder / "second.py"
    second.write_text("""table = "second"
extends = "plan"
grids = {"lr": {"lr": [2.0, 3.0]}}
variants = {"other": {"base": "base_demo", "grid": "lr"}}
""")
    plan = read_plan(second)
    assert grid_points(plan.spaces["coach"]) == [{"lr": 1.0}]
    assert grid_points(plan.spaces["other"]) == [{"lr": 2.0}, {"lr": 3.0}]


def test_a_plan_that_tunes_nothing_says_so(folder):
    plan = read_plan(write(folder, tuning_seeds=[], contrasts=[],
                                  variants={"alone": {"base": "base_demo"}}))
    table = Table(plan, folder)
    text = as_markdown(table, summarise(table))
    assert "Nothing was tuned." in text and "What was tried" not in text


def test_contrasts_that_are_not_there_yet_count_in_holms_correction(folder):
    contrasts = [["rkl", "coach", "val_ce"]] * 2 + [["coach", "rkl", "other"]]
    figures = {"val_ce": "val_ce", "other": "val_rkl"}
    table = Table(read_plan(write(folder, figures=figures, contrasts=contrasts)),
                         folder)
    keep_rows(table, {"coach": [1.0, 3.0], "rkl": [2.0, 4.5]})
    found = summarise(table)["contrasts"]
    assert len(found) == 2
    assert found[0]["p_holm"] == pytest.approx(min(1.0, 3 * found[0]["p"]))
