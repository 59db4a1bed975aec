"""Speed and memory, beside what a user would run instead: ours and the peers in turn, in one run.

    python -m tools.bench bpe|loss|step|score [--size=nano|paper] [--peers]

    bpe     a tokenizer of V 16000 trained on a corpus, cleaned beforehand, and the corpus encoded into a token file. --peers:
            Hugging Face tokenizers with the same pre-tokens; are merges and ids the same? --data: the corpus, by default
            data/babylm_10m/train under $BABYLM_DIR (../shared), else generated babytalk; --words: about so many of its words.
    loss    forward and backward of the distillation loss alone: 4096 positions, V 16000, alpha 0.5, tau 2, reverse KL;
            nano d 128 from 256, paper d 512 from 1024. --peers adds the materialised loss and, where liger-kernel is
            installed, Liger's chunked JSD at beta 1.
    step    one optimizer step of distillation, 32 x 128 tokens: distill.py's own forward_backward and update. nano: 4 layers
            of d 128 from 6 of 256, paper: 16 of 512 from 24 of 1024. Its floating-point operations beside those of its matrix
            products run alone, and what its parts take. --peers: Baby Llama's step in transformers, fp32.
    score   log-probabilities of minimal pairs under a random model of step's student's size: BLiMP's first 8 pairs a paradigm
            (eval/blimp_filtered under $BABYLM_DIR), else babytalk's. --peers: minicons, with the same weights.

Figures drift on shared machines, so quote the ratios. Memory is of a fresh process: its peak (step, score), or what it adds to
its inputs (bpe, loss); on a GPU of its allocations, and `step` shows MFU and the teacher's own training too. The last line is one
JSON object: what, size, ours and peer (loss and bpe: seconds; step: tokens a second; score: sentences a second), ours_gb, peer_gb,
and more; null where no peer was measured.
"""
import argparse
import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import numpy as np
import torch

import babytalk
import corpora
import data
import distill
import eval
import losses
import rollouts
import run
from config import Config, run_main
from eval import table
from tools import measure, peers
from tools.measure import machine, median_times, memory_of, there

ROUNDS = {"nano": 7, "paper": 3}
V, TAU, ALPHA = 16000, peers.TAU, peers.ALPHA
BABYLM = pathlib.Path(os.environ.get("BABYLM_DIR", "../shared"))


# ---------------------------------------------------------------- the loss

LOSS_SIZES = {"nano": (128, 256), "paper": (512, 1024)}


@functools.cache
def loss_inputs(size, N, V=V):
    d, dt = LOSS_SIZES[size]
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    inputs = draw(N, d) * 0.5, draw(V, d) * 0.3, draw(N, dt) * 0.5, draw(V, dt) * 0.2, torch.randint(0, V, (N,), generator=g)
    return [t.to(measure.device) for t in inputs]


def ours(h, W, h_p, W_p, y):
    return losses.distillation_loss(h, W, h_p, W_p, y, divergence="rkl", tau=TAU, alpha=ALPHA)


def loss_run(name, size, N, V=V):
    """() -> gradients: forward and backward of one contender."""
    f = {"materialised": peers.materialised, "liger": peers.liger}.get(name, ours)
    mode = "eager" if "eager" in name else "auto"
    dtype = "float32" if "fp32" in name or f is not ours else run.dtype_of(Config(), measure.device)
    h, W, *rest = loss_inputs(size, N, V)
    if mode == "auto" and f is ours:
        mode = losses.path(measure.device.type, 4096, 16000)  # also for tiny inputs

    def once():
        losses.mode = mode
        a, b = h.clone().requires_grad_(), W.clone().requires_grad_()
        with run.autocast(dtype, measure.device):
            loss = f(a, b, *rest)
        loss.backward()
        return a.grad, b.grad
    return once


def products_run(size, N, dtype):
    """The four matrix products of the loss, 256 rows at a time, and nothing else."""
    h, W, h_p, W_p, _ = (t.to(dtype) for t in loss_inputs(size, N))

    def once():
        for i in range(0, N, 256):
            z = h[i:i + 256] @ W.T
            h_p[i:i + 256] @ W_p.T
            z @ W
            z.T @ h[i:i + 256]
    return once


