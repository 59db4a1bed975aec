"""Files are written aside, flushed to the disk and renamed, so that none is half written.

A checkpoint holds no code: it is read with weights_only. Its checksums are compared, for a disk may
spoil it later. The ckpt.pt before the last one is kept as ckpt.prev.pt.
"""
import contextlib
import glob
import io
import json
import math
import os
import pathlib
import shutil
import uuid
import zipfile

import torch

from onecoach.config import RANK, UserError, read_text


@contextlib.contextmanager
def replacing(path, previous=None):
    """Open a binary file that becomes `path` when the block ends without an error.

    previous: the path of a file to keep the old content in. Raises UserError if the disk is full
    or there is no such folder.
    """
    path = pathlib.Path(path)
    if RANK:  # of several ranks the first alone writes
        yield io.BytesIO()
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # another may write path too
    try:
        remove_abandoned(path.parent, f".{glob.escape(path.name)}.*.tmp")
        with open(aside, "wb") as f, locked(aside):
            yield f
            f.flush()
            os.fsync(f.fileno())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(aside, path)
        if os.name == "posix":  # then the new names too are on the disk
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as e:
        raise UserError(f"{path} could not be written: {e.strerror or e}")
    finally:
        aside.unlink(missing_ok=True)


def remove_abandoned(parent, pattern):
    """Remove unfinished files and folders that killed processes have left in `parent`."""
    for aside in parent.glob(pattern):
        with contextlib.suppress(OSError), locked(aside, wait=False) as is_abandoned:
            if is_abandoned and aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            elif is_abandoned:
                aside.unlink()


@contextlib.contextmanager
def locked(path, wait=True):
    """Hold the lock of a folder, or of a file that is made for it, at most until the process ends.

    Yields False if nothing can be locked (on Windows, in some file systems). With wait=False raises
    BlockingIOError while another process holds it.
    """
    with contextlib.ExitStack() as stack:
        held = False
        try:
            import fcntl
            flags = os.O_RDONLY if os.path.isdir(path) else os.O_RDWR | os.O_CREAT
            descriptor = os.open(path, flags)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            raise
        except (ImportError, OSError):
            pass
        yield held


def add_to_json(path, values):
    """Add values to the JSON object at path, as other commands may do at the same time."""
    with locked(path.parent):
        write_json(path, read_json_or_empty(path) | values)


def write_text(path, text):
    """Write UTF-8 on any system, with "\\n" alone at the end of lines."""
    with replacing(path) as f:
        f.write(text.encode())


def write_json(path, value):
    write_text(path, json.dumps(rounded(value), indent=1) + "\n")


def rounded(value, digits=17):
    """Round all floats of a value for JSON; nan and inf, which JSON lacks, become None."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def parse_json(text):
    """Parse JSON; a whole number of more than 18 digits is a float, which tables can format."""
    return json.loads(text, parse_int=lambda n: int(n) if len(n) < 19 else float(n))


def read_json(path):
    """Read a JSON object; UserError if the file is missing or damaged."""
    try:
        value = parse_json(read_text(path))
        if isinstance(value, dict):
            return value
    except (ValueError, RecursionError):
        pass
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}")
    raise UserError(f"{path}: damaged (not a JSON object); move it away")


def check_writable(folder):
    """Raise UserError if nothing can be written to a run's folder, before hours of work."""
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; copy the run, or change permissions")


def read_json_or_empty(path):
    """`read_json`, or {} if there is no such file yet."""
    return read_json(path) if path.exists() else {}


def read_json_lines(path, key="step"):
    """Read the lines of JSON that are dicts with a whole number at `key`; skip torn ones, too."""
    if not os.path.exists(path):
        return []
    lines = []
    for line in pathlib.Path(path).read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, RecursionError):
            value = parse_json(line)
            if isinstance(value, dict) and isinstance(value.get(key), int):
                lines.append(value)
    return lines


def read_metrics(path):
    """Read the lines of metrics.jsonl in which every value is a figure."""
    return [line for line in read_json_lines(path) if all(map(is_figure, line, line.values()))]


def best_line(lines):
    """Return the line of best.pt, with the lowest val_ce after step 0, or None."""
    validated = [line for line in lines if line["step"] and line.get("val_ce") is not None]
    return min(validated, key=lambda line: line["val_ce"], default=None)


def is_figure(name, value):
    """Is it a value of metrics.jsonl? Counts are whole numbers, per_step is a list of figures."""
    if name == "per_step":
        return type(value) is list and all(is_figure("", x) for x in value)
    if name in ("step", "tokens", "words"):
        return type(value) is int
    return value is None or type(value) in (int, float) and abs(value) < 1e300


# ---------------------------------------------------------------- checkpoints

def save_checkpoint(path, state):
    """Write a checkpoint; the old ckpt.pt becomes ckpt.prev.pt. UserError if not all is finite."""
    if name := not_finite(state["model"]):
        raise UserError(f"{path} is not written, for {name} is not finite; start over with "
                        "--resume=no and a lower lr, or dtype = float32")
    previous = path.with_name("ckpt.prev.pt") if path.name == "ckpt.pt" else None
    with replacing(path, previous) as f:
        try:
            torch.save(state, f)
        except RuntimeError as e:  # torch's writer hides the error of a full disk
            raise e.__context__ if isinstance(e.__context__, OSError) else e


def load_checkpoint(path, device="cpu"):
    """Read a checkpoint's dict, tensors and plain values only.

    Raises UserError if the file is missing, damaged, holds code, or is no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as z:
            if damaged := z.testzip():  # torch.load does not look at checksums
                raise zipfile.BadZipFile(damaged)
        state = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as e:
        raise UserError(f"{path}: {e.strerror or e}")
    except Exception as e:  # torch.load can raise anything on damaged bytes
        raise UserError(f"{path}: not a checkpoint that can be read safely ({type(e).__name__}); "
                        "put a whole copy in its place, or start over with --resume=no")
    is_ours = isinstance(state, dict) and isinstance(state.get("model"), dict)
    if not is_ours or any(type(state.get(count, 0)) is not int for count in ("step", "steps")):
        raise UserError(f"{path}: not a checkpoint of this program")
    if name := not_finite(state["model"]):
        raise UserError(f"{path}: {name} is not finite; start over with --resume=no and a lower lr")
    return state


def is_weight(value):
    """Is it a tensor of floats in memory, as all weights are?"""
    return (isinstance(value, torch.Tensor) and value.is_floating_point()
            and value.layout == torch.strided and not value.is_meta)


def not_finite(weights):
    """Return the name of the first weight of a state dict that holds nan or inf, or None."""
    return next((name for name, weight in weights.items()
                 if is_weight(weight) and not weight.float().isfinite().all()), None)


def last_checkpoint(folder):
    """Return (state, path) of ckpt.pt or, if that is damaged or missing, of ckpt.prev.pt.

    Without both (None, None); UserError if none can be read.
    """
    error = None
    for path in (pathlib.Path(folder, name) for name in ("ckpt.pt", "ckpt.prev.pt")):
        if not path.exists():
            continue
        try:
            state = load_checkpoint(path)
        except UserError as e:
            error = error or e
            continue
        if path.name != "ckpt.pt":
            print(f"{error or f'{folder}/ckpt.pt is missing'}; taking the one before, {path.name}, "
                  f"of step {state.get('step')}")
        return state, path
    if error:
        raise error
    return None, None
