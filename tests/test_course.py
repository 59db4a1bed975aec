"""Each command of docs/course.md runs, at its smallest size; and its files and keys are there."""
import pathlib
import re
import shlex

import pytest

import distill
from onecoach.config import CONFIGS, parse_override, read_config
from tools import report
from tools.modes import __main__ as modes
from tools.modes import browser, examine, writing

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs/course.md").read_text()
EXERCISES = re.split(r"^## \d\. ", TEXT, flags=re.M)[1:]
COMMANDS = [re.findall(r"^    (python .*)$", exercise, re.M) for exercise in EXERCISES]
SMALL = dict(sentences=300, max_steps=4, n_layer=1, n_head=2, d_model=8, d_ff=16, batch_size=4,
             block_size=32, val_every=4, log_every=2, val_tokens=500, eval_tokens=0, device="cpu",
             dtype="float32")


def test_configs_and_tests_that_are_named_are_there():
    for path in re.findall(r"(?:configs|tests)/\w+\.py", TEXT):
        assert (ROOT / path).exists()


def run_small(command, folder):
    """A command of the course on tiny models whose runs lie in folder."""
    program, *words = shlex.split(command)[1:]
    if program == "-m" and words[0] == "pytest":
        assert (ROOT / words[1]).exists()  # the suite runs it anyhow
        return
    if program == "-m":
        tool = {"tools.modes": modes, "tools.report": report}[words[0]]
        names = [pathlib.Path(word).name for word in words[1:]]
        for name in names:  # of an earlier exercise
            if not (folder / name).exists():
                train_small(name, folder, {})
        tool.main([str(folder / name) for name in names])
        return
    config, *given = words
    train_small(pathlib.Path(config).stem, folder, dict(map(parse_override, given)))


def train_small(name, folder, given):
    """configs/NAME.py on a tiny scale, after what it needs: that would be trained at full size."""
    keys = {**SMALL, "out_dir": str(folder), "data_dir": str(folder / "data"), **given}
    config = read_config(CONFIGS / f"{name}.py", [*keys.items()])
    for needed in (*config.teachers, config.init, config.baseline):
        if needed and not (folder / needed).exists():
            train_small(needed, folder, {})
    distill.train(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the course is taken: later exercises find the runs of earlier ones."""
    return tmp_path_factory.mktemp("course") / "out"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(7))
def test_the_commands_run(number, folder, monkeypatch):
    monkeypatch.setattr(examine, "LINES", 30)
    monkeypatch.setattr(writing, "WRITTEN", 10)
    monkeypatch.setattr(browser, "CONTEXTS", 2)
    for command in COMMANDS[number]:
        run_small(command, folder)
