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
from data import Batches, prepare
from onecoach import files, run, stored
from onecoach.config import UserError
from onecoach.run import folder_of
from tools.bench import __main__ as command
from tools.bench import contests as bench
from tools.bench import measure, peers

TINY = (dict(d_model=8, n_layer=2, d_ff=12, n_head=2),
        dict(d_model=16, n_layer=3, d_ff=20, n_head=4))
KEYS = dict(batch_size=8, block_size=16)


# ---------------------------------------------------------------- the commands

@pytest.fixture
def small(monkeypatch):
    """The command at small sizes, without the processes that memory is measured in."""
    for name, value in (("V", 300), ("POSITIONS", 64), ("T", 16), ("PAIRS", 1),
                        ("ROUNDS", {"nano": 1}), ("LOSS_SIZES", {"nano": (8, 16)}),
                        ("STEP_SIZES", {"nano": TINY})):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(run, "has_bf16", lambda device: False)  # the same rows on any processor
    monkeypatch.setattr(bench, "memory_of", lambda make, arguments, *_, **__: (2.0, math.nan))
    monkeypatch.setattr(bench, "run_data", lambda *inputs: bench.prepare_run(*inputs)())
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    monkeypatch.setattr(losses, "mode", "eager")
    return monkeypatch


@pytest.fixture
def last_line(small, capsys):
    """Call bench.main; the object of its last line. More than three lines are shown before it."""
    def last_line(*argv):
        command.main(list(argv))
        *shown, last = capsys.readouterr().out.splitlines()
        assert len(shown) > 3
        return json.loads(last, parse_constant=pytest.fail)  # no NaN, which is not JSON
    return last_line


COMMON = {"what", "size", "ours", "peer", "ours_gb", "peer_gb"}
OWN = {"prepare": {"same", "words", "tokens"},
       "bpe": {"parts", "same", "words", "tokens"},
       "loss": {"peer_is", "peer_gb_is", "seconds", "gb", "gb_at_twice_n", "errors", "dtype",
                "path"},
       "step": {"peer_is", "peer_gb_is", "roofline", "roofline_square", "gflop", "gflop_per_s",
                "gflop_per_s_square", "tokens_per_s", "gb", "parts", "dtype"},
       "score": {"sentences", "decisions_differ", "sentences_per_s"}}
PARTS = ["teacher forward", "student forward", "loss and its gradient", "student backward",
         "optimizer"]


@pytest.mark.parametrize("with_peers", [[], ["--peers"]])
@pytest.mark.parametrize("what", OWN)
def test_the_last_line_is_json(what, with_peers, last_line, tmp_path):
    lines = [f"the {i} dogs see {i * i} cats, don't they?\n" for i in range(2000)]
    (tmp_path / "t.txt").write_text("".join(lines))
    text = [f"--data={tmp_path}", "--words=9000"] if what in ("prepare", "bpe") else []
    result = last_line(what, *with_peers, "--batch=8", *text)

    assert result.keys() == COMMON | OWN[what]
    assert result["what"] == what and result["size"] == "nano"
    assert result["ours"] > 0
    assert result["ours_gb"] == (2.0 if what in ("prepare", "step", "score") else None)
    if not with_peers:
        assert result["peer"] is None
    if what == "prepare":
        assert result["same"] is (True if result["peer"] else None)
        assert result["words"] <= 9000
    if what == "bpe" and result["peer"]:
        assert result["same"] == {"merges": True, "ids": True}
        assert result["words"] <= 9000
    if what == "step":
        assert result["roofline"] > 0
        assert [*result["parts"]] == PARTS


