"""signatures: each failure provoked, a sound run cleared; verdicts kept in eval.json and said."""
import json

import pytest
import torch

import losses
import rollouts
from onecoach import files, signatures, tables

SOUND = dict(entropy_q=2.0, entropy_p=2.0, q_on_top_1_of_p=0.4, q_on_top_1_of_q=0.4,
             p_on_top_1_of_p=0.4, ce=2.1, ce_teacher=2.0,
             bands={"common": dict(share=0.9, gap=0.1), "rare": dict(share=0.1, gap=0.12)})
WRITTEN = dict(distinct_2=0.5, repeated=0.0, never_ends=0.0)


def test_a_sound_run_has_no_signature():
    log = [dict(step=s, entropy_q=2.0, entropy_p=2.0, val_ce=3.0 - s / 10) for s in range(3)]
    verdicts = signatures.of_run(log, {"filler_gap": 0.9}, [
        signatures.averaged(SOUND, WRITTEN, WRITTEN), signatures.rare_lost(SOUND)])
    assert [v["found"] for v in verdicts] == [False] * 5
    assert len({v["name"] for v in verdicts}) == 5
    assert signatures.words("student s", verdicts)[0].startswith("student s: no sign of averaged")


@pytest.mark.parametrize("figures, written, found", [
    (dict(entropy_q=2.2, q_on_top_1_of_p=0.3), {}, True), ({}, dict(distinct_2=0.3), True),
    (dict(entropy_q=2.2), {}, False)])  # flatter alone
def test_averaged_output(figures, written, found):
    assert signatures.averaged(SOUND | figures, WRITTEN | written, WRITTEN).found == found


def test_rare_words_lost():
    bands = {"common": dict(share=0.9, gap=0.05), "rare": dict(share=0.1, gap=0.4)}
    assert signatures.rare_lost(SOUND | dict(bands=bands)).found
    bands["one word"] = dict(share=0.001, gap=9.0)  # too few to say
    bands["rare"]["gap"] = 0.1
    assert not signatures.rare_lost(SOUND | dict(bands=bands)).found


@pytest.mark.parametrize("log, words", [
    ([dict(step=1, entropy_q=0.1, entropy_p=2.0)], "entropy collapse"),
    ([dict(step=1, rollout_repeated=0.9)], "repetition"),
    ([dict(step=1, rollout_weight=20.0)], "exploding weights"),
    ([dict(step=1, skipped=3)], "3 steps skipped"),
    ([dict(step=1, val_ce=3.0), dict(step=2, val_ce=None)], "step 2: val_ce is nan"),
    ([dict(step=1, val_ce=3.0), dict(step=2, val_ce=3.2)], "val_ce 3.200 at the end, 3.000"),
])
def test_instability(log, words):
    verdict = signatures.unstable(log)
    assert verdict.found and words in verdict.said


@pytest.mark.parametrize("ce, is_overfitting", [(1.2, True), (4.1, True), (4.3, False), (7, False)])
def test_overfitting_is_no_instability(ce, is_overfitting):
    """val_ce rises while the training text is learned on; if that rises too it is instability."""
    log = [dict(step=100, ce=4.0, val_ce=4.2), dict(step=400, ce=ce), dict(step=400, val_ce=7.7)]
    verdict = signatures.overfitting(log)
    assert verdict.found == is_overfitting and signatures.unstable(log).found != is_overfitting
    assert "val_ce 7.700 at the end, 4.200 at step 100" in verdict.said
    best = signatures.overfitting(log[:2])
    assert not best.found and not signatures.unstable(log[:2]).found


def test_a_lost_paradigm_is_named():
    verdict = signatures.paradigms_lost({"filler_gap": 0.6, "pronoun_case": 0.99})
    assert verdict.found and "filler_gap 60.0%" in verdict.said and "pronoun" not in verdict.said


# ---------------------------------------------------------------- on every form of the loss

