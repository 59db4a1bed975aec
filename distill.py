"""Distil teachers into a student: the one training loop. With no teachers it is plain LM training.

    python distill.py configs/rkl_demo.py                 # embedded corpus, minutes on a CPU
    python distill.py configs/rkl_nano.py --corpus=DIR    # real text, hours on a CPU, teacher too
    python distill.py configs/rkl_10m.py                  # the paper, on a GPU

Data are prepared and missing teachers are trained first. What comes out lies in out_dir/name (see
run.py); the last table on the screen shows teacher, baseline and student side by side.
"""
from onecoach.config import answer_early

if __name__ == "__main__":
    answer_early(__doc__)

import collections
import contextlib
import math
import os

import torch
from torch.nn.utils import clip_grad_norm_

import babytalk
import eval
import losses
import rollouts
from data import Batches, load_tokenizer, prepare, validation_blocks
from losses import distillation_loss
from onecoach import files, stored
from onecoach.config import UserError, parse_args, read_config, related_config, run_main
from onecoach.muon import MuonAdamW, check_muon, make_muon
from onecoach.ranks import RANK, WORLD, all_gather, all_reduce, in_turn, shard, sum_gradients
from onecoach.run import (
    DTYPES,
    Run,
    alone,
    device_of,
    digests_of_needs,
    folder_of,
    has_bf16,
    is_finished,
    load,
    model_of,
    put_weights,
    sizes_of,
)
from rollouts import Rollout


@alone
def train(config):
    """Train config's student to its last step, or to max_minutes; it leaves all in out_dir/name."""
    run = Run(config)
    if run.is_finished:
        return report(run)

    data = in_turn(lambda: prepare(config))
    run.check_data(data)
    make_ready(config, data)  # the runs that it needs, trained now where they are missing
    teachers, sources = load_teachers(data, run)  # sources: they, or what is stored of them
    student = new_student(data, run)
    optimizer = make_optimizer(student, config)
    batches = Batches(data.train, config, run.device)
    begin(run, student, optimizer, teachers, data, batches)  # from the last checkpoint, if any

    while run.goes_on():
        # the schedules' values (progressive training), a batch, what the student writes at times
        now = config.at(run.progress)
        x, y = batches.batch(run.step, now)  # (B, T) each
        for teacher in teachers:
            y = teacher.labels(x, y)  # -100 where it knows nothing
        rollout = rollout_for(student, teachers, x, now, run, batches)  # None unless one is due

        # the loss and its gradient; micro-batches are shares of the whole step's, and add up
        counts = positions(y, now)
        sums = collections.Counter()
        for x_i, y_i, rollout_i in micro_batches(x, y, rollout, now):
            with run.autocast():
                if rollout is None:
                    targets = [source(x_i) for source in sources]
                    out = distillation_loss(student(x_i), student.head.weight, targets, y_i,
                                            counts=counts, return_stats=run.logs, **now.loss_keys())
                else:
                    shares = counts.sum(), positions(rollout.y, now)
                    out = loss_on_rollout(student, teachers, x_i, y_i, rollout_i, shares, now, run)
            loss, stats = out if run.logs else (out, {})
            run.scaler.scale(loss).backward()
            sums.update(loss=loss.detach(), **stats)
        sum_gradients(student)
        sums = {name: all_reduce(total) for name, total in sums.items()}

        # the optimizer's step, which its kernel leaves out where found_inf is 1
        run.scaler.unscale_(optimizer)
        norm = clip_grad_norm_(student.parameters(), now.grad_clip or math.inf)
        skipped = ~(sums["loss"].isfinite() & norm.isfinite())
        optimizer.found_inf = skipped.float()
        lr = set_learning_rate(optimizer, now, run)
        run.scaler.step(optimizer)
        run.scaler.update()
        optimizer.zero_grad(set_to_none=True)

        # the books
        line = run.stepped(lr, norm, skipped, sums | rollouts.figures(rollout))
        run.say(*rollouts.failures(line))
        if run.saves:
            run.save()
        if run.validates:
            run.validated(validate(student, teachers, data, run))
    run.end()
    report(run)


# ---------------------------------------------------------------- pieces of a step

def micro_batches(x, y, rollout, now):
    """This rank's rows in grad_accum micro-batches: x, y and rollout (or None) of each."""
    tensors = [x, y, *(t for t in rollout or () if t is not None)]
    for x_i, y_i, *fields in zip(*(shard(t).chunk(now.grad_accum) for t in tensors)):
        yield x_i, y_i, Rollout(*fields) if fields else None


