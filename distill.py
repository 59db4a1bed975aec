"""Distil teachers into a student: the one training loop. With no teachers it is plain LM training.

    python distill.py configs/rkl_demo.py                 # embedded corpus, minutes on a CPU
    python distill.py configs/rkl_nano.py --corpus=DIR    # real text, hours on a CPU, teacher too
    python distill.py configs/rkl_10m.py                  # the paper, on a GPU

The command prepares the data and trains missing teachers first. Everything it makes is in the
folder out_dir/name (see onecoach/run.py); the last table on the screen compares teacher, baseline
and student.
"""
from onecoach.config import UserError, parse_args, run_main

if __name__ == "__main__":  # --help and mistakes do not wait for all that follows
    run_main(lambda argv: parse_args(argv, __doc__))

import collections
import math

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_

import babytalk
import eval
import losses
import rollouts
from data import Batches, prepare, validation_blocks
from losses import distillation_loss
from onecoach import files, stored
from onecoach.muon import MuonAdamW
from onecoach.needs import needs, train_missing
from onecoach.ranks import RANK, WORLD, all_reduce, in_turn, leave, sum_gradients
from onecoach.run import (DTYPES, Run, alone, changed_needs, check_fit, choose_device,
                          digest_needs, load, make_model)
from onecoach.signatures import failures, rollout_figures
from onecoach.tables import final_table
from onecoach.tokens import to_device


@alone
def train(config):
    """Train config's student to the last step, or to max_minutes; results are in config.folder."""
    run = Run(config)
    if run.is_finished:
        return report(run)

    # data first: a teacher that is missing is trained on the same text
    data = in_turn(lambda: prepare(config))
    run.check_data(data)
    train_missing(config, data, train, check_run)  # teachers, init, baseline
    teachers = load_teachers(data, run)
    student = new_student(data, run)
    optimizer = make_optimizer(student, config)
    batches = Batches(data.train, config, run.device)
    begin(run, student, optimizer, teachers, data, batches)  # from the last checkpoint, if any

    while run.goes_on():
        now = config.at(run.progress)  # the schedules' values (progressive training)
        x, y = batches.batch(run.step, now)  # (B, T) each
        rollout = rollouts.for_step(student, teachers, x, now, run, batches)  # or None
        lr, norm, skipped, sums = take_step(student, teachers, optimizer, x, y, rollout, now, run)

        line = run.stepped(lr, norm, skipped, sums | rollout_figures(rollout))
        run.say(*failures(line))
        if run.should_save:
            run.save()
        if run.should_validate:
            run.validated(validate(student, teachers, data, run))
    run.end()
    report(run)


def take_step(student, teachers, optimizer, x, y, rollout, now, run):
    """One optimizer step on a batch x, y (B, T), or on the rollout that began with x.

    Returns the learning rate, the gradient's norm before clipping, whether the step was skipped
    because loss or norm are not finite, and the sums of loss and figures over the whole batch.
    """
    # a micro-batch's loss is a share of the whole step's, so gradients add up
    y = teachers.labels(x, y)  # -100 at positions unknown to a teacher
    counts = rollouts.positions(y, now)  # a number, or (T,) for the step-wise loss
    sums = collections.Counter()
    for x_i, y_i, rollout_i in rollouts.micro_batches(x, y, rollout, now):
        with run.autocast():
            if rollout is None:
                targets = teachers.on_text(x_i)
                out = distillation_loss(student(x_i), student.head.weight, targets, y_i,
                                        counts=counts, return_stats=run.should_log,
                                        **now.loss_keys())
            else:
                shares = counts.sum(), rollouts.positions(rollout.y, now)
                out = loss_on_rollout(student, teachers, x_i, y_i, rollout_i, shares, now, run)
        loss, stats = with_stats(out)
        run.scaler.scale(loss).backward()
        sums.update(loss=loss.detach(), **stats)
    sum_gradients(student)  # over the ranks
    sums = {name: all_reduce(total) for name, total in sums.items()}

    # the optimizer's kernel leaves the step out if found_inf is 1: the device is not waited for
    run.scaler.unscale_(optimizer)
    norm = clip_grad_norm_(student.parameters(), now.grad_clip or math.inf)
    skipped = ~(sums["loss"].isfinite() & norm.isfinite())
    optimizer.found_inf = skipped.float()
    lr = set_learning_rate(optimizer, now, run)
    run.scaler.step(optimizer)
    run.scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return lr, norm, skipped, sums


