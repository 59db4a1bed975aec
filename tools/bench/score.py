"""Log-probabilities of sentences under a random model: eval.score_sentences and minicons."""
import collections
import pathlib
import tempfile

import torch

import babytalk
import eval
from bpe import Tokenizer, pre_tokens, train_bpe
from onecoach import suite
from onecoach.config import Config
from onecoach.run import autocast, make_model
from tools.bench import measure, peers


def bench_score(args):
    auto = measure.machine()
    sentences = minimal_pairs()
    model = measure.MODELS[args.size][0]
    print(f"score, {args.size}: {len(sentences)} sentences, {len(set(sentences))} distinct; fp32 "
          "if no dtype is named")
    dtypes = {"": "float32"}
    if auto == "bfloat16":
        dtypes[", bf16"] = auto
    scores = {"ours": our_scores}
    if args.peers:
        scores["minicons"] = peers.minicons_score
    # one token for each word
    tokenizer = Tokenizer(train_bpe(collections.Counter(pre_tokens("\n".join(sentences)))))
    V = max(measure.V, tokenizer.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        tokenizer.save(path)
        contenders = {name + ending: (run_score, (score, model, V, path, sentences, dtype))
                      for name, score in scores.items() for ending, dtype in dtypes.items()}
        scorers = measure.made(contenders)
        times = measure.median_times(scorers, measure.ROUNDS[args.size])
        gb = {name: measure.memory(*contenders[name])[0] for name in scorers}
        log_probs = {name: scorer() for name, scorer in scorers.items()}

    rows = {}
    right = {name: sums[0::2] > sums[1::2] for name, sums in log_probs.items()}  # (pairs,)
    for name, seconds in times.items():
        rows[name] = {"seconds": seconds, "gb": gb[name], "sentences/s": len(sentences) / seconds,
                      "accuracy": right[name].double().mean().item(),
                      "pairs that differ": int((right[name] != right["ours"]).sum()),
                      "nats": (log_probs[name] - log_probs["ours"]).abs().max().item()}
    return dict(measure.show(rows, "sentences/s"), sentences=len(sentences))


def minimal_pairs():
    """Both sentences of the first PAIRS minimal pairs per paradigm, of BLiMP or babytalk."""
    if (measure.BABYLM / "eval/blimp_filtered").exists():
        items = suite.read("blimp", measure.BABYLM / "eval", measure.PAIRS)
    else:
        pairs = suite.pairs(babytalk.minimal_pairs(10 * measure.PAIRS, 0))
        items = suite.first_of_each(pairs, measure.PAIRS)
    return [sentence.strip() for item in items for _, sentence in item.candidates]


def random_lm(model, V):
    torch.manual_seed(0)
    return make_model(Config(**model), V).eval()


def run_score(score, model, V, tokenizer, sentences, dtype):
    """() -> (n,) log p(sentence | <s>); tokenizer: a tokenizer.json; dtype: of the products."""
    lm = random_lm(model, V).to(measure.device)
    return autocast(dtype, measure.device)(score(lm, tokenizer, sentences))


def our_scores(lm, tokenizer, sentences):
    tokenizer = Tokenizer.load(tokenizer)
    return lambda: eval.score_sentences(lm, tokenizer, sentences)
