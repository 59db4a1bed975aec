"""Speed and memory, beside what a user would run instead: ours and the peers in turn, in one run.

    python -m tools.bench loss [--size=nano|paper] [--peers]

    loss    forward and backward of the distillation loss alone: 4096 positions, V 16000, alpha 0.5, tau 2, reverse KL;
            nano d 128 from 256, paper d 512 from 1024. --peers adds the materialised loss and, where liger-kernel is
            installed, Liger's chunked JSD at beta 1.

Figures drift on shared machines, so quote the ratios. Peak memory is what a fresh process adds to its inputs. The last line is
one JSON object: what, size, ours and peer (seconds), ours_gb, peer_gb.
"""
import argparse
import contextlib
import functools
import importlib.util
import json
import multiprocessing
import pathlib
import statistics
import time

import torch
import torch.nn.functional as F

import losses
import run
from config import Config, run_main
from eval import table

ROUNDS = 7


def machine():
    """One line about the processor, and the dtype that `dtype = auto` means here."""
    auto = run.dtype_of(Config(), torch.device("cpu"))
    cpu = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    bf16 = "with" if auto == "bfloat16" else "without"
    print(f"{cpu[0] if cpu else 'CPU'}, {torch.get_num_threads()} threads, {bf16} bf16 instructions, torch {torch.__version__}")
    return auto


def median_times(contenders, rounds=ROUNDS):
    """{name: function} -> {name: median seconds}: one warm-up each, then all of them in turn, `rounds` times."""
    times = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, f in contenders.items():
            start = time.perf_counter()
            f()
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def peak_rss():
    """Peak resident bytes of this process since `reset_peak`."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def reset_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _added(queue, make, tiny, arguments):
    make(*tiny)()  # loads and compiles what is loaded and compiled once
    f = make(*arguments)  # inputs are made, the function has not run
    reset_peak()
    before = peak_rss()
    f(), f()
    queue.put(peak_rss() - before)


def added_memory(make, tiny, arguments):
    """GB that running make(*arguments)() adds, in a process of its own, to its inputs and to what make(*tiny)() left."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_added, args=(queue, make, tiny, arguments))
    process.start()
    process.join()
    return queue.get() / 1e9 if process.exitcode == 0 else float("nan")


# ---------------------------------------------------------------- the loss

LOSS_SIZES = {"nano": (128, 256), "paper": (512, 1024)}
V, TAU, ALPHA = 16000, 2.0, 0.5


@functools.cache
def loss_inputs(size, N, V=V):
    d, dt = LOSS_SIZES[size]
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    return draw(N, d) * 0.5, draw(V, d) * 0.3, draw(N, dt) * 0.5, draw(V, dt) * 0.2, torch.randint(0, V, (N,), generator=g)


def ours(h, W, h_p, W_p, y):
    return losses.distillation_loss(h, W, h_p, W_p, y, divergence="rkl", tau=TAU, alpha=ALPHA)


def materialised(h, W, h_p, W_p, y):
    z_q, z_p = h @ W.T, h_p @ W_p.T
    log_q, log_p = F.log_softmax(z_q / TAU, -1), F.log_softmax(z_p / TAU, -1)
    return ALPHA * F.cross_entropy(z_q, y) + (1 - ALPHA) * TAU**2 * (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def liger(h, W, h_p, W_p, y):
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    jsd = LigerFusedLinearJSDLoss(weight_hard_loss=ALPHA, weight_soft_loss=1 - ALPHA, beta=1.0, temperature=TAU,
                                  compiled=False, chunk_size=256)
    out = jsd(h, W, h_p, W_p, y)
    return out[0] if isinstance(out, tuple) else out


def loss_run(name, size, N, V=V):
    """() -> gradients: forward and backward of one contender."""
    f, mode, dtype = {"ours": (ours, "auto", None), "ours, eager": (ours, "eager", None), "ours, fp32": (ours, "auto", "float32"),
                      "ours, fp32, eager": (ours, "eager", "float32"), "materialised": (materialised, "auto", "float32"),
                      "liger": (liger, "auto", "float32")}[name]
    dtype = dtype or run.dtype_of(Config(), torch.device("cpu"))
    h, W, *rest = loss_inputs(size, N, V)
    if mode == "auto" and f is ours:
        mode = losses.path("cpu", 4096, 16000)  # also for tiny inputs

    def once():
        losses.mode = mode
        a, b = h.clone().requires_grad_(), W.clone().requires_grad_()
        with run.autocast(dtype, torch.device("cpu")):
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


def loss(size, peers, N=4096):
    auto, path = machine(), losses.path("cpu", N, V)
    names = ["ours", "ours, eager"] + (["ours, fp32", "ours, fp32, eager"] if auto != "float32" else [])
    if peers:
        names += ["materialised"] + ["liger"] * (importlib.util.find_spec("liger_kernel") is not None)
    contenders = {name: loss_run(name, size, N) for name in names}
    contenders |= {f"products, {dtype}": products_run(size, N, run.DTYPES[dtype]) for dtype in dict.fromkeys((auto, "float32"))}
    times = median_times(contenders)
    losses.mode = "auto"
    memory, twice = ({name: added_memory(loss_run, (name, size, 32, 256), (name, size, n)) for name in names}
                     for n in (N, 2 * N))
    over = lambda name, other: f"{times[name] / times[other]:.2f}" if other in times else "-"
    rows = [["", "seconds", "/ products", "/ materialised", "/ liger", "added GB", "at 2 N"]]
    for name in times:
        product = "products, float32" if "fp32" in name or name in ("materialised", "liger", "products, float32") else f"products, {auto}"
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
    return dict(what="loss", size=size, ours=times["ours"], peer=times.get(peer), ours_gb=memory["ours"], peer_gb=memory.get(peer),
                peer_is=peer, seconds=times, gb=memory, gb_at_twice_n=twice, dtype=auto, path=path)


COMMANDS = {"loss": loss}


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--size", choices=("nano", "paper"), default="nano")
    parser.add_argument("--peers", action="store_true", help="measure the peers too, where they are installed")
    args = parser.parse_args(argv)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({key: value if not isinstance(value, float) else round(value, 4) for key, value in
                          COMMANDS[args.what](args.size, args.peers).items()}))


if __name__ == "__main__":
    run_main(main)
