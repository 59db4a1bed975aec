"""Rollouts of several steps written in one call: what is written, in what order, and going on."""
import pytest
import torch

import distill
import rollouts
from onecoach import files
from onecoach.config import UserError
from runs import ROLLOUTS, lines, trained

pytestmark = pytest.mark.usefixtures("evaluated")

KEYS = {**ROLLOUTS, "rollout_loss": "single_step", "max_steps": 10}


@pytest.fixture
def calls(monkeypatch):
    """Of each call of rollouts.sample: its ids, and the Rollout that it gave."""
    calls = []
    sample = rollouts.sample

    def watched(student, teachers, x, *rest, **mark):
        calls.append((x, sample(student, teachers, x, *rest, **mark)))
        return calls[-1][1]
    monkeypatch.setattr(rollouts, "sample", watched)
    return calls


def test_a_still_student_writes_the_same_in_one_call_as_in_many(tiny, first, calls):
    """lr = 0: prompts, draws and rows are each step's own, and every age has q = q_old."""
    keys = dict(KEYS, lr=0.0, batch_size=8, grad_accum=2)
    one = lines(trained(tiny("one", **keys)), "loss")
    n_one = len(calls)
    four = lines(trained(tiny("four", rollout_every=4, **keys)), "loss")
    assert len(calls) - n_one < n_one / 1.5
    for a, b in zip(one, four):
        assert ("rollout_kl" in a) == ("rollout_kl" in b)
        for key in ("loss", "grad_norm", "divergence", "rollout_kl", "rollout_weight"):
            assert b.get(key, 0) == pytest.approx(a.get(key, 0), rel=1e-3, abs=1e-5), key
        if "rollout_drift" in b:
            assert b["rollout_drift"] == pytest.approx(0, abs=1e-5)
    assert "rollout_age" not in one[-1]
    assert max(line.get("rollout_age", 0) for line in four) >= 1


def test_the_log_shows_how_far_the_student_has_gone_on(tiny, first):
    keys = dict(KEYS, on_policy=1.0, rollout_every=4, max_steps=8)
    seen = lines(trained(tiny("some", **keys)), "rollout_age")
    assert [line["rollout_age"] for line in seen] == [0, 1, 2, 3, 0, 1, 2, 3]
    drift = [abs(line["rollout_drift"]) for line in seen]
    assert max(drift[0], drift[4]) < 1e-4 < min(drift[2:4] + drift[6:])


def test_damaged_rollouts_in_a_checkpoint_are_one_line(tiny, first):
    settings = tiny("some", **dict(KEYS, on_policy=1.0, rollout_every=4, max_steps=6))
    folder = trained(settings)
    path = folder / "ckpt.prev.pt"
    state = files.load_checkpoint(path)
    assert state["step"] == 5 and state["kept"]["rollouts"].keys() == {5}
    state["kept"]["rollouts"][5] = [torch.zeros(3)] * 5
    files.save_checkpoint(folder / "ckpt.pt", state)
    with pytest.raises(UserError, match="rollouts in it are damaged"):
        distill.train(settings)
