"""A run's folder and life: config.json, checkpoints, metrics, device and dtype. What is learned is not known here.

    out/NAME/config.json  every key, resolved, with versions and commit     ckpt.pt, ckpt.prev.pt   the last states, to go on from
             metrics.jsonl  a line a log step                               best.pt   the weights with the lowest val_ce
             tokenizer.json  Hugging Face tokenizers' form                  eval.json, samples.txt   what eval.py found

Every file is written aside, flushed to disk and renamed: what is there is whole. Checkpoints are data: weights_only, and their
checksums are looked at, so that what a disk spoils later is noticed. `.lock` holds the process id while a run is trained.
"""
import atexit
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
import zipfile

import numpy as np
import torch
import torch.distributed as dist

import config as config_module
from config import UserError, on_signals
import files
from data import load_tokenizer
from model import LM, ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# ---------------------------------------------------------------- device and dtype

def device_of(config):
    """torch.device of the key `device`; UserError where it is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = config.device if config.device != "auto" else next(d for d in ("cuda", "mps", "cpu") if there[d])
    if not there[name]:
        raise UserError(f"device = {name!r} is not on this machine; use --device=auto")
    return torch.device(name, int(os.environ.get("LOCAL_RANK", 0)) if name == "cuda" and WORLD > 1 else None)


def dtype_of(config, device):
    """The name of the matrix products' dtype. auto asks what the processor has, never a clock: without instructions
    for it a bf16 product on a CPU is tens of times slower than an fp32 one, with them faster."""
    if config.dtype != "auto":
        return config.dtype
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bfloat16" if has else "float32"


def autocast(dtype, device):
    """The context in which matrix products run in `dtype` (a name) on `device`."""
    return torch.autocast(device.type, DTYPES[dtype]) if dtype != "float32" else contextlib.nullcontext()


# bf16 operations a second, dense, by data sheet; the first name that torch's own name of the card holds. Others have no MFU.
PEAK = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


def usage(device, operations):
    """What a GPU's log line adds: the peak of its memory, GB, and MFU, the share of its peak rate that `operations` a second are."""
    if device.type != "cuda":
        return {}
    peak = next((rate for name, rate in PEAK.items() if name in torch.cuda.get_device_name(device)), None)
    return {"peak_gb": torch.cuda.max_memory_allocated(device) / 1e9, **({"mfu": operations / peak} if peak else {})}


# ---------------------------------------------------------------- ranks: the processes that torchrun starts

RANK, WORLD = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))


def join_ranks(config, device):
    """Meet the other processes that torchrun started. The first one writes and speaks; one that is killed ends them all.

    Raises UserError where the batch does not split among them."""
    if config.batch_size % (WORLD * config.grad_accum):
        raise UserError(f"batch_size {config.batch_size} does not split into {WORLD} ranks times grad_accum {config.grad_accum}")
    if WORLD > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the addresses of those that died are in the store still
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=RANK, world_size=WORLD, store=dist.PrefixStore(
            attempt, next(dist.rendezvous("env://"))[0]), timeout=datetime.timedelta(days=1))
        atexit.register(dist.destroy_process_group)
        if RANK:
            sys.stdout = open(os.devnull, "w")


def in_turn(f):
    """f() of the first rank, and only then of the others: what it has written they find."""
    found = f() if RANK == 0 else None
    if WORLD > 1:
        dist.barrier()
    return f() if RANK else found


def shard(t):
    """This rank's share of the rows of a batch's tensor."""
    return t.chunk(WORLD)[RANK]


def all_reduce(t, how="SUM"):
    """The sum (or MAX) of a tensor over the ranks."""
    if WORLD > 1:
        dist.all_reduce(t := t.detach().clone(), getattr(dist.ReduceOp, how))
    return t


def all_gather(t):
    """The rows (B / ranks, ...) of all ranks, in their order: (B, ...)."""
    if WORLD == 1:
        return t
    dist.all_gather(parts := [torch.empty_like(t) for _ in range(WORLD)], t.contiguous())
    return torch.cat(parts)


# ---------------------------------------------------------------- files

def folder_of(config):
    return pathlib.Path(config.out_dir) / config.name


def needs(config):
    """{run that is teacher or init: digest of its best.pt}."""
    best = {name: folder_of(config).parent / name / "best.pt" for name in {*config.teachers, config.init} - {"", "truth"}}
    return {name: hashlib.file_digest(path.open("rb"), "sha256").hexdigest()[:16] for name, path in sorted(best.items())}


