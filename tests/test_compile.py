"""torch.compile is asked for where it cannot work: one line before anything is trained."""
import pytest
import torch

import distill
import losses
from onecoach import files
from onecoach.config import UserError

TINY = dict(dtype="float32", corpus="babytalk", sentences=300, mark="line", n_layer=1, n_head=2,
            d_model=16, d_ff=32, block_size=16, batch_size=4, max_steps=2, val_tokens=64,
            eval_tokens=0)


@pytest.fixture
def no_compiler(monkeypatch):
    """As on a machine without a C++ compiler."""
    monkeypatch.setenv("CXX", "/nonexistent")
    losses.can_compile.cache_clear()
    yield
    losses.can_compile.cache_clear()


def test_compile_without_a_compiler_is_refused_with_the_remedy(make_config, no_compiler):
    config = make_config(compile=True, **TINY)
    with pytest.raises(UserError) as e:
        distill.train(config)
    assert "C++ compiler" in str(e.value) and "--compile=False" in str(e.value)
    assert "\n" not in str(e.value)
    assert not (config.folder / "ckpt.pt").exists()


def test_a_needed_run_that_asks_for_it_is_refused_before_any_is_trained(make_config, no_compiler):
    make_config(**TINY)  # makes some.py, the teacher's file
    config = make_config(name="kid", teachers=["some"], compile=True, **TINY)
    with pytest.raises(UserError, match="compiler"):
        distill.train(config)
    assert not (config.folder.with_name("some") / "ckpt.pt").exists()


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
