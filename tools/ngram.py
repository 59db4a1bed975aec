"""Yardsticks for every table: a unigram and a 5-gram of the same tokens.

    python -m tools.ngram CONFIG                        # perplexity of the test split
    python -m tools.ngram CONFIG --tasks=ppl,blimp,supplement --data=DIR

CONFIG and keys: of the run to compare with. The n-grams count the training tokens of that run, and
are asked on the same test split. tasks, data, limit: as in eval.py, for tasks that need only
log-probabilities. Results are in out_dir/ngram-1 and out_dir/ngram-5, folders like a run's.
"""
import collections
import dataclasses

import numpy as np

import eval
from data import prepare
from onecoach import files
from onecoach.config import Arguments, UserError, parse_args, run_main
from onecoach.run import write_config

ORDERS = (1, 5)
NETWORKS_ALONE = ("babytalk", "sample", "curve")  # tasks of eval.py that need more than scores


# ---------------------------------------------------------------- the model

# keys, counts: of the (k+1)-grams of a text, in rising order; a key is the number of the first k
# tokens * vocab_size + the last token. totals, kinds: of their contexts, the k-grams; how many
# tokens follow one, and how many different tokens.
Level = collections.namedtuple("Level", "keys counts totals kinds")


class NGram:
    """An n-gram model of tokens (N,), interpolated by Witten and Bell's rule.

        P_k(w|h) = (c(h w) + kinds(h) P_{k-1}(w|h')) / (c(h) + kinds(h)),     P_0 = 1 / vocab_size

    h: k - 1 tokens, h' the same without the first; c: counts; kinds(h): different tokens after h.
    After an unseen h P_k is P_{k-1}. `<s>` is part of contexts and is never predicted, as in the
    networks. (Witten and Bell 1991, doi 10.1109/18.87000; interpolated as in Chen and Goodman 1999,
    doi 10.1006/csla.1999.0128.) A 5-gram takes some 30 bytes per token of real text, and four times
    that while it is counted; texts that it is asked for, 100 bytes per token.
    """

    def __init__(self, tokens, vocab_size, order, bos_id=1):
        self.vocab_size = vocab_size
        self.levels = []
        tokens = np.asarray(tokens, np.int64)
        numbers = np.zeros(len(tokens), np.int64)  # of the k-gram that begins at each token
        contexts = 1  # different k-grams; of no tokens there is one
        for k in range(min(order, len(tokens))):
            keys = numbers[:len(tokens) - k] * vocab_size + tokens[k:]
            keys, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
            parents, last = np.divmod(keys, vocab_size)
            counts[last == bos_id] = 0
            totals = np.bincount(parents, counts, contexts)
            kinds = np.bincount(parents[counts > 0], minlength=contexts)
            small = [a.astype(np.int32) for a in (counts, totals, kinds)]
            self.levels.append(Level(keys, *small))
            contexts = len(keys)

    def sum_log_probs(self, sequences, starts):
        """Return (n,) float64, nats: for each sequence the sum of log P(token | the ones before).

        Sequences begin with `<s>`; the tokens from number starts[i] >= 1 on are counted.
        """
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        owner = np.repeat(np.arange(len(sequences)), lengths)  # (M,) the sequence of each token
        place = np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]  # (M,) within it
        tokens = np.array([token for sequence in sequences for token in sequence], np.int64)

        log_p = np.log(self.probabilities(tokens, place))
        counted = place >= np.asarray(starts)[owner]
        return np.bincount(owner[counted], log_p[counted], len(sequences))

    def probabilities(self, tokens, place):
        """Return (M,) P of each of the tokens (M,) after the `place` tokens before it."""
        p = np.full(len(tokens), 1 / self.vocab_size)
        numbers = np.zeros(len(tokens), np.int64)  # of the k-gram that begins at each; -1: unseen
        for k, level in enumerate(self.levels[:len(tokens)]):
            # the k-gram that begins at each token is the context of the one k places on
            context = numbers[:len(tokens) - k]
            numbers = find(level.keys, context * self.vocab_size + tokens[k:])
            kinds = level.kinds[context]
            known = (place[k:] >= k) & (context >= 0) & (kinds > 0)

            count = np.where(numbers >= 0, level.counts[numbers], 0)[known]
            kinds = kinds[known]
            total = level.totals[context[known]]
            p[k:][known] = (count + kinds * p[k:][known]) / (total + kinds)
        return p


def find(keys, wanted):
    """Return the index in rising keys of each of the wanted (M,); -1 if it is not there."""
    at = np.searchsorted(keys, wanted)
    at[at == len(keys)] = 0
    return np.where(keys[at] == wanted, at, -1)


# ---------------------------------------------------------------- the command

def read_args(argv):
    """Return eval.py's options and the rest of the command line: CONFIG and keys."""
    parser = Arguments("-m tools.ngram", __doc__, add_help=False)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--limit", type=int, default=0)
    return parser.parse_known_args(argv)


def folder_like_a_run(config, order, data):
    """Write a run's files into the model's folder, without an eval.json of other tokens.

    Returns the folder's config.
    """
    config = dataclasses.replace(config, name=f"ngram-{order}")
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    before = files.read_json_or_empty(folder / "config.json")
    same = dict(_text=data.train.corpus, _tokenizer=data.tokenizer.hash, mark=config.mark,
                seed=config.seed)
    if not same.items() <= before.items():
        (folder / "eval.json").unlink(missing_ok=True)
    files.write_text(folder / "tokenizer.json", data.tokenizer.to_json())
    write_config(config, "float64", data.tokenizer, data.train.corpus)
    return config


def main(argv):
    args, argv = read_args(argv)
    config = parse_args(argv, __doc__)
    tasks = [name for name in args.tasks.split(",") if name] or ["ppl"]
    for name in eval.named_tasks(tasks):
        if name in NETWORKS_ALONE:
            raise UserError(f"task {name!r}: an n-gram can be asked for ppl and the suite")
    eval.Options(data=args.data, limit=args.limit).check()

    data = prepare(config)
    for order in ORDERS:
        own = folder_like_a_run(config, order, data)
        model = NGram(data.train.tokens, data.tokenizer.vocab_size, order, data.tokenizer.bos_id)
        print(f"{own.folder}: counted {data.train.count / 1e6:.2f}M tokens", flush=True)
        subject = eval.Subject(own.folder, model, data.tokenizer, own)
        eval.evaluate(subject, tasks, data=args.data, limit=args.limit)


if __name__ == "__main__":
    run_main(main)
