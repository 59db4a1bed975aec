"""On a GPU: the loss is the definition there too, and a run on it is the run on a CPU.

Skipped where there is no GPU; `python -m pytest tests/test_cuda.py` on one that has.
"""
import shutil

import pytest
import torch
from test_losses import NAMES, heads, inputs, value_and_gradients

import distill
import eval
import losses
from losses import distillation_loss
from onecoach import files, run, stored
from onecoach.run import load
from tools.modes import page

pytestmark = [pytest.mark.usefixtures("evaluated"),
              pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = dict(device="cuda", dtype="float32")
ON_ROLLOUTS = dict(on_policy="stages(0: 0, 0.4: 1)", rollout_mix=0.2,
                   rollout_loss="single_step", length_norm=True)


@pytest.fixture(autouse=True)
def plain_fp32():
    """A run in another dtype lets fp32 products be in TF32, for the whole process."""
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def teacher(tiny):
    """A trained run named "teacher", on the GPU; `tiny` makes students of it."""
    distill.train(tiny("teacher", **GPU, max_steps=20))
    return dict(teachers=["teacher"], **GPU)


def of_run(config, which="best"):
    """All weights of a run as one vector, on the CPU."""
    student, *_ = load(config.folder, torch.device("cpu"), which)
    return torch.cat([p.detach().flatten() for p in student.parameters()])


def val_ces(config):
    lines = files.read_metrics(config.folder / "metrics.jsonl")
    return torch.tensor([line["val_ce"] for line in lines if line.get("val_ce")])


# ---------------------------------------------------------------- the loss

@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("divergence", NAMES)
def test_the_loss_is_fp64s_on_a_cpu(divergence, mode, monkeypatch):
    """In fp32, value and gradients to states and head; by chunks, two teachers, a mixed target."""
    settings = dict(divergence=divergence, tau=1.5, alpha=0.3,
                    mix=1.0 if divergence == "fkl" else 0.7)

    def at(dtype, device):
        h, W, h_ps, W_ps, labels = inputs(dtype, teachers=2)
        h, W, labels = (t.to(device) for t in (h, W, labels))
        h_ps, W_ps = ([t.to(device) for t in ts] for ts in (h_ps, W_ps))
        return value_and_gradients(
            lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, chunk=10, **settings),
            h, W)

    exact = at(torch.float64, "cpu")
    monkeypatch.setattr(losses, "mode", mode)
    for a, b in zip(at(torch.float32, "cuda"), exact):
        assert a.isfinite().all()
        assert (a.cpu().double() - b).norm() <= 2e-5 * b.norm()


# ---------------------------------------------------------------- runs

@pytest.mark.parametrize("keys", [
    {},
    dict(mix=0.8, tau=2.0, reduction="sequence", grad_accum=2),
    dict(arch="gpt2"),
    dict(optimizer="muon"),
    dict(ON_ROLLOUTS, rollout_every=2),
    dict(ON_ROLLOUTS, rollout_loss="reinforce")], ids=str)
def test_a_run_is_the_one_of_a_cpu(keys, teacher, tiny):
    """As far as rounding allows over a few steps; Muon's products are in bf16 on both."""
    there = tiny("there", **{**teacher, **keys})
    here = tiny("here", **{**teacher, **keys, "device": "cpu"})
    distill.train(there)
    distill.train(here)
    close = 3e-2 if keys.get("optimizer") == "muon" else 2e-3
    assert (val_ces(there) - val_ces(here)).abs().max() < close
    assert len(val_ces(there)) >= 2


@pytest.mark.parametrize("keys", [dict(dtype="bfloat16"), dict(dtype="float16"),
                                  dict(compile=True)], ids=str)
def test_it_learns_in_other_dtypes_and_compiled(keys, teacher, tiny):
    exact = tiny("exact", **{**teacher, "max_steps": 30})
    other = tiny("other", **{**teacher, "max_steps": 30, **keys})
    distill.train(exact)
    distill.train(other)
    first, *_, last = val_ces(other)
    assert last < first - 0.5
    assert abs(last - val_ces(exact)[-1]) < 0.1


def test_an_interrupted_run_goes_on(teacher, tiny):
    whole = tiny("whole", **teacher, max_steps=12)
    distill.train(whole)
    distill.train(tiny("parts", **teacher, max_steps=12, max_minutes=1e-9))
    parts = tiny("parts", **teacher, max_steps=12)
    assert 0 < files.load_checkpoint(parts.folder / "ckpt.pt")["step"] < 12
    distill.train(parts)
    a = of_run(whole, "last")
    b = of_run(parts, "last")
    print("interrupted and not:", "the same bits" if torch.equal(a, b) else "other bits")
    assert (a - b).norm() < 1e-4 * a.norm()


def test_what_is_stored_is_read_as_it_was_written(teacher, tiny):
    """The first epoch computes and writes, the second reads: the same target, bit by bit."""
    config = tiny("some", **teacher, teacher_cache=8, random_offset=False, max_steps=3)
    run = distill.Run(config)
    data = distill.prepare(config)
    source = distill.load_teachers(data, run).store
    assert isinstance(source, stored.StoredTeacher)
    batches = distill.Batches(data.train, config, run.device)
    x, _ = batches.batch(0, config.at(0.0))
    written = source(x)
    read = source(x)
    assert torch.equal(written.ids, read.ids) and torch.equal(written.log_p, read.log_p)


def test_scores_are_a_cpus(teacher, tiny):
    lm, tokenizer, _ = load(tiny("teacher", **GPU, max_steps=20).folder, torch.device("cpu"))
    sentences = ["the dog sees a cat\n", "a\n", "two cats see the old dog that sleeps\n"] * 5
    here = eval.score_sentences(lm, tokenizer, sentences)
    there = eval.score_sentences(lm.to("cuda"), tokenizer, sentences)
    assert (here - there.cpu()).abs().max() < 1e-4


def test_a_report_is_the_one_of_a_cpu(demo_runs, tmp_path, monkeypatch):
    figures = {}
    for device in ("cuda", "cpu"):
        folder = tmp_path / device
        for name in ("llama_demo", "rkl_demo"):
            shutil.copytree(demo_runs / name, folder / name)
        monkeypatch.setattr(
            run, "choose_device", lambda config, device=device: torch.device(device))
        page.write_report([folder / "rkl_demo"])
        figures[device] = files.read_json(folder / "rkl_demo/modes.json")["figures"]
    for name in ("ce", "fkl", "rkl", "precision", "recall"):
        assert abs(figures["cuda"][name] - figures["cpu"][name]) < 1e-3
