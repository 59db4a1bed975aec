"""Zero-shot evaluation: perplexity, minimal pairs, babytalk's truth, samples. What it finds is kept in RUN/eval.json.

    python eval.py RUN                                          # what the run's corpus allows without further files
    python eval.py RUN --tasks=blimp,supplement --data=DIR      # DIR holds blimp_filtered and supplement_filtered
    python eval.py RUN --tasks=sample --prompt='once upon a time' --n=5 --temperature=.8 --top_k=0 --top_p=1

    ppl                perplexity of the development text, domain by domain; --limit: tokens a domain
    blimp, supplement  minimal pairs of BLiMP, of the BabyLM supplement;     --limit: pairs a paradigm
    babytalk           against the embedded corpus's known truth;            --limit: lines
    sample             text from a prompt, also in RUN/samples.txt
"""
import argparse
import collections
import dataclasses
import functools
import json
import math
import os
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import babytalk
import config as config_module
import data as data_module
import files
import run
from config import UserError

BATCH_TOKENS = 8192  # padded tokens of a forward pass
ROWS = 256           # positions whose logits exist at once: few enough for a processor's cache
TIE = 1e-4           # nats: closer than this, fp32 cannot tell two sentences' sums apart
SENTENCES = "sentence_good", "sentence_bad"  # BLiMP's keys
TASKS = ("ppl", "blimp", "supplement", "babytalk", "sample")


@torch.no_grad()
def positions(forward, sequences, starts, batch_tokens, device):
    """forward(ids (B, T)) -> (B, T, d) at the positions that predict the tokens starts[i] >= 1 and on of sequence i.

    Sequences of like length go together, the longest first, padded on the right, where causal attention does not look.
    Yields, at most ROWS at a time: sequence number (N,), on the CPU; what forward gives (N, d); the next token (N,).
    """
    order = sorted((i for i, s in enumerate(sequences) if starts[i] < len(s)), key=lambda i: -len(sequences[i]))
    while order:
        size = max(1, batch_tokens // len(sequences[order[0]]))
        members, order = torch.tensor(order[:size]), order[size:]
        ids = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(sequences[i]) for i in members], True)  # (B, T + 1)
        first, end = torch.tensor([(starts[i], len(sequences[i])) for i in members])[..., None].unbind(1)  # (B, 1)
        at = torch.arange(1, ids.shape[1])
        where = ((first <= at) & (at < end)).nonzero(as_tuple=True)  # rows, columns, (all N,) each
        out = forward(ids[:, :-1].to(device))[tuple(i.to(device) for i in where)]
        owner, label = members[where[0]], ids[:, 1:][where].to(device)
        yield from zip(owner.split(ROWS), out.split(ROWS), label.split(ROWS))


@torch.no_grad()
def sum_log_probs(model, sequences, starts, batch_tokens=BATCH_TOKENS):
    """(n,) float64: of each sequence the sum of log q(token | those before), nats, over its tokens starts[i] and on."""
    sums = torch.zeros(len(sequences), dtype=torch.float64)
    with tqdm(total=sum(map(len, sequences)), unit="token", leave=False, disable=None) as bar:
        for owner, hidden, label in positions(model, sequences, starts, batch_tokens, next(model.parameters()).device):
            nats = F.cross_entropy(model.logits(hidden).float(), label, reduction="none")
            sums.index_add_(0, owner, -nats.cpu().double())
            bar.update(len(owner))
    if sums.isnan().any():
        raise UserError("the model's log-probabilities are not numbers (nan): its weights are damaged; train it again")
    return sums


