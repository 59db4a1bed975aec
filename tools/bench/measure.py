"""Measure time and memory of functions, and compare ours with the peers.

A contender is (make, arguments): make(*arguments) is the function that is measured. Times are of
all contenders in turn, in one process. Memory is measured in a fresh process (on Linux, it reads
/proc), on a GPU in this one.
"""
import contextlib
import gc
import math
import multiprocessing
import os
import pathlib
import platform
import statistics
import time

import torch

from onecoach.config import Config
from onecoach.run import choose_dtype
from onecoach.tables import table

# ---------------------------------------------------------------- sizes: for a CPU, the paper's

V = 16000         # tokens in the vocabulary
POSITIONS = 4096  # of `loss`
T = 128           # tokens in a sequence of `step`
PAIRS = 15        # per paradigm, in `score`
ROUNDS = {"nano": 7, "paper": 3}

# student and teacher
MODELS = {"nano": (dict(d_model=128, n_layer=4, d_ff=256, n_head=4),
                   dict(d_model=256, n_layer=6, d_ff=768, n_head=8)),
          "paper": (dict(d_model=512, n_layer=16, d_ff=1024, n_head=8),
                    dict(d_model=1024, n_layer=24, d_ff=3072, n_head=8))}
PIECES = {"nano": 2, "paper": 4}  # grad_accum, in the rows that cut the batch

BABYLM = pathlib.Path(os.environ.get("BABYLM_DIR", "../shared"))

device = torch.device("cpu")  # of all that is measured; the command sets it


def machine():
    """Print a line about the machine; return the name of the dtype that `dtype = auto` is there."""
    dtype = choose_dtype(Config(), device)
    details = ""
    if device.type == "cpu":
        bf16 = "no bf16" if dtype == "float32" else "bf16"
        details = f", {torch.get_num_threads()} threads, {bf16} instructions"
    print(f"{device_name(device)}{details}, torch {torch.__version__}")
    return dtype


def device_name(device):
    """Return the name of a torch.device: the GPU's, or the processor's as the system has it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):  # Linux alone has this file
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def made(contenders):
    """Make the functions of contenders {name: contender}: {name: function}.

    A peer may be missing or fail in any way: each is called once, and one that fails is left out,
    and a line says why.
    """
    functions = {}
    for name, (make, arguments) in contenders.items():
        is_ours = name.startswith("ours")
        try:
            f = make(*arguments)
            if not is_ours:
                f()
            functions[name] = f
        except Exception as error:
            if is_ours:
                raise
            print(f"row {name} skipped: {reason(error)}")
    return functions


def reason(error):
    """Say in one line why something failed."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = str(error).splitlines() or [""]
    return f"it fails, {type(error).__name__}: {lines[0]:.200}"


# ---------------------------------------------------------------- time

def median_times(functions, rounds=7, warm_up=1):
    """Call all functions in turn, warm_up + rounds times; return {name: median seconds}."""
    times = {name: [] for name in functions}
    for _ in range(warm_up + rounds):
        for name, f in functions.items():
            start = time.perf_counter()
            f()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[warm_up:]) for name, seconds in times.items()}


# ---------------------------------------------------------------- memory

def memory(make, arguments, tiny=(), runs=2):
    """Return (peak, added) GB of a process that calls make(*arguments)() `runs` times.

    added: the part of the calls, without the inputs that `make` has made. With `tiny`, a list of
    arguments, make(*each)() is called first, and the peak so far is forgotten. If the process
    fails, a line says why, and both are nan.

    A GPU's memory is measured in this process, and earlier allocations are not counted.
    """
    if device.type == "cuda":
        return memory_here(make, arguments, tiny, runs)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_put_memory, args=(queue, device, make, arguments, tiny, runs))
    process.start()
    process.join()
    return queue.get() if process.exitcode == 0 else (math.nan, math.nan)


def _put_memory(queue, where, *inputs):
    global device
    device = where
    queue.put(memory_here(*inputs))


def memory_here(make, arguments, tiny, runs):
    """`memory` in this process."""
    gc.collect()
    others = torch.cuda.memory_allocated()  # 0 without a GPU
    try:
        for each in tiny:
            make(*each)()  # loading and compiling happen here, once
        f = make(*arguments)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif tiny:
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before = peak()
        for _ in range(runs):
            f()
    except Exception as error:
        print(f"memory not measured: {reason(error)}")
        return math.nan, math.nan
    return (peak() - others) / 1e9, (peak() - before) / 1e9


def peak():
    """Return the peak in bytes: of the GPU's allocations, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


# ---------------------------------------------------------------- comparison
# rows: {name: {"seconds", "gb", further columns}}; names of ours begin with "ours"

def best_peers(rows, left_out=()):
    """Return the names of the fastest peer and of the one of least memory, or None."""
    rivals = [name for name in rows if not name.startswith("ours") and name not in left_out]
    measured = [name for name in rivals if math.isfinite(rows[name]["gb"])]
    fastest = min(rivals, key=lambda name: rows[name]["seconds"], default=None)
    leanest = min(measured, key=lambda name: rows[name]["gb"], default=None)
    return fastest, leanest


def show(rows, unit="seconds", left_out=()):
    """Print the table of all rows, and return the last line's keys, `ours` and `peer` in `unit`.

    left_out: peers that compute something else: they are shown, but never the best.
    """
    fastest, leanest = best_peers(rows, left_out)
    ours, peer, lean = (rows.get(name, {}) for name in ("ours", fastest, leanest))
    further = dict.fromkeys(column for row in rows.values() for column in row)
    further = [column for column in further if column not in ("seconds", "gb")]
    lines = [["", "seconds", f"speed / {fastest or 'peer'}", "GB", f"/ {leanest or 'peer'}",
              *further]]
    for name, row in rows.items():
        speed = peer.get("seconds", math.nan) / row["seconds"]
        memory = row["gb"] / lean.get("gb", math.nan)
        cells = [row["seconds"], speed, row["gb"], memory, *map(row.get, further)]
        lines.append([name, *map(cell, cells)])
    print(table(lines))
    return dict(unit=unit, ours=ours[unit], peer=peer.get(unit), peer_is=fastest,
                ours_gb=ours["gb"], peer_gb=lean.get("gb"), peer_gb_is=leanest, rows=rows)


def cell(value):
    """Write a value for the table: three digits, "-" if it was not measured."""
    if value is None or value != value:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
