"""Evaluation: the score against plain sums, babytalk's truth against itself, a user's mistakes."""
import io
import itertools
import json
import math
import os
import pathlib
import re
import types

import numpy as np
import pytest
import torch

import babytalk
import data
import eval
from bpe import Tokenizer
from model import LM
from onecoach import files, run, scoring, suite, tables
from onecoach.config import UserError, run_main
from onecoach.exam import answer
from onecoach.imported import ImportedTokenizer, marked
from runs import random_run, refusal, small_lm, tokenizer_of

TEXT = "the cat sees the dog near the house\nwho sees the little dog\nthe dogs see a cat\n" * 4
SENTENCES = ["the cat sees the dog", "a dog", "who sees the little cat near a house\nthe dog", "x",
             "", "the cat sees the dog"]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(TEXT, 285)  # words of several tokens each


@pytest.fixture(scope="module")
def words():
    text = TEXT + "".join(babytalk.sample(2000, 5)) + "\n".join(babytalk.forms()) * 2
    return tokenizer_of(text)


class Given(torch.nn.Module):
    """A model whose hidden states are the logits that a function of ids (B, T) gives."""

    generate = LM.generate

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.config = types.SimpleNamespace(arch="given", block_size=64)
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids):
        return self.function(ids)

    def logits(self, hidden):
        return hidden

    def stepper(self, batch, length):
        read = []

        def step(ids):
            read.append(ids)
            return self(torch.cat(read, 1))[:, -1]
        return step


def uniform(tokenizer):
    return Given(lambda ids: torch.zeros(*ids.shape, tokenizer.vocab_size))


def true_model(truth):
    """A model that is p* itself."""
    return Given(lambda ids: truth.logits(ids)[0])


@torch.no_grad()
def plain_sum(lm, ids, first):
    """log p of ids[first:]: one sequence, no padding, float64 after the hidden states' type."""
    if first == len(ids):
        return 0.0
    z = lm.logits(lm(torch.tensor([ids[:-1]])))[0].double().log_softmax(-1)
    return sum(z[t - 1, ids[t]].item() for t in range(first, len(ids)))


def about(value, tolerance=1e-5):
    return pytest.approx(value, abs=tolerance)


# ---------------------------------------------------------------- score

@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_score_is_the_sum_over_one_sentence_at_a_time(tokenizer, arch):
    lm = small_lm(tokenizer, arch, block_size=64).double()
    expected = [plain_sum(lm, [1, *tokenizer.encode(s)], 1) for s in SENTENCES]
    assert len({len(tokenizer.encode(s)) for s in SENTENCES}) > 3  # so that there is padding
    sums = eval.score_sentences(lm, tokenizer, SENTENCES)
    assert sums.dtype == torch.float64 and sums.shape == (len(SENTENCES),)
    assert sums.tolist() == about(expected, 2e-5)
    assert sums[4] == 0 and sums[0] == sums[5] and sums[0] < -5


def test_score_does_not_depend_on_batches_order_or_chunks(tokenizer, monkeypatch):
    lm = small_lm(tokenizer).double()
    whole = eval.score_sentences(lm, tokenizer, SENTENCES).tolist()
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "BATCH_TOKENS", 1)
        one_by_one = eval.score_sentences(lm, tokenizer, SENTENCES)
    assert one_by_one.tolist() == about(whole)
    backwards = eval.score_sentences(lm, tokenizer, SENTENCES[::-1])
    assert backwards.flip(0).tolist() == about(whole)

    monkeypatch.setattr(scoring, "ROWS", 3)
    seen, logits = [], lm.logits
    monkeypatch.setattr(lm, "logits", lambda h: seen.append(len(h)) or logits(h))
    assert eval.score_sentences(lm, tokenizer, SENTENCES).tolist() == about(whole)
    assert max(seen) == 3  # logits never exist for more rows than that


def test_a_token_that_straddles_the_boundary_counts(tokenizer):
    text = "the cät"
    lm, ids = small_lm(tokenizer).double(), tokenizer.encode(text)
    ends = np.cumsum(tokenizer.token_bytes[ids]).tolist()
    assert any(b - a > 1 for a, b in zip([0] + ends, ends))  # a cut below is inside a token
    for cut in range(len(text) + 1):
        inside = sum(end <= len(text[:cut].encode()) for end in ends)
        expected = plain_sum(lm, [1, *ids], 1 + inside)
        assert eval.score(lm, tokenizer, [text[:cut]], [text[cut:]]).item() == about(expected)


def test_a_log_file_gets_lines_after_a_minute(monkeypatch, capsys):
    for pace in 50, 1:  # seconds between two looks at the clock
        clock = itertools.count(step=pace)
        monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
        with scoring.progress_bar(total=6, unit="text") as bar:
            for _ in range(6):
                bar.update()
        lines = capsys.readouterr().err.split("\n")[:-1]
        assert (len(lines) > 1) == (pace == 50)
        assert all(re.fullmatch(r"[2-6] of 6 texts, \S+ gone, \S+ left", line) for line in lines)


