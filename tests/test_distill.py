"""The loop: what a run leaves, and its loss against the formula.

Repeating it, going on with it, and what it refuses.
"""
import copy
import json
import math
import os
import signal
import threading

import pytest
import torch
import torch.nn.functional as F

import babytalk
import data
import distill
import eval
import model
import teacher
from bpe import Tokenizer
from losses import can_compile
from onecoach import config, files, run
from onecoach.config import UserError

FILES = {"config.json", "ckpt.pt", "ckpt.prev.pt", "best.pt", "tokenizer.json", "metrics.jsonl",
         "eval.json", "samples.txt", ".lock"}
TINY = dict(device="cpu", dtype="float32", corpus="babytalk", sentences=300, mark="line",
            n_layer=1, n_head=2, d_model=16, d_ff=32, block_size=16, batch_size=4, max_steps=5,
            lr=1e-2, val_tokens=64, log_every=1)
# a learning rate that undoes in the run's second half what was learned
SPOILED_LATE = "linear(0: 0.03, 0.4: 0.03, 0.5: 9)"


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


@pytest.fixture(autouse=True)
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


def trained(config, name=None):
    """Train, and the run's folder."""
    distill.train(config)
    return run.folder_of(config).with_name(name or config.name)


def lines(folder, key="step"):
    """The lines of metrics.jsonl that have `key`."""
    text = (folder / "metrics.jsonl").read_text()
    return [m for m in map(json.loads, text.splitlines()) if key in m]


def without_speed(found):
    return [{k: v for k, v in m.items() if k != "tokens_per_s"} for m in found]


def weights(folder, file="ckpt.pt"):
    return torch.load(folder / file, weights_only=True)["model"]