def write_config(config, dtype, tokenizer, loss_path="eager", digests=None):
    """config.json: the keys, and as notes (names with _) what they came to on this machine; digests: what `needs` found."""
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", pathlib.Path(__file__).parent, "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    notes = {"_dtype": dtype, "_tokenizer": tokenizer.hash, "_vocab_size": tokenizer.vocab_size, "_commit": commit,
             "_versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
             "_loss": loss_path, "_threads": torch.get_num_threads(), "_needs": digests or {}}
    files.write_json(folder_of(config) / "config.json", {**dataclasses.asdict(config), **notes})


# ---------------------------------------------------------------- one process a folder, and how it ends

training = []  # the folders of the runs that this process trains, each needed by the one before


def alone(train):
    """train(config) as the only process in the run's folder. UserError while there is another, if the run needs itself, and for
    memory that is not enough, with the key that helps."""
    @functools.wraps(train)
    def guarded(config):
        folder = folder_of(config)
        if folder in training:
            chain = " needs ".join(f.name for f in [*training[training.index(folder):], folder])
            raise UserError(f"{chain}: a run cannot need itself; change teachers, init or baseline")
        if RANK == 0:  # it has the lock for all
            folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock" if RANK == 0 else os.devnull, "a") as lock:
            try:
                import fcntl  # not on Windows: no lock there
                if RANK == 0:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with its process, however that ends
                    (folder / ".lock").write_text(str(os.getpid()))
            except BlockingIOError:
                pid = (folder / ".lock").read_text()
                raise UserError(f"{folder} is being trained by process {pid}; wait for it, or choose another --name")
            except (ImportError, OSError):
                pass  # nor on every file system
            training.append(folder)
            try:
                return train(config)
            except torch.OutOfMemoryError:
                B, n = config.batch_size, config.grad_accum
                less = next((f"--grad_accum={m}" for m in range(n + 1, B + 1) if B % m == 0), "a smaller block_size or model")
                raise UserError(f"{config.name}: out of memory with batch_size {B} in grad_accum {n} pieces; try {less}")
            except RuntimeError as e:
                if WORLD > 1 and "onnection" in str(e):
                    raise UserError(f"{config.name}: another rank is gone; the same command goes on from the last checkpoint")
                raise
            finally:
                on_signals()
                training.remove(folder)
                if RANK == 0:
                    with contextlib.suppress(OSError):
                        (folder / ".lock").unlink()
                        os.removedirs(folder)  # if it is empty: refused before it began
    return guarded


def signals():
    """A list that the next Ctrl-C or SIGTERM puts its number into, for a loop to look at after each step; one more is at once."""
    caught = []

    def note(number, frame):
        on_signals()
        caught.append(number)
        os.write(2, b"\nfinishing this step, then saving; once more stops at once\n")  # print must not be called in here
    on_signals(note)
    return caught


def stop(what, number):
    """End a run that is to be gone on with, saying how; by KeyboardInterrupt if it was a signal's number that ended it."""
    what += "; the same command goes on from here"
    if WORLD == 1:
        what += f": {shlex.join(['python', *(arg for arg in sys.argv if arg != '--resume=no')])}"
    if number > 1:
        raise KeyboardInterrupt(number, what)
    print(what)


# ---------------------------------------------------------------- checkpoints

def model_of(config, vocab_size):
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(ModelConfig)}
    return LM(ModelConfig(**{**fields, "vocab_size": vocab_size, "block_size": config.longest}))


def put_weights(lm, weights, path):
    """Load a state dict into lm; UserError that names the first tensor that does not fit."""
    own = lm.state_dict()
    for name in {**own, **weights}:
        a, b = own.get(name), weights.get(name)
        plain = isinstance(b, torch.Tensor) and b.is_floating_point() and b.layout == torch.strided and not b.is_meta
        if a is None or not plain or a.shape != b.shape:
            raise UserError(f"{path}: {name} does not fit the model of its config (another arch or size?)")
    lm.load_state_dict(weights)


def put_state(state, lm, optimizer, meter, path):
    """Put weights, moments, random state and meter where a checkpoint left them; UserError for what does not fit."""
    put_weights(lm, state["model"], path)
    own = optimizer.state_dict()
    try:
        for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            own["state"][i] = state["optimizer"]["state"][i]
            if {k: v.shape for k, v in own["state"][i].items()} != {"step": (), "exp_avg": p.shape, "exp_avg_sq": p.shape}:
                raise ValueError
        optimizer.load_state_dict(own)
        set_random_state(state["random"])
        if "meter" in state:
            meter.load(state["meter"])
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as e:
        raise UserError(f"{path}: its optimizer or random state is damaged ({type(e).__name__}); train anew with --resume=no")


