"""Evaluation: the score against plain sums, babytalk's truth against itself, and what a user can get wrong."""
import collections
import json
import math
import types

import numpy as np
import pytest
import torch

import babytalk
import config
import data
import eval
import files
import run
from bpe import pre_tokens
from config import UserError
from model import LM, ModelConfig

TEXT = "the cat sees the dog near the house\nwho sees the little dog\nthe dogs see a cat\n" * 4
SENTENCES = ["the cat sees the dog", "a dog", "who sees the little cat near a house\nthe dog", "x", "", "the cat sees the dog"]


def tokenizer_of(text, vocab_size=0):
    return data.Tokenizer(data.train_bpe(collections.Counter(pre_tokens(text)), vocab_size))


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(TEXT, 285)  # words of several tokens each


@pytest.fixture(scope="module")
def words():
    return tokenizer_of(TEXT + "".join(babytalk.sample(2000, 5)) + "\n".join(babytalk.forms()) * 2)


def small_lm(tokenizer, arch="llama", block_size=16, seed=0):
    """Random weights large enough that the logits differ by several nats."""
    torch.manual_seed(seed)
    lm = LM(ModelConfig(arch=arch, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, d_model=16, d_ff=32,
                        block_size=block_size)).eval()
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return lm


class Given(torch.nn.Module):
    """A model whose hidden states are the logits that a function of ids (B, T) gives."""

    def __init__(self, function):
        super().__init__()
        self.function, self.config = function, types.SimpleNamespace(arch="given", block_size=64)
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids, cache=None):
        return self.function(ids)

    def logits(self, hidden):
        return hidden

    def generate(self, ids, n, **options):
        return LM.generate(self, ids, n, use_cache=False, **options)


def uniform(tokenizer):
    return Given(lambda ids: torch.zeros(*ids.shape, tokenizer.vocab_size))


@torch.no_grad()
def plain_sum(lm, ids, first):
    """log p of ids[first:], one sequence, no padding, everything in float64 after the hidden states' own type."""
    if first == len(ids):
        return 0.0
    z = lm.logits(lm(torch.tensor([ids[:-1]])))[0].double().log_softmax(-1)
    return sum(z[t - 1, ids[t]].item() for t in range(first, len(ids)))


# ---------------------------------------------------------------- score

@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_score_is_the_sum_over_one_sentence_at_a_time(tokenizer, arch):
    lm = small_lm(tokenizer, arch, block_size=64).double()
    expected = [plain_sum(lm, [1, *tokenizer.encode(s)], 1) for s in SENTENCES]
    assert len(set(map(len, map(tokenizer.encode, SENTENCES)))) > 3  # so that there is padding
    got = eval.score_sentences(lm, tokenizer, SENTENCES)
    assert got.dtype == torch.float64 and got.shape == (len(SENTENCES),)
    assert got.tolist() == pytest.approx(expected, abs=2e-5)
    assert got[4] == 0 and got[0] == got[5] and got[0] < -5


def test_score_does_not_depend_on_batches_order_or_chunks(tokenizer, monkeypatch):
    lm = small_lm(tokenizer).double()
    whole = eval.score_sentences(lm, tokenizer, SENTENCES)
    assert eval.score_sentences(lm, tokenizer, SENTENCES, batch_tokens=1).tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    backwards = eval.score_sentences(lm, tokenizer, SENTENCES[::-1])
    assert backwards.flip(0).tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    monkeypatch.setattr(eval, "ROWS", 3)
    seen, logits = [], lm.logits
    monkeypatch.setattr(lm, "logits", lambda h: seen.append(len(h)) or logits(h))
    assert eval.score_sentences(lm, tokenizer, SENTENCES).tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    assert max(seen) == 3  # logits never exist for more rows than that


def test_next_tokens_sum_to_one(tokenizer):
    lm, prefix = small_lm(tokenizer), [1, *tokenizer.encode("the cat")]
    sums = eval.sum_log_probs(lm, [[*prefix, i] for i in range(tokenizer.vocab_size)], [len(prefix)] * tokenizer.vocab_size)
    assert sums.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_chain_rule_where_the_boundary_is_one_of_tokens(tokenizer):
    lm, a, b = small_lm(tokenizer).double(), "the cat\n", "sees the dog"
    assert tokenizer.encode(a) + tokenizer.encode(b) == tokenizer.encode(a + b)
    whole, first, then = eval.score(lm, tokenizer, ["", "", a], [a + b, a, b]).tolist()
    assert whole == pytest.approx(first + then, abs=1e-5) and then < -1