def same(a, b):
    """True if two nested states hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def refused(config, *words):
    with pytest.raises(UserError) as e:
        distill.train(config)
    assert "\n" not in str(e.value) and all(word in str(e.value) for word in words), str(e.value)


# ---------------------------------------------------------------- from a config to a table

def test_a_student_trains_what_it_needs_and_ends_with_a_table(
        write, tiny, tmp_path, losses, command, real_evaluation):
    own = dict(n_layer=2, d_model=8, n_head=1, d_ff=16, block_size=8, max_steps=3, batch_size=8)
    not_kept = dict(mark="none", sentences=10, seed=5, vocab_size=300, out_dir="elsewhere",
                    dtype="bfloat16")
    write("coach", **own, **not_kept)
    write("alone", **{**TINY, "d_model": 12, "n_head": 1, "max_steps": 4})
    tiny("kid", teachers=["coach"], baseline="alone", seed=1)
    kid = tmp_path / "configs/kid.py"
    calls = losses()
    code, out, err = command(distill.main, kid, "--max_steps=2")
    assert (code, err, len(calls)) == (0, "", 3 + 4 + 2)
    first = [out.index(f"{who} is not there yet: training it first")
             for who in ("teacher coach", "baseline alone")]
    assert first[0] < first[1] < out.index("\nkid: llama")

    assert {p.name for p in (tmp_path / "out").iterdir()} == {"coach", "alone", "kid"}
    found = {p.name: p for p in (tmp_path / "out").iterdir()}
    assert all({p.name for p in folder.iterdir()} == FILES for folder in found.values())
    configs = {name: files.read_json(folder / "config.json") for name, folder in found.items()}
    for name in ("coach", "alone"):
        assert all(configs[name][k] == configs["kid"][k] for k in config.INHERITED)
    assert {k: configs["coach"][k] for k in own} == own and configs["kid"]["max_steps"] == 2
    assert configs["kid"]["_tokenizer"] == configs["coach"]["_tokenizer"]
    assert configs["kid"]["_dtype"] == "float32"
    assert data.load_tokenizer(found["kid"] / "tokenizer.json").hash == configs["kid"]["_tokenizer"]
    of_coach = files.read_json(found["coach"] / "eval.json")
    assert set(of_coach) == {"babytalk", "sample", "val_ce", "verdicts"}

    *_, table, verdicts = out.rstrip().split("\n\n")
    assert "student kid: no sign of instability" in verdicts
    table = table.split("\n")
    steps = [row.split()[-3:] for row in table if row.startswith("steps trained")]
    assert steps == [["3", "4", "2"]]
    assert table[0].split() == ["teacher", "coach", "baseline", "alone", "student", "kid"]
    best = [min(m["val_ce"] for m in lines(found[name], "val_ce"))
            for name in ("coach", "alone", "kid")]
    assert table[-1].split()[-3:] == [f"{x:.4f}" for x in best] and len(table) > 5

    # asked again it does nothing but show the table
    def written():
        return {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")
                if p.is_file() and p.name != ".lock"}
    before = written()
    code, again, err = command(distill.main, kid, "--max_steps=2")
    assert (code, err, len(calls)) == (0, "", 9)
    assert "kid is finished (2 steps); --resume=no" in again
    assert "\n".join(table) + "\n\n" + verdicts in again
    assert before == written()

    # resume = no trains the student anew, and nothing else; the evaluation of the earlier one is
    # not shown for it
    (found["kid"] / "eval.json").write_text("{}")
    code, out, err = command(distill.main, kid, "--max_steps=3", "--resume=no")
    assert (code, err, len(calls)) == (0, "", 12) and "from step" not in out
    assert [m["step"] for m in lines(found["kid"])] == [0, 1, 2, 3, 3]
    assert "babytalk" in files.read_json(found["kid"] / "eval.json")
    assert all(p.stat().st_mtime_ns == before[p] for p in before if p.parent != found["kid"])


def test_a_run_that_was_stopped_before_its_evaluation_is_evaluated_when_asked_again(
        tiny, evaluated, losses):
    folder = trained(tiny("some"))
    (folder / "eval.json").unlink()
    calls = losses()
    distill.train(tiny("some"))
    assert evaluated == ["some", "some"] and not calls and (folder / "eval.json").exists()


def test_a_tiny_corpus_is_learned_by_heart(tiny):
    folder = trained(tiny("some", sentences=20, random_offset=False, max_steps=80, lr=3e-2,
                          log_every=20))
    loss = [m["loss"] for m in lines(folder, "loss")]
    assert loss == sorted(loss, reverse=True) and loss[-1] < 0.3 * loss[0]


@pytest.mark.parametrize("divergence", ["fkl", "rkl"])
def test_a_student_comes_to_agree_with_its_teacher(tiny, divergence):
    tiny("coach", d_model=24, max_steps=60, lr=3e-2)
    keys = dict(teachers=["coach"], alpha=0.0, tau=1.0, divergence=divergence)
    found = lines(trained(tiny("kid", **keys, max_steps=60, lr=3e-2)), "val_ce")
    assert all(found[1][key] < 0.2 * found[0][key] for key in ("val_fkl", "val_rkl"))
    assert found[0]["val_fkl"] > 0.5


def test_the_truth_has_all_that_a_teacher_is_asked_for():
    assert all(hasattr(babytalk.Truth, name) for name in vars(distill.Teacher))


# ---------------------------------------------------------------- metrics.jsonl

def test_metrics_have_the_promised_keys_at_the_promised_steps(tiny):
    tiny("coach")
    folder = trained(tiny("kid", teachers=["coach"], max_steps=7, log_every=3, val_every=4))
    logged, validated = lines(folder, "loss"), lines(folder, "val_ce")
    assert [m["step"] for m in logged] == [3, 6, 7] and [m["step"] for m in validated] == [0, 4, 7]

    line = {"step", "tokens", "words", "loss", "ce", "divergence", "lr", "grad_norm", "clipped",
            "entropy_q", "entropy_p", "tokens_per_s"}
    assert all(set(m) == line for m in logged)
    assert all(set(m) == {"step", "tokens", "val_ce", "val_ppl", "val_bpb", "val_fkl", "val_rkl"}
               for m in validated)
    assert set(lines(folder.with_name("coach"), "loss")[0]) == line - {
        "divergence", "entropy_q", "entropy_p"}
    assert set(lines(folder.with_name("coach"), "val_ce")[0]) == {
        "step", "tokens", "val_ce", "val_ppl", "val_bpb"}
    train = data.prepare(tiny("kid")).train
    assert logged[-1]["tokens"] == 7 * 4 * 16
    assert logged[-1]["words"] == round(7 * 4 * 16 * train.words / train.count)


def test_logged_figures_are_means_over_the_steps_since_the_last_line(tiny):
    every, third = (
        lines(trained(tiny(f"log{n}", log_every=n, max_steps=6, grad_clip=0.9)), "loss")
        for n in (1, 3))
    # or the share of clipped steps could not be told
    assert {m["grad_norm"] > 0.9 for m in every} == {True, False}
    for key in ("loss", "grad_norm", "clipped"):
        means = [sum(m[key] for m in every[i:i + 3]) / 3 for i in (0, 3)]
        assert [m[key] for m in third] == pytest.approx(means, rel=1e-5), key
    assert [m["clipped"] for m in every] == [float(m["grad_norm"] > 0.9) for m in every]
    assert [m["lr"] for m in third] == [every[2]["lr"], every[5]["lr"]]


def test_validation_does_not_depend_on_the_loss(tiny):
    tiny("coach")
    plain = lines(trained(tiny("a", teachers=["coach"], tau=1.0, alpha=0.0, mix=1.0,
                               divergence="rkl")))
    other = lines(trained(tiny("b", teachers=["coach"], tau=4.0, alpha=0.9, mix=0.3,
                               reduction="sequence", batch_size=3)))
    # of figures the log keeps six digits
    assert plain[0] == pytest.approx(other[0], rel=1e-5) and plain[0]["val_rkl"] > 0
    # while what is trained on is another thing
    assert plain[1]["loss"] != pytest.approx(other[1]["loss"], rel=0.01)


def test_validation_is_the_direct_computation(tiny):
    tiny("coach", n_layer=2, d_model=8, lr=0.1)
    # dropout is for training only
    settings = tiny("kid", teachers=["coach"], lr=0.1, val_tokens=200, dropout=0.3)
    folder = trained(settings)

    prepared = data.prepare(settings)
    x, y = data.validation_blocks(prepared.dev, 16, 200)
    q, p = (log_probs(run.load(f, which=w)[0], x)
            for f, w in ((folder, "last"), (folder.with_name("coach"), "best")))
    valid = y != -100
    found = lines(folder, "val_ce")[-1]
    assert (~valid).any() and len(x) == 12

    ce = F.nll_loss(q[valid], y[valid])
    assert found["val_ce"] == pytest.approx(ce.item(), rel=1e-5)
    assert found["val_ppl"] == pytest.approx(ce.exp().item(), rel=1e-4)
    n_bytes = sum(len(prepared.tokenizer.encoding.decode_single_token_bytes(i))
                  for i in y[valid].tolist())
    bits_per_byte = ce.item() * valid.sum().item() / n_bytes / math.log(2)
    assert found["val_bpb"] == pytest.approx(bits_per_byte, rel=1e-5)
    fkl = (p.exp() * (p - q)).sum(-1)[valid].mean().item()
    assert found["val_fkl"] == pytest.approx(fkl, rel=1e-4)
    rkl = (q.exp() * (q - p)).sum(-1)[valid].mean().item()
    assert found["val_rkl"] == pytest.approx(rkl, rel=1e-4)
    assert found["val_fkl"] != pytest.approx(found["val_rkl"], rel=1e-2)


def test_best_is_the_lowest_val_ce_and_not_the_last(tiny):
    settings = tiny("some", lr=SPOILED_LATE, grad_clip=0.0, max_steps=20, warmup=0, val_every=2)
    folder = trained(settings)
    found = lines(folder, "val_ce")
    best = min(found, key=lambda m: m["val_ce"])
    assert 0 < best["step"] < 20 and found[-1]["val_ce"] > best["val_ce"] + 0.1
    saved = torch.load(folder / "best.pt", weights_only=True)
    assert saved["step"] == best["step"]
    assert saved["val_ce"] == pytest.approx(best["val_ce"], rel=1e-5)
    x, y = data.validation_blocks(data.prepare(settings).dev, 16, 64)
    ce = lambda which: F.nll_loss(
        log_probs(run.load(folder, which=which)[0], x).flatten(0, 1), y.flatten()).item()
    assert ce("best") == pytest.approx(best["val_ce"], rel=1e-5)
    assert ce("last") == pytest.approx(found[-1]["val_ce"], rel=1e-5)


# ---------------------------------------------------------------- the loss is the configured one

@torch.no_grad()
def log_probs(lm, x, tau=1.0):
    return F.log_softmax(lm.logits(lm(x)) / tau, -1)


@pytest.mark.parametrize("teachers, ensemble", [
    (["coach"], "logits"), (["gpt"], "logits"), (["coach", "gpt"], "logits"),
    (["coach", "gpt"], "probs"), (["truth"], "logits"), (["truth", "gpt"], "probs")])
@pytest.mark.parametrize("divergence, reduction",
                         [("rkl", "sequence"), ("fkl", "token"), ("rkl", "step")])
def test_the_loss_is_the_formula_at_the_configured_keys(
        tiny, teachers, ensemble, divergence, reduction):
    tiny("coach", d_model=8, lr=0.1)
    tiny("gpt", arch="gpt2", block_size=32, lr=0.1)
    # fkl's gradient to a mixed target is mix times the plain one: refused
    mix = 0.6 if divergence == "rkl" else 1.0
    keys = dict(divergence=divergence, reduction=reduction, tau=1.7, alpha=0.3, mix=mix,
                step_weights=[1.0, 4.0])
    # lr 0: the weights at the end are those that the loss was taken with
    settings = tiny("kid", teachers=teachers, ensemble=ensemble, **keys, lr=0.0, max_steps=1,
                    seed=3)
    folder = trained(settings)

    prepared = data.prepare(settings)
    x, y = data.Batches(prepared.train, settings).batch(0, settings.at(0.0))
    student = run.load(folder, which="last")[0]
    truth = babytalk.Truth(prepared.tokenizer)

    z_ps = []
    for name in teachers:
        if name == "truth":
            z_p, known = truth.logits(x)
            assert 0 < (~known).sum() < known.numel()  # or that it is left out could not be told
            y = y.masked_fill(~known, -100)
        else:
            z_p = log_probs(run.load(folder.with_name(name))[0], x)
        z_ps.append(z_p)

    q = log_probs(student, x, 1.7)
    if ensemble == "logits":
        p = F.softmax(torch.stack(z_ps).mean(0) / 1.7, -1)
    else:
        p = torch.stack([F.softmax(z / 1.7, -1) for z in z_ps]).mean(0)

    log_p = p.log().clamp_min(-100)
    target = torch.log(mix * log_p.exp() + (1 - mix) * q.exp()).clamp_min(-100)
    terms = q.exp() * (q - target) if divergence == "rkl" else target.exp() * (target - q)
    d = terms.sum(-1) * (y != -100)  # (B, T)
    mean = d.sum() / (y != -100).sum()
    ce = F.nll_loss(log_probs(student, x).flatten(0, 1), y.flatten())
    # step: each time step's own mean, by weights from 1 to 4; without those where nothing is known
    by_step = d.sum(0) / (y != -100).sum(0).clamp_min(1)
    weights = torch.linspace(1, 4, 16) * (y != -100).any(0)
    by_step = (by_step * weights).sum() / weights.sum()
    D = {"token": mean, "sequence": 16 * mean, "step": by_step}[reduction]
    expected = 0.3 * ce + 0.7 * 1.7**2 * D

    found = lines(folder, "loss")[0]
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert found["divergence"] == pytest.approx(mean.item(), rel=1e-3)
    assert found["ce"] == pytest.approx(ce.item(), rel=1e-5)


def test_schedules_follow_the_runs_progress(tiny):
    keys = dict(alpha="stages(0: 1, 0.5: 0)", mix="stages(0: 1, 0.25: 0.5)",
                tau="stages(0: 1, 0.75: 2)")
    folder = trained(tiny("some", teachers=["truth"], max_steps=4, lr=0.0, **keys))
    first, second, third, fourth = lines(folder, "loss")
    assert first["loss"] == pytest.approx(first["ce"])
    assert second["loss"] == pytest.approx(second["ce"])
    assert third["loss"] == pytest.approx(third["divergence"])
    assert fourth["loss"] == pytest.approx(4 * fourth["divergence"])
    # a mixed target softens what the truth forbids
    assert first["divergence"] > 20 > second["divergence"]


def test_a_gpt2_with_fewer_positions_than_the_students_block_is_refused(tiny):
    tiny("gpt", arch="gpt2", block_size=8)
    refused(tiny("kid", teachers=["gpt"]), "gpt", "block_size", "8", "16")


@pytest.mark.parametrize("reduction", ["sequence", "step"])
def test_micro_batches_change_memory_and_not_results(tiny, reduction):
    found = {}
    for n in (1, 2, 4):
        folder = trained(tiny(f"by{n}", teachers=["truth"], grad_accum=n, batch_size=8,
                              reduction=reduction, alpha=0.3, lr=1e-3))
        found[n] = weights(folder), lines(folder, "loss")

    settings = tiny("by4", batch_size=8)
    _, y = data.Batches(data.prepare(settings).train, settings).batch(0, settings.at(0.0))
    # or a mean of means would do as well
    assert len({(piece != -100).sum().item() for piece in y.chunk(4)}) > 1

    for n in (2, 4):
        for name, w in found[1][0].items():
            torch.testing.assert_close(found[n][0][name], w, rtol=0, atol=1e-5,
                                       msg=lambda m: f"{n} pieces, {name}: {m}")
        for key in ("loss", "ce", "divergence", "entropy_q", "entropy_p", "grad_norm"):
            assert [m[key] for m in found[n][1]] == pytest.approx(
                [m[key] for m in found[1][1]], rel=1e-4), (n, key)


def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny, tmp_path):
    runs = [trained(tiny("some", out_dir=str(tmp_path / f"out{i}"), seed=s, dropout=0.1))
            for i, s in enumerate((3, 3, 4))]
    a, b, c = (without_speed(lines(folder)) for folder in runs)
    assert a == b and same(weights(runs[0]), weights(runs[1]))
    assert a[1]["loss"] != c[1]["loss"] and not same(weights(runs[0]), weights(runs[2]))


# ---------------------------------------------------------------- learning rate and optimizer

def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine(tiny):
    settings = tiny(lr=0.5, warmup=10)
    rate = lambda settings, step, steps: distill.learning_rate(
        settings.at(step / steps), step, steps)
    lr = [rate(settings, step, 1000) for step in range(1000)]
    assert lr[:11] == pytest.approx([0.5 * (i + 1) / 11 for i in range(11)])
    assert max(lr) == lr[10] == 0.5
    # half and a third of the way
    assert lr[10 + 495] == pytest.approx(0.25)
    assert lr[10 + 330] == pytest.approx(0.5 * 0.75)
    assert all(a > b for a, b in zip(lr[10:], lr[11:])) and 0 < lr[-1] < 1e-5

    # a warmup longer than the run is shortened to a tenth of it, one that fits stays; a peak may
    # be a schedule, and a run of one step learns something
    assert max(range(50), key=lambda step: rate(settings, step, 50)) == 10
    assert max(range(10), key=lambda step: rate(settings, step, 10)) == 1
    halved = tiny(lr="stages(0: 0.5, 0.5: 0.25)", warmup=10)
    assert [rate(halved, s, 1000) / lr[s] for s in (3, 499, 500, 900)] == pytest.approx(
        [1, 1, 0.5, 0.5])
    assert rate(settings, 0, 1) == 0.5


def test_the_loop_uses_it(tiny):
    settings = tiny("some", lr="linear(0: 1e-2, 1: 1e-3)", warmup=2, max_steps=20)
    logged = [m["lr"] for m in lines(trained(settings), "lr")]
    expected = [distill.learning_rate(settings.at(step / 20), step, 20) for step in range(20)]
    assert logged == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_weight_decay_shrinks_matrices_only(tiny, arch):
    lm = run.model_of(tiny(arch=arch), 50)
    with torch.no_grad():
        for p in lm.parameters():
            p.fill_(2.0)
            p.grad = torch.zeros_like(p)
    optimizer = distill.make_optimizer(lm, tiny(weight_decay=0.1, beta2=0.97))
    for group in optimizer.param_groups:
        group["lr"] = 0.5
        assert group["betas"] == (0.9, 0.97)
    optimizer.step()
    assert {(p.dim(), round(p.mean().item(), 4)) for p in lm.parameters()} == {
        (1, 2.0), (2, 2.0 * (1 - 0.5 * 0.1))}
    grouped = sum(len(group["params"]) for group in optimizer.param_groups)
    assert grouped == len(list(lm.parameters()))


# ---------------------------------------------------------------- steps that are not finite

def spoiled(steps, what):
    """A change of the loss at `steps`: the loss is not finite, its gradient is not, neither is."""
    def change(call, W, loss):
        if call not in steps:
            return loss
        zero = W.sum()
        zero = zero - zero.detach()
        return loss + {"loss": math.inf, "gradient": zero.sqrt(), "both": zero / 0}[what]
    return change


@pytest.mark.parametrize("what", ["loss", "gradient", "both"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tiny, losses, states, what):
    losses(spoiled({3}, what))
    folder = trained(tiny("some", max_steps=6))
    before, at, after = (states["some", step] for step in (3, 4, 5))
    # of the optimizer moments and their count; the learning rate beside them goes on
    for key in ("model", "optimizer"):
        a, b, c = (state[key].get("state", state[key]) for state in (before, at, after))
        assert same(a, b) and not same(b, c)
    assert all(torch.isfinite(w).all() for w in weights(folder).values())
    assert [m.get("skipped") for m in lines(folder, "lr")] == [None, None, None, 1, None, None]
    # there was none
    assert lines(folder, "lr")[3]["loss"] is None
    assert lines(folder, "lr")[3]["grad_norm"] is None


def test_skipped_steps_are_not_in_the_means(tiny, losses):
    whole = lines(trained(tiny("whole", max_steps=2)), "loss")
    losses(spoiled({2, 3}, "gradient"))
    # as many in a row as are allowed
    folder = trained(tiny("some", max_steps=8, warmup=0, log_every=4, max_skipped=2))
    line = lines(folder, "loss")[0]
    assert line["skipped"] == 2 and len(lines(folder, "skipped")) == 1
    assert line["loss"] == pytest.approx(sum(m["loss"] for m in whole) / 2, rel=1e-2)


@pytest.mark.parametrize("bad, log_every, words", [
    (range(4, 99), 1, ["3 steps in a row up to step 7", "from batch 4"]),
    (range(4, 99), 4, ["4 steps in a row up to step 8", "from batch 4"]),
    # over when it is noticed, and yet named
    (range(2, 5), 10, ["3 steps in a row up to step 5", "from batch 2"]),
])
def test_too_many_in_a_row_stop_the_run(tiny, losses, command, tmp_path, bad, log_every, words):
    losses(spoiled(set(bad), "both"))
    tiny("some", max_steps=30, max_skipped=2, log_every=log_every)
    code, out, err = command(distill.main, tmp_path / "configs/some.py")
    folder = tmp_path / "out/some"
    assert code == 2 and err.startswith("error: some: ") and err.count("\n") == 1
    assert all(word in err for word in words), err
    assert f"last good checkpoint {folder / 'ckpt.pt'}" in err, err
    saved = files.load_checkpoint(folder / "ckpt.pt")
    assert 3 <= saved["step"] <= 9 and all(torch.isfinite(w).all() for w in saved["model"].values())
    assert not (folder / "eval.json").exists()


def test_without_a_checkpoint_it_says_so(tiny, losses):
    losses(spoiled(range(99), "both"))
    refused(tiny("some", max_steps=100, max_skipped=2), "3 steps in a row up to step 3",
            "from batch 0", "no checkpoint yet")


# ---------------------------------------------------------------- interrupted, and gone on with

@pytest.mark.parametrize("teachers", [[], ["coach"]])
def test_a_run_that_broke_off_goes_on_to_the_same_bits(
        tiny, tmp_path, losses, monkeypatch, teachers):
    keys = dict(teachers=teachers, max_steps=25, dropout=0.1, val_every=6, lr=SPOILED_LATE,
                grad_clip=0.0, warmup=0)
    tiny("coach")
    whole = trained(tiny("some", **keys))
    tiny("coach")
    settings = tiny("some", **keys, out_dir=str(tmp_path / "again"))

    def fail(call, W, loss):
        # the teacher's steps come first; happens once, calls are counted on
        if call == 17 + 5 * len(teachers):
            raise RuntimeError("the power went off")
        return loss
    calls = losses(fail)
    with pytest.raises(RuntimeError, match="power"):
        distill.train(settings)

    broken = run.folder_of(settings)
    made = len(calls)
    assert files.load_checkpoint(broken / "ckpt.pt")["step"] == 16
    assert lines(broken)[-1]["step"] == 17  # so a line is to be dropped
    with open(broken / "metrics.jsonl", "a") as f:
        f.write('{"step": 18, "los')  # torn off in the middle of a line

    distill.train(settings)
    assert len(calls) - made == 25 - 16
    assert without_speed(lines(broken)) == without_speed(lines(whole))
    assert same(weights(broken), weights(whole))
    assert same(weights(broken, "best.pt"), weights(whole, "best.pt"))
    # so that a best forgotten on the way would show
    assert torch.load(whole / "best.pt")["step"] <= 12
    assert same(files.load_checkpoint(broken / "ckpt.pt")["optimizer"],
                files.load_checkpoint(whole / "ckpt.pt")["optimizer"])


def test_max_minutes_saves_and_stops_and_the_same_command_goes_on(
        tiny, tmp_path, command, evaluated):
    whole = trained(tiny("some", max_steps=3, dropout=0.1))
    settings = tiny("some", max_steps=3, dropout=0.1, out_dir=str(tmp_path / "slow"),
                    max_minutes=1e-9)
    folder = run.folder_of(settings)
    path = tmp_path / "configs/some.py"

    for step in (1, 2):
        code, out, _ = command(distill.main, path)
        assert code == 0
        assert f"max_minutes is over at step {step} of 3; the same command goes on" in out
        assert not run.is_finished(folder) and evaluated == ["some"]

    assert command(distill.main, path)[0] == 0
    assert run.is_finished(folder)
    assert evaluated == ["some"] * 2
    assert without_speed(lines(folder)) == without_speed(lines(whole))
    assert same(weights(folder), weights(whole))


def test_a_signal_in_the_last_validation_ends_the_command_too(tiny, tmp_path, command, monkeypatch):
    tiny("coach", max_steps=2, val_every=10)
    tiny("kid", teachers=["coach"], max_steps=3)
    validate = distill.validate

    def interrupted(student, teachers, data, run):
        if run.step == 2 and run.config.name == "coach":
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(student, teachers, data, run)
    monkeypatch.setattr(distill, "validate", interrupted)
    path = tmp_path / "configs/kid.py"
    code, out, err = command(distill.main, path)
    assert code == 128 + signal.SIGTERM
    assert "coach: interrupted at step 2 of 2; the same command goes on from here" in out + err
    assert run.is_finished(tmp_path / "out/coach") and not (tmp_path / "out/kid/ckpt.pt").exists()
    assert command(distill.main, path)[0] == 0 and run.is_finished(tmp_path / "out/kid")


@pytest.mark.parametrize("keys, arguments", [({}, ["--resume=no"]), (dict(resume="no"), [])])
def test_a_run_begun_anew_says_how_to_go_on(tiny, tmp_path, command, keys, arguments):
    """With resume = no the same command would begin anew again."""
    tiny("some", max_steps=3, **keys)
    path = tmp_path / "configs/some.py"
    _, out, _ = command(distill.main, path, *arguments, "--max_minutes=1e-9")
    assert out.endswith("at step 1 of 3; the same command with --resume=auto goes on from here\n")
    assert "at step 2 of 3" in command(distill.main, path, "--max_minutes=1e-9", "--resume=auto")[1]


def test_results_belong_to_the_weights_that_they_are_of(tiny, monkeypatch, unfinished):
    """Those of a checkpoint by words stay while the run goes on; a run begun anew has none."""
    monkeypatch.setattr(eval, "evaluate", lambda folder, **_: files.add_to_json(
        folder / "eval.json", {"babytalk": {}, "ppl": {}, "sample": {}}))
    folder = unfinished()
    old = {"blimp": {"n": 1}, "blimp --which=last": {"n": 2}, "blimp --which=chck_1M": {"n": 3},
           "verdicts": []}
    files.write_json(folder / "eval.json", old)
    others = {"modes.json", "report.md", "report.html", "report-some-other.html"}
    for name in others:
        (folder / name).write_text("{}")
    trained(tiny("some"))
    assert not others & set(os.listdir(folder))
    results = files.read_json(folder / "eval.json")
    assert results["blimp --which=chck_1M"] == {"n": 3}
    assert not {"blimp", "blimp --which=last"} & set(results)

    for name in others:
        (folder / name).write_text("{}")
    trained(tiny("some", resume="no"))
    assert "blimp --which=chck_1M" not in files.read_json(folder / "eval.json")
    assert not others & set(os.listdir(folder))


def test_a_restart_by_torchrun_goes_on_whatever_resume_says(tiny, unfinished, monkeypatch, losses):
    unfinished()
    monkeypatch.setattr(run, "RESTARTS", 1)
    calls = losses()
    trained(tiny("some", resume="no"))
    assert len(calls) == 5 - 1
    monkeypatch.setattr(run, "LAUNCH", "another")  # that of another command does not
    trained(tiny("some", resume="no"))
    assert len(calls) == 5 - 1 + 5


def test_a_teacher_that_broke_off_is_gone_on_with_though_the_student_begins_anew(
        tiny, command, tmp_path):
    tiny("coach", resume="no", max_steps=3)
    tiny("kid", teachers=["coach"], max_steps=1)
    argv = [str(tmp_path / "configs/kid.py"), "--resume=no", "--max_minutes=1e-9"]
    for step in (1, 2):
        _, out, _ = command(distill.main, *argv)
        assert out.endswith(f"coach: max_minutes is over at step {step} of 3; the same command "
                            "goes on from here\n")


def test_checkpoints_come_at_least_every_tenth_of_the_run(tiny, states):
    folder = trained(tiny("some", max_steps=25, val_every=10**6, log_every=10**6))
    steps = [0, *(step for _, step in states)]
    assert steps[-1] == 25 and max(b - a for a, b in zip(steps, steps[1:])) <= 2.5
    assert [m["step"] for m in lines(folder, "val_ce")] == [0, 25]


@pytest.fixture
def unfinished(tiny):
    """A function of further keys: the Config of a run that was stopped after its first step."""
    def unfinished(**keys):
        folder = trained(tiny("some", max_minutes=1e-9, **keys))
        assert (folder / "ckpt.pt").exists() and not run.is_finished(folder)
        return folder
    return unfinished


def test_going_on_with_other_settings_is_refused_and_names_them(tiny, unfinished):
    folder = unfinished()
    before = {p: p.read_bytes() for p in folder.iterdir()}
    refused(tiny("some", lr=2e-2, tau=3.0), str(folder), "other settings",
            "lr = 0.01 there, 0.02 here", "tau = 2.0 there, 3.0 here", "--resume=no")
    refused(tiny("some", seed=1), "seed = 0 there, 1 here")
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    distill.train(tiny("some", max_minutes=5.0))  # how long to work is not what is learned
    assert run.is_finished(folder)
    refused(tiny("some", lr=2e-2), "lr = 0.01 there, 0.02 here")  # of a finished run too


def test_a_run_whose_folder_was_moved_and_renamed_goes_on(tiny, unfinished, losses, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    unfinished().rename(tmp_path / "elsewhere/other")
    calls = losses()
    folder = trained(tiny("other", out_dir=str(tmp_path / "elsewhere")))
    assert run.is_finished(folder) and len(calls) == 5 - 1
    assert files.read_json(folder / "config.json")["name"] == "other"


def test_a_log_on_a_full_disk_saves_the_run_first(tiny, monkeypatch):
    whole = trained(tiny("whole", max_steps=30, val_every=100))
    settings = tiny("some", max_steps=30, val_every=100)
    write = run.Metrics.write

    def full(self, **values):
        if values["step"] == 8:
            raise UserError("metrics.jsonl could not be written: No space left on device")
        write(self, **values)
    with monkeypatch.context() as patch:
        patch.setattr(run.Metrics, "write", full)
        refused(settings, "metrics.jsonl", "No space left")
    folder = run.folder_of(settings)
    assert files.load_checkpoint(folder / "ckpt.pt")["step"] == 8  # by itself it saves every third
    assert same(weights(trained(settings)), weights(whole))


def test_a_teacher_of_shorter_blocks_is_named(tiny, capsys):
    tiny("coach", block_size=8)
    said = "teacher coach was trained on blocks of 8 tokens, and teaches blocks of 16"
    trained(tiny("kid", teachers=["coach"], max_steps=1))
    assert capsys.readouterr().out.count(said) == 1
    trained(tiny("other", teachers=["coach"], max_steps=1, block_size=8))
    assert said not in capsys.readouterr().out


def test_a_run_from_before_a_key_had_its_default(tiny, unfinished):
    folder = unfinished()
    config = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", {k: v for k, v in config.items() if k != "ensemble"})
    refused(tiny("some", ensemble="probs"), "ensemble = 'logits' there, 'probs' here")
    assert run.is_finished(trained(tiny("some")))


def test_going_on_with_another_text_is_refused(tiny, unfinished, tmp_path):
    for name in ("a", "b"):
        text = "".join(f"the cat of {name} sees {i} dogs.\n" for i in range(3000))
        (tmp_path / f"{name}.txt").write_text(text)
    keys = dict(vocab_size=300, mark="half")
    folder = unfinished(corpus=str(tmp_path / "a.txt"), **keys)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    refused(tiny("some", corpus=str(tmp_path / "b.txt"), **keys), str(folder), "corpus",
            "--resume=no")
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.txt").rename(tmp_path / "moved/a.txt")  # where it lies does not matter
    assert run.is_finished(trained(tiny("some", corpus=str(tmp_path / "moved/a.txt"), **keys)))


def test_going_on_with_another_tokenizer_is_refused(tiny, unfinished, tmp_path):
    text = "".join(f"the cat sees {i} dogs.\n" for i in range(3000))
    (tmp_path / "a.txt").write_text(text)
    Tokenizer([(b"t", b"h"), (b"d", b"o")]).save(tmp_path / "other.json")  # as many tokens
    keys = dict(corpus=str(tmp_path / "a.txt"), vocab_size=261, mark="half")
    folder = unfinished(**keys)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    other = dict(tokenizer=str(tmp_path / "other.json"), **keys)
    refused(tiny("some", **other), str(folder), "another tokenizer", f"--tokenizer={folder}")
    tiny("some", **keys)
    refused(tiny("kid", teachers=["some"], **other), "teacher some: ", "another tokenizer",
            "; its own command is python distill.py ", "configs/some.py")
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    assert run.is_finished(trained(tiny("some", **{**other, "tokenizer": str(folder)})))


def test_a_best_that_was_taken_away_is_followed_by_the_next(tiny, losses):
    settings = tiny("some", lr=SPOILED_LATE, grad_clip=0.0, warmup=0, max_steps=20, val_every=4)

    def fail(call, W, loss):
        if call == 15:  # once
            raise RuntimeError("the power went off")
        return loss
    losses(fail)
    with pytest.raises(RuntimeError, match="power"):
        distill.train(settings)
    folder = run.folder_of(settings)
    (folder / "best.pt").unlink()
    distill.train(settings)
    ce = {m["step"]: m["val_ce"] for m in lines(folder, "val_ce")}
    assert min(ce, key=ce.get) < 15  # its best is gone
    assert files.load_checkpoint(folder / "best.pt")["step"] == min([16, 20], key=ce.get)


def test_a_checkpoint_that_cannot_be_gone_on_with_is_named(tiny, unfinished):
    folder = unfinished()
    state = files.load_checkpoint(folder / "ckpt.pt")
    torch.save({"model": state["model"], "step": 1, "steps": 5}, folder / "ckpt.pt")
    refused(tiny("some"), str(folder / "ckpt.pt"), "--resume=no")
    (folder / "ckpt.pt").write_bytes(b"PK\x03\x04 cut short")
    refused(tiny("some"), str(folder / "ckpt.pt"), "not a checkpoint")
    other = {"model": {"embed.weight": torch.zeros(2, 2)}, "optimizer": {}, "random": {}}
    state = {**other, "step": 1, "steps": 5, "minutes": 0.0}
    torch.save(state, folder / "ckpt.pt")
    refused(tiny("some"), "ckpt.pt", "embed.weight")
    assert run.is_finished(trained(tiny("some", resume="no")))


# ---------------------------------------------------------------- dtype

@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_learns_the_same(tiny, dtype):
    low, full = (trained(tiny(name, dtype=name, max_steps=8, teachers=["truth"], alpha=0.5))
                 for name in (dtype, "float32"))
    assert files.read_json(low / "config.json")["_dtype"] == dtype
    # the weights themselves stay what they were
    assert all(w.dtype == torch.float32 for w in weights(low).values())
    for key in ("loss", "grad_norm"):
        a, b = ([m[key] for m in lines(f, "loss")] for f in (low, full))
        assert a == pytest.approx(b, rel=0.05) and a != pytest.approx(b, rel=1e-7), key
    assert lines(low, "loss")[-1]["ce"] < lines(low, "loss")[0]["ce"] and not lines(low, "skipped")


def test_a_run_keeps_the_dtype_it_was_begun_with(tiny, unfinished, monkeypatch, capsys):
    monkeypatch.setattr(run, "dtype_of", lambda config, device: "bfloat16")
    folder = unfinished(dtype="auto")
    monkeypatch.setattr(run, "dtype_of", lambda config, device: "float32")  # another processor
    trained(tiny("some", dtype="auto"))
    config = files.read_json(folder / "config.json")
    assert config["_dtype"] == "bfloat16" and config["dtype"] == "auto"
    assert "bfloat16 on cpu, loss eager, from step 1" in capsys.readouterr().out
    trained(tiny("some", dtype="auto", resume="no"))
    assert files.read_json(folder / "config.json")["_dtype"] == "float32"


# ---------------------------------------------------------------- the runs a run needs

def test_init_is_where_the_weights_start(tiny, capsys):
    tiny("first", lr=0.05)
    folder = trained(tiny("second", init="first", lr=0.0, max_steps=1))
    assert "init first is not there yet" in capsys.readouterr().out
    first = folder.with_name("first")
    assert same(weights(folder), weights(first, "best.pt"))
    assert lines(folder, "val_ce")[0]["val_ce"] == pytest.approx(
        min(m["val_ce"] for m in lines(first, "val_ce")), rel=1e-5)
    refused(tiny("third", init="first", d_model=32), "init first does not fit the model of third",
            "d_model = 16 there, 32 here", str(first / "config.json"))
    state = files.load_checkpoint(first / "best.pt")
    state["model"]["norm.weight"] = torch.ones(17)
    files.save_checkpoint(first / "best.pt", state)
    refused(tiny("third", init="first"), str(first / "best.pt"),
            "norm.weight does not fit the model of third; set n_layer", str(first / "config.json"))
    assert not folder.with_name("third").exists()


@pytest.mark.parametrize("role", ["teacher", "init", "baseline"])
@pytest.mark.parametrize("keys, words", [
    (dict(seed=1), ["seed = 1 there, 0 here"]),
    (dict(mark="none"), ["mark = 'none' there, 'line' here"]),
    (dict(sentences=400), ["its text is another (corpus = 'babytalk' there"]),
    (dict(sentences=400, seed=2), ["its text is another", "seed = 2 there"]),
    (dict(vocab_size=300), ["its tokenizer is another"]),
])
def test_a_run_found_that_does_not_agree_is_refused(tiny, role, keys, words, evaluated):
    folder = trained(tiny("found", **keys))
    before = {p: p.read_bytes() for p in folder.iterdir()}
    refused(tiny("kid", **{"teacher": dict(teachers=["found"])}.get(role, {role: "found"})),
            f"{role} {folder} does not agree", *words, "--out_dir")
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    assert {p.name for p in folder.parent.iterdir()} == {"found"}


def test_a_run_found_of_another_corpus_is_refused(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"the cat sees {i} dogs.\n" for i in range(3000)))
    trained(tiny("found", corpus=str(tmp_path / "a.txt"), vocab_size=300))
    there = f"corpus = '{tmp_path / 'a.txt'}' there, 'babytalk' here"
    refused(tiny("kid", teachers=["found"]), "teacher", "found", there, "its tokenizer is another")


def test_a_teacher_that_broke_off_is_gone_on_with(tiny, losses, capsys):
    folder = trained(tiny("coach", max_steps=4, max_minutes=1e-9))
    calls = losses()
    tiny("coach", max_steps=4)
    trained(tiny("kid", teachers=["coach"], max_steps=2))
    assert len(calls) == 3 + 2
    assert "float32 on cpu, loss eager, from step 1" in capsys.readouterr().out
    assert run.is_finished(folder)


def test_of_an_archived_run_the_table_shows_what_is_known(tiny, capsys):
    tiny("first")
    folder = trained(tiny("old", init="first"))
    best = files.load_checkpoint(folder / "best.pt")
    del best["step"]
    files.save_checkpoint(folder / "best.pt", best)
    for path in [*folder.iterdir(), *folder.with_name("first").iterdir()]:
        archived = ("config.json", "tokenizer.json", "best.pt", "eval.json")
        if path.parent != folder or path.name not in archived:
            path.unlink()
    capsys.readouterr()
    trained(tiny("kid", baseline="old", max_steps=2))
    table = capsys.readouterr().out.split("\n")
    shown = [row.split()[-2:] for row in table
             if row.startswith(("steps trained", "words seen", "step of the weights"))]
    assert [old for old, _ in shown] == ["-"] * 3 and shown[0][1] == shown[2][1] == "2"
    assert all(math.isnan(n) for n in distill.trained_for(folder))


@pytest.mark.parametrize("role", ["teachers", "init"])
def test_weights_without_a_checkpoint_are_used_as_they_are(tiny, losses, role):
    """Downloaded or archived: config.json, tokenizer.json and best.pt are enough to build on."""
    folder = trained(tiny("coach"))
    kept = {name: (folder / name).read_bytes()
            for name in ("config.json", "tokenizer.json", "best.pt")}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    calls = losses()
    trained(tiny("kid", **{role: ["coach"] if role == "teachers" else "coach"}, max_steps=2))
    assert len(calls) == 2
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == kept

    # to go on from them is another thing: refused, until it is said that they may go
    refused(tiny("coach"), str(folder), "best.pt", "no checkpoint", "--resume=no")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"} == kept
    assert run.is_finished(trained(tiny("coach", resume="no")))


def test_the_weights_that_a_run_begins_with_are_never_its_best(tiny):
    """init is better than all that follows: still the run is shown with weights of its own."""
    tiny("first", max_steps=40, lr=3e-2)
    folder = trained(tiny("second", init="first", lr=0.3, warmup=0, grad_clip=0.0, max_steps=4,
                          val_every=1))
    ce = {m["step"]: m["val_ce"] for m in lines(folder, "val_ce")}
    assert min(ce, key=ce.get) == 0
    best = files.load_checkpoint(folder / "best.pt")
    assert best["step"] == min([1, 2, 3, 4], key=ce.get)
    assert not same(best["model"], weights(folder.with_name("first"), "best.pt"))
    assert eval.validated(folder, "best") == ce[best["step"]]


def test_a_chain_under_max_minutes_gets_through_and_is_the_same(tiny, tmp_path, command, losses):
    """Each call does a step of the first run that lacks one, and keeps it."""
    keys = {"coach": dict(max_steps=3), "alone": dict(max_steps=2, d_model=8),
            "kid": dict(max_steps=3, teachers=["coach"], baseline="alone")}
    for name, own in keys.items():
        tiny(name, **own)
    whole = trained(tiny("kid", **keys["kid"]))
    calls = losses()
    for name, own in keys.items():
        tiny(name, **own, out_dir=str(tmp_path / "slow"))
    for n in range(8):
        code, out, err = command(distill.main, tmp_path / "configs/kid.py", "--max_minutes=1e-9")
        assert (code, err, len(calls)) == (0, "", n + 1)
        assert ("kid: llama" in out) == (n >= 4)  # a coach that is not ready teaches nobody
    assert "the same command goes on" not in out and run.is_finished(tmp_path / "slow/kid")
    for name in keys:
        assert same(weights(tmp_path / "slow" / name), weights(whole.with_name(name)))


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


def test_the_clock_is_the_commands_and_does_not_count_what_is_prepared(tiny, monkeypatch, clock):
    """What teachers took is taken off; making data and loading are not counted."""
    prepare = distill.prepare

    def slow(settings):
        clock[0] += 1000
        return prepare(settings)
    monkeypatch.setattr(distill, "prepare", slow)
    tiny("coach", max_steps=4)
    folder = trained(tiny("kid", teachers=["coach"], max_steps=50, max_minutes=10 / 60))
    assert run.is_finished(folder.with_name("coach"))
    assert files.load_checkpoint(folder / "ckpt.pt")["step"] == 6


def test_what_dies_in_a_validation_loses_nothing(tiny, tmp_path, monkeypatch):
    keys = dict(max_steps=20, val_every=10, dropout=0.1)
    whole = trained(tiny("some", **keys))
    settings = tiny("some", **keys, out_dir=str(tmp_path / "again"))
    validate, calls = distill.validate, []

    def die(*args):
        calls.append(0)
        if len(calls) in (2, 4):  # at step 10, and at the last one
            raise RuntimeError("the power went off")
        return validate(*args)
    monkeypatch.setattr(distill, "validate", die)
    folder = run.folder_of(settings)
    for step in (10, 20):
        with pytest.raises(RuntimeError, match="power"):
            distill.train(settings)
        assert files.load_checkpoint(folder / "ckpt.pt")["step"] == step
        assert not run.is_finished(folder)
    distill.train(settings)
    assert without_speed(lines(folder)) == without_speed(lines(whole)) and run.is_finished(folder)
    assert same(weights(folder, "best.pt"), weights(whole, "best.pt"))


def test_a_refusal_leaves_the_users_own_folders(tiny, tmp_path):
    (tmp_path / "mine/runs").mkdir(parents=True)
    refused(tiny("kid", out_dir=str(tmp_path / "mine/runs/new"), teachers=["nobody"]), "nobody")
    assert (tmp_path / "mine/runs").is_dir() and not list((tmp_path / "mine/runs").iterdir())


def test_a_teacher_is_looked_for_beside_the_users_own_config(tiny, tmp_path):
    tiny("coach")
    kid = tiny("kid", teachers=["coach"], max_steps=1)
    (tmp_path / "mine").mkdir()
    for name in ("kid", "coach"):
        (tmp_path / f"configs/{name}.py").rename(tmp_path / f"mine/{name}.py")
    assert kid.file == tmp_path / "configs/kid.py"
    trained(config.read_config(tmp_path / "mine/kid.py"))
    assert run.is_finished(tmp_path / "out/coach")


def test_no_run_needs_itself(tiny, command, tmp_path):
    tiny("kid", teachers=["kid"])
    code, _, err = command(distill.main, tmp_path / "configs/kid.py")
    assert code == 2 and "kid" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- what a user can get wrong

@pytest.mark.parametrize("main", [distill.main, teacher.main])
@pytest.mark.parametrize("argument, words", [
    ("--learning=1", ["unknown key 'learning'"]),
    ("--lr=fast", ["lr", "'fast'"]),
    ("--max_steps=2.5", ["max_steps = 2.5", "whole number"]),
    ("--corpus=nowhere/at/all", ["nowhere/at/all", "no text there"]),
    ("--corpus=EMPTY", ["empty.txt", "empty"]),
    ("--corpus=LATIN", ["latin.txt, line 2", "UTF-8"]),
    ("--vocab_size=50000", ["vocab_size = 50000", "fills only"]),
    ("--batch_size=50000", ["fewer than one batch of 50000 x 16", "batch_size"]),
    ("--block_size=100000", ["fewer than one batch"]),
    ("--tokenizer=nowhere.json", ["nowhere.json"]),
    ("--init=nobody", ["nobody", "nor has it a config", "nobody.py"]),
    ("--device=mps", ["device = 'mps'", "--device=auto"]),
])
def test_wrong_commands_are_one_line_and_leave_nothing(
        tiny, command, tmp_path, monkeypatch, main, argument, words):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n" * 100)
    tiny("some")
    for name in ("EMPTY", "LATIN"):
        argument = argument.replace(name, str(tmp_path / f"{name.lower()}.txt"))

    code, _, err = command(main, tmp_path / "configs/some.py", argument,
                           f"--data_dir={tmp_path / 'data'}")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err
    left = [p.name for p in (tmp_path / "data").glob("*")] if (tmp_path / "data").exists() else []
    assert not (tmp_path / "out").exists()
    assert not [name for name in left if not name.startswith("babytalk-all-line-")]


def test_a_token_file_cut_short_is_refused(tiny, command, tmp_path):
    folder = data.prepare(tiny("some", data_dir=str(tmp_path / "data"))).folder
    with open(folder / "train.bin", "r+b") as f:
        f.truncate(500)
    code, _, err = command(distill.main, tmp_path / "configs/some.py")
    assert code == 2 and err.count("\n") == 1
    assert all(word in err for word in ("train.bin", "cut short", "prepared again")), err
    assert not (tmp_path / "out").exists()


def test_a_missing_teacher_without_a_config_is_refused_at_once(tiny, command, tmp_path):
    tiny("kid")
    code, _, err = command(distill.main, tmp_path / "configs/kid.py", "--teachers=nobody")
    assert code == 2 and err.count("\n") == 1 and "'nobody'" in err and "nor has it a config" in err
    assert not (tmp_path / "out").exists()


def test_an_unfinished_teacher_without_a_config_is_said_to_be_one(tiny, unfinished, tmp_path):
    unfinished().rename(tmp_path / "out/mine")
    refused(tiny("kid", teachers=["mine"]), "run 'mine' in ", "is not finished",
            "finish it with the command that began it")


@pytest.mark.parametrize("keys, words", [
    (dict(baseline="nobody"), ["run 'nobody'", "nor has it a config"]),
    (dict(teachers=["coach", "nobody"]), ["run 'nobody'", "nor has it a config"]),
    (dict(baseline="other", of_other=dict(init="nobody")), ["baseline other: run 'nobody'"]),
    (dict(baseline="other", of_other=dict(batch_size=10**4)),
     ["baseline other: the corpus has", "fewer than one batch of 10000 x 16"]),
    (dict(baseline="other", of_other=dict(optimizer="muon")), ["baseline other", "torch >= 2.9"]),
    (dict(teachers=["coach", "other"], of_other=dict(arch="gpt2", block_size=8)),
     ["teacher other is a GPT-2 of block_size 8", "block_size = 16"]),
    (dict(init="other", of_other=dict(d_model=32, n_layer=2)),
     ["init other does not fit the model of kid: n_layer = 2 there, 1 here; d_model = 32 there, "
      "16 here; set these as", "other.py has them"]),
    (dict(init="other", of_other=dict(n_head=4)), ["of kid: n_head = 4 there, 2 here; set these"]),
    (dict(init="other", of_other=dict(arch="gpt2")), ["arch = 'gpt2' there, 'llama' here; set"]),
    (dict(batch_size=10**4), ["fewer than one batch of 10000 x 16"]),
    (dict(teacher_cache=10**5, random_offset=False), ["vocabulary", "allowed are 0 to"]),
    (dict(optimizer="muon"), ["torch >= 2.9"]),
])
def test_what_can_be_known_is_refused_before_a_teacher_is_trained(
        tiny, losses, tmp_path, monkeypatch, keys, words):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    calls = losses()
    tiny("coach")
    keys = {"teachers": ["coach"], **keys}
    tiny("other", **keys.pop("of_other", {}))
    refused(tiny("kid", **keys), *words)
    assert not calls and not (tmp_path / "out").exists()


def test_so_is_a_development_text_of_less_than_a_block(tiny, losses, tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"the cat sees {i} dogs.\n" for i in range(3000)))
    (tmp_path / "dev.txt").write_text("the cat sees 3 dogs.\n")
    calls = losses()
    tiny("coach")
    refused(tiny("kid", teachers=["coach"], corpus=str(tmp_path / "train.txt"), vocab_size=300,
                 dev=str(tmp_path / "dev.txt")), "the development text has", "one block of 16")
    assert not calls


def test_a_finished_teacher_or_init_too_is_looked_at_before_another_is_trained(tiny, losses):
    trained(tiny("gpt", arch="gpt2", block_size=8))
    calls = losses()
    tiny("coach")
    refused(tiny("kid", teachers=["coach", "gpt"]), "teacher gpt", "choose --block_size=8")
    refused(tiny("kid", teachers=["coach"], init="gpt"), "arch = 'gpt2' there, 'llama' here")
    refused(tiny("kid", teachers=["coach"], init="gpt", arch="gpt2"),
            "does not fit the model of kid: block_size = 8 there, 16 here")
    trained(tiny("late", max_minutes=1e-9))
    tiny("late", lr=0.5)
    refused(tiny("kid", teachers=["coach"], baseline="late"), "baseline late: ",
            "holds a run with other settings: lr = 0.01 there, 0.5 here",
            "; its own command is python distill.py ", "configs/late.py")
    assert len(calls) == 1


def test_what_is_needed_by_several_is_trained_once_and_first(tiny, losses, capsys):
    tiny("first", max_steps=1)
    tiny("coach", init="first", max_steps=2)
    tiny("other", max_steps=3)
    calls = losses()
    trained(tiny("kid", teachers=["other", "coach"], init="first", baseline="coach", max_steps=4))
    assert len(calls) == 3 + 1 + 2 + 4
    said = [line for line in capsys.readouterr().out.split("\n") if "training it first" in line]
    assert [line.split()[:2] for line in said] == [["teacher", "other"], ["init", "first"],
                                                   ["teacher", "coach"]]


def test_teacher_py_trains_no_student(tiny, command, tmp_path, losses):
    calls = losses()
    tiny("kid", teachers=["a", "b"])
    code, _, err = command(teacher.main, tmp_path / "configs/kid.py")
    assert code == 2 and err == "error: kid has teachers (a, b); run it with distill.py\n"
    assert not calls and not (tmp_path / "out").exists()
    code, out, _ = command(teacher.main, tmp_path / "configs/kid.py", "--teachers=")
    assert code == 0 and "model kid" in out and "student" not in out
    assert len(calls) == 5
    assert {p.name for p in (tmp_path / "out/kid").iterdir()} == FILES - {"samples.txt"}


# ---------------------------------------------------------------- rollouts and stages

ROLLOUTS = dict(teachers=["coach"], on_policy=0.5, prompt_len=4, init="first", alpha=0.3,
                rollout_mix=0.2, max_steps=8)


@pytest.fixture
def first(tiny):
    """A trained student to start from."""
    tiny("coach")
    tiny("first")


@pytest.mark.parametrize("rollout_loss", ["token", "reinforce", "single_step"])
def test_rollouts_in_micro_batches_change_nothing(tiny, first, rollout_loss):
    found = {}
    for n in (1, 4):
        folder = trained(tiny(f"by{n}", **ROLLOUTS, rollout_loss=rollout_loss, grad_accum=n,
                              batch_size=8))
        found[n] = weights(folder), lines(folder, "loss")

    for name, w in found[1][0].items():
        torch.testing.assert_close(found[4][0][name], w, rtol=0, atol=1e-5,
                                   msg=lambda m: f"{name}: {m}")
    for key in ("loss", "ce", "divergence", "entropy_q", "grad_norm"):
        assert [m[key] for m in found[4][1]] == pytest.approx(
            [m[key] for m in found[1][1]], rel=1e-4), key

    rolled = [m for m in found[1][1] if "rollout_kl" in m]
    assert 0 < len(rolled) < 8
    # q / s is bounded by 1 / (1 - r)
    assert all(0 < m["rollout_weight"] <= 1 / 0.8 + 1e-4 for m in rolled)


@pytest.mark.parametrize("teachers", [["coach"], ["truth"], ["coach", "other"]])
def test_an_on_policy_run_that_broke_off_goes_on_to_the_same_bits(
        tiny, first, tmp_path, teachers, monkeypatch):
    tiny("other", arch="gpt2")
    keys = {**ROLLOUTS, "teachers": teachers, "rollout_loss": "single_step", "dropout": 0.1,
            "max_steps": 10, "val_every": 3}
    whole = trained(tiny("whole", **keys))
    settings = tiny("parts", **keys)
    stop = files.save_checkpoint

    def interrupt(path, state):
        stop(path, state)
        if path.name == "ckpt.pt" and path.parent.name == "parts" and state["step"] == 5:
            raise RuntimeError("the power went off")

    monkeypatch.setattr(files, "save_checkpoint", interrupt)
    with pytest.raises(RuntimeError, match="power"):
        distill.train(settings)
    monkeypatch.setattr(files, "save_checkpoint", stop)
    parts = trained(settings)
    assert same(weights(parts), weights(whole))
    assert without_speed(lines(parts)) == without_speed(lines(whole))


def test_each_switch_changes_what_it_should_and_nothing_else(tiny, first, monkeypatch):
    """Same seed: the corpus batches and the first validation are the same whatever is switched on.

    The weights are not.
    """
    trained(tiny("coach"))
    trained(tiny("first"))
    seen = {}
    batch = data.Batches.batch

    def watched(self, step, now):
        whole = copy.copy(now)
        whole.block_size, whole.progress = 16, 1.0
        seen.setdefault(name, []).append(batch(self, step, whole)[0])
        return batch(self, step, now)
    monkeypatch.setattr(data.Batches, "batch", watched)

    plain = dict(teachers=["coach"], init="first", alpha=0.3, max_steps=8)
    switches = {"plain": {}, "mix": dict(mix=0.8), "step": dict(reduction="step"),
                "stages": dict(block_size="stages(0: 4, 0.5: 16)"),
                "tau": dict(tau="linear(0: 2, 1: 1)"), "order": dict(order="length"),
                "gkd": dict(on_policy=0.5, prompt_len=4),
                "mixed": dict(on_policy=0.5, prompt_len=4, rollout_mix=0.5),
                "reinforce": dict(on_policy=0.5, prompt_len=4, rollout_loss="reinforce"),
                "single": dict(on_policy=0.5, prompt_len=4, rollout_loss="single_step"),
                "normed": dict(on_policy=0.5, prompt_len=4, rollout_loss="single_step",
                               length_norm=True)}

    found = {}
    for name, keys in switches.items():
        folder = trained(tiny(name, **{**plain, **keys}))
        found[name] = weights(folder), lines(folder)[0]

    for name in switches:
        assert len(seen[name]) == 8, name
        assert all(torch.equal(a, b) for a, b in zip(seen[name], seen["plain"])), name
        assert found[name][1] == found["plain"][1], name
    names = list(switches)
    assert not [(a, b) for i, a in enumerate(names) for b in names[:i]
                if same(found[a][0], found[b][0])]


@pytest.mark.parametrize("rollout_loss", ["token", "single_step"])
def test_all_switches_together_run_to_the_end(tiny, first, rollout_loss):
    folder = trained(tiny(
        "full", teachers=["coach"], init="first", alpha=0.3, max_steps=8, grad_accum=2,
        reduction="step", mix=0.9, block_size="stages(0: 8, 0.3: 16)", tau="linear(0: 2, 0.7: 1)",
        order="length", prompt_len=4, on_policy="linear(0: 0.2, 1: 0.8)",
        rollout_mix="linear(0: 0.5, 1: 0.1)", rollout_loss=rollout_loss,
        length_norm=rollout_loss == "single_step"))
    found = lines(folder, "loss")
    assert len(found) == 8 and 0 < sum("rollout_kl" in m for m in found) < 8
    assert all(len(m["per_step"]) == (8 if m["step"] <= 3 else 16)
               for m in found if "per_step" in m)
    assert all("per_step" in m for m in found if "rollout_kl" not in m or rollout_loss == "token")


def test_short_blocks_are_the_same_tokens(tiny):
    settings = tiny(block_size="stages(0: 4, 0.5: 16)")
    batches = data.Batches(data.prepare(settings).train, settings)
    short_x, short_y = batches.batch(3, settings.at(0.0))
    x, y = batches.batch(3, settings.at(1.0))
    assert short_x.shape == (16, 4)
    assert torch.equal(short_x.view(4, 16), x)
    assert torch.equal(short_y.view(4, 16), y)


def test_simple_text_comes_first_also_in_a_run_that_goes_on(tiny, monkeypatch):
    """The first batches' chunks are the easiest by what the order says.

    Broken off and gone on with, the same bits.
    """
    tiny("coach")
    keys = dict(teachers=["coach"], order="length", max_steps=10, val_every=3, random_offset=False)
    seen = []
    batch = data.Batches.batch
    monkeypatch.setattr(data.Batches, "batch",
                        lambda self, *a: seen.append(batch(self, *a)) or seen[-1])
    whole = trained(tiny("whole", **keys))
    prepared = data.prepare(tiny("whole", **keys))
    settings = tiny("parts", **keys)
    starts = torch.arange(0, prepared.train.count - 16, 16)
    x, y = data.cut(data.stream(prepared.train), starts, 16)
    newline = prepared.tokenizer.encode("\n")[0]

    def hardness(x, y):
        return 16 / (1 + (x == newline).sum(1))

    levels = hardness(x, y).sort().values
    for step, (x, y) in enumerate(seen[-10:]):
        share = min(1, math.sqrt(0.01 + 0.99 * step / 10 / 0.5))
        hardest = levels[max(3, math.ceil(share * len(levels)) - 1)]
        assert hardness(x, y).max() <= hardest + 1e-5, step
    late = max(hardness(*batch).max() for batch in seen[-5:])
    assert hardness(*seen[-10]).mean() < levels.mean() and late > levels[len(levels) // 2]

    add = run.Meter.add

    def fail(self, step, *rest):
        if step == 5:
            raise RuntimeError("the power went off")
        add(self, step, *rest)

    monkeypatch.setattr(run.Meter, "add", fail)
    with pytest.raises(RuntimeError, match="power"):
        distill.train(settings)
    monkeypatch.setattr(run.Meter, "add", add)
    parts = trained(settings)
    assert same(weights(parts), weights(whole))
    assert without_speed(lines(parts)) == without_speed(lines(whole))


def test_the_step_wise_curve_is_logged(tiny):
    tiny("coach")
    folder = trained(tiny("kid", teachers=["coach"], reduction="step", step_weights=[1.0, 1.0],
                          grad_accum=2))
    for m in lines(folder, "loss"):
        assert len(m["per_step"]) == 16
        assert sum(m["per_step"]) / 16 == pytest.approx(m["divergence"], rel=0.2)
    assert "per_step" not in lines(trained(tiny("other", teachers=["coach"])), "loss")[0]


@pytest.mark.parametrize("keys, words", [
    (dict(), ["entropy collapse", "raise alpha"]),
    (dict(), ["repetition", "4-grams"]),
    (dict(rollout_mix=0.999), ["exploding weights", "lower rollout_mix"]),
])
def test_failures_during_training_are_named(tiny, first, capsys, keys, words):
    """A student with a tied head and large last states says its last token again and again.

    Drawing nearly all from the teacher, what is the student's own weighs up to 1000.
    """
    own = trained(tiny("own", tie=True, max_steps=1, lr=1e-6))
    state = files.load_checkpoint(own / "best.pt")
    state["model"]["norm.weight"] *= 400
    files.save_checkpoint(own / "best.pt", state)
    trained(tiny("kid", **{**ROLLOUTS, "init": "own", "tie": True, "on_policy": 1.0,
                           "rollout_loss": "single_step", "lr": 1e-6, "batch_size": 16,
                           "prompt_len": 2, "rollout_mix": 0.0, **keys}))
    out = capsys.readouterr().out
    assert all(word in out for word in words), out


# ---------------------------------------------------------------- faults (more: test_faults.py)

STEPS = dict(max_steps=9, log_every=4, dropout=0.1, val_every=10**6)


def broken_at(monkeypatch, settings, step):
    """Train until the checkpoint of `step` is written; the run's folder."""
    save = files.save_checkpoint

    def interrupt(path, state):
        save(path, state)
        if path.name == "ckpt.pt" and state["step"] == step:
            raise RuntimeError("the power went off")
    with monkeypatch.context() as m, pytest.raises(RuntimeError, match="power"):
        m.setattr(files, "save_checkpoint", interrupt)
        distill.train(settings)
    return run.folder_of(settings)