# ---------------------------------------------------------------- pieces of a step

def loss_on_rollout(student, teachers, x, y, rollout, counts, now, run):
    """alpha CE on the corpus rows x, y + (1 - alpha) D on the rollout that they began.

    CE never sees sampled tokens. counts: valid positions in the corpus batch of the whole step, and
    in the rollouts.
    """
    ce, ce_stats = 0.0, {}
    # with alpha 0 only the log wants the CE
    if now.alpha > 0 or run.should_log:
        out = distillation_loss(student(x), student.head.weight, [], y, counts=counts[0],
                                return_stats=run.should_log)
        ce, ce_stats = with_stats(out)
    out = rollouts.rollout_loss(student, teachers, rollout, now, counts[1], run.should_log)
    d, d_stats = with_stats(out)
    return now.alpha * ce + (1 - now.alpha) * d, d_stats | ce_stats


def with_stats(out):
    """Return (loss, stats) of a loss; stats is {} if they were not asked for."""
    if isinstance(out, tuple):
        return out
    return out, {}


def learning_rate(now, step, steps):
    """Linear warmup, then cosine to zero, times the peak (which may itself be a schedule)."""
    warmup = now.warmup
    if warmup >= steps:  # a short trial of a long run's config
        warmup = steps // 10
    rise = min(1.0, (step + 1) / (warmup + 1))
    fall = max(0, step - warmup) / max(1, steps - warmup)
    return now.lr * (rise * 0.5 * (1 + math.cos(math.pi * fall)))


def set_learning_rate(optimizer, now, run):
    """Set the step's learning rate in all parameter groups, and return it."""
    lr = learning_rate(now, run.step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


@torch.no_grad()
def validate(student, teachers, data, run):
    """val_ce, val_ppl, val_bpb and, with teachers, val_fkl and val_rkl on the validation split.

    Always at tau 1 and unmixed, so that runs can be compared whatever they are trained on.
    """
    W = student.head.weight
    sums = collections.Counter()  # of tensors: the device is not waited for

    def add(name, targets, y, **keys):
        n = (y != -100).sum()
        sums[name] += n * distillation_loss(h, W, targets, y, **keys).double()
        sums[f"{name} positions"] += n

    student.eval()
    x, y = validation_blocks(data.dev, run.config.longest, run.config.val_tokens)  # (n, T)
    size = run.config.batch_size // (WORLD * run.config.grad_accum)  # as in training
    if run.compiled:  # rows without a label: a shorter last batch would be compiled by itself
        x, y = (F.pad(ids, (0, 0, 0, -len(ids) % size), value=n) for ids, n in ((x, 0), (y, -100)))
    for x, y in zip(x.split(size), y.split(size)):
        # bits per byte do not depend on the tokenizer, so runs with different ones can be compared
        sums["bytes"] += int(data.tokenizer.token_bytes[y[y != -100].numpy()].sum())
        x, y = (to_device(ids, run.device) for ids in (x, y))
        with run.autocast():
            h = student(x)  # (n, T, d)
            add("ce", [], y)
            # the divergences are means over the positions that every teacher knows
            y = teachers.labels(x, y)
            targets = [teacher(x) for teacher in teachers]
            for name in ("fkl", "rkl") if teachers else ():
                add(name, targets, y, divergence=name, ensemble=run.config.ensemble)
    student.train()

    sums = {name: float(total) for name, total in sums.items()}
    ce = sums["ce"] / sums["ce positions"]
    figures = {"val_ce": ce, "val_ppl": math.exp(min(ce, 700)),
               "val_bpb": sums["ce"] / math.log(2) / sums["bytes"]}
    for name in ("fkl", "rkl") if teachers else ():
        figures[f"val_{name}"] = sums[name] / max(1, sums[f"{name} positions"])
    return figures


# ---------------------------------------------------------------- teachers, student, optimizer

class Teacher:
    """A language model that is only read. babytalk.Truth has the same three methods."""

    def __init__(self, lm):
        self.lm = lm.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, x):
        """ids (B, T) -> the function rows -> logits that the loss takes."""
        return losses.head(self.lm(x), self.lm.head.weight)

    def labels(self, x, y):
        """Return the labels y (B, T) as they are: an LM knows something at every position."""
        return y

    def stepper(self, batch, length):
        """A function: the next ids (B, n) -> logits (B, V) for the token after them, known (B,)."""
        step = self.lm.stepper(batch, length)
        known = torch.ones(batch, dtype=torch.bool, device=self.lm.embed.weight.device)
        return lambda ids: (step(ids), known)


