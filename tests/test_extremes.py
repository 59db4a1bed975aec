"""Every numeric key at its extremes: ten steps are trained, or it is refused in one line."""
import pytest

import distill
import runs
from onecoach import config, run
from onecoach.config import UserError

TINY = {**runs.TINY, "max_steps": 20, "warmup": 2, "eval_tokens": 0, "log_every": 5,
        "val_every": 1000, "lr": 1e-3}
STUDENT = dict(TINY, teachers=["coach"], alpha=0.5, divergence="rkl")
# keys that mean something only together with others
WITH = {
    "step_weights": dict(reduction="step"),
    "teacher_cache": dict(random_offset=False),
    "norm_eps": {}, "rope_scaling": dict(arch="llama"),
    **dict.fromkeys(("on_policy", "rollout_mix", "rollout_every", "prompt_len"),
                    dict(on_policy=1.0, init="first", tau=1.0, prompt_len=4)),
}
EXTREMES = {int: [0, 1, 10**9], float: [0.0, 1e-30, 1e30], list[float]: [[0.0, 1e30], [1e-30] * 2]}
CASES = [(name, value) for name, field in config.KEYS.items() if field.type in EXTREMES
         for value in EXTREMES[field.type]]
CASES += [(name, float(field.metadata["high"])) for name, field in config.KEYS.items()
          if field.type is float and field.metadata["high"]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the configs and runs of a coach and of a first student."""
    folder = tmp_path_factory.mktemp("extremes")
    for name in ("coach", "first"):
        (folder / f"{name}.py").write_text("".join(f"{k} = {v!r}\n" for k, v in TINY.items()))
        distill.train(config.read_config(folder / f"{name}.py", places(folder)))
    return folder


def places(folder):
    return [("out_dir", str(folder / "out")), ("data_dir", str(folder / "data"))]


@pytest.mark.parametrize("name, value", CASES, ids=str)
def test_ten_steps_or_a_line(name, value, trained, monkeypatch):
    """Accepted means that it trains: no step is skipped, and the weights stay finite."""
    goes_on = run.Run.goes_on
    monkeypatch.setattr(run.Run, "goes_on", lambda self: self.step < 10 and goes_on(self))
    student = trained / "student.py"
    student.write_text("")
    keys = {**STUDENT, **WITH.get(name, {}), name: value, "resume": "no"}
    try:
        settings = config.read_config(student, [*keys.items(), *places(trained)])
        distill.train(settings)
    except UserError as e:
        assert "\n" not in str(e)
        return
    folder = trained / "out/student"
    assert not any(line.get("skipped") for line in runs.lines(folder))
    if (folder / "ckpt.pt").exists():  # or max_minutes or max_steps are next to nothing
        assert all(weight.isfinite().all() for weight in runs.weights(folder).values())
