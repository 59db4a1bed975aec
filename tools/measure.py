"""Time and memory of functions, for tools.bench: in turn in one run, and each in a process of its own (Linux: it reads /proc)."""
import importlib.util
import math
import multiprocessing
import pathlib
import statistics
import time

import torch

import run
from config import Config

device = torch.device("cpu")  # what is measured; bench.main sets it


def there(package):
    return importlib.util.find_spec(package) is not None


def wait():
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def machine():
    """One line about the processor or the GPU; the dtype that `dtype = auto` means there."""
    auto = run.dtype_of(Config(), device)
    if device.type == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        return auto
    names = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    print(f"{names[0] if names else 'CPU'}, {torch.get_num_threads()} threads, {'no ' * (auto == 'float32')}bf16 instructions, "
          f"torch {torch.__version__}")
    return auto


def median_times(contenders, rounds=7, warm_up=1):
    """{name: function} -> {name: median seconds}: warm-ups, then all of them in turn, `rounds` times."""
    times = {name: [] for name in contenders}
    for i in range(rounds + warm_up):
        for name, f in contenders.items():
            start = time.perf_counter()
            f()
            wait()
            if i >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def peak(since_now=False):
    """Bytes: the peak of a GPU's allocations, else of this process's resident memory; since_now: forget the past first."""
    if device.type == "cuda":
        if since_now:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if since_now:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def _measure(queue, where, make, arguments, tiny, runs):
    global device
    device = where
    if tiny:
        make(*tiny)()  # loads and compiles what is loaded and compiled once
    f = make(*arguments)  # inputs are made, the function has not run
    before = peak(since_now=bool(tiny))
    for _ in range(runs):
        f()
    queue.put((peak() / 1e9, (peak() - before) / 1e9))


def memory_of(make, arguments, tiny=(), runs=2):
    """GB of a process of its own that runs make(*arguments)() a few times: its peak, and what the running adds to its inputs.

    With tiny it runs make(*tiny)() first, and both are counted from there on. nan if it fails.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measure, args=(queue, device, make, arguments, tiny, runs))
    process.start()
    process.join()
    return queue.get() if process.exitcode == 0 else (math.nan, math.nan)
