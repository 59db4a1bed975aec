import collections
import json
import math
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import babytalk
import eval
import run
from config import UserError
from data import Tokenizer, train_bpe
from model import LM, ModelConfig

WORDS = ["the", " cat", " cats", " dog", " sleeps", " on", " a", " mat", "who", "ing", "sing", "\n", "?"]
SENTENCES = ["the cat sleeps on a mat", "who", "the dogs", "a\nthe cat?\nwho", "the cat sleeps on the mat on a mat on the dog",
             "zebra quaggas", "who sleeps"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_bpe(collections.Counter({w: 9 for w in WORDS}), 0))


@pytest.fixture(scope="module")
def babytalk_tokenizer():
    return Tokenizer(train_bpe(collections.Counter(babytalk.forms()), 0))


def random_lm(V, arch="llama", block_size=64, seed=0):
    """A model with opinions: random weights, larger than at the start of training."""
    torch.manual_seed(seed)
    lm = LM(ModelConfig(arch=arch, vocab_size=V, n_layer=2, n_head=2, d_model=16, d_ff=32, block_size=block_size))
    with torch.no_grad():
        for p in lm.parameters():
            p.mul_(8) if p.dim() > 1 else None
    return lm.eval()


def naive(lm, ids, first=1):
    """sum of log q(ids[t] | ids[:t]), t >= first, one prefix at a time."""
    total = 0.0
    for t in range(first, len(ids)):
        total += float(lm.logits(lm(torch.tensor([ids[:t]])))[0, -1].double().log_softmax(-1)[ids[t]].detach())
    return total


class Perfect(torch.nn.Module):
    """babytalk's truth in the shape of a model: its logits are log p*."""

    def __init__(self, tokenizer):
        super().__init__()
        self.truth, self.nothing = babytalk.Truth(tokenizer), torch.nn.Parameter(torch.zeros(1))
        self.config = ModelConfig(vocab_size=tokenizer.vocab_size, block_size=64)

    def forward(self, ids, cache=None):
        return self.truth.logits(ids)[0]

    def logits(self, hidden):
        return hidden

    def generate(self, ids, n, **kwargs):
        return LM.generate(self, ids, n, use_cache=False, **kwargs)


# ---------------------------------------------------------------- score

@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_score_equals_one_prefix_at_a_time(tokenizer, arch):
    lm = random_lm(tokenizer.vocab_size, arch)
    expected = torch.tensor([naive(lm, [1] + tokenizer.encode(s)) for s in SENTENCES], dtype=torch.float64)
    found = eval.score_sentences(lm, tokenizer, SENTENCES)
    assert found.dtype == torch.float64 and expected.unique().numel() == len(SENTENCES)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 24, 8192])
def test_score_does_not_depend_on_batches_order_or_company(tokenizer, monkeypatch, batch_tokens):
    lm = random_lm(tokenizer.vocab_size)
    alone = torch.cat([eval.score_sentences(lm, tokenizer, [s]) for s in SENTENCES])
    monkeypatch.setattr(eval, "ROWS", 3)
    order = [4, 1, 1, 6, 0, 5, 3, 2]
    found = eval.score_sentences(lm, tokenizer, [SENTENCES[i] for i in order], batch_tokens=batch_tokens)
    torch.testing.assert_close(found, alone[order], atol=1e-4, rtol=0)


def test_next_token_probabilities_sum_to_one(tokenizer):
    """Over the whole vocabulary after a prefix, through the function that score stands on (most ids are no text)."""
    lm, prefix = random_lm(tokenizer.vocab_size), [1] + tokenizer.encode("the cat")
    V, n = tokenizer.vocab_size, len(prefix)
    logs = eval.sum_log_probs(lm, [prefix + [i] for i in range(V)], [n] * V)
    assert logs.shape == (V,) and logs.std() > 0.5
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_chain_rule_at_a_token_boundary(tokenizer):
    lm = random_lm(tokenizer.vocab_size)
    a, b = "the cat", " sleeps on a mat"
    assert tokenizer.encode(a) + tokenizer.encode(b) == tokenizer.encode(a + b)
    whole, first, second = eval.score(lm, tokenizer, ["", "", a], [a + b, a, b]).tolist()
    assert second < -1 and whole == pytest.approx(first + second, abs=1e-4)


