"""Distil teachers into a student: the one training loop. With no teachers it is plain language modelling.

    python distill.py configs/rkl_demo.py                 # embedded corpus, a few minutes on a CPU
    python distill.py configs/rkl_nano.py --corpus=DIR    # real text, hours on a CPU with the teacher
    python distill.py configs/rkl_10m.py                  # the paper, on a GPU

Data are prepared and missing teachers are trained first. What comes out lies in out_dir/name (see run.py), and the
last table on the screen shows teacher, baseline and student side by side.
"""
import collections
import contextlib
import dataclasses
import math
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import babytalk
import config as config_module
import data
import eval
import files
import losses
import rollouts
import run
from config import AGREEING, CONFIGS, KEYS, UserError, on_signals
from config import value_at as at

# Keys that may differ when a run goes on: they say where things lie and how long to work, not what is learned.
FREE_ON_RESUME = ("out_dir", "data_dir", "resume", "max_minutes", "baseline", "device", "corpus", "dev", "tokenizer",
                 "grad_accum", "log_every", "max_skipped")


# ---------------------------------------------------------------- the runs a run needs

def ready_run(config, name, prepared, role):
    """Folder of the run `name`, trained now if it is missing or unfinished; UserError if it does not agree with config."""
    folder = run.folder_of(dataclasses.replace(config, name=name))
    if name == config.name:
        raise UserError(f"{role} {name} is the run itself; choose another --name")
    if not run.is_finished(folder):
        print(f"\n{role} {name} is not there yet: training it first")
        train(config_module.related_config(config, name))
    found = files.read_json(folder / "config.json")
    differ = [f"{k} = {found.get(k)!r} there, {getattr(config, k)!r} here" for k in AGREEING
              if found.get(k) != getattr(config, k)]
    if found.get("_tokenizer") != prepared.tokenizer.hash:
        differ.append("its tokenizer is another")
    if differ:
        raise UserError(f"{role} {folder} does not agree with this run: {'; '.join(differ)}; use another --out_dir")
    return folder


class Teacher:
    """What the loss needs of a teacher: a language model's hidden states and head, or babytalk's truth as logits."""

    def __init__(self, lm=None, truth=None, compiled=False):
        self.lm, self.truth = lm, truth
        self.forward = torch.compile(lm) if compiled else lm

    @torch.no_grad()
    def outputs(self, x):
        """ids (B, T) -> h (B, T, d) and the head W (V, d); of the truth: logits (B, T, V) and None."""
        if self.truth is None:
            return self.forward(x), self.lm.head.weight
        return self.truth.logits(x.cpu())[0].to(x.device), None


def known_to_all(teachers, x, y):
    """Labels y (B, T) without those positions at which the truth is not defined."""
    for truth in [teacher.truth for teacher in teachers if teacher.truth is not None]:
        y = y.masked_fill(~truth.logits(x.cpu())[1].to(y.device), -100)
    return y


def load_teacher(config, name, prepared, device, low):
    if name == "truth":
        return Teacher(truth=babytalk.Truth(prepared.tokenizer))
    lm, _, its = run.load(ready_run(config, name, prepared, "teacher"), device)
    if its.arch == "gpt2" and its.longest < config.longest:
        raise UserError(f"teacher {name} is a GPT-2 of block_size {its.longest}, too short for block_size = {config.longest}")
    # it is only read: in low precision half the memory, and no casting every step
    return Teacher(lm.requires_grad_(False).to(low), compiled=config.compile)


@torch.no_grad()
def difficulty(config, batches, file, teachers, newline, device, autocast):
    """(chunks,) what `order` sorts the corpus's chunks by: tokens a line, or the first teacher's nats a token (it reads all)."""
    if True:
        return torch.from_numpy(data.tokens_a_line(config.order, file, batches.chunks, batches.T, newline))
    nats = torch.empty(batches.chunks)
    for some in tqdm(torch.arange(batches.chunks).tensor_split(batches.per_epoch), desc=f"{config.teachers[0]} reads", disable=None):
        x, y = data.cut(batches.tokens, some.to(device) * batches.T, batches.T, config.mark)
        with autocast():
            h, W = teachers[0].outputs(x)
            nats[some] = torch.stack([F.cross_entropy((h_i @ W.T).float(), y_i) for h_i, y_i in zip(h, y)]).cpu()
    return nats


