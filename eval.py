"""Zero-shot evaluation: perplexity, minimal pairs, babytalk's truth, samples. What it finds is in RUN/eval.json.

    python eval.py RUN                                          # what the run's corpus allows without further files
    python eval.py RUN --tasks=blimp,supplement --data=DIR      # DIR holds blimp_filtered and supplement_filtered
    python eval.py RUN --tasks=sample --prompt='once upon a time' --n=5 --temperature=.8 --top_k=0 --top_p=1

    ppl         perplexity of the development text, domain by domain; --limit: tokens a domain
    blimp       BLiMP's minimal pairs;                              --limit: pairs a paradigm
    supplement  the BabyLM supplement's
    babytalk    against the embedded corpus's known truth;          --limit: lines
    sample      text from a prompt, also in RUN/samples.txt

Everything stands on `score`. A model here is anything with model(ids (B, T)) -> (B, T, d), model.logits, model.config
and parameters(), in eval mode.
"""
import argparse
import collections
import dataclasses
import functools
import json
import math
import os
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import babytalk
import config as config_module
import data as data_module
import run
from config import UserError

BATCH_TOKENS = 8192  # padded tokens of a forward pass
ROWS = 1024          # positions whose logits exist at once
TIE = 1e-4           # nats: closer than this, fp32 cannot tell two sentences' sums apart


# ---------------------------------------------------------------- the score