def loss(size, beside, N=4096, **_):
    auto, path = machine(), losses.path(measure.device.type, N, V)
    names = ["ours", "ours, eager"] + ["ours, fp32", "ours, fp32, eager"] * (auto != "float32")
    names += (["materialised"] + ["liger"] * there("liger_kernel")) * beside
    contenders = {name: loss_run(name, size, N) for name in names}
    contenders |= {f"products, {dtype}": products_run(size, N, run.DTYPES[dtype]) for dtype in dict.fromkeys((auto, "float32"))}
    times = median_times(contenders, ROUNDS[size])
    losses.mode = "auto"
    memory, twice = ({name: memory_of(loss_run, (name, size, n), (name, size, 32, 256))[1] for name in names}
                     for n in (N, 2 * N))
    over = lambda name, other: f"{times[name] / times[other]:.2f}" if other in times else "-"
    rows = [["", "seconds", "/ products", "/ materialised", "/ liger", "added GB", "at 2 N"]]
    for name in times:
        exact = "fp32" in name or name in ("materialised", "liger", "products, float32")
        product = "products, float32" if exact else f"products, {auto}"
        rows.append([name, f"{times[name]:.3f}", over(name, product), over(name, "materialised"), over(name, "liger"),
                     *(f"{m[name]:.2f}" if name in m else "-" for m in (memory, twice))])
    print(f"loss, {size}: N {N}, V {V}, d {' from '.join(map(str, LOSS_SIZES[size]))}; the elementwise part of ours is "
          f"{path}; `ours` runs its products in {auto}\n" + table(rows))
    exact = loss_inputs(size, N)
    a, b = exact[0].double().requires_grad_(), exact[1].double().requires_grad_()
    ours(a, b, *(t.double() for t in exact[2:4]), exact[4]).backward()
    for name in [name for name in names if name.startswith("ours")]:
        errors = [((x.double() - y).norm() / y.norm()).item() for x, y in zip(contenders[name](), (a.grad, b.grad))]
        print(f"{name}: gradient against fp64, relative error {errors[0]:.1e} (states), {errors[1]:.1e} (head)")
    peer = "liger" if "liger" in times else "materialised" if "materialised" in times else None
    return dict(what="loss", size=size, ours=times["ours"], peer=times.get(peer), ours_gb=memory["ours"],
                peer_gb=memory.get(peer), peer_is=peer, seconds=times, gb=memory, gb_at_twice_n=twice, dtype=auto, path=path)


# ---------------------------------------------------------------- the step

STEP_SIZES = {"nano": (dict(d_model=128, n_layer=4, d_ff=256, n_head=4), dict(d_model=256, n_layer=6, d_ff=768, n_head=8)),
              "paper": (dict(d_model=512, n_layer=16, d_ff=1024, n_head=8), dict(d_model=1024, n_layer=24, d_ff=3072, n_head=8))}


class Step:
    """A student, teacher and optimizer, as distill.train has them; sizes: of student and teacher, or of one alone."""

    def __init__(self, sizes, keys, vocab_size=V):
        torch.manual_seed(0)
        self.config = Config(**dict(divergence="rkl", tau=TAU, alpha=ALPHA, vocab_size=vocab_size) | sizes[0] | keys)
        self.dtype = run.dtype_of(self.config, measure.device)
        self.lm = run.model_of(self.config, vocab_size).to(measure.device)
        teachers = [run.model_of(dataclasses.replace(self.config, **size), vocab_size).eval() for size in sizes[1:]]
        self.teachers = [distill.Teacher(lm.requires_grad_(False).to(measure.device, run.DTYPES[self.dtype]),
                                         compiled=self.config.compile) for lm in teachers]
        self.model = torch.compile(self.lm) if self.config.compile else self.lm
        self.optimizer, self.params = distill.optimizer_of(self.lm, self.config), list(self.lm.parameters())
        B, T = self.config.batch_size, self.config.longest
        self.operations = B * T * distill.operations_a_token(self.lm, self.teachers, T)
        ids = torch.randint(3, vocab_size, (B, T + 1)).to(measure.device)
        self.x, self.y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def gradients(self, model=None):
        """The loss; its gradients are where the optimizer looks for them."""
        draws = rollouts.draws(self.config, 0, 0.0, self.x.shape)
        return distill.forward_backward(model or self.model, self.lm, self.teachers, self.x, self.y, self.config, 0.0,
                                        lambda: run.autocast(self.dtype, measure.device), None, False, draws)[0]

    def __call__(self, model=None):
        distill.update(self.optimizer, self.params, self.gradients(model), 2.5e-4, self.config.grad_clip, None)

    def parts(self):
        """{part: seconds} of one step: the same functions, each with a clock around it."""
        seconds = collections.Counter()

        def clocked(name, f):
            def g(*args, **kwargs):
                start = time.perf_counter()
                out = f(*args, **kwargs)
                measure.wait()
                seconds[name] += time.perf_counter() - start
                return out
            return g
        with contextlib.ExitStack() as stack:
            for owner, attribute, name in ((distill, "outputs_of", "teacher forward"), (distill, "update", "optimizer"),
                                           (losses, "distillation_loss", "loss and its gradient"),
                                           (torch.Tensor, "backward", "student backward")):
                stack.enter_context(mock.patch.object(owner, attribute, clocked(name, getattr(owner, attribute))))
            self(clocked("student forward", self.model))
        return seconds