V, T, ROWS, K = 200, 16, 4, 8
STUDENTS = {  # logits of the student from the teacher's (n, V): what the log must say of it
    "uniform": (lambda z: 0 * z, ""),
    "unigram": (lambda z: z.mean(0).expand_as(z), ""),
    "young": (lambda z: 0.3 * z, ""),
    "half way": (lambda z: 0.6 * z, ""),
    "nearly there": (lambda z: 0.85 * z, ""),
    "teacher": (lambda z: z, ""),
    "a little sharp": (lambda z: 1.2 * z, ""),
    "collapsed": (lambda z: 8 * z, "entropy collapse"),
    "one word": (
        lambda z: torch.zeros_like(z).scatter(1, z.topk(1).indices, 20.0), "entropy collapse"),
}
FORMS = {"plain": {}, "tau": dict(tau=2.0), "mixed": dict(mix=0.5), "alpha": dict(alpha=0.5),
         "step": dict(reduction="step"), "sequence": dict(reduction="sequence"),
         "fkl": dict(divergence="fkl"), "stored": {}, "stored, tau": dict(tau=2.0),
         "stored, mixed": dict(mix=0.5), "token": {}, "reinforce": {}, "single_step": {}}


def log_line(form, student):
    """The figures that the loss of this form gives the log, of a teacher of some 2 nats."""
    torch.manual_seed(0)
    z_p = 2 * torch.randn(V).expand(ROWS * T, V) + 2.5 * torch.randn(ROWS * T, V)
    h = STUDENTS[student][0](z_p).view(ROWS, T, V)
    labels = torch.randint(0, V, (ROWS, T))
    keys = FORMS[form]
    teachers = [losses.head(z_p.view(ROWS, T, V), torch.eye(V))]
    if form in ("reinforce", "single_step"):
        log_q, log_p = (z.view(ROWS, T, V).log_softmax(-1).gather(2, labels[..., None])[..., 0]
                        for z in (h, z_p))
        rollout = rollouts.Rollout(labels, labels, log_q, log_p, log_q)
        rollout = rollout._replace(coefficients=rollouts.policy_coefficients(rollout, form))
        exact = float(form == "single_step")
        _, stats = rollouts.sequence_loss(h, torch.eye(V), teachers, rollout, exact,
                                          return_stats=True)
    else:
        if form.startswith("stored"):
            log_p = (z_p / keys.get("tau", 1.0)).log_softmax(-1)
            teachers = [losses.top_k(log_p, K)]
        _, stats = losses.distillation_loss(h, torch.eye(V), teachers, labels, T=T,
                                            return_stats=True, **keys)
    return {name: x.tolist() for name, x in stats.items()} | {"step": 1}


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("form", FORMS)
def test_what_is_said_of_a_student_does_not_depend_on_the_form_of_the_loss(form, student):
    line = log_line(form, student)
    said = "; ".join(signatures.failures(line))
    expected = STUDENTS[student][1]
    assert said.startswith(expected) and bool(said) == bool(expected), line
    assert signatures.unstable([line]).found == bool(expected)


# ---------------------------------------------------------------- kept, and said

def test_what_is_judged_anew_replaces_what_was_kept(tmp_path):
    before = signatures.of_run([dict(step=1, skipped=3)], {"filler_gap": 0.6})
    assert [verdict["found"] for verdict in before] == [True, False, True]
    anew = signatures.of_run([dict(step=1)], {})
    files.write_json(tmp_path / "eval.json", {"verdicts": before})
    kept = signatures.keep(tmp_path, anew)["verdicts"]
    found = {verdict["name"]: verdict["found"] for verdict in kept}
    assert found == {"instability or collapse": False, "overfitting": False,
                     "paradigms lost": True} and len(kept) == 3


def test_nothing_is_said_of_what_is_not_there():
    assert signatures.of_run([], {}) == []
    for results in ({}, {"babytalk": {"precision": 0.5}}, {"babytalk": [1]}):
        assert signatures.paradigms(results) == {}
    assert signatures.words("student s", []) == []


@pytest.mark.parametrize("verdicts", [
    None, 3, "found", [None], [{}], [{"name": 3, "said": "x"}], [{"name": "x", "found": True}]])
def test_a_damaged_file_has_no_verdicts(verdicts, tmp_path):
    assert tables.final_table([("s", {"verdicts": verdicts})]) == tables.final_table([("s", {})])
    files.write_json(tmp_path / "eval.json", {"verdicts": verdicts})
    assert signatures.keep(tmp_path, [])["verdicts"] == []


@pytest.mark.parametrize("line", [
    dict(entropy_p=2.0), dict(entropy_p=2.0, entropy_q="0.1"), dict(skipped="3"),
    dict(rollout_repeated=None), dict(val_ce=[])])
def test_a_damaged_log_is_no_instability(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(dict(step=1, **line)) + "\n")
    assert not signatures.unstable(files.read_metrics(path)).found
