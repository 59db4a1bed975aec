"""The benchmarks themselves: the loss, the step, preparation, the tokenizer, scoring."""
import collections
import contextlib
import copy
import dataclasses
import functools
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import types
from unittest import mock

import numpy as np
import torch

import babytalk
import data
import distill
import eval
import losses
import rollouts
from bpe import Tokenizer, train_bpe
from onecoach import corpora, stored, suite
from onecoach.config import Config, UserError
from onecoach.run import DTYPES, autocast, dtype_of, gpu_usage, model_of
from onecoach.tables import table
from tools.bench import measure, peers
from tools.bench.measure import machine, median_times, memory_of, seconds_alone, tried

ROUNDS = {"nano": 7, "paper": 3}
V = 16000         # tokens of the vocabulary
POSITIONS = 4096  # of `loss`
T = 128           # tokens of a sequence of `step`
PAIRS = 15        # of each paradigm, in `score`
TAU = peers.TAU
ALPHA = peers.ALPHA
# relative error, of a loss and its gradients, up to which a peer computes what ours does
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
STORED_K = 64     # of `step`'s row "teacher stored"
ROLLOUT_EVERY = 4
TOGETHER = f"ours, rollouts, rollout_every {ROLLOUT_EVERY}"
BABYLM = pathlib.Path(os.environ.get("BABYLM_DIR", "../shared"))


def ratio(a, b):
    """a / b, as a table shows it; "-" where one of them was not measured."""
    return f"{a / b:.2f}" if a and b else "-"


# ---------------------------------------------------------------- the best peer

def named(name, dtype, auto):
    """A row's name: in the dtype of `dtype = auto`, unless it says another."""
    return name if dtype == auto else f"{name}, fp32"


def peers_of(rows):
    return [name for name in rows if not name.startswith(("ours", "the teacher's"))]


def best_of(rivals, times, gb):
    """The names of the fastest and of the one of least memory; None where there is none."""
    measured = [name for name in rivals if math.isfinite(gb[name])]
    return min(rivals, key=times.get, default=None), min(measured, key=gb.get, default=None)


def print_verdict(name, best, times, gb):
    """A line that compares a row with the two of best_of."""
    fastest, leanest = best
    if fastest:
        print(f"{name}: {ratio(times[fastest], times[name])} times as fast as the fastest peer "
              f"({fastest}; {ratio(times[name], times[fastest])} of its time), "
              f"{ratio(gb[name], gb.get(leanest))} of the memory of the leanest ({leanest})")


def peer_keys(best, times, gb):
    """What the last line says of them; null where there is none."""
    fastest, leanest = best
    return dict(peer=times.get(fastest), peer_is=fastest, peer_gb=gb.get(leanest),
                peer_gb_is=leanest)


# ---------------------------------------------------------------- the loss

LOSS_SIZES = {"nano": (128, 256), "paper": (512, 1024)}  # d of student and teacher


def bench_loss(args):
    auto = machine()
    contenders = loss_contenders(auto)
    rivals = peer_losses(auto) if args.peers else {}
    shape = args.size, POSITIONS, V
    runs = {name: loss_run(*contender, *shape) for name, contender in contenders.items()}
    runs |= {name: tried(name, loss_run, *contender, *shape) for name, contender in rivals.items()}
    runs = {name: once for name, once in runs.items() if once}  # without those that failed
    contenders = {name: (contenders | rivals)[name] for name in runs}

    errors = loss_errors(runs, args.size)
    same = [name for name in peers_of(runs) if is_the_same(errors[name], contenders[name][1])]

    products = {f"products, {dtype}": products_run(args.size, POSITIONS, DTYPES[dtype])
                for dtype in dict.fromkeys([auto, "float32"])}
    times = median_times(runs | products, ROUNDS[args.size])
    gb = loss_memory(contenders, args.size, POSITIONS)
    gb_at_twice_n = loss_memory(contenders, args.size, 2 * POSITIONS)
    best = best_of(same, times, gb)

    path = losses.path(measure.device.type, POSITIONS, V)
    d, d_p = LOSS_SIZES[args.size]
    print(f"loss, {args.size}: N {POSITIONS}, V {V}, d {d} from {d_p}; the elementwise part of "
          f"ours is {path}; where no dtype is named, products are in {auto}")
    print(loss_table(contenders, times, gb, gb_at_twice_n, best))
    print_errors(errors, set(peers_of(runs)) - set(same))
    for dtype in dict.fromkeys([auto, "float32"]):
        alike = [name for name in same if contenders[name][1] == dtype]
        print_verdict(named("ours", dtype, auto), best_of(alike, times, gb), times, gb)
    return dict(what="loss", size=args.size, ours=times["ours"], ours_gb=gb["ours"],
                **peer_keys(best, times, gb), seconds=times, gb=gb, gb_at_twice_n=gb_at_twice_n,
                errors=errors, dtype=auto, path=path)


