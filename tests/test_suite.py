"""The suite: candidates by hand, means, ties, chance, predictions, two runs, a user's mistakes."""
import csv
import dataclasses
import json
import math
import re
import shutil
import types

import numpy as np
import pytest
import torch

import distill
import eval
from bpe import Tokenizer
from onecoach import files, run, scoring, suite, tables
from onecoach.config import UserError
from onecoach.exam import answer
from runs import random_run, refusal, small_lm


def row(**values):
    return suite.Row(values, "rows.jsonl, line 1", "rows")


def about(value, tolerance=1e-6):
    return pytest.approx(value, abs=tolerance)


def write_rows(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))


# ---------------------------------------------------------------- candidates

def test_candidates_of_ewok():
    item = suite.ewok(row(Domain="social-properties", Context1="It rains.", Context2="It is dry.",
                          Target1="The grass is wet.", Target2="The grass is brown."))
    assert item.candidates == [("It rains.", " The grass is wet."),
                               ("It is dry.", " The grass is wet.")]
    assert item.candidates_2025 == [("It rains.", " The grass is wet."),
                                    ("It rains.", " The grass is brown.")]
    assert [item.say(i) for i in (0, 1)] == ["It rains. The grass is wet.",
                                             "It is dry. The grass is wet."]


def test_candidates_of_entity_tracking_and_what_is_left_out():
    values = dict(input_prefix="Box 0 contains", numops=2, options=[" the cup.", " the pen."])
    item = suite.entity_tracking(row(**values))
    assert item.candidates == [("Box 0 contains", " the cup."), ("Box 0 contains", " the pen.")]
    assert (item.group, item.field) == ("rows_2_ops", "rows")
    values["options"] = [" the cup.", " nothing."]
    assert suite.entity_tracking(row(**values)) is None


def test_candidates_of_comps():
    values = dict(prefix_acceptable="A dog", prefix_unacceptable="A cup", property_phrase="barks.")
    item = suite.comps(suite.Row(values, "", "comps_wugs_dist-before"))
    assert item.candidates == [("A dog ", "barks."), ("A cup ", "barks.")]
    assert item.say(1) == "A cup barks." and item.group == "wugs_dist_before"


def test_candidates_of_global_piqa():
    values = dict(prompt="To boil:", example_id="eng_7", label=1, solution0="heat", solution1="ice",
                  solution2="sing", solution3="run")
    item = suite.global_piqa(4)(row(**values))
    assert item.candidates[2] == ("To boil:", " sing") and len(item.candidates) == 4
    assert item.right == 1 and item.id == "eng_7"
    assert len(suite.global_piqa(2)(row(**values)).candidates) == 2
    values["label"] = 2
    with pytest.raises(UserError, match="line 1: label = 2 names none of its 2 options"):
        suite.global_piqa(2)(row(**values))


def test_candidates_of_choice():
    item = suite.choice(row(prefix="", options=["yes", "no", "both"], right=2))
    assert item.candidates == [("", "yes"), ("", "no"), ("", "both")] and item.right == 2


@pytest.mark.parametrize("name, content, words", [
    ("choice", dict(prefix="a", options=["b"], right=0), "line 2: options is not a list of two"),
    ("choice", dict(prefix="a", options=["b", " "], right=0), "line 2: options is empty"),
    ("choice", dict(prefix="a", options=["b", "c"], right=2), "line 2: right = 2 names none of it"),
    ("choice", dict(prefix="a", options=["b", "c"], right=True), "line 2: right = True names none"),
    ("comps", dict(prefix_acceptable="a", prefix_unacceptable="b", property_phrase=""),
     "line 2: property_phrase is empty"),
    ("ewok", dict(Domain="d", Context1="a", Context2="b", Target1="c"), "Target2 is missing"),
    ("entity_tracking", dict(input_prefix="a", options=["b", "c"], numops="2"), "line 2: numops"),
    ("entity_tracking", dict(input_prefix="a", options=["b", "nothing"], numops=2), "none of its"),
    ("blimp", b'{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": "a"}',
     "line 2: sentence_bad is missing"),
    ("blimp", b'\n{"sentence_good": " \\n", "sentence_bad": "a"}', "line 2: sentence_good is em"),
    ("blimp", b"[1, 2]", "line 1: not a JSON object"), ("blimp", b"{oops", "line 1: not JSON"),
    ("blimp", b"[" * 100_000, "line 1: not JSON"), ("blimp", b"\xff\xfe{}", "line 1: not JSON"),
    ("blimp", b"\n\n", "bad.jsonl: empty"),
])
def test_a_row_that_is_wrong_is_named_by_file_and_line(tmp_path, name, content, words):
    folder = tmp_path / suite.TASKS[name].folder
    folder.mkdir()
    if isinstance(content, dict):
        content = ("\n" + json.dumps(content) + "\n").encode()
    (folder / "bad.jsonl").write_bytes(content)
    where = f"{folder / 'bad.jsonl'}, line" if "line" in words else str(folder)
    with refusal(words, where):
        suite.read(name, tmp_path)


