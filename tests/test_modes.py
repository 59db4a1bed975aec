"""tools.modes: identities, sharpening told from mode-seeking, each failure signature provoked."""
import collections
import dataclasses
import math
import shutil
import types

import pytest
import torch

import babytalk
import distill
from bpe import Tokenizer, pre_tokens, train_bpe
from model import LM, ModelConfig
from onecoach import files, run
from onecoach.config import UserError
from tools import glue
from tools.hf import card
from tools.modes import __main__ as command
from tools.modes import curves, examine, measure, words, writing


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer for which every word of babytalk is one token."""
    text = "\n".join(babytalk.forms()) * 2
    return Tokenizer(train_bpe(collections.Counter(pre_tokens(text)), 0))


@pytest.fixture(scope="module")
def text(tokenizer):
    sequences = [[tokenizer.bos_id, *tokenizer.encode(line)] for line in babytalk.sample(40, 7)]
    bands = measure.frequency_bands(torch.arange(tokenizer.vocab_size).flip(0))
    return measure.Text(sequences, bands, torch.device("cpu"))


@pytest.fixture(scope="module")
def truth(tokenizer):
    return measure.true_next_word(tokenizer)


def some_lm(tokenizer, seed):
    """The distributions of a small model with random weights, of some nats."""
    torch.manual_seed(seed)
    lm = LM(ModelConfig(vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, d_model=16, d_ff=32,
                        block_size=32)).eval()
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return measure.next_word([lm])


def at_temperature(forward, temperature):
    return lambda ids: (forward(ids) / temperature).log_softmax(-1)


def with_noise(forward, share):
    """share of the mass spread evenly over the vocabulary: covering, and wrong at times."""
    def mixed(ids):
        p = forward(ids).exp()
        return ((1 - share) * p + share / p.shape[-1]).log()
    return mixed


def without_the_rare(forward, least):
    """What has less than `least` of the likeliest word's mass gets next to none."""
    def cut(ids):
        log_p = forward(ids)
        rare = log_p < log_p.amax(-1, keepdim=True) + math.log(least)
        return log_p.masked_fill(rare, -40.0).log_softmax(-1)
    return cut


# ---------------------------------------------------------------- identities

def test_what_two_distributions_have_between_them(tokenizer, text):
    figures = measure.measure(some_lm(tokenizer, 0), some_lm(tokenizer, 1), text)[0]
    about = pytest.approx
    assert figures["fkl"] == about(-figures["recall"] - figures["entropy_p"], abs=1e-4)
    assert figures["rkl"] == about(-figures["precision"] - figures["entropy_q"], abs=1e-4)
    assert figures["fkl"] > 0.1 and figures["rkl"] > 0.1
    assert 0 < figures["q_on_top_1_of_p"] < figures["p_on_top_1_of_p"] < 1
    bands = figures["bands"].values()
    assert sum(band["share"] for band in bands) == about(1)
    for name in ("ce", "gap", "rkl"):
        assert sum(band["share"] * band[name] for band in bands) == about(figures[name], abs=1e-5)
    assert figures["positions"] == sum(len(s) - 1 for s in text.sequences)


def test_a_student_that_is_its_teacher(tokenizer, text):
    lm = some_lm(tokenizer, 0)
    figures = measure.measure(lm, lm, text)[0]
    assert figures["fkl"] == figures["rkl"] == pytest.approx(0, abs=1e-6)
    assert figures["precision"] == figures["recall"] == pytest.approx(-figures["entropy_q"])
    assert all(band["gap"] == 0 for band in figures["bands"].values())


def test_calibration_error_and_mass_on_the_first_word_by_hand():
    sums = measure.Sums(torch.zeros(4, dtype=torch.long))
    log_q = torch.tensor([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0]]).clamp_min(1e-30).log()
    log_p = torch.tensor([[0.2, 0.8, 0, 0], [0.7, 0.3, 0, 0]]).clamp_min(1e-30).log()
    sums.add(log_q, log_p, torch.tensor([0, 1]))
    figures = sums.figures()
    assert figures["q_on_top_1_of_p"] == pytest.approx((0.1 + 0.6) / 2)
    assert figures["p_on_top_1_of_p"] == pytest.approx((0.8 + 0.7) / 2)
    # sure by 0.9 and right, sure by 0.6 and wrong: in two bins
    assert figures["calibration_error"] == pytest.approx((0.1 + 0.6) / 2)


def test_bands_go_by_rank():
    bands = measure.frequency_bands(torch.arange(200))  # the last is the most frequent
    assert bands[199] == bands[190] == 0 and bands[189] == bands[100] == 1 and bands[99] == 2


def test_a_student_that_is_the_truth_has_no_mass_outside(text, truth):
    _, found = measure.measure(truth, truth, text, truth)
    precision = found["truth"].means()[curves.AT_1, 1]
    assert precision.item() == pytest.approx(0, abs=1e-5)  # all of p* is inside


