"""The benchmark runs, at sizes that take seconds; its step is the loop's; it counts what is there.

Nothing here is timed.
"""
import json
import math
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import distill
import losses
from onecoach import run, stored
from tools.bench import __main__ as command
from tools.bench import loss, measure, peers, score, step, text

TINY = (dict(d_model=8, n_layer=2, d_ff=12, n_head=2),
        dict(d_model=16, n_layer=3, d_ff=20, n_head=4))
KEYS = dict(batch_size=8, block_size=16)


# ---------------------------------------------------------------- the commands

@pytest.fixture
def small(monkeypatch):
    """The command at small sizes, without the processes that memory is measured in."""
    for name, value in (("V", 300), ("POSITIONS", 64), ("T", 16), ("PAIRS", 1),
                        ("ROUNDS", {"nano": 1}), ("MODELS", {"nano": TINY})):
        monkeypatch.setattr(measure, name, value)
    monkeypatch.setattr(run, "has_bf16", lambda device: False)  # the same rows on any processor
    monkeypatch.setattr(measure, "memory", lambda make, arguments, *_, **__: (2.0, math.nan))
    monkeypatch.setattr(losses, "can_compile", lambda kind: True)  # compile is the identity here
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    monkeypatch.setattr(losses, "mode", "eager")
    return monkeypatch


@pytest.fixture
def last_line(small, capsys):
    """Run the command; return the object of its last line, which is not the only one."""
    def last_line(*argv):
        command.main(list(argv))
        *shown, last = capsys.readouterr().out.splitlines()
        assert len(shown) > 3
        return json.loads(last, parse_constant=pytest.fail)  # no NaN, which is not JSON
    return last_line


COMMON = {"what", "size", "unit", "ours", "peer", "peer_is", "ours_gb", "peer_gb", "peer_gb_is",
          "rows"}
OWN = {"bpe": {"ids_same", "words", "tokens"},
       "loss": {"dtype", "path"},
       "step": {"dtype"},
       "score": {"sentences"}}


@pytest.mark.parametrize("with_peers", [[], ["--peers"]])
@pytest.mark.parametrize("what", OWN)
def test_the_last_line_is_json(what, with_peers, last_line, tmp_path):
    lines = [f"the {i} dogs see {i * i} cats, don't they?\n" for i in range(2000)]
    (tmp_path / "t.txt").write_text("".join(lines))
    data = [f"--data={tmp_path}"] if what == "bpe" else []
    result = last_line(what, *with_peers, "--batch=8", *data)

    assert result.keys() == COMMON | OWN[what]
    assert result["what"] == what and result["size"] == "nano"
    assert result["ours"] == result["rows"]["ours"][result["unit"]] > 0
    assert result["ours_gb"] == (2.0 if what in ("step", "score") else None)
    if not with_peers:
        assert result["peer"] is None
    if what == "bpe":
        assert result["ids_same"] is (True if result["peer"] else None)
        assert result["words"] > 9000
    if what == "step":
        tokens = 8 * 16
        assert result["ours"] == pytest.approx(tokens / result["rows"]["ours"]["seconds"], rel=1e-3)


PACKAGES = {"loss": {"liger": "liger_kernel", "liger, compiled": "liger_kernel", "trl": "trl",
                     "orda": "orda_kernel"},
            "step": {"transformers, liger": "liger_kernel",
                     "transformers, liger, compiled": "liger_kernel"}}


def hide(packages, monkeypatch):
    """As if they were not installed."""
    class Finder:
        def find_spec(name, path=None, target=None):
            if name in packages:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    for module in list(sys.modules):
        if module.partition(".")[0] in packages:
            monkeypatch.delitem(sys.modules, module)


@pytest.mark.parametrize("what", PACKAGES)
def test_a_peer_that_is_not_installed_is_said(what, small, capsys):
    pytest.importorskip("transformers")
    hide(set(PACKAGES[what].values()), small)
    command.main([what, "--peers", "--batch=8"])
    *shown, last = capsys.readouterr().out.splitlines()

    said = [line for line in shown if "skipped" in line]
    assert said == [f"row {row} skipped: {package} is not installed"
                    for row, package in PACKAGES[what].items()]
    measured = json.loads(last)
    rows = measured["rows"]
    others = (peers.LOSSES if what == "loss" else peers.STEPS).keys() - PACKAGES[what].keys()
    assert {row for row in rows if not row.startswith("ours")} == others
    assert measured["peer_is"] in others and measured["peer"] > 0


@pytest.mark.parametrize("what, package", [("bpe", "tokenizers"), ("score", "minicons")])
def test_the_one_peer_of_a_row_that_is_not_installed_is_said(what, package, small, tmp_path,
                                                             capsys):
    hide({package}, small)
    (tmp_path / "t.txt").write_text("the dogs see the cats\n" * 200)
    small.setattr(measure, "V", 265)
    command.main([what, "--peers", f"--data={tmp_path}"])
    *shown, last = capsys.readouterr().out.splitlines()
    assert f"row {package} skipped: {package} is not installed" in shown
    assert json.loads(last)["peer"] is None


