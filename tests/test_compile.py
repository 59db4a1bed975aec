"""torch.compile: refused where it cannot work, chosen where it pays, once for all shapes."""
import functools
import types

import pytest
import torch

import distill
import losses
import runs
from onecoach import files
from runs import refused

TINY = {**runs.TINY, "max_steps": 2, "eval_tokens": 0}


@pytest.fixture
def no_compiler(monkeypatch):
    """As on a machine without a C++ compiler."""
    monkeypatch.setenv("CXX", "/nonexistent")
    losses.can_compile.cache_clear()
    yield
    losses.can_compile.cache_clear()


@pytest.fixture
def traced(monkeypatch):
    """Compile as far as the tracer, which needs no compiler; return a function of a Config.

    It trains the run and returns how many graphs that took.
    """
    monkeypatch.setattr(losses, "can_compile", lambda kind: True)
    monkeypatch.setattr(distill, "report", lambda run: None)
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compile,
                                                                            backend="eager"))

    def graphs(config):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        distill.train(config)
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]
    yield graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("keys", [{}, dict(teachers=["some"])])
def test_compile_without_a_compiler_is_refused_before_anything_is_trained(make_config, no_compiler,
                                                                         keys):
    make_config(**TINY)  # makes some.py, the teacher's file
    config = make_config(**{**TINY, "name": "kid", "compile": True, **keys})
    refused(config, "C++ compiler", "--compile=False")
    assert not list(config.folder.parent.glob("*/ckpt.pt"))


def test_a_compiled_run_goes_on_uncompiled(make_config, monkeypatch):
    """The remedy holds for a run that was begun where there is a compiler."""
    monkeypatch.setattr(losses, "can_compile", lambda kind: True)
    monkeypatch.setattr(distill, "report", lambda run: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    config = make_config(compile=True, max_minutes=1e-6, **{**TINY, "max_steps": 20})
    distill.train(config)
    assert 0 < files.load_checkpoint(config.folder / "ckpt.pt")["step"] < 20
    distill.train(make_config(compile=False, **{**TINY, "max_steps": 20}))
    assert files.load_checkpoint(config.folder / "ckpt.pt")["step"] == 20


# ---------------------------------------------------------------- the key's own choice

@pytest.mark.parametrize("key, device, steps, compiler, expected", [
    ("auto", "cuda", 2000, True, True), ("auto", "cuda", 1999, True, False),
    ("auto", "cpu", 10**6, True, False), ("auto", "cuda", 10**6, False, False),
    (True, "cpu", 1, True, True), (False, "cuda", 10**6, True, False)])
def test_auto_compiles_long_runs_on_a_gpu(key, device, steps, compiler, expected, monkeypatch):
    monkeypatch.setattr(losses, "can_compile", lambda kind: compiler)
    config = types.SimpleNamespace(compile=key)
    assert distill.should_compile(config, torch.device(device), steps) is expected


# ---------------------------------------------------------------- shapes

def test_stages_and_a_short_last_batch_are_not_compiled_again(make_config, traced, capsys):
    make_config(**TINY)  # makes some.py, the teacher's file
    traced(make_config(**TINY, name="some"))
    keys = {**TINY, "teachers": ["some"], "max_steps": 20, "val_every": 10, "compile": True}
    # the student's graphs of training and of validation, and the teacher's
    assert traced(make_config(**keys, name="kid")) == 3
    said = capsys.readouterr().out
    assert "models compiled" in said and "step 1: compiling and a step took " in said
    # 80 tokens: a batch of four blocks and one of one
    assert traced(make_config(**{**keys, "val_tokens": 80}, name="short")) == 3

    two, four = (traced(make_config(**{**keys, "block_size": stages}, name=name))
                 for name, stages in (("two", "stages(0: 8, 0.5: 16)"),
                                      ("four", "stages(0: 2, 0.2: 4, 0.4: 8, 0.7: 16)")))
    assert two == four <= 5


def test_rows_that_fill_the_last_batch_change_no_figure(make_config, traced):
    keys = {**TINY, "val_tokens": 80, "max_steps": 4, "val_every": 2}
    figures = []
    for name in ("eager", "compiled"):
        config = make_config(**keys, name=name, compile=name == "compiled")
        traced(config)
        lines = files.read_metrics(config.folder / "metrics.jsonl")
        figures.append([line["val_ce"] for line in lines if "val_ce" in line])
    assert len(figures[0]) == 3
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)
