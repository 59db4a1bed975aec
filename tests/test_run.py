"""A run's folder: files are whole or not there, checkpoints are data, device and dtype as asked."""
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
import pickle
import subprocess
import sys
import warnings

import pytest
import torch

import data
import onecoach
from onecoach import config, files, run
from runs import TINY, refusal


def one_line(function, *args, words):
    with refusal(*words):
        function(*args)


@pytest.fixture
def folder(make_config):
    """A run's folder with random weights."""
    config = make_config(**TINY)
    tokenizer = data.Tokenizer([])
    config.folder.mkdir(parents=True)
    tokenizer.save(config.folder / "tokenizer.json")
    run.write_config(config, "float32", tokenizer)
    for i, name in enumerate(("best.pt", "ckpt.pt")):
        torch.manual_seed(i)
        lm = run.make_model(config, tokenizer.vocab_size)
        state = {"model": lm.state_dict(), "step": 1, "steps": 2}
        files.save_checkpoint(config.folder / name, state)
    return config.folder


# ---------------------------------------------------------------- files

@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_file_whole(tmp_path, error):
    path = tmp_path / "ckpt.pt"
    path.write_bytes(b"old")
    with pytest.raises(error), files.replacing(path) as f:
        f.write(b"new, but not all of")
        f.flush()
        assert path.read_bytes() == b"old"
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["ckpt.pt"]
    with files.replacing(path) as f:
        f.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["ckpt.pt"]


def add_many(path, name):
    for i in range(30):
        files.add_to_json(path, {f"{name}-{i}": i})


def test_what_several_commands_add_to_a_file_is_all_in_it(tmp_path):
    context = multiprocessing.get_context("fork")
    adders = [context.Process(target=add_many, args=(tmp_path / "eval.json", k)) for k in "abc"]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    assert files.read_json(tmp_path / "eval.json") == {f"{k}-{i}": i for k in "abc"
                                                       for i in range(30)}
    assert os.listdir(tmp_path) == ["eval.json"]


def test_two_may_write_one_file_at_once_and_what_the_killed_leave_goes(tmp_path):
    path = tmp_path / "a.json"
    (tmp_path / ".a.json.0123abcd.tmp").write_bytes(b"hal")
    with files.replacing(path) as one:
        one.write(b"one")
        with files.replacing(path) as two:
            two.write(b"two")
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8_whatever_the_locale_and_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / "config.json").write_bytes("\ufeff{\"corpus\": \"Bücher\"}\n".encode())
    script = ("from onecoach import files\nvalue = files.read_json('config.json')\n"
              "files.write_json('again.json', value | {'nan': float('nan'), 'third': 1 / 3})\n"
              "files.write_text('again.txt', value['corpus'])\n")
    subprocess.run([sys.executable, "-X", "utf8=0", "-c", script], cwd=tmp_path, check=True,
                   env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0",
                        "PYTHONPATH": str(config.CONFIGS.parent)})
    assert files.read_json(tmp_path / "again.json") == {"corpus": "Bücher", "nan": None,
                                                        "third": 1 / 3}
    assert (tmp_path / "again.txt").read_bytes() == "Bücher".encode()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "eval.json").write_bytes(content)
    one_line(files.read_json, tmp_path / "eval.json", words=["eval.json", "damaged"])


def test_a_whole_number_without_end_is_a_float(tmp_path):
    (tmp_path / "eval.json").write_text(f'{{"val_ce": 1{"0" * 400}, "seed": 2147483647}}')
    assert files.read_json(tmp_path / "eval.json") == {"val_ce": math.inf, "seed": 2**31 - 1}


def test_config_json_has_every_key_and_says_what_made_the_run(folder, make_config):
    found = files.read_json(folder / "config.json")
    keys = {k: v for k, v in found.items() if not k.startswith("_")}
    assert keys == dataclasses.asdict(make_config(**TINY))
    assert found["_dtype"] == "float32"
    assert found["_tokenizer"] == data.Tokenizer([]).hash
    assert found["_vocab_size"] == 259
    assert found["_versions"]["torch"] == torch.__version__ and "_commit" in found
    assert found["_versions"]["onecoach"] == onecoach.__version__