def test_where_the_processor_has_bf16_all_are_measured_in_it_too(small, last_line):
    small.setattr(measure, "machine", lambda: "bfloat16")
    small.setattr(peers, "LOSSES", {"materialised": peers.materialised})
    result = last_line("loss", "--peers")
    assert [*result["rows"]] == ["ours", "ours, eager", "materialised", "ours, fp32",
                                 "ours, eager, fp32", "materialised, fp32"]
    for row in ("ours", "materialised"):
        assert result["rows"][f"{row}, fp32"]["head"] < 1e-5 < result["rows"][row]["head"]


def test_a_peer_of_another_loss_is_said_and_never_the_best(small, capsys):
    def nothing(h, W, *others):
        return (h.sum() + W.sum()) * 0
    small.setattr(peers, "LOSSES", {"nothing": nothing})
    command.main(["loss", "--peers"])
    *shown, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in shown if "another loss" in line] == ["nothing"]
    assert json.loads(last)["peer_is"] is None
    assert json.loads(last)["rows"]["nothing"]["seconds"] > 0


def test_the_best_peers_are_the_fastest_and_the_leanest(capsys):
    seconds = {"ours": 1.0, "a": 3.0, "b": 2.0, "c": 4.0}
    gb = {"ours": 1.0, "a": 5.0, "b": 6.0, "c": math.nan}  # nan: failed
    rows = {name: dict(seconds=seconds[name], gb=gb[name]) for name in seconds}
    assert measure.best_peers(rows) == ("b", "a")
    assert measure.best_peers(rows, left_out=["b"]) == ("a", "a")
    assert measure.best_peers({"ours": rows["ours"]}) == (None, None)

    shown = measure.show(rows)
    assert (shown["ours"], shown["peer"], shown["peer_gb"]) == (1.0, 2.0, 5.0)
    head, ours, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["seconds", "speed", "/", "b", "GB", "/", "a"]
    assert ours.split() == ["ours", "1", "2", "1", "0.2"]


def test_without_text_babytalk_is_taken_and_said(small, capsys, tmp_path):
    sample = text.babytalk.sample
    small.setattr(text.babytalk, "sample", lambda n, seed: sample(min(n, 1000), seed))
    small.setattr(measure, "BABYLM", tmp_path)
    command.main(["bpe"])
    assert "babytalk instead" in capsys.readouterr().out


def test_a_processor_has_a_name_where_there_is_no_proc(monkeypatch, capsys):
    """On a Mac, say; and where the file names no model, as on an ARM."""
    monkeypatch.setattr(measure.platform, "processor", lambda: "")
    monkeypatch.setattr(measure.platform, "machine", lambda: "arm64")
    for found in ("processor : 0\n", None):
        def read_text(path, found=found):
            if found is None:
                raise FileNotFoundError(path)
            return found
        with monkeypatch.context() as patch:
            patch.setattr(run, "has_bf16", lambda device: False)
            patch.setattr(measure.pathlib.Path, "read_text", read_text)
            assert measure.device_name(torch.device("cpu")) == "arm64"
            assert measure.machine() == "float32"
    assert capsys.readouterr().out.count("arm64, ") == 2


# ---------------------------------------------------------------- the step

@pytest.mark.parametrize("keys", [
    {}, dict(on_policy=1.0, rollout_mix=0.2, rollout_loss="single_step", rollout_every=2)], ids=str)
def test_the_step_is_distills(keys, monkeypatch):
    """It is called, on the student and the batch of the benchmark, and moves the weights."""
    taken = []
    take_step = distill.take_step

    def counted(student, teachers, optimizer, x, y, rollout, now, run):
        taken.append((student, x, y, rollout))
        return take_step(student, teachers, optimizer, x, y, rollout, now, run)
    monkeypatch.setattr(distill, "take_step", counted)
    once = step.Step(TINY, KEYS | keys, 50)
    before = once.student.head.weight.clone()
    once()
    assert len(taken) == keys.get("rollout_every", 1)
    for student, x, y, rollout in taken:
        assert student is once.student and x is once.x and y is once.y
        assert (rollout is None) == (not keys)
    assert not torch.equal(once.student.head.weight, before)


def test_flops_are_torchs_own_count(monkeypatch):
    """Those that distill counts for MFU, too.

    In bf16, for there attention is plain products: torch's CPU kernel it does not know, nor addmm_.
    """
    monkeypatch.setattr(losses, "mode", "eager")
    once = step.Step(TINY, {**KEYS, "dtype": "bfloat16"}, 50)
    with FlopCounterMode(display=False) as counter:
        once()
    assert counter.get_total_flops() == once.flops


def test_the_step_with_the_teacher_stored_only_reads(monkeypatch):
    monkeypatch.setattr(losses, "mode", "eager")
    once = step.Step(TINY, KEYS | dict(teacher_cache=64, random_offset=False), 100)
    before = once.student.head.weight.clone()
    for owner, name in ((distill.Teacher, "__call__"), (stored.StoredTeacher, "write")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("the teacher was asked"))
    once()
    assert not torch.equal(once.student.head.weight, before)