def item(group="g", field=None, k=2, right=0):
    return suite.Item(group, [("", str(i)) for i in range(k)], right, field)


def test_a_tie_is_shared_among_those_that_are_level():
    scores = [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0 + 1e-5], [-3, -3, -3], [-1, -1, -2]]
    assert suite.shares(scores, [0, 0, 0, 1, 2]).tolist() == about([1, 0, 0.5, 1 / 3, 0])
    assert suite.shares([[-math.inf, -math.inf]], [0]).tolist() == [0.5]
    assert suite.shares([[-math.inf, -5.0]], [0]).tolist() == [0]
    assert suite.chosen(scores[:2]).tolist() == [0, 1]
    many = suite.chosen([[0.0, 0.0, -1.0]] * 2000)
    assert set(many) == {0, 1} and 0.45 < many.mean() < 0.55  # ties at random, of a seed
    assert many.tolist() == suite.chosen([[0.0, 0.0, -1.0]] * 2000).tolist()


def test_means_over_groups_and_over_fields():
    items = [item("a_0", "a"), item("a_0", "a"), item("a_1", "a"), item("b_0", "b")]
    share = np.array([1, 0.5, 0, 1])
    groups = suite.accuracies(items, share)
    assert groups["accuracy"] == about((0.75 + 0 + 1) / 3) and groups["n"] == 4
    assert groups["ties"] == about(0.5 / 3) and "official_2025" not in groups
    fields = suite.accuracies(items, share, "fields", share > 0)
    assert fields["accuracy"] == about(((0.75 + 0) / 2 + 1) / 2)
    assert fields["official_2025"] == about(((1 + 0) / 2 + 1) / 2)
    assert fields["fields"] == {"a": 0.375, "b": 1}


@pytest.mark.parametrize("k, right, marked", [(2, 55, True), (2, 65, False), (2, 35, False),
                                              (5, 25, True), (5, 35, False)])
def test_what_is_at_chance_is_marked(k, right, marked):
    share = np.arange(100) < right
    figures = suite.accuracies([item(k=k)] * 100, share)
    assert figures["chance"] == about(1 / k) and figures["at_chance"] is marked


def test_partial_r2_is_the_squared_partial_correlation():
    rng = np.random.default_rng(0)
    a, b, x = rng.normal(size=(3, 200))
    y = a - 2 * b + 0.5 * a * b + 0.3 * x + rng.normal(size=200)
    r2, n, k = suite.partial_r2(np.append(y, math.nan), [np.append(a, 1), np.append(b, 1)],
                                np.append(x, 1))
    X = np.stack([np.ones(200), a, b, a * b], 1)
    projection = X @ np.linalg.pinv(X)
    left_y, left_x = y - projection @ y, x - projection @ x
    assert (n, k) == (200, 4) and r2 == about(np.corrcoef(left_y, left_x)[0, 1]**2)
    with pytest.raises(UserError, match="too few"):
        suite.partial_r2(y[:6], [a[:6], b[:6]], x[:6])


# ---------------------------------------------------------------- two runs

@pytest.mark.parametrize("b, c", [(0, 0), (5, 1), (1, 5), (3, 3), (12, 30), (2000, 2100)])
def test_mcnemar_is_the_binomial_tail(b, c):
    n = b + c
    tail = sum(math.comb(n, i) for i in range(min(b, c) + 1)) * 2
    assert suite.mcnemar(b, c) == pytest.approx(min(1.0, tail / 2**n), rel=1e-6)