def test_a_commit_is_of_this_repository_and_says_whether_the_code_was_edited(tmp_path):
    def git(*words):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *name, *words], cwd=tmp_path, capture_output=True, text=True,
                              check=True).stdout.strip()
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "a.py").write_text("1")
    assert run.git_commit(tmp_path) is None
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    assert run.git_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a.py").write_text("2")
    assert run.git_commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    assert run.git_commit(tmp_path / "unpacked") is None


@pytest.mark.parametrize("damaged", [
    '"val_ce": "low"', '"val_ce": true', '"words": {}', '"loss": NaN', '"per_step": [1, "x"]',
    '"val_ce": [0]', '"words": null', '"tokens": 0.5', '"per_step": null', '"per_step": [[1]]',
    f'"words": 1{"0" * 400}'])
def test_a_line_of_metrics_with_a_value_that_is_no_figure_is_left_out(tmp_path, damaged):
    whole = '{"step": 1, "val_ce": 2.5, "loss": null, "per_step": [0.5, 1]}\n'
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, {damaged}}}\n{whole}')
    assert files.read_metrics(tmp_path / "metrics.jsonl") == [json.loads(whole)]


def test_metrics_drop_what_is_beyond_the_checkpoint_and_what_is_torn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    run.Metrics(path, 0).write(step=1, loss=1 / 3, val_ce=float("nan"), skipped=2)
    assert json.loads(path.read_text()) == {"step": 1, "loss": 0.333333, "val_ce": None,
                                            "skipped": 2}
    run.Metrics(path, 1).write(step=2, loss=2.0)
    run.Metrics(path, 2).write(step=3, loss=3.0)
    with open(path, "a") as f:
        f.write('{"step": 2, "lo')
    run.Metrics(path, 2).write(step=3, loss=4.0)
    left = [(m["step"], m["loss"]) for m in map(json.loads, path.read_text().splitlines())]
    assert left == [(1, 0.333333), (2, 2.0), (3, 4.0)]


# ---------------------------------------------------------------- checkpoints

class Code:
    """Pickled it is a call that leaves a file."""
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("name, which", [("best.pt", "best"), ("ckpt.pt", "last")])
def test_code_in_a_checkpoint_is_refused_and_not_executed(folder, tmp_path, name, which):
    made = tmp_path / "made"
    for write in (lambda f: torch.save({"model": Code(made)}, f),
                  lambda f: pickle.dump({"model": Code(made)}, f)):
        with open(folder / name, "wb") as f:
            write(f)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one_line(lambda: run.load(folder, which=which), words=[name, "safely"])
            assert not made.exists()
            if name == "ckpt.pt":
                one_line(run.is_finished, folder, words=[name, "safely"])
        assert not made.exists()
    pickle.loads(pickle.dumps(Code(made)))
    assert made.exists()  # so it would have shown


def test_a_damaged_checkpoint_is_named(folder):
    whole = (folder / "best.pt").read_bytes()
    half = whole[:len(whole) // 2]
    weight = run.load(folder)[0].embed.weight.detach().numpy().tobytes()[:64]
    place = whole.index(weight)  # torch.load reads a bit that is turned over without a word
    turned = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:]
    for content in (whole[:-1], half, whole[:10], b"", b"not a checkpoint at all", turned):
        (folder / "best.pt").write_bytes(content)
        one_line(run.load, folder, words=["best.pt", "not a checkpoint that can be read safely"])


