import copy
import os
import pathlib

import pytest
import torch

import babytalk
import distill
import eval
from onecoach import config, files, run
from runs import TINY, trained

torch.set_num_threads(1)  # in models as small as these a second thread only waits


def babylm_folder():
    """Where BabyLM text and benchmarks are: $BABYLM_DIR, by default ../shared beside the checkout.

    None where they are not.
    """
    root = pathlib.Path(__file__).parent.parent
    folder = pathlib.Path(os.environ.get("BABYLM_DIR", root / "../shared"))
    return folder if (folder / "data/babylm_10m").is_dir() else None


@pytest.fixture
def babylm():
    """Folder with real BabyLM text and benchmarks."""
    folder = babylm_folder()
    if not folder:
        pytest.skip("no BabyLM text; set BABYLM_DIR")
    return folder


@pytest.fixture
def make_config(tmp_path):
    """A Config of the given keys; everything it leaves lies under tmp_path."""
    def make(**keys):
        file = tmp_path / "some.py"
        file.write_text("")
        keys = {"out_dir": str(tmp_path / "out"), "data_dir": str(tmp_path / "out/data"),
                "device": "cpu", **keys}
        return config.read_config(file, list(keys.items()))
    return make


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory):
    """A folder with llama_demo, base_demo, fkl_demo and rkl_demo of a few steps each."""
    folder = tmp_path_factory.mktemp("demo") / "runs"
    keys = dict(out_dir=str(folder), data_dir=str(folder / "data"), sentences=300, max_steps=8,
                n_layer=1, d_model=8, d_ff=16, batch_size=4, block_size=16, val_every=4,
                log_every=4, val_tokens=500, eval_tokens=0, device="cpu", dtype="float32")
    for name, more in (("llama_demo", dict(n_head=2)), ("base_demo", {}), ("fkl_demo", {}),
                       ("rkl_demo", dict(reduction="step"))):
        path = config.CONFIGS / f"{name}.py"
        distill.train(config.read_config(path, [*{**keys, **more}.items()]))
    return folder


# ---------------------------------------------------------------- tiny runs

@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepared data of all tests here: what has been prepared once is not prepared again."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write configs/NAME.py of the given keys where the program looks for missing runs' configs.

    Returns the file's path.
    """
    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.setattr(config, "CONFIGS", folder)

    def write(name, **keys):
        path = folder / f"{name}.py"
        path.write_text("".join(f"{k} = {v!r}\n" for k, v in keys.items()))
        return str(path)
    return write


@pytest.fixture
def tiny(write, tmp_path, data_dir):
    """The Config of a tiny run `name`: TINY's keys and those given.

    Its file can be found by runs that need it.
    """
    def tiny(name="some", **keys):
        keys = {"out_dir": str(tmp_path / "out"), "data_dir": str(data_dir), **TINY, **keys}
        return config.read_config(write(name, **keys))
    return tiny


@pytest.fixture
def evaluated(request, monkeypatch):
    """Names of the runs that were evaluated.

    The evaluation itself (seconds, and tested elsewhere) is left out.
    """
    names = []

    def evaluate(folder, **_):
        names.append(folder.name)
        files.write_json(folder / "eval.json", {"babytalk": {}, "ppl": {}, "sample": {}})
    if "real_evaluation" not in request.fixturenames:
        monkeypatch.setattr(eval, "evaluate", evaluate)
        monkeypatch.setattr(babytalk, "check_babytalk", lambda *_: None)
    return names


@pytest.fixture
def real_evaluation(monkeypatch):
    monkeypatch.setattr(eval, "LINES", 20)


@pytest.fixture
def command(monkeypatch, capsys):
    """Call a main as from the command line: (exit code, stdout, stderr)."""
    def command(main, *argv):
        monkeypatch.setattr("sys.argv", ["program.py", *map(str, argv)])
        code = 0
        capsys.readouterr()
        try:
            config.run_main(main)
        except SystemExit as e:
            code = e.code
        return code, *capsys.readouterr()
    return command


@pytest.fixture
def states(monkeypatch):
    """What is saved in ckpt.pt, by step: (run's name, step) -> a copy of the state."""
    kept = {}
    save = files.save_checkpoint

    def keep(path, state):
        if path.name == "ckpt.pt":
            kept[path.parent.name, state["step"]] = copy.deepcopy(state)
        save(path, state)
    monkeypatch.setattr(files, "save_checkpoint", keep)
    return kept


@pytest.fixture
def losses(monkeypatch):
    """Change what training's loss gives: losses(change), change(call number, head, loss) -> loss.

    It returns the calls so far.
    """
    original = distill.distillation_loss

    def install(change=lambda call, W, loss: loss):
        calls = []

        def distillation_loss(h, W, *args, **keys):
            out = original(h, W, *args, **keys)
            if not torch.is_grad_enabled():
                return out  # a validation's
            loss, stats = out if isinstance(out, tuple) else (out, None)
            calls.append(W)
            loss = change(len(calls) - 1, W, loss)
            return loss if stats is None else (loss, stats)
        monkeypatch.setattr(distill, "distillation_loss", distillation_loss)
        return calls
    return install


@pytest.fixture
def unfinished(tiny):
    """A function of further keys: the Config of a run that was stopped after its first step."""
    def unfinished(**keys):
        folder = trained(tiny("some", max_minutes=1e-9, **keys))
        assert (folder / "ckpt.pt").exists() and not run.is_finished(folder)
        return folder
    return unfinished


@pytest.fixture
def clock(monkeypatch, losses):
    """[seconds] of a clock on which each loss takes one."""
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])

    def take_a_second(call, W, loss):
        now[0] += 1
        return loss
    losses(take_a_second)
    return now


@pytest.fixture
def first(tiny):
    """A trained student to start from."""
    tiny("coach")
    tiny("first")