def score(model, tokenizer, prefixes, completions, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(completion | <s> prefix), nats.

    Prefix and completion are encoded as one string; the tokens that end beyond the prefix are summed, so one that
    straddles the boundary counts. Follows the ambient autocast; softmax and sums are never below fp32. Equal texts are
    scored once. Raises UserError for a text longer than a GPT-2's block_size (a Llama's positions go on).
    """
    longest = model.config.block_size if model.config.arch == "gpt2" else math.inf
    unique, index = {}, []  # (first token that counts, <s>, tokens) -> its number
    for prefix, completion in zip(prefixes, completions, strict=True):
        ids = tokenizer.encode(text := prefix + completion)
        if len(ids) > longest:
            raise UserError(f"{text[:40]!r}: {len(ids)} tokens, longer than this GPT-2's block_size {longest}; use a llama")
        inside = int((np.cumsum(tokenizer.token_bytes[ids]) <= len(prefix.encode("utf-8", "surrogatepass"))).sum())
        index.append(unique.setdefault((1 + inside, tokenizer.bos_id, *ids), len(unique)))
    sums = sum_log_probs(model, [key[1:] for key in unique], [key[0] for key in unique], batch_tokens)
    return sums[torch.tensor(index, dtype=torch.long)]


def score_sentences(model, tokenizer, sentences, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(sentence | <s>), nats: `score` with empty prefixes."""
    return score(model, tokenizer, [""] * len(sentences), sentences, batch_tokens)


def wilson(share, n):
    """95% interval of a share of n (Wilson 1927): inside [0, 1], and not empty at 0 and 1."""
    z2 = 1.96**2 / n
    middle, half = (share + z2 / 2) / (1 + z2), math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def read_pairs(folder):
    """The rows of folder/*.jsonl in BLiMP's form; UID is the file's stem where a row has none.

    Raises UserError naming the folder, or file and line, that is missing, empty, not JSON or lacks a sentence.
    """
    folder, rows = pathlib.Path(folder), []
    if not (files := sorted(folder.glob("*.jsonl"))):
        raise UserError(f"{folder}: no *.jsonl files there; pass --data=DIR, the folder that holds {folder.name}")
    for file in files:
        if not (lines := [(i, line) for i, line in enumerate(file.read_bytes().split(b"\n"), 1) if line.strip()]):
            raise UserError(f"{file}: empty, it has no pairs")
        for i, line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise UserError(f"{file}, line {i}: not JSON")
            if missing := [key for key in SENTENCES if not isinstance(row, dict) or not isinstance(row.get(key), str)]:
                raise UserError(f"{file}, line {i}: {missing[0]} is missing, or not text")
            rows.append({**row, "UID": str(row.get("UID") or file.stem), "field": str(row.get("field") or "") or None})
    return rows