def test_a_token_that_straddles_the_border_counts(tokenizer):
    lm, (a, b) = random_lm(tokenizer.vocab_size), ("the ca", "t sleeps")
    ids = tokenizer.encode(a + b)
    assert ids == [*tokenizer.encode("the"), *tokenizer.encode(" cat"), *tokenizer.encode(" sleeps")]
    assert float(eval.score(lm, tokenizer, [a], [b])) == pytest.approx(naive(lm, [1] + ids, first=2), abs=1e-4)


def test_the_border_is_counted_in_bytes(tokenizer):
    lm, (a, b) = random_lm(tokenizer.vocab_size), ("é", "ü?")
    ids = tokenizer.encode(a + b)
    assert len(ids) == 5
    assert float(eval.score(lm, tokenizer, [a], [b])) == pytest.approx(naive(lm, [1] + ids, first=3), abs=1e-4)


def test_nothing_to_score_is_zero(tokenizer):
    lm = random_lm(tokenizer.vocab_size)
    assert eval.score(lm, tokenizer, ["", "the cat"], ["", ""]).tolist() == [0, 0]
    assert eval.score_sentences(lm, tokenizer, []).shape == (0,)


def test_too_long_for_gpt2_is_one_line_and_llama_runs_on(tokenizer):
    text = "the" + " cat" * 9
    with pytest.raises(UserError, match="10 tokens.*block_size 8") as e:
        eval.score_sentences(random_lm(tokenizer.vocab_size, "gpt2", block_size=8), tokenizer, [text])
    assert "\n" not in str(e.value)
    lm = random_lm(tokenizer.vocab_size, block_size=8)
    assert float(eval.score_sentences(lm, tokenizer, [text])) == pytest.approx(naive(lm, [1] + tokenizer.encode(text)), abs=1e-4)
    lm(torch.tensor([[1] * 20])).sum().backward()  # scoring leaves a model that can still be trained


def test_scores_are_sums_of_fp32_log_softmax_even_under_autocast(tokenizer):
    """A bf16 log-softmax would be off by whole hundredths a token; logits in bf16 are what autocast asks for."""
    lm, text = random_lm(tokenizer.vocab_size), SENTENCES[4]
    ids = [1] + tokenizer.encode(text)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = float(eval.score_sentences(lm, tokenizer, [text]))
        logits = lm.logits(lm(torch.tensor([ids[:-1]])))[0]
        assert logits.dtype == torch.bfloat16
    expected = float(logits.double().log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).sum())
    assert found == pytest.approx(expected, abs=1e-3)
    assert abs(found - float(eval.score_sentences(lm, tokenizer, [text]))) > 1e-3  # so autocast was followed


# ---------------------------------------------------------------- minimal pairs

def pair(good, bad, uid="a", **more):
    return {"sentence_good": good, "sentence_bad": bad, "UID": uid, **more}


def test_uniform_model_ties_everything(tokenizer):
    lm = random_lm(tokenizer.vocab_size)
    torch.nn.init.zeros_(lm.head.weight)
    found = eval.minimal_pairs(lm, tokenizer, [pair("the cat", "the dog"), pair("a cat sleeps", "a dog sleeps", "b")])
    assert (found["mean"], found["ties"], found["official"]) == (0.5, 1, 1)
    assert float(eval.score_sentences(lm, tokenizer, ["the cat"])) == pytest.approx(-2 * math.log(tokenizer.vocab_size), abs=1e-5)


def test_minimal_pairs_accuracy_mean_and_interval(tokenizer):
    """The better sentences by the model's own scores: 3 of 4 right in one paradigm, 1 of 1 and a tie in the other."""
    lm = random_lm(tokenizer.vocab_size)
    ranked = sorted(SENTENCES, key=lambda s: -float(eval.score_sentences(lm, tokenizer, [s])))
    rows = [pair(ranked[0], ranked[i], "a", field="syntax") for i in (1, 2, 3)] + [pair(ranked[4], ranked[0], "a", field="syntax")]
    rows += [pair(ranked[0], ranked[5], "b", field="morphology"), pair("the cat", "the cat", "b", field="morphology")]
    found = eval.minimal_pairs(lm, tokenizer, rows)
    a, b = found["paradigms"]["a"], found["paradigms"]["b"]
    assert (a["accuracy"], a["ties"], a["official"], a["n"]) == (0.75, 0, 0.75, 4)
    assert (b["accuracy"], b["ties"], b["official"], b["n"]) == (0.75, 0.5, 1, 2)
    assert (found["mean"], found["ties"], found["official"]) == (0.75, 0.25, 0.875)
    assert found["fields"] == {"syntax": 0.75, "morphology": 0.75}
    half = 1.96 * math.sqrt((0.1875 / 4 + 0.1875 / 2) / 4)
    assert found["interval"] == pytest.approx([0.75 - half, 0.75 + half])
    first = eval.minimal_pairs(lm, tokenizer, rows, limit=1)
    assert first["mean"] == 1 and [p["n"] for p in first["paradigms"].values()] == [1, 1]


