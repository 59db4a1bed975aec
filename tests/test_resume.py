"""A run that is interrupted, damaged or stopped goes on to the same bits, or says why not."""
import os
import signal
import threading

import pytest
import torch

import distill
import eval
from bpe import Tokenizer
from losses import can_compile
from onecoach import files, run
from onecoach.config import UserError
from runs import ROLLOUTS, SPOILED_LATE, STEPS, broken_at, lines, refused, same, spoiled, trained
from runs import weights, without_speed

pytestmark = pytest.mark.usefixtures("evaluated")


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

    broken = settings.folder
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


ON_POLICY = dict(ROLLOUTS, rollout_loss="single_step")
EVERY = dict(ON_POLICY, on_policy=1.0, rollout_every=4)


@pytest.mark.parametrize("keys", [
    ON_POLICY, dict(ON_POLICY, teachers=["truth"]), dict(ON_POLICY, teachers=["coach", "other"]),
    dict(EVERY, rollout_loss="token"), dict(EVERY, rollout_loss="reinforce"),
    dict(optimizer="muon"), dict(optimizer="muon", dtype="float16"),
    dict(teachers=["coach"], order="length", random_offset=False)], ids=str)
def test_every_kind_of_run_goes_on_to_the_same_bits(tiny, first, monkeypatch, keys):
    tiny("other", arch="gpt2")
    keys = {**keys, "dropout": 0.1, "max_steps": 10, "val_every": 3}
    whole = trained(tiny("whole", **keys))
    settings = tiny("parts", **keys)
    broken_at(monkeypatch, settings, 6)
    kept = files.load_checkpoint(settings.folder / "ckpt.pt")["kept"]
    assert len(kept.get("rollouts", ())) == (2 if "rollout_every" in keys else 0)

    parts = trained(settings)
    assert without_speed(lines(parts)) == without_speed(lines(whole))
    a, b = (files.load_checkpoint(folder / "ckpt.pt") for folder in (parts, whole))
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "scaler"))


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


@pytest.mark.parametrize("step, save, steps, expected", [
    (1, 1.9, 40, [*range(4, 41, 4)]),                 # a cheap one: every tenth
    (1, 3, 400, [40, 200, 360, 400]),                 # 2% of the time: from 150 seconds on
    (400, 1, 40, [n for n in range(41) if n % 4 == 3 or n and n % 4 == 0])])
def test_checkpoints_come_by_the_clock(step, save, steps, expected, tiny, losses, monkeypatch):
    """Seconds that a step and a save take."""
    now = [0.0]
    saved = []
    write = files.save_checkpoint

    def take(seconds, value=None):
        now[0] += seconds
        return value

    def save_checkpoint(path, state):
        write(path, state)
        if path.name == "ckpt.pt":
            saved.append(state["step"])
            take(save)
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(files, "save_checkpoint", save_checkpoint)
    losses(lambda call, W, loss: take(step, loss))
    trained(tiny("some", max_steps=steps, val_every=10**6, log_every=10**6))
    assert saved == expected


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
    folder = settings.folder
    assert files.load_checkpoint(folder / "ckpt.pt")["step"] == 8  # by itself it saves every third
    assert same(weights(trained(settings)), weights(whole))


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
    folder = settings.folder
    (folder / "best.pt").unlink()
    distill.train(settings)
    ce = {m["step"]: m["val_ce"] for m in lines(folder, "val_ce")}
    assert min(ce, key=ce.get) < 15  # its best is gone
    assert files.load_checkpoint(folder / "best.pt")["step"] == min([16, 20], key=ce.get)


# ---------------------------------------------------------------- faults (more: test_faults.py)

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
    losses(spoiled({5, 9 + 5}, "both"))  # the sixth step of either run
    keys = {**STEPS, "dtype": "float16"}
    whole = trained(tiny("some", **keys))
    settings = tiny("some", **keys, out_dir=str(tmp_path / "again"))
    folder = broken_at(monkeypatch, settings, 6)  # two steps after a line, one of them skipped
    # it began at 2^16
    assert files.load_checkpoint(folder / "ckpt.pt")["scaler"]["scale"] == 2.0**15
    distill.train(settings)
    assert lines(folder, "skipped")[0]["skipped"] == 1
    assert without_speed(lines(folder)) == without_speed(lines(whole))
    assert same(weights(folder), weights(whole))


