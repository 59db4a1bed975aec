"""Ranks, the processes that torchrun starts: each has some rows of a batch, sums are over all.

    torchrun --standalone --nproc_per_node=2 distill.py configs/rkl_10m.py

Without torchrun there is one, RANK 0 of WORLD 1, and nothing here does anything.
"""
import atexit
import datetime
import os
import sys

import torch
import torch.distributed as dist

from onecoach.config import RANK, WORLD, UserError

RESTARTS = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))  # --max-restarts: how many it took
LAUNCH = os.environ.get("TORCHELASTIC_RUN_ID", "")  # the same in all restarts


def join_ranks(config, device):
    """Meet the other processes that torchrun started; the first one writes and speaks.

    Raises UserError if the batch does not split among them.
    """
    if config.batch_size % (WORLD * config.grad_accum):
        raise UserError(f"batch_size {config.batch_size} does not split into {WORLD} ranks times "
                        f"grad_accum {config.grad_accum}")
    if WORLD == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = next(dist.rendezvous("env://"))[0]
    store = dist.PrefixStore(str(RESTARTS), store)  # addresses of dead processes are still in it
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=RANK,
                            world_size=WORLD, timeout=datetime.timedelta(days=1))
    atexit.register(dist.destroy_process_group)
    if RANK:
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")


def leave():
    """End a rank that is done, but the first, at once: torch's own teardown sometimes aborts."""
    if RANK:
        sys.stderr.flush()
        os._exit(0)


def in_turn(f):
    """Call f on the first rank, and then on the others, which read the files that it wrote.

    If the first call raises UserError, the first rank alone says so; the others end silently.
    """
    if WORLD == 1:
        return f()
    error = [None]
    result = None
    if RANK == 0:
        try:
            result = f()
        except UserError as e:
            error = [e]
    dist.broadcast_object_list(error)
    if error[0]:
        raise error[0]  # of which run_main prints the first rank's
    return f() if RANK else result


def shard(t):
    """Return this rank's share of the rows of a batch's tensor."""
    return t.chunk(WORLD)[RANK]


def all_reduce(t, how="SUM"):
    """Return the sum (or MAX) of a tensor over the ranks."""
    if WORLD > 1:
        t = t.detach().clone()
        dist.all_reduce(t, getattr(dist.ReduceOp, how))
    return t


def all_gather(t):
    """Return the rows (B / ranks, ...) of all ranks in order: (B, ...)."""
    if WORLD == 1:
        return t
    parts = [torch.empty_like(t) for _ in range(WORLD)]
    dist.all_gather(parts, t.contiguous())
    return torch.cat(parts)


def sum_gradients(model):
    """Add up the gradients over the ranks: all then have the gradient of the whole batch."""
    if WORLD == 1:
        return
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = all_reduce(torch.cat([grad.flatten() for grad in grads]))
    for grad, total in zip(grads, flat.split([grad.numel() for grad in grads])):
        grad.copy_(total.view_as(grad))


def gather(value):
    """Return [the value of each rank], any Python object that can be pickled."""
    if WORLD == 1:
        return [value]
    values = [None] * WORLD
    dist.all_gather_object(values, value)
    return values