# ---------------------------------------------------------------- pieces of the loop

def learning_rate(config, step, steps):
    """Linear warmup, then cosine to zero, times the peak (which may itself be a schedule)."""
    warmup = min(config.warmup, steps // 10)
    shape = min(1.0, (step + 1) / (warmup + 1)) * 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup)))
    return at(config.lr, step / steps) * shape


def optimizer_of(model, config):
    """AdamW, one fused kernel; weight decay on matrices only (norms and biases have no scale to shrink)."""
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, config.beta2), fused=True)


def outputs_of(teachers, x):
    """What all teachers say of ids x (B, T): their hidden states or logits, and their heads, as distillation_loss takes them."""
    outputs = [teacher.outputs(x) for teacher in teachers]
    return [h for h, _ in outputs], [W for _, W in outputs]


def loss_on(model, lm, teachers, x, y, config, progress, counts, stats, **overrides):
    """The configured loss on x, y (B, T), counts: of the whole step. Returns it and, with stats, what losses reports of it."""
    keys = dict(divergence=config.divergence, tau=at(config.tau, progress), alpha=at(config.alpha, progress),
                mix=at(config.mix, progress),
                ensemble=config.ensemble, reduction=config.reduction, step_weights=config.step_weights, T=config.longest)
    outputs = outputs_of(teachers, x)  # before the student: what a teacher needs on its way is free again
    out = losses.distillation_loss(model(x), lm.head.weight, *outputs, y, counts=counts, return_stats=stats,
                                   **{**keys, **overrides})
    return out if stats else (out, {})


def loss_on_rollout(model, lm, teachers, x, y, rollout, coefficients, config, progress, counts, positions, stats):
    """alpha CE on the corpus x, y + (1 - alpha) what rollout_loss says of the rollout that x began; as loss_on."""
    alpha, ce, found = at(config.alpha, progress), 0.0, {}
    if alpha > 0 or stats:  # CE never sees sampled tokens
        ce, found = loss_on(model, lm, [], x, y, config, progress, counts.sum(), stats, reduction="token")
    if config.rollout_loss == "token":
        d, more = loss_on(model, lm, teachers, rollout.x, rollout.y, config, progress, positions, stats, alpha=0.0)
    else:  # tau, mix and mix_grad act on corpus batches only
        outputs = outputs_of(teachers, rollout.x)
        out = losses.sequence_loss(model(rollout.x), lm.head.weight, *outputs, rollout.y, coefficients,
                                   exact=config.rollout_loss == "single_step", ensemble=config.ensemble,
                                   counts=positions.sum(), return_stats=stats)
        d, more = out if stats else (out, {})
    return alpha * ce + (1 - alpha) * d, {**found, **more, **({"ce": found["ce"]} if stats else {})}