@pytest.mark.parametrize("state", [[1, 2], {"weights": {}}, {"model": torch.ones(2)}])
def test_another_programs_checkpoint_is_named(folder, state):
    torch.save(state, folder / "best.pt")
    one_line(run.load, folder, words=["best.pt", "not a checkpoint of this program"])


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_are_neither_saved_nor_read(folder, number):
    whole = (folder / "ckpt.pt").read_bytes()
    state = torch.load(folder / "ckpt.pt")
    state["model"]["head.weight"][3, 1] = number
    one_line(files.save_checkpoint, folder / "ckpt.pt", state,
             words=["ckpt.pt is not written", "head.weight is not finite", "a lower lr"])
    assert (folder / "ckpt.pt").read_bytes() == whole and not (folder / "ckpt.prev.pt").exists()
    # of a teacher that was trained before they were refused, or somewhere else
    torch.save(state, folder / "best.pt")
    one_line(run.load, folder, words=["best.pt: head.weight is not finite", "a lower lr"])
    # the checkpoint before is taken in the place of a bad one
    (folder / "ckpt.pt").rename(folder / "ckpt.prev.pt")
    torch.save(state, folder / "ckpt.pt")
    assert files.last_checkpoint(folder)[1].name == "ckpt.prev.pt"


def test_weights_that_do_not_fit_are_named(folder, make_config):
    weights = run.load(folder)[0].state_dict()
    for change, name in (({"norm.weight": torch.ones(17)}, "norm.weight"),
                         ({"more": torch.ones(1)}, "more"), ({"head.weight": 3}, "head.weight")):
        files.save_checkpoint(folder / "best.pt", {"model": {**weights, **change}})
        one_line(run.load, folder, words=["best.pt", f"{name} does not fit"])
    incomplete = {k: v for k, v in weights.items() if k != "embed.weight"}
    files.save_checkpoint(folder / "best.pt", {"model": incomplete})
    one_line(run.load, folder, words=["best.pt", "embed.weight does not fit"])
    gpt2 = run.make_model(make_config(**{**TINY, "arch": "gpt2"}), 259)
    files.save_checkpoint(folder / "best.pt", {"model": gpt2.state_dict()})
    one_line(run.load, folder, words=["best.pt", "does not fit", "another arch"])


@pytest.mark.parametrize("arch, keys, words", [
    ("llama", dict(d_ff=2**18), "does not fit"), ("gpt2", dict(d_model=2**16), "does not fit"),
    ("gpt2", dict(d_model=2**40), "d_model = 1099511627776: must be"),
    ("gpt2", dict(block_size=2**18), "does not fit"),
    ("llama", dict(block_size=10**11), "block_size = 100000000000: must be"),
    ("llama", dict(n_layer=10**9), "n_layer = 1000000000: must be")])
def test_sizes_in_a_strangers_config_take_no_memory(folder, make_config, arch, keys, words):
    stored = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", {**stored, "arch": arch, **keys})
    one_line(run.load, folder, words=[words])


def test_load_gives_a_model_to_evaluate(folder):
    for which, file in (("best", "best.pt"), ("last", "ckpt.pt")):
        lm, tokenizer, config = run.load(folder, which=which)
        saved = torch.load(folder / file)["model"]
        assert not any(m.training for m in lm.modules())
        assert all(torch.equal(w, saved[k]) for k, w in lm.state_dict().items())
        assert tokenizer.vocab_size == 259 and (config.name, config.d_model) == ("some", 16)
    assert not torch.equal(run.load(folder)[0].embed.weight, lm.embed.weight)


