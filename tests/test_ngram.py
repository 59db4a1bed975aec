"""n-grams against a dictionary that follows the formula, and against sums done by hand."""
import collections
import json
import math

import numpy as np
import pytest

import data
import distill
import eval
from onecoach import files
from onecoach.config import CONFIGS, UserError, parse_args, read_config
from tools import ngram

BOS = 1


def slow(tokens, vocab_size, order, context, word):
    """P(word | context) by the formula: counts are taken anew for each."""
    p = 1 / vocab_size
    for k in range(min(order - 1, len(context)) + 1):
        before = tuple(context[len(context) - k:])
        after = collections.Counter(tokens[i + k] for i in range(len(tokens) - k)
                                    if tuple(tokens[i:i + k]) == before)
        del after[BOS]  # `<s>` follows nothing
        if after:
            p = (after[word] + len(after) * p) / (after.total() + len(after))
    return p


def stream(seed, n=120, vocab_size=6):
    """Tokens of a small world with structure in it: some words follow others more often."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, vocab_size, n)
    tokens[rng.random(n) < 0.15] = BOS
    tokens[0] = BOS
    repeated = rng.random(n) < 0.3
    tokens[3:][repeated[3:]] = tokens[:-3][repeated[3:]]
    return tokens


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_a_dictionary(order, seed):
    tokens = stream(seed).tolist()
    model = ngram.NGram(tokens, 7, order)  # token 6 is never seen
    rng = np.random.default_rng(seed)
    sequences = [[BOS, *rng.integers(2, 7, n)] for n in (0, 1, 2, 5, 12, 1, 9)]
    starts = [1, 1, 2, 1, 6, 2, 3]
    expected = [sum(math.log(slow(tokens, 7, order, s[:t], s[t])) for t in range(a, len(s)))
                for s, a in zip(sequences, starts)]
    sums = model.sum_log_probs(sequences, starts)
    assert sums.dtype == np.float64
    assert sums.tolist() == pytest.approx(expected, abs=1e-12)
    assert sums[0] == sums[5] == 0  # nothing is counted
    assert model.sum_log_probs([], []).shape == (0,)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_sum_to_one(order):
    model = ngram.NGram(stream(4), 6, order)
    for context in ([BOS], [BOS, 3], [BOS, 4, 4, 2, 5], [BOS, 5, 5, 5, 5, 5, 5], [BOS, 0, 3]):
        sequences = [[*context, word] for word in range(6)]
        sums = model.sum_log_probs(sequences, [len(context)] * 6)
        assert np.exp(sums).sum() == pytest.approx(1)
        assert (sums < 0).all() and np.isfinite(sums).all()


def test_a_bigram_by_hand():
    # <s> a b a b a c, vocabulary of 4: 6 tokens are predicted, 3 kinds of them
    a, b, c = 2, 3, 0
    tokens = [BOS, a, b, a, b, a, c]
    p_a = (3 + 3 / 4) / (6 + 3)
    p_b = (2 + 3 / 4) / (6 + 3)
    p_b_after_a = (2 + 2 * p_b) / (3 + 2)  # a: three times, before two kinds
    one = ngram.NGram(tokens, 4, 1).sum_log_probs([[BOS, b, a]], [1])
    assert math.exp(one[0]) == pytest.approx(p_b * p_a)
    two = ngram.NGram(tokens, 4, 2).sum_log_probs([[BOS, a, b], [BOS, c, a]], [2, 2])
    assert np.exp(two) == pytest.approx([p_b_after_a, p_a])  # nothing comes after c


def test_what_a_text_repeats_is_likelier_with_more_context():
    tokens = [BOS, *[2, 3, 4, 5, 2, 4, 3, 5] * 20]
    sums = [ngram.NGram(tokens, 6, order).sum_log_probs([tokens], [1])[0] for order in (1, 2, 3, 5)]
    assert sums == sorted(sums) and sums[0] < 20 * sums[-1]


def test_a_text_shorter_than_the_order_is_a_text():
    model = ngram.NGram([BOS, 2], 4, 5)
    assert math.exp(model.sum_log_probs([[BOS, 2, 2, 3, 2, 2]], [5])[0]) == pytest.approx(0.625)


# ---------------------------------------------------------------- the command

@pytest.fixture
def argv(tmp_path):
    return [str(CONFIGS / "base_demo.py"), f"--out_dir={tmp_path / 'out'}",
            f"--data_dir={tmp_path / 'data'}", "--sentences=400"]


def test_its_folders_are_like_a_runs(argv, tmp_path, capsys):
    ngram.main(argv)
    bits = []
    for order in (1, 5):
        folder = tmp_path / f"out/ngram-{order}"
        config = read_config(folder / "config.json")
        assert config.name == f"ngram-{order}" and config.sentences == 400
        prepared = data.prepare(config)
        assert data.load_tokenizer(folder).hash == prepared.tokenizer.hash

        # the reported half, line by line, by a sum of our own
        found = files.read_json(folder / "eval.json")["ppl"]["overall"]["lines"]
        half = eval.test_split(prepared.dev, prepared.tokenizer.newline_id)["babytalk"]
        text = prepared.tokenizer.decode(half[half != BOS])
        model = ngram.NGram(prepared.train.tokens, prepared.tokenizer.vocab_size, order)
        lines = [[BOS, *prepared.tokenizer.encode(line)] for line in text.splitlines(True)]
        nats = -model.sum_log_probs(lines, [1] * len(lines)).sum()
        assert found["bits_per_byte"] == pytest.approx(nats / len(text) / math.log(2))
        assert found["tokens"] == sum(map(len, lines)) - len(lines)
        bits.append(found["bits_per_byte"])
    assert bits[1] < 0.95 * bits[0] < 1.7
    assert "ngram-5: counted 0.0" in capsys.readouterr().out


def distill_of(argv):
    config = parse_args([*argv, "--n_layer=1", "--d_model=8", "--n_head=2", "--d_ff=16",
                         "--max_steps=1", "--eval_tokens=0", "--device=cpu", "--dtype=float32"])
    distill.train(config)
    return config.folder


def test_pairs_stand_beside_and_another_text_begins_anew(argv, tmp_path, capsys):
    ngram.main(argv)
    rows = tmp_path / "eval/blimp_filtered"
    rows.mkdir(parents=True)
    pair = {"sentence_good": "the dog sees a cat", "sentence_bad": "the sees dog a cat",
            "field": "syntax"}
    (rows / "order.jsonl").write_text(json.dumps(pair) + "\n")
    ngram.main([*argv, "--tasks=blimp", f"--data={rows.parent}"])
    found = {order: files.read_json(tmp_path / f"out/ngram-{order}/eval.json") for order in (1, 5)}
    blimp = f"blimp --data={rows.parent}"  # one pair is not BLiMP
    assert {*found[1]} - {"val_ce"} == {*found[5]} - {"val_ce"} == {"ppl", blimp}
    assert found[1][blimp]["accuracy"] == 0.5  # the same words: a tie
    assert found[5][blimp]["accuracy"] == 1

    # beside a run
    some = distill_of(argv)
    eval.main([str(some), "--tasks=blimp", f"--data={rows.parent}"])
    header = capsys.readouterr().out.split("the tasks of")[1]
    assert "ngram-1" in header and "ngram-5" in header
    with pytest.raises(UserError, match="no weights 'best'"):
        eval.main([str(tmp_path / "out/ngram-5"), "--tasks=ppl"])

    ngram.main([*argv, "--seed=1", "--tasks=blimp", f"--data={rows.parent}"])
    found = files.read_json(tmp_path / "out/ngram-1/eval.json")
    assert {*found} - {"val_ce"} == {blimp}


def test_where_no_task_is_named_it_is_ppl(argv, tmp_path):
    ngram.main([*argv, "--tasks=", "--limit=200"])
    found = files.read_json(tmp_path / "out/ngram-5/eval.json")
    assert {*found} - {"val_ce"} == {"ppl --limit=200"}


@pytest.mark.parametrize("more, words", [
    ("--tasks=sample", "task 'sample': an n-gram can be asked for ppl"),
    ("--tasks=none", "task 'none'"), ("--limit=-1", "limit >= 0"), ("--limit=x", "invalid int"),
    ("--smoothing=3", "unknown key 'smoothing'"),
])
def test_a_users_mistakes_are_one_line(argv, tmp_path, more, words):
    with pytest.raises(UserError, match=words) as e:
        ngram.main([*argv, more])
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists()
