"""Fine-tuning: the recipe, what is learned, kept and refused, on rows made here."""
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import data
from bpe import Tokenizer
from onecoach import files, run, scoring
from onecoach.config import UserError
from runs import random_run
from tools import glue

TINY = dict(corpus="babytalk", n_layer=1, n_head=2, d_model=16, d_ff=32, block_size=64)
RTE = glue.TASKS["rte"]


@pytest.fixture
def make_run(make_config):
    """A run's folder with random weights and a tokenizer of bytes."""
    def make(**keys):
        config = make_config(**{**TINY, **keys})
        return random_run(config, Tokenizer([]), config.seed)
    return make


@pytest.fixture
def rows(tmp_path):
    """A folder with rte: the last letter says the label, 24 of 40 valid rows are 1."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "eval/glue_filtered"
    folder.mkdir(parents=True)
    for split, n in (("train", 150), ("valid", 40)):
        with open(folder / f"rte.{split}.jsonl", "w") as f:
            for i in range(n):
                label = int(i % 5 < 3)
                row = {"sentence1": "z" * int(rng.integers(1, 12)),
                       "sentence2": "x" * int(rng.integers(0, 3)) + "ab"[label], "label": label}
                f.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """A rate of learning at which 40 steps are enough for a random model."""
    monkeypatch.setattr(glue, "LR", 1e-2)


def small_model(labels=2, arch="llama"):
    torch.manual_seed(0)
    lm = glue.run.LM(glue.run.ModelConfig(arch=arch, vocab_size=259, n_layer=2, n_head=2,
                                          d_model=16, d_ff=32, block_size=64))
    return glue.Classifier(lm, labels).double()


def rows_of(*texts, labels=None):
    ids = [[1, *Tokenizer([]).encode(text)] for text in texts]
    return glue.Rows(ids, torch.tensor(labels or [0] * len(ids)), 0)


# ---------------------------------------------------------------- the recipe

@pytest.mark.parametrize("step, share", [(0, 0), (3, 0.5), (6, 1), (53, 0.1 + 0.9 / 2), (100, 0.1)])
def test_the_rate_rises_for_6_percent_and_falls_to_a_tenth(step, share):
    assert glue.learning_rate(step, 100) == pytest.approx(share * glue.LR)


def test_a_run_too_short_for_a_warmup_begins_at_the_peak():
    assert glue.learning_rate(0, 10) == glue.LR


@pytest.mark.parametrize("length", [9, 10, 512])
@pytest.mark.parametrize("first, second", [
    ("ab", "cd"), ("a" * 20, "b" * 3), ("a", "b" * 20), ("a" * 20, "b" * 20), ("a" * 20, "b" * 21),
    ("a" * 21, "b" * 20), ("", "b" * 20), ("a b", " c\nd")])
def test_a_pair_is_what_tokenizers_make_of_it(length, first, second):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(Tokenizer([]).to_json())
    theirs.enable_truncation(length)
    ids, whole = glue.encode_pair(Tokenizer([]), first, second, length)
    assert ids == theirs.encode(first, second).ids
    assert whole == (1 + len(first) + len(second) <= length)


def test_an_epoch_takes_every_row_once_in_whole_batches():
    epoch = glue.batches(70, 32, seed=42, epoch=0)
    assert epoch.shape == (2, 32) and len(np.unique(epoch)) == 64 and epoch.max() < 70
    assert (epoch == glue.batches(70, 32, 42, 0)).all()
    assert (epoch != glue.batches(70, 32, 42, 1)).any()
    assert (epoch != glue.batches(70, 32, 43, 0)).any()


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_head_reads_the_last_real_token(arch):
    model = small_model(arch=arch).eval()
    rows = rows_of("a", "abcdefgh", "abc")
    together = model(*glue.padded(rows, [0, 1, 2], "cpu"))
    for i, ids in enumerate(rows.ids):
        alone = model.head(model.lm(torch.tensor([ids]))[:, -1])
        assert torch.allclose(together[i], alone[0].float(), atol=1e-6)


def test_pieces_are_of_like_length_and_hold_every_row_once():
    ids = [[0] * n for n in (3, 9, 4, 1, 9, 2, 30)]
    pieces = list(scoring.by_length(range(7), ids, 18))
    assert pieces == [[6], [1, 4], [2, 0, 5, 3]]


def test_a_gradient_does_not_depend_on_its_pieces(monkeypatch):
    monkeypatch.setattr(glue, "DROPOUT", 0.0)
    rows = rows_of("a", "abcdefgh", "abc", "q", "xyz", labels=[0, 1, 1, 0, 1])
    gradients = []
    for tokens in (1, 12, 1000):
        monkeypatch.setitem(glue.PIECE, "cpu", tokens)
        model = small_model()
        glue.add_gradient(model, rows, [4, 0, 1, 2], "float32")
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])

    model = small_model()
    logits = model(*glue.padded(rows, [4, 0, 1, 2], "cpu"))
    F.cross_entropy(logits, rows.labels[[4, 0, 1, 2]]).backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    for one in gradients:
        assert len(one) == len(expected) > 10
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, expected))


# ---------------------------------------------------------------- figures

def test_figures_by_hand():
    labels = torch.tensor([1, 1, 1, 0, 0])
    found = glue.figures(torch.tensor([1, 1, 0, 1, 0]), labels, 2)
    assert found == {"accuracy": 0.6, "f1": pytest.approx(2 / 3)}  # precision and recall 2/3
    assert glue.figures(torch.zeros(5, dtype=torch.int64), labels, 2)["f1"] == 0
    assert glue.figures(labels, labels, 3) == {"accuracy": 1.0}


def test_the_majority_is_that_of_the_training_rows():
    train = rows_of("a", "b", "c", labels=[1, 0, 1])
    valid = rows_of("a", "b", "c", "d", labels=[0, 0, 0, 1])
    found = glue.majority(glue.Data(train, valid), RTE)
    assert found == {"accuracy": 0.25, "f1": pytest.approx(2 / 5)}


# ---------------------------------------------------------------- a run is fine-tuned

def command(folder, rows, *more):
    glue.main([str(folder), f"--data={rows.parent}", "--tasks=rte", "--device=cpu",
               "--dtype=float32", *more])
    return files.read_json(folder / "glue.json")


def test_a_separable_task_is_learned_and_done_once(make_run, rows, monkeypatch, capsys):
    folder = make_run()
    done = []
    finetune = glue.finetune

    def spy(lm, task, rows, seed, *more):
        done.append(seed)
        if len(done) == 2:
            raise KeyboardInterrupt
        return finetune(lm, task, rows, seed, *more)
    monkeypatch.setattr(glue, "finetune", spy)

    # interrupted in the second of three: the first is kept
    with pytest.raises(KeyboardInterrupt):
        command(folder, rows)
    first = files.read_json(folder / "glue.json")["rte"]
    assert [*first["seeds"]] == ["42"]
    entry = command(folder, rows)["rte"]
    assert done == [42, 43, 43, 44] and [*entry["seeds"]] == ["42", "43", "44"]
    assert entry["seeds"]["42"] == first["seeds"]["42"]
    assert entry["accuracy"] == 1.0 and entry["accuracy_spread"] == 0.0
    assert entry["majority"] == {"accuracy": 0.6, "f1": pytest.approx(0.75)}
    assert entry["train_rows"] == 150 and entry["valid_rows"] == 40
    assert len(entry["seeds"]["43"]["epochs"]) == 10

    # asked again: nothing is done, the table is shown
    capsys.readouterr()
    assert command(folder, rows)["rte"] == entry and len(done) == 4
    shown = " ".join(capsys.readouterr().out.split())
    assert "0 fine-tunings to do, 3 done before" in shown
    assert "rte 100.0% 0.0% 91.2% to 100.0% 60.0% 100.0% 100.0% 0.0% 75.0% 3 150 + 40" in shown

    # other weights: what was kept is of none of theirs
    make_run(seed=1)
    assert [*command(folder, rows, "--seeds=1")["rte"]["seeds"]] == ["42"]
    assert len(done) == 5


def test_the_same_seed_gives_the_same_and_another_another(make_run, rows, monkeypatch):
    monkeypatch.setattr(glue, "LR", 1e-3)  # not all is learned in two epochs
    lm, tokenizer, _ = run.load(make_run())
    both = glue.Data(*(glue.read_rows(rows / f"rte.{split}.jsonl", RTE, tokenizer, 512, 64)
                       for split in ("train", "valid")))
    before = [p.clone() for p in lm.parameters()]
    short = RTE._replace(epochs=2)
    results = [glue.finetune(lm, short, both, seed, "float32")
               for seed in (42, 42, 43)]
    assert results[0] == results[1] != results[2]
    assert all((a == b).all() for a, b in zip(before, lm.parameters()))  # a copy is trained


def test_a_part_has_its_own_place_and_says_so(make_run, rows, capsys):
    folder = make_run()
    found = command(folder, rows, "--seeds=1", "--limit=40")
    assert [*found] == ["rte --limit=40"] and found["rte --limit=40"]["train_rows"] == 40
    assert found["rte --limit=40"]["limit"] == 40
    shown = capsys.readouterr().out
    assert "rte --limit=40  " in shown and "40 + 40" in shown
    assert {*command(folder, rows, "--seeds=1")} == {"rte", "rte --limit=40"}


def test_predictions_have_the_challenges_form_and_join_what_is_there(make_run, rows, tmp_path):
    path = tmp_path / "predictions.json"
    before = {"blimp": {"a": {"predictions": [{"id": "a_0", "pred": "x"}]}},
              "glue": {"wsc": {"predictions": []}}}
    path.write_text(json.dumps(before))
    folder = make_run()
    command(folder, rows, "--seeds=1", f"--predictions={path}")
    labels = [json.loads(line)["label"] for line in open(rows / "rte.valid.jsonl")]
    expected = [{"id": f"rte_{i}", "pred": label} for i, label in enumerate(labels)]
    assert json.loads(path.read_text()) == {**before, "glue": {
        "wsc": {"predictions": []}, "rte": {"predictions": expected}}}

    # from what was kept, without training again
    path.unlink()
    command(folder, rows, "--seeds=1", f"--predictions={path}")
    assert json.loads(path.read_text()) == {"glue": {"rte": {"predictions": expected}}}


def test_of_several_epochs_the_best_is_kept(make_run, rows, monkeypatch):
    lm, tokenizer, _ = run.load(make_run())
    both = glue.Data(*(glue.read_rows(rows / f"rte.{split}.jsonl", RTE, tokenizer, 512, 40)
                       for split in ("train", "valid")))
    right = both.valid.labels
    answers = iter([1 - right, right, torch.ones_like(right)])
    monkeypatch.setattr(glue, "predict", lambda *_: next(answers))
    found = glue.finetune(lm, RTE._replace(epochs=3), both, 42, "float32")
    assert found["accuracy"] == 1 and found["epoch"] == 2 and found["last"] == 0.6
    assert found["predictions"] == "".join(map(str, right.tolist()))


def test_lengths_are_said(make_run, rows, capsys):
    long = {"sentence1": "y" * 600, "sentence2": "b", "label": 1}
    with open(rows / "rte.train.jsonl", "a") as f:
        f.write(json.dumps(long) + "\n")
    for arch, length in (("llama", 512), ("gpt2", 64)):
        folder = make_run(arch=arch, name=arch)
        args = glue.read_args([str(folder), f"--data={rows}"])
        lm, tokenizer, _ = run.load(folder)
        both = glue.read_data(args, tokenizer, length)
        assert [*both] == ["rte"] and max(map(len, both["rte"].train.ids)) == length
        shown = capsys.readouterr().out
        assert "40 rows to judge by; the challenge has 139" in shown
        assert "1 of 151 training rows" in shown and f"longer than {length} tokens" in shown
        assert "boolq is left out" in shown and "boolq.train.jsonl is missing" in shown
        assert lm(torch.tensor(both["rte"].train.ids[-1:])).shape == (1, length, 16)


# ---------------------------------------------------------------- what is refused

@pytest.mark.parametrize("line, words", [
    ("{", "line 3: not JSON"), ("[1]", "line 3: not a JSON object"),
    ('{"sentence1": "a", "label": 0}', "line 3: sentence2 is missing"),
    ('{"sentence1": "a", "sentence2": 1, "label": 0}', "line 3: sentence2 is missing, or not"),
    ('{"sentence1": "a", "sentence2": "b"}', "line 3: label = None names none of its 2"),
    ('{"sentence1": "a", "sentence2": "b", "label": 2}', "line 3: label = 2 names none"),
    ('{"sentence1": "a", "sentence2": "b", "label": -1}', "line 3: label = -1 names none"),
    ('{"sentence1": "a", "sentence2": "b", "label": true}', "line 3: label = True names none"),
])
def test_a_wrong_row_is_named_before_anything_is_trained(make_run, rows, line, words):
    whole = (rows / "rte.valid.jsonl").read_text().splitlines()
    (rows / "rte.valid.jsonl").write_text("\n".join([*whole[:2], line, *whole[2:]]))
    with pytest.raises(UserError, match=f"rte.valid.jsonl, {words}"):
        command(make_run(), rows)


@pytest.mark.parametrize("more, words", [
    (["--tasks=rte,cola"], "unknown task 'cola'; known are boolq, mnli"),
    (["--tasks=boolq"], "boolq.train.jsonl is missing: leave boolq out"),
    (["--data=nowhere", "--tasks="], "nowhere: no task has files"),
    (["--seeds=0"], "seeds >= 1"), (["--limit=-1"], "limit >= 0"), (["--lr=1"], "--lr=1"),
    (["--limit=5", "--predictions=x"], "leave out --limit"),
    (["--predictions=nowhere/x"], "nowhere/x: there is no folder nowhere"),
])
def test_a_users_mistakes_are_one_line(make_run, rows, more, words):
    with pytest.raises(UserError, match=words) as e:
        command(make_run(), rows, *more)
    assert "\n" not in str(e.value)


def test_what_is_damaged_is_named_before_anything_is_trained(make_run, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(glue, "finetune", None)
    folder = make_run()
    (tmp_path / "p.json").write_text("[")
    with pytest.raises(UserError, match="p.json: damaged"):
        command(folder, rows, f"--predictions={tmp_path / 'p.json'}")
    (folder / "glue.json").write_text("[")
    with pytest.raises(UserError, match="glue.json: damaged"):
        command(folder, rows)
    (rows / "rte.train.jsonl").write_text("\n")
    with pytest.raises(UserError, match="rte.train.jsonl: empty"):
        command(folder, rows)


def test_outputs_that_are_no_numbers_are_said(make_run, rows, monkeypatch):
    monkeypatch.setattr(glue, "LR", 1e30)
    with pytest.raises(UserError, match="not numbers"):
        command(make_run(), rows, "--seeds=1")


# ---------------------------------------------------------------- the challenge's own files

@pytest.mark.parametrize("name", glue.TASKS)
def test_the_challenges_rows_can_be_read(babylm, name):
    paths = [babylm / f"eval/glue_filtered/{name}.{split}.jsonl" for split in ("train", "valid")]
    task = glue.TASKS[name]
    for path in paths:
        if not path.exists():
            continue
        found = glue.read_rows(path, task, data.Tokenizer([]), 512, 300)
        assert {*found.labels.tolist()} == {*range(task.labels)}
        assert all(1 < len(ids) <= 512 for ids in found.ids)
    assert len(paths[1].read_bytes().splitlines()) == task.items