def test_a_token_that_straddles_the_boundary_counts(tokenizer):
    lm, ids = small_lm(tokenizer).double(), tokenizer.encode("the cat")
    sizes = np.cumsum(tokenizer.token_bytes[ids]).tolist()
    assert any(b - a > 1 for a, b in zip([0] + sizes, sizes))  # a boundary inside a token is among the cuts below
    for cut in range(len("the cat") + 1):
        kept = sum(end <= cut for end in sizes)
        expected = plain_sum(lm, [1, *ids], 1 + kept)
        assert eval.score(lm, tokenizer, ["the cat"[:cut]], ["the cat"[cut:]]).item() == pytest.approx(expected, abs=1e-5)


def test_score_beyond_one_byte_a_character():
    tokenizer = tokenizer_of("é ü", 0)
    a, b = eval.score(uniform(tokenizer), tokenizer, ["é"], [" ü"]).item(), len(tokenizer.encode(" ü"))
    assert a == pytest.approx(-b * math.log(tokenizer.vocab_size), rel=1e-6)


def test_scoring_keeps_no_graph(tokenizer):
    """A graph over the head would hold the logits of the whole text: gigabytes."""
    lm = small_lm(tokenizer)
    seen, logits = [], lm.logits
    lm.logits = lambda h: seen.append(torch.is_grad_enabled()) or logits(h)
    assert not eval.score_sentences(lm, tokenizer, SENTENCES).requires_grad and seen and not any(seen)