def forward_backward(model, lm, teachers, x, y, config, progress, autocast, scale, logging, uniforms=None, newline=None):
    """Gradients of the loss on x, y (B, T), times scale if there is one (fp16), grad_accum pieces after one another.

    uniforms: the draws of a rollout. Each of several ranks takes its own rows of all these. Returns the loss and, if logging or on
    rollouts, what the log shows of it: means over all valid positions, of all ranks.
    """
    count = lambda y: (y != -100).sum(0 if config.reduction == "step" else (0, 1))  # of the whole step: (T,) or a number
    cut = lambda t: run.shard(t).chunk(config.grad_accum)
    x, counts, loss, means, seen = cut(x), count(y), 0, collections.Counter(), {}
    y, positions = cut(y), counts
    if uniforms is not None:
        with autocast():
            parts = [rollouts.sample(lm, teachers, x_i, config.prompt_len, at(config.rollout_mix, progress), u, config.ensemble,
                                     newline) for x_i, u in zip(x, cut(uniforms))]
        whole = rollouts.Rollout(*map(run.all_gather, map(torch.cat, zip(*parts))))
        positions, (coefficients, seen) = count(whole.y), rollouts.weigh(whole, config)
        coefficients = cut(coefficients)
    for i, (x_i, y_i) in enumerate(zip(x, y)):
        with autocast(), model.no_sync() if run.WORLD > 1 and i + 1 < config.grad_accum else contextlib.nullcontext():
            given = (model, lm, teachers, x_i, y_i)
            part, stats = loss_on(*given, config, progress, counts, logging) if uniforms is None else loss_on_rollout(
                *given, parts[i], coefficients[i], config, progress, counts, positions, logging)
        (part * (run.WORLD if scale is None else scale * run.WORLD)).backward()  # the ranks' gradients are averaged
        loss = loss + part.detach()
        here = (y_i if uniforms is None else parts[i].y) != -100  # of the positions that D is taken at
        shares = {"ce": (y_i != -100).sum() / counts.sum(), "per_step": here.sum(0) / positions.clamp_min(1)}
        for key in stats if teachers else stats and ["ce"]:
            if stats[key] is not None and (key != "per_step" or config.reduction == "step"):
                means[key] = means[key] + stats[key] * shares.get(key, here.sum() / positions.sum())
    return run.all_reduce(loss), {key: run.all_reduce(value) for key, value in means.items()} | seen


def operations_a_token(lm, teachers, T):
    """Floating-point operations of a step on the corpus, a token: what MFU counts. Writing a rollout comes on top of them."""
    return 3 * lm.operations(T) + sum(teacher.lm.operations(T) for teacher in teachers if teacher.lm)


def update(optimizer, params, loss, lr, clip, scale):
    """One step of the optimizer on gradients of scale times the loss, unless the loss or their norm is not finite.

    Returns the norm, whether the step was skipped (on the device: nothing waits for it), and the next scale.
    """
    if scale is not None:
        torch._foreach_div_([p.grad for p in params], scale)
    norm = torch.nn.utils.clip_grad_norm_(params, clip)
    bad = ~(loss.isfinite() & norm.isfinite())
    optimizer.found_inf = bad.float()  # the fused kernel leaves weights and moments alone where this is 1
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if scale is not None:  # halve on overflow, creep up otherwise
        scale = torch.where(bad, scale / 2, (scale * 1.001).clamp(max=2.0**20))
    return norm, bad, scale


@torch.no_grad()
def validate(model, lm, teachers, blocks, token_bytes, batch_size, ensemble="logits"):
    """val_ce, val_ppl, val_bpb and, with teachers, val_fkl and val_rkl: at tau 1, unmixed, whatever is trained on."""
    model.eval()
    sums, n_bytes = collections.Counter(), 0
    for x, y in zip(*(b.split(batch_size) for b in blocks)):
        n_bytes += int(token_bytes[y[y != -100].numpy()].sum())
        x, y = x.to(lm.embed.weight.device), y.to(lm.embed.weight.device)
        hidden, W = model(x), lm.head.weight
        positions = (y != -100).sum().item()
        sums["positions"] += positions
        sums["ce"] += losses.distillation_loss(hidden, W, None, None, y).item() * positions
        if teachers:
            y, outputs = known_to_all(teachers, x, y), outputs_of(teachers, x)
            known = (y != -100).sum().item()
            sums["known"] += known
            for kind in ("fkl", "rkl"):
                sums[kind] += losses.distillation_loss(hidden, W, *outputs, y, divergence=kind, ensemble=ensemble).item() * known
    model.train()
    ce = sums["ce"] / sums["positions"]
    found = {"val_ce": ce, "val_ppl": math.exp(min(ce, 700)), "val_bpb": sums["ce"] / math.log(2) / n_bytes}
    return found | {f"val_{kind}": sums[kind] / max(1, sums["known"]) for kind in ("fkl", "rkl") if teachers}


def say_how_long(config, seconds):
    print(f"  about {seconds / 60:.1f} minutes to go" if seconds < 7200 else f"  about {seconds / 3600:.1f} hours to go")
    if seconds > 86400:
        nano = f"{config.name.split('_')[0]}_nano"
        nano = nano if (CONFIGS / f"{nano}.py").exists() else "rkl_nano"
        print(f"  that is more than a day: configs/{nano}.py shows the same in an hour or two on a CPU")


