"""Faults: runs that are killed, interrupted, started twice or out of disk go on to the same bits.

Damaged files are one line.

    python -m pytest tests/test_faults.py                 a few of each
    KILLS=200 CASES=100000 python -m pytest tests/test_faults.py
                                   as many kills per kind of run, and damaged files per reader
"""
import json
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import types
import zipfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import hypothesis
import pytest
import torch
import torch._dynamo  # the optimizer asks for it: a second that would be spent in each process
from hypothesis import strategies as st

import babytalk
import data
import distill
import eval
import runs
from onecoach import config, corpora, exam, files, run, suite
from onecoach.config import UserError

TINY = {**runs.TINY, "max_steps": 12, "val_every": 1, "dropout": 0.1}
# run -> the configs that it needs and its own; "kid" is the run, the others are trained on the way
KINDS = {
    "teacher": {"kid": {}},
    "distill": {"coach": dict(arch="gpt2", max_steps=4),
                "kid": dict(teachers=["coach"], divergence="rkl", mix=0.9)},
    "on-policy": {"coach": dict(max_steps=4),
                  "kid": dict(teachers=["coach"], init="coach", on_policy=0.5, prompt_len=4,
                              rollout_loss="single_step", log_every=5)},
}

# ---------------------------------------------------------------- a command in a process of its own

workers = multiprocessing.get_context("forkserver")  # it imports torch once, and forks
workers.set_forkserver_preload(["test_faults"])
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])  # or it would not find it


def command(root, hook, argv):
    """In a process of its own: distill.py argv with the configs of root, evaluation left out.

    It writes to root/log.
    """
    log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    config.CONFIGS = root / "configs"
    eval.evaluate = lambda folder, **_: files.write_json(
        folder / "eval.json", {"babytalk": {}, "sample": {}})

    babytalk.check_babytalk = lambda *_: None  # which is about it
    if hook:
        hook(root)
    sys.argv = ["distill.py", *argv]

    def main(argv):
        try:
            distill.main(argv)
        finally:  # a full disk does not keep the last line from being said
            limit(resource.RLIM_INFINITY)
    config.run_main(main)


class Job:
    """distill.py on configs/kid.py under root, begun.

    hook(root), a function of this module, is called first.
    """

    def __init__(self, root, *argv, hook=None):
        self.root = root
        args = (root, hook, [str(root / "configs/kid.py"), *argv])
        self.process = workers.Process(target=command, args=args)
        self.process.start()

    def until(self, there, patience=60):
        """Wait until there() is true; False if the process ended before."""
        end = time.monotonic() + patience
        while not there():
            if not self.process.is_alive():
                return False
            assert time.monotonic() < end, self.log()
            time.sleep(0.0005)
        return True

    def signal(self, number):
        os.kill(self.process.pid, number)

    def log(self):
        return (self.root / "log").read_text()

    def end(self):
        """(exit code, what it wrote); negative for a signal that killed it."""
        self.process.join(60)
        assert self.process.exitcode is not None, "it hangs"
        return self.process.exitcode, self.log()


def prepared(root, kind="teacher", **keys):
    """Configs of a kind of run under root; the folder of the run itself."""
    (root / "configs").mkdir(parents=True)
    for name, own in KINDS[kind].items():
        own = {**TINY, "out_dir": str(root / "out"), "data_dir": str(root / "data"), **own, **keys}
        (root / f"configs/{name}.py").write_text("".join(f"{k} = {v!r}\n" for k, v in own.items()))
    return root / "out/kid"


def left(root):
    """What a whole run leaves under root: each run's weights, and its metrics without the speed."""
    found = {}
    for folder in sorted((root / "out").iterdir()):
        for name in ("best.pt", "ckpt.pt"):
            state = files.load_checkpoint(folder / name)
            found |= {(folder.name, name, k): v for k, v in state["model"].items()}
        found[folder.name, "metrics"] = runs.without_speed(runs.lines(folder))
    return found


def assert_same(found, whole):
    assert found.keys() == whole.keys()
    for key, value in whole.items():
        assert (torch.equal(found[key], value) if isinstance(value, torch.Tensor)
                else found[key] == value), key


def one_line(text):
    lines = text.strip().splitlines()
    assert "Traceback" not in text, text
    return lines[-1] if lines else ""


# ---------------------------------------------------------------- killed at any moment

