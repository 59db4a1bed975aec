"""Between two lines of the log a step never waits for the device.

Shown on a CPU: no operator of a step hands a tensor's value to Python or makes a tensor whose shape
depends on values, no tensor is copied to the host, and copies to the device are non_blocking: torch
waits for the device in every other copy. Stored teachers and babytalk's truth are left out: they
are asked on the CPU, by the tokens.
"""
import contextlib
import pathlib
import sys
import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import distill
import rollouts
import runs
from onecoach import run
from onecoach.tokens import to_device

ROOT = pathlib.Path(__file__).parent.parent
WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
TO_HOST = ("cpu", "numpy", "tolist", "__array__")

TINY = {**runs.TINY, "max_steps": 6, "log_every": 100, "val_every": 100, "eval_tokens": 0}
ROLLOUTS = dict(init="coach", on_policy=1.0, rollout_mix=0.2, prompt_len=4)


def note(names, name):
    """Add an operator to names, with the line of the project that called it."""
    for frame in reversed(traceback.extract_stack()):
        path = pathlib.Path(frame.filename)
        ours = path.is_relative_to(ROOT) and "site-packages" not in path.parts  # a venv may be here
        if ours and path.parent.name != "tests":
            if '!= "cpu" or' not in frame.line:  # a GPU never gets beyond that `or`
                names.append(f"{name} in {path.relative_to(ROOT)}:{frame.lineno}")
            return
    names.append(name)


class Waits(TorchDispatchMode):
    """Collects the operators that wait for a device."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        name = f.overloadpacket.__name__
        waits = WAITS & set(f.tags)
        if name.startswith(("index", "_unsafe_index")):  # by a mask it counts its ones
            indices = args[1] if isinstance(args[1], (list, tuple)) else ()
            waits = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if waits:
            note(self.names, name)
        return f(*args, **(kwargs or {}))


@contextlib.contextmanager
def waits(names, monkeypatch):
    """Add to `names` what waits for a device in this block."""
    with monkeypatch.context() as patch:
        for name in TO_HOST:
            method = getattr(torch.Tensor, name)

            def counted(self, *args, name=name, method=method, **keys):
                note(names, name)
                return method(self, *args, **keys)
            patch.setattr(torch.Tensor, name, counted)
        to = torch.Tensor.to

        def counted_to(self, *args, **keys):
            moves = "device" in keys or any(isinstance(arg, (str, torch.device)) for arg in args)
            torchs = "site-packages" in sys._getframe(1).f_code.co_filename  # all on one device
            if moves and not torchs and not keys.get("non_blocking"):
                note(names, "to")
            return to(self, *args, **keys)
        patch.setattr(torch.Tensor, "to", counted_to)
        for name in ("tensor", "as_tensor"):
            make = getattr(torch, name)

            def counted_make(data, *args, name=name, make=make, **keys):
                if "device" in keys and not isinstance(data, torch.Tensor):
                    note(names, name)
                return make(data, *args, **keys)
            patch.setattr(torch, name, counted_make)
        with Waits(names):
            yield


@pytest.fixture
def steps(make_config, monkeypatch):
    """Train; return the operators that wait in the steps without a line in the log, and how many
    steps these are."""
    def steps(**keys):
        names = []
        count = 0

        def watched(f, counts=0):
            def call(*args):
                nonlocal count
                state = next((arg for arg in args if isinstance(arg, run.Run)), None)
                if state and state.should_log:
                    return f(*args)
                count += counts
                with waits(names, monkeypatch):
                    return f(*args)
            return call
        monkeypatch.setattr(distill, "report", lambda run: None)
        make_config(name="coach", **TINY)  # makes the file of configs
        distill.train(make_config(name="coach", **{**TINY, "dtype": keys.get("dtype", "float32")}))
        monkeypatch.setattr(distill, "take_step", watched(distill.take_step, counts=1))
        monkeypatch.setattr(distill.Batches, "batch", watched(distill.Batches.batch))
        monkeypatch.setattr(rollouts, "for_step", watched(rollouts.for_step))
        monkeypatch.setattr(run.Run, "stepped", watched(run.Run.stepped))
        distill.train(make_config(name="kid", **{**TINY, "teachers": ["coach"], **keys}))
        return names, count
    return steps


@pytest.mark.parametrize("keys", [
    {},
    dict(teachers=[]),
    dict(optimizer="muon", grad_accum=2),
    dict(dtype="float16"),
    dict(dtype="bfloat16"),
    dict(reduction="sequence", tau=2.0, mix=0.5, divergence="rkl"),
    dict(reduction="step", tau="linear(0: 2, 1: 1)", block_size="stages(0: 8, 0.5: 16)"),
    dict(divergence="akl"),
    dict(divergence="jsd(0.5)"),
    dict(ROLLOUTS, rollout_loss="token"),
    dict(ROLLOUTS, rollout_loss="reinforce", length_norm=True),
    dict(ROLLOUTS, rollout_loss="single_step", alpha=0.0),
    dict(ROLLOUTS, rollout_loss="single_step", rollout_every=2, optimizer="muon"),
], ids=str)
def test_a_step_never_waits_for_the_device(keys, steps):
    names, count = steps(**keys)
    assert count == 5  # the last step has a line in the log
    assert not set(names), sorted(set(names))


@pytest.mark.parametrize("wait", [lambda x: x.sum().item(), lambda x: x.nonzero(),
                                  lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x.tolist(),
                                  lambda x: bool(x.any()), lambda x: x.to("cpu"),
                                  lambda x: torch.tensor(1.0, device="cpu")])
def test_what_waits_is_noticed(wait, monkeypatch):
    names = []
    with waits(names, monkeypatch):
        wait(torch.ones(3))
    assert names


@pytest.mark.parametrize("device, pins", [("cpu", 0), ("cuda:1", 1)])
def test_a_gpu_copies_from_pinned_memory(device, pins, monkeypatch):
    """Only then does non_blocking not wait."""
    calls = []

    def noting(name):
        def call(self, *args, **keys):
            calls.append((name, *map(str, args), *keys.items()))
            return self
        return call
    for name in ("pin_memory", "to"):
        monkeypatch.setattr(torch.Tensor, name, noting(name))
    to_device(torch.ones(2), torch.device(device))
    assert calls == [("pin_memory",)] * pins + [("to", device, ("non_blocking", True))]