def resumed_state(config, folder):
    """The checkpoint to go on from, or None for a new run; UserError if it is damaged, or a run of another config's."""
    state, path = files.last_checkpoint(folder) if config.resume != "no" else (None, None)
    if not state:
        return None
    found = {**vars(config_module.Config()), **files.read_json(folder / "config.json")}  # a key newer than the run: its default
    differ = [f"{k} = {found[k]!r} there, {getattr(config, k)!r} here" for k in KEYS
              if k not in FREE_ON_RESUME and found[k] != getattr(config, k)]
    if differ:
        raise UserError(f"{folder} holds a run with other settings: {'; '.join(differ)}; choose another --name, or --resume=no")
    if not {"optimizer", "random", "step", "steps", "best", "minutes"} <= state.keys():
        raise UserError(f"{path} holds weights alone, nothing to go on from; train anew with --resume=no")
    plain = {type(x) for x in (state["best"], state["minutes"], state.get("scale") or 1.0)} == {float}
    plain &= not config.order or isinstance(state.get("difficulty"), torch.Tensor)
    if not plain or not 0 < state["step"] <= state["steps"] or found.get("_dtype") not in [*run.DTYPES]:
        raise UserError(f"{path} or {folder / 'config.json'} is damaged; train anew with --resume=no")
    path.replace(folder / "ckpt.pt")  # a damaged one must not take the place of the previous
    return state


# ---------------------------------------------------------------- the loop