def minimal_pairs(model, tokenizer, rows, limit=0):
    """Which of two sentences is more likely? rows: BLiMP's dicts, or a folder of them; limit: pairs a paradigm, 0 all.

    A tie is half a point; `official` counts it as a whole one, as the official scripts do. Intervals are 95%: Wilson's
    for a paradigm; for the unweighted mean over k paradigms the normal one of variance sum a (1 - a) / n / k^2, which
    is about other pairs of the same paradigms, not about other paradigms.
    """
    groups = collections.defaultdict(list)
    for row in read_pairs(rows) if isinstance(rows, (str, os.PathLike)) else rows:
        groups[row["UID"]].append(row)
    groups = {name: group[:limit or None] for name, group in groups.items()}
    texts = [row[key] for key in SENTENCES for group in groups.values() for row in group]
    good, bad = score_sentences(model, tokenizer, texts).chunk(2)
    paradigms = {}
    for (name, group), d in zip(groups.items(), (good - bad).split([len(group) for group in groups.values()])):
        won, tied = (d > TIE).double().mean().item(), (d.abs() <= TIE).double().mean().item()
        a, n, field = won + tied / 2, len(group), group[0].get("field")
        paradigms[name] = dict(accuracy=a, interval=wilson(a, n), ties=tied, official=won + tied, n=n, field=field)
    found = paradigms.values()
    mean = {key: float(np.mean([p[key] for p in found])) for key in ("accuracy", "ties", "official")}
    half = 1.96 * math.sqrt(sum(p["accuracy"] * (1 - p["accuracy"]) / p["n"] for p in found)) / len(found)
    interval = [max(0.0, mean["accuracy"] - half), min(1.0, mean["accuracy"] + half)]
    fields = {field: float(np.mean([p["accuracy"] for p in found if p["field"] == field]))
              for field in dict.fromkeys(p["field"] for p in found) if field}
    return dict(**mean, interval=interval, n=len(texts) // 2, fields=fields, paradigms=paradigms)


def perplexity(model, tokenizer, dev, block_size, limit=0):
    """Perplexity of a TokenFile, by domain and overall, by two scorings of the same text without the stream's `<s>`.

    blocks: full block after full block of the stream, none opened by `<s>`. lines: each line, with its "\\n", after
    `<s>`; a longer one in pieces of block_size. `mean_nats_per_byte` of the two is the figure to compare runs of
    different `mark` by: it favours none, and bytes are the same whatever the tokenizer. limit: tokens a domain, 0 all.
    """
    newline, bos = tokenizer.encode("\n")[0], tokenizer.bos_id
    sums, found = {}, {}  # sums: domain -> (nats, tokens, bytes) of both ways, (2, 3)
    for name, start, stop, *_ in dev.segments:
        ids = np.array(dev.tokens[start:stop], np.int64)
        ids = ids[ids != bos][:limit or None]
        T = min(block_size, len(ids) - 1)
        if T < 1:
            continue  # nothing to predict
        lines = np.split(ids, np.flatnonzero(ids[:-1] == newline) + 1)
        blocks = [ids[i:i + T + 1] for i in range(0, len(ids) - T, T)]
        lines = [np.append(bos, line[i:i + T]) for line in lines for i in range(0, len(line), T)]
        sums[name] = np.zeros((2, 3))
        for row, parts in zip(sums[name], (blocks, lines)):
            labels = np.concatenate([part[1:] for part in parts])
            nats = -sum_log_probs(model, parts, [1] * len(parts)).sum().item()
            row[:] = nats, len(labels), tokenizer.token_bytes[labels].sum()
    if not sums:
        raise UserError("the development text is too short to be scored; name another with the key dev")
    for name, both in (*sums.items(), (None, sum(sums.values()))):
        found[name] = {way: dict(nats_per_token=nats / tokens, perplexity=math.exp(min(700.0, nats / tokens)),
                                 nats_per_byte=nats / size, bits_per_byte=nats / size / math.log(2), tokens=int(tokens),
                                 bytes=int(size)) for way, (nats, tokens, size) in zip(("blocks", "lines"), both)}
        found[name]["mean_nats_per_byte"] = (both[:, 0] / both[:, 2]).sum() / 2
    return dict(overall=found.pop(None), domains=found)


@torch.no_grad()
def against_truth(model, tokenizer, sequences):
    """q beside p* on lines (<s>, tokens, "\\n"): {name: mean over positions}, and (n,) float64 log q(line)."""
    device, truth, starts = next(model.parameters()).device, babytalk.Truth(tokenizer), [1] * len(sequences)
    sums, log_q_line = torch.zeros(4, dtype=torch.float64), torch.zeros(len(sequences), dtype=torch.float64)
    theirs = positions(lambda ids: truth.logits(ids)[0], sequences, starts, BATCH_TOKENS, "cpu")
    for (owner, hidden, label), (_, log_p, _) in zip(positions(model, sequences, starts, BATCH_TOKENS, device), theirs):
        log_p, log_q = log_p.to(device), model.logits(hidden).float().log_softmax(-1)  # (N, V)
        possible, q = log_p > truth.FLOOR, log_q.exp()
        p, gap, inner = log_p.masked_fill(~possible, -math.inf).exp(), log_p - log_q, q * possible
        inside = inner.sum(-1)  # (N,)
        sums += torch.stack([(p * gap).sum(-1), (q - inner).sum(-1), -(inner * gap).sum(-1) / inside - inside.log(),
                             (p * log_p).sum(-1) - (q * log_q).sum(-1)]).cpu().double().sum(-1)
        log_q_line.index_add_(0, owner, log_q.gather(1, label[:, None])[:, 0].cpu().double())
    means = (sums / sum(len(s) - 1 for s in sequences)).tolist()
    return dict(zip(("kl_truth_student", "mass_outside", "kl_inside", "entropy_difference"), means)), log_q_line


@functools.cache
def drawn_from_truth(n, seed):
    """n lines, the log p* of each, and minimal pairs, 200 a paradigm: the same for every model that is measured."""
    lines, rows = babytalk.sample(n, f"evaluation {seed}"), babytalk.minimal_pairs(200, seed)
    for row in rows:  # a line of babytalk ends in "\n": without it a sentence that lacks its end could not be told
        row.update({key: row[key] + "\n" for key in SENTENCES})
    return lines, torch.tensor([babytalk.log_prob(line) for line in lines], dtype=torch.float64), rows


def babytalk_truth(model, tokenizer, n=10_000, seed=0):
    """The model against p*, on n lines drawn from p* and scored after `<s>`; KLs and entropies are nats a token.

    ce_above_floor; kl_truth_student KL(p*||q); KL(q||p*) as mass_outside the language and kl_inside it, q renormalised
    on p*'s support; entropy_difference H(q) - H(p*); precision, the share of n sampled lines that are in the language;
    recall_10 and recall_3, the share of lines x with q(x) >= p*(x) / 10 and / 3; minimal_pairs, the paradigms' mean.
    Raises UserError if a word is not one token.
    """
    lines, log_p, rows = drawn_from_truth(n, seed)
    sequences = [(tokenizer.bos_id, *tokenizer.encode(line)) for line in lines]
    means, log_q = against_truth(model, tokenizer, sequences)
    floor, ce = (-x.sum().item() / sum(len(s) - 1 for s in sequences) for x in (log_p, log_q))
    longest, newline = 2 * max(map(len, sequences)), sequences[0][-1]  # what is longer is not in the language
    drawn = [line for i in range(0, n, 1000) for line in
             samples(model, tokenizer, "", min(1000, n - i), longest, 1.0, seed=seed + i, stop=newline)]
    right = sum(line.endswith("\n") and babytalk.contains(line) for line in drawn) / n
    recall = {f"recall_{k}": (log_q >= log_p - math.log(k)).double().mean().item() for k in (10, 3)}
    pairs = minimal_pairs(model, tokenizer, rows)
    return dict(entropy_floor=floor, ce=ce, ce_above_floor=ce - floor, **means, precision=right,
                precision_interval=wilson(right, n), **recall, minimal_pairs=pairs["accuracy"], lines=n,
                paradigms={name: p["accuracy"] for name, p in pairs["paradigms"].items()})


def samples(model, tokenizer, prompt="", n=5, tokens=64, temperature=0.8, top_k=0, top_p=1.0, seed=0, stop=-1,
            stride=8):
    """n texts: the prompt after `<s>` and up to `tokens` sampled tokens, or up to the first with the id `stop`; seeded.

    Every `stride` tokens the samples that are over are taken out, or a few long ones would cost as much as all. A
    GPT-2's end at its block_size; UserError for a prompt that fills it.
    """
    ids, texts, device = [tokenizer.bos_id, *tokenizer.encode(prompt)], [], next(model.parameters()).device
    end = min(len(ids) + tokens, model.config.block_size + 1 if model.config.arch == "gpt2" else math.inf)
    if end <= len(ids):
        raise UserError(f"a prompt of {len(ids) - 1} tokens fills this GPT-2's block_size {end - 1}; shorten it")
    rows, generator = torch.tensor([ids] * n, device=device), torch.Generator(device).manual_seed(seed)
    while len(rows):
        rows = model.generate(rows, min(stride, end - rows.shape[1]), temperature=temperature, top_k=top_k,
                              top_p=top_p, generator=generator, stop=stop)
        over = (rows[:, len(ids):] == stop).any(1) | (rows.shape[1] == end)
        for row in rows[over, len(ids):].tolist():
            texts.append(prompt + tokenizer.decode(row[:row.index(stop) + 1] if stop in row else row))
        rows = rows[~over]
    return texts


def table(rows):
    """Rows of texts as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) for first, *rest in rows)


def show_pairs(found):
    rows = [["paradigm", "accuracy", "95% interval", "ties", "tie is right", "pairs"]]
    for name, p in (*found["paradigms"].items(), ("mean over paradigms", found)):
        rows.append([name, f"{p['accuracy']:.1%}", "{:.1%} to {:.1%}".format(*p["interval"]), f"{p['ties']:.1%}",
                     f"{p['official']:.1%}", str(p["n"])])
    rows[-1:-1] = [[f"mean of {field}", f"{mean:.1%}", "", "", "", ""] for field, mean in found["fields"].items()]
    return table(rows)


def show_perplexity(found):
    rows = [["domain", "tokens", "blocks: perplexity", "bits a byte", "lines: perplexity", "bits a byte", "nats a byte"]]
    for name, e in (*found["domains"].items(), ("all; nats a byte: mean of both", found["overall"])):
        ways = [f"{e[way][key]:.4g}" for way in ("blocks", "lines") for key in ("perplexity", "bits_per_byte")]
        rows.append([name, str(e["lines"]["tokens"]), *ways, f"{e['mean_nats_per_byte']:.4f}"])
    return table(rows)


FINAL = [  # title, where it is in eval.json, form
    ("CE above the floor, nats a token", ("babytalk", "ce_above_floor"), "{:.4f}"),
    ("KL(p*||q), nats a token", ("babytalk", "kl_truth_student"), "{:.4f}"),
    ("KL(q||p*): mass of q outside the language", ("babytalk", "mass_outside"), "{:.4f}"),
    ("KL(q||p*): inside it, nats a token", ("babytalk", "kl_inside"), "{:.4f}"),
    ("precision: samples that are in the language", ("babytalk", "precision"), "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 10", ("babytalk", "recall_10"), "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 3", ("babytalk", "recall_3"), "{:.1%}"),
    ("minimal pairs of babytalk", ("babytalk", "minimal_pairs"), "{:.1%}"),
    ("BLiMP", ("blimp", "accuracy"), "{:.1%}"),
    ("BLiMP supplement", ("supplement", "accuracy"), "{:.1%}"),
    ("development text, mean nats a byte", ("ppl", "overall", "mean_nats_per_byte"), "{:.4f}"),
    ("development CE (val_ce), nats a token", ("val_ce",), "{:.4f}"),
]


def final_table(rows):
    """Runs side by side. rows: [(label, contents of its eval.json)]; a line for every figure that one of them has."""
    lines = [["", *(label for label, _ in rows)]]
    for title, path, form in FINAL:
        found = [functools.reduce(lambda value, key: value.get(key) if isinstance(value, dict) else None, path, value) for _, value in rows]
        if any(isinstance(x, float) for x in found):
            lines.append([title, *(form.format(x) if isinstance(x, float) else "-" for x in found)])
    return table(lines)


def evaluate(folder, tasks=(), *, data="", limit=0, which="best", device="auto", prompt="", n=5, temperature=0.8,
             top_k=0, top_p=1.0, seed=0):
    """Do `tasks` (default: babytalk or ppl, and sample) on the run in `folder`, print tables, return all of eval.json.

    Each task's result is merged into eval.json. data: the folder that holds blimp_filtered and supplement_filtered, by
    default $BABYLM_DIR/eval. Raises UserError for what is unknown or missing.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise UserError(f"unknown task {unknown[0]!r}; known are {', '.join(TASKS)}")
    if min(limit, n - 1, temperature, top_k, seed) < 0 or not 0 < top_p <= 1 or not temperature < 1e6 or seed >= 2**31:
        raise UserError("allowed: limit >= 0, n >= 1, temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= seed < 2^31")
    folder, data = pathlib.Path(folder), pathlib.Path(data or os.path.join(os.environ.get("BABYLM_DIR", "."), "eval"))
    model, tokenizer, config = run.load(folder, which=which)
    model = model.to(run.device_of(dataclasses.replace(config, device=device)))
    file = folder / "eval.json"
    results = {**(files.read_json(file) if file.exists() else {}), "val_ce": validated(folder, which)}
    for task in tasks or ("babytalk" if config.corpus == "babytalk" else "ppl", "sample"):
        if task == "ppl":
            prepared = data_module.prepare(config)
            if prepared.tokenizer.hash != tokenizer.hash:
                raise UserError(f"{folder}: {prepared.folder} has another tokenizer; has {config.corpus} changed since?")
            found = perplexity(model, tokenizer, prepared.dev, config.longest, limit)
            shown = show_perplexity(found)
        elif task == "babytalk":
            found = babytalk_truth(model, tokenizer, limit or 10_000, seed)
            shown = final_table([("", {task: found})])
        elif task == "sample":  # after a newline comes `<s>` if every line is marked, and `<s>` is never sampled
            stop = tokenizer.encode("\n")[0] if config.mark == "line" else -1
            options = dict(prompt=prompt, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
            texts = samples(model, tokenizer, n=n, stop=stop, **options)
            found, head = {**options, "texts": texts}, ", ".join(f"{k} {v!r}" for k, v in options.items())
            shown = "\n---\n".join([head, *map(str.rstrip, texts)])
            files.write_text(folder / "samples.txt", f"{folder.name} ({which}), {shown}\n")
        else:
            found = minimal_pairs(model, tokenizer, data / f"{task}_filtered", limit)
            shown = show_pairs(found)
        results[task] = {**found, "which": which, "limit": limit}
        files.write_json(file, results)
        print(f"\n{task} of {folder} ({which})\n{shown}")
    return results


def validated(folder, which):
    """val_ce of best.pt or ckpt.pt as metrics.jsonl has it: the lowest, or the last; None where there is none."""
    found = [m["val_ce"] for m in files.read_json_lines(folder / "metrics.jsonl") if isinstance(m.get("val_ce"), float)] or [None]
    return min(found) if which == "best" else found[-1]


def main(argv):
    def refuse(message):
        raise UserError(f"{message}; --help shows how")
    parser = argparse.ArgumentParser(prog="python eval.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error, add = refuse, parser.add_argument
    add("run", metavar="RUN", help="the run's folder")
    add("--tasks", default="", help=f"of {','.join(TASKS)}; default: babytalk (on that corpus) or ppl, and sample")
    add("--data", default="", help="folder of blimp_filtered and supplement_filtered; default: $BABYLM_DIR/eval")
    add("--limit", type=int, default=0, help="see the tasks; 0: all (babytalk: 10000 lines)")
    add("--which", choices=("best", "last"), default="best", help="best.pt, the lowest val_ce, or ckpt.pt")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--prompt", default="", help="what samples begin with")
    add("--n", type=int, default=5, help="samples")
    add("--temperature", type=float, default=0.8, help="0: always the most likely token")
    add("--top_k", type=int, default=0, help="sample among the k most likely tokens; 0: all")
    add("--top_p", type=float, default=1.0, help="sample among the fewest tokens that have this probability")
    add("--seed", type=int, default=0, help="of samples and of babytalk's lines")
    args = vars(parser.parse_args(argv))
    evaluate(args.pop("run"), [task for task in args.pop("tasks").split(",") if task], **args)


if __name__ == "__main__":
    config_module.run_main(main)