def test_score_follows_autocast(tokenizer):
    lm = small_lm(tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        low = eval.score_sentences(lm, tokenizer, SENTENCES)
    assert 0 < (low - eval.score_sentences(lm, tokenizer, SENTENCES)).abs().max() < 1


def test_gpt2_refuses_what_is_longer_than_its_block_and_llama_scores_it(tokenizer):
    text = "x " * 20
    with pytest.raises(UserError, match="longer than this GPT-2's block_size 16") as e:
        eval.score_sentences(small_lm(tokenizer, "gpt2"), tokenizer, ["a dog", text])
    assert str(len(tokenizer.encode(text))) in str(e.value)
    lm = small_lm(tokenizer).double()
    expected = plain_sum(lm, [1, *tokenizer.encode(text)], 1)
    assert eval.score_sentences(lm, tokenizer, [text]).item() == pytest.approx(expected, abs=1e-4)
    fits = tokenizer.encode(text)[:16]
    gpt2 = small_lm(tokenizer, "gpt2").double()
    assert eval.score_sentences(gpt2, tokenizer, [tokenizer.decode(fits)]).item() == pytest.approx(
        plain_sum(gpt2, [1, *fits], 1), abs=1e-5)


def test_damaged_weights_are_named(tokenizer):
    lm = small_lm(tokenizer)
    torch.nn.init.constant_(lm.norm.weight, math.nan)
    with pytest.raises(UserError, match="nan"):
        eval.score_sentences(lm, tokenizer, ["a dog"])


# ---------------------------------------------------------------- minimal pairs

def pairs(*rows):
    return [dict(sentence_good=good, sentence_bad=bad, UID=uid, **({"field": field} if field else {}))
            for good, bad, uid, field in rows]


def test_a_uniform_model_ties_everything(tokenizer):
    rows = pairs(("the cat", "the dog", "noun", "syntax"), ("xyz", "zyx", "order", "semantics"))
    assert all(len(tokenizer.encode(r["sentence_good"])) == len(tokenizer.encode(r["sentence_bad"])) for r in rows)
    found = eval.minimal_pairs(uniform(tokenizer), tokenizer, rows)
    assert (found["accuracy"], found["ties"], found["official"]) == (0.5, 1.0, 1.0)


def by_first_token(tokenizer, order):
    """A model that prefers first tokens in the given order, 1 nat apart, and is indifferent to all else."""
    z = torch.full((tokenizer.vocab_size,), -20.0)
    for rank, text in enumerate(order):
        z[tokenizer.encode(text)[0]] = -float(rank)
    return Given(lambda ids: torch.where((ids == 1)[..., None], z, torch.zeros(())).expand(*ids.shape, -1))


def test_accuracies_ties_means_and_fields():
    tokenizer = data.Tokenizer([])  # bytes
    rows = pairs(("a", "b", "one", "syntax"), ("a", "c", "one", "syntax"), ("c", "b", "one", "syntax"), ("b", "b", "one", "syntax"),
                 ("a", "b", "two", "syntax"), ("b", "a", "three", "other"), ("c", "a", "three", "other"))
    found = eval.minimal_pairs(by_first_token(tokenizer, "abc"), tokenizer, rows)
    one = found["paradigms"]["one"]
    assert (one["accuracy"], one["ties"], one["official"], one["n"], one["field"]) == (0.625, 0.25, 0.75, 4, "syntax")
    assert found["accuracy"] == pytest.approx((0.625 + 1 + 0) / 3) and found["n"] == 7
    assert found["fields"] == pytest.approx({"syntax": 0.8125, "other": 0})
    half = 1.96 * math.sqrt(0.625 * 0.375 / 4) / 3
    assert found["interval"] == pytest.approx([found["accuracy"] - half, found["accuracy"] + half])
    assert one["interval"] == pytest.approx(eval.wilson(0.625, 4))
    limited = eval.minimal_pairs(by_first_token(tokenizer, "abc"), tokenizer, rows, limit=2)
    assert {name: p["n"] for name, p in limited["paradigms"].items()} == {"one": 2, "two": 1, "three": 2}
    assert limited["paradigms"]["one"]["accuracy"] == 1


def test_wilson():
    assert eval.wilson(0.5, 10) == pytest.approx([0.2366, 0.7634], abs=1e-4)  # the textbook's example
    assert eval.wilson(1.0, 10) == pytest.approx([0.7225, 1.0], abs=1e-4)
    assert eval.wilson(0.0, 10)[0] == 0


def test_reading_pairs(tmp_path, tokenizer):
    (tmp_path / "turns.jsonl").write_text('{"sentence_good": "a:\\nb", "sentence_bad": "b"}\n\n')
    (tmp_path / "named.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b", "UID": "u", "field": "f"}\r\n')
    rows = eval.read_pairs(tmp_path)
    assert [(r["UID"], r["sentence_good"]) for r in rows] == [("u", "a"), ("turns", "a:\nb")]
    found = eval.minimal_pairs(uniform(tokenizer), tokenizer, tmp_path)
    assert set(found["paradigms"]) == {"u", "turns"} and found["paradigms"]["turns"]["accuracy"] == 0 and set(found["fields"]) == {"f"}


@pytest.mark.parametrize("content, words", [
    ('{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": "a"}', ["bad.jsonl, line 2", "sentence_bad"]),
    ('{"sentence_good": 3, "sentence_bad": "b"}', ["line 1", "sentence_good"]),
    ("[1, 2]", ["line 1", "sentence_good"]),
    ("{oops", ["line 1", "not JSON"]),
    ("[" * 100_000, ["line 1", "not JSON"]),
    (b"\xff\xfe{}", ["line 1", "not JSON"]),
    ("\n\n", ["bad.jsonl", "empty"]),
    (None, ["no *.jsonl", "--data=DIR"]),
])
def test_bad_pairs_are_refused_in_one_line(tmp_path, content, words):
    folder = tmp_path / "blimp_filtered"
    if content is not None:
        folder.mkdir()
        (folder / "bad.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as e:
        eval.read_pairs(folder)
    assert all(word in str(e.value) for word in words) and "\n" not in str(e.value)


def test_real_benchmarks_are_read(babylm):
    blimp, supplement = (eval.read_pairs(babylm / f"eval/{name}_filtered") for name in ("blimp", "supplement"))
    assert len(blimp) == 59_875 and len({r["UID"] for r in blimp}) == 67 and all(r["field"] for r in blimp)
    assert len({r["UID"] for r in supplement}) == 5 and any("\n" in r["sentence_good"] for r in supplement)


# ---------------------------------------------------------------- perplexity

def stream(tokenizer, tmp_path, texts, mark="line"):
    files = {}
    for name, text in texts.items():
        files[name] = tmp_path / f"{name}.text"
        files[name].write_text(text)
    data.write_tokens(tmp_path / "dev.bin", tokenizer, files, mark, 0, "x")
    return data.TokenFile(tmp_path / "dev.bin")


def test_perplexity_equals_plain_cross_entropy(tokenizer, tmp_path):
    texts, T = {"one": TEXT, "two": "the dogs see\n\nthe cat near the house sees a little dog near the house"}, 16
    lm, dev = small_lm(tokenizer, block_size=T).double(), stream(tokenizer, tmp_path, texts)
    found = eval.perplexity(lm, tokenizer, dev, T)
    totals = np.zeros(2)
    for name, text in texts.items():
        ids, blocks, lines = tokenizer.encode(text), found["domains"][name]["blocks"], found["domains"][name]["lines"]
        n = (len(ids) - 1) // T
        nats = -sum(plain_sum(lm, ids[i * T:i * T + T + 1], 1) for i in range(n))
        assert blocks["tokens"] == n * T and blocks["nats_per_token"] * n * T == pytest.approx(nats, rel=1e-5)
        assert blocks["perplexity"] == pytest.approx(math.exp(blocks["nats_per_token"]))
        nats = 0
        for line in text.splitlines(keepends=True):
            line = tokenizer.encode(line)
            nats -= sum(plain_sum(lm, [1, *line[i:i + T]], 1) for i in range(0, len(line), T))
        totals += nats, len(text.encode())
        assert (lines["tokens"], lines["bytes"]) == (len(ids), len(text.encode()))
        assert lines["nats_per_byte"] * lines["bytes"] == pytest.approx(nats, rel=1e-5)
        assert lines["bits_per_byte"] * math.log(2) == pytest.approx(lines["nats_per_byte"])
    overall = found["overall"]
    assert overall["lines"]["nats_per_byte"] == pytest.approx(totals[0] / totals[1], rel=1e-5)
    assert overall["mean_nats_per_byte"] == (overall["blocks"]["nats_per_byte"] + overall["lines"]["nats_per_byte"]) / 2
    assert any(len(tokenizer.encode(line)) > T for line in texts["two"].splitlines())  # a line in pieces was among them


def test_perplexity_does_not_see_the_marks_and_keeps_its_limit(tokenizer, tmp_path):
    lm = small_lm(tokenizer)
    marked, plain = (eval.perplexity(lm, tokenizer, stream(tokenizer, tmp_path, {"one": TEXT}, mark), 16) for mark in ("line", "none"))
    assert marked == plain
    short = eval.perplexity(lm, tokenizer, stream(tokenizer, tmp_path, {"one": TEXT, "tiny": "x y", "none": "x"}), 16, limit=33)
    assert short["domains"]["one"]["lines"]["tokens"] == 33 and short["domains"]["one"]["blocks"]["tokens"] == 32
    assert "tiny" in short["domains"] and "none" not in short["domains"]
    with pytest.raises(UserError, match="too short"):
        eval.perplexity(lm, tokenizer, stream(tokenizer, tmp_path, {"none": "x"}), 16)


# ---------------------------------------------------------------- babytalk's truth

def test_the_truth_measured_against_itself(words):
    truth = babytalk.Truth(words)
    found = eval.babytalk_truth(Given(lambda ids: truth.logits(ids)[0]), words, n=200)
    for key in ("ce_above_floor", "kl_truth_student", "mass_outside", "kl_inside", "entropy_difference"):
        assert found[key] == pytest.approx(0, abs=1e-5), key
    assert found["precision"] == found["recall_10"] == found["recall_3"] == found["minimal_pairs"] == 1
    assert found["ce"] == pytest.approx(found["entropy_floor"], abs=1e-5) and found["entropy_floor"] > 1


def test_a_mixture_with_the_uniform_distribution_by_hand(words):
    """q = (1 - e) p* + e / V: mass outside, both KLs and entropies from their definitions, position by position."""
    truth, e, V, n = babytalk.Truth(words), 0.3, words.vocab_size, 60
    mixed = lambda ids: ((1 - e) * truth.logits(ids)[0].exp() + e / V).log()
    found = eval.babytalk_truth(Given(mixed), words, n=n)
    lines = eval.drawn_from_truth(n, 0)[0]
    expected, ahead = np.zeros(4), []
    for line in lines:
        ids = [1, *words.encode(line)]
        p = truth.logits(torch.tensor([ids[:-1]]))[0][0].double()
        p = torch.where(p > -100, p.exp(), 0)
        q = (1 - e) * p + e / V
        for a, b in zip(p, q):
            inside = a > 0
            c = b[inside] / b[inside].sum()
            expected += [(a[inside] * (a[inside] / b[inside]).log()).sum(), b[~inside].sum(), (c * (c / a[inside]).log()).sum(),
                         (a[inside] * a[inside].log()).sum() - (b * b.log()).sum()]
        ahead.append(sum(math.log(q[t, i] / p[t, i]) for t, i in enumerate(ids[1:])))
    expected /= sum(len(words.encode(line)) for line in lines)
    got = [found[k] for k in ("kl_truth_student", "mass_outside", "kl_inside", "entropy_difference")]
    assert got == pytest.approx(expected.tolist(), rel=1e-4) and min(expected) > 0.001
    assert found["recall_10"] == np.mean(np.array(ahead) >= -math.log(10))
    assert 0 < found["recall_3"] == np.mean(np.array(ahead) >= -math.log(3)) < 1
    assert found["precision"] < 0.5 and found["precision_interval"][0] <= found["precision"] <= found["precision_interval"][1]


def test_samples_are_as_frequent_as_the_model_says(words):
    """Taking finished lines out on the way changes nothing: first words and lengths come out as in p* itself."""
    truth = babytalk.Truth(words)
    lines = eval.samples(Given(lambda ids: truth.logits(ids)[0]), words, "", 2000, 64, 1.0, stop=words.encode("\n")[0], stride=3)
    assert len(lines) == 2000 and all(line.count("\n") == 1 and babytalk.contains(line) for line in lines)
    lengths, expected = (np.array([len(line.split()) for line in some]) for some in (lines, babytalk.sample(20_000, 1)))
    assert abs(lengths.mean() - expected.mean()) < 4 * expected.std() * math.sqrt(1 / 2000 + 1 / 20_000)
    p = truth.rows[0, words.encode("the")[0]].exp().item()
    share = np.mean([line.split()[0] == "the" for line in lines])
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / 2000) and p > 0.05


def test_a_line_without_an_end_is_not_in_the_language(words):
    """A student that stops nowhere: its samples begin as sentences do, and none is one."""
    truth, newline = babytalk.Truth(words), words.encode("\n")[0]
    def endless(ids):
        z = truth.logits(ids)[0].clone()
        z[..., newline] = -100
        return z
    found = eval.babytalk_truth(Given(endless), words, n=50)
    assert found["precision"] == 0 and found["precision_interval"][1] > 0


def test_babytalk_needs_one_token_a_word(tokenizer):
    with pytest.raises(UserError, match="one token"):
        eval.babytalk_truth(uniform(tokenizer), tokenizer, n=5)


# ---------------------------------------------------------------- samples, runs, commands

def test_samples_are_seeded_and_begin_with_the_prompt(tokenizer):
    lm = small_lm(tokenizer)
    a, b, other = (eval.samples(lm, tokenizer, "the cat", n=3, tokens=20, seed=seed) for seed in (1, 1, 2))
    assert a == b != other and len(set(a)) == 3 and all(text.startswith("the cat") for text in a)
    assert len(set(eval.samples(lm, tokenizer, "", n=3, tokens=20, temperature=0))) == 1


def test_samples_end_where_they_must(tokenizer):
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]
    after = torch.full((tokenizer.vocab_size, tokenizer.vocab_size), -100.0)
    after[:, x] = 0
    after[x, y] = 3
    model = Given(lambda ids: after[ids])
    assert eval.samples(model, tokenizer, "xy", n=2, tokens=10, temperature=0) == ["xy" + "xy" * 5] * 2
    assert eval.samples(model, tokenizer, "xy", n=2, tokens=10, temperature=0, stop=y) == ["xyxy"] * 2  # not at the prompt's own y
    gpt2 = small_lm(tokenizer, "gpt2")
    asked, forward = [], gpt2.forward
    gpt2.forward = lambda ids, cache=None: asked.append(ids.shape[1] + (cache.pos if cache else 0)) or forward(ids, cache)
    assert len(eval.samples(gpt2, tokenizer, "x", n=2, tokens=100)) == 2 and max(asked) == 16
    with pytest.raises(UserError, match="block_size 16"):
        eval.samples(gpt2, tokenizer, "x " * 20, n=2)


