"""The benchmark runs, at sizes that take seconds, and counts what is there; nothing here is timed."""
import functools
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import losses
from tools import bench, measure

TINY = (dict(d_model=8, n_layer=2, d_ff=12, n_head=2), dict(d_model=16, n_layer=3, d_ff=20, n_head=4))
KEYS = dict(batch_size=8, block_size=16)


@pytest.fixture
def small(monkeypatch):
    """bench.main at small sizes, without the processes that memory is measured in; returns its last line."""
    monkeypatch.setattr(bench, "ROUNDS", {"nano": 1})
    monkeypatch.setattr(bench, "STEP_SIZES", {"nano": TINY})
    monkeypatch.setattr(bench, "LOSS_SIZES", {"nano": (8, 16)})
    monkeypatch.setattr(bench, "V", 300)
    monkeypatch.setattr(bench, "memory_of", lambda make, arguments, *_, **__: (2.0, float("nan")))
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    monkeypatch.setattr(losses, "mode", "eager")
    for what, sizes in (("loss", dict(N=64)), ("step", dict(T=16, V=300)), ("score", dict(pairs=1))):
        monkeypatch.setitem(bench.COMMANDS, what, functools.partial(bench.COMMANDS[what], **sizes))
    return monkeypatch


@pytest.mark.parametrize("peers", [[], ["--peers"]])
@pytest.mark.parametrize("what", ["bpe", "loss", "step", "score"])
def test_the_last_line_is_json(what, peers, small, capsys, tmp_path):
    (tmp_path / "t.txt").write_text("".join(f"the {i} dogs see {i * i} cats, don't they?\n" for i in range(2000)))
    bench.main([what, *peers, "--batch=8", *([f"--data={tmp_path}", "--words=9000"] if what == "bpe" else [])])
    *shown, last = capsys.readouterr().out.splitlines()
    found = json.loads(last, parse_constant=pytest.fail)  # no NaN, which is not JSON
    assert {"what", "size", "ours", "peer", "ours_gb", "peer_gb"} <= found.keys() and found["what"] == what
    assert found["ours"] > 0 and found["size"] == "nano" and len(shown) > 3
    assert found["ours_gb"] == (2.0 if what in ("step", "score") else None)
    if not peers:
        assert found["peer"] is None
    if what == "bpe" and found["peer"]:
        assert found["same"] == {"merges": True, "ids": True} and found["words"] <= 9000
    if what == "step":
        assert found["accum_difference"] < 1e-5 and 0 < found["roofline"] and len(found["parts"]) == 5


def test_without_text_babytalk_is_taken_and_said(small, capsys, tmp_path):
    small.setattr(bench.babytalk, "sample", lambda n, seed, f=bench.babytalk.sample: f(min(n, 1000), seed))
    small.setattr(bench, "BABYLM", tmp_path)
    bench.main(["bpe"])
    assert "babytalk instead" in capsys.readouterr().out


def test_operations_are_torchs_own_count(monkeypatch):
    """Also what distill counts for MFU. In bf16 attention is plain products here; torch's CPU kernel it does not know, nor addmm_."""
    monkeypatch.setattr(losses, "mode", "eager")
    step = bench.Step(TINY, {**KEYS, "dtype": "bfloat16"}, 50)
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == bench.operations(bench.products(*TINY, 50, 8, 16)) == step.operations


def test_the_parts_make_the_step(monkeypatch):
    monkeypatch.setattr(losses, "mode", "eager")
    step, other = bench.Step(TINY, KEYS, 50), bench.Step(TINY, KEYS, 50)
    other(), step.parts()  # the clocks change nothing
    assert all(torch.equal(a, b) for a, b in zip(step.params, other.params))
    assert set(step.parts()) == {"teacher forward", "student forward", "loss and its gradient", "student backward", "optimizer"}


def hold(megabytes):
    return lambda: torch.ones(megabytes, 250_000).sum()


def test_memory_is_of_a_fresh_process():
    peak, added = measure.memory_of(hold, (400,))
    assert 0.35 < added < 0.5 and added < peak < added + 1.0
