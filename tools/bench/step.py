"""One optimizer step of distillation, distill.take_step on random ids, and the peers' step."""
import copy
import dataclasses
import functools
import pathlib
import tempfile
import types

import numpy as np
import torch

import data
import distill
import losses
import rollouts
from onecoach import stored
from onecoach.config import Config
from onecoach.run import DTYPES, autocast, choose_dtype, gpu_usage, make_model
from tools.bench import measure, peers
from tools.bench.peers import ALPHA, TAU
from tools.bench.score import random_lm

STORED_K = 64  # of the row "ours, teacher stored"
ROLLOUT_EVERY = 4
TOGETHER = f"ours, rollouts, rollout_every {ROLLOUT_EVERY}"


def bench_step(args):
    auto = measure.machine()
    print(f"step, {args.size}: {args.batch} x {measure.T} tokens, V {measure.V}; if no dtype is "
          f"named, products are in {auto}")
    contenders = step_contenders(args, auto)
    gb = {}
    for name, contender in contenders.items():  # first: the paper's steps together fill a machine
        random_teacher.cache_clear()  # a GPU's process has one for all steps
        peers.hf_teacher.cache_clear()
        gb[name] = measure.memory(*contender)[0]
    steps = measure.made(contenders)

    times = measure.median_times(steps, measure.ROUNDS[args.size])
    times[TOGETHER] /= ROLLOUT_EVERY
    rows = {}
    for name, seconds in times.items():
        rows[name] = {"seconds": seconds, "gb": gb[name],
                      "tokens/s": args.batch * measure.T / seconds}
        flops = getattr(steps[name], "flops", steps["ours"].flops)  # a peer's step computes as much
        mfu = gpu_usage(measure.device, flops / seconds).get("mfu")
        if mfu:
            rows[name]["MFU"] = mfu
    return dict(measure.show(rows, "tokens/s"), dtype=auto)


def step_contenders(args, auto):
    """Return ours and, if they are asked for, the peers': {name: (make, arguments)}."""
    sizes = measure.MODELS[args.size]
    pieces = measure.PIECES[args.size]
    keys = dict(batch_size=args.batch, block_size=measure.T, dtype=auto)
    on_rollouts = dict(on_policy=1.0, rollout_mix=0.2, rollout_loss="single_step", alpha=0.0)
    kinds = {"ours": {},
             f"ours, grad_accum {pieces}": dict(grad_accum=pieces),
             "ours, compiled": dict(compile=True),
             f"ours, compiled, grad_accum {pieces}": dict(compile=True, grad_accum=pieces),
             "ours, rollouts": on_rollouts,
             TOGETHER: on_rollouts | dict(rollout_every=ROLLOUT_EVERY),
             "ours, teacher stored": dict(teacher_cache=STORED_K, random_offset=False),
             "ours, Muon": dict(optimizer="muon")}
    if auto != "float32":
        kinds["ours, fp32"] = dict(dtype="float32")
    if not losses.can_compile(measure.device.type):
        kinds = {name: kind for name, kind in kinds.items() if "compile" not in kind}
    contenders = {name: (Step, (sizes, keys | kind, measure.V)) for name, kind in kinds.items()}

    if args.peers:
        shape = sizes, measure.V, args.batch, measure.T
        contenders |= {name: (peers.hf_step, (name, auto, *shape)) for name in peers.STEPS}
        if auto != "float32":  # as Baby Llama runs it
            contenders["transformers, fp32"] = peers.hf_step, ("transformers", "float32", *shape)
    return contenders


class Step:
    """The step of distill.py's loop, on one batch of random ids and with random weights.

    sizes: of student and teacher. With rollout_every = n a call is n steps.
    """

    def __init__(self, sizes, keys, V):
        torch.manual_seed(0)
        student, teacher = sizes
        keys = dict(divergence="rkl", tau=TAU, alpha=ALPHA, vocab_size=V) | student | keys
        config = Config(**keys)
        self.run = stand_in(config)
        self.student = make_model(config, V).to(self.run.device)
        lm = copy.copy(random_teacher(V, config.longest, self.run.dtype, **teacher))
        ids = torch.randint(3, V, (config.batch_size, config.longest + 1)).to(self.run.device)
        self.x = ids[:, :-1].contiguous()
        self.y = ids[:, 1:].contiguous()
        if config.compile is True:
            self.student.compile()
            lm.compile()
        self.teachers = distill.Teachers([distill.Teacher(lm)])
        if config.teacher_cache:
            self.teachers.store = stored_targets(self, V)
        self.optimizer = distill.make_optimizer(self.student, config)
        per_token = distill.flops_per_token(self.student, self.teachers, config.longest)
        self.flops = self.x.numel() * per_token

    def __call__(self):
        for _ in range(self.run.config.rollout_every):
            now = self.run.config.at(0.0)
            rollout = rollouts.for_step(self.student, self.teachers, self.x, now, self.run, self)
            distill.take_step(self.student, self.teachers, self.optimizer, self.x, self.y, rollout,
                              now, self.run)
            self.run.step += 1

    def batch(self, step, now):
        """Return the batch of any step, as data.Batches does: always the same."""
        return self.x, self.y


def stand_in(config):
    """Make a run without folder and log: the attributes of a Run that a step reads."""
    device = measure.device
    dtype = choose_dtype(config, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")
    return types.SimpleNamespace(config=config, device=device, dtype=dtype, scaler=scaler, step=0,
                                 steps=1000, kept={}, should_log=False,
                                 autocast=lambda: autocast(dtype, device))


@functools.cache
def random_teacher(V, block_size, dtype, **model):
    """A model.LM, one for all steps: they are in memory together, at the paper's size too."""
    lm = random_lm(dict(model, block_size=block_size), V)
    return lm.to(measure.device, DTYPES[dtype])


def stored_targets(step, V):
    """Write the teacher's outputs on the step's batch to the disk, so that steps only read them.

    The teacher stays in memory, as in a run, whose validations ask it.
    """
    ids = torch.cat([step.x.flatten(), step.y[-1:, -1]]).cpu().numpy().astype(np.uint16)
    config = dataclasses.replace(step.run.config, teachers=["random"])
    text = types.SimpleNamespace(tokens=ids, count=len(ids))
    tokenizer = types.SimpleNamespace(hash="", vocab_size=V)
    with tempfile.TemporaryDirectory() as folder:  # an open file stays readable
        prepared = data.Prepared(tokenizer, text, None, pathlib.Path(folder))
        store = stored.open_store(step.teachers, {"random": ""}, prepared, config, step.run.dtype)
        with step.run.autocast():
            store(step.x)
    return store
