"""A model's answers to the tasks of the suite, as figures and in the challenge's form."""
import collections

import numpy as np

from onecoach import suite
from onecoach.scoring import score_all

# result: for eval.json; share (n,): suite.shares of the items, if they have right answers;
# said: in the form of a predictions file
Answers = collections.namedtuple("Answers", "result share said")


def answer(name, items, model, tokenizer, seed=0):
    """Return a model's Answers to the Items of a task of the suite."""
    task = suite.TASKS[name]
    if not task.item_of:
        return answer_reading(items, model, tokenizer)
    return answer_choices(task, items, model, tokenizer, seed)


def answer_choices(task, items, model, tokenizer, seed):
    # all in one call, so that texts of similar length form a batch
    lists = [item.candidates for item in items]
    lists += [item.candidates_2025 for item in items if item.candidates_2025]
    sums, tokens, cut = candidate_scores(model, tokenizer, lists)
    if task.per == "token":
        sums = [a / n for a, n in zip(sums, tokens)]
    scores = sums[:len(items)]
    right = np.array([item.right for item in items])
    share = suite.shares(scores, right)

    share_2025 = None
    if task.in_2025:
        others = iter(sums[len(items):])
        old = [next(others) if item.candidates_2025 else row for item, row in zip(items, scores)]
        share_2025 = suite.shares(old, right) > 0
    result = suite.accuracies(items, share, task.over, share_2025)

    if task.per == "byte":
        sizes = [[len(text.encode("utf-8", "surrogatepass")) for _, text in item.candidates]
                 for item in items]
        each = suite.shares([a / np.array(n) for a, n in zip(scores, sizes)], right)
        per_byte = suite.accuracies(items, each, task.over)
        result["per_byte"] = {key: per_byte[key] for key in (
            "accuracy", "interval", "at_chance", "chance", "n")}
    said = suite.predictions(items, suite.chosen(scores, seed))
    return Answers(result | {"cut": cut}, share, said)


def answer_reading(items, model, tokenizer):
    known = [i for i, item in enumerate(items) if len(item.candidates) == 2]
    lists = [[item.candidates[0]] for item in items] + [[items[i].candidates[1]] for i in known]
    sums, _, cut = candidate_scores(model, tokenizer, lists)
    surprisal, prev = np.split(-np.concatenate(sums), [len(items)])
    prev_surprisal = np.full(len(items), np.nan)
    prev_surprisal[known] = prev
    result = suite.reading_figures(items, surprisal, prev_surprisal)
    said = [{"id": i, "pred": float(a), "prev_pred": float(b)}  # nan: missing, in their scoring too
            for i, (a, b) in enumerate(zip(surprisal, prev_surprisal))]
    return Answers(result | {"cut": cut}, None, {"reading": {"predictions": said}})


def candidate_scores(model, tokenizer, lists):
    """Score lists of (prefix, completion): each list's sums (k,) and tokens (k,); prefixes cut."""
    flat = [candidate for candidates in lists for candidate in candidates]
    sums, tokens, cut = score_all(model, tokenizer, *zip(*flat))
    ends = np.cumsum([len(candidates) for candidates in lists])[:-1]
    return np.split(sums.numpy(), ends), np.split(tokens.numpy(), ends), cut
