"""Keys, config files, schedules: what is accepted, and that what is not is refused in one line."""
import json
import pathlib

import pytest

import config
from config import UserError, value_at

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def file(tmp_path):
    def write(text, name="some.py"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)
    return write


def refused(argv, *words):
    with pytest.raises(UserError) as e:
        config.parse_args(argv)
    assert "\n" not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)


def test_config_then_command_line(file):
    path = file('"""A docstring."""\n# a comment\nlr = 1e-3\nteachers = ["a", "b"]\ntie = True\nseed = 3\n')
    c = config.parse_args([path, "--lr=2e-3", "--name=x", "--alpha=linear(0: 1, 1: 0)", "--max_steps=5"])
    assert (c.lr, c.teachers, c.tie, c.seed, c.name, c.alpha, c.max_steps) == (2e-3, ["a", "b"], True, 3, "x", "linear(0: 1, 1: 0)", 5)
    assert config.parse_args([path]).name == "some" and config.parse_args([path, "--teachers=c,d"]).teachers == ["c", "d"]
    assert config.parse_args([path, "--teachers="]).teachers == [] and config.parse_args([path, "--epochs=2"]).epochs == 2.0


def test_a_run_is_its_config_json(file):
    path = file(json.dumps({"lr": 1e-3, "name": "r", "tau": "stages(0: 1, 0.5: 2)", "_versions": {"torch": "x"}}), "config.json")
    c = config.parse_args([path])
    assert (c.lr, c.name, c.tau) == (1e-3, "r", "stages(0: 1, 0.5: 2)")


@pytest.mark.parametrize("text,words", [
    ("learning_rate = 1", ["unknown key 'learning_rate'"]),
    ("vocabsize = 1", ["unknown key 'vocabsize'", "did you mean 'vocab_size'?"]),
    ("lr = 'fast'", ["lr", "neither a number"]),
    ("seed = 1.5", ["seed = 1.5", "must be a whole number"]),
    ("seed = True", ["must be a whole number"]),
    ("tie = 1", ["tie = 1", "True or False"]),
    ("tau = 0", ["tau = 0", "must be > 0"]),
    ("alpha = 1.5", ["alpha = 1.5", ">= 0 and <= 1"]),
    ("alpha = 'linear(0: 2)'", ["alpha", "<= 1"]),
    ("lr = float('nan')", ["line 1", "lr must be a literal"]),
    ("divergence = 'kl'", ["'kl'", "allowed: fkl, rkl"]),
    ("teachers = 'one'", ["a list of strings"]),
    ("mark = None", ["mark = None", "a string"]),
    ("name = '../x'", ["run name '../x'", "only letters"]),
    ("batch_size = 10\ngrad_accum = 3", ["10 is not a multiple of grad_accum 3"]),
    ("d_model = 30\nn_head = 4", ["d_model 30 does not split"]),
    ("teachers = ['truth']\ncorpus = 'x'", ["babytalk only"]),
    ("import os", ["line 1", "only assignments"]),
    ("lr = __import__('os').getpid()", ["lr must be a literal"]),
    ("lr = ", ["line 1", "cannot be read as a config"]),
    ("a.b = 1", ["only assignments"]),
    (b"\xff\xfe", ["not UTF-8"]),
    (b"lr = 1\x00", ["cannot be read as a config"]),
])
def test_bad_configs(file, text, words):
    across = ("batch", "name", "d_model", "truth", "divergence")  # keys that are checked against one another: of file or command line
    refused([file(text)], *words, *([] if any(word in str(text) for word in across) else ["some.py"]))


