"""The runs that a run needs: trained first, found, refused; and what a user can get wrong."""
import math
import re

import pytest
import torch

import data
import distill
import eval
import teacher
from onecoach import config, files, run
from runs import FILES, TINY, lines, refused, same, trained, weights, without_speed

pytestmark = pytest.mark.usefixtures("evaluated")


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
    assert table[0].split() == ["teacher", "baseline", "student"]
    assert table[1].split() == ["coach", "alone", "kid"]
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


@pytest.mark.parametrize("role, keys, words", [
    ("teacher", dict(seed=1), ["seed = 1 there, 0 here"]),
    ("init", dict(mark="none"), ["mark = 'none' there, 'line' here"]),
    ("baseline", dict(sentences=400), ["its text is another (corpus = 'babytalk' there"]),
    ("teacher", dict(sentences=400, seed=2), ["its text is another", "seed = 2 there"]),
    ("init", dict(vocab_size=300), ["its tokenizer is another"]),
    ("baseline", dict(vocab_size=300), ["its tokenizer is another"]),
])
def test_a_run_found_that_does_not_agree_is_refused(tiny, role, keys, words, evaluated):
    folder = trained(tiny("found", **keys))
    before = {p: p.read_bytes() for p in folder.iterdir()}
    refused(tiny("kid", **{"teacher": dict(teachers=["found"])}.get(role, {role: "found"})),
            f"{role} {folder} does not agree", *words, "--out_dir")
    assert before == {p: p.read_bytes() for p in folder.iterdir()}
    assert {p.name for p in folder.parent.iterdir()} == {"found"}


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
             if row.startswith(("steps trained", "words seen", "step of best.pt"))]
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
    folder = settings.folder
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


# ---------------------------------------------------------------- what a user can get wrong

@pytest.mark.parametrize("argument, words", [
    ("--learning=1", ["unknown key 'learning'"]),
    ("--corpus=nowhere/at/all", ["nowhere/at/all", "no text there"]),
    ("--corpus=EMPTY", ["empty.txt", "empty"]),
    ("--corpus=LATIN", ["latin.txt, line 2", "UTF-8"]),
    ("--vocab_size=50000", ["vocab_size = 50000", "fills only"]),
    ("--batch_size=50000", ["fewer than one batch of 50000 x 16", "batch_size"]),
    ("--block_size=100000", ["fewer than one batch"]),
    ("--tokenizer=nowhere.json", ["nowhere.json"]),
    ("--device=mps", ["device = 'mps'", "--device=auto"]),
])
def test_wrong_commands_are_one_line_and_leave_nothing(
        tiny, command, tmp_path, monkeypatch, argument, words):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n" * 100)
    tiny("some")
    for name in ("EMPTY", "LATIN"):
        argument = argument.replace(name, str(tmp_path / f"{name.lower()}.txt"))

    code, _, err = command(distill.main, tmp_path / "configs/some.py", argument,
                           f"--data_dir={tmp_path / 'data'}")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err
    left = [p.name for p in (tmp_path / "data").glob("*")] if (tmp_path / "data").exists() else []
    assert not (tmp_path / "out").exists()
    assert not [name for name in left if not name.startswith("babytalk-all-line-")]


def test_an_unfinished_teacher_without_a_config_is_said_to_be_one(tiny, unfinished, tmp_path):
    unfinished().rename(tmp_path / "out/mine")
    refused(tiny("kid", teachers=["mine"]), "run 'mine' in ", "not finished",
            "with the command that began it")


@pytest.mark.parametrize("keys, words", [
    (dict(baseline="nobody"), ["run 'nobody'", "nor has it a config"]),
    (dict(teachers=["coach", "nobody"]), ["run 'nobody'", "nor has it a config"]),
    (dict(baseline="other", of_other=dict(init="nobody")), ["baseline other: run 'nobody'"]),
    (dict(baseline="other", of_other=dict(batch_size=10**4)),
     ["baseline other: the corpus has", "fewer than one batch of 10000 x 16"]),
    (dict(teachers=["coach", "other"], of_other=dict(arch="gpt2", block_size=8)),
     ["teacher other is a GPT-2 of block_size 8", "block_size = 16"]),
    (dict(init="other", of_other=dict(d_model=32, n_layer=2)),
     ["init other does not fit the model of kid: n_layer = 2 there, 1 here; d_model = 32 there, "
      "16 here; set these as", "other.py has them"]),
    (dict(init="other", of_other=dict(n_head=4)), ["of kid: n_head = 4 there, 2 here; set these"]),
    (dict(init="other", of_other=dict(arch="gpt2")), ["arch = 'gpt2' there, 'llama' here; set"]),
    (dict(batch_size=10**4), ["fewer than one batch of 10000 x 16"]),
    (dict(corpus="train.txt", dev="dev.txt", vocab_size=300),
     ["the development text has", "one block of 16"]),
    (dict(teacher_cache=10**5, random_offset=False), ["vocabulary", "allowed are 0 to"]),
])
def test_what_can_be_known_is_refused_before_a_teacher_is_trained(
        tiny, losses, tmp_path, monkeypatch, keys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.txt").write_text("".join(f"the cat sees {i} dogs.\n" for i in range(3000)))
    (tmp_path / "dev.txt").write_text("the cat sees 3 dogs.\n")
    calls = losses()
    tiny("coach")
    keys = {"teachers": ["coach"], **keys}
    tiny("other", **keys.pop("of_other", {}))
    refused(tiny("kid", **keys), *words)
    assert not calls and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("real_evaluation")
@pytest.mark.parametrize("keys, words", [
    (dict(arch="gpt2"), ["longest line has 20 tokens", "block_size = 16"]),
    (dict(vocab_size=300), ["one token per word", "vocab_size = 0"])])
def test_so_is_what_the_truth_cannot_be_asked_of(tiny, keys, words):
    refused(tiny("some", **keys), *words)
    refused(tiny("kid", teachers=["truth"], baseline="some", **keys), *words)
    assert not tiny("some").folder.parent.exists()


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
    assert code == 0 and re.search(r"\n +model\n +kid\n", out) and "student" not in out
    assert len(calls) == 5
    assert {p.name for p in (tmp_path / "out/kid").iterdir()} == FILES - {"samples.txt"}