def test_final_table_lines_up_and_leaves_out_what_nobody_measured():
    one, two = {"babytalk": {"ce_above_floor": 0.0234, "precision": 0.881}, "val_ce": 2.5}, {"babytalk": {"precision": 0.7}, "val_ce": None}
    lines = eval.final_table([("teacher t", one), ("student s", two), ("empty", {})]).split("\n")
    assert len(lines) == 4 and len(set(map(len, lines))) == 1
    assert lines[1].split()[-3:] == ["0.0234", "-", "-"] and lines[2].split()[-3:] == ["88.1%", "70.0%", "-"]
    assert lines[3].split()[-3:] == ["2.5000", "-", "-"]


@pytest.fixture
def babytalk_run(make_config, tmp_path, words):
    """A run's folder as the loop leaves it, with random weights."""
    settings = make_config(name="some", corpus="babytalk", mark="line", sentences=300, n_layer=1, n_head=2, d_model=16, d_ff=16,
                           block_size=32, vocab_size=0)
    folder = run.folder_of(settings)
    folder.mkdir(parents=True)
    tokenizer = data.prepare(settings).tokenizer
    tokenizer.save(folder / "tokenizer.json")
    run.write_config(settings, "float32", tokenizer)
    torch.manual_seed(0)
    lm = run.model_of(settings, tokenizer.vocab_size)
    for file in ("best.pt", "ckpt.pt"):
        files.save_checkpoint(folder / file, {"model": lm.state_dict(), "step": 1, "steps": 1})
    (folder / "metrics.jsonl").write_text('{"step": 0, "val_ce": 6.5}\n{"step": 1, "loss": 2}\n{"step": 1, "val_ce": 7.5}\n')
    return folder


