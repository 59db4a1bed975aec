"""A run's folder and life: config.json, checkpoints, metrics, device and dtype. What is learned is not known here.

    out/NAME/config.json  every key, resolved, with versions and commit     ckpt.pt   the last state, to go on from
             metrics.jsonl  a line a log step                               best.pt   the weights with the lowest val_ce
             tokenizer.json  Hugging Face tokenizers' form                  eval.json, samples.txt   what eval.py found

Every file is written aside, flushed to disk and renamed: what is there is whole. Checkpoints are data: weights_only.
"""
import contextlib
import dataclasses
import json
import math
import pathlib
import platform
import subprocess
import time

import numpy as np
import torch

import config as config_module
from config import UserError
from data import Tokenizer, replacing
from model import LM, ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# ---------------------------------------------------------------- device and dtype

def device_of(config):
    """torch.device of the key `device`; UserError where it is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = config.device if config.device != "auto" else next(d for d in ("cuda", "mps", "cpu") if there[d])
    if not there[name]:
        raise UserError(f"device = {name!r} is not on this machine; use --device=auto")
    return torch.device(name)


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


# ---------------------------------------------------------------- files

def write_text(path, text):
    with replacing(path) as f:
        f.write(text.encode())


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path):
    """A JSON object from a run's file; UserError where it is damaged."""
    try:
        value = json.loads(pathlib.Path(path).read_text())
        if isinstance(value, dict):
            return value
    except (ValueError, RecursionError):
        pass
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}")
    raise UserError(f"{path}: damaged (not a JSON object); move it away")


def folder_of(config):
    return pathlib.Path(config.out_dir) / config.name


def write_config(config, dtype, tokenizer, loss_path="eager"):
    """config.json: the keys, and as notes (names with _) what they came to on this machine."""
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", pathlib.Path(__file__).parent, "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    notes = {"_dtype": dtype, "_tokenizer": tokenizer.hash, "_vocab_size": tokenizer.vocab_size, "_commit": commit,
             "_versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
             "_loss": loss_path, "_threads": torch.get_num_threads()}
    write_json(folder_of(config) / "config.json", {**dataclasses.asdict(config), **notes})


# ---------------------------------------------------------------- checkpoints

def model_of(config, vocab_size):
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(ModelConfig)}
    return LM(ModelConfig(**{**fields, "vocab_size": vocab_size, "block_size": config.longest}))


def save_checkpoint(path, state):
    with replacing(path) as f:
        torch.save(state, f)


def load_checkpoint(path, device="cpu"):
    """A checkpoint's dict, tensors and plain values only; UserError where the file is damaged or holds code."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if isinstance(state, dict) and isinstance(state.get("model"), dict):
            return state
    except (FileNotFoundError, PermissionError, IsADirectoryError) as e:
        raise UserError(f"{path}: {e.strerror or e}")
    except Exception as e:  # torch.load raises whatever the damaged bytes lead it to
        raise UserError(f"{path}: not a checkpoint that can be read safely ({type(e).__name__}); remove it or train again")
    raise UserError(f"{path}: not a checkpoint of this program")


def put_weights(lm, weights, path):
    """Load a state dict into lm; UserError that names the first tensor that does not fit."""
    own = lm.state_dict()
    for name in {**own, **weights}:
        a, b = own.get(name), weights.get(name)
        if a is None or not isinstance(b, torch.Tensor) or a.shape != b.shape:
            raise UserError(f"{path}: {name} does not fit the model of its config (another arch or size?)")
    lm.load_state_dict(weights)


def load(path, device="cpu", which="best"):
    """(LM in eval mode on `device`, Tokenizer, Config) of the run folder `path`; which: best or last.

    Raises UserError where the folder, its config, tokenizer or checkpoint is missing or damaged.
    """
    folder = pathlib.Path(path)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a run (it has no config.json); train it with distill.py or teacher.py")
    config = config_module.make(folder / "config.json")
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    file = folder / ("best.pt" if which == "best" else "ckpt.pt")
    if not file.exists():
        raise UserError(f"{file} is missing: the run has not been validated yet; train on, or use --which=last")
    lm = model_of(config, tokenizer.vocab_size)
    put_weights(lm, load_checkpoint(file)["model"], file)
    return lm.to(device).eval(), tokenizer, config


def is_finished(folder):
    """True if the run in `folder` has done all its steps."""
    path = pathlib.Path(folder) / "ckpt.pt"
    state = load_checkpoint(path) if path.exists() else {}
    return state.get("step", 0) >= state.get("steps", math.inf)


def random_state(device):
    return {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})}


def set_random_state(state):
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


# ---------------------------------------------------------------- metrics

class Meter:
    """What a log line shows, summed on the device and read at the log line: no step waits for the host."""

    def __init__(self, device, step):
        self.in_a_row = torch.zeros((), device=device)
        self.restart(step)

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
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        write_text(self.path, "".join(line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step))
        self.file = open(self.path, "a", buffering=1)

    def write(self, **values):
        """Append a line; floats with six digits, null for what is not a number (JSON has no nan)."""
        plain = lambda v: [plain(x) for x in v] if isinstance(v, list) else v if not isinstance(v, float) else (
            float(f"{v:.6g}") if math.isfinite(v) else None)
        self.file.write(json.dumps({k: plain(v) for k, v in values.items()}) + "\n")