def loss_contenders(auto):
    """Ours: {name: (function, dtype of its products, mode of losses.py)}."""
    path = losses.path(measure.device.type, POSITIONS, V)
    contenders = {}
    for dtype in dict.fromkeys([auto, "float32"]):
        contenders[named("ours", dtype, auto)] = ours, dtype, path
        contenders[named("ours", dtype, auto) + ", eager"] = ours, dtype, "eager"
    return contenders


def peer_losses(auto):
    """The peers', as loss_contenders."""
    return {named(name, dtype, auto): (loss, dtype, "eager")
            for dtype in dict.fromkeys([auto, "float32"]) for name, loss in peers.LOSSES.items()}


def ours(h, W, h_p, W_p, y):
    return losses.distillation_loss(h, W, [losses.head(h_p, W_p)], y, divergence="rkl", tau=TAU,
                                    alpha=ALPHA)


@functools.cache
def loss_inputs(size, N, vocab_size):
    """h (N, d) and W (V, d) of the student, h_p and W_p of the teacher, labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    normal = functools.partial(torch.randn, generator=generator)
    d, d_p = LOSS_SIZES[size]
    inputs = [normal(N, d) * 0.5, normal(vocab_size, d) * 0.3,
              normal(N, d_p) * 0.5, normal(vocab_size, d_p) * 0.2,
              torch.randint(0, vocab_size, (N,), generator=generator)]
    return [t.to(measure.device) for t in inputs]


def loss_run(f, dtype, mode, size, N, vocab_size):
    """() -> the loss f, and its gradients to h and W: forward and backward."""
    h, W, *rest = loss_inputs(size, N, vocab_size)

    def once():
        h_q = h.clone().requires_grad_()
        W_q = W.clone().requires_grad_()
        with mock.patch.object(losses, "mode", mode):
            with autocast(dtype, measure.device):
                loss = f(h_q, W_q, *rest)
            loss.backward()
        return loss.detach(), h_q.grad, W_q.grad
    return once


def products_run(size, N, dtype):
    """() -> None: the four matrix products of the loss, 256 rows at a time, and nothing else."""
    h, W, h_p, W_p, _ = (t.to(dtype) for t in loss_inputs(size, N, V))

    def once():
        for start in range(0, N, 256):
            rows = slice(start, start + 256)
            z = h[rows] @ W.T
            h_p[rows] @ W_p.T
            z @ W
            z.T @ h[rows]
    return once


def loss_memory(contenders, size, N):
    """{name: GB that forward and backward add to their inputs}."""
    gb = {}
    for name, contender in contenders.items():
        # two shapes: what is compiled for both of them is compiled for any
        tiny = [(*contender, size, 32, 256), (*contender, size, 48, 320)]
        gb[name] = memory_of(loss_run, (*contender, size, N, V), tiny)[1]
    return gb


def loss_errors(runs, size):
    """{name: {"loss", "states", "head"}}: relative errors of the loss and of its gradients to h
    and W, against ours in fp64."""
    h, W, h_p, W_p, y = loss_inputs(size, POSITIONS, V)
    h = h.double().requires_grad_()
    W = W.double().requires_grad_()
    loss = ours(h, W, h_p.double(), W_p.double(), y)
    loss.backward()
    exact = dict(loss=loss.detach(), states=h.grad, head=W.grad)
    errors = {}
    for name, once in runs.items():
        errors[name] = {part: relative(value.double(), exact[part])
                        for part, value in zip(exact, once())}
    return errors


def relative(a, exact):
    """|a - exact| / |exact|."""
    return ((a - exact).norm() / exact.norm()).item()


def is_the_same(errors, dtype):
    """Whether all are within what rounding explains; not, where one of them is nan."""
    return all(error <= TOLERANCE[dtype] for error in errors.values())


def print_errors(errors, others):
    """others: the peers that do not compute our loss."""
    for name, parts in errors.items():
        shown = ", ".join(f"{error:.1e} ({part})" for part, error in parts.items())
        note = "; it computes another loss, and is not compared" if name in others else ""
        print(f"{name}: loss and gradients against fp64, relative error {shown}{note}")


def loss_table(contenders, times, gb, gb_at_twice_n, best):
    """best: the fastest peer and the one of least memory, each None where there is none."""
    fastest, leanest = best
    rows = [["", "seconds", "/ products", f"/ {fastest or 'peer'}", "added GB",
             f"/ {leanest or 'peer'}", "at 2 N"]]
    for name, seconds in times.items():
        dtype = contenders[name][1] if name in contenders else name.removeprefix("products, ")
        row = [name, f"{seconds:.3f}", ratio(seconds, times.get(f"products, {dtype}")),
               ratio(seconds, times.get(fastest))]
        if name in gb:
            row += [f"{gb[name]:.2f}", ratio(gb[name], gb.get(leanest)),
                    f"{gb_at_twice_n[name]:.2f}"]
        rows.append(row + ["-"] * (7 - len(row)))
    return table(rows)


# ---------------------------------------------------------------- the step of the loop

class Books:
    """What a step of distill.train asks of its Run; no folder, no log."""

    def __init__(self, config, steps=1000):
        self.config = config
        self.device = measure.device
        self.dtype = dtype_of(config, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == "float16")
        self.steps = steps
        self.step = 0
        self.kept = {}
        self.logs = False  # most steps have no line in the log

    @property
    def progress(self):
        return self.step / self.steps

    def autocast(self):
        return autocast(self.dtype, self.device)


class Step:
    """A step of distill.train on one batch x, y (B, T), without data and log. run: a Books."""

    def __init__(self, run, student, teachers, x, y):
        self.run = run
        self.student = student
        self.teachers = distill.Teachers(teachers)
        self.optimizer = distill.make_optimizer(student, run.config)
        self.x = x
        self.y = y

    def __call__(self):
        now = self.run.config.at(self.run.progress)
        rollout = rollouts.for_step(self.student, self.teachers, self.x, now, self.run, self)
        distill.take_step(self.student, self.teachers, self.optimizer, self.x, self.y, rollout,
                          now, self.run)
        self.run.step += 1

    def batch(self, step, now):
        """The text of any step, as data.Batches gives it: always the same."""
        return self.x, self.y

    def parts(self):
        """{part: seconds} of one step, with a clock around each of them."""
        seconds = collections.Counter()

        def clocked(f, part):
            def timed(*args, **keys):
                start = time.perf_counter()
                result = f(*args, **keys)
                measure.wait()
                seconds[part] += time.perf_counter() - start
                return result
            return timed

        with contextlib.ExitStack() as clocks:
            for owner, name, part in ((distill.Teacher, "__call__", "teacher forward"),
                                      (self.student, "forward", "student forward"),
                                      (distill, "distillation_loss", "loss and its gradient"),
                                      (torch.Tensor, "backward", "student backward"),
                                      (self.optimizer, "step", "optimizer")):
                clock = clocked(getattr(owner, name), part)
                clocks.enter_context(mock.patch.object(owner, name, clock))
            self()
        return seconds

    def flops(self):
        B, T = self.x.shape
        return B * T * distill.flops_per_token(self.student, self.teachers, T)


def random_step(sizes, keys, vocab_size):
    """A Step of random weights on random ids. sizes: of student and teacher, or of one alone."""
    torch.manual_seed(0)
    keys = dict(divergence="rkl", tau=TAU, alpha=ALPHA, vocab_size=vocab_size) | keys
    config = Config(**sizes[0], **keys)
    run = Books(config)
    student = model_of(config, vocab_size).to(run.device)
    ids = torch.randint(3, vocab_size, (config.batch_size, config.longest + 1)).to(run.device)
    lms = [copy.copy(random_teacher(vocab_size, config.longest, run.dtype, **size))
           for size in sizes[1:]]
    if config.compile:
        for lm in (student, *lms):
            lm.compile()
    return Step(run, student, [distill.Teacher(lm) for lm in lms],
                ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


@functools.cache
def random_teacher(vocab_size, block_size, dtype, **size):
    """A model.LM, one for all steps: they stand in memory side by side, the paper's too."""
    lm = random_lm(dict(size, block_size=block_size), vocab_size)
    return lm.to(measure.device, DTYPES[dtype])