class Teachers(list):
    """A run's teachers. With teacher_cache their answers on corpus text come from a file, `store`.

    On rollouts and in validations the teachers themselves are asked.
    """
    store = None

    def on_text(self, x):
        """The targets of the loss on corpus text x (B, T)."""
        if self.store:
            return [self.store(x)]
        return [teacher(x) for teacher in self]

    def labels(self, x, y):
        """Return labels y (B, T) with -100 at positions that some teacher does not know."""
        for teacher in self:
            y = teacher.labels(x, y)
        return y


def load_teachers(data, run):
    """The Teachers of a run; every run that it needs is trained."""
    config = run.config
    teachers = Teachers(load_teacher(name, data, run) for name in config.teachers)
    if config.teacher_cache:
        digests = digest_needs(config)
        teachers.store = stored.open_store(teachers, digests, data, config, run.dtype)
    return teachers


def load_teacher(name, data, run):
    """The Teacher of a finished run, or one of config.NO_RUNS: "truth" is babytalk's own."""
    if name == "truth":
        return babytalk.Truth(data.tokenizer)
    lm = load(run.folder.with_name(name), run.device)[0]
    return Teacher(lm.to(DTYPES[run.dtype]))  # only read: half the memory, no casts at every step


def check_run(config, data):
    """Raise UserError if config's run could not be trained on this data, or on this machine."""
    if config.corpus == "babytalk":
        babytalk.check_babytalk(config, data.tokenizer)
    if config.compile is True and not losses.can_compile(choose_device(config).type):
        raise UserError("compile = True, but torch.compile fails on this machine: it needs a C++ "
                        "compiler (g++, or the one in the variable CXX) on a CPU, Triton on a GPU; "
                        "install one, or use --compile=False")
    stored.check_k(config.teacher_cache, data.tokenizer.vocab_size)
    # both refuse a text that is too short
    Batches(data.train, config)
    validation_blocks(data.dev, config.longest, max_tokens=1)


def new_student(data, run):
    """Make the student, on the run's device, with random weights or the weights of `init`."""
    config = run.config
    # the seeds alone decide the weights, whatever was computed before
    seed = config.seed + config.init_seed
    torch.manual_seed(seed)
    student = make_model(config, data.tokenizer.vocab_size).to(run.device)
    if config.init:
        path = run.folder.with_name(config.init) / "best.pt"
        weights = files.load_checkpoint(path)["model"]
        check_fit(student, weights, path,
                  f"the model of {config.name}; set n_layer, d_model and so on as "
                  f"{path.with_name('config.json')} has them")
        student.load_state_dict(weights)
    if RANK:
        torch.manual_seed(seed + RANK)  # or dropout would be the same on all ranks
    return student.train()