def test_steps_share_the_teacher_compiled_or_not():
    compiled = step.Step(TINY, KEYS | dict(compile=True), 50).teachers[0].lm
    plain = step.Step(TINY, KEYS, 50).teachers[0].lm
    assert compiled.head.weight is plain.head.weight
    assert compiled._compiled_call_impl and not plain._compiled_call_impl


# ---------------------------------------------------------------- the peers

@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", peers.LOSSES)
def test_peers_compute_our_loss(name, dtype, small, capsys):
    shape = 8, 16, 64, 300
    functions = measure.made({name: (loss.run_loss, (peers.LOSSES[name], dtype, "eager", *shape))})
    if not functions:
        said = capsys.readouterr().out
        assert "is not installed" in said
        pytest.skip(said.strip())
    assert loss.is_the_same(loss.loss_errors(functions[name], *shape), dtype)


@pytest.fixture
def pair():
    """Our student and teacher, transformers' copies of them, and a batch x, y (B, T)."""
    pytest.importorskip("transformers")
    lms = [score.random_lm(dict(size, block_size=16), 50) for size in TINY]
    ids = torch.randint(3, 50, (4, 17))
    return lms, [peers.hf_copy(lm) for lm in lms], ids[:, :-1], ids[:, 1:]


@pytest.fixture
def traced(monkeypatch):
    """torch.compile as far as its tracer, which alone needs no compiler."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **_: compile(f, backend="eager"))


@pytest.mark.parametrize("name", ["transformers", "transformers, compiled"])
def test_baby_llamas_loss_is_its_formula(name, pair, traced):
    (student, teacher), theirs, x, _ = pair
    loss_of = peers.STEPS[name]()

    z_q = student.logits(student(x)).flatten(0, 1)
    z_p = teacher.logits(teacher(x)).flatten(0, 1)
    labels = torch.cat([x[:, 1:], torch.full((4, 1), -100)], 1).flatten()
    ce = losses.plain_loss(z_q, [z_p], labels, "fkl", peers.TAU, 1.0, 1.0)
    fkl = losses.plain_loss(z_q, [z_p], x.flatten(), "fkl", peers.TAU, 0.0, 1.0)  # times tau^2
    expected = peers.ALPHA * ce + (1 - peers.ALPHA) * x.shape[1] * fkl
    torch.testing.assert_close(loss_of(*theirs, x, x), expected)


@pytest.mark.parametrize("name", ["transformers, liger", "transformers, liger, compiled"])
def test_ligers_step_is_of_our_loss(name, pair, traced):
    pytest.importorskip("liger_kernel")
    (student, teacher), theirs, x, y = pair
    ours = loss.ours(student(x).flatten(0, 1), student.head.weight, teacher(x).flatten(0, 1),
                     teacher.head.weight, y.flatten())
    ours.backward()
    loss_of = peers.STEPS[name]()
    value = loss_of(*theirs, x, y)
    value.backward()

    torch.testing.assert_close(value, ours)
    llama = theirs[0]
    torch.testing.assert_close(llama.lm_head.weight.grad, student.head.weight.grad)
    torch.testing.assert_close(llama.model.embed_tokens.weight.grad, student.embed.weight.grad)


@pytest.mark.slow
def test_a_compiled_step_of_transformers_runs():
    pytest.importorskip("transformers")
    if not losses.can_compile("cpu"):
        pytest.skip("no C++ compiler")
    models = (dict(d_model=8, n_layer=1, d_ff=12, n_head=2),) * 2
    name = "transformers, compiled"
    assert measure.made({name: (peers.hf_step, (name, "float32", models, 50, 2, 8))})


def test_a_peer_that_fails_is_said(capsys):
    def make(error):
        def f():
            raise error
        return f
    contenders = {"a": (make, [RuntimeError("too old\nat line 3")]),
                  "b": (make, [ModuleNotFoundError("No module", name="b_kernel")]),
                  "c": (make, [ValueError()]),
                  "d": (lambda: print, [])}
    assert measure.made(contenders) == {"d": print}
    assert capsys.readouterr().out.splitlines() == [
        "row a skipped: it fails, RuntimeError: too old",
        "row b skipped: b_kernel is not installed",
        "row c skipped: it fails, ValueError: ",
        ""]


# ---------------------------------------------------------------- memory

def hold(megabytes):
    return lambda: torch.ones(megabytes, 250_000).sum()


def test_memory_is_of_a_fresh_process():
    peak, added = measure.memory(hold, (400,))
    assert 0.35 < added < 0.5
    assert added < peak < added + 1.0


def test_what_was_done_before_is_forgotten():
    _, added = measure.memory(hold, (100,), [(400,), (1,)])
    assert 0.05 < added < 0.25


def missing():
    import no_such_package  # noqa: F401


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_memory_of_what_fails_is_no_number_and_a_line(where, monkeypatch, capfd):
    """No GPU is needed: it fails before one is asked."""
    monkeypatch.setattr(measure, "device", torch.device(where))
    assert all(math.isnan(gb) for gb in measure.memory(missing, ()))
    out, err = capfd.readouterr()
    assert out + err == "memory not measured: no_such_package is not installed\n"