@pytest.mark.parametrize("spoil", [
    lambda raw: raw[:len(raw) // 2], lambda raw: b"",
    lambda raw: raw[:3000] + b"\0\0\0" + raw[3003:], None])
def test_a_damaged_checkpoint_is_replaced_by_the_previous(
        tiny, tmp_path, monkeypatch, capsys, spoil):
    whole = trained(tiny("some", **STEPS))
    settings = tiny("some", **STEPS, out_dir=str(tmp_path / "again"))
    folder = broken_at(monkeypatch, settings, 6)
    ckpt = folder / "ckpt.pt"
    previous = folder / "ckpt.prev.pt"
    assert files.load_checkpoint(previous)["step"] == 5

    if spoil:
        ckpt.write_bytes(spoil(ckpt.read_bytes()))
    else:
        ckpt.unlink()  # broken off between two renames
    before = previous.read_bytes()
    assert not run.is_finished(folder)
    # and the damaged one does not take the good one's place
    folder = broken_at(monkeypatch, settings, 6)
    assert previous.read_bytes() == before and files.load_checkpoint(ckpt)["step"] == 6

    out = capsys.readouterr().out
    assert "ckpt.pt" in out
    assert "taking the one before, ckpt.prev.pt, of step 5" in out
    assert ", from step 5" in out

    distill.train(settings)
    assert same(weights(folder), weights(whole))
    assert without_speed(lines(folder)) == without_speed(lines(whole))


def test_two_damaged_checkpoints_are_one_line_and_nothing_is_deleted(tiny, monkeypatch):
    settings = tiny("some", **STEPS)
    folder = broken_at(monkeypatch, settings, 6)
    for name in ("ckpt.pt", "ckpt.prev.pt"):
        (folder / name).write_bytes(b"PK\x03\x04 damaged")
    before = {p: p.read_bytes() for p in folder.iterdir()}
    refused(settings, "ckpt.pt", "not a checkpoint")
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    trained(tiny("some", **STEPS, resume="no"))
    assert files.load_checkpoint(folder / "ckpt.prev.pt")["step"] == 8


def test_the_line_after_a_checkpoint_is_the_one_that_would_have_been(
        tiny, tmp_path, monkeypatch, losses):
    losses(spoiled({5}, "both"))
    keys = {**STEPS, "dtype": "float16"}
    whole = trained(tiny("some", **keys))

    monkeypatch.undo()
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(eval, "evaluate",
                        lambda folder, **_: files.write_json(folder / "eval.json", {}))
    losses(spoiled({5}, "both"))
    settings = tiny("some", **keys, out_dir=str(tmp_path / "again"))
    folder = broken_at(monkeypatch, settings, 6)  # two steps after a line, one of them skipped
    # it began at 2^16
    assert files.load_checkpoint(folder / "ckpt.pt")["scaler"]["scale"] == 2.0**15
    distill.train(settings)
    assert lines(folder, "skipped")[0]["skipped"] == 1
    assert without_speed(lines(folder)) == without_speed(lines(whole))
    assert same(weights(folder), weights(whole))


@pytest.mark.parametrize("damage", [
    lambda s: s.update(step="3"), lambda s: s.update(step=0), lambda s: s.update(steps=None),
    lambda s: s.update(step=99), lambda s: s.update(minutes=[1]),
    lambda s: s.update(random=None), lambda s: s.update(random={"cpu": torch.zeros(3)}),
    lambda s: s.update(random={"cpu": "x"}), lambda s: s.update(optimizer=3),
    lambda s: s.update(meter=[1]), lambda s: s["meter"].update(loss=torch.zeros(2)),
    lambda s: s["meter"].update(figures={"ce": 1}), lambda s: s["optimizer"]["state"].pop(0),
    lambda s: s["optimizer"].update(state=[]), lambda s: s["optimizer"]["state"].update({1: {}}),
    lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)),
    lambda s: s["model"].update({"norm.weight": "x"}),
    lambda s: s["model"].update({"norm.weight": torch.zeros(16, dtype=torch.int64)}),
    lambda s: s["model"].update({3: torch.zeros(1)}),
])
def test_a_checkpoint_of_wrong_contents_is_one_line(tiny, unfinished, damage):
    folder = unfinished()
    state = files.load_checkpoint(folder / "ckpt.pt")
    damage(state)
    files.save_checkpoint(folder / "ckpt.pt", state)
    (folder / "ckpt.prev.pt").unlink()
    refused(tiny("some"), "ckpt.pt")
    assert (folder / "ckpt.pt").exists()