@run.alone
def train(config):
    """Train config's student to the end, or to max_minutes. Everything it leaves is in out_dir/name."""
    started = time.monotonic()
    folder, device = run.folder_of(config), run.device_of(config)
    run.join_ranks(config, device)
    state = run.in_turn(lambda: resumed_state(config, folder))
    if state and state["step"] >= state["steps"]:
        print(f"{folder} is finished ({state['step']} steps); --resume=no trains it anew")
        return run.RANK or finish(config, folder, device)
    # a resumed run keeps the dtype that it was begun with, on whatever machine
    notes = files.read_json(folder / "config.json") if state else {}
    dtype = notes["_dtype"] if state else run.dtype_of(config, device)
    if device.type == "cuda" and dtype != "float32":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in fp32 beside low precision
    autocast = lambda: run.autocast(dtype, device)

    # data, teachers, student
    prepared = run.in_turn(lambda: data.prepare(config))
    tokenizer, token_bytes = prepared.tokenizer, prepared.tokenizer.token_bytes
    if state and state.get("corpus", prepared.train.corpus) != prepared.train.corpus:
        raise UserError(f"{folder} was begun on another text than corpus = {config.corpus!r} is now; --resume=no trains anew")
    batches = data.Batches(prepared.train, config.longest, config.batch_size, config.seed, config.random_offset, config.mark,
                           device)
    dev_blocks = data.eval_blocks(prepared.dev, config.longest, config.val_tokens, config.mark)
    teachers = [load_teacher(config, name, prepared, device, run.DTYPES[dtype]) for name in config.teachers]
    init = ready_run(config, config.init, prepared, "init") if config.init else None
    if config.baseline:
        ready_run(config, config.baseline, prepared, "baseline")
    needs = run.needs(config)
    if changed := [name for name, was in (notes.get("_needs") or {}).items() if was != needs.get(name)]:
        raise UserError(f"{folder} was begun with another {folder.with_name(changed[0]) / 'best.pt'} than there is now; put that "
                        f"back, or train anew with --resume=no")
    newline, scores = tokenizer.encode("\n")[0], state and state.get("difficulty")
    if config.order:
        scores = scores if state else difficulty(config, batches, prepared.train, teachers, newline, device, autocast)
        batches.sort(scores.numpy())
    torch.manual_seed(config.seed)
    lm = run.model_of(config, tokenizer.vocab_size).to(device)
    if init:
        run.put_weights(lm, files.load_checkpoint(init / "best.pt")["model"], init)
    if run.RANK:
        torch.manual_seed(config.seed + run.RANK)  # dropout draws anew on each
    model = torch.nn.parallel.DistributedDataParallel(lm) if run.WORLD > 1 else lm
    model = torch.compile(model) if config.compile else model
    optimizer = optimizer_of(lm, config)
    steps = config.max_steps or max(1, round(config.epochs * batches.per_epoch))
    step, best, minutes, meter = 0, math.inf, 0.0, run.Meter(device, 0)
    if state:
        run.put_state(state, lm, optimizer, meter, folder / "ckpt.pt")
        step, best, minutes = state["step"], state["best"], state["minutes"]
    if not state and not run.RANK:  # what an earlier run left here is not this one's
        for name in ("ckpt.prev.pt", "ckpt.pt", "best.pt", "metrics.jsonl", "eval.json", "samples.txt"):
            (folder / name).unlink(missing_ok=True)
    files.write_text(folder / "tokenizer.json", tokenizer.to_json())
    loss_path = losses.path(device.type, config.batch_size // config.grad_accum * config.longest, tokenizer.vocab_size)
    run.write_config(config, dtype, tokenizer, loss_path, needs)
    metrics = run.Metrics(folder / "metrics.jsonl", step)
    print(f"\n{config.name}: {config.arch} {lm.num_params() / 1e6:.2f}M parameters, {steps} steps of {config.batch_size} x "
          f"{config.longest} tokens, {steps / batches.per_epoch:.2f} epochs of {prepared.train.words / 1e6:.2f}M words, "
          f"{dtype} on {device}, loss {loss_path}" + (f", from step {step}" if state else ""))
    if teachers:
        print(f"  {config.divergence} to {', '.join(config.teachers)}; alpha {config.alpha}, tau {config.tau}, mix {config.mix}, "
              f"reduction {config.reduction}")

    def save():
        files.save_checkpoint(folder / "ckpt.pt", {
            "model": lm.state_dict(), "optimizer": optimizer.state_dict(), "random": run.random_states(device),
            "corpus": prepared.train.corpus, "difficulty": scores, "step": step, "steps": steps, "best": best, "meter": meter.state(),
            "scale": scale and float(scale), "minutes": minutes + (time.monotonic() - started) / 60})

    def validation():
        nonlocal best
        with autocast():
            size = config.batch_size // config.grad_accum
            found = validate(model, lm, teachers, dev_blocks, token_bytes, size, config.ensemble)
        metrics.write(step=step, tokens=step * tokens_a_step, **found)
        say(f"  step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
        if found["val_ce"] < best:
            best = found["val_ce"]
            files.save_checkpoint(folder / "best.pt", {"model": lm.state_dict(), "step": step, "val_ce": best})

    def log(lr):
        seen, words = meter.read(step), prepared.train.words / prepared.train.count
        line = dict(step=step, tokens=step * tokens_a_step, words=round(step * tokens_a_step * words), loss=seen["loss"],
                    **seen["notes"], lr=lr, grad_norm=seen["grad_norm"], clipped=seen["clipped"],
                    tokens_per_s=seen["steps_per_s"] * tokens_a_step)
        line |= run.usage(device, line["tokens_per_s"] * operations / run.WORLD)
        if seen["skipped"]:
            line["skipped"] = seen["skipped"]
            say(f"  step {step}: {seen['skipped']} of the last {seen['steps']} steps skipped, loss or gradient was not finite")
        if seen["worst"] > config.max_skipped:
            good = f"last good checkpoint {folder / 'ckpt.pt'}" if (folder / "ckpt.pt").exists() else "no checkpoint yet"
            raise UserError(f"{config.name}: loss or gradient not finite {seen['worst']} steps in a row up to step {seen['end']} "
                            f"(from batch {seen['end'] - seen['worst']}); {good}; try a lower lr, or dtype = float32")
        for warning in rollouts.failures(line):
            say(f"  step {step}: {warning}")
        metrics.write(**line)
        bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
        if not sys.stderr.isatty():
            print(f"  step {step}/{steps} loss {line['loss']:.4f} ce {line['ce']:.4f} {line['tokens_per_s']:.0f} tokens/s, "
                  f"{(steps - step) / seen['steps_per_s'] / 60:.1f} minutes left", flush=True)

    mark_after = newline if config.mark == "line" else None  # in a rollout too `<s>` follows it then
    scale = torch.tensor(state and state.get("scale") or 2.0**14, device=device) if dtype == "float16" else None
    params = list(lm.parameters())
    tokens_a_step, first = config.batch_size * config.longest, step
    operations = operations_a_token(lm, teachers, config.longest)
    bar = tqdm(total=steps, initial=step, disable=not sys.stderr.isatty() or run.RANK > 0, unit="step", leave=False)
    say = tqdm.write if sys.stderr.isatty() else print
    model.train()
    if step == 0:
        validation()
        meter.restart(0)
    caught = run.signals()  # Ctrl-C and SIGTERM wait for the end of the step
    while step < steps:
        logging = (step + 1) % config.log_every == 0 or step + 1 == steps
        lr = learning_rate(config, step, steps)
        x, y = batches.batch(step, int(at(config.block_size, step / steps)), step / steps)
        loss, stats = forward_backward(model, lm, teachers, x, known_to_all(teachers, x, y), config, step / steps, autocast, scale,
                                       logging, rollouts.draws(config, step, step / steps, x.shape), mark_after)
        norm, bad, scale = update(optimizer, params, loss, lr, config.grad_clip or math.inf, scale)
        step += 1
        meter.add(step, loss, norm, norm > (config.grad_clip or math.inf), bad, stats)
        bar.update()
        if step == first + 10 and steps - step > 100:
            say_how_long(config, meter.seconds() / 10 * (steps - step))
        if logging:
            log(lr)
        over = config.max_minutes and (time.monotonic() - started) / 60 >= config.max_minutes
        stop = caught[0] if caught else int(over)
        if run.WORLD > 1:  # they stop together, and are asked now and then, for asking waits for the device
            stop = int(run.all_reduce(torch.tensor(stop, device=device), "MAX")) if step % 10 == 0 else 0
        if step % config.val_every == 0 or step == steps:
            before = time.monotonic()
            validation()
            meter.clock += time.monotonic() - before  # it does not count in tokens_per_s
        if step % config.val_every == 0 or step % max(1, steps // 10) == 0 or step == steps or stop:
            save()
        if stop:
            break
    bar.close()
    if stop > 1 or step < steps:
        return run.stop(f"{config.name}: {'interrupted' if stop > 1 else 'max_minutes is over'} at step {step} of {steps}", stop)
    on_signals()
    if not run.RANK:
        (folder / "eval.json").unlink(missing_ok=True)  # of an earlier best.pt, if somebody has looked
    print(f"{config.name}: {steps} steps in {minutes + (time.monotonic() - started) / 60:.1f} minutes; all of it is in {folder}")
    run.in_turn(lambda: run.RANK or finish(config, folder, device))


def finish(config, folder, device):
    """Evaluate a run that has done its steps, once, and show the last table: teachers, baseline and student."""
    found = folder / "eval.json"
    if not found.exists() or "sample" not in files.read_json(found):  # its last task
        eval.evaluate(folder, device=device.type)
    print(f"{folder} holds best.pt (weights of the lowest val_ce), ckpt.pt (the last), metrics.jsonl, eval.json, samples.txt; next:\n"
          f"  python eval.py {folder} --tasks=sample --prompt='...'\n  python eval.py {folder} --tasks=blimp --data=DIR")
    names = [(name, "teacher") for name in config.teachers if name != "truth"] + [(config.baseline, "baseline")] * bool(config.baseline)
    rows = [(f"{role} {name}", folder.parent / name) for name, role in names] + [(f"student {config.name}", folder)]
    print("\n" + eval.final_table([(label, files.read_json(f / "eval.json")) for label, f in rows if (f / "eval.json").exists()]))


def main(argv):
    train(config_module.parse_args(argv, __doc__))


if __name__ == "__main__":
    config_module.run_main(main)
