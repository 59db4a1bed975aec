"""The loop: what a run leaves, its loss against the formula, schedules, rollouts, repetition."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F

import babytalk
import data
import distill
from onecoach import files, run
from runs import ROLLOUTS, SPOILED_LATE, lines, log_probs, refused, same, spoiled, trained, weights
from runs import without_speed

pytestmark = pytest.mark.usefixtures("evaluated")


# ---------------------------------------------------------------- from a config to a table

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


@pytest.mark.parametrize("keys", [
    dict(reduction="sequence", teachers=["truth"], lr=1e-3),
    dict(reduction="step", teachers=["truth"], lr=1e-3),
    dict(ROLLOUTS, rollout_loss="token"), dict(ROLLOUTS, rollout_loss="reinforce"),
    dict(ROLLOUTS, rollout_loss="single_step")], ids=str)
def test_micro_batches_change_memory_and_not_results(tiny, first, keys):
    found = {}
    for n in (1, 2, 4):
        settings = tiny(f"by{n}", grad_accum=n, batch_size=8, **{"alpha": 0.3, **keys})
        folder = trained(settings)
        found[n] = weights(folder), lines(folder, "loss")

    _, y = data.Batches(data.prepare(settings).train, settings).batch(0, settings.at(0.0))
    # or a mean of means would do as well
    assert len({(piece != -100).sum().item() for piece in y.chunk(4)}) > 1

    for n in (2, 4):
        for name, w in found[1][0].items():
            torch.testing.assert_close(found[n][0][name], w, rtol=0, atol=1e-5,
                                       msg=lambda m: f"{n} pieces, {name}: {m}")
        for key in ("loss", "ce", "divergence", "entropy_q", "grad_norm"):
            assert [m[key] for m in found[n][1]] == pytest.approx(
                [m[key] for m in found[1][1]], rel=1e-4), (n, key)

    rolled = [m for m in found[1][1] if "rollout_kl" in m]
    assert ("init" in keys) == (0 < len(rolled) < 8)
    # q / s is bounded by 1 / (1 - r)
    assert all(0 < m["rollout_weight"] <= 1 / 0.8 + 1e-4 for m in rolled)


def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny, tmp_path):
    runs = [trained(tiny("some", out_dir=str(tmp_path / f"out{i}"), seed=s, dropout=0.1))
            for i, s in enumerate((3, 3, 4))]
    a, b, c = (without_speed(lines(folder)) for folder in runs)
    assert a == b and same(weights(runs[0]), weights(runs[1]))
    assert a[1]["loss"] != c[1]["loss"] and not same(weights(runs[0]), weights(runs[2]))


# ---------------------------------------------------------------- learning rate and optimizer

def test_another_init_seed_is_other_weights_on_the_same_text(tiny, monkeypatch):
    seen = []
    batch = distill.Batches.batch
    monkeypatch.setattr(distill.Batches, "batch",
                        lambda *args: seen.append(batch(*args)) or seen[-1])
    keys = dict(max_steps=3, dropout=0.1, val_every=1)
    first, second = (lines(trained(tiny(f"member{i}", init_seed=i, **keys))) for i in (0, 1))
    assert all(torch.equal(x, again) for (x, _), (again, _) in zip(seen[:3], seen[3:]))
    assert first[0]["val_ce"] != second[0]["val_ce"]


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

    # and the loop sets it
    settings = tiny("some", lr="linear(0: 1e-2, 1: 1e-3)", warmup=2, max_steps=20)
    logged = [m["lr"] for m in lines(trained(settings), "lr")]
    expected = [distill.learning_rate(settings.at(step / 20), step, 20) for step in range(20)]
    assert logged == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_weight_decay_shrinks_matrices_only(tiny, arch):
    lm = run.make_model(tiny(arch=arch), 50)
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

@pytest.mark.parametrize("what, optimizer", [
    ("loss", "adamw"), ("gradient", "adamw"), ("both", "adamw"), ("gradient", "muon")])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
        tiny, losses, states, what, optimizer):
    losses(spoiled({3}, what))
    folder = trained(tiny("some", max_steps=6, optimizer=optimizer))
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
    monkeypatch.setattr(run, "choose_dtype", lambda config, device: "bfloat16")
    folder = unfinished(dtype="auto")
    monkeypatch.setattr(run, "choose_dtype", lambda config, device: "float32")  # another processor
    trained(tiny("some", dtype="auto"))
    config = files.read_json(folder / "config.json")
    assert config["_dtype"] == "bfloat16" and config["dtype"] == "auto"
    assert "bfloat16 on cpu, loss eager, from step 1" in capsys.readouterr().out
    trained(tiny("some", dtype="auto", resume="no"))
    assert files.read_json(folder / "config.json")["_dtype"] == "float32"


# ---------------------------------------------------------------- rollouts and stages

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


def test_simple_text_comes_first(tiny, monkeypatch):
    """The first batches' chunks are the easiest by what the order says."""
    settings = tiny("whole", order="length", max_steps=10, random_offset=False)
    seen = []
    batch = data.Batches.batch
    monkeypatch.setattr(data.Batches, "batch",
                        lambda self, *a: seen.append(batch(self, *a)) or seen[-1])
    trained(settings)
    prepared = data.prepare(settings)
    starts = torch.arange(0, prepared.train.count - 16, 16)
    x, y = data.cut(data.stream(prepared.train), starts, 16)
    newline = prepared.tokenizer.encode("\n")[0]

    def hardness(x, y):
        return 16 / (1 + (x == newline).sum(1))

    levels = hardness(x, y).sort().values
    for step, (x, y) in enumerate(seen):
        share = min(1, math.sqrt(0.01 + 0.99 * step / 10 / 0.5))
        hardest = levels[max(3, math.ceil(share * len(levels)) - 1)]
        assert hardness(x, y).max() <= hardest + 1e-5, step
    late = max(hardness(*batch).max() for batch in seen[-5:])
    assert hardness(*seen[0]).mean() < levels.mean() and late > levels[len(levels) // 2]


@pytest.mark.parametrize("keys, words", [
    (dict(), ["entropy collapse", "raise alpha", "repetition", "4-grams"]),
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