@pytest.mark.parametrize("damage", [
    lambda s: s.pop("scaler"), lambda s: s.update(scaler="1"), lambda s: s.update(scaler={}),
    lambda s: s["scaler"].update(scale="1"), lambda s: s["scaler"].pop("_growth_tracker"),
])
def test_a_damaged_gradient_scale_is_one_line(tiny, unfinished, damage):
    folder = unfinished(dtype="float16")
    state = files.load_checkpoint(folder / "ckpt.pt")
    damage(state)
    files.save_checkpoint(folder / "ckpt.pt", state)
    refused(tiny("some", dtype="float16"), "ckpt.pt")


def test_garbage_in_the_metrics_is_left_out(tiny, unfinished):
    folder = unfinished()
    with open(folder / "metrics.jsonl", "ab") as f:
        f.write(b'{"step": 1, \xff\xfe}\n[3]\n{"no": 1}\n' + b"[" * 100_000
                + b'\n{"step": "x"}\n{"step": 1, "loss"')
    assert [m["step"] for m in lines(trained(tiny("some")))] == [0, 1, 2, 3, 4, 5, 5]


def test_a_broken_off_evaluation_is_done_again(tiny, evaluated):
    folder = trained(tiny("some"))
    files.write_json(folder / "eval.json", {"babytalk": {}})  # and sample was to come
    distill.train(tiny("some"))
    files.write_json(folder / "eval.json", {"babytalk": {}, "sample": {}, "babytalk --limit=9": {}})
    distill.train(tiny("some"))
    assert evaluated == ["some", "some"]