def stored_step(sizes, keys, vocab_size):
    """A `random_step` with its targets on the disk, where they are when it is made: it only reads.

    The text is its batch alone. The teacher stays in memory, as in a run, which validates with it.
    """
    step = random_step(sizes, keys | dict(teacher_cache=STORED_K, random_offset=False), vocab_size)
    ids = torch.cat([step.x.flatten(), step.y[-1:, -1]]).cpu().numpy().astype(np.uint16)
    config = dataclasses.replace(step.run.config, teachers=["random"])
    with tempfile.TemporaryDirectory() as folder:  # what is open stays readable
        text = types.SimpleNamespace(tokens=ids, count=len(ids))
        tokenizer = types.SimpleNamespace(hash="", vocab_size=vocab_size)
        prepared = data.Prepared(tokenizer, text, None, pathlib.Path(folder))
        source = stored.open_store(step.teachers, {"random": ""}, prepared, config, step.run.dtype)
        with step.run.autocast():
            source(step.x)
    step.teachers.store = source
    return step


def rollout_steps(sizes, keys, vocab_size):
    """A function that does ROLLOUT_EVERY steps on rollouts, written in one call."""
    step = random_step(sizes, keys | dict(rollout_every=ROLLOUT_EVERY), vocab_size)

    def steps():
        for _ in range(ROLLOUT_EVERY):
            step()
    return steps