def positions(y, now):
    """How many positions of labels y (B, T) count: a 0-d tensor; (T,) under reduction "step"."""
    return (y != -100).sum(0 if now.reduction == "step" else (0, 1))


def rollout_for(student, teachers, x, now, run, batches):
    """The step's Rollout of the whole batch after x's prompts, or None where none is due.

    With rollout_every = n those of n steps are written at the first of them that needs one, and
    wait in run.kept, which a checkpoint keeps.
    """
    if not rollouts.is_due(now, run.step):
        return None
    if run.step not in run.kept.get("rollouts", {}):
        prompts = due_prompts(x, now, run, batches)
        run.kept.update(written=run.step,
                        rollouts=write_rollouts(student, teachers, prompts, now, run))
    rollout = as_rollout(run.kept["rollouts"].pop(run.step), x, run)
    if now.rollout_every > 1:
        rollout = brought_up_to_date(rollout, student, now, run)
    weights = rollouts.weights_in(now, positions(rollout.y, now))
    return rollout._replace(coefficients=rollouts.policy_coefficients(
        rollout, now.rollout_loss, now.length_norm, weights))


def due_prompts(x, now, run, batches):
    """{step: x} of this step and of those up to the next multiple of rollout_every that need one.

    x (B, T): this step's batch.
    """
    prompts = {run.step: x}
    last = min((run.step // now.rollout_every + 1) * now.rollout_every, run.steps)
    for later in range(run.step + 1, last):
        then = run.config.at(later / run.steps)
        if rollouts.is_due(then, later):
            prompts[later], _ = batches.batch(later, then)
    return prompts


def as_rollout(fields, x, run):
    """The Rollout that was kept for a step on x; UserError where a checkpoint had another thing."""
    tensors = isinstance(fields, (list, tuple)) and all(isinstance(t, torch.Tensor) for t in fields)
    if not tensors or [t.shape for t in fields] != [x.shape] * 5:
        raise UserError(f"{run.folder / 'ckpt.pt'}: the rollouts in it are damaged; train anew "
                        "with --resume=no")
    return Rollout(*(t.to(x.device) for t in fields))


def write_rollouts(student, teachers, prompts, now, run):
    """{step: the first fields of its Rollout}, of prompts {step: x}.

    All are written in one call, as `now` says. Each rank, and each of its micro-batches, writes its
    own rows.
    """
    x = torch.stack([*prompts.values()], 1)  # (B, steps, T)
    uniforms = torch.stack([rollouts.draws(now, step, x) for step, x in prompts.items()], 1)
    mark = {}
    if now.mark == "line":  # `<s>` opens the next line
        mark = dict(mark_after=run.tokenizer.newline_id, mark=run.tokenizer.bos_id)
    parts = []
    with run.autocast():
        for x_i, u_i, _ in micro_batches(x, uniforms, None, now):
            part = rollouts.sample(student, teachers, x_i.flatten(0, 1), u_i.flatten(0, 1),
                                   now.rollout_mix, now.ensemble, **mark)
            parts.append([field.unflatten(0, x_i.shape[:2]) for field in part[:5]])
    whole = [all_gather(torch.cat(field)).unbind(1) for field in zip(*parts)]
    return {step: [field.clone() for field in fields]
            for step, fields in zip(prompts, zip(*whole))}


def brought_up_to_date(rollout, student, now, run):
    """A Rollout that may have waited, and so be of an older student, with today's log_q."""
    with run.autocast():
        parts = [rollouts.log_q_now(student, rollout_i)
                 for *_, rollout_i in micro_batches(rollout.x, rollout.y, rollout, now)]
    log_q = all_gather(torch.cat(parts))
    age = torch.full((len(log_q),), run.step - run.kept["written"], device=log_q.device)
    return rollout._replace(log_q=log_q, drift=rollout.log_q - log_q, age=age)


def loss_on_rollout(student, teachers, x, y, rollout, counts, now, run):
    """alpha CE on the corpus rows x, y + (1 - alpha) D on the rollout that they began.

    CE never sees sampled tokens. counts: of the whole step, of corpus and of rollouts.
    """
    ce, ce_stats = 0.0, {}
    if now.alpha > 0 or run.logs:
        out = distillation_loss(student(x), student.head.weight, [], y, counts=counts[0],
                                return_stats=run.logs)
        ce, ce_stats = out if run.logs else (out, {})
    out = rollouts.rollout_loss(student, teachers, rollout, now, counts[1], run.logs)
    d, d_stats = out if run.logs else (out, {})
    loss = now.alpha * ce + (1 - now.alpha) * d
    return (loss, d_stats | ce_stats) if run.logs else loss


def learning_rate(now, step, steps):
    """Linear warmup, then cosine to zero, times the peak (which may itself be a schedule)."""
    warmup = now.warmup if now.warmup < steps else steps // 10
    rise = min(1.0, (step + 1) / (warmup + 1))
    fall = max(0, step - warmup) / max(1, steps - warmup)
    return now.lr * (rise * 0.5 * (1 + math.cos(math.pi * fall)))


def set_learning_rate(optimizer, now, run):
    lr = learning_rate(now, run.step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def make_optimizer(model, config):
    """AdamW, one fused kernel; weight decay on matrices only (norms and biases have no scale).

    With optimizer "muon" the blocks' matrices are Muon's.
    """
    hidden = []
    if config.optimizer == "muon":
        hidden = [p for p in model.blocks.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if all(p is not q for q in hidden)]
    groups = [{"params": [p for p in others if p.dim() >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, config.beta2), fused=True)
    return MuonAdamW(make_muon(hidden, config.weight_decay), adamw) if hidden else adamw


@torch.no_grad()
def validate(student, teachers, data, run):
    """val_ce, val_ppl, val_bpb and, with teachers, val_fkl and val_rkl on the development text.

    At tau 1, unmixed, whatever is trained on: comparable between runs.
    """
    student.eval()
    blocks = validation_blocks(data.dev, run.config.longest, run.config.val_tokens)  # x, y (n, T)
    size = run.config.batch_size // (WORLD * run.config.grad_accum)  # as in training
    W = student.head.weight
    sums = collections.Counter()
    for x, y in zip(*(block.split(size) for block in blocks)):
        sums["bytes"] += int(data.tokenizer.token_bytes[y[y != -100].numpy()].sum())
        x = x.to(run.device)
        y = y.to(run.device)
        with run.autocast():
            h = student(x)
            n = (y != -100).sum().item()
            sums["positions"] += n
            sums["ce"] += distillation_loss(h, W, [], y).item() * n
            for teacher in teachers:
                y = teacher.labels(x, y)
            known = (y != -100).sum().item()
            sums["known"] += known
            targets = [teacher(x) for teacher in teachers]
            for kind in ("fkl", "rkl") if teachers else ():
                d = distillation_loss(h, W, targets, y, divergence=kind,
                                      ensemble=run.config.ensemble)
                sums[kind] += d.item() * known
    student.train()

    ce = sums["ce"] / sums["positions"]
    figures = {"val_ce": ce, "val_ppl": math.exp(min(ce, 700)),
               "val_bpb": sums["ce"] / math.log(2) / sums["bytes"]}
    if teachers:
        figures["val_fkl"] = sums["fkl"] / max(1, sums["known"])
        figures["val_rkl"] = sums["rkl"] / max(1, sums["known"])
    return figures


# ---------------------------------------------------------------- what is trained, and by whom

class Teacher:
    """A language model that is only read. babytalk.Truth has the same three methods."""

    def __init__(self, lm):
        self.lm = lm.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, x):
        """ids (B, T) -> the function rows -> logits that the loss takes."""
        return losses.head(self.lm(x), self.lm.head.weight)

    def labels(self, x, y):
        """Labels y (B, T) with -100 where this teacher knows nothing: it has a say everywhere."""
        return y

    def stepper(self, batch, length):
        """A function: the next ids (B, n) -> logits (B, V) of what comes after, known (B,)."""
        step = self.lm.stepper(batch, length)
        known = torch.ones(batch, dtype=torch.bool, device=self.lm.embed.weight.device)
        return lambda ids: (step(ids), known)


def make_ready(config, data):
    """Train the runs that are missing: teachers, init, baseline, and those that they need in turn.

    All are looked at first: a mistake in one is a UserError before another has been trained.
    """
    runs = missing(config, data)
    if config.optimizer == "muon" and not has_bf16(device_of(config)):
        print(f"{config.name}: optimizer = 'muon' multiplies in bfloat16, which this processor has "
              "no instructions for: a step takes many times as long as with --optimizer=adamw")
    for name, (role, its) in runs.items():
        print(f"\n{role} {name} is not there yet: training it first")
        with naming_its_command(its):
            train(its)


def missing(config, data, above=()):
    """{name: (role, Config)} of the runs to train before config's, each after those it needs.

    Nothing is trained. UserError for what is wrong with config's run or one of those. above: the
    names of the runs that need config's, each needed by the one before.
    """
    if above:
        with naming_its_command(config):
            Run(config).check_data(data)  # if it broke off, can it go on?
    check_run(config, data)
    chain = [*above, config.name]
    needs = [("teacher", name) for name in config.teachers]
    needs += [("init", config.init), ("baseline", config.baseline)]
    runs = {}
    for role, name in needs:
        if name in ("", "truth"):
            continue
        if name in chain:
            circle = [*chain[chain.index(name):], name]
            raise UserError(f"{' needs '.join(circle)}: a run cannot need itself; change teachers, "
                            "init or baseline, or choose another --name")
        folder = folder_of(config).with_name(name)
        if is_finished(folder):
            check_agreement(role, folder, config, data)
            its = read_config(folder / "config.json")
        else:
            its = related_config(config, name)
            try:
                runs |= missing(its, data, chain)
            except UserError as e:
                raise UserError(f"{role} {name}: {e}")
            runs.setdefault(name, (role, its))
        check_model(role, name, its, config)
    return runs


@contextlib.contextmanager
def naming_its_command(config):
    """In a UserError about a run that another needs: the options that it names are not those of
    the command that was typed."""
    try:
        yield
    except UserError as e:
        file = os.path.relpath(config.file)
        raise UserError(f"{e}; its own command is python distill.py {file}")


def check_run(config, data):
    """UserError where config's run could not be trained: by the data, by the torch installed."""
    if config.corpus == "babytalk":
        eval.check_babytalk(config, data.tokenizer)
    if config.optimizer == "muon":
        check_muon()
    stored.check_k(config.teacher_cache, data.tokenizer.vocab_size)
    Batches(data.train, config)  # text enough for one, and for a block to validate on
    validation_blocks(data.dev, config.longest, max_tokens=1)


def check_agreement(role, folder, config, data):
    """UserError where the finished run in `folder` has another text, tokenizer, mark or seed."""
    its = files.read_json(folder / "config.json")
    differ = []
    if "_imported" not in its:  # what was trained elsewhere has read other text
        differ = [f"{key} = {its.get(key)!r} there, {getattr(config, key)!r} here"
                  for key in ("mark", "seed") if its.get(key) != getattr(config, key)]
        if its.get("_text") != data.train.corpus:
            differ.append(f"its text is another (corpus = {its.get('corpus')!r} there, "
                          f"{config.corpus!r} here)")
    remedy = "another --out_dir"
    if its.get("_tokenizer") != data.tokenizer.hash:
        difference = data.tokenizer.differs_from(load_tokenizer(folder))
        differ.append(f"its tokenizer is another ({difference})")
        remedy = f"--tokenizer={folder}, or another --out_dir"
    if differ:
        raise UserError(f"{role} {folder} does not agree with this run: {'; '.join(differ)}; use "
                        f"{remedy}")


def check_model(role, name, its, config):
    """UserError where config's run has no use for the model of a teacher or init, Config `its`."""
    if role == "teacher" and its.arch == "gpt2" and its.longest < config.longest:
        raise UserError(f"teacher {name} is a GPT-2 of block_size {its.longest}, too short for "
                        f"block_size = {config.longest}; choose --block_size={its.longest}, or "
                        "another teacher")
    if role == "init":
        there, here = sizes_of(its), sizes_of(config)
        differ = [f"{key} = {there[key]!r} there, {here[key]!r} here"
                  for key in here if key in there and there[key] != here[key]]
        if differ:
            raise UserError(f"init {name} does not fit the model of {config.name}: "
                            f"{'; '.join(differ)}; set these as {its.file} has them")


def load_teachers(data, run):
    """The run's teachers, and the sources of the targets on corpus text.

    These are the teachers, or with teacher_cache the one file. On rollouts and in validations the
    teachers are asked, whatever is stored.
    """
    config = run.config
    teachers = [load_teacher(name, data, run) for name in config.teachers]
    if not config.teacher_cache:
        return teachers, teachers
    digests = digests_of_needs(config)
    return teachers, [stored.open_store(teachers, digests, data, config, run.dtype)]


def load_teacher(name, data, run):
    """The Teacher of a run that is ready; "truth" is babytalk's own."""
    if name == "truth":
        return babytalk.Truth(data.tokenizer)
    lm = load(run.folder.with_name(name), run.device)[0]
    lm = lm.to(DTYPES[run.dtype])  # it is only read: half the memory, and no casting every step
    if run.config.compile:
        lm.compile()
    return Teacher(lm)


def new_student(data, run):
    """The student, on the run's device: random weights of the seed, or those of `init`."""
    config = run.config
    torch.manual_seed(config.seed)
    student = model_of(config, data.tokenizer.vocab_size).to(run.device)
    if config.init:
        path = run.folder.with_name(config.init) / "best.pt"
        put_weights(student, files.load_checkpoint(path)["model"], path,
                    f"the model of {config.name}; set n_layer, d_model and so on as "
                    f"{path.with_name('config.json')} has them")
    if RANK:
        torch.manual_seed(config.seed + RANK)  # dropout draws anew on each
    if config.compile:
        student.compile()
    return student.train()


def flops_per_token(student, teachers, T):
    """Of a step on corpus text: what MFU counts. Writing a rollout comes on top of it."""
    read = [teacher.lm.flops(T) for teacher in teachers if isinstance(teacher, Teacher)]
    return 3 * student.flops(T) + sum(read)


def begin(run, student, optimizer, teachers, data, batches):
    """Open the run's books, from the last checkpoint where there is one, and say what begins."""
    config = run.config
    steps = config.max_steps or max(1, round(config.epochs * batches.per_epoch))
    flops = flops_per_token(student, [] if config.teacher_cache else teachers, config.longest)
    micro_batch = config.batch_size // (WORLD * config.grad_accum) * config.longest
    loss_path = losses.path(run.device.type, micro_batch, data.tokenizer.vocab_size)
    run.begin(student, optimizer, data, steps, flops, loss_path)
    going_on = f", from step {run.step}" if run.step else ""
    print(f"\n{config.name}: {config.arch} {student.num_params() / 1e6:.2f}M parameters, {steps} "
          f"steps of {config.batch_size} x {config.longest} tokens, "
          f"{steps / batches.per_epoch:.2f} epochs of {data.train.words / 1e6:.2f}M words, "
          f"{run.dtype} on {run.device}, loss {loss_path}{going_on}")
    if teachers:
        print(f"  {config.divergence} to {', '.join(config.teachers)}; alpha {config.alpha}, tau "
              f"{config.tau}, mix {config.mix}, reduction {config.reduction}")
    if run.validates and not run.stop:  # at step 0, or where the last call was ended in it
        run.validated(validate(student, teachers, data, run))


def report(run):
    """Evaluate a run that has done its steps, once; show teachers, baseline and student."""
    in_turn(lambda: RANK or show_run(run))


def show_run(run):
    config = run.config
    folder = run.folder
    if run.is_finished:
        print(f"{folder} is finished ({run.steps} steps); --resume=no trains it anew")
    path = folder / "eval.json"
    results = files.read_json_or_empty(path)
    limit = 0 if config.corpus == "babytalk" else config.eval_tokens  # its lines are few
    if config.eval_tokens and not eval.is_evaluated(results, config, limit):
        eval.evaluate(folder, device=run.device.type, limit=limit)
    print(f"{folder} holds best.pt (weights of the lowest val_ce), ckpt.pt (the last), "
          "metrics.jsonl, eval.json, samples.txt; next:\n"
          f"  python eval.py {folder} --tasks=sample --prompt='...'\n"
          f"  python eval.py {folder} --tasks=blimp --data=DIR")
    runs = [(f"teacher {name}", name) for name in config.teachers if name != "truth"]
    if config.baseline:
        runs.append((f"baseline {config.baseline}", config.baseline))
    runs.append((f"student {config.name}", config.name))
    evals = []
    for label, name in runs:
        path = folder.with_name(name) / "eval.json"
        if path.exists():
            trained = dict(zip(("steps", "words"), trained_for(path.parent)))
            best = files.load_checkpoint(path.with_name("best.pt"))
            trained["best_step"] = float(best.get("step", 0))
            known = {key: n for key, n in trained.items() if n > 0}  # of an archived run not all is
            evals.append((label, {**files.read_json(path), "trained": known}))
    print("\n" + eval.final_table(evals))


def trained_for(folder):
    """(steps, words) that the weights in a run's folder have seen, those of its init too.

    nan where the folder is gone, or the init's; 0 of a run that came without its log.
    """
    if not (folder / "config.json").exists():
        return math.nan, math.nan
    lines = files.read_metrics(folder / "metrics.jsonl")
    words = max((line["words"] for line in lines if "words" in line), default=0)
    steps = max((line["step"] for line in lines), default=0)
    init = files.read_json(folder / "config.json").get("init")
    if init:
        before = trained_for(folder.with_name(init))
        return steps + before[0], words + before[1]
    return float(steps), float(words)


def main(argv):
    config = parse_args(argv, __doc__)
    train(config)
    from tools import report  # of a room above, entered when all is done: a demo ends with its page
    report.after_training(config)


if __name__ == "__main__":
    run_main(main)
