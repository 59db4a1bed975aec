"""tools.gpu: each step once, in order, within the minutes; its commands are right; a dry walk."""
import json
import shlex
import tarfile

import pytest

import babytalk
import eval
from onecoach.config import parse_args
from tools import gpu
from tools.ablate import __main__ as ablate
from tools.ablate.plan import read_plan
from tools.bench import __main__ as bench

# says that it began; the first time it waits for a signal, and then says that it has saved
RUN = """-c '
import os, signal, sys, time
print("begins", flush=True)
if not os.path.exists("saved"):
    open("weights.pt", "w")
    signal.signal(signal.SIGTERM, lambda *_: (open("saved", "w"), sys.exit(143)))
    time.sleep(60)
'"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call the tool on {step: command}: ([(step, how it ended)], all that it said)."""
    monkeypatch.setattr(gpu, "WORK", tmp_path / "gpu")
    monkeypatch.setattr(gpu, "GRACE", 12)
    for name in ("BABYLM_DIR", "PYTHONPATH"):  # the tool sets them: as before afterwards
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(steps, minutes, *options):
        monkeypatch.setattr(gpu, "STEPS", steps)
        monkeypatch.setattr(gpu, "NEEDS", dict.fromkeys(steps, 0) | {"long": 3})
        gpu.main([str(tmp_path / "home"), f"--minutes={minutes}", *options])
        folder = tmp_path / ("gpu_dry" if options else "gpu")
        state = json.loads((folder / "state.json").read_text())
        return [(name, how) for name, (how, _) in state.items()], capsys.readouterr().out
    return call


def test_a_call_ends_in_time_and_the_next_one_goes_on(call, tmp_path):
    steps = {"long": "-c 'print(0)'", "first": "-c 'print(1)'",  # long needs three minutes
             "broken": "-c 'raise SystemExit(3)'", "run": RUN, "last": "-c 'print(2)'"}
    ended, said = call(steps, 0.3)  # six seconds and the grace
    assert ended == [("first", "done"), ("broken", "failed"), ("run", "stopped")], said
    assert said.count("not begun") == 2 and (tmp_path / "gpu/saved").exists()

    # what is done stays, the run goes on, and what failed comes last
    ended, said = call(steps, 2)
    assert dict(ended) == dict(first="done", broken="failed", run="done", last="done")
    assert said.index("run: ") < said.index("last: ") < said.index("broken: ")
    logs = tmp_path / "gpu/logs"
    assert (logs / "first.log").read_text() == "1\n"
    assert (logs / "run.log").read_text() == "begins\nbegins\n"


@pytest.mark.parametrize("name", gpu.STEPS)
def test_each_command_is_one(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BABYLM_DIR", str(tmp_path / "with space"))
    monkeypatch.setenv("PYTHONPATH", "")
    words = gpu.prepare(tmp_path, dry=False)
    first, second, *rest = shlex.split(gpu.STEPS[name].format(**words))
    if first == "-m":
        if second == "pytest":
            assert (gpu.ROOT / rest[-1]).exists()
        if second == "tools.bench":
            assert bench.read_args(rest).what in name
        if second == "tools.ablate":
            plan = read_plan(ablate.read_args(rest).plan)
            assert plan.seeds == [0] and plan.common["corpus"].startswith(str(tmp_path))
    elif first == "eval.py":
        args = eval.read_args([second, *rest])
        assert f"{args['run'].parent}" == "out" and args["run"].name in gpu.STEPS
        eval.named_tasks(args["tasks"].split(","))
    else:
        config = parse_args([str(gpu.ROOT / second), *rest])
        assert config.name == name and {*config.teachers, config.baseline} - {""} <= {*gpu.STEPS}


def test_a_dry_walk(call, tmp_path):
    """The teacher, the student, its scores, and a table: the commands of the card."""
    for split in ("train", "dev"):
        path = tmp_path / f"data/babylm_10m/{split}/some.{split}"
        path.parent.mkdir(parents=True)
        path.write_text("".join(babytalk.sample(100, split)))
    for name in ("blimp", "supplement"):
        (tmp_path / f"eval/{name}_filtered").mkdir(parents=True)
        pair = dict(sentence_good="a dog", sentence_bad="dog a", UID=name, field="syntax",
                    linguistics_term="order")
        (tmp_path / f"eval/{name}_filtered/{name}.jsonl").write_text(json.dumps(pair) + "\n")

    names = "llama_360m", "base_10m", "rkl_10m", "suite_rkl"
    ended, said = call({name: gpu.STEPS[name] for name in names}, 8, "--dry")
    assert ended == [(name, "done") for name in names], said
    assert said.count("tokens_per_s") == 3
    with tarfile.open(tmp_path / "home/gpu.tar.gz") as tar:
        brought = set(tar.getnames())
    assert {"state.json", "logs/rkl_10m.log", "out/rkl_10m/eval.json",
            "out/llama_360m/metrics.jsonl"} <= brought
    assert not any(name.endswith((".pt", ".bin", "tokenizer.json")) for name in brought)
    assert not [*tmp_path.glob("gpu_dry/out/*/ckpt*.pt")]
    assert (tmp_path / "gpu_dry/out/llama_360m/best.pt").exists()
