"""The benchmark runs, at sizes that take seconds; its step is the loop's; it counts what is there.

Nothing here is timed.
"""
import json
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import distill
import files
import losses
from config import UserError
from data import Batches, prepare
from run import folder_of
from tools import bench, measure

TINY = (dict(d_model=8, n_layer=2, d_ff=12, n_head=2),
        dict(d_model=16, n_layer=3, d_ff=20, n_head=4))
KEYS = dict(batch_size=8, block_size=16)


# ---------------------------------------------------------------- the commands

@pytest.fixture
def small(monkeypatch):
    """bench.main at small sizes, without the processes that memory is measured in."""
    for name, value in (("V", 300), ("POSITIONS", 64), ("T", 16), ("PAIRS", 1),
                        ("ROUNDS", {"nano": 1}), ("LOSS_SIZES", {"nano": (8, 16)}),
                        ("STEP_SIZES", {"nano": TINY})):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "memory_of", lambda make, arguments, *_, **__: (2.0, math.nan))
    monkeypatch.setattr(bench, "run_data", lambda *inputs: bench.prepare_run(*inputs)())
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    monkeypatch.setattr(losses, "mode", "eager")
    return monkeypatch


@pytest.fixture
def last_line(small, capsys):
    """Call bench.main; the object of its last line. More than three lines are shown before it."""
    def last_line(*argv):
        bench.main(list(argv))
        *shown, last = capsys.readouterr().out.splitlines()
        assert len(shown) > 3
        return json.loads(last, parse_constant=pytest.fail)  # no NaN, which is not JSON
    return last_line


COMMON = {"what", "size", "ours", "peer", "ours_gb", "peer_gb"}
OWN = {"prepare": {"same", "words", "tokens"},
       "bpe": {"parts", "same", "words", "tokens"},
       "loss": {"peer_is", "seconds", "gb", "gb_at_twice_n", "dtype", "path"},
       "step": {"roofline", "roofline_square", "gflop", "gflop_per_s", "gflop_per_s_square",
                "tokens_per_s", "gb", "parts", "dtype", "accum_difference"},
       "score": {"sentences"}}
PARTS = ["teacher forward", "student forward", "loss and its gradient", "student backward",
         "optimizer"]


@pytest.mark.parametrize("peers", [[], ["--peers"]])
@pytest.mark.parametrize("what", OWN)
def test_the_last_line_is_json(what, peers, last_line, tmp_path):
    lines = [f"the {i} dogs see {i * i} cats, don't they?\n" for i in range(2000)]
    (tmp_path / "t.txt").write_text("".join(lines))
    text = [f"--data={tmp_path}", "--words=9000"] if what in ("prepare", "bpe") else []
    result = last_line(what, *peers, "--batch=8", *text)

    assert result.keys() == COMMON | OWN[what]
    assert result["what"] == what and result["size"] == "nano"
    assert result["ours"] > 0
    assert result["ours_gb"] == (2.0 if what in ("prepare", "step", "score") else None)
    if not peers:
        assert result["peer"] is None
    if what == "prepare":
        assert result["same"] is (True if result["peer"] else None)
        assert result["words"] <= 9000
    if what == "bpe" and result["peer"]:
        assert result["same"] == {"merges": True, "ids": True}
        assert result["words"] <= 9000
    if what == "step":
        assert result["accum_difference"] < 1e-5
        assert result["roofline"] > 0
        assert [*result["parts"]] == PARTS


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
    bench.main(["bpe"])
    assert "babytalk instead" in capsys.readouterr().out


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


# ---------------------------------------------------------------- memory

def hold(megabytes):
    return lambda: torch.ones(megabytes, 250_000).sum()


def test_memory_is_of_a_fresh_process():
    peak, added = measure.memory_of(hold, (400,))
    assert 0.35 < added < 0.5
    assert added < peak < added + 1.0