def kill_and_go_on(root, kind, kills, rng):
    """Run a kind of run to the end, then again with that many SIGKILLs at random moments."""
    whole, broken = root / "whole", root / "broken"
    prepared(whole, kind)
    prepared(broken, kind)
    # the first one waits for the imports
    assert Job(whole).end()[0] == 0, (whole / "log").read_text()
    started = time.monotonic()
    assert Job(whole, "--resume=no").end()[0] == 0
    duration = time.monotonic() - started
    whole_left = left(whole)

    while kills > 0:
        kid = broken / "out/kid"
        before = 0
        if kid.exists() and run.is_finished(kid):  # begin again
            assert_same(left(broken), whole_left)
            shutil.rmtree(broken / "out")
        elif kid.exists():
            before = (files.last_checkpoint(kid)[0] or {"step": 0})["step"]

        job = Job(broken)
        writing = rng.random() < 0.5
        if writing:  # in the middle of a checkpoint
            is_writing = lambda: any(kid.glob(".ckpt.pt.*.tmp"))
            nth = rng.randrange(1, 4)
            for _ in range(nth):
                job.until(is_writing) and job.until(lambda: not is_writing())
            job.until(is_writing)
            time.sleep(rng.uniform(0, 0.002))
        else:
            time.sleep(rng.uniform(0, duration))

        if job.process.is_alive():
            job.signal(signal.SIGKILL)
        code, out = job.end()
        assert code in (0, -signal.SIGKILL), out
        if code:
            kills -= 1
            state, _ = files.last_checkpoint(kid)
            logged = files.read_json_lines(kid / "metrics.jsonl") if kid.exists() else []
            step = state["step"] if state else 0
            val = [m["step"] for m in logged if "val_ce" in m]
            assert step >= before, "a checkpoint was lost"
            assert not state or step >= max(val, default=0) - 1, "a checkpoint was lost"

    assert Job(broken).end()[0] == 0
    assert_same(left(broken), whole_left)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, kind):
    kill_and_go_on(tmp_path, kind, int(os.environ.get("KILLS", 3)), random.Random(kind))


def dies_before_best(root):
    save = files.save_checkpoint
    files.save_checkpoint = lambda path, state: (
        os._exit(9) if (path.name, state["step"]) == ("best.pt", 12) else save(path, state))


def dies_before_its_line(root):
    write = run.Metrics.write
    run.Metrics.write = lambda self, **values: (
        os._exit(9) if "val_ce" in values and values["step"] == 12 else write(self, **values))


@pytest.mark.parametrize("hook", [dies_before_best, dies_before_its_line])
def test_a_run_that_dies_within_what_a_validation_writes_has_its_best_weights(tmp_path, hook):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for root in (whole, broken):
        prepared(root)
    assert Job(whole).end()[0] == 0
    assert Job(broken, hook=hook).end()[0] == 9
    assert Job(broken).end()[0] == 0
    assert_same(left(broken), left(whole))


# ---------------------------------------------------------------- signals

def slow_steps(root):
    stepped = run.Run.stepped
    run.Run.stepped = lambda *args: time.sleep(0.02) or stepped(*args)


def slow_preparation(root):
    count = data.count_words

    def count_words(*args):
        (root / "here").touch()
        time.sleep(20)
        return count(*args)
    data.count_words = count_words


def stuck_step(root):
    def stepped(*args):
        (root / "here").touch()
        time.sleep(20)
    run.Run.stepped = stepped


@pytest.mark.parametrize("number, within", [
    (signal.SIGINT, "kid"), (signal.SIGTERM, "coach"), (signal.SIGHUP, "kid")])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(tmp_path, number, within):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    folders = [prepared(root, "distill", log_every=5, val_every=4) for root in (whole, parts)]
    folder = folders[1].with_name(within)
    assert Job(whole).end()[0] == 0

    job = Job(parts, hook=slow_steps)
    assert job.until((folder / "ckpt.pt").exists)
    job.signal(number)
    code, out = job.end()

    state = files.load_checkpoint(folder / "ckpt.pt")
    last = one_line(out)
    steps = 12 if within == "kid" else 4
    said = (f"{within}: interrupted at step {state['step']} of {steps}; the same command goes on "
            "from here")
    assert code == 128 + number and last == said, out
    assert (folder / "ckpt.pt").exists()
    assert not (folder / ".lock").read_text()
    assert Job(parts).end()[0] == 0
    assert_same(left(parts), left(whole))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_the_loop_is_one_line_and_leaves_nothing(tmp_path, number):
    prepared(tmp_path)
    job = Job(tmp_path, hook=slow_preparation)
    assert job.until((tmp_path / "here").exists)
    job.signal(number)
    code, out = job.end()
    assert code == 128 + number and one_line(out) == f"interrupted by {number.name}", out
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "out").exists()


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    folder = prepared(tmp_path)
    job = Job(tmp_path, hook=stuck_step)
    assert job.until((tmp_path / "here").exists)
    job.signal(signal.SIGINT)
    assert job.until(lambda: "once more stops at once" in job.log())
    job.signal(signal.SIGINT)
    code, out = job.end()
    assert code == 130 and one_line(out) == "interrupted by SIGINT", out
    assert not (folder / "ckpt.pt").exists(), out


# ---------------------------------------------------------------- two processes