def test_scoring_keeps_no_graph(tokenizer):
    """A graph over the head would hold the logits of the whole text: gigabytes."""
    lm = small_lm(tokenizer)
    seen, logits = [], lm.logits
    lm.logits = lambda h: seen.append(torch.is_grad_enabled()) or logits(h)
    assert not eval.score_sentences(lm, tokenizer, SENTENCES).requires_grad
    assert seen and not any(seen)


def test_score_follows_autocast(tokenizer):
    lm = small_lm(tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        low = eval.score_sentences(lm, tokenizer, SENTENCES)
    assert 0 < (low - eval.score_sentences(lm, tokenizer, SENTENCES)).abs().max() < 1


def test_gpt2_refuses_what_is_longer_than_its_block_and_llama_scores_it(tokenizer):
    text = "x " * 20
    ids = tokenizer.encode(text)
    with refusal("longer than this GPT-2's block_size 16", str(len(ids))):
        eval.score_sentences(small_lm(tokenizer, "gpt2"), tokenizer, ["a dog", text])
    lm = small_lm(tokenizer).double()
    expected = plain_sum(lm, [1, *ids], 1)
    assert eval.score_sentences(lm, tokenizer, [text]).item() == about(expected, 1e-4)
    fits = ids[:16]
    gpt2 = small_lm(tokenizer, "gpt2").double()
    score = eval.score_sentences(gpt2, tokenizer, [tokenizer.decode(fits)]).item()
    assert score == about(plain_sum(gpt2, [1, *fits], 1))


def test_damaged_weights_are_named(tokenizer):
    lm = small_lm(tokenizer)
    torch.nn.init.constant_(lm.norm.weight, math.nan)
    with pytest.raises(UserError, match="nan"):
        eval.score_sentences(lm, tokenizer, ["a dog"])


# ---------------------------------------------------------------- minimal pairs

def minimal_pairs(model, tokenizer, items, limit=0):
    return answer("blimp", suite.first_of_each(items, limit), model, tokenizer).result


def pairs(*rows):
    return [dict(sentence_good=good, sentence_bad=bad, UID=uid, field=field)
            for good, bad, uid, field in rows]


def by_first_token(tokenizer, order):
    """A model that prefers first tokens in the given order, 1 nat apart; the rest is all one."""
    z = torch.full((tokenizer.vocab_size,), -20.0)
    for rank, text in enumerate(order):
        z[tokenizer.encode(text)[0]] = -float(rank)

    def logits(ids):
        first = (ids == 1)[..., None]
        return torch.where(first, z, torch.zeros(())).expand(*ids.shape, -1)
    return Given(logits)


def test_accuracies_ties_means_and_fields():
    tokenizer = Tokenizer([])  # bytes
    rows = pairs(
        ("a", "b", "one", "syntax"), ("a", "c", "one", "syntax"), ("c", "b", "one", "syntax"),
        ("b", "b", "one", "syntax"), ("a", "b", "two", "syntax"),
        ("b", "a", "three", "other"), ("c", "a", "three", "other"))
    result = minimal_pairs(by_first_token(tokenizer, "abc"), tokenizer, suite.pairs(rows))
    one = result["groups"]["one"]
    assert (one["accuracy"], one["ties"], one["official_2025"]) == (0.625, 0.25, 0.75)
    assert (one["n"], one["field"]) == (4, "syntax")
    assert one["interval"] == pytest.approx(suite.wilson(0.625, 4))
    accuracy = result["accuracy"]
    assert accuracy == pytest.approx((0.625 + 1 + 0) / 3) and result["n"] == 7
    assert result["fields"] == pytest.approx({"syntax": 0.8125, "other": 0})
    half = 1.96 * math.sqrt(0.625 * 0.375 / 4) / 3
    assert result["interval"] == pytest.approx([accuracy - half, accuracy + half])

    limited = minimal_pairs(by_first_token(tokenizer, "abc"), tokenizer, suite.pairs(rows), limit=2)
    sizes = {uid: figures["n"] for uid, figures in limited["groups"].items()}
    assert sizes == {"one": 2, "two": 1, "three": 2}
    assert limited["groups"]["one"]["accuracy"] == 1


def test_wilson():
    assert suite.wilson(0.5, 10) == about([0.2366, 0.7634], 1e-4)  # the textbook's example
    assert suite.wilson(1.0, 10) == about([0.7225, 1.0], 1e-4)
    assert suite.wilson(0.0, 10)[0] == 0


def test_reading_pairs(tmp_path, tokenizer):
    (tmp_path / "turns.jsonl").write_text('{"sentence_good": "a:\\nb", "sentence_bad": "b"}\n\n')
    (tmp_path / "named.jsonl").write_text(
        '{"sentence_good": "a", "sentence_bad": "b", "UID": "u", "field": "syntax_semantics"}\r\n')
    items = suite.read_folder(tmp_path, suite.pair)
    assert [(item.group, item.say(0)) for item in items] == [("u", "a"), ("turns", "a:\nb")]
    result = minimal_pairs(uniform(tokenizer), tokenizer, items)
    assert set(result["groups"]) == {"u", "turns"} and set(result["fields"]) == {"syntax/semantics"}
    assert result["groups"]["turns"]["accuracy"] == 0


def test_real_benchmarks_are_whole(babylm):
    for name, groups in (("blimp", 67), ("supplement", 5)):
        items = suite.read(name, babylm / "eval")
        assert len(suite.grouped(items)) == groups and suite.missing(name, len(items)) == []
    assert any("\n" in item.say(0) for item in items)
    blimp = suite.read("blimp", babylm / "eval", limit=1)
    fields = {item.field for item in blimp}
    assert len(blimp) == 67 and "syntax/semantics" in fields and "syntax_semantics" not in fields


# ---------------------------------------------------------------- perplexity

def token_file(tokenizer, tmp_path, texts, mark="line"):
    paths = {}
    for name, text in texts.items():
        paths[name] = tmp_path / f"{name}.text"
        paths[name].write_text(text)
    data.write_tokens(tmp_path / "dev.bin", tokenizer, paths, mark, 0, "x")
    return data.TokenFile(tmp_path / "dev.bin")


def stream(*arguments):
    file = token_file(*arguments)
    return {domain: np.array(file.tokens[start:stop], np.int64)
            for domain, start, stop, *_ in file.segments}


def test_perplexity_equals_plain_cross_entropy(tokenizer, tmp_path):
    two = "the dogs see\n\nthe cat near the house sees a little dog near the house"
    texts, T = {"one": TEXT, "two": two}, 16
    # a line in pieces is among them
    assert any(len(tokenizer.encode(line)) > T for line in two.splitlines())
    lm = small_lm(tokenizer, block_size=T).double()
    result = eval.perplexity(lm, tokenizer, stream(tokenizer, tmp_path, texts), T)
    total_nats = total_bytes = 0
    for name, text in texts.items():
        blocks, lines = result["domains"][name]["blocks"], result["domains"][name]["lines"]
        ids = tokenizer.encode(text)
        n = (len(ids) - 1) // T
        nats = -sum(plain_sum(lm, ids[i * T:i * T + T + 1], 1) for i in range(n))
        assert blocks["tokens"] == n * T
        assert blocks["nats_per_token"] * n * T == pytest.approx(nats, rel=1e-5)
        assert blocks["perplexity"] == pytest.approx(math.exp(blocks["nats_per_token"]))

        nats = 0
        for line in text.splitlines(keepends=True):
            line = tokenizer.encode(line)
            nats -= sum(plain_sum(lm, [1, *line[i:i + T]], 1) for i in range(0, len(line), T))
        total_nats += nats
        total_bytes += len(text.encode())
        assert (lines["tokens"], lines["bytes"]) == (len(ids), len(text.encode()))
        assert lines["nats_per_byte"] * lines["bytes"] == pytest.approx(nats, rel=1e-5)
        assert lines["bits_per_byte"] * math.log(2) == pytest.approx(lines["nats_per_byte"])
    overall = result["overall"]
    blocks, lines = overall["blocks"]["nats_per_byte"], overall["lines"]["nats_per_byte"]
    assert lines == pytest.approx(total_nats / total_bytes, rel=1e-5)
    assert overall["mean_nats_per_byte"] == (blocks + lines) / 2


def test_perplexity_does_not_see_the_marks_and_keeps_its_limit(tokenizer, tmp_path):
    lm = small_lm(tokenizer)
    marked, plain = (
        eval.perplexity(lm, tokenizer, stream(tokenizer, tmp_path, {"one": TEXT}, mark), 16)
        for mark in ("line", "none"))
    assert marked == plain
    texts = {"one": TEXT, "tiny": "x y", "none": "x"}
    dev = stream(tokenizer, tmp_path, texts)
    short = eval.perplexity(lm, tokenizer, dev, 16, limit=33)["domains"]
    assert short["one"]["lines"]["tokens"] == 33 and short["one"]["blocks"]["tokens"] == 32
    assert "tiny" in short and "none" not in short
    with pytest.raises(UserError, match="too short"):
        eval.perplexity(lm, tokenizer, stream(tokenizer, tmp_path, {"none": "x"}), 16)


@pytest.mark.parametrize("mark", ["line", "none"])
def test_what_chooses_best_is_not_what_is_reported(tokenizer, tmp_path, mark):
    texts = {"one": TEXT, "two": "the dogs see\n" * 7, "three": "a dog near the house"}
    file = token_file(tokenizer, tmp_path, texts, mark)
    halves = eval.test_split(file, tokenizer.newline_id)
    assert list(halves) == list(texts)
    for domain, start, stop, *_ in file.segments:
        choosing = file.tokens[start:(start + stop) // 2].tolist()
        decode = tokenizer.decode
        reported = halves[domain].tolist()
        assert file.tokens[start:stop].tolist()[-len(reported):] == reported
        assert len(choosing) + len(reported) <= stop - start
        lines = texts[domain].splitlines(keepends=True)
        half = decode([i for i in reported if i != tokenizer.bos_id])
        if domain != "three":  # a text of one line is cut within it
            n = half.count("\n")
            assert half == "".join(lines[-n:]) and abs(n - len(lines) / 2) <= 1


# ---------------------------------------------------------------- babytalk's truth

BETWEEN = ("kl_truth_student", "mass_outside", "kl_inside", "entropy_difference")


def test_the_truth_measured_against_itself(words):
    result = eval.babytalk_truth(true_model(babytalk.Truth(words)), words, n=200)
    for key in ("ce_above_floor", *BETWEEN):
        assert result[key] == about(0), key
    assert result["precision"] == result["minimal_pairs"] == 1
    assert result["recall_10"] == result["recall_3"] == 1
    assert result["ce"] == about(result["entropy_floor"]) and result["entropy_floor"] > 1


def test_a_look_at_one_line_does_not_cut_those_that_are_sampled(words):
    """Of seed 22 the line drawn from p* is short, and the one that is sampled long."""
    result = eval.babytalk_truth(true_model(babytalk.Truth(words)), words, n=1, seed=22)
    assert result["precision"] == 1


def test_a_mixture_with_the_uniform_distribution_by_hand(words):
    """q = (1 - e) p* + e / V: every figure from its definition, position by position."""
    truth, e, V, n = babytalk.Truth(words), 0.3, words.vocab_size, 60
    mixed = Given(lambda ids: ((1 - e) * truth.logits(ids)[0].exp() + e / V).log())
    result = eval.babytalk_truth(mixed, words, n=n)
    lines = eval.drawn_from_truth(n, 0)[0]
    expected = np.zeros(4)
    ahead = []  # log q - log p* of each line
    for line in lines:
        ids = [1, *words.encode(line)]
        log_p = truth.logits(torch.tensor([ids[:-1]]))[0][0].double()  # (T, V)
        p = torch.where(log_p > -100, log_p.exp(), 0)
        q = (1 - e) * p + e / V
        for p_t, q_t in zip(p, q):
            inside = p_t > 0
            p_in, q_in = p_t[inside], q_t[inside]
            c = q_in / q_in.sum()
            expected += [(p_in * (p_in / q_in).log()).sum(), q_t[~inside].sum(),
                         (c * (c / p_in).log()).sum(),
                         (p_in * p_in.log()).sum() - (q_t * q_t.log()).sum()]
        ahead.append(sum(math.log(q[t, i] / p[t, i]) for t, i in enumerate(ids[1:])))
    expected /= sum(len(words.encode(line)) for line in lines)
    assert [result[key] for key in BETWEEN] == pytest.approx(expected.tolist(), rel=1e-4)
    assert min(expected) > 0.001
    ahead = np.array(ahead)
    assert result["recall_10"] == np.mean(ahead >= -math.log(10))
    assert 0 < result["recall_3"] == np.mean(ahead >= -math.log(3)) < 1
    low, high = result["precision_interval"]
    assert low <= result["precision"] <= high and result["precision"] < 0.5


def test_samples_are_as_frequent_as_the_model_says(words, monkeypatch):
    """Taking finished lines out on the way changes nothing: as in p* itself."""
    monkeypatch.setattr(eval, "STRIDE", 3)
    truth, n = babytalk.Truth(words), 2000
    lines = eval.samples(true_model(truth), words, "", n, 64, stop=words.encode("\n")[0])
    assert len(lines) == n
    assert all(line.count("\n") == 1 and babytalk.contains(line) for line in lines)
    lengths, expected = (np.array([len(line.split()) for line in some])
                         for some in (lines, babytalk.sample(20_000, 1)))
    sigma = expected.std() * math.sqrt(1 / n + 1 / 20_000)
    assert abs(lengths.mean() - expected.mean()) < 4 * sigma
    first = truth.logits(torch.tensor([[1]]))[0][0, 0]
    p = first[words.encode("the")[0]].exp().item()
    share = np.mean([line.split()[0] == "the" for line in lines])
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n) and p > 0.05


def test_a_line_without_an_end_is_not_in_the_language(words):
    """A student that stops nowhere: its samples begin as sentences do, and none is one."""
    truth, newline = babytalk.Truth(words), words.encode("\n")[0]

    def endless(ids):
        z = truth.logits(ids)[0].clone()
        z[..., newline] = -100
        return z
    result = eval.babytalk_truth(Given(endless), words, n=50)
    assert result["precision"] == 0 and result["precision_interval"][1] > 0


# ---------------------------------------------------------------- samples

def test_samples_are_seeded_and_begin_with_the_prompt(tokenizer):
    lm = small_lm(tokenizer)
    a, b, other = (eval.samples(lm, tokenizer, "the cat", n=3, tokens=20, seed=seed)
                   for seed in (1, 1, 2))
    assert a == b != other and len(set(a)) == 3
    assert all(text.startswith("the cat") for text in a)
    assert len(set(eval.samples(lm, tokenizer, "", n=3, tokens=20, temperature=0))) == 1


def test_samples_end_where_they_must(tokenizer):
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]
    after = torch.full((tokenizer.vocab_size, tokenizer.vocab_size), -100.0)
    after[:, x] = 0
    after[x, y] = 3
    model = Given(lambda ids: after[ids])
    texts = eval.samples(model, tokenizer, "xy", n=2, tokens=10, temperature=0)
    assert texts == ["xy" + "xy" * 5] * 2
    texts = eval.samples(model, tokenizer, "xy", n=2, tokens=10, temperature=0, stop=y)
    assert texts == ["xyxy"] * 2  # not at the prompt's own y


