"""Keys, config files, schedules: what is accepted, and that what is not is refused in one line."""
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import pytest

from onecoach import config
from onecoach.config import value_at
from runs import refusal

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def file(tmp_path):
    """file(text, name) writes tmp_path/name and returns its path."""
    def write(text, name="some.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)
    return write


def refused(argv, *words):
    with refusal(*words):
        config.parse_args(argv)


# ---------------------------------------------------------------- files and the command line

def test_config_then_command_line(file):
    path = file('"""A docstring."""\n# a comment\nlr = 1e-3\nteachers = ["a", "b"]\n'
                'tie = True\nseed = 3\n')
    overrides = ["--lr=2e-3", "--name=x", "--alpha=linear(0: 1, 1: 0)", "--max_steps=5"]
    c = config.parse_args([path, *overrides])
    assert (c.lr, c.name, c.alpha, c.max_steps) == (2e-3, "x", "linear(0: 1, 1: 0)", 5)
    assert (c.teachers, c.tie, c.seed) == (["a", "b"], True, 3)

    assert config.parse_args([path]).name == "some"
    assert config.parse_args([path, "--teachers=c,d"]).teachers == ["c", "d"]
    assert config.parse_args([path, "--teachers="]).teachers == []
    assert config.parse_args([path, "--epochs=2"]).epochs == 2.0
    for text, value in (("True", True), ("False", False), ("auto", "auto")):
        assert config.parse_args([path, f"--compile={text}"]).compile == value


def test_a_run_is_its_config_json(file):
    keys = {"lr": 1e-3, "name": "r", "tau": "stages(0: 1, 0.5: 2)", "_versions": {"torch": "x"}}
    c = config.parse_args([file(json.dumps(keys), "config.json")])
    assert (c.lr, c.name, c.tau) == (1e-3, "r", "stages(0: 1, 0.5: 2)")


@pytest.mark.parametrize("text, words", [
    ("learning_rate = 1", ["unknown key 'learning_rate'"]),
    ("vocabsize = 1", ["unknown key 'vocabsize'", "did you mean 'vocab_size'?"]),
    ("lr = 'fast'", ["lr", "a number or a schedule"]),
    ("seed = 1.5", ["seed = 1.5", "must be a whole number"]),
    ("seed = True", ["must be a whole number"]),
    ("compile = 'yes'", ["compile = 'yes'", "True or False or 'auto'"]),
    ("tie = 1", ["tie = 1", "True or False"]),
    ("tau = 0", ["tau = 0", "must be > 0"]),
    ("epochs = 1e999", ["epochs = inf", "> 0 and <= 1000000"]),
    ("alpha = 1.5", ["alpha = 1.5", ">= 0 and <= 1"]),
    ("alpha = 'linear(0: 2)'", ["alpha", "<= 1"]),
    ("lr = float('nan')", ["line 1", "lr must be a literal"]),
    ("divergence = 'kl'", ["'kl'", "allowed: fkl, rkl"]),
    ("teachers = 'one'", ["a list of strings"]),
    ("mark = None", ["mark = None", "allowed are none, half, line"]),
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
    # keys that are checked against one another may be of the file or of the command line
    together = ("batch", "name", "d_model", "truth", "divergence")
    where = [] if any(word in str(text) for word in together) else ["some.py"]
    refused([file(text)], *words, *where)


REINFORCE = "on_policy = 0.5\nteachers = ['t']\ninit = 'x'\nrollout_loss = 'reinforce'\n"
PROMPT = "on_policy = 0.5\nteachers = ['t']\ninit = 'x'\nprompt_len = 64\n"


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
    (REINFORCE + "divergence = 'fkl'", ["reinforce", "only token"]),
    (PROMPT + "block_size = 'stages(0: 32, 0.5: 128)'", ["prompt_len", "32"]),
    ("n_head = 4\nn_kv_head = 3", ["n_kv_head = 3"]),
    ("arch = 'gpt2'\nn_kv_head = 2", ["n_kv_head is about arch = llama"]),
    ("arch = 'gpt2'\nrope_scaling = [8, 1, 4, 64]", ["rope_scaling is about"]),
    ("rope_scaling = [8, 1, 4]", ["four numbers"]),
    ("rollout_every = 4", ["rollout_every is about rollouts"]),
    (PROMPT.replace("64", "4") + "rollout_every = 4\nblock_size = 'stages(0: 8, 0.5: 16)'",
     ["rollout_every = 4", "block_size"]),
    ("rope_scaling = [8, 4, 1, 64]", ["the second below"]),
    # by the loss
    ("tau = 1e-7", ["tau is 1e-07", "allowed: 1e-06"]),
    ("tau = 'linear(0: 1, 1: 1e-9)'", ["tau is 1e-09"]),
    ("mix = 'stages(0: 1, 0.5: 0.5)'\ndivergence = 'fkl'", ["mix is 0.5 under fkl"]),
])
def test_keys_that_do_not_go_together(file, text, words):
    refused([file(text)], *words)


def test_keys_that_do(file):
    path = file("block_size = 'stages(0: 32, 0.5: 128)'\nstep_weights = (1, 2)\n"
                "on_policy = 'stages(0: 0, 0.5: 1)'\nteachers = ['t']")
    c = config.parse_args([path])
    assert c.longest == config.Config().longest == 128 and c.step_weights == [1.0, 2.0]


def test_a_list_of_numbers_on_the_command_line(file):
    path = file("lr = 1\ncheckpoints = [3]")
    for text, value in (("0.001", [0.001]), ("2", [2.0]), ("1,2.5", [1.0, 2.5]), ("", []),
                        ("[4]", [4.0]), ("babylm", "babylm")):
        assert config.parse_args([path, f"--checkpoints={text}"]).checkpoints == value
    assert config.parse_args([path, "--step_weights=0.5,2"]).step_weights == [0.5, 2.0]
    for wrong in ("True", "x"):
        refused([path, f"--checkpoints={wrong}"], wrong, "a list of numbers or 'babylm'")


def test_a_command_line_is_read_back_by_a_shell(file):
    keys = dict(teachers=["a", "b"], divergence="jsd(0.5)", checkpoints=[0.5], rope_scaling=[],
                tau="linear(0: 2, 1: 1)", tie=True, lr=1e-05, corpus="it's $here", baseline="",
                step_weights=[0.5, 2.0], max_steps=3)
    line = config.command_line(keys)
    assert line.startswith("--teachers=a,b --divergence='jsd(0.5)' --checkpoints=0.5 ")
    read = config.parse_args([file("seed = 1"), *shlex.split(line)])
    assert {key: getattr(read, key) for key in keys} == keys


def test_show_prints_a_config_that_reads_as_the_same(file, capsys):
    with pytest.raises(SystemExit) as e:
        config.parse_args([file("lr = 1e-3\ntau = 'linear(0: 2, 1: 1)'"), "--show", "--seed=3"])
    shown = capsys.readouterr().out
    assert e.value.code == 0 and "seed = 3  # default: 0\n" in shown and "mark = 'half'\n" in shown
    read = config.parse_args([file(shown, "shown.py")])
    assert (read.name, read.lr, read.seed) == ("some", 1e-3, 3) and read.tau == "linear(0: 2, 1: 1)"


def test_bad_command_lines(file):
    path = file("lr = 1e-3")
    refused([], "expected one CONFIG, got 0")
    refused([path, path], "got 2")
    refused([path, "--lr"], "--lr has no value")
    refused([path, "--lr=", ], "lr")
    refused([path, "--lrr=1"], "unknown key 'lrr'", "'lr'")
    refused([path, "--tie=yes"], "tie = 'yes'", "True or False")
    refused(["nowhere.py"], "nowhere.py", "No such file", "configs/ has examples")
    refused(["rkl_demo"], "rkl_demo", "did you mean configs/rkl_demo.py?")
    refused(["configs/rkl_dmo.py"], "No such file", "did you mean configs/rkl_demo.py?")
    refused([path, "--divergence=rlk"], "divergence is 'rlk'", "did you mean 'rkl'?")
    refused(["--lr", "1e-3"], "--lr has no value; write --lr=VALUE")
    refused([file("[1]", "config.json")], "no JSON object")


# ---------------------------------------------------------------- base = "NAME"

def test_a_config_builds_on_another_and_so_on(file):
    file("lr = 1e-3\nseed = 1\ntau = 3.0\nteachers = ['t']\nbaseline = 'b'", "first.py")
    file('# a comment\n\nbase = "first"\n\nseed = 2\ntau = 4.0\nteachers = []', "second.py")
    third = file('"""A docstring."""\nbase = "second"\ntau = 5.0', "third.py")

    c = config.parse_args([third])
    assert (c.lr, c.seed, c.tau) == (1e-3, 2, 5.0)  # of the first, the second, the third
    assert (c.teachers, c.baseline) == ([], "b")
    assert c.warmup == config.Config().warmup  # of none
    assert c.name == "third"

    c = config.parse_args([third, "--seed=6", "--lr=7e-3"])
    assert (c.lr, c.seed, c.tau) == (7e-3, 6, 5.0)


def test_a_name_is_not_inherited(file):
    file("name = 'mine'\nlr = 1e-3", "first.py")
    second = file('base = "first"', "second.py")
    assert config.parse_args([second]).name == "second"
    assert config.parse_args([file('base = "second"\nname = "x"', "third.py")]).name == "x"
    assert config.parse_args([second, "--name=y"]).name == "y"


def test_a_resolved_config_has_no_base(file):
    """What a run writes as its config.json has every key and can be read without the base."""
    file("lr = 1e-3", "first.py")
    c = config.parse_args([file('base = "first"\nseed = 2', "second.py")])
    keys = dataclasses.asdict(c)
    assert keys.keys() == config.KEYS.keys() and "base" not in config.KEYS
    again = config.parse_args([file(json.dumps(keys), "elsewhere/config.json")])
    assert dataclasses.asdict(again) == keys


def test_a_base_is_looked_for_beside_the_file_and_then_in_configs(file):
    path = file('base = "rkl_demo"\nlr = 3e-3', "mine/some.py")
    c = config.parse_args([path])
    assert (c.lr, c.d_model, c.teachers) == (3e-3, 24, ["llama_demo"])

    file("d_model = 48", "mine/rkl_demo.py")
    c = config.parse_args([path])
    assert (c.lr, c.d_model, c.teachers) == (3e-3, 48, [])


def test_a_loop_of_bases_is_refused(file):
    a = file('base = "b"', "a.py")
    b = file('base = "a"', "b.py")
    refused([a], "b.py", "a builds on b builds on a", "a loop")
    refused([b], "a.py", "b builds on a builds on b", "a loop")
    refused([file('base = "a"', "outside.py")], "b.py", "a builds on b builds on a")
    refused([file('base = "self"', "self.py")], "self builds on self", "a loop")


@pytest.mark.parametrize("text, words", [
    ('base = "nowhere"', ["base = 'nowhere'", "the name of a config", "configs"]),
    ("base = 3", ["base = 3", "the name of a config"]),
    ('base = ["first"]', ["base = ['first']", "the name of a config"]),
    ('base = ""', ["base = ''", "the name of a config"]),
    ('base = "configs/first"', ["the name of a config, without folder"]),
    ("base = first", ["line 1", "base must be a literal"]),
])
def test_bad_bases(file, text, words):
    file("lr = 1e-3", "first.py")
    refused([file(text)], "some.py", *words)


def test_what_is_wrong_in_a_base_is_said_of_its_file(file):
    first = file("lrr = 1e-3", "first.py")
    second = file('base = "first"', "second.py")
    refused([second], first, "unknown key 'lrr'", "'lr'")
    refused([second, "--base=first"], "unknown key 'base'")


# ---------------------------------------------------------------- schedules

def test_schedules():
    linear, stages = "linear(0: 1, 0.7: 0)", "stages(0.2: 32, 0.5: 128)"
    assert [value_at(linear, x) for x in (0, 0.35, 0.7, 1)] == [1, 0.5, 0, 0]
    assert [value_at(stages, x) for x in (0, 0.2, 0.49, 0.5, 1)] == [32, 32, 32, 128, 128]
    assert value_at(3, 0.5) == 3.0 and value_at("linear(0.5: 2)", 0) == 2
    assert value_at("linear(0: 1, 0.5: 3, 1: -1)", 0.75) == 1


def test_a_config_at_a_moment_has_numbers_for_schedules(file):
    path = file("tau = 'linear(0: 2, 0.5: 1)'\nblock_size = 'stages(0: 8, 0.5: 32)'\nalpha = 0.25")
    c = config.parse_args([path])
    now = c.at(0.25)
    assert (now.tau, now.block_size, now.alpha, now.progress) == (1.5, 8, 0.25, 0.25)
    assert now.longest_block == 32 and isinstance(now.block_size, int)
    assert c.at(0.5).block_size == 32 and c.tau == "linear(0: 2, 0.5: 1)"


@pytest.mark.parametrize("text", [
    "linear()", "linear(0)", "linear(0: 1, 0: 2)", "linear(0.5: 1, 0.2: 2)",
    "linear(0: 1, 2: 0)", "cubic(0: 1)", "linear(0: x)", "1e-3", "linear(0: 1", "linear(0:1:2)",
    "linear(0: nan)",
])
def test_bad_schedules(file, text):
    refused([file(f"lr = {text!r}")], "lr" if "nan" in text else "schedule")


# ---------------------------------------------------------------- the shipped configs

def test_every_shipped_config_is_read_and_says_how_to_launch_it():
    names = [path.stem for path in (ROOT / "configs").glob("*.py")
             if not path.stem.startswith(("ablate_", "record_"))]  # plans
    assert {"rkl_demo", "fkl_demo", "llama_demo", "gpt2_demo", "base_demo", "rkl_nano",
            "rkl_nano_1m", "llama_360m", "gpt2_705m", "base_10m", "rkl_10m", "fkl_10m",
            "rkl_100m"} <= set(names)

    for name in names:
        path = ROOT / "configs" / f"{name}.py"
        c = config.parse_args([str(path)])
        script = "distill.py" if c.teachers else "teacher.py"
        head = path.read_text().split("\n\n")[0]
        assert f"python {script} configs/{name}.py" in head, name

        for other in (*c.teachers, *([c.baseline] if c.baseline else [])):
            made = config.related_config(c, other)  # every run that it needs has a config, and fits
            assert made.corpus == c.corpus and made.vocab_size == c.vocab_size
            assert made.name == other and not made.teachers


# ---------------------------------------------------------------- before torch is imported

@pytest.fixture
def with_torch(tmp_path):
    """A function: a script's command line, and what stands in the place of torch -> its end."""
    def run(argv, torch):
        (tmp_path / "torch.py").write_text(torch)
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        env = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, *argv], env=env, cwd=tmp_path, capture_output=True,
                              text=True)
    return run


