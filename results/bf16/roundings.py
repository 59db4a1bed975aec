"""Does rounding the loss in bfloat16 harm reverse KL? Each rounding alone, by seed (plan.md).

    python results/bf16/roundings.py --seeds=20-39 --share=0/2 >> out/bf16_0.log
    python results/bf16/summary.py        # the plan's contrasts, from the rows that are there

Trains the demo in fp32 with one rounding at a time put into its loss, and once in bfloat16 whole.
Appends a row a student to results/bf16/rows.jsonl; what has its row is not trained again. It was
written for, and run with, the code of commit 63e279f.
"""
import argparse
import contextlib
import fcntl
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import torch

import distill
import eval
import losses
import run
from config import read_config

ROWS = pathlib.Path(__file__).with_name("rows.jsonl")
# name -> (whose teacher, dtype of the student's run, roundings put into its loss)
CONDITIONS = {
    "fp32": ("float32", "float32", ()),
    "teacher": ("bfloat16", "float32", ()),
    "inputs": ("float32", "float32", ("inputs",)),
    "student_logits": ("float32", "float32", ("student_logits",)),
    "teacher_logits": ("float32", "float32", ("teacher_logits",)),
    "dz": ("float32", "float32", ("dz",)),
    "bf16": ("bfloat16", "bfloat16", ()),
}
on = ()  # the roundings that are on


def rounded(x, name):
    return x.bfloat16().to(x.dtype) if name in on else x


class RoundedLoss(torch.autograd.Function):
    """losses.ChunkedLoss with roundings; with none it is the same to the bit."""

    @staticmethod
    def forward(ctx, h, W, teachers, labels, weights, scalars, terms, chunk, with_gradient):
        grad_h, grad_W = torch.zeros_like(h), torch.zeros_like(W)
        values = weights.new_zeros(4, len(labels))
        W_in = rounded(W, "inputs")
        for start in range(0, len(labels), chunk):
            rows = slice(start, start + chunk)
            h_in = rounded(h[rows], "inputs")
            z_q = rounded(torch.mm(h_in, W_in.T), "student_logits")
            z_ps = [rounded(teacher(rows), "teacher_logits") for teacher in teachers]
            values[:, rows] = terms(z_q, z_ps, labels[rows], weights[:, rows], *scalars)
            if with_gradient:
                dz = rounded(z_q, "dz")
                grad_h[rows] = rounded(dz @ W_in, "dz")  # as products of bfloat16 are
                grad_W.addmm_(dz.T, h_in) if "dz" not in on else grad_W.add_(
                    rounded(dz.T @ h_in, "dz"))
        ctx.save_for_backward(grad_h, grad_W)
        ctx.mark_non_differentiable(values)
        return weights[0] @ values[0] + weights[1] @ values[1], values

    @staticmethod
    def backward(ctx, grad, _):
        return *(saved * grad for saved in ctx.saved_tensors), *[None] * 7


def rounded_head(h, W):
    h, W = rounded(h.reshape(-1, h.shape[-1]), "inputs"), rounded(W, "inputs")
    return lambda rows: h[rows] @ W.T


shipped = losses.ChunkedLoss, losses.head


def train(kind, name, seed, condition):
    global on
    teacher, dtype, on = CONDITIONS[condition]
    losses.ChunkedLoss, losses.head = (RoundedLoss, rounded_head) if on else shipped
    out_dir = f"out/bf16/{seed}/{teacher}"
    config = read_config(f"configs/{kind}.py", [
        ("name", name), ("seed", seed), ("dtype", dtype), ("out_dir", out_dir), ("baseline", ""),
        ("data_dir", f"out/bf16/{seed}/data"), ("val_every", 1000), ("eval_tokens", 0)])
    with contextlib.redirect_stdout(sys.stderr):
        distill.train(config)
    on = ()
    return pathlib.Path(out_dir, name)


def ce_above_floor(folder):
    """eval.babytalk_truth's figure of the last weights, and KL(q||p*)'s two parts, in fp32."""
    model, tokenizer, _ = run.load(folder, which="last")
    lines, log_p, _ = eval.drawn_from_truth(eval.LINES, 0)
    sequences = [(tokenizer.bos_id, *tokenizer.encode(line)) for line in lines]
    means, log_q = eval.against_truth(model, tokenizer, sequences)
    tokens = sum(len(s) - 1 for s in sequences)
    return dict(ce_above_floor=(log_p.sum() - log_q.sum()).item() / tokens, **means)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="20-39")
    parser.add_argument("--share", default="0/1", help="I/N: every N-th seed from the I-th on")
    args = parser.parse_args()
    first, last = map(int, args.seeds.split("-"))
    i, n = map(int, args.share.split("/"))
    eval.minimal_pairs = lambda *_: None
    for seed in range(first + i, last + 1, n):
        rows = [json.loads(line) for line in open(ROWS)] if ROWS.exists() else []
        done = {(row["divergence"], row["condition"], row["seed"]) for row in rows}
        for dtype in ("float32", "bfloat16"):
            condition = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
            if ("teacher", dtype, seed) not in done:
                folder = train("llama_demo", "llama_demo", seed, condition)
                write("teacher", dtype, seed, folder)
        for divergence in ("rkl", "fkl"):
            for condition in CONDITIONS:
                if (divergence, condition, seed) not in done:
                    folder = train(f"{divergence}_demo", f"{divergence}_{condition}", seed,
                                   condition)
                    write(divergence, condition, seed, folder)


def write(divergence, condition, seed, folder):
    row = dict(divergence=divergence, condition=condition, seed=seed, **ce_above_floor(folder))
    with open(ROWS, "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