def test_samples_of_a_gpt2_end_at_its_block(tokenizer):
    gpt2 = small_lm(tokenizer, "gpt2")
    asked, forward = [], gpt2.forward

    def spy(ids, cache=None):
        asked.append(ids.shape[1] + (cache.pos if cache else 0))
        return forward(ids, cache)
    gpt2.forward = spy
    assert len(eval.samples(gpt2, tokenizer, "x", n=2, tokens=100)) == 2 and max(asked) == 16
    with pytest.raises(UserError, match="block_size 16"):
        eval.samples(gpt2, tokenizer, "x " * 20, n=2)


# ---------------------------------------------------------------- tables, runs, commands

def test_final_table_lines_up_and_leaves_out_what_nobody_measured():
    one = {"babytalk": {"ce_above_floor": 0.0234, "precision": 0.881}, "val_ce": 2.5}
    two = {"babytalk": {"precision": 0.7}, "val_ce": None}
    shown = tables.final_table([("teacher t", one), ("student s", two), ("empty", {})])
    lines = shown.split("\n")
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["teacher", "student"] and lines[1].split() == ["t", "s", "empty"]
    assert lines[2].split()[-3:] == ["0.0234", "-", "-"]
    assert lines[3].split()[-3:] == ["88.1%", "70.0%", "-"]
    assert lines[4].split()[-3:] == ["2.5000", "-", "-"]
    assert tables.final_table([]) == ""