DAMAGES = [
    lambda s: s.pop("optimizer"), lambda s: s.update(model={"embed.weight": torch.zeros(2, 2)}),
    lambda s: s.update(step="3"), lambda s: s.update(step=0), lambda s: s.update(steps=None),
    lambda s: s.update(step=99), lambda s: s.update(minutes=[1]),
    lambda s: s.update(random=None), lambda s: s.update(random={"cpu": torch.zeros(3)}),
    lambda s: s.update(random={"cpu": "x"}), lambda s: s.update(optimizer=3),
    lambda s: s.update(meter={"rows": 1}), lambda s: s["meter"].update(rows=torch.zeros(3)),
    lambda s: s["meter"].update(figures={"ce": 1}), lambda s: s["optimizer"]["state"].pop(0),
    lambda s: s["optimizer"].update(state=[]), lambda s: s["optimizer"]["state"].update({1: {}}),
    lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)),
    lambda s: s["model"].update({"norm.weight": "x"}),
    lambda s: s["model"].update({"norm.weight": torch.zeros(16, dtype=torch.int64)}),
    lambda s: s["model"].update({3: torch.zeros(1)}),
    # the scale of float16's gradients
    lambda s: s.pop("scaler"), lambda s: s.update(scaler="1"), lambda s: s.update(scaler={}),
    lambda s: s["scaler"].update(scale="1"), lambda s: s["scaler"].pop("_growth_tracker"),
]


def test_a_checkpoint_of_wrong_contents_is_one_line(tiny, unfinished):
    folder = unfinished(dtype="float16")
    path = folder / "ckpt.pt"
    whole = path.read_bytes()
    for damage in DAMAGES:
        path.write_bytes(whole)
        state = files.load_checkpoint(path)
        damage(state)
        files.save_checkpoint(path, state)
        (folder / "ckpt.prev.pt").unlink(missing_ok=True)
        refused(tiny("some", dtype="float16"), "ckpt.pt")


def test_garbage_in_the_metrics_is_left_out(tiny, unfinished):
    folder = unfinished()
    with open(folder / "metrics.jsonl", "ab") as f:
        f.write(b'{"step": 1, \xff\xfe}\n[3]\n{"no": 1}\n' + b"[" * 100_000
                + b'\n{"step": "x"}\n{"step": 1, "loss"')
    assert [m["step"] for m in lines(trained(tiny("some")))] == [0, 1, 2, 3, 4, 5, 5]


def test_a_broken_off_evaluation_is_done_again(tiny, evaluated, losses):
    folder = trained(tiny("some"))
    calls = losses()
    files.write_json(folder / "eval.json", {"babytalk": {}})  # and sample was to come
    distill.train(tiny("some"))
    files.write_json(folder / "eval.json", {"babytalk": {}, "sample": {}, "babytalk --limit=9": {}})
    distill.train(tiny("some"))
    (folder / "eval.json").unlink()
    distill.train(tiny("some"))
    assert evaluated == ["some"] * 3 and not calls and (folder / "eval.json").exists()


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
    refused(tiny("d", teachers=["d"]), "d needs d", "cannot need itself")
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
    assert "--grad_accum=4 or" in run.out_of_memory(tiny("some", batch_size=24, grad_accum=3))
    assert "a smaller block_size" in run.out_of_memory(tiny("some", batch_size=32, grad_accum=16))


def test_no_corpus_is_not_all_text_of_the_folder_one_is_in(tiny, tmp_path, monkeypatch):
    """As in --corpus=$TEXT, with TEXT unset."""
    (tmp_path / "notes.txt").write_text("the dog sees\n" * 2000)
    monkeypatch.chdir(tmp_path)
    refused(tiny("some", corpus=""), "corpus is empty")


def test_so_it_is_on_a_cpu_whose_allocator_has_an_error_of_its_own(tiny):
    refused(tiny("some", d_model=2**16, d_ff=2**20), "some: out of memory",
            "a smaller block_size or model")


def test_in_another_thread_signals_are_left_alone(tiny):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    ended = []
    thread = threading.Thread(target=lambda: ended.append(trained(tiny("some"))))
    thread.start()
    thread.join()
    assert ended and run.is_finished(ended[0])
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.slow
def test_a_compiled_run_compiles_stages_once(tiny):
    if not can_compile("cpu"):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    keys = dict(compile=True, block_size="stages(0: 4, 0.3: 8, 0.6: 16)", max_steps=6)
    compiled = trained(tiny("fast", **keys))
    plain = trained(tiny("slow", **{**keys, "compile": False}))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    for name, w in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], w, rtol=0, atol=1e-4)