PACKAGES = {"loss": {"liger": "liger_kernel", "liger, compiled": "liger_kernel", "trl": "trl",
                     "trl, plain CE": "trl", "orda": "orda_kernel"},
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
    rows = measured["seconds"] if what == "loss" else measured["tokens_per_s"]
    others = (peers.LOSSES if what == "loss" else peers.STEPS).keys() - PACKAGES[what].keys()
    assert {row for row in rows if not row.startswith(("ours", "products"))} == others
    assert measured["peer_is"] in others and measured["peer"] > 0


@pytest.mark.parametrize("what, package", [("prepare", "tokenizers"), ("bpe", "tokenizers"),
                                           ("score", "minicons")])
def test_the_one_peer_of_a_row_that_is_not_installed_is_said(what, package, small, tmp_path,
                                                             capsys):
    hide({package}, small)
    (tmp_path / "t.txt").write_text("the dogs see the cats\n" * 200)
    small.setattr(bench, "V", 265)
    command.main([what, "--peers", f"--data={tmp_path}"])
    *shown, last = capsys.readouterr().out.splitlines()
    assert f"row {package} skipped: {package} is not installed" in shown
    assert json.loads(last)["peer"] is None


def test_where_the_processor_has_bf16_all_are_measured_in_it_too(small, last_line):
    small.setattr(bench, "machine", lambda: "bfloat16")
    small.setattr(peers, "LOSSES", {"materialised": peers.materialised})
    result = last_line("loss", "--peers")
    assert [*result["seconds"]] == ["ours", "ours, eager", "ours, fp32", "ours, fp32, eager",
                                    "materialised", "materialised, fp32", "products, bfloat16",
                                    "products, float32"]
    for row in ("ours", "materialised"):
        assert result["errors"][f"{row}, fp32"]["head"] < 1e-5 < result["errors"][row]["head"]


def test_a_peer_of_another_loss_is_said_and_never_the_best(small, capsys):
    def nothing(h, W, *others):
        return (h.sum() + W.sum()) * 0
    small.setattr(peers, "LOSSES", {"nothing": nothing})
    command.main(["loss", "--peers"])
    *shown, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in shown if "another loss" in line] == ["nothing"]
    assert json.loads(last)["peer_is"] is None
    assert json.loads(last)["seconds"]["nothing"] > 0


def test_the_best_peers_are_the_fastest_and_the_leanest():
    seconds = {"ours": 1.0, "a": 3.0, "b": 2.0, "c": 4.0}
    gb = {"ours": 1.0, "a": 5.0, "b": 6.0, "c": math.nan}  # nan: its process failed
    assert bench.peers_of(seconds) == ["a", "b", "c"]
    assert bench.best_of("abc", seconds, gb) == ("b", "a")
    assert bench.best_of("", seconds, gb) == (None, None)


def test_preparation_is_the_command_itself(tmp_path, capfd):
    (tmp_path / "t.txt").write_text("the dog sees the cat\n" * 100)
    bench.run_data(dict(corpus=str(tmp_path / "t.txt"), vocab_size=265), tmp_path)
    assert [*tmp_path.glob("prepared-*/t-265-half-*/train.bin")]
    with pytest.raises(UserError):
        bench.run_data(dict(corpus=str(tmp_path / "none.txt"), vocab_size=265), tmp_path)
    assert "none.txt': no text there" in capfd.readouterr().err


def test_without_text_babytalk_is_taken_and_said(small, capsys, tmp_path):
    sample = bench.babytalk.sample
    small.setattr(bench.babytalk, "sample", lambda n, seed: sample(min(n, 1000), seed))
    small.setattr(bench, "BABYLM", tmp_path)
    command.main(["bpe"])
    assert "babytalk instead" in capsys.readouterr().out


def test_a_processor_has_a_name_where_there_is_no_proc(monkeypatch, capsys):
    """On a Mac, say; and where the file names no model, as on an ARM."""
    monkeypatch.setattr(measure.platform, "processor", lambda: "")
    monkeypatch.setattr(measure.platform, "machine", lambda: "arm64")
    for text in ("processor : 0\n", None):
        def read_text(path, text=text):
            if text is None:
                raise FileNotFoundError(path)
            return text
        with monkeypatch.context() as patch:
            patch.setattr(run, "has_bf16", lambda device: False)
            patch.setattr(measure.pathlib.Path, "read_text", read_text)
            assert measure.processor() == "arm64"
            assert measure.machine() == "float32"
    assert capsys.readouterr().out.count("arm64, ") == 2


# ---------------------------------------------------------------- the step

RUN = dict(dtype="float32", corpus="babytalk", sentences=300, mark="line", n_layer=1, n_head=2,
           d_model=16, d_ff=32, block_size=16, batch_size=4, lr=1e-2, max_steps=4, val_tokens=64)