def load(path, device="cpu", which="best"):
    """(LM in eval mode on `device`, Tokenizer, Config) of the run folder `path`; which: best or last.

    Raises UserError where the folder, its config, tokenizer or checkpoint is missing or damaged.
    """
    folder = pathlib.Path(path)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a run (it has no config.json); train it with distill.py or teacher.py")
    config = config_module.read_config(folder / "config.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    file = folder / "best.pt"
    state, file = (files.load_checkpoint(file) if file.exists() else None, file) if which == "best" else files.last_checkpoint(folder)
    if not state:
        raise UserError(f"{folder / 'best.pt'} is missing: the run has not been validated yet; train on, or use --which=last")
    lm = model_of(config, tokenizer.vocab_size)
    put_weights(lm, state["model"], file)
    return lm.to(device).eval(), tokenizer, config


def is_finished(folder):
    """True if the run in `folder` has done all its steps."""
    state = files.last_checkpoint(folder)[0] or {}
    return state.get("step", 0) >= state.get("steps", math.inf)


def random_states(device):
    """The state of the random numbers of each rank."""
    own = {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})}
    if WORLD > 1:
        dist.all_gather_object(states := [None] * WORLD, own)
    return states if WORLD > 1 else [own]


def set_random_state(states):
    state = states[RANK % len(states)]
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


# ---------------------------------------------------------------- metrics

class Meter:
    """What a log line shows, summed on the device and read at the log line: no step waits for the host."""

    def __init__(self, device, step):
        self.in_a_row = torch.zeros((), device=device)
        self.restart(step)

    def state(self):
        """What a checkpoint keeps of it, so that the log line after it is the one that would have been."""
        return {**vars(self), "clock": self.seconds()}

    def load(self, state):
        for key, own in {**vars(self)}.items():
            setattr(self, key, state[key].to(own).reshape(()) if isinstance(own, torch.Tensor) else type(own)(state[key]))
        self.clock, self.notes = time.monotonic() - self.clock, {k: v.to(self.loss.device) for k, v in self.notes.items()}

    def restart(self, step):
        self.loss = self.norm = self.clipped = self.skipped = self.worst = self.end = torch.zeros_like(self.in_a_row)
        self.notes, self.start, self.clock = {}, step, time.monotonic()

    def add(self, step, loss, norm, clipped, bad, notes):
        """Tensors of the step that ended; bad: loss or norm was not finite, and the step was skipped. Of notes the latest stay."""
        self.loss, self.norm = self.loss + torch.where(bad, 0.0, loss), self.norm + torch.where(bad, 0.0, norm)
        self.clipped, self.skipped = self.clipped + (clipped & ~bad), self.skipped + bad
        self.in_a_row = (self.in_a_row + 1) * bad
        self.end = torch.where(self.in_a_row > self.worst, step, self.end)  # of the longest row
        self.worst = torch.maximum(self.worst, self.in_a_row)
        self.notes |= notes

    def seconds(self):
        return time.monotonic() - self.clock

    def read(self, step):
        """Means since the last reading (nan where every step was skipped), what was skipped, and the notes."""
        steps, skipped = step - self.start, int(self.skipped)
        done = steps - skipped or math.nan
        found = dict(steps=steps, loss=float(self.loss) / done, grad_norm=float(self.norm) / done, skipped=skipped,
                     clipped=float(self.clipped) / steps, worst=int(self.worst), end=int(self.end),
                     steps_per_s=steps / self.seconds(), notes={key: value.tolist() for key, value in self.notes.items()})
        self.restart(step)
        return found


class Metrics:
    """metrics.jsonl: lines are appended whole; after an interruption the lines beyond the checkpoint are dropped."""

    def __init__(self, path, step):
        self.path = pathlib.Path(path)
        files.write_text(self.path, "".join(json.dumps(m) + "\n" for m in files.read_json_lines(path) if m["step"] <= step))

    def write(self, **values):
        """Append a line; floats with six digits, null for what is not a number (JSON has no nan). UserError on a full disk."""
        plain = lambda v: [plain(x) for x in v] if isinstance(v, list) else v if not isinstance(v, float) else (
            float(f"{v:.6g}") if math.isfinite(v) else None)
        try:
            with open(self.path if RANK == 0 else os.devnull, "a") as f:
                f.write(json.dumps({k: plain(v) for k, v in values.items()}) + "\n")
                f.flush()
                if RANK == 0:
                    os.fsync(f.fileno())
        except OSError as e:
            raise UserError(f"{self.path} could not be written: {e.strerror}")