def test_dialects_are_told_apart():
    assert writing.share_of_dialect_a(["please feed a dog\n", "nonsense\n"]) == pytest.approx(1)
    assert writing.share_of_dialect_a(["feed a dog please\n"]) == 0
    assert writing.share_of_dialect_a(["tom sleeps\n"]) == pytest.approx(0.6)
    assert math.isnan(writing.share_of_dialect_a(["nonsense\n"]))


# ---------------------------------------------------------------- sharpening and mode-seeking

def compared(one, other, text, truth):
    first, second = (measure.measure(student, truth, text, truth)[1]
                     for student in (one, other))
    return curves.compare(first["truth"], second["truth"], "truth")


def test_a_model_and_its_sharpened_copy_are_one_curve(tokenizer, text, truth):
    covering = with_noise(truth, 0.1)
    found = compared(at_temperature(covering, 0.75), covering, text, truth)
    assert found["signs"] == [0, 0] and "sharpening alone" in found["said"]
    assert found["temperature"] == pytest.approx(0.75, abs=0.01)
    # without the match at equal entropy it would pass for mode-seeking
    plain = [measure.measure(s, truth, text, truth)[1]["truth"].means()[curves.AT_1]
             for s in (at_temperature(covering, 0.75), covering)]
    assert plain[0][1] > plain[1][1] + 0.01


@pytest.mark.parametrize("one, other, signs, said", [
    ((with_noise, 0.1), (with_noise, 0.1), [0, 0], "no difference"),
    ((without_the_rare, 0.02), (with_noise, 0.02), [1, -1], "mode-seeking beyond"),
    ((with_noise, 0.2), (with_noise, 0.02), [-1, -1], "its curve lies under")])
def test_effects_at_equal_entropy_are_called_by_name(text, truth, one, other, signs, said):
    found = compared(*(change(truth, share) for change, share in (one, other)), text, truth)
    assert found["signs"] == signs and found["said"].startswith(said)
    for axis in ("precision", "recall"):
        low, high = found[axis]["interval"]
        assert low <= found[axis]["mean"] <= high


def test_entropies_that_do_not_meet(tokenizer, text, truth):
    flat = at_temperature(truth, 1000)
    found = compared(truth, flat, text, truth)
    assert found["temperature"] is None and "precision" not in found
    assert "cannot be compared" in [*words.comparison_words({"truth": found})][0]


def test_a_curve_is_straight_between_temperatures():
    curve = curves.Curve([[0, 0, 0]])
    for t in range(len(curves.TEMPERATURES)):
        curve.sums[0, t] = torch.tensor([2.0 * t, -2.0 * t, 4.0])
    temperature, sums = curve.at_entropy(1.5)  # two tokens: half of the sums
    assert temperature == pytest.approx(0.575)
    assert sums.tolist() == [[-3, 4]]
    assert curve.at_entropy(1000) is None


def test_a_point_of_the_curve_is_the_distribution_at_that_temperature():
    torch.manual_seed(3)
    log_q, log_p = torch.randn(2, 1, 50).mul(3).log_softmax(-1)
    curve = curves.Curve([[0, 0]])
    curve.add(torch.tensor([0]), log_q, log_p, log_p.exp())
    for t in (0, 7, 20):
        log_q_t = (log_q / curves.TEMPERATURES[t]).log_softmax(-1)
        q = log_q_t.exp()
        expected = [-(q * log_q_t).sum(), (q * log_p).sum(), (log_p.exp() * log_q_t).sum()]
        assert curve.means()[t].tolist() == pytest.approx(torch.stack(expected).tolist(), abs=1e-5)


# ---------------------------------------------------------------- what is written

def test_diversity_by_hand():
    figures = writing.diversity([[1, 2, 3, 4], [], [1, 2, 1, 2, 1, 2, 1, 2]], newline=4)
    assert figures["distinct_2"] == pytest.approx(4 / 10)
    assert figures["never_ends"] == 0.5
    assert figures["mean_length"] == 6
    assert figures["repeated"] == pytest.approx(3 / 6)  # of 1 + 5 4-grams


# ---------------------------------------------------------------- the command

def test_the_command(demo_runs, capsys, monkeypatch):
    monkeypatch.setattr(examine, "LINES", 60)
    monkeypatch.setattr(writing, "WRITTEN", 20)
    folders = [str(demo_runs / name) for name in ("base_demo", "fkl_demo", "rkl_demo")]
    command.main(folders)
    said = capsys.readouterr().out
    result = files.read_json(demo_runs / "rkl_demo/modes.json")
    assert set(result["against"]) == set(folders[:2])
    assert result["teacher"] == "llama_demo"
    assert files.read_json(demo_runs / "base_demo/modes.json")["teacher"] == "llama_demo"
    assert f"beside {folders[1]}, against the truth: " in said
    assert all(verdict["name"] in said for verdict in result["verdicts"])
    assert len(result["verdicts"]) == 4
    assert files.read_json(demo_runs / "rkl_demo/eval.json")["verdicts"] == result["verdicts"]
    assert f"{result['figures']['rkl']:.4f}" in said
    curve = result["curves"]["truth"]
    assert curve["entropy"] == sorted(curve["entropy"]) and len(curve["recall"]) == 21