def test_comparison_is_paired_and_by_field():
    items = [item("u", "syntax")] * 4 + [item("v", "other")] * 2
    ours = np.array([1, 1, 1, 0, 0.5, 1])
    theirs = np.array([1, 0, 0, 0, 1, 1])
    figures = suite.compared(items, ours, theirs)
    assert figures["difference"] == about((0.5 - 0.25) / 2)
    assert (figures["better"], figures["worse"], figures["n"]) == (2, 1, 6)
    assert figures["p"] == about(1.0)
    syntax = figures["fields"]["syntax"]
    assert (syntax["difference"], syntax["better"], syntax["worse"]) == (0.5, 2, 0)
    assert syntax["p"] == about(0.5) and list(figures["fields"]) == ["syntax", "other"]


# ---------------------------------------------------------------- what is scored

@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer([])  # bytes


def test_a_gpt2s_context_loses_its_beginning_and_that_is_counted(tokenizer):
    lm = small_lm(tokenizer, "gpt2", block_size=8)
    sums, tokens, cut = scoring.score_all(lm, tokenizer, ["abcdefghij", "j"], ["klm", "klm"])
    assert cut == 1 and tokens.tolist() == [3, 3]
    assert sums[0].item() == about(eval.score(lm, tokenizer, ["fghij"], ["klm"]).item(), 1e-5)
    with pytest.raises(UserError, match="9 tokens, longer than this GPT-2's block_size 8"):
        eval.score(lm, tokenizer, ["ab"], ["abcdefghi"])


class Counts:
    """A yardstick that is no network: a text is likelier the fewer of its tokens are "b"."""

    def __init__(self, tokenizer):
        self.b = tokenizer.encode("b")[0]

    def sum_log_probs(self, sequences, starts):
        counts = [sum(i == self.b for i in ids[start:]) for ids, start in zip(sequences, starts)]
        return -torch.tensor(counts, dtype=torch.float64)


def test_global_piqa_takes_the_mean_a_token_and_choice_both(tokenizer):
    model = Counts(tokenizer)
    # one b of 2 tokens, against two of 8: worse a token, better in sum
    candidates = [("", "ba"), ("", "bbaaaaaa")]
    items = [suite.Item("g", candidates, 0, id="x"), suite.Item("g", candidates, 1, id="y")]
    piqa = answer("global_piqa_nonparallel", items, model, tokenizer)
    assert piqa.share.tolist() == [0, 1]
    assert piqa.said["x"] == {"predictions": [{"id": "x_0", "pred": "bbaaaaaa"}]}
    plain = answer("choice", items, model, tokenizer)
    assert plain.share.tolist() == [1, 0]
    assert plain.result["per_byte"]["accuracy"] == 0.5 == plain.result["accuracy"]


def test_ewok_by_the_rule_of_2026_and_of_2025(tokenizer):
    values = dict(Domain="d", Context1="ba", Context2="aa", Target1="b", Target2="a")
    items = [suite.ewok(row(**values))]
    answers = answer("ewok", items, Counts(tokenizer), tokenizer)
    assert answers.result["accuracy"] == 0.5  # " b" after either context is as likely
    assert answers.result["official_2025"] == 0  # " a" is likelier than " b"
    assert answers.said["d"]["predictions"][0]["pred"] in ("ba b", "aa b")


COLUMNS = [*suite.EYES, suite.SELF_PACED, *suite.COVARIATES, "prev_length", "item", "word",
           "prev_item", "prev_word"]


