"""Log-probabilities of sentences under a random model: eval.score_sentences beside minicons."""
import pathlib
import tempfile

import torch

import babytalk
import data
import eval
from bpe import Tokenizer, train_bpe
from onecoach import suite
from onecoach.config import Config
from onecoach.run import autocast, make_model
from tools.bench import measure, peers


def bench_score(args):
    auto = measure.machine()
    sentences = minimal_pairs()
    model = measure.MODELS[args.size][0]
    print(f"score, {args.size}: {len(sentences)} sentences, {len(set(sentences))} distinct; fp32 "
          "where no dtype is named")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        tokenizer = word_tokenizer(sentences, folder)
        tokenizer.save(path)
        inputs = model, max(measure.V, tokenizer.vocab_size), path, sentences
        contenders = {}
        for name, make in (("ours", our_scores), ("minicons", their_scores))[:1 + args.peers]:
            contenders[name] = make, (*inputs, "float32")
            if auto == "bfloat16":
                contenders[f"{name}, bf16"] = make, (*inputs, auto)
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


def word_tokenizer(sentences, folder):
    """Train a Tokenizer that makes one token of each of their words."""
    text = pathlib.Path(folder) / "sentences.text"
    text.write_text("\n".join(sentences))
    return Tokenizer(train_bpe(data.count_words({"": text})))


def random_lm(model, V):
    torch.manual_seed(0)
    return make_model(Config(**model), V).eval()


def our_scores(model, V, tokenizer, sentences, dtype):
    """() -> (n,) log p(sentence | <s>); tokenizer: a tokenizer.json; dtype: of the products."""
    lm = random_lm(model, V).to(measure.device)
    tokenizer = Tokenizer.load(tokenizer)
    in_dtype = autocast(dtype, measure.device)
    return in_dtype(lambda: eval.score_sentences(lm, tokenizer, sentences))


def their_scores(model, V, tokenizer, sentences, dtype):
    lm = random_lm(model, V)
    in_dtype = autocast(dtype, measure.device)
    return in_dtype(peers.minicons_score(lm, tokenizer, sentences, measure.device))