@pytest.mark.usefixtures("real_evaluation")
@pytest.mark.parametrize("keys, words", [
    (dict(arch="gpt2"), ["longest line has 20 tokens", "block_size = 16"]),
    (dict(vocab_size=300), ["one token per word", "vocab_size = 0"])])
def test_what_the_truth_cannot_be_asked_of_is_refused_before_it_is_trained(tiny, keys, words):
    refused(tiny("some", **keys), *words)
    refused(tiny("kid", teachers=["truth"], baseline="some", **keys), *words)
    assert not run.folder_of(tiny("some")).parent.exists()


@pytest.mark.parametrize("role", ["teachers", "init"])
def test_going_on_with_another_teacher_is_refused(tiny, role, tmp_path):
    trained(tiny("coach"))
    keys = {role: ["coach"] if role == "teachers" else "coach", "max_minutes": 1e-9}
    folder = trained(tiny("kid", **keys))
    best = folder.with_name("coach") / "best.pt"
    kept = best.read_bytes()
    before = {p: p.read_bytes() for p in folder.iterdir()}
    state = files.load_checkpoint(best)
    state["model"]["norm.weight"] += 1
    files.save_checkpoint(best, state)

    refused(tiny("kid", **keys), str(folder), "another", str(best), "--resume=no")
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    best.write_bytes(kept)
    assert run.is_finished(trained(tiny("kid", **{**keys, "max_minutes": 0.0})))
    files.save_checkpoint(best, state)
    assert run.is_finished(trained(tiny("kid", **{**keys, "max_minutes": 0.0, "resume": "no"})))