@pytest.mark.parametrize("command, wrong", [
    ("distill.py", [f"{ROOT}/configs/rkl_demo.py", "--lrr=1"]), ("teacher.py", ["--lr"]),
    ("eval.py", ["run", "--lrr=1"]), ("tools.modes", []), ("tools.report", []),
    ("tools.hf", ["send", "a", "b"]), ("tools.bench", ["nothing"])])
def test_help_and_refusals_do_not_wait_for_torch(with_torch, command, wrong):
    script = ["-m", command] if command.startswith("tools") else [ROOT / command]
    helped = with_torch([*script, "--help"], "raise ImportError")
    assert helped.returncode == 0 and not helped.stderr, helped.stderr
    assert f"python {'-m ' * (len(script) > 1)}{command}" in helped.stdout
    refused = with_torch([*script, *wrong], "raise ImportError")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1


def test_an_output_that_nobody_reads_is_no_traceback():
    """`python distill.py --help | head -1`: the pipe is closed while there is more to write."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, ROOT / "distill.py", "--help"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 128 + signal.SIGPIPE and ended.stderr == ""


def test_a_signal_while_torch_is_imported_is_no_traceback(with_torch):
    # SIGTERM, for a suite in the background has Ctrl-C ignored by its shell
    import_torch = "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(5)"
    ended = with_torch([ROOT / "distill.py", f"{ROOT}/configs/rkl_demo.py"], import_torch)
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == "interrupted by SIGTERM\n"


def test_a_tilde_in_any_option_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    parser = config.Arguments("some.py", "usage")
    parser.add_argument("run", type=config.run_folder)
    parser.add_argument("--data")
    parser.add_argument("--prompt")
    args = parser.parse_args(["~/out/b", "--data=~/c~d", "--prompt=a ~/b"])
    assert vars(args) == {"run": config.pathlib.Path("/home/a/out/b"), "data": "/home/a/c~d",
                          "prompt": "a ~/b"}
    assert parser.parse_args(["x", "--data", "~"]).data == "/home/a"