# ---------------------------------------------------------------- what a step has to compute

def step_products(sizes, vocab_size, B, T, training=True):
    """Its matrix products, as measure.flops takes them; attention's in full, not causal halves.

    sizes: of student and teacher. training False: of what both compute to write B x T tokens.
    """
    products = []
    # positions whose logits exist at once
    n = min(B * T, losses.chunk_size(B * T, vocab_size, measure.device.type))
    for size, trained in zip(sizes, (training, False)):
        products += block_products(size, B, T, trained)
        products += linear_products(n, size["d_model"], vocab_size, B * T / n, trained)
    return products


def block_products(size, B, T, trained):
    """Those of all layers of a Llama."""
    d, d_ff, L, H = (size[name] for name in ("d_model", "d_ff", "n_layer", "n_head"))
    products = []
    for inner, outer in ((d, 3 * d), (d, d), (d, 2 * d_ff), (d_ff, d)):
        products += linear_products(B * T, inner, outer, L, trained)
    each = L * B * H * (3 if trained else 1)
    return [*products, (T, d // H, T, each), (T, T, d // H, each)]


def linear_products(n, inner, outer, times, trained):
    """Those of n rows of a linear map; trained: also of the gradients to its input and weight."""
    products = [(n, inner, outer, times)]
    if trained:
        products += [(n, outer, inner, times), (outer, n, inner, times)]
    return products


# ---------------------------------------------------------------- the step, measured

STEP_SIZES = {"nano": (dict(d_model=128, n_layer=4, d_ff=256, n_head=4),
                       dict(d_model=256, n_layer=6, d_ff=768, n_head=8)),
              "paper": (dict(d_model=512, n_layer=16, d_ff=1024, n_head=8),
                        dict(d_model=1024, n_layer=24, d_ff=3072, n_head=8))}
PIECES = {"nano": 2, "paper": 4}  # grad_accum, where the batch is cut


def bench_step(args):
    auto = machine()
    B = args.batch
    sizes = STEP_SIZES[args.size]
    contenders = step_contenders(args, auto)
    rivals = peer_steps(args, auto) if args.peers else {}
    gb = step_memory(contenders | rivals)  # first: the paper's steps together fill a machine
    steps = {name: make(*arguments) for name, (make, arguments) in contenders.items()}
    steps |= {name: tried(name, make, *arguments) for name, (make, arguments) in rivals.items()}
    steps = {name: step for name, step in steps.items() if step}  # without those that failed
    gb = {name: gb[name] for name in steps}

    times = median_times(steps, ROUNDS[args.size])
    times[TOGETHER] /= ROLLOUT_EVERY
    parts = median_parts(steps["ours"])
    flops = {name: step.flops() for name, step in steps.items() if isinstance(step, Step)}
    del steps  # a GPU has better uses for its memory

    alone = seconds_alone(step_products(sizes, V, B, T), DTYPES[auto])
    square = seconds_alone([(2048, 2048, 2048, 1)], DTYPES[auto])

    best = best_of(peers_of(times), times, gb)
    print(f"step, {args.size}: {B} x {T} tokens, V {V}; where no dtype is named, products are in "
          f"{auto}")
    print(step_table(times, gb, flops, B * T, best))
    for name in ("ours", "ours, teacher stored"):
        print_verdict(name, best, times, gb)
    shown = ", ".join(f"{part} {seconds:.3f}" for part, seconds in parts.items())
    print(f"parts of ours, seconds: {shown}")
    written = measure.flops(step_products(sizes, V, B, T, training=False))
    print(f"a step on rollouts: {times['ours, rollouts'] / times['ours']:.2f} times the "
          f"teacher-forced one, {times[TOGETHER] / times['ours']:.2f} with rollout_every = "
          f"{ROLLOUT_EVERY}, by counted flops {1 + written / flops['ours']:.2f} times")
    near = roofline(flops["ours"], times["ours"], alone, square)
    print(f"{near['gflop']:.1f} GFLOP a step; its products alone run at {near['gflop_per_s']:.0f} "
          f"GFLOP/s in {auto} (one of 2048^3: {near['gflop_per_s_square']:.0f}): ours is at "
          f"{near['roofline']:.0%} of that ({near['roofline_square']:.0%})")

    per_second = {name: B * T / seconds for name, seconds in times.items()}
    return dict(what="step", size=args.size, ours=per_second["ours"], ours_gb=gb["ours"],
                **peer_keys(best, per_second, gb), **near, tokens_per_s=per_second, gb=gb,
                parts=parts, dtype=auto)


def step_contenders(args, auto):
    """Ours: {name: (make, arguments)}: make(*arguments) is a function that does one step."""
    sizes = STEP_SIZES[args.size]
    pieces = PIECES[args.size]
    on_rollouts = dict(on_policy=1.0, rollout_mix=0.2, rollout_loss="single_step", alpha=0.0)
    kinds = {"ours": {},
             f"ours, grad_accum {pieces}": dict(grad_accum=pieces),
             "ours, compiled": dict(compile=True),
             f"ours, compiled, grad_accum {pieces}": dict(compile=True, grad_accum=pieces),
             "ours, fp32": dict(dtype="float32"),
             "ours, rollouts": on_rollouts}
    if auto == "float32":
        del kinds["ours, fp32"]
    else:  # where products in bf16 are slow so is Muon, whatever the dtype
        kinds["ours, Muon"] = dict(optimizer="muon")
    keys = dict(batch_size=args.batch, block_size=T)
    contenders = {name: (random_step, (sizes, keys | kind, V)) for name, kind in kinds.items()}
    contenders["ours, teacher stored"] = stored_step, (sizes, keys, V)
    contenders[TOGETHER] = rollout_steps, (sizes, keys | on_rollouts, V)
    if measure.device.type == "cuda":  # on a CPU it takes minutes
        alone = {"the teacher's training": {},
                 "the teacher's training, compiled": dict(compile=True)}
        for name, kind in alone.items():
            contenders[name] = random_step, (sizes[1:], keys | kind, V)
    return contenders


def peer_steps(args, auto):
    """The peers', as step_contenders."""
    shape = STEP_SIZES[args.size], V, args.batch, T
    contenders = {name: (peers.hf_step, (*how, auto, *shape)) for name, how in peers.STEPS.items()}
    if auto != "float32":  # as Baby Llama runs it
        as_it_comes = peers.STEPS["transformers"]
        contenders["transformers, fp32"] = peers.hf_step, (*as_it_comes, "float32", *shape)
    return contenders


def step_memory(contenders):
    """{name: peak GB}, each with a teacher of its own."""
    gb = {}
    for name, (make, arguments) in contenders.items():
        random_teacher.cache_clear()
        peers.hf_teacher.cache_clear()
        gb[name] = memory_of(make, arguments)[0]
    return gb


def median_parts(step, rounds=3):
    """{part: median seconds} of a Step."""
    parts = [step.parts() for _ in range(rounds)]
    return {part: statistics.median(seconds[part] for seconds in parts) for part in parts[0]}


def step_table(times, gb, flops, tokens, best):
    """flops: a step's, by name; tokens: a step's; best: as best_of has it."""
    fastest, leanest = best
    rows = [["", "seconds", "tokens/s", f"x {fastest or 'peer'}", "peak GB",
             f"/ {leanest or 'peer'}"]]
    for name, seconds in times.items():
        rows.append([name, f"{seconds:.3f}", f"{tokens / seconds:.0f}",
                     ratio(times.get(fastest), seconds), f"{gb[name]:.2f}",
                     ratio(gb[name], gb.get(leanest))])
    if measure.device.type == "cuda":
        rows[0].append("MFU")
        for row in rows[1:]:
            name = row[0]
            per_second = flops.get(name, flops["ours"]) / times[name]
            mfu = gpu_usage(measure.device, per_second).get("mfu")
            row.append(f"{mfu:.1%}" if mfu else "-")
    return table(rows)


def roofline(flops, seconds, alone, square):
    """How near a step is to its matrix products alone, and to the rate of one of 2048^3.

    flops and seconds: the step's; alone, square: seconds of these products.
    """
    rate = flops / alone
    best = 2 * 2048**3 / square
    return dict(roofline=alone / seconds, roofline_square=flops / best / seconds,
                gflop=flops / 1e9, gflop_per_s=rate / 1e9, gflop_per_s_square=best / 1e9)


# ---------------------------------------------------------------- preparation

def bench_prepare(args):
    machine()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        keys, texts = prepare_inputs(args, folder)
        contenders = {"ours": functools.partial(run_data, keys, folder)}
        theirs = texts, keys["vocab_size"], folder / "theirs.bin"
        if args.peers and (once := tried("tokenizers", peers.hf_bpe, *theirs)):
            contenders["tokenizers"] = once
        times = median_times(contenders, 3, warm_up=0)

        gb = {"ours": memory_of(prepare_run, (keys, folder), runs=1)[0]}
        if "tokenizers" in contenders:
            gb["tokenizers"] = memory_of(peers.hf_bpe, theirs, runs=1)[0]
        file = data.TokenFile(next(folder.glob("prepared-*/*/train.bin")))
        ids = file.tokens[file.tokens != Tokenizer.bos_id]  # which opens lines
        same = None
        if "tokenizers" in contenders:
            same = np.array_equal(ids, np.fromfile(folder / "theirs.bin", ids.dtype))

    print(f"prepare: {file.words} words, {file.bytes / 1e6:.1f} MB of clean training text, "
          f"{len(ids)} tokens, V {keys['vocab_size'] or 'all'}, {data.processors()} processors")
    rows = [["", "seconds", "/ tokenizers", "peak GB", "/ tokenizers"]]
    for name, seconds in times.items():
        rows.append([name, f"{seconds:.2f}", ratio(seconds, times.get("tokenizers")),
                     f"{gb[name]:.2f}", ratio(gb[name], gb.get("tokenizers"))])
    print(table(rows))
    print(f"ids the same: {'not compared' if same is None else same}")
    return dict(what="prepare", size=args.size, ours=times["ours"], peer=times.get("tokenizers"),
                ours_gb=gb["ours"], peer_gb=gb.get("tokenizers"), same=same, words=file.words,
                tokens=len(ids))


def prepare_inputs(args, folder):
    """The keys of a run that data.py prepares, and what of their text trains, {domain: file}."""
    corpus, vocab_size = raw_text(args, folder)
    dev = BABYLM / "data/babylm_10m/dev"
    dev = "" if args.data or not dev.exists() else str(dev.resolve())
    texts = data.write_clean(corpora.resolve(corpus, folder), folder, "train",
                             stop=1.0 if dev else 0.98)
    if args.words:
        data.keep_words(texts, args.words)
    keys = dict(corpus=corpus, dev=dev, vocab_size=vocab_size, max_words=args.words)
    return keys, texts


def data_arguments(keys, folder):
    """The command line of data.py that prepares `keys` anew, in a folder of its own."""
    config = folder / "some.py"
    config.write_text("")
    keys = keys | dict(data_dir=tempfile.mkdtemp(prefix="prepared-", dir=folder))
    return [str(config), *(f"--{name}={value}" for name, value in keys.items())]


def run_data(keys, folder):
    """The command, in a process of its own; UserError where it fails, after its own error."""
    command = [sys.executable, data.__file__, *data_arguments(keys, folder)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError("data.py failed, see above")


def prepare_run(keys, folder):
    """() -> None: the command, in this process."""
    def once():
        with contextlib.redirect_stdout(None):
            data.main(data_arguments(keys, folder))
    return once


def raw_text(args, folder):
    """(corpus, as that key names it; the vocabulary's size, 0: all merges)."""
    train = BABYLM / "data/babylm_10m/train"
    if args.data:
        return args.data, V
    if train.exists():
        return str(train.resolve()), V
    print(f"no text in {train}: babytalk instead, merged until no pair is left")
    file = folder / "babytalk.txt"
    file.write_text("".join(babytalk.sample(200_000, 0)))
    return str(file), 0


# ---------------------------------------------------------------- the tokenizer

def bench_bpe(args):
    machine()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus, vocab_size = raw_text(args, folder)
        texts = data.write_clean(corpora.resolve(corpus, folder), folder, "train")
        if args.words:
            data.keep_words(texts, args.words)
        contenders = {"ours": (our_bpe, (texts, vocab_size, folder / "ours.bin"))}
        theirs = texts, vocab_size, folder / "theirs.bin"
        if args.peers and tried("tokenizers", peers.hf_bpe, *theirs):
            contenders["tokenizers"] = peers.hf_bpe, theirs
        times, parts, merges = bpe_times(contenders)
        gb = {name: memory_of(make, arguments, runs=1)[1]
              for name, (make, arguments) in contenders.items()}

        file = data.TokenFile(folder / "ours.bin")
        ids = file.tokens[file.tokens != Tokenizer.bos_id]  # which opens each text
        same = None
        if "tokenizers" in contenders:
            theirs = np.fromfile(folder / "theirs.bin", ids.dtype)
            same = dict(merges=merges["ours"] == merges["tokenizers"],
                        ids=np.array_equal(ids, theirs))

    print(f"bpe: {file.words} words, {file.bytes / 1e6:.1f} MB, {len(ids)} tokens, "
          f"V {vocab_size or 'all'}")
    print(bpe_table(times, parts, gb))
    if same:
        print(f"merges the same: {same['merges']}; ids the same: {same['ids']}")
    return dict(what="bpe", size=args.size, ours=times["ours"], peer=times.get("tokenizers"),
                ours_gb=gb["ours"], peer_gb=gb.get("tokenizers"), parts=parts, same=same,
                words=file.words, tokens=len(ids))


def our_bpe(texts, vocab_size, out):
    """() -> {"count", "train", "encode"}: seconds, and the merges; ids go to the token file out."""
    def once():
        start = time.perf_counter()
        counts = data.count_words(texts)
        counted = time.perf_counter()
        tokenizer = Tokenizer(train_bpe(counts, vocab_size))
        trained = time.perf_counter()
        data.write_tokens(out, tokenizer, texts, "none", 0, "")
        encoded = time.perf_counter()
        seconds = dict(count=counted - start, train=trained - counted, encode=encoded - trained)
        return seconds, tokenizer.merges
    return once


def bpe_times(contenders):
    """Of each by name: seconds, {part: seconds}, medians of three rounds, and its merges."""
    rounds = {name: [] for name in contenders}

    def kept(name, once):
        return lambda: rounds[name].append(once())
    times = median_times({name: kept(name, make(*arguments))
                          for name, (make, arguments) in contenders.items()}, 3, warm_up=0)
    merges = {name: results[-1][1] for name, results in rounds.items()}
    parts = {}
    for name, results in rounds.items():
        seconds = [of_parts for of_parts, _ in results]
        parts[name] = {part: statistics.median(s[part] for s in seconds) for part in seconds[0]}
    return times, parts, merges


def bpe_table(times, parts, gb):
    rows = [["", "seconds", "/ tokenizers", "count", "train", "encode", "added GB"]]
    for name, seconds in times.items():
        row = [name, f"{seconds:.2f}", ratio(seconds, times.get("tokenizers"))]
        for part in ("count", "train", "encode"):
            row.append(f"{parts[name][part]:.2f}" if part in parts[name] else "-")
        rows.append([*row, f"{gb[name]:.2f}"])
    return table(rows)


# ---------------------------------------------------------------- scoring

def bench_score(args):
    auto = machine()
    sentences = score_sentences()
    dtypes = {"": "float32"}  # by the end of a row's name
    if auto == "bfloat16":
        dtypes[", bf16"] = auto
    contenders = {f"ours{end}": (our_score, dtype) for end, dtype in dtypes.items()}
    rivals = {}
    if args.peers:
        rivals = {f"minicons{end}": (their_score, dtype) for end, dtype in dtypes.items()}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tokenizer = tokenizer_of(sentences, folder)
        tokenizer.save(folder / "tokenizer.json")
        vocab_size = max(V, tokenizer.vocab_size)
        student = STEP_SIZES[args.size][0]
        arguments = student, vocab_size, folder / "tokenizer.json", sentences
        scorers = {name: make(*arguments, dtype) for name, (make, dtype) in contenders.items()}
        scorers |= {name: tried(name, make, *arguments, dtype)
                    for name, (make, dtype) in rivals.items()}
        scorers = {name: scorer for name, scorer in scorers.items() if scorer}  # that did not fail
        times = median_times(scorers, ROUNDS[args.size])
        sums = {name: scorer() for name, scorer in scorers.items()}
        gb = {name: memory_of(make, (*arguments, dtype))[0]
              for name, (make, dtype) in (contenders | rivals).items() if name in scorers}

    n = len(sentences)
    peer = times.get("minicons")
    print(f"score, {args.size}: {n} sentences, {len(set(sentences))} distinct; fp32 where no dtype "
          "is named")
    rows = [["", "sentences/s", "x minicons", "peak GB"]]
    for name, seconds in times.items():
        rows.append([name, f"{n / seconds:.1f}", ratio(peer, seconds), f"{gb[name]:.2f}"])
    print(table(rows))
    right = {name: of.view(-1, 2).diff() < 0 for name, of in sums.items()}  # (pairs, 1)
    differ = {name: int((right["ours"] != its).sum()) for name, its in right.items()}
    for name, its in sums.items():
        if name != "ours":
            difference = (sums["ours"] - its).abs().max()
            print(f"{name} against ours: log-probabilities differ by up to {difference:.1e} nats, "
                  f"of {n // 2} pairs {differ[name]} are decided otherwise, "
                  f"{right[name].double().mean():.2%} against {right['ours'].double().mean():.2%}")
    return dict(what="score", size=args.size, ours=n / times["ours"], peer=peer and n / peer,
                ours_gb=gb["ours"], peer_gb=gb.get("minicons"), sentences=n,
                decisions_differ=differ.get("minicons"),
                sentences_per_s={name: n / seconds for name, seconds in times.items()})


def score_sentences():
    """Both sentences of the first PAIRS minimal pairs of each paradigm, of BLiMP or babytalk."""
    if (BABYLM / "eval/blimp_filtered").exists():
        items = suite.read("blimp", BABYLM / "eval", PAIRS)
    else:
        items = suite.first_of_each(suite.pairs(babytalk.minimal_pairs(10 * PAIRS, 0)), PAIRS)
    return [sentence.strip() for item in items for _, sentence in item.candidates]


def tokenizer_of(sentences, folder):
    """A Tokenizer that makes one token of each of their words."""
    text = folder / "sentences.text"
    text.write_text("\n".join(sentences))
    return Tokenizer(train_bpe(data.count_words({"": text})))


def random_lm(size, vocab_size):
    torch.manual_seed(0)
    return model_of(Config(**size), vocab_size).eval()


def our_score(size, vocab_size, tokenizer, sentences, dtype):
    """() -> (n,) log p(sentence | <s>); tokenizer: a tokenizer.json; dtype: of the products."""
    lm = random_lm(size, vocab_size).to(measure.device)
    tokenizer = Tokenizer.load(tokenizer)
    return in_dtype(lambda: eval.score_sentences(lm, tokenizer, sentences), dtype)


def their_score(size, vocab_size, tokenizer, sentences, dtype):
    lm = random_lm(size, vocab_size)
    return in_dtype(peers.minicons_score(lm, tokenizer, sentences, measure.device), dtype)


def in_dtype(f, dtype):
    """f, called with its matrix products in a dtype."""
    def once():
        with autocast(dtype, measure.device):
            return f()
    return once