def test_runs_that_need_each_other_are_named(tiny, tmp_path):
    tiny("a", teachers=["b"])
    tiny("b", baseline="c")
    tiny("c", init="a")
    refused(tiny("a", teachers=["b"]), "a needs b needs c needs a", "cannot need itself")
    refused(tiny("c", init="a"), "c needs a needs b needs c")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch_size, grad_accum, words", [
    (12, 1, "--grad_accum=2"), (12, 4, "--grad_accum=6"), (9, 3, "--grad_accum=9"),
    (4, 4, "a smaller block_size or model")])
def test_out_of_memory_names_what_needs_less(tiny, monkeypatch, batch_size, grad_accum, words):
    def full(*args, **keys):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore than there is")
    monkeypatch.setattr(distill, "distillation_loss", full)
    refused(tiny("some", batch_size=batch_size, grad_accum=grad_accum), "some: out of memory",
            f"batch_size {batch_size}", f"grad_accum {grad_accum}", words)
    tiny("coach", batch_size=batch_size, grad_accum=grad_accum)
    refused(tiny("kid", teachers=["coach"]), "coach: out of memory", words,
            "; its own command is python distill.py ", "configs/coach.py")


def test_out_of_memory_on_several_ranks_names_what_splits_among_them(tiny, monkeypatch):
    monkeypatch.setattr(run, "WORLD", 2)
    assert "--grad_accum=4," in run.out_of_memory(tiny("some", batch_size=24, grad_accum=3))
    assert "a smaller block_size" in run.out_of_memory(tiny("some", batch_size=32, grad_accum=16))