def write_reading(path, n=60, **cells):
    """Reading times that grow with a word's number of b, beside noise; cells: of the second row."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        for i in range(n):
            b, before = rng.integers(1, 6, 2)
            values = {column: f"{rng.normal():.4f}" for column in COLUMNS}
            times = {m: f"{b + rng.normal():.4f}" for m in (*suite.EYES, suite.SELF_PACED)}
            writer.writerow({**values, **times, "item": "a", "word": "b" * b, "prev_item": "a",
                             "prev_word": "b" * before, **(cells if i == 1 else {})})


def test_reading_is_the_surprisal_of_a_word_and_the_one_before(tokenizer, tmp_path):
    write_reading(tmp_path / "reading/reading_data.csv", prev_item="", item="None", RTgopast="")
    items = suite.read("reading", tmp_path)
    (context, word), = items[1].candidates  # and no word before it
    assert context == "None" and word == " " + word.strip()
    answers = answer("reading", items, Counts(tokenizer), tokenizer)
    result = answers.result
    assert 0.3 < result["eye_tracking"]["r2"] < 0.95 and not result["eye_tracking"]["at_chance"]
    assert result["measures"]["RTgopast"]["n"] == 59 and result["self_paced"]["n"] == 59
    lines = answers.said["reading"]["predictions"]
    assert lines[0]["id"] == 0 and lines[0]["pred"] == items[0].say(0).count("b")
    assert math.isnan(lines[1]["prev_pred"]) and not math.isnan(lines[2]["prev_pred"])


def test_reading_times_that_are_none(tmp_path):
    write_reading(tmp_path / "reading/reading_data.csv", RTfirstfix="fast")
    for content, words in ((None, "row 2: RTfirstfix = 'fast'"),
                           (b"item,word\na,b\n", "no column RTfirstfix"), (b"\xff\xfe", "UTF-8")):
        if content:
            (tmp_path / "reading/reading_data.csv").write_bytes(content)
        with pytest.raises(UserError, match=words):
            suite.read("reading", tmp_path)
    with pytest.raises(UserError, match="--data=DIR"):
        suite.read("reading", tmp_path / "nowhere")


# ---------------------------------------------------------------- the command

@pytest.fixture
def exam(tmp_path):
    """A folder of rows in the challenge's form, all of them made here."""
    root = tmp_path / "eval"
    write_rows(root / "blimp_filtered", "one", [
        dict(sentence_good=f"a{i}", sentence_bad=f"b{i}", UID="one", field="syntax")
        for i in range(4)])
    write_rows(root / "comps", "comps_base", [
        dict(prefix_acceptable="a", prefix_unacceptable="b", property_phrase=f"is {i}")
        for i in range(3)])
    write_rows(root / "entity_tracking", "regular", [
        dict(input_prefix="a b c", options=[" x", " y", " z"], numops=i % 2) for i in range(4)])
    return root


def folder_of_run(folder, tokenizer, make_config, seed=0):
    return random_run(make_config(name=folder.name, out_dir=str(folder.parent), n_layer=1, n_head=2,
                                  d_model=16, d_ff=16, block_size=32), tokenizer, seed)


@pytest.fixture
def two_runs(tmp_path, tokenizer, make_config):
    return [folder_of_run(tmp_path / "out" / name, tokenizer, make_config, seed)
            for seed, name in enumerate(("one", "two"))]


def test_one_command_gives_table_comparison_and_predictions(two_runs, exam, tmp_path, capsys):
    one, two = two_runs
    said = tmp_path / "predictions.json"
    said.write_text('{"glue": {"rte": 1}, "blimp": "of an earlier call"}')
    eval.main([str(one), "--tasks=blimp,comps,entity_tracking", f"--data={exam}",
               f"--against={two}", f"--predictions={said}"])
    shown = capsys.readouterr().out
    assert "blimp is not whole, or not the challenge's: items: 4 of 59,875" in shown
    assert "against two" in shown and "McNemar's p" in shown and "overall" not in shown
    results = files.read_json(one / "eval.json")
    assert results[f"entity_tracking --data={exam}"]["chance"] == about(1 / 3)
    assert results[f"comps --data={exam}"]["lacks"] == ["items: 3 of 91,028"]
    assert not (two / "eval.json").exists()

    predictions = json.loads(said.read_text())
    assert predictions.pop("glue") == {"rte": 1}  # what tools.glue put there stays
    assert list(predictions) == ["blimp", "comps", "entity_tracking_filtered"]
    lines = predictions["blimp"]["one"]["predictions"]
    assert [line["id"] for line in lines] == ["one_0", "one_1", "one_2", "one_3"]
    assert [line["pred"] in (f"a{i}", f"b{i}") for i, line in enumerate(lines)] == [True] * 4
    assert predictions["comps"]["base"]["predictions"][1]["pred"] in ("a is 1", "b is 1")
    assert set(predictions["entity_tracking_filtered"]) == {"regular_0_ops", "regular_1_ops"}
    right = sum(line["pred"].startswith("a") for line in lines)
    assert right / 4 == results[f"blimp --data={exam}"]["accuracy"]
    assert "a submission of 2026 also holds blimp_supplement (eval.py), ewok (eval.py), gl" in shown
    assert "fast_eval_results (the organisers' code), aoa (the organisers' code)" in shown
    assert "glue (tools.glue)" not in shown  # it is there