def test_what_is_no_run_is_named(folder):
    one_line(run.load, folder.parent / "other",
             words=["other is not a run", "distill.py or teacher.py"])
    (folder / "best.pt").unlink()
    one_line(run.load, folder, words=["no weights 'best'", "--which=last"])
    assert run.load(folder, which="last")
    (folder / "ckpt.pt").rename(folder / "best.pt")
    one_line(run.load, folder, "cpu", "last", words=["no weights 'last'", "--which=best"])
    (folder / "best.pt").rename(folder / "other.pt")
    one_line(run.load, folder, words=["no weights 'best'; train it first"])
    (folder / "other.pt").rename(folder / "ckpt.pt")
    assert not run.is_finished(folder)
    assert not run.is_finished(folder.parent)
    state = files.load_checkpoint(folder / "ckpt.pt")
    files.save_checkpoint(folder / "ckpt.pt", {**state, "step": 2})
    assert not run.is_finished(folder)  # its last step is not yet validated
    run.Metrics(folder / "metrics.jsonl", 2).write(step=2, val_ce=1.0)
    assert run.is_finished(folder)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_weights_fit_where_the_sizes_agree(make_config, arch):
    """And where they do not the shapes are others, or what is made of them."""
    changes = [dict(n_layer=2), dict(d_model=32), dict(d_ff=16), dict(block_size=8),
               dict(dropout=0.5), dict(norm_eps=1e-3), dict(block_size="stages(0: 8, 0.5: 16)")]
    if arch == "llama":
        changes += [dict(n_kv_head=1), dict(n_kv_head=2), dict(attn_bias=True), dict(mlp_bias=True),
                    dict(rope_theta=99.0), dict(rope_scaling=[8, 1, 4, 8192])]

    def shapes(config):
        return {name: w.shape for name, w in run.make_model(config, 259).state_dict().items()}
    own = make_config(**TINY, arch=arch)
    for change in changes:
        other = make_config(**TINY | {"arch": arch} | change)
        equal = run.shape_keys(other) == run.shape_keys(own)
        assert equal == (shapes(other) == shapes(own)), change
    for change in (dict(n_head=1), *([dict(tie=True)] if arch == "llama" else [])):
        other = make_config(**TINY | {"arch": arch} | change)
        assert run.shape_keys(other) != run.shape_keys(own) and shapes(other) == shapes(own), change


# ---------------------------------------------------------------- device and dtype

def test_devices(make_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert run.choose_device(make_config(device="auto")).type == "mps"
    assert run.choose_device(make_config(device="cpu")).type == "cpu"
    one_line(run.choose_device, make_config(device="cuda"),
             words=["device = 'cuda'", "--device=auto"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert run.choose_device(make_config(device="auto")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run.choose_device(make_config(device="auto")).type == "cuda"


@pytest.mark.parametrize("avx, amx", [(False, False), (True, False), (False, True)])
def test_auto_dtype_asks_the_processor(make_config, monkeypatch, avx, amx):
    expected = "bfloat16" if avx or amx else "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert run.choose_dtype(make_config(dtype="auto"), torch.device("cpu")) == expected
    assert run.choose_dtype(make_config(dtype="auto"), torch.device("mps")) == "float32"
    assert run.choose_dtype(make_config(dtype="float16"), torch.device("cpu")) == "float16"
    with run.autocast(expected, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == run.DTYPES[expected]


def test_a_full_disk_under_a_checkpoint_or_the_metrics_is_one_line(folder, monkeypatch):
    before = (folder / "ckpt.pt").read_bytes()
    opened = open
    monkeypatch.setattr("builtins.open", lambda path, mode="r", **k: opened(
        "/dev/full" if mode != "r" and str(path).endswith((".tmp", "metrics.jsonl")) else path,
        mode, **k))
    one_line(files.save_checkpoint, folder / "ckpt.pt", {"model": {"w": torch.ones(10**6)}},
             words=["ckpt.pt could not be written: No space"])
    metrics = object.__new__(run.Metrics)
    metrics.path = folder / "metrics.jsonl"
    one_line(lambda: metrics.write(step=1), words=["metrics.jsonl could not be written: No space"])
    assert (folder / "ckpt.pt").read_bytes() == before and not (folder / "ckpt.prev.pt").exists()


def test_usage_is_a_share_of_the_cards_peak_and_nothing_on_a_cpu(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert run.gpu_usage(cuda, 98.9e12) == {"peak_gb": 3.0, "mfu": 0.1}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card of next year")
    assert run.gpu_usage(cuda, 98.9e12) == {"peak_gb": 3.0}
    assert run.gpu_usage(torch.device("cpu"), 1e9) == {}