def test_no_corpus_is_not_all_text_of_the_folder_one_is_in(tiny, tmp_path, monkeypatch):
    """As in --corpus=$TEXT, with TEXT unset."""
    (tmp_path / "notes.txt").write_text("the dog sees\n" * 2000)
    monkeypatch.chdir(tmp_path)
    refused(tiny("some", corpus=""), "corpus is empty")


def test_so_it_is_on_a_cpu_whose_allocator_has_an_error_of_its_own(tiny):
    refused(tiny("some", d_ff=2**44), "some: out of memory", "a smaller model")


def test_a_run_ends_with_where_things_lie_and_what_comes_next(tiny, capsys):
    folder = trained(tiny("some"))
    out = capsys.readouterr().out
    assert f"{folder} holds best.pt" in out and f"python eval.py {folder} --tasks=sample" in out


def test_in_another_thread_signals_are_left_alone(tiny):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    ended = []
    thread = threading.Thread(target=lambda: ended.append(trained(tiny("some"))))
    thread.start()
    thread.join()
    assert ended and run.is_finished(ended[0])
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.slow
def test_a_compiled_run_compiles_stages_once_and_says_when_it_falls_back(tiny, capsys, monkeypatch):
    if not can_compile("cpu"):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    keys = dict(compile=True, block_size="stages(0: 4, 0.3: 8, 0.6: 16)", max_steps=6)
    compiled = trained(tiny("fast", **keys))
    plain = trained(tiny("slow", **{**keys, "compile": False}))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    assert "falls back" not in capsys.readouterr().out
    for name, w in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], w, rtol=0, atol=1e-4)

    forward = model.LM.forward

    def with_a_break(self, ids, cache=None):
        torch._dynamo.graph_break()
        return forward(self, ids, cache)
    monkeypatch.setattr(model.LM, "forward", with_a_break)
    trained(tiny("broken", **keys))
    assert capsys.readouterr().out.count("torch.compile falls back to eager execution: ") == 1