def test_a_set_of_ones_own_is_named_by_its_folder(two_runs, tmp_path, monkeypatch, capsys):
    """In eval.json and the last table; a task's bare name is for all of the challenge's items."""
    for name, n in (("mine.v2", 5), ("yours", 3)):
        write_rows(tmp_path / name / "choice", "rows", [
            dict(prefix="", options=[f"a{i}", f"b{i}"], right=0) for i in range(n)])
        write_rows(tmp_path / name / "blimp_filtered", "rows", [
            dict(sentence_good=f"a{i}", sentence_bad=f"b{i}", field="f") for i in range(n)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(suite.TASKS, "blimp",
                        dataclasses.replace(suite.TASKS["blimp"], size=3))  # yours is the whole
    for data in ("mine.v2", "yours"):
        results = eval.evaluate(two_runs[0], ["choice", "blimp"], data=data)
    eval.evaluate(two_runs[0], ["blimp"], data="mine.v2", limit=2)
    assert {slot: result["n"] for slot, result in results.items() if slot.partition(" ")[0] in (
        "choice", "blimp")} == {"choice --data=mine.v2": 5, "blimp --data=mine.v2": 5,
                                "choice --data=yours": 3, "blimp": 3}
    shown = tables.final_table([("run", results)])
    lines = dict(re.split(r"  +", line) for line in shown.splitlines() if line.endswith("%"))
    for title, slot in (("choice, mine.v2", "choice --data=mine.v2"), ("BLiMP", "blimp"),
                        ("choice, yours", "choice --data=yours"),
                        ("BLiMP, mine.v2", "blimp --data=mine.v2")):
        assert lines[title] == f"{results[slot]['accuracy']:.1%}"
    assert ("run: blimp --data=mine.v2 is not whole, or not the challenge's: items: 5 of 3"
            in " ".join(shown.split()))
    whole = capsys.readouterr().out.split("the tasks of")
    assert "BLiMP, mine.v2" in whole[1] and "BLiMP, yours" not in whole[2]


def yardstick(folder, tokenizer, tasks, exam):
    """The folder ngram-5 next to a run's, with figures of a model that is no network."""
    ngram = folder.with_name("ngram-5")
    ngram.mkdir(exist_ok=True)
    subject = eval.Subject(ngram, Counts(tokenizer), tokenizer, run.load(folder)[2])
    eval.evaluate(subject, tasks, data=str(exam))
    return ngram


def test_a_yardstick_beside_the_run_stands_in_its_table(two_runs, exam, tokenizer, capsys):
    """Also where a limit is given: reading is whole whatever it is."""
    one, _ = two_runs
    write_reading(exam / "reading/reading_data.csv")
    ngram = yardstick(one, tokenizer, ["blimp", "reading"], exam)
    assert files.read_json(ngram / "eval.json")[f"blimp --data={exam}"]["accuracy"] == 1
    capsys.readouterr()
    eval.evaluate(one, ["blimp"], data=str(exam))
    table = capsys.readouterr().out.rsplit("the tasks of", 1)[1].splitlines()
    assert table[1].endswith("ngram-5 ") or table[1].endswith("ngram-5")
    assert "100.0%" in table[2]

    results = eval.evaluate(one, ["reading"], data=str(exam), limit=2)
    result = results[f"reading --data={exam}"]
    assert result["n"] == 60 and result["lacks"] == ["items: 60 of 1,726"]
    assert "ngram-5" in capsys.readouterr().out.rsplit("the tasks of", 1)[1].splitlines()[1]

    results = files.read_json(ngram / "eval.json")
    results[f"blimp --data={exam}"]["tokenizer"] = "another"
    files.write_json(ngram / "eval.json", results)
    eval.evaluate(one, ["blimp"], data=str(exam))
    assert "is not shown: its eval.json is of another tokenizer" in capsys.readouterr().out


def test_a_run_of_another_tokenizer_is_refused(two_runs, exam, tmp_path, make_config):
    other = folder_of_run(tmp_path / "else/three", Tokenizer([(b"a", b"b")]), make_config)
    with refusal("another tokenizer"):
        eval.evaluate(two_runs[0], ["blimp"], data=str(exam), against=str(other))
    assert not (two_runs[0] / "eval.json").exists()


def read_text(folder, digest):
    path = folder / "config.json"
    files.write_json(path, files.read_json(path) | {"_text": digest})


def test_other_text_is_said_where_figures_stand_side_by_side(two_runs, exam, tokenizer, capsys):
    one, two = two_runs
    ngram = yardstick(two, tokenizer, ["blimp"], exam)
    shutil.copy(two / "config.json", ngram)
    for ours, theirs, differs in (("a", "b", True), ("a", "a", False), ("a", "", False)):
        read_text(one, ours)
        read_text(two, theirs)
        read_text(ngram, theirs)
        capsys.readouterr()
        eval.evaluate(one, ["blimp"], data=str(exam), against=str(two))
        shown = capsys.readouterr().out
        assert ("two was trained on other text than" in shown) == differs
        assert ("ngram-5 is not shown: its eval.json is of another" in shown) == differs
        table = shown.rsplit("the tasks of", 1)[1].splitlines()[1]
        assert ("ngram-5" in table) != differs and table.split()[-1] == "two"


def test_predictions_of_a_part_are_refused(two_runs, exam, tmp_path):
    with pytest.raises(UserError, match="leave out --limit"):
        eval.evaluate(two_runs[0], ["blimp"], data=str(exam), limit=1,
                      predictions=str(tmp_path / "p.json"))
    with pytest.raises(UserError, match="there is no folder"):  # before hours of scoring
        eval.evaluate(two_runs[0], ["blimp"], data=str(exam),
                      predictions=str(tmp_path / "nowhere/p.json"))
    (tmp_path / "p.json").write_text("[1]")
    for path, words in (("p.json", "not a JSON object"), ("out", "Is a directory")):
        with pytest.raises(UserError, match=words):  # what it would be added to
            eval.evaluate(two_runs[0], ["blimp"], data=str(exam), predictions=str(tmp_path / path))
    with pytest.raises(UserError, match="--tasks=suite"):
        eval.evaluate(two_runs[0], ["ppl"], against=str(two_runs[1]))
    assert not (two_runs[0] / "eval.json").exists()


def test_what_of_the_suite_is_not_there_is_named_at_once(two_runs, exam):
    with refusal("nothing of supplement, ewok, global_piqa_parallel, global_piqa_nonpar",
                 "what is there: --tasks=blimp,entity_tracking,comps"):
        eval.evaluate(two_runs[0], ["suite"], data=str(exam))


def test_all_rows_are_read_before_any_is_scored(two_runs, exam):
    (exam / "comps/comps_base.jsonl").write_text("{oops")
    with pytest.raises(UserError, match="comps_base.jsonl, line 1: not JSON"):
        eval.evaluate(two_runs[0], ["blimp", "comps"], data=str(exam))
    assert not (two_runs[0] / "eval.json").exists()


def test_names_that_stand_for_several():
    assert eval.named_tasks(["global_piqa", "global_piqa_parallel", "ppl"]) == [
        "global_piqa_parallel", "global_piqa_nonparallel", "ppl"]
    assert "reading" in eval.named_tasks(["suite"])
    with pytest.raises(UserError, match="unknown task 'blimb'.*entity_tracking.*mean 'blimp'"):
        eval.named_tasks(["blimb"])


def test_a_bounded_ppl_has_its_own_line_in_the_last_table():
    def ppl(value):
        return {"overall": {"mean_nats_per_byte": value}}
    evals = [("one", {"ppl --limit=200000": ppl(1.25)}), ("two", {"ppl": ppl(1.5)})]
    lines = tables.final_table(evals).splitlines()
    assert lines[1].split()[-2:] == ["-", "1.5000"]
    assert "of its first 200,000 tokens per domain" in lines[2]
    assert lines[2].split()[-2:] == ["1.2500", "-"]


def test_what_is_evaluated_after_training():
    class Config:
        corpus = "text"
    assert not eval.is_evaluated({"sample": {}}, Config, 100)
    assert eval.is_evaluated({"sample": {}, "ppl --limit=100": {}}, Config, 100)
    assert eval.is_evaluated({"sample": {}, "ppl": {}}, Config, 100)
    assert not eval.is_evaluated({"sample": {}, "ppl --limit=9": {}}, Config, 100)


@pytest.mark.parametrize("corpus, tokens, asked", [("text", 5, [5]), ("babytalk", 5, [0]),
                                                   ("text", 0, [])])
def test_the_end_of_training_is_bounded(tmp_path, monkeypatch, corpus, tokens, asked):
    limits = []
    monkeypatch.setattr(eval, "evaluate", lambda folder, device, limit: limits.append(limit))
    files.write_json(tmp_path / "config.json", {})
    config = types.SimpleNamespace(corpus=corpus, eval_tokens=tokens, teachers=[], baseline="",
                                   init="", teacher_runs=[], name="one")
    distill.show_run(types.SimpleNamespace(config=config, folder=tmp_path, is_finished=False,
                                           device=torch.device("cpu")))
    assert limits == asked
