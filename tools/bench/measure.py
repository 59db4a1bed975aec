"""Time and memory of functions, for tools.bench.

Times are of functions in turn, in one process. Memory is of each in a process of its own (Linux: it
reads /proc), on a GPU in this one.
"""
import contextlib
import functools
import gc
import math
import multiprocessing
import pathlib
import platform
import statistics
import sys
import time

import torch

from onecoach.config import Config
from onecoach.run import dtype_of

device = torch.device("cpu")  # where everything is measured; bench.main sets it


def machine():
    """Print a line about the processor or GPU; the dtype, by name, that `dtype = auto` is there."""
    dtype = dtype_of(Config(), device)
    if device.type == "cuda":
        print(f"{name_of(device)}, torch {torch.__version__}")
        return dtype
    bf16 = "no bf16 instructions" if dtype == "float32" else "bf16 instructions"
    print(f"{processor()}, {torch.get_num_threads()} threads, {bf16}, torch {torch.__version__}")
    return dtype


def name_of(device):
    """The name of a torch.device: of its GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor():
    """The processor's name as the system has it."""
    with contextlib.suppress(OSError):  # Linux alone has this file
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def tried(name, make, *arguments):
    """make(*arguments), called once; None where that fails, and a line says why.

    For what others wrote, which may be missing, or fail in any way.
    """
    try:
        f = make(*arguments)
        f()
    except Exception as error:
        print(f"row {name} skipped: {reason_of(error)}")
        return None
    return f


def reason_of(error):
    """What an exception says, in a line."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = str(error).splitlines() or [""]
    return f"it fails, {type(error).__name__}: {lines[0]:.200}"


# ---------------------------------------------------------------- time

def wait():
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(f):
    """What one call of f takes."""
    start = time.perf_counter()
    f()
    wait()
    return time.perf_counter() - start


def median_times(contenders, rounds=7, warm_up=1):
    """{name: function} -> {name: median seconds}: all of them in turn, warm_up + rounds times."""
    times = {name: [] for name in contenders}
    for _ in range(warm_up + rounds):
        for name, f in contenders.items():
            times[name].append(seconds_of(f))
    return {name: statistics.median(seconds[warm_up:]) for name, seconds in times.items()}


# ---------------------------------------------------------------- matrix products
# as [(rows, inner, columns, how often), ...]

def flops(products):
    """Floating-point operations: each entry of a product is `inner` products and sums."""
    return sum(2 * m * k * n * times for m, k, n, times in products)


def seconds_alone(products, dtype):
    """Seconds of the products in `dtype` and nothing else.

    Of each the median of three, times how often it is there.
    """
    total = 0.0
    for m, k, n, times in products:
        batch = min(int(times), 256) if m * n < 2**16 else 1  # attention's small ones, as they come
        a = torch.randn(batch, m, k).to(device, dtype)
        b = torch.randn(batch, k, n).to(device, dtype)
        if batch > 1:
            f = functools.partial(torch.bmm, a, b)
        else:
            f = functools.partial(torch.mm, a[0], b[0])
        total += median_times({"": f}, 3)[""] * times / batch
    return total


# ---------------------------------------------------------------- memory

def peak(since_now=False):
    """Bytes: the peak of this process's resident memory; since_now: the past is forgotten first."""
    if since_now:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory_of(make, arguments, tiny=(), runs=2):
    """(peak, added) GB of a process of its own that calls make(*arguments)() `runs` times.

    added: by the calls, to what make has made. With `tiny`, a list of arguments, make(*each)() is
    called before that, and both are counted from there on. Where that fails a line says why, and
    both are nan.

    On a GPU it is this process, and what was there before is not counted: its allocator tells what
    each call takes.
    """
    if device.type == "cuda":
        return gpu_memory_of(make, arguments, runs)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measure, args=(queue, device, make, arguments, tiny, runs))
    process.start()
    process.join()
    return queue.get() if process.exitcode == 0 else (math.nan, math.nan)


def gpu_memory_of(make, arguments, runs):
    gc.collect()
    torch.cuda.empty_cache()
    others = torch.cuda.memory_allocated()
    try:
        f = make(*arguments)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(runs):
            f()
    except Exception as error:
        print(f"memory not measured: {reason_of(error)}")
        return math.nan, math.nan
    highest = torch.cuda.max_memory_allocated()
    return (highest - others) / 1e9, (highest - before) / 1e9


def _measure(queue, where, make, arguments, tiny, runs):
    global device
    device = where
    try:
        for each in tiny:
            make(*each)()  # loads and compiles what is loaded and compiled once
        f = make(*arguments)
        before = peak(since_now=bool(tiny))
        for _ in range(runs):
            f()
    except Exception as error:
        sys.exit(f"memory not measured: {reason_of(error)}")
    queue.put((peak() / 1e9, (peak() - before) / 1e9))