def test_another_text_cannot_be_compared(demo_runs, tmp_path):
    """Nor is a teacher of another one a run's own; of unknown text, imported ones, all are."""
    def read_text(name, digest):
        path = tmp_path / "runs" / name / "config.json"
        files.write_json(path, files.read_json(path) | {"_text": digest})

    names = ("llama_demo", "base_demo", "rkl_demo")
    for name in names:
        shutil.copytree(demo_runs / name, tmp_path / "runs" / name)
    base, student = (tmp_path / "runs" / name for name in names[1:])
    read_text("base_demo", "another")
    with pytest.raises(UserError, match="base_demo was trained on other text than .*rkl_demo"):
        examine.examine([base, student])
    read_text("base_demo", "")
    assert [coached.folder for _, coached in examine.load_all([base, student])] == [student] * 2
    read_text("llama_demo", "another")
    with pytest.raises(UserError, match="llama_demo was trained on other text than .*rkl_demo"):
        examine.examine([student])


def test_a_teacher_that_was_trained_again_is_refused_by_all_that_read_it(demo_runs, tmp_path,
                                                                         capsys):
    for name in ("llama_demo", "base_demo", "rkl_demo"):
        shutil.copytree(demo_runs / name, tmp_path / name)
    student = tmp_path / "rkl_demo"
    assert run.changed_needs(student) == []
    path = tmp_path / "llama_demo/best.pt"
    torch.save(torch.load(path) | {"step": 5}, path)
    assert run.changed_needs(student) == ["llama_demo"]
    with pytest.raises(UserError, match="llama_demo was trained again after .*rkl_demo"):
        examine.examine([student])

    model, _, config = run.load(student)
    assert "| teacher llama_demo, trained again since | not known" in card.card(student, "best",
                                                                                model)
    config = dataclasses.replace(config, out_dir=str(tmp_path))
    distill.report(types.SimpleNamespace(config=config, folder=student, is_finished=True, steps=8))
    assert "this llama_demo did not teach it" in capsys.readouterr().out


def test_a_run_of_a_gpu_is_examined_without_one(demo_runs, tmp_path, monkeypatch):
    for name in ("llama_demo", "rkl_demo"):
        shutil.copytree(demo_runs / name, tmp_path / name)
        path = tmp_path / name / "config.json"
        files.write_json(path, files.read_json(path) | {"device": "cuda"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (subject, _), = examine.load_all([tmp_path / "rkl_demo"])
    assert examine.choose_text(subject).device.type != "cuda"


def test_texts_of_as_many_blocks_are_not_the_same_text(tokenizer):
    def student(sequences):
        return types.SimpleNamespace(subject=types.SimpleNamespace(tokenizer=tokenizer),
                                     text=measure.Text(sequences, None, None))
    one, same, other = (student([ids]) for ids in ([1, 5, 6], [1, 5, 6], [1, 6, 5]))
    assert examine.comparable(one, same) and not examine.comparable(one, other)


def test_a_run_without_a_teacher_is_measured_by_the_truth(demo_runs, monkeypatch, capsys):
    monkeypatch.setattr(examine, "LINES", 30)
    monkeypatch.setattr(writing, "WRITTEN", 10)
    command.main([str(demo_runs / "base_demo")])
    assert "base_demo, teacher truth" in capsys.readouterr().out
    result = files.read_json(demo_runs / "base_demo/modes.json")
    assert result["teacher"] == "truth" and set(result["curves"]) == {"teacher", "truth"}


def test_without_a_teacher_figures_are_the_students_own(tokenizer, text):
    lm = some_lm(tokenizer, 0)
    alone, curves_ = measure.measure(lm, None, text)
    both = measure.measure(lm, some_lm(tokenizer, 1), text)[0]
    assert curves_ == {}
    names = {"ce", "entropy_q", "calibration_error", "positions"}
    assert set(alone) == names | {"bands"}
    assert {name: both[name] for name in names} == {name: alone[name] for name in names}
    assert all(set(band) == {"share", "ce", "entropy_q"} for band in alone["bands"].values())


def test_a_run_that_cannot_be_written_to_is_refused_before_any_work(demo_runs, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    monkeypatch.setattr(examine, "measure", None)
    with pytest.raises(UserError, match="rkl_demo cannot be written to"):
        examine.examine([demo_runs / "rkl_demo"])
    with pytest.raises(UserError, match="rkl_demo cannot be written to"):
        glue.main([str(demo_runs / "rkl_demo"), "--data=nowhere"])


def test_what_cannot_be_compared(demo_runs):
    with pytest.raises(UserError, match="given twice"):
        examine.examine([demo_runs / "rkl_demo", demo_runs / "../runs/rkl_demo"])
    with pytest.raises(UserError, match="is not a run"):
        examine.examine([demo_runs / "nothing"])