def make_optimizer(model, config):
    """Make a fused AdamW with weight decay on matrices only: norms and biases have no scale.

    With optimizer "muon", Muon takes the matrices of the blocks.
    """
    # Muon is for matrices between hidden states; embeddings and head stay with AdamW
    hidden = []
    if config.optimizer == "muon":
        hidden = [m for m in model.blocks.modules() if isinstance(m, torch.nn.Linear)]
    muons = {linear.weight for linear in hidden}
    others = [p for p in model.parameters() if p not in muons]
    # lr is 0 here: every step sets it from the schedule
    groups = [{"params": [p for p in others if p.dim() >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, config.beta2), fused=True)
    if hidden:
        return MuonAdamW(hidden, config.weight_decay, adamw)
    return adamw


def should_compile(config, device, steps):
    """Decide whether to compile a run's models, by the key `compile`; steps: of the run."""
    if config.compile == "auto":  # compiling takes a minute or more, which a short run never saves
        return device.type == "cuda" and steps >= 2000 and losses.can_compile("cuda")
    return config.compile


def flops_per_token(student, teachers, T):
    """Count the operations of a step on corpus text, for MFU; writing rollouts is not counted."""
    flops = 3 * student.flops(T)
    if teachers.store:
        return flops
    return flops + sum(t.lm.flops(T) for t in teachers if isinstance(t, Teacher))


def begin(run, student, optimizer, teachers, data, batches):
    """Open the run's state, from the last checkpoint if there is one, and print a summary."""
    config = run.config
    steps = config.max_steps or max(1, round(config.epochs * batches.per_epoch))
    flops = flops_per_token(student, teachers, config.longest)
    micro_batch = config.batch_size // (WORLD * config.grad_accum) * config.longest
    loss_path = losses.path(run.device.type, micro_batch, data.tokenizer.vocab_size)
    words_read = batches.words_read(steps, data.tokenizer)
    run.compiled = should_compile(config, run.device, steps)
    if run.compiled:
        for lm in (student, *(t.lm for t in teachers if isinstance(t, Teacher))):
            lm.compile()
    run.begin(student, optimizer, data, steps, words_read, flops, loss_path)
    going_on = f", from step {run.step}" if run.step else ""
    print(f"\n{config.name}: {config.arch} {student.num_params() / 1e6:.2f}M parameters, {steps} "
          f"steps of {config.batch_size} x {config.longest} tokens, "
          f"{steps / batches.per_epoch:.2f} epochs of {data.train.words / 1e6:.2f}M words, "
          f"models {'compiled' if run.compiled else 'eager'}, {run.dtype} on {run.device}, loss "
          f"{loss_path}{going_on}")
    if teachers:
        print(f"  {config.divergence} to {', '.join(config.teachers)}; alpha {config.alpha}, tau "
              f"{config.tau}, mix {config.mix}, reduction {config.reduction}")
    if run.should_validate and not run.stop:  # at step 0, or if a signal ended the last call in it
        run.validated(validate(student, teachers, data, run))


def report(run):
    """Evaluate a finished run, once, and show it with teachers and baseline."""
    in_turn(lambda: RANK or show_run(run))


def show_run(run):
    """Evaluate a run if that has not been done; print the folder and the last table."""
    config = run.config
    folder = run.folder
    if run.is_finished:
        print(f"{folder} is finished ({run.steps} steps); --resume=no trains it again")

    # a run that was stopped before its evaluation is evaluated now
    limit = 0 if config.corpus == "babytalk" else config.eval_tokens  # babytalk is short
    results = files.read_json_or_empty(folder / "eval.json")
    if config.eval_tokens and not eval.is_evaluated(results, config, limit):
        eval.evaluate(folder, device=run.device.type, limit=limit)
    for name in config.teacher_runs:
        teacher = folder.with_name(name)
        if config.eval_tokens and "_imported" in files.read_json_or_empty(teacher / "config.json"):
            eval.score_imported(teacher, config, limit, run.device.type)

    print(f"{folder} holds best.pt (weights of the lowest val_ce), ckpt.pt (the last), "
          "metrics.jsonl, eval.json, samples.txt; next:\n"
          f"  python eval.py {folder} --tasks=sample --prompt='...'")
    if config.corpus != "babytalk":
        print(f"  python eval.py {folder} --tasks=blimp --data=DIR")
    elif config.teachers and config.baseline:
        print(f"  python -m tools.report {folder.with_name(config.baseline)} {folder}")

    role = "student" if config.teachers else "model"
    runs = [*needs(config), (role, config.name)]
    evals = [(f"{role} {name}", figures) for role, name in runs
             if role != "init" and (figures := last_figures(folder.with_name(name)))]
    print("\n" + final_table(evals))
    for name in changed_needs(folder):
        print(f"{name} was trained again after {config.name}: this {name} did not teach it")


def last_figures(folder):
    """Return a run's eval.json and how long the best weights were trained; {} if there is none."""
    results = files.read_json_or_empty(folder / "eval.json")
    if not results:
        return {}
    steps, words = trained_for(folder)
    best = files.load_checkpoint(folder / "best.pt")
    trained = dict(steps=steps, words=words, best_step=float(best.get("step", 0)))
    known = {key: n for key, n in trained.items() if n > 0}  # an archived run lacks some
    return {**results, "trained": known}


def trained_for(folder):
    """Return (steps, words) that the weights in a run's folder were trained on, incl. init.

    nan if the folder of the run or of init is gone; 0 for a run that came without a log.
    """
    if not (folder / "config.json").exists():
        return math.nan, math.nan
    lines = files.read_metrics(folder / "metrics.jsonl")
    words = max((line["words"] for line in lines if "words" in line), default=0)
    steps = max((line["step"] for line in lines), default=0)
    init = files.read_json(folder / "config.json").get("init")
    if init:  # the student began with weights that another run had trained
        before = trained_for(folder.with_name(init))
        return steps + before[0], words + before[1]
    return float(steps), float(words)


def main(argv):
    train(parse_args(argv, __doc__))
    leave()


if __name__ == "__main__":
    run_main(main)