def test_a_second_process_is_refused_while_the_first_lives(tmp_path):
    folder = prepared(tmp_path)
    first = Job(tmp_path, hook=stuck_step)
    assert first.until((tmp_path / "here").exists)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    code, out = Job(tmp_path).end()
    assert code == 2, out
    assert f"{folder} is being trained by process {first.process.pid}" in one_line(out), out
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    # while somebody who only reads is let in
    assert config.read_config(folder / "config.json").name == "kid"
    first.signal(signal.SIGKILL)
    first.end()
    assert Job(tmp_path).end()[0] == 0 and not (folder / ".lock").read_text()


# ---------------------------------------------------------------- a full disk

def limit(size):
    """No file of this process may grow beyond size bytes from now on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full_at_the_third_checkpoint(root):
    save = files.save_checkpoint

    def then_full(path, state):
        if state["step"] == 3 and path.name == "ckpt.pt":
            limit(4000)
        save(path, state)
    files.save_checkpoint = then_full


def full_at_the_third_validation(root):
    write = run.Metrics.write

    def then_full(self, **values):
        if "val_ce" in values and values["step"] == 3:
            limit(self.path.stat().st_size + 10)
        write(self, **values)
    run.Metrics.write = then_full


def full_at_the_tokens(root):
    write = data.write_tokens
    data.write_tokens = lambda *args: (limit(1000), write(*args))


def full_at_the_evaluation(root):
    eval.evaluate = lambda folder, **_: (
        limit(10), files.write_json(folder / "eval.json", {"babytalk": {}, "sample": {}}))


@pytest.mark.parametrize("hook, name, step", [
    (full_at_the_third_checkpoint, "out/kid/ckpt.pt", 2),
    (full_at_the_third_validation, "out/kid/metrics.jsonl", 3),  # saved before it validates
    (full_at_the_tokens, "data/babytalk", None),
    (full_at_the_evaluation, "out/kid/eval.json", 12)])
def test_a_full_disk_stops_the_run_with_one_line_and_loses_nothing(tmp_path, hook, name, step):
    whole, full = tmp_path / "whole", tmp_path / "full"
    prepared(whole)
    prepared(full)
    job = Job(full, hook=hook)
    code, out = job.end()
    last = one_line(out)
    assert code == 2 and last.startswith("error: ") and str(full / name) in last, out
    assert "could not be written: File too large" in last, out
    if step:
        assert files.load_checkpoint(full / "out/kid/ckpt.pt")["step"] == step
    assert not [p for p in full.rglob("*")
                if p.name.endswith(".tmp") or p.name.startswith(".preparing")]
    assert Job(full).end()[0] == 0 and Job(whole).end()[0] == 0
    assert_same(left(full), left(whole))


# ---------------------------------------------------------------- damaged files

ODD = st.sampled_from([None, True, 0, -1, 3, 10**400, 1e308, float("nan"), "", "x", "\ud800", [],
                       [0], [[1]], {}, {"a": 1}])


def retyped(value):
    """JSON like value, with something in it replaced by something of another kind."""
    if isinstance(value, (dict, list)) and value:
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        copy = lambda key, new: ({**value, key: new} if isinstance(value, dict)
                                 else [*value[:key], new, *value[key + 1:]])
        odd = lambda key: st.one_of(ODD, retyped(value[key])).map(lambda new: copy(key, new))
        return st.sampled_from(keys).flatmap(odd)
    return ODD


def damaged(whole):
    """Random bytes, or `whole` cut, with bits turned over or with a piece replaced.

    Or, of JSON, with values of other types.
    """
    cut = st.integers(0, len(whole)).map(lambda n: whole[:n])

    def flip(places):
        out = bytearray(whole)
        for place, bit in places:
            out[place] ^= 1 << bit
        return bytes(out)
    one_flip = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 7))
    flipped = st.lists(one_flip, min_size=1, max_size=3).map(flip)
    replaced = st.tuples(st.integers(0, len(whole)), st.integers(0, 8), st.binary(max_size=8)).map(
        lambda t: whole[:t[0]] + t[2] + whole[t[0] + t[1]:])

    forms = [st.binary(max_size=200), cut, flipped, replaced]
    try:
        forms.append(retyped(json.loads(whole)).map(lambda value: json.dumps(value).encode()))
    except ValueError:
        if whole.startswith(b"{"):  # JSON lines
            forms.append(retyped([json.loads(line) for line in whole.splitlines()]).map(
                lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode()))
    return st.one_of(*forms)


ROWS = (b'{"sentence_good": "the cat sees.", "sentence_bad": "the cat see.", '
        b'"field": "syntax", "UID": "a"}\n') * 3


def readers(root):
    """A small run under root; {what: (file, function that reads it)}."""
    path = root / "some.py"
    keys = {**TINY, "name": "some", "sentences": 50, "teachers": [],
            "alpha": "linear(0: 1, 1: 0)", "out_dir": str(root / "out"),
            "data_dir": str(root / "data")}
    path.write_text("".join(f"{k} = {v!r}\n" for k, v in keys.items()))
    made = config.read_config(path)

    eval.evaluate = lambda folder, **_: files.write_json(
        folder / "eval.json", {"babytalk": {}, "sample": {}, "val_ce": 1.0})
    made.max_steps = 2
    distill.train(made)
    eval.evaluate = lambda folder, **_: None
    folder, prepared = made.folder, data.prepare(made)
    tokenizer = prepared.tokenizer
    lm = run.load(folder)[0]

    (root / "blimp").mkdir()
    (root / "blimp/a.jsonl").write_bytes(ROWS)
    (root / "text").mkdir()
    (root / "text/childes.train").write_text("*MOT: the cat sees [laughs] the dog .\n" * 5)
    with zipfile.ZipFile(root / "text.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.write(root / "text/childes.train", "a/childes.train")

    def unzip():
        with tempfile.TemporaryDirectory(dir=root) as aside:
            corpora.unzip(root / "text.zip", pathlib.Path(aside), 1 << 20, "text.zip")

    def go_on():
        optimizer = distill.make_optimizer(lm, made)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        (folder / "ckpt.prev.pt").unlink()  # read_damaged puts it back
        if state := run.state_to_go_on_from(made, folder):
            meter = run.Meter(torch.device("cpu"))
            run.put_state(state, lm, optimizer, scaler, meter, folder / "ckpt.pt")

    # of a run whose best.pt is of a step that is still to come
    beside_best = types.SimpleNamespace(folder=folder, step=0)

    def read_tokens():
        lm(data.validation_blocks(data.prepare(made).dev, 16)[0])

    def table():
        device = torch.device("cpu")
        distill.report(types.SimpleNamespace(config=made, folder=folder, device=device,
                                             is_finished=False))

    return {
        "config .py": (path, lambda: config.read_config(path)),
        "config.json": (folder / "config.json",
                        lambda: (run.load(folder), run.state_to_go_on_from(made, folder))),
        "tokenizer.json": (folder / "tokenizer.json",
                           lambda: data.load_tokenizer(folder / "tokenizer.json")),
        "token file": (prepared.folder / "dev.bin", read_tokens),
        "token file's JSON": (prepared.folder / "dev.json", read_tokens),
        "best.pt": (folder / "best.pt", lambda: run.load(folder)),
        "ckpt.pt": (folder / "ckpt.pt", go_on),
        "metrics.jsonl": (folder / "metrics.jsonl",
                          lambda: (eval.validated(folder, "best"), distill.trained_for(folder),
                                   run.Run.best_so_far(beside_best),
                                   run.Metrics(folder / "metrics.jsonl", 1))),
        "eval.json": (folder / "eval.json", table),
        "benchmark rows": (root / "blimp/a.jsonl",
                           lambda: exam.answer(
                               "blimp", suite.read_folder(root / "blimp", suite.pair), lm,
                               tokenizer)),
        "corpus text": (root / "text/childes.train", lambda: [
            corpora.clean(domain, block)
            for domain, path in corpora.resolve(str(root / "text"), root)
            for block in corpora.read_blocks(path)]),
        "corpus zip": (root / "text.zip", unzip),
    }


READERS = ("config .py", "config.json", "tokenizer.json", "token file", "token file's JSON",
           "best.pt", "ckpt.pt", "metrics.jsonl", "eval.json", "benchmark rows", "corpus text",
           "corpus zip")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    evaluate = eval.evaluate
    yield readers(tmp_path_factory.mktemp("readers"))
    eval.evaluate = evaluate


def read_damaged(file, read, cases):
    """Read `cases` damaged forms of file: success or a UserError of one line, within seconds.

    Returns how many were tried: hypothesis may find no more.
    """
    whole = file.read_bytes()
    others = {p: p.read_bytes() for p in file.parent.iterdir() if p != file and p.is_file()}
    tried = 0

    @hypothesis.settings(max_examples=cases, deadline=20_000, database=None, derandomize=True,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(damaged(whole))
    def check(content):
        nonlocal tried
        tried += 1
        file.write_bytes(content)
        try:
            read()
        except UserError as e:
            assert "\n" not in str(e)
        finally:
            for path, was in others.items():
                if not path.exists() or path.read_bytes() != was:
                    path.write_bytes(was)
    try:
        check()
    finally:
        file.write_bytes(whole)
    return tried


@pytest.mark.parametrize("what", READERS)
def test_a_damaged_file_is_read_or_refused_with_one_line(small, what, capsys):
    cases = int(os.environ.get("CASES", 60))
    assert read_damaged(*small[what], cases) >= cases / 2