@pytest.mark.parametrize("text, words", [
    ("mix = 0.5\ndivergence = 'fkl'", ["mix is 0.5 under fkl", "alpha"]),
    ("mix = 'linear(0: 1, 1: 0)'\ndivergence = 'fkl'", ["mix is 0.0 under fkl"]),
    ("step_weights = [1.0]", ["step_weights", "two numbers"]),
    ("step_weights = ['a', 'b']", ["step_weights", "a list of numbers"]),
    ("block_size = 'linear(0: 32, 1: 128)'", ["block_size", "stages"]),
    ("block_size = 'stages(0: 48, 0.5: 128)'", ["block_size", "divisors"]),
    ("block_size = 'stages(0: 32.5, 0.5: 65)'", ["block_size", "whole numbers"]),
    ("rollout_mix = 0.2", ["rollout_mix", "set on_policy"]),
    ("rollout_loss = 'reinforce'", ["rollout_loss", "set on_policy"]),
    ("on_policy = 0.5\ninit = 'x'", ["on_policy needs teachers"]),
    ("on_policy = 0.5\nteachers = ['t']", ["random weights are noise", "init"]),
    ("on_policy = 0.5\nteachers = ['t']\ninit = 'x'\nrollout_loss = 'reinforce'\ndivergence = 'fkl'", ["reinforce", "only token"]),
    ("on_policy = 0.5\nteachers = ['t']\ninit = 'x'\nprompt_len = 64\nblock_size = 'stages(0: 32, 0.5: 128)'", ["prompt_len", "32"]),
])
def test_keys_that_do_not_go_together(file, text, words):
    refused([file(text)], *words)


def test_keys_that_do(file):
    c = config.parse_args([file("block_size = 'stages(0: 32, 0.5: 128)'\nstep_weights = (1, 2)\non_policy = 'stages(0: 0, 0.5: 1)'\nteachers = ['t']")])
    assert c.longest == 128 and c.step_weights == [1.0, 2.0] and config.Config().longest == 128
    assert config.parse_args([file("lr = 1"), "--step_weights=0.5,2"]).step_weights == [0.5, 2.0]


def test_nothing_in_a_config_is_executed(file, tmp_path):
    refused([file(f"lr = open({str(tmp_path / 'made')!r}, 'w')")], "must be a literal")
    assert not (tmp_path / "made").exists()


def test_bad_command_lines(file):
    path = file("lr = 1e-3")
    refused([], "expected one CONFIG, got 0")
    refused([path, path], "got 2")
    refused([path, "--lr"], "--lr has no value")
    refused([path, "--lr=", ], "lr")
    refused([path, "--lrr=1"], "unknown key 'lrr'", "'lr'")
    refused([path, "--tie=yes"], "tie = 'yes'", "True or False")
    refused(["nowhere.py"], "nowhere.py", "No such file")
    refused([file("[1]", "config.json")], "no JSON object")


def test_schedules():
    linear, stages = "linear(0: 1, 0.7: 0)", "stages(0.2: 32, 0.5: 128)"
    assert [value_at(linear, x) for x in (0, 0.35, 0.7, 1)] == [1, 0.5, 0, 0]
    assert [value_at(stages, x) for x in (0, 0.2, 0.49, 0.5, 1)] == [32, 32, 32, 128, 128]
    assert value_at(3, 0.5) == 3.0 and value_at("linear(0.5: 2)", 0) == 2
    assert value_at("linear(0: 1, 0.5: 3, 1: -1)", 0.75) == 1


@pytest.mark.parametrize("text", ["linear()", "linear(0)", "linear(0: 1, 0: 2)", "linear(0.5: 1, 0.2: 2)", "linear(0: 1, 2: 0)",
                                  "cubic(0: 1)", "linear(0: x)", "1e-3", "linear(0: 1", "linear(0:1:2)", "linear(0: nan)"])
def test_bad_schedules(file, text):
    refused([file(f"lr = {text!r}")], "lr" if "nan" in text else "schedule")


def test_every_shipped_config_is_read_and_says_how_to_launch_it():
    names = [p.stem for p in (ROOT / "configs").glob("*.py")]
    assert {"rkl_demo", "fkl_demo", "llama_demo", "gpt2_demo", "base_demo", "rkl_nano", "rkl_nano_1m", "llama_360m", "gpt2_705m",
            "base_10m", "rkl_10m", "fkl_10m", "rkl_100m"} <= set(names)
    for name in names:
        path = ROOT / "configs" / f"{name}.py"
        c = config.parse_args([str(path)])
        script = "distill.py" if c.teachers else "teacher.py"
        assert f"python {script} configs/{name}.py" in path.read_text().split("\n\n")[0], name
        for other in (*c.teachers, *([c.baseline] if c.baseline else [])):
            made = config.related_config(c, other)  # every run that it needs has a config, and fits
            assert made.corpus == c.corpus and made.vocab_size == c.vocab_size and made.name == other and not made.teachers


def test_help_names_every_key():
    text = config.help_text("usage")
    assert all(f"\n  {name}" in text for name in config.KEYS)
    assert max(map(len, text.split("\n"))) <= 100