ROLLOUTS = dict(on_policy="stages(0: 0, 0.5: 1)", rollout_mix=0.2, prompt_len=4)


@pytest.mark.parametrize("keys", [
    {},
    dict(reduction="step", tau="linear(0: 2, 1: 1)", grad_clip=0.1),
    dict(dtype="float16"),
    dict(lr=1e30),  # from the second step on nothing is finite, and all are skipped
    dict(ROLLOUTS, rollout_loss="token"),
    dict(ROLLOUTS, rollout_loss="reinforce", length_norm=True),
    dict(ROLLOUTS, rollout_loss="single_step", alpha=0.0),
], ids=str)
def test_the_step_is_the_loops_bit_by_bit(keys, make_config, monkeypatch):
    """Four steps of bench.Step and distill.train's, from the same weights on the same batches."""
    monkeypatch.setattr(distill, "report", lambda run: None)
    keys = RUN | keys
    distill.train(make_config(name="coach", **{**RUN, "dtype": keys["dtype"]}))
    config = make_config(name="some", teachers=["coach", "truth"], grad_accum=2, **keys)
    distill.train(config)
    trained = files.load_checkpoint(folder_of(config) / "ckpt.pt")

    run = bench.Books(config, steps=4)
    run.folder = folder_of(config)  # teachers lie beside it
    data = prepare(config)
    run.tokenizer = data.tokenizer
    teachers = [distill.load_teacher(name, data, run) for name in config.teachers]
    batches = Batches(data.train, config)
    student = distill.new_student(data, run)
    begun = {name: weight.clone() for name, weight in student.state_dict().items()}
    step = bench.Step(run, student, teachers, None, None)
    for _ in range(4):
        step.x, step.y = batches.batch(run.step, config.at(run.progress))
        step()

    for name, weight in student.state_dict().items():
        assert torch.equal(weight, trained["model"][name])
        assert not torch.equal(weight, begun[name])
    moments = step.optimizer.state_dict()["state"]
    for i, theirs in trained["optimizer"]["state"].items():
        assert all(torch.equal(moments[i][name], moment) for name, moment in theirs.items())
    assert run.scaler.state_dict() == trained["scaler"]


def test_flops_are_torchs_own_count(monkeypatch):
    """Also those that distill counts for MFU.

    In bf16, for there attention is plain products: torch's CPU kernel it does not know, nor addmm_.
    """
    monkeypatch.setattr(losses, "mode", "eager")
    step = bench.random_step(TINY, {**KEYS, "dtype": "bfloat16"}, 50)
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == measure.flops(bench.step_products(TINY, 50, 8, 16))
    assert counter.get_total_flops() == step.flops()


def test_the_parts_make_the_step(monkeypatch):
    monkeypatch.setattr(losses, "mode", "eager")
    step = bench.random_step(TINY, KEYS, 50)
    other = bench.random_step(TINY, KEYS, 50)
    other()
    assert [*step.parts()] == PARTS
    for a, b in zip(step.student.parameters(), other.student.parameters()):
        assert torch.equal(a, b)  # the clocks change nothing
    before = step.parts()
    step()
    assert step.parts().keys() == before.keys()  # and they are taken off again


def test_the_step_with_the_teacher_stored_only_reads(monkeypatch):
    monkeypatch.setattr(losses, "mode", "eager")
    step = bench.stored_step(TINY, KEYS, 100)
    before = step.student.head.weight.clone()
    for owner, name in ((distill.Teacher, "__call__"), (stored.StoredTeacher, "write")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("the teacher was asked"))
    step()
    assert not torch.equal(step.student.head.weight, before)


def test_steps_share_the_teacher_compiled_or_not():
    compiled = bench.random_step(TINY, KEYS | dict(compile=True), 50).teachers[0].lm
    plain = bench.random_step(TINY, KEYS, 50).teachers[0].lm
    assert compiled.head.weight is plain.head.weight
    assert compiled._compiled_call_impl and not plain._compiled_call_impl


# ---------------------------------------------------------------- the peers

