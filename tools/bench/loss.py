"""The distillation loss alone, forward and backward: ours and the peers', compared with fp64."""
import functools
from unittest import mock

import torch

import losses
from onecoach.run import autocast
from tools.bench import measure, peers
from tools.bench.peers import ALPHA, TAU

# a peer computes our loss if value and gradients have no larger relative error
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


def bench_loss(args):
    auto = measure.machine()
    path = losses.path(measure.device.type, measure.POSITIONS, measure.V)
    d, d_p = (model["d_model"] for model in measure.MODELS[args.size])  # student, teacher
    print(f"loss, {args.size}: N {measure.POSITIONS}, V {measure.V}, d {d} from {d_p}; the "
          f"elementwise part of ours is {path}; if no dtype is named, products are in {auto}")

    shape = d, d_p, measure.POSITIONS, measure.V
    how = loss_contenders(auto, path, args.peers)
    functions = measure.made({name: (run_loss, (*how[name], *shape)) for name in how})
    errors = {name: loss_errors(once, *shape) for name, once in functions.items()}
    others = [name for name in functions if not name.startswith("ours")
              and not is_the_same(errors[name], how[name][1])]
    for name in others:
        print(f"{name}: it computes another loss, and is not compared")

    rows = {}
    for name, seconds in measure.median_times(functions, measure.ROUNDS[args.size]).items():
        rows[name] = {"seconds": seconds}
        # code that was compiled for two shapes is compiled for any
        tiny = [(*how[name], d, d_p, *small) for small in ((32, 256), (48, 320))]
        for column, n in (("gb", measure.POSITIONS), ("GB at 2 N", 2 * measure.POSITIONS)):
            inputs = *how[name], d, d_p, n, measure.V
            rows[name][column] = measure.memory(run_loss, inputs, tiny)[1]
        rows[name] |= errors[name]
    return dict(measure.show(rows, left_out=others), dtype=auto, path=path)


def loss_contenders(auto, path, with_peers):
    """{name: (function, dtype of the products, mode of losses.py)}, in `dtype = auto` and fp32."""
    kinds = {"ours": (ours, path), "ours, eager": (ours, "eager")}
    if with_peers:
        kinds |= {name: (f, "eager") for name, f in peers.LOSSES.items()}
    endings = {"": auto}
    if auto != "float32":
        endings[", fp32"] = "float32"
    return {name + ending: (f, dtype, mode)
            for ending, dtype in endings.items() for name, (f, mode) in kinds.items()}


def ours(h, W, h_p, W_p, y):
    return losses.distillation_loss(h, W, [losses.head(h_p, W_p)], y, divergence="rkl", tau=TAU,
                                    alpha=ALPHA)


@functools.cache
def loss_inputs(d, d_p, N, V):
    """h (N, d) and W (V, d) of the student, h_p and W_p of the teacher, labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    normal = functools.partial(torch.randn, generator=generator)
    inputs = [normal(N, d) * 0.5, normal(V, d) * 0.3, normal(N, d_p) * 0.5, normal(V, d_p) * 0.2,
              torch.randint(0, V, (N,), generator=generator)]
    return [t.to(measure.device) for t in inputs]


def run_loss(f, dtype, mode, *shape):
    """() -> the loss f and the gradients to h and W: forward and backward."""
    inputs = loss_inputs(*shape)
    in_dtype = autocast(dtype, measure.device)(f)

    def once():
        with mock.patch.object(losses, "mode", mode):
            return gradients(in_dtype, *inputs)
    return once


def gradients(f, h, W, *others):
    """Return the loss f and the gradients to h and W."""
    h = h.clone().requires_grad_()
    W = W.clone().requires_grad_()
    loss = f(h, W, *others)
    loss.backward()
    return loss.detach(), h.grad, W.grad


@functools.cache
def exact_loss(*shape):
    """Return our loss and the gradients to h and W in fp64."""
    *inputs, y = loss_inputs(*shape)
    return gradients(ours, *(t.double() for t in inputs), y)


def loss_errors(once, *shape):
    """Return relative errors of the loss and of the gradients to h and W."""
    columns = "error: loss", "states", "head"
    return {column: ((value.double() - exact).norm() / exact.norm()).item()
            for column, value, exact in zip(columns, once(), exact_loss(*shape))}


def is_the_same(errors, dtype):
    """Can rounding explain all errors? No if one of them is nan."""
    return all(error <= TOLERANCE[dtype] for error in errors.values())