def test_the_mean_over_paradigms_is_unweighted(tokenizer):
    lm = random_lm(tokenizer.vocab_size)
    good, bad = sorted(["the cat", "the dog"], key=lambda s: -float(eval.score_sentences(lm, tokenizer, [s])))
    found = eval.minimal_pairs(lm, tokenizer, [pair(good, bad)] * 9 + [pair(bad, good, "b")])
    assert found["mean"] == 0.5


def test_wilson_interval_textbook():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    assert eval.wilson(81 / 263, 263) == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert eval.wilson(0, 20) == pytest.approx([0, 0.1611], abs=5e-5)


GOOD = json.dumps(pair("a\nb", "c", "x"))


@pytest.mark.parametrize("content, message", [
    (GOOD + "\n{bad\n", r"some\.jsonl, line 2: not JSON"), ("[1]\n", r"some\.jsonl, line 1: sentence_good is missing"),
    (GOOD + '\n\n{"sentence_good": "x"}\n', r"some\.jsonl, line 3: sentence_bad is missing"),
    ('{"sentence_good": 3, "sentence_bad": "x"}\n', r"some\.jsonl, line 1: sentence_good is missing"),
    (b"\xff\xfe\xfa\n", r"some\.jsonl, line 1: not JSON"), ("\n\n", r"some\.jsonl: empty"), ("[" * 100_000, r"line 1: not JSON")])