def test_three_runs_fit_into_a_terminal():
    """With every figure there is, and names as long as those of the configs for real text."""
    evaluation = {}
    for _, path, _ in tables.FINAL:
        *parts, key = path.split(".")
        place = evaluation
        for part in parts:
            place = place.setdefault(part, {})
        place[key] = 0.5
    labels = ["teacher llama_nano", "baseline base_nano", "student rkl_nano"]
    lines = tables.final_table([(label, evaluation) for label in labels]).split("\n")
    assert len(lines) == 2 + len(tables.FINAL) and max(map(len, lines)) <= 80


@pytest.fixture
def make_run(make_config, data_dir):
    """A run's folder as the loop leaves it, with random weights."""
    def make(**keys):
        sizes = dict(n_layer=1, n_head=2, d_model=16, d_ff=16, block_size=32, vocab_size=0)
        text = dict(corpus="babytalk", mark="line", sentences=300, data_dir=str(data_dir))
        config = make_config(**{"name": "some", **sizes, **text, **keys})
        folder = random_run(config, data.prepare(config).tokenizer,
                            checkpoints=("best.pt", "ckpt.pt"))
        lines = [{"step": 0, "val_ce": 5.5}, {"step": 1, "loss": 2}, {"step": 1, "val_ce": 6.5},
                 {"step": 2, "val_ce": 7.5}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder
    return make


@pytest.fixture
def babytalk_run(make_run):
    return make_run()


def test_evaluate_writes_and_merges(babytalk_run, monkeypatch, capsys):
    monkeypatch.setattr(eval, "LINES", 50)
    results = eval.evaluate(babytalk_run)
    saved = files.read_json(babytalk_run / "eval.json")
    assert saved == results and set(saved) == {"babytalk", "sample", "val_ce", "verdicts"}
    assert saved["val_ce"] == 6.5
    assert saved["babytalk"]["lines"] == 50 and saved["babytalk"]["which"] == "best"
    text = (babytalk_run / "samples.txt").read_text()
    assert text.count("---") == 5 and text.startswith("some (best), prompt ''")
    assert len(saved["sample"]["texts"]) == 5
    assert "precision" in capsys.readouterr().out
    eval.main([str(babytalk_run), "--tasks=ppl", "--limit=200", "--which=last"])
    merged = files.read_json(babytalk_run / "eval.json")
    assert merged["babytalk"] == saved["babytalk"]
    assert merged["ppl --limit=200 --which=last"]["which"] == "last"
    assert merged["val_ce"] == 6.5 and merged["val_ce --which=last"] == 7.5
    assert "mean of both" in capsys.readouterr().out
    assert not list(babytalk_run.glob(".*"))  # nothing half written is left


def test_what_another_call_writes_meanwhile_is_kept(babytalk_run, monkeypatch):
    """Two of eval.py on one run, each with hours of its own."""
    path = babytalk_run / "eval.json"
    samples = eval.samples

    def slow(*arguments, **more):
        files.write_json(path, files.read_json(path) | {"blimp": {"accuracy": 0.75}})
        return samples(*arguments, **more)
    monkeypatch.setattr(eval, "samples", slow)
    results = eval.evaluate(babytalk_run, ["sample"])
    assert set(results) == {"val_ce", "blimp", "sample", "verdicts"}
    assert files.read_json(path) == results


def test_ppl_is_of_the_half_that_did_not_choose_and_of_the_lines_that_were_not_trained_on(
        babytalk_run, capsys):
    result = eval.evaluate(babytalk_run, ["ppl"])["ppl"]
    model, tokenizer, config = run.load(babytalk_run)
    prepared = data.prepare(config)
    dev = prepared.dev
    tokens = dev.tokens[dev.count // 2:].tolist()
    ids = [i for i in tokens[tokens.index(tokenizer.encode("\n")[0]) + 1:] if i != 1]
    assert result["overall"]["lines"]["tokens"] == len(ids) < dev.count / 2
    expected = eval.perplexity(model, tokenizer, {"babytalk": np.array(ids)}, 32)
    assert result["overall"] == expected["overall"]

    split_lines = lambda ids: tokenizer.decode(ids[ids != 1]).splitlines(keepends=True)
    trained_on = set(split_lines(np.asarray(prepared.train.tokens)))
    split = eval.test_split(dev, tokenizer.newline_id)["babytalk"]
    lines = [line for line in split_lines(np.asarray(split)) if line not in trained_on]
    unseen = np.array(tokenizer.encode("".join(lines)))
    expected = eval.perplexity(model, tokenizer, {"babytalk": unseen}, 32)
    assert result["unseen"] == expected["overall"] and 0 < result["shared"] < 1
    assert 0 < len(unseen) < len(ids)
    assert "all, unseen lines only" in capsys.readouterr().out


@pytest.fixture
def moved_run(make_run, tmp_path, monkeypatch):
    """A run on the text TEXT whose paths are relative to a folder that it has left."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with open("text.train", "w") as f:
        f.write(TEXT * 20)
    folder = make_run(corpus="text.train", data_dir="data", vocab_size=285, mark="half")
    folder = folder.rename(tmp_path / "there" / folder.name)
    monkeypatch.chdir(tmp_path / "there")
    return folder


def test_a_moved_run_is_told_to_name_its_text_and_can(moved_run, monkeypatch):
    with refusal("text.train", "config.json", "where it was trained", "--dev=PATH"):
        eval.evaluate(moved_run, ["ppl"])

    other = "the little dog sees a house\n" * 30
    with open("other.txt", "w") as f:
        f.write(other)
    eval.main([str(moved_run), "--tasks=ppl", "--dev=other.txt"])
    results = files.read_json(moved_run / "eval.json")
    model, tokenizer, _ = run.load(moved_run)
    expected = eval.perplexity(model, tokenizer, {"other": np.array(tokenizer.encode(other))}, 32)
    assert results["ppl --dev=other.txt"]["overall"] == expected["overall"]
    assert expected["overall"]["lines"]["bytes"] == len(other) and "ppl" not in results
    with pytest.raises(UserError, match="nowhere"):
        eval.evaluate(moved_run, ["ppl"], dev="nowhere.txt")
    assert {path.name for path in moved_run.parent.iterdir()} == {"some", "other.txt"}


def test_text_that_was_replaced_is_not_a_runs_own(babytalk_run, tmp_path):
    """Though it has the same name, and the tokenizer was given; other text can be named."""
    subject = eval.load_subject(babytalk_run, eval.Options())
    assert eval.own_data(subject)
    path = babytalk_run / "config.json"
    files.write_json(path, files.read_json(path) | {"_text": "another"})
    with pytest.raises(UserError, match="trained on other text than corpus = 'babytalk' is now"):
        eval.own_data(subject)
    (tmp_path / "other.txt").write_text("tom sleeps\n" * 9)
    results = eval.evaluate(babytalk_run, ["ppl"], dev=str(tmp_path / "other.txt"))
    assert set(results) == {"val_ce", f"ppl --dev={tmp_path / 'other.txt'}", "verdicts"}


def test_other_text_is_encoded_line_by_line_as_training_text_is(make_config, tmp_path):
    """An imported tokenizer may join a newline to what is before it, which no training text has."""
    form = json.loads(Tokenizer([(b".", b"\n")]).to_json())
    form["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\.\n|[\s\S]"
    tokenizer = ImportedTokenizer(marked(form, "<s>", "</s>", "<pad>"))
    file = tmp_path / "other.txt"
    file.write_text("a.\nb.\n")
    assert len(tokenizer.encode("a.\nb.\n")) == 4

    texts = eval.load_text(str(file), eval.Subject(None, None, tokenizer, make_config()))
    newline = [tokenizer.newline_id]
    ids = [*tokenizer.encode("a."), *newline, *tokenizer.encode("b."), *newline]
    assert texts["other"].tolist() == ids and texts["other"].dtype == np.int64


def test_a_gpt2_shorter_than_the_longest_line_is_refused(make_run, make_config, words):
    short = make_run(name="short", arch="gpt2", block_size=19)
    with pytest.raises(UserError, match="longest line has 20 tokens.*block_size = 19"):
        eval.evaluate(short, ["babytalk"])
    fits = make_run(name="fits", arch="gpt2", block_size=20)
    assert eval.evaluate(fits, ["babytalk"], limit=200)["babytalk --limit=200"]["lines"] == 200
    llama = make_run(name="llama", block_size=8)  # its positions go on
    assert eval.evaluate(llama, ["babytalk"], limit=20)["babytalk --limit=20"]["lines"] == 20

    # training asks before it begins
    config = make_config(name="some", arch="gpt2", block_size="stages(0: 9, 0.5: 18)")
    with pytest.raises(UserError, match="longest line"):
        babytalk.check_babytalk(config, words)
    config = make_config(name="some", arch="gpt2", block_size="stages(0: 10, 0.5: 20)")
    babytalk.check_babytalk(config, words)
    with pytest.raises(UserError, match="one token"):
        babytalk.check_babytalk(config, tokenizer_of(TEXT, 285))


def test_evaluation_is_in_true_fp32_whatever_ran_before(babytalk_run, monkeypatch):
    """The loop turns TF32 on, on a GPU; it stays on in what follows."""
    seen = []
    forward = LM.forward

    def spy(self, *arguments):
        seen.append(torch.get_float32_matmul_precision())
        return forward(self, *arguments)
    monkeypatch.setattr(LM, "forward", spy)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        eval.evaluate(babytalk_run, ["ppl", "sample"])
        assert set(seen) == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"  # for what goes on
        with pytest.raises(UserError):
            eval.evaluate(babytalk_run, ["blimp"], data="nowhere")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("look, slots", [
    (["--which=last"], ["babytalk --which=last", "sample --which=last", "val_ce --which=last"]),
    (["--limit=20", "--seed=1", "--device=cpu"],
     ["babytalk --limit=20 --seed=1", "sample --seed=1"]),
    (["--prompt=the cat", "--temperature=0"],
     ["babytalk", "sample --prompt='the cat' --temperature=0.0"]),
])
def test_a_look_never_changes_what_the_final_table_shows(babytalk_run, look, slots, monkeypatch):
    monkeypatch.setattr(eval, "LINES", 50)
    whole = eval.evaluate(babytalk_run)
    table = tables.final_table([("some", whole)])
    eval.main([str(babytalk_run), *look])
    results = files.read_json(babytalk_run / "eval.json")
    assert set(slots) < set(results)
    assert {name: results[name] for name in whole} == whole
    assert tables.final_table([("some", results)]) == table
    if "--limit=20" in look:
        assert results[slots[0]]["lines"] == 20


def test_verdicts_of_a_runs_own_books_are_kept_and_said(babytalk_run, monkeypatch):
    """Random weights tell no paradigm; its log has an entropy that collapses."""
    monkeypatch.setattr(eval, "LINES", 50)
    log = babytalk_run / "metrics.jsonl"
    log.write_text(json.dumps(dict(step=1, entropy_q=0.1, entropy_p=2.0)) + "\n")
    results = eval.evaluate(babytalk_run)
    assert [verdict["found"] for verdict in results["verdicts"]] == [True, False, True]
    assert files.read_json(babytalk_run / "eval.json") == results
    shown = tables.final_table([("student some", results)])
    assert "student some: INSTABILITY OR COLLAPSE: step 1: entropy collapse" in shown
    assert "student some: PARADIGMS LOST: " in shown


def test_blimp_from_a_folder_and_from_the_environment(babytalk_run, tmp_path, monkeypatch, capsys):
    for name in ("blimp", "supplement"):
        folder = tmp_path / f"eval/{name}_filtered"
        folder.mkdir(parents=True)
        pair = {"sentence_good": "the dog sleeps", "sentence_bad": "the dog sleep"}
        (folder / "p.jsonl").write_text(json.dumps(pair) + "\n")
    monkeypatch.delenv("BABYLM_DIR", raising=False)
    with pytest.raises(UserError, match="--data=DIR"):
        eval.main([str(babytalk_run), "--tasks=blimp"])
    eval.main([str(babytalk_run), "--tasks=blimp,supplement", f"--data={tmp_path / 'eval'}"])
    shown = capsys.readouterr().out
    assert shown.count("mean over groups") == 2
    monkeypatch.setenv("BABYLM_DIR", str(tmp_path))
    own = f"--data={tmp_path / 'eval'}"  # a pair is no BLiMP
    assert eval.evaluate(babytalk_run, ["blimp"])[f"supplement {own}"]["n"] == 1

    # in another dtype it is another figure, and has a place of its own
    seen = []
    monkeypatch.setattr(eval, "answer", lambda *asked, answer=eval.answer: seen.append(
        torch.is_autocast_enabled("cpu")) or answer(*asked))
    kept = eval.evaluate(babytalk_run, ["blimp"], dtype="bfloat16", against=str(babytalk_run))
    assert seen == [True, True]
    assert kept[f"blimp {own} --dtype=bfloat16"]["dtype"] == "bfloat16"
    assert kept[f"blimp {own}"]["dtype"] == "float32"


@pytest.mark.parametrize("arguments, words", [
    (["RUN", "--tasks=blimb"], ["blimb", "known are ppl"]),
    (["RUN", "--tasks=sample", "--top_p=0"], ["top_p"]),
    (["RUN", "--tasks=sample", "--temperature=1e-40"], ["temperature = 1e-40", "allowed are 0"]),
    (["RUN", "--tasks=sample", "--temperature=nan"], ["temperature = nan"]),
    (["RUN", "--limit=-1"], ["limit"]),
    (["RUN", "--wich=last"], ["--wich"]),
    (["nowhere"], ["nowhere", "not a run"]),
    ([], ["RUN"]),
])
def test_wrong_commands_are_one_line(babytalk_run, arguments, words, monkeypatch, capsys):
    arguments = [str(babytalk_run) if a == "RUN" else a for a in arguments]
    monkeypatch.setattr("sys.argv", ["eval.py", *arguments])
    with pytest.raises(SystemExit) as e:
        run_main(eval.main)
    error = capsys.readouterr().err
    assert e.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words)


@pytest.mark.parametrize("temperature", [0, 1e-4, 1e4])
def test_the_outermost_temperatures_that_are_allowed_can_be_sampled(babytalk_run, temperature):
    results = eval.evaluate(babytalk_run, ["sample"], temperature=temperature, n=2)
    assert len(results[f"sample --n=2 --temperature={temperature}"]["texts"]) == 2


def test_text_goes_to_a_stdout_of_any_encoding(babytalk_run, monkeypatch):
    """A stdout that is redirected, on Windows or as PYTHONIOENCODING says, need not be UTF-8."""
    prompt = "caf\u00e9 \u2603"  # a snowman, which cp1252 has not
    log = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(log, encoding="cp1252"))
    arguments = [str(babytalk_run), "--tasks=sample", "--n=1", f"--prompt={prompt}"]
    monkeypatch.setattr("sys.argv", ["eval.py", *arguments])
    run_main(eval.main)
    run_main(lambda argv: print("\u2603"))  # and so every command
    assert b"caf\xe9 \\u2603" in log.getvalue()
    assert prompt in (babytalk_run / "samples.txt").read_text(encoding="utf-8")


def test_a_run_may_lie_in_a_folder_of_any_name(babytalk_run, monkeypatch, capsys):
    moved = babytalk_run.with_name(os.fsdecode(b"caf\xe9"))  # not UTF-8
    babytalk_run.rename(moved)
    monkeypatch.setattr("sys.argv", ["eval.py", str(moved), "--tasks=sample"])
    run_main(eval.main)
    assert (moved / "samples.txt").read_text(encoding="utf-8").startswith("caf\ufffd (best)")
    assert "caf\\udce9" in capsys.readouterr().out


def test_a_run_may_be_the_folder_one_is_in(babytalk_run, monkeypatch, capsys):
    monkeypatch.chdir(babytalk_run)
    eval.main([".", "--tasks=sample"])
    assert str(babytalk_run) in capsys.readouterr().out
    assert eval.read_args(["../some/"])["run"] == pathlib.Path("../some")


# ---------------------------------------------------------------- checkpoints by words

def test_curve_tells_every_checkpoint_by_words_in_their_order(babytalk_run, capsys):
    for seed, name in enumerate(("chck_10M.pt", "chck_9M.pt", "chck_0.5M.pt")):
        state = files.load_checkpoint(babytalk_run / "best.pt")
        torch.manual_seed(seed)
        state["model"] = {key: torch.randn_like(value) for key, value in state["model"].items()}
        files.save_checkpoint(babytalk_run / name, state)
    results = eval.evaluate(babytalk_run, ["curve"], limit=10)
    points = results["curve --limit=10"]["points"]
    assert list(points) == ["chck_0.5M", "chck_9M", "chck_10M"]
    assert len({str(point["fields"]) for point in points.values()}) == 3

    # each is what that checkpoint's own weights say to the same pairs
    lm, tokenizer, _ = run.load(babytalk_run, which="chck_9M")
    pairs = eval.drawn_from_truth(1, 0)[2]
    alone = minimal_pairs(lm, tokenizer, pairs, 10)
    assert points["chck_9M"]["accuracy"] == alone["accuracy"]
    assert re.search(rf"^9M +{alone['accuracy']:.1%}", capsys.readouterr().out, re.M)

    results = eval.evaluate(babytalk_run, ["babytalk"], limit=20, which="chck_9M")
    assert results["val_ce --which=chck_9M"] is None
    assert results["babytalk --limit=20 --which=chck_9M"]["lines"] == 20


def test_curve_of_a_run_without_checkpoints_says_how_to_keep_some(babytalk_run):
    with pytest.raises(UserError, match="--checkpoints=babylm"):
        eval.evaluate(babytalk_run, ["curve"])