def products(student, teacher, vocab_size, B, T, training=True):
    """Every matrix product of a step, [(rows, inner, columns, times)]; sizes: dicts; attention's in full, not causal halves.
    training False: of what student and teacher compute to write B x T tokens."""
    N, chunk, shapes = B * T, min(B * T, losses.chunk_size(B * T, vocab_size)), []
    for size, trained in ((student, training), (teacher, False)):
        d, ff, L, H = (size[key] for key in ("d_model", "d_ff", "n_layer", "n_head"))
        for inner, outer in ((d, 3 * d), (d, d), (d, 2 * ff), (ff, d)):
            shapes += [(N, inner, outer, L)]
            shapes += [(N, outer, inner, L), (outer, N, inner, L)] * trained  # gradients: of input, of weight
        shapes += [(T, d // H, T, L * B * H), (T, T, d // H, L * B * H)] * (3 if trained else 1)
    d, dt, n = student["d_model"], teacher["d_model"], N / chunk
    shapes += [(chunk, d, vocab_size, n), (chunk, dt, vocab_size, n)]
    return shapes + [(chunk, vocab_size, d, n), (vocab_size, chunk, d, n)] * training


def operations(shapes):
    return sum(2 * m * k * n * times for m, k, n, times in shapes)


def seconds_alone(shapes, dtype):
    """What the products take alone, each run a few times in `dtype` and counted as often as the step runs it."""
    total = 0.0
    for m, k, n, times in shapes:
        batch = min(int(times), 256) if m * n < 2**16 else 1  # attention's small ones come in batches
        a, b = (torch.randn(batch, *shape).to(measure.device, dtype) for shape in ((m, k), (k, n)))
        f = functools.partial(torch.bmm, a, b) if batch > 1 else functools.partial(torch.mm, a[0], b[0])
        total += median_times({"": f}, 3)[""] * times / batch
    return total


def in_pieces(step, n):
    """Relative difference between the gradients of a Step in one piece and in n."""
    found = []
    for pieces in (1, n):
        step.config = dataclasses.replace(step.config, grad_accum=pieces)
        step.optimizer.zero_grad()
        step.gradients()
        found.append(torch.cat([p.grad.flatten() for p in step.params]))
    return ((found[1] - found[0]).norm() / found[0].norm()).item()


def step(size, beside, B=32, T=128, V=V, **_):
    auto, sizes, keys = machine(), STEP_SIZES[size], dict(batch_size=B, block_size=T)
    pieces = {"nano": 2, "paper": 4}[size]
    kinds = {"": {}, f", grad_accum {pieces}": dict(grad_accum=pieces), ", compiled": dict(compile=True),
             f", compiled, grad_accum {pieces}": dict(compile=True, grad_accum=pieces), ", fp32": dict(dtype="float32"),
             ", rollouts": dict(on_policy=1.0, rollout_mix=0.2, rollout_loss="single_step", alpha=0.0)}
    runs = {f"ours{name}": (Step, (sizes, keys | kind, V)) for name, kind in kinds.items() if kind.get("dtype") != auto}
    if measure.device.type == "cuda":  # on a CPU it takes minutes
        runs["the teacher's training"] = Step, (sizes[1:], keys, V)
        runs["the teacher's training, compiled"] = Step, (sizes[1:], keys | dict(compile=True), V)
    if beside and there("transformers"):
        runs["transformers"] = peers.hf_step, (sizes, V, B, T)
    steps = {name: make(*arguments) for name, (make, arguments) in runs.items()}
    times = median_times(steps, ROUNDS[size])
    parts = [steps["ours"].parts() for _ in range(3)]
    difference = in_pieces(steps["ours" if auto == "float32" else "ours, fp32"], 4)
    flops = {name: getattr(steps[name], "operations", steps["ours"].operations) for name in steps}
    del steps
    alone, square = (seconds_alone(s, run.DTYPES[auto]) for s in (products(*sizes, V, B, T), [(2048, 2048, 2048, 1)]))
    memory = {name: memory_of(make, arguments)[0] for name, (make, arguments) in runs.items()}
    peer, rows = times.get("transformers"), [["", "seconds", "tokens/s", "x transformers", "peak GB", "/ transformers", "MFU"]]
    for name, seconds in times.items():
        rows.append([name, f"{seconds:.3f}", f"{B * T / seconds:.0f}", f"{peer / seconds:.2f}" if peer else "-",
                     f"{memory[name]:.2f}", f"{memory[name] / memory['transformers']:.2f}" if peer else "-",
                     f"{run.usage(measure.device, flops[name] / seconds).get('mfu', math.nan):.1%}".replace("nan%", "-")])
    columns = 6 + (measure.device.type == "cuda")
    print(f"step, {size}: {B} x {T} tokens, V {V}; `ours` runs its products in {auto}\n" + table([row[:columns] for row in rows]))
    print("parts of ours, seconds: " + ", ".join(f"{name} {statistics.median(p[name] for p in parts):.3f}" for name in parts[0]))
    print(f"gradients in 4 pieces against 1, fp32: relative difference {difference:.1e}")
    written = operations(products(*sizes, V, B, T, training=False)) / flops["ours"]
    print(f"a step on rollouts: {times['ours, rollouts'] / times['ours']:.2f} times the teacher-forced one, by counted operations "
          f"{1 + written:.2f} times")
    rate, best = flops["ours"] / alone, 2 * 2048**3 / square
    share, share_of_best = alone / times["ours"], flops["ours"] / best / times["ours"]
    print(f"{flops['ours'] / 1e9:.1f} GFLOP a step; its products alone run at {rate / 1e9:.0f} GFLOP/s in {auto} (one of 2048^3: "
          f"{best / 1e9:.0f}): ours is at {share:.0%} of that ({share_of_best:.0%})")
    per_second = {name: B * T / seconds for name, seconds in times.items()}
    return dict(what="step", size=size, ours=per_second["ours"], peer=per_second.get("transformers"), ours_gb=memory["ours"],
                peer_gb=memory.get("transformers"), roofline=share, roofline_square=share_of_best, gflop=flops["ours"] / 1e9,
                gflop_per_s=rate / 1e9, gflop_per_s_square=best / 1e9, tokens_per_s=per_second, gb=memory,
                parts={name: statistics.median(p[name] for p in parts) for name in parts[0]}, dtype=auto,
                accum_difference=float(f"{difference:.1e}"))


# ---------------------------------------------------------------- the tokenizer

def our_bpe(texts, vocab_size, out):
    """() -> seconds of counting words, training and encoding, and the merges; the ids are in the file `out`."""
    def once():
        clock = [time.perf_counter()]
        tick = lambda value: (clock.append(time.perf_counter()), value)[1]
        counts = tick(data.count_words(texts))
        tokenizer = tick(data.Tokenizer(data.train_bpe(counts, vocab_size)))
        tick(data.write_tokens(out, tokenizer, texts, "none", 0, ""))
        return dict(zip(("count", "train", "encode"), np.diff(clock).tolist())), tokenizer.merges
    return once


def bpe(size, beside, corpus="", words=0, **_):
    machine()
    train, vocab_size = BABYLM / "data/babylm_10m/train", V
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if corpus or train.exists():
            texts = data.write_clean(corpora.resolve(corpus or str(train), folder), folder, "train")
        else:
            print(f"no text in {train}: babytalk instead, merged until no pair is left")
            texts, vocab_size = {"babytalk": folder / "babytalk.text"}, 0
            texts["babytalk"].write_text("".join(babytalk.sample(200_000, 0)))
        if words:
            data.keep_words(texts, words)
        runs = {"ours": (our_bpe, (texts, vocab_size, folder / "ours.bin"))}
        if beside and there("tokenizers"):
            runs["tokenizers"] = peers.hf_bpe, (texts, vocab_size, folder / "theirs.bin")
        found = {name: [] for name in runs}
        times = median_times({name: lambda name=name, f=make(*arguments): found[name].append(f())
                              for name, (make, arguments) in runs.items()}, 3, 0)
        memory = {name: memory_of(make, arguments, runs=1)[1] for name, (make, arguments) in runs.items()}
        header, same = data.TokenFile(folder / "ours.bin"), None
        ids = header.tokens[header.tokens != data.Tokenizer.bos_id]  # which opens each text
        if "tokenizers" in runs:
            theirs = np.fromfile(folder / "theirs.bin", ids.dtype)
            same = dict(merges=found["ours"][-1][1] == found["tokenizers"][-1][1], ids=np.array_equal(ids, theirs))
    parts = {name: {key: statistics.median(seconds[key] for seconds, _ in rounds) for key in rounds[0][0]}
             for name, rounds in found.items()}
    rows = [["", "seconds", "/ tokenizers", "count", "train", "encode", "added GB"]]
    for name, seconds in times.items():
        rows.append([name, f"{seconds:.2f}", f"{seconds / times['tokenizers']:.2f}" if same else "-",
                     *(f"{parts[name][key]:.2f}" if key in parts[name] else "-" for key in rows[0][3:6]), f"{memory[name]:.2f}"])
    print(f"bpe: {header.words} words, {header.bytes / 1e6:.1f} MB, {len(ids)} tokens, V {vocab_size or 'all'}\n" + table(rows))
    if same:
        print(f"merges the same: {same['merges']}; ids the same: {same['ids']}")
    return dict(what="bpe", size=size, ours=times["ours"], peer=times.get("tokenizers"), ours_gb=memory["ours"],
                peer_gb=memory.get("tokenizers"), parts=parts, same=same, words=header.words, tokens=len(ids))


# ---------------------------------------------------------------- scoring

def random_lm(sizes, vocab_size):
    torch.manual_seed(0)
    return run.model_of(Config(**sizes), vocab_size).eval()


def our_score(sizes, vocab_size, tokenizer, sentences):
    lm, tokenizer = random_lm(sizes, vocab_size).to(measure.device), data.Tokenizer.load(tokenizer)
    return lambda: eval.score_sentences(lm, tokenizer, sentences)


def their_score(sizes, vocab_size, tokenizer, sentences):
    return peers.minicons_score(random_lm(sizes, vocab_size), tokenizer, sentences, measure.device)


def score(size, beside, pairs=8, **_):
    machine()
    folder = BABYLM / "eval/blimp_filtered"
    rows = eval.read_pairs(folder) if folder.exists() else babytalk.minimal_pairs(10 * pairs, 0)
    rows = [row for _, group in itertools.groupby(rows, lambda row: row["UID"]) for row in list(group)[:pairs]]
    sentences = [row[key].strip() for row in rows for key in eval.SENTENCES]
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder, "sentences.text")
        text.write_text("\n".join(sentences))
        tokenizer = data.Tokenizer(data.train_bpe(data.count_words({"": text})))  # a word of theirs is one token
        tokenizer.save(file := pathlib.Path(folder, "tokenizer.json"))
        arguments = STEP_SIZES[size][0], max(V, tokenizer.vocab_size), file, sentences
        runs = {"ours": our_score, **({"minicons": their_score} if beside and there("minicons") else {})}
        scorers = {name: make(*arguments) for name, make in runs.items()}
        times = median_times(scorers, ROUNDS[size])
        sums = [f() for f in scorers.values()]
        memory = {name: memory_of(make, arguments)[0] for name, make in runs.items()}
    n, peer = len(sentences), times.get("minicons")
    lines = [["", "sentences/s", "x minicons", "peak GB"]] + [
        [name, f"{n / t:.1f}", f"{peer / t:.2f}" if peer else "-", f"{memory[name]:.2f}"] for name, t in times.items()]
    print(f"score, {size}: {n} sentences, {len(set(sentences))} distinct, fp32\n" + table(lines))
    if peer:
        print(f"largest difference of a sentence's log-probability: {(sums[0] - sums[1]).abs().max():.1e} nats")
    return dict(what="score", size=size, ours=n / times["ours"], peer=peer and n / peer, ours_gb=memory["ours"],
                peer_gb=memory.get("minicons"), sentences=n)


COMMANDS = {"bpe": bpe, "loss": loss, "step": step, "score": score}


def plain(value):
    """For JSON: floats with five digits, null for nan."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return value if not isinstance(value, float) else float(f"{value:.5g}") if math.isfinite(value) else None


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--size", choices=STEP_SIZES, default="nano")
    parser.add_argument("--peers", action="store_true", help="measure the peers too, where they are installed")
    parser.add_argument("--data", default="", help="bpe: the corpus, as the key `corpus` names it")
    parser.add_argument("--words", type=int, default=0, help="bpe: take about so many words of it; 0: all")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda if it is there")
    parser.add_argument("--batch", type=int, default=32, help="step: sequences a step, a multiple of 4")
    args = parser.parse_args(argv)
    measure.device = run.device_of(Config(device=args.device))
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(plain(COMMANDS[args.what](args.size, args.peers, corpus=args.data, words=args.words, B=args.batch))))


if __name__ == "__main__":
    run_main(main)