@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", peers.LOSSES)
def test_peers_compute_our_loss(name, dtype, small, capsys):
    once = measure.tried(name, bench.loss_run, peers.LOSSES[name], dtype, "eager", "nano", 64, 300)
    if not once:
        said = capsys.readouterr().out
        assert "is not installed" in said
        pytest.skip(said.strip())
    errors = bench.loss_errors({name: once}, "nano")[name]
    assert bench.is_the_same(errors, dtype)


@pytest.fixture
def pair():
    """Our student and teacher, transformers' copies of them, and a batch x, y (B, T)."""
    pytest.importorskip("transformers")
    lms = [bench.random_lm(dict(size, block_size=16), 50) for size in TINY]
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
    loss, compiled = peers.STEPS[name]
    loss = peers.compiled_loss(loss) if compiled else loss

    z_q = student.logits(student(x)).flatten(0, 1)
    z_p = teacher.logits(teacher(x)).flatten(0, 1)
    labels = torch.cat([x[:, 1:], torch.full((4, 1), -100)], 1).flatten()
    ce = losses.plain_loss(z_q, [z_p], labels, "fkl", peers.TAU, 1.0, 1.0)
    fkl = losses.plain_loss(z_q, [z_p], x.flatten(), "fkl", peers.TAU, 0.0, 1.0)  # times tau^2
    expected = peers.ALPHA * ce + (1 - peers.ALPHA) * x.shape[1] * fkl
    torch.testing.assert_close(loss(*theirs, x, x), expected)


@pytest.mark.parametrize("name", ["transformers, liger", "transformers, liger, compiled"])
def test_ligers_step_is_of_our_loss(name, pair, traced):
    pytest.importorskip("liger_kernel")
    (student, teacher), theirs, x, y = pair
    ours = bench.ours(student(x).flatten(0, 1), student.head.weight, teacher(x).flatten(0, 1),
                      teacher.head.weight, y.flatten())
    ours.backward()
    loss, compiled = peers.STEPS[name]
    loss = peers.compiled_loss(loss) if compiled else loss
    loss = loss(*theirs, x, y)
    loss.backward()

    torch.testing.assert_close(loss, ours)
    llama = theirs[0]
    torch.testing.assert_close(llama.lm_head.weight.grad, student.head.weight.grad)
    torch.testing.assert_close(llama.model.embed_tokens.weight.grad, student.embed.weight.grad)


@pytest.mark.slow
def test_a_compiled_step_of_transformers_runs():
    pytest.importorskip("transformers")
    if not losses.can_compile("cpu"):
        pytest.skip("no C++ compiler")
    sizes = (dict(d_model=8, n_layer=1, d_ff=12, n_head=2),) * 2
    loss, compiled = peers.STEPS["transformers, compiled"]
    assert measure.tried("compiled", peers.hf_step, loss, compiled, "float32", sizes, 50, 2, 8)


def test_a_peer_that_fails_is_said(capsys):
    def make(error):
        def f():
            raise error
        return f
    assert measure.tried("a", make, RuntimeError("too old\nat line 3")) is None
    assert measure.tried("b", make, ModuleNotFoundError("No module", name="b_kernel")) is None
    assert measure.tried("c", make, ValueError()) is None
    assert measure.tried("d", lambda: print) is print
    assert capsys.readouterr().out.splitlines() == [
        "row a skipped: it fails, RuntimeError: too old",
        "row b skipped: b_kernel is not installed",
        "row c skipped: it fails, ValueError: ",
        ""]


# ---------------------------------------------------------------- memory

def hold(megabytes):
    return lambda: torch.ones(megabytes, 250_000).sum()


def test_memory_is_of_a_fresh_process():
    peak, added = measure.memory_of(hold, (400,))
    assert 0.35 < added < 0.5
    assert added < peak < added + 1.0


def test_what_was_done_before_is_forgotten():
    _, added = measure.memory_of(hold, (100,), [(400,), (1,)])
    assert 0.05 < added < 0.25


def missing():
    import no_such_package  # noqa: F401


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_memory_of_what_fails_is_no_number_and_a_line(where, monkeypatch, capfd):
    """No GPU is needed: it fails before one is asked."""
    monkeypatch.setattr(measure, "device", torch.device(where))
    assert all(math.isnan(gb) for gb in measure.memory_of(missing, ()))
    out, err = capfd.readouterr()
    assert out + err == "memory not measured: no_such_package is not installed\n"