def test_damaged_pairs_are_named_in_one_line(tmp_path, content, message):
    (tmp_path / "some.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as e:
        eval.read_pairs(tmp_path)
    assert "\n" not in str(e.value)


def test_pairs_from_a_folder(tmp_path):
    with pytest.raises(UserError, match="--data=DIR"):
        eval.read_pairs(tmp_path / "blimp_filtered")
    with pytest.raises(UserError, match="no .*jsonl"):
        eval.read_pairs(tmp_path)
    (tmp_path / "one.jsonl").write_text(GOOD + "\n")
    (tmp_path / "two.jsonl").write_text('{"sentence_good": "é\\nb", "sentence_bad": "c"}\r\n')
    assert [(r["UID"], r["sentence_good"]) for r in eval.read_pairs(tmp_path)] == [("x", "a\nb"), ("two", "é\nb")]


def test_real_benchmarks_are_read(babylm):
    folder = babylm / "eval"
    if not folder.is_dir():
        pytest.skip(f"no benchmarks in {folder}; set BABYLM_DIR")
    assert len({r["UID"] for r in eval.read_pairs(folder / "blimp_filtered")}) == 67
    rows = eval.read_pairs(folder / "supplement_filtered")
    assert len({r["UID"] for r in rows}) == 5 and any("\n" in r["sentence_good"] for r in rows)


# ---------------------------------------------------------------- perplexity

def token_file(tokenizer, texts, mark_every=2):
    """The parts of a TokenFile that perplexity reads, with `<s>` before every second line."""
    tokens, segments = [], []
    for name, text in texts.items():
        start = len(tokens)
        for i, line in enumerate(text.splitlines(keepends=True)):
            tokens += [1] * (i % mark_every == 0) + tokenizer.encode(line)
        segments.append([name, start, len(tokens), len(text.split()), len(text.encode())])
    return types.SimpleNamespace(tokens=np.array(tokens, np.uint16), segments=segments)


TEXTS = {"one": "the cat sleeps\non a mat\nwho?\nthe dog\n" * 3, "two": "sing sing sing the cat é on a mat on a mat\n" * 2}


def test_perplexity_of_blocks_and_lines_is_direct_cross_entropy(tokenizer):
    lm, T = random_lm(tokenizer.vocab_size), 5
    found = eval.perplexity(lm, tokenizer, token_file(tokenizer, TEXTS), T)
    total = {"blocks": np.zeros(3), "lines": np.zeros(3)}
    for name, text in TEXTS.items():
        ids = tokenizer.encode(text)
        blocks = [ids[i:i + T + 1] for i in range(0, len(ids) - 1, T)]
        lines = [[1] + piece[i:i + T] for piece in map(tokenizer.encode, text.splitlines(keepends=True))
                 for i in range(0, len(piece), T)]
        assert max(map(len, lines)) == T + 1 and len(blocks) > 2
        for way, sequences in (("blocks", blocks), ("lines", lines)):
            if way == "blocks" and found["domains"][name][way]["tokens"] != len(ids) - 1:
                sequences = [s for s in sequences if len(s) == T + 1]  # full blocks only
            nats = sum(float(F.cross_entropy(lm.logits(lm(torch.tensor([s[:-1]])))[0], torch.tensor(s[1:]), reduction="sum").detach())
                       for s in sequences)
            labels = [i for s in sequences for i in s[1:]]
            here = np.array([nats, len(labels), tokenizer.token_bytes[labels].sum()])
            total[way] += here
            check_units(found["domains"][name][way], here)
        assert found["domains"][name]["lines"]["bytes"] == len(text.encode())
    for way, here in total.items():
        check_units(found["overall"][way], here)
    both = [found["overall"][way]["nats_per_byte"] for way in total]
    assert both[0] != both[1] and found["overall"]["mean_nats_per_byte"] == pytest.approx(sum(both) / 2)


def check_units(r, nats_tokens_bytes):
    nats, tokens, size = nats_tokens_bytes
    assert (r["tokens"], r["bytes"]) == (tokens, size)
    assert r["nats_per_token"] == pytest.approx(nats / tokens, abs=1e-5)
    assert r["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert r["nats_per_byte"] == pytest.approx(nats / size, abs=1e-5)
    assert 2 ** (r["bits_per_byte"] * size) == pytest.approx(math.exp(r["nats_per_token"] * tokens), rel=1e-6) if nats < 300 else True
    assert r["bits_per_byte"] * math.log(2) == pytest.approx(r["nats_per_byte"])


def test_perplexity_does_not_depend_on_the_marks_and_keeps_the_limit(tokenizer):
    lm = random_lm(tokenizer.vocab_size)
    few, many = (eval.perplexity(lm, tokenizer, token_file(tokenizer, TEXTS, mark), 5) for mark in (100, 1))
    assert few == many
    limited = eval.perplexity(lm, tokenizer, token_file(tokenizer, TEXTS), 5, limit=7)
    assert all(d["lines"]["tokens"] == 7 for d in limited["domains"].values())


# ---------------------------------------------------------------- babytalk

@pytest.fixture(scope="module")
def perfect(babytalk_tokenizer):
    return eval.babytalk_truth(Perfect(babytalk_tokenizer), babytalk_tokenizer, n=200, seed=3)


def test_the_truth_itself_is_perfect(perfect):
    assert perfect["precision"] == perfect["recall_10"] == perfect["recall_3"] == perfect["minimal_pairs"] == 1
    for name in ("ce_above_floor", "kl_truth_student", "mass_outside", "kl_inside", "entropy_difference"):
        assert perfect[name] == pytest.approx(0, abs=1e-5), name
    assert perfect["ce"] > 1


class Tampered(Perfect):
    """The truth mixed with the uniform distribution over all tokens, weight e: every figure has a closed form."""
    e = 0.1

    def forward(self, ids, cache=None):
        p = super().forward(ids).exp()
        return torch.log((1 - self.e) * p + self.e / p.shape[-1])


def test_truth_mixed_with_noise_in_closed_form(babytalk_tokenizer):
    n, V, model = 100, babytalk_tokenizer.vocab_size, Tampered(babytalk_tokenizer)
    found = eval.babytalk_truth(model, babytalk_tokenizer, n=n, seed=3, pairs=5)
    lines = babytalk.sample(n, "evaluation 3")
    sums, positions, good = np.zeros(5), 0, {10: 0, 3: 0}
    for line in lines:
        words, behind = line.split() + ["\n"], 0.0
        for t in range(len(words)):
            after = babytalk.next_words(words[:t])
            p = np.array(list(after.values()))
            q = (1 - model.e) * p + model.e / V
            outside = model.e / V * (V - len(p))
            this = after[words[t] if words[t] == "\n" or t == 0 else " " + words[t]]
            behind += math.log(this) - math.log((1 - model.e) * this + model.e / V)
            qi = q / q.sum()
            entropy_q = -(q * np.log(q)).sum() - outside * math.log(model.e / V)
            sums += [behind * (t == len(words) - 1), (p * np.log(p / q)).sum(), outside, (qi * np.log(qi / p)).sum(),
                     entropy_q + (p * np.log(p)).sum()]
            positions += 1
        for k in good:
            good[k] += behind <= math.log(k)
    names = ("ce_above_floor", "kl_truth_student", "mass_outside", "kl_inside", "entropy_difference")
    for name, expected in zip(names, sums / positions):
        assert found[name] == pytest.approx(expected, abs=1e-5), name
    assert found["mass_outside"] > 0.05 and found["kl_inside"] > 1e-4
    assert (found["recall_10"], found["recall_3"]) == (good[10] / n, good[3] / n)
    assert 0.1 < found["precision"] < 0.8  # (1 - .1)^8.2 = 0.42, less than 0.2 either way at n = 100 by four standard errors
    low, high = found["precision_interval"]
    assert 0 <= low < found["precision"] < high <= 1


def test_only_whole_lines_are_in_the_language():
    line = babytalk.sample(1, 0)[0]
    assert eval.in_language(line) and not eval.in_language(line.rstrip("\n")) and not eval.in_language("dog dog the\n")


# ---------------------------------------------------------------- a run

@pytest.fixture
def tiny_run(make_config, babytalk_tokenizer):
    """The folder of a run that has not learned anything, with both checkpoints."""
    config = make_config(name="tiny", sentences=300, mark="line", n_layer=1, n_head=2, d_model=8, d_ff=8, block_size=16)
    folder = run.folder_of(config)
    folder.mkdir(parents=True)
    babytalk_tokenizer.save(folder / "tokenizer.json")
    run.write_config(config, "float32", babytalk_tokenizer)
    lm = run.model_of(config, babytalk_tokenizer.vocab_size)
    for file in ("best.pt", "ckpt.pt"):
        run.save_checkpoint(folder / file, {"model": lm.state_dict(), "step": 7, "steps": 7})
    return folder


def test_evaluate_writes_what_it_finds_and_keeps_the_rest(tiny_run, capsys):
    first = eval.evaluate(tiny_run, ["babytalk"], limit=20, device="cpu")
    (tiny_run / "eval.json").write_text(json.dumps({**json.loads((tiny_run / "eval.json").read_text()), "other": {"a": 1}}))
    second = eval.evaluate(tiny_run, ["ppl", "sample"], which="last", device="cpu", n=3)
    assert second == json.loads((tiny_run / "eval.json").read_text())
    assert second["babytalk"] == first["babytalk"] and second["other"] == {"a": 1}
    assert (second["babytalk"]["which"], second["ppl"]["which"]) == ("best", "last")
    assert second["ppl"]["overall"]["lines"]["nats_per_token"] == pytest.approx(math.log(600), rel=0.2)
    assert (tiny_run / "samples.txt").read_text().count("---\n") == 3
    assert not list(tiny_run.glob(".*tmp"))
    assert "babytalk" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_samples(tiny_run):
    lm, tokenizer, _ = run.load(tiny_run)
    a, b, c = (eval.samples(lm, tokenizer, "the dog", 4, 6, 1.0, seed=seed) for seed in (1, 1, 2))
    assert a == b != c and len(set(a)) > 1 and all(text.startswith("the dog") for text in a)


@pytest.mark.parametrize("argv, message", [
    (["--tasks=blimb"], "unknown task 'blimb'; known are ppl, blimp, supplement, babytalk, sample"), (["--limit=-1"], "limit"),
    (["--tasks=blimp"], "--data=DIR"), (["--tasks=blimp", "--data=nowhere"], "nowhere.*--data=DIR"), (["--top_p=0"], "top_p")])
def test_command_line_mistakes_are_one_line(tiny_run, monkeypatch, argv, message):
    monkeypatch.delenv("BABYLM_DIR", raising=False)
    with pytest.raises(UserError, match=message) as e:
        eval.main([str(tiny_run), "--device=cpu", *argv])
    assert "\n" not in str(e.value)


def test_not_a_run(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        eval.main([str(tmp_path)])


def test_final_table_has_a_column_a_run_and_marks_what_is_missing():
    rows = [("teacher a", {"babytalk": {"ce_above_floor": 0.02, "precision": 0.88}}), ("student b", {"babytalk": {"ce_above_floor": 0.5}})]
    lines = eval.final_table(rows).splitlines()
    assert lines[0].split() == ["teacher", "a", "student", "b"]
    assert lines[1].split()[-2:] == ["0.0200", "0.5000"] and lines[2].split()[-1] == "-" and len(lines) == 3