def test_evaluate_writes_and_merges(babytalk_run, capsys):
    results = eval.evaluate(babytalk_run, limit=50)
    saved = json.loads((babytalk_run / "eval.json").read_text())
    assert saved == results and set(saved) == {"babytalk", "sample", "val_ce"} and saved["val_ce"] == 6.5
    assert saved["babytalk"]["lines"] == 50 and saved["babytalk"]["which"] == "best"
    text = (babytalk_run / "samples.txt").read_text()
    assert text.count("---") == 5 and text.startswith("some (best), prompt ''") and len(saved["sample"]["texts"]) == 5
    assert "precision" in capsys.readouterr().out
    eval.main([str(babytalk_run), "--tasks=ppl", "--limit=200", "--which=last"])
    merged = json.loads((babytalk_run / "eval.json").read_text())
    assert merged["babytalk"] == saved["babytalk"] and merged["ppl"]["which"] == "last" and merged["val_ce"] == 7.5
    assert "mean of both" in capsys.readouterr().out
    assert not list(babytalk_run.glob(".*"))  # nothing half written is left


def test_blimp_from_a_folder_and_from_the_environment(babytalk_run, tmp_path, monkeypatch, capsys):
    for name in ("blimp", "supplement"):
        (tmp_path / f"eval/{name}_filtered").mkdir(parents=True)
        (tmp_path / f"eval/{name}_filtered/p.jsonl").write_text('{"sentence_good": "the dog sleeps", "sentence_bad": "the dog sleep"}\n')
    monkeypatch.delenv("BABYLM_DIR", raising=False)
    with pytest.raises(UserError, match="--data=DIR"):
        eval.main([str(babytalk_run), "--tasks=blimp"])
    eval.main([str(babytalk_run), "--tasks=blimp,supplement", f"--data={tmp_path / 'eval'}"])
    assert capsys.readouterr().out.count("mean over paradigms") == 2
    monkeypatch.setenv("BABYLM_DIR", str(tmp_path))
    assert eval.evaluate(babytalk_run, ["blimp"])["supplement"]["n"] == 1