def padded(sequences, starts, batch_tokens):
    """Batches of token sequences of like length, the longest first (what does not fit in memory shows at once).

    Of sequence i the tokens from starts[i] >= 1 on are wanted. Yields (members, ids (B, T + 1) padded on the right,
    where (N,): the flat positions in (B, T) whose next token is wanted). Sequences of which nothing is wanted are left out.
    """
    order = sorted((i for i, s in enumerate(sequences) if starts[i] < len(s)), key=lambda i: -len(sequences[i]))
    with tqdm(total=len(order), unit="sentence", leave=False, disable=not sys.stderr.isatty()) as bar:
        while order:
            width = len(sequences[order[0]])
            size = max(1, batch_tokens // width)
            members, order = order[:size], order[size:]
            ids, wanted = np.zeros((len(members), width), np.int64), np.zeros((len(members), width), bool)
            for row, i in enumerate(members):
                ids[row, :len(sequences[i])] = sequences[i]
                wanted[row, starts[i]:len(sequences[i])] = True
            yield members, torch.from_numpy(ids), torch.from_numpy(np.flatnonzero(wanted[:, 1:]))
            bar.update(len(members))


@torch.no_grad()
def sum_log_probs(model, sequences, starts, batch_tokens=BATCH_TOKENS):
    """(n,) float64: of each sequence of ids the sum of log q(token | tokens before it), nats, over tokens starts[i] and on.

    Causal attention never looks at the padding on the right; logits exist for ROWS wanted positions at a time.
    """
    device, owners, values = next(model.parameters()).device, [], []
    for members, ids, where in padded(sequences, starts, batch_tokens):
        hidden = model(ids[:, :-1].to(device)).flatten(0, 1)[where.to(device)]  # (N, d)
        labels = ids[:, 1:].flatten()[where].to(device)  # (N,)
        values += [-F.cross_entropy(model.logits(h).float(), y, reduction="none")
                   for h, y in zip(hidden.split(ROWS), labels.split(ROWS))]
        owners.append(torch.tensor(members)[where // (ids.shape[1] - 1)])
    sums = torch.zeros(len(sequences), dtype=torch.float64)
    if values:
        sums.index_add_(0, torch.cat(owners), torch.cat(values).cpu().double())
    if sums.isnan().any():
        raise UserError("the model's log-probabilities are not numbers (nan): its weights are damaged; train it again")
    return sums


def score(model, tokenizer, prefixes, completions, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(completion | <s> prefix), nats.

    Prefix and completion are encoded as one string; the tokens that end beyond the prefix are summed, so one that
    straddles the boundary counts. Follows the ambient autocast; log-softmax and sums are never below fp32. Equal texts
    are scored once. Raises UserError for a text longer than a GPT-2's block_size (a Llama's positions go on).
    """
    longest = model.config.block_size if model.config.arch == "gpt2" else math.inf
    unique, index = {}, []  # (first token that counts, <s>, tokens) -> its number
    for prefix, completion in zip(prefixes, completions, strict=True):
        ids = tokenizer.encode(prefix + completion)
        if len(ids) > longest:
            raise UserError(f"a sentence of {len(ids)} tokens is longer than this GPT-2's block_size {longest}: "
                            f"{(prefix + completion)[:60]!r}; only a llama can score it")
        ends = np.cumsum(tokenizer.token_bytes[ids])
        inside = np.searchsorted(ends, len(prefix.encode("utf-8", "surrogatepass")), side="right")
        index.append(unique.setdefault((1 + int(inside), tokenizer.bos_id, *ids), len(unique)))
    sums = sum_log_probs(model, [key[1:] for key in unique], [key[0] for key in unique], batch_tokens)
    return sums[torch.tensor(index, dtype=torch.long)]


def score_sentences(model, tokenizer, sentences, batch_tokens=BATCH_TOKENS):
    """(n,) float64: log p(sentence | <s>), nats: `score` with empty prefixes."""
    return score(model, tokenizer, [""] * len(sentences), sentences, batch_tokens)


# ---------------------------------------------------------------- minimal pairs

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
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; pass --data=DIR, the folder that holds {folder.name}")
    for file in sorted(folder.glob("*.jsonl")):
        before = len(rows)
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise UserError(f"{file}, line {number}: not JSON")
            for key in ("sentence_good", "sentence_bad"):
                if not isinstance(row, dict) or not isinstance(row.get(key), str):
                    raise UserError(f"{file}, line {number}: {key} is missing, or not text")
            rows.append({**row, "UID": str(row.get("UID") or file.stem)})
        if len(rows) == before:
            raise UserError(f"{file}: empty, it has no pairs")
    if not rows:
        raise UserError(f"{folder}: no *.jsonl files in it; pass --data=DIR, the folder that holds {folder.name}")
    return rows


def minimal_pairs(model, tokenizer, rows, limit=0):
    """Which of two sentences the model finds more likely. rows: BLiMP's dicts, or a folder of *.jsonl; limit: pairs a paradigm.

    A tie is half a point; `official` counts it as a whole one, as the official scripts do. Intervals are 95%: Wilson's
    for a paradigm; for the unweighted mean over k paradigms the normal one with variance sum a (1 - a) / n / k^2: of other
    pairs of the same paradigms, not of other paradigms.
    """
    rows = read_pairs(rows) if isinstance(rows, (str, os.PathLike)) else rows
    groups = collections.defaultdict(list)
    for row in rows:
        if not limit or len(groups[row["UID"]]) < limit:
            groups[row["UID"]].append(row)
    kept = [row for group in groups.values() for row in group]
    scores = score_sentences(model, tokenizer, [r[k] for k in ("sentence_good", "sentence_bad") for r in kept])
    ahead = (scores[:len(kept)] - scores[len(kept):]).split([len(g) for g in groups.values()])
    paradigms, fields = {}, collections.defaultdict(list)
    for (name, group), d in zip(groups.items(), ahead):
        won, tied, n = (d > TIE).double().mean().item(), (d.abs() <= TIE).double().mean().item(), len(group)
        accuracy = won + tied / 2
        paradigms[name] = dict(accuracy=accuracy, interval=wilson(accuracy, n), ties=tied, official=won + tied, n=n)
        if "field" in group[0]:
            paradigms[name]["field"] = group[0]["field"]
            fields[group[0]["field"]].append(accuracy)
    mean = lambda key: float(np.mean([p[key] for p in paradigms.values()]))
    half = 1.96 * math.sqrt(sum(p["accuracy"] * (1 - p["accuracy"]) / p["n"] for p in paradigms.values())) / len(paradigms)
    return dict(mean=mean("accuracy"), interval=[mean("accuracy") - half, mean("accuracy") + half], ties=mean("ties"),
                official=mean("official"), pairs=len(kept), fields={f: float(np.mean(a)) for f, a in sorted(fields.items())},
                paradigms=paradigms)


# ---------------------------------------------------------------- perplexity

def perplexity(model, tokenizer, dev, block_size, limit=0):
    """Perplexity of a TokenFile, a domain at a time and overall, by two scorings of the same text without its `<s>`.

    blocks: block after block of the plain stream, each token after at least one of its block (what turns and dialogues
    are like). lines: each line, with its "\\n", after `<s>` (what a minimal pair is like); longer ones in pieces of
    block_size. `mean_nats_per_byte` of the two is the figure by which streams marked in different ways are compared:
    neither favours them, and bytes are the same whatever the tokenizer. limit: tokens a domain.
    """
    newline, bos = tokenizer.encode("\n")[0], tokenizer.bos_id
    totals, domains = collections.defaultdict(lambda: np.zeros(3)), {}  # scoring -> nats, tokens, bytes
    for name, start, stop, *_ in dev.segments:
        ids = np.asarray(dev.tokens[start:stop]).astype(np.int64)
        ids = ids[ids != bos][:limit or None]
        T = min(block_size, len(ids) - 1)
        if T < 1:
            continue
        lines = np.split(ids, np.flatnonzero(ids[:-1] == newline) + 1)
        ways = {"blocks": [ids[i:i + T + 1] for i in range(0, len(ids) - T, T)],
                "lines": [np.append(bos, line[i:i + block_size]) for line in lines for i in range(0, len(line), block_size)]}
        domains[name] = {}
        for way, sequences in ways.items():
            nats = -sum_log_probs(model, sequences, [1] * len(sequences)).sum().item()
            found = np.array([nats, sum(len(s) - 1 for s in sequences), sum(tokenizer.token_bytes[s[1:]].sum() for s in sequences)])
            totals[way] += found
            domains[name][way] = per_unit(*found)
    if not domains:
        raise UserError("the development text is too short to be scored")
    overall = {way: per_unit(*found) for way, found in totals.items()}
    for entry in (overall, *domains.values()):
        entry["mean_nats_per_byte"] = (entry["blocks"]["nats_per_byte"] + entry["lines"]["nats_per_byte"]) / 2
    return dict(overall=overall, domains=domains)


def per_unit(nats, tokens, size):
    return dict(nats_per_token=nats / tokens, perplexity=math.exp(min(700.0, nats / tokens)), nats_per_byte=nats / size,
                bits_per_byte=nats / size / math.log(2), tokens=int(tokens), bytes=int(size))


# ---------------------------------------------------------------- babytalk's truth

@torch.no_grad()
def against_truth(model, tokenizer, sequences):
    """q beside p* on lines of the language (sequences: <s>, tokens, "\\n"): (4,) means over positions, (n,) log q(line).

    The means: KL(p*||q), the mass of q on tokens that p* rules out, KL(q'||p*) with q' = q renormalised on p*'s support, and
    H(q) - H(p*); float64.
    """
    device, truth = next(model.parameters()).device, babytalk.Truth(tokenizer)
    means, log_q_line, positions = torch.zeros(4, dtype=torch.float64), torch.zeros(len(sequences), dtype=torch.float64), 0
    for members, ids, where in padded(sequences, [1] * len(sequences), BATCH_TOKENS):
        owners, labels = torch.tensor(members)[where // (ids.shape[1] - 1)], ids[:, 1:].flatten()[where]
        hidden = model(ids[:, :-1].to(device)).flatten(0, 1)[where.to(device)]  # (N, d)
        log_p = truth.logits(ids[:, :-1])[0].flatten(0, 1)[where]  # (N, V)
        for o, y, h, log_p in zip(*(t.split(ROWS // 4) for t in (owners, labels, hidden, log_p))):  # fits the cache
            log_p, log_q = log_p.to(device), model.logits(h).float().log_softmax(-1)
            possible, q = log_p > truth.FLOOR, log_q.exp()
            p, gap, inner = log_p.masked_fill(~possible, -math.inf).exp(), log_p - log_q, q * possible
            inside = inner.sum(-1)
            found = [(p * gap).sum(-1), (q - inner).sum(-1), -(inner * gap).sum(-1) / inside - inside.log(),
                     (p * log_p).sum(-1) - (q * log_q).sum(-1)]
            means += torch.stack(found).cpu().double().sum(-1)
            log_q_line.index_add_(0, o, log_q.gather(1, y.to(device)[:, None])[:, 0].cpu().double())
        positions += len(where)
    return means / positions, log_q_line


@functools.cache
def drawn_from_truth(n, seed):
    """n lines, the log p* of each, and minimal pairs (200 a paradigm): the same for every model that is measured."""
    lines, rows = babytalk.sample(n, f"evaluation {seed}"), babytalk.minimal_pairs(200, seed)
    for row in rows:  # a line of babytalk ends in "\n": without it a sentence that lacks its end could not be told
        row.update({k: row[k] + "\n" for k in ("sentence_good", "sentence_bad")})
    return lines, torch.tensor([babytalk.log_prob(line) for line in lines], dtype=torch.float64), rows


def babytalk_truth(model, tokenizer, n=10_000, seed=0):
    """The model against p*, on n lines drawn from p* that are scored after `<s>`; KLs and entropies are nats a token.

    ce_above_floor; kl_truth_student KL(p*||q); KL(q||p*) as mass_outside the language and kl_inside it; precision, the
    share of n sampled lines that are in the language; recall_10 and recall_3, the share of lines x with
    q(x) >= p*(x) / 10 and / 3; minimal_pairs, the mean over paradigms. Raises UserError if a word is not one token.
    """
    lines, log_p, rows = drawn_from_truth(n, seed)
    sequences = [(tokenizer.bos_id, *tokenizer.encode(line)) for line in lines]
    (kl, outside, inside, entropy), log_q = against_truth(model, tokenizer, sequences)
    floor, ce = (-x.sum().item() / sum(len(s) - 1 for s in sequences) for x in (log_p, log_q))
    longest = 2 * max(map(len, sequences))  # whatever is longer is not in the language
    right = sum(line.endswith("\n") and babytalk.contains(line) for line in sampled_lines(model, tokenizer, n, longest, seed)) / n
    recall = {k: (log_q >= log_p - math.log(k)).double().mean().item() for k in (10, 3)}
    grammar = minimal_pairs(model, tokenizer, rows)
    return dict(entropy_floor=floor, ce=ce, ce_above_floor=ce - floor, kl_truth_student=kl.item(), mass_outside=outside.item(),
                kl_inside=inside.item(), entropy_difference=entropy.item(), precision=right, precision_interval=wilson(right, n),
                recall_10=recall[10], recall_3=recall[3], minimal_pairs=grammar["mean"], lines=n,
                paradigms={name: p["accuracy"] for name, p in grammar["paradigms"].items()})


def sampled_lines(model, tokenizer, n, longest, seed, batch=1000, stride=6):
    """n lines drawn from the model after `<s>` at temperature 1, each cut after its "\\n" if it has one within `longest`.

    Every `stride` tokens the finished lines are taken out, so that a few long ones do not cost as much as all.
    """
    device, newline, lines = next(model.parameters()).device, tokenizer.encode("\n")[0], []
    generator = torch.Generator(device).manual_seed(seed)
    longest = min(longest, model.config.block_size) if model.config.arch == "gpt2" else longest
    for start in range(0, n, batch):
        rows = torch.full((min(batch, n - start), 1), tokenizer.bos_id, device=device)
        while len(rows) and rows.shape[1] <= longest:
            rows = model.generate(rows, min(stride, longest + 1 - rows.shape[1]), generator=generator, stop=newline)
            ended = (rows == newline).any(1) | (rows.shape[1] > longest)
            lines += [tokenizer.decode(until(newline, row[1:])) for row in rows[ended].tolist()]
            rows = rows[~ended]
    return lines


def until(stop, ids):
    """ids up to the first `stop`, which stays."""
    return ids[:ids.index(stop) + 1] if stop in ids else ids


def samples(model, tokenizer, prompt="", n=5, tokens=64, temperature=0.8, top_k=0, top_p=1.0, seed=0, stop=None):
    """n texts: the prompt after `<s>`, continued by up to `tokens` sampled tokens, the same for the same seed.

    stop: the id of a token after which a sample is over. A GPT-2's samples end at its block_size; UserError for a prompt that
    fills it.
    """
    device, ids = next(model.parameters()).device, [tokenizer.bos_id, *tokenizer.encode(prompt)]
    if model.config.arch == "gpt2":
        tokens = min(tokens, model.config.block_size - len(ids) + 1)
        if tokens < 1:
            raise UserError(f"a prompt of {len(ids) - 1} tokens fills this GPT-2's block_size {model.config.block_size}; shorten it")
    rows = model.generate(torch.tensor([ids] * n, device=device), tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                          generator=torch.Generator(device).manual_seed(seed), stop=stop)
    return [prompt + tokenizer.decode(until(stop, row[len(ids):])) for row in rows.tolist()]


# ---------------------------------------------------------------- what is shown

def table(rows):
    """Rows of texts as lines, the first column left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join([row[0].ljust(widths[0])] + [x.rjust(w) for x, w in zip(row[1:], widths[1:])]) for row in rows)


def show_pairs(found):
    line = lambda name, p, n: [name, f"{p['accuracy']:.1%}", "{:.1%} to {:.1%}".format(*p["interval"]), f"{p['ties']:.1%}",
                               f"{p['official']:.1%}", str(n)]
    rows = [["paradigm", "accuracy", "95% interval", "ties", "tie is right", "pairs"]]
    rows += [line(name, p, p["n"]) for name, p in found["paradigms"].items()]
    rows += [[f"mean of {field}", f"{mean:.1%}", "", "", "", ""] for field, mean in found["fields"].items()]
    return table(rows + [line("mean over paradigms", {**found, "accuracy": found["mean"]}, found["pairs"])])


def show_perplexity(found):
    rows = [["development text", "tokens", "blocks: perplexity", "bits a byte", "lines: perplexity", "bits a byte", "mean nats a byte"]]
    for name, e in (*found["domains"].items(), ("all", found["overall"])):
        rows.append([name, str(e["lines"]["tokens"]), *(f"{e[way][key]:.{digits}f}" for way in ("blocks", "lines")
                    for key, digits in (("perplexity", 2), ("bits_per_byte", 4))), f"{e['mean_nats_per_byte']:.4f}"])
    return table(rows)


FINAL = [  # of final_table: title, where in eval.json, form
    ("CE above the floor, nats a token", ("babytalk", "ce_above_floor"), "{:.4f}"),
    ("KL(p*||q), nats a token", ("babytalk", "kl_truth_student"), "{:.4f}"),
    ("KL(q||p*): mass of q outside the language", ("babytalk", "mass_outside"), "{:.4f}"),
    ("KL(q||p*): inside it, nats a token", ("babytalk", "kl_inside"), "{:.4f}"),
    ("H(q) - H(p*), nats a token", ("babytalk", "entropy_difference"), "{:+.4f}"),
    ("precision: samples that are in the language", ("babytalk", "precision"), "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 10", ("babytalk", "recall_10"), "{:.1%}"),
    ("recall: truth with q(x) >= p*(x) / 3", ("babytalk", "recall_3"), "{:.1%}"),
    ("minimal pairs of babytalk", ("babytalk", "minimal_pairs"), "{:.1%}"),
    ("BLiMP", ("blimp", "mean"), "{:.1%}"),
    ("BLiMP supplement", ("supplement", "mean"), "{:.1%}"),
    ("development text, mean nats a byte", ("ppl", "overall", "mean_nats_per_byte"), "{:.4f}"),
    ("development CE (val_ce), nats a token", ("val_ce",), "{:.4f}"),
]


def final_table(rows):
    """Runs side by side. rows: [(label, contents of its eval.json)]; a line for every figure that one of them has."""
    lines = [["", *(label for label, _ in rows)]]
    for title, path, form in FINAL:
        cells = []
        for _, value in rows:
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            cells.append("-" if value is None else form.format(value))
        if set(cells) != {"-"}:
            lines.append([title, *cells])
    return table(lines)


# ---------------------------------------------------------------- a run

TASKS = ("ppl", "blimp", "supplement", "babytalk", "sample")


def evaluate(folder, tasks=(), *, data="", limit=0, which="best", device="auto", prompt="", n=5, temperature=0.8, top_k=0,
             top_p=1.0, seed=0):
    """Do `tasks` (default: babytalk or ppl, and sample) on the run in `folder`; print tables; return what eval.json then holds.

    Results are merged into eval.json after each task, samples are written to samples.txt. data: the folder of
    blimp_filtered and supplement_filtered, by default $BABYLM_DIR/eval. Raises UserError for what is unknown or missing.
    """
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"unknown task {task!r}; known are {', '.join(TASKS)}")
    if not data and "BABYLM_DIR" in os.environ:
        data = pathlib.Path(os.environ["BABYLM_DIR"]) / "eval"
    if not data and {"blimp", "supplement"} & set(tasks):
        raise UserError("blimp and supplement need --data=DIR, the folder that holds blimp_filtered and supplement_filtered")
    folder = pathlib.Path(folder)
    model, tokenizer, config = run.load(folder, which=which)
    model = model.to(run.device_of(dataclasses.replace(config, device=device)))
    file = folder / "eval.json"
    results = run.read_json(file) if file.exists() else {}
    results["val_ce"] = validated(folder, which)
    for task in tasks or ("babytalk" if config.corpus == "babytalk" else "ppl", "sample"):
        if task == "sample":
            texts = samples(model, tokenizer, prompt, n, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
                            stop=tokenizer.encode("\n")[0] if config.mark == "line" else None)  # there lines follow <s>, never sampled
            head = f"{folder.name} ({which}), prompt {prompt!r}, temperature {temperature}, top_k {top_k}, top_p {top_p}, seed {seed}\n"
            shown = head + "".join(f"---\n{text.rstrip()}\n" for text in texts)
            run.write_text(folder / "samples.txt", shown)
        elif task == "ppl":
            prepared = data_module.prepare(config)
            if prepared.tokenizer.hash != tokenizer.hash:
                raise UserError(f"{folder}: its tokenizer is not that of {prepared.folder}: the corpus has changed since")
            found = perplexity(model, tokenizer, prepared.dev, config.block_size, limit)
            shown = show_perplexity(found)
        elif task == "babytalk":
            found = babytalk_truth(model, tokenizer, limit or 10_000, seed)
            shown = final_table([(folder.name, {"babytalk": found})])
        else:
            found = minimal_pairs(model, tokenizer, pathlib.Path(data) / f"{task}_filtered", limit)
            shown = show_pairs(found)
        if task != "sample":
            results[task] = {**found, "which": which, "limit": limit}
        run.write_json(file, results)
        print(f"\n{task}: {shown}" if task == "sample" else f"\n{task} of {folder} ({which})\n{shown}")
    return results


def validated(folder, which):
    """val_ce of best.pt or ckpt.pt as metrics.jsonl has it: the lowest, or the last; None where there is none."""
    file = folder / "metrics.jsonl"
    lines = [line for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []
    found = [line["val_ce"] for line in map(json.loads, lines) if "val_ce" in line]
    return (min(found) if which == "best" else found[-1]) if found else None


def number(kind, low, high=math.inf):
    """An argparse type: a number of `kind` in [low, high]."""
    def parse(text):
        if not low <= (value := kind(text)) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in [{low}, {high}]")
        return value
    parse.__name__ = kind.__name__
    return parse


def main(argv):
    parser = argparse.ArgumentParser(prog="python eval.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    def refuse(message):
        raise UserError(f"{message}; --help shows how")
    parser.error = refuse
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--tasks", default="", help=f"of {','.join(TASKS)}; default: babytalk (on that corpus) or ppl, and sample")
    parser.add_argument("--data", default="", metavar="DIR", help="holds blimp_filtered, supplement_filtered; default: $BABYLM_DIR/eval")
    parser.add_argument("--limit", type=number(int, 0), default=0, help="see the tasks; 0: all (babytalk: 10000 lines)")
    parser.add_argument("--which", choices=("best", "last"), default="best", help="best.pt, the lowest val_ce, or ckpt.pt")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--prompt", default="", help="what samples begin with")
    parser.add_argument("--n", type=number(int, 1), default=5, help="samples")
    parser.add_argument("--temperature", type=number(float, 0, 1e6), default=0.8, help="0: the most likely token")
    parser.add_argument("--top_k", type=number(int, 0), default=0, help="sample among the k most likely tokens; 0: all")
    parser.add_argument("--top_p", type=number(float, 1e-9, 1), default=1.0, help="sample among the fewest of this probability")
    parser.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, help="of samples and of babytalk's lines")
    args = vars(parser.parse_args(argv))
    evaluate(args.pop("run"), [t for t in args.pop("tasks").split(",") if t], **args)


if __name__ == "__main__":
    config_module.run_main(main)