@pytest.mark.parametrize("arguments, words", [
    (["RUN", "--tasks=blimb"], ["blimb", "known are ppl"]),
    (["RUN", "--tasks=sample", "--top_p=0"], ["top_p"]),
    (["RUN", "--limit=-1"], ["limit"]),
    (["RUN", "--limit=many"], ["limit", "--help"]),
    (["RUN", "--wich=last"], ["--wich"]),
    (["RUN", "--which=worst"], ["worst"]),
    (["nowhere"], ["nowhere", "not a run"]),
    ([], ["RUN"]),
])
def test_wrong_commands_are_one_line(babytalk_run, arguments, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["eval.py"] + [str(babytalk_run) if a == "RUN" else a for a in arguments])
    with pytest.raises(SystemExit) as e:
        config.run_main(eval.main)
    error = capsys.readouterr().err
    assert e.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words)


def test_damaged_eval_json_is_named(babytalk_run):
    (babytalk_run / "eval.json").write_text("{")
    with pytest.raises(UserError, match="eval.json: damaged"):
        eval.evaluate(babytalk_run, ["sample"])


def test_help_names_every_task_and_option(capsys):
    with pytest.raises(SystemExit):
        eval.main(["--help"])
    shown = capsys.readouterr().out
    assert all(task in shown.split("options:")[0] for task in eval.TASKS) and all(o in shown for o in ("--data", "--limit", "--top_p"))
