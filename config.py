"""Every key of a run, declared once: type, default, unit, meaning; read from a config file and the command line.

A config is a Python file of plain assignments of literals. It is read with `ast` and never executed. The command line
overrides any key: `--lr=1e-3`. What is unknown, of the wrong type or out of range is refused with one line.
Numbers that change during a run are schedules over its progress in [0, 1], written as a string:
    "linear(0: 1, 0.7: 0)"      straight lines between the points, flat outside them
    "stages(0: 1, 0.5: 2)"      each value from its point on
"""
import ast
import contextlib
import copy
import dataclasses
import difflib
import json
import os
import pathlib
import re
import signal
import sys
import textwrap
import threading

import losses

CONFIGS = pathlib.Path(__file__).parent / "configs"  # where a missing teacher's NAME.py is looked up


class UserError(Exception):
    """A user's mistake: printed as one line, without a traceback; the line names the thing and the remedy."""


def key(default, help, allowed=None, low=None, high=None, above=None, schedule=False):
    """Declare a key. low and high are included in what is allowed, `above` is not; allowed: words to choose from."""
    meta = dict(help=help, allowed=allowed, low=low, high=high, above=above, schedule=schedule)
    return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=meta)


@dataclasses.dataclass
class Config:
    # the run
    out_dir: str = key("out", "parent folder of all runs")
    name: str = key("", "the run's folder is out_dir/name; empty: the config's file stem")
    seed: int = key(0, "of data order, initialisation and sampling", low=0, high=2**31 - 1)
    device: str = key("auto", "where to compute; auto: cuda, else mps, else cpu", ["auto", "cpu", "cuda", "mps"])
    dtype: str = key("auto", "of matrix products; auto: bfloat16 where the processor multiplies in it, else float32",
                     ["auto", "float32", "bfloat16", "float16"])
    compile: bool = key(False, "torch.compile the models (on a CPU this needs a C++ compiler)")
    resume: str = key("auto", "auto: go on with an unfinished run of this name; no: start anew", ["auto", "no"])
    max_minutes: float = key(0.0, "minutes after which to save and stop; the same command goes on; 0: never", low=0)
    init: str = key("", "run whose weights the model starts from; empty: random")
    # data
    data_dir: str = key("out/data", "parent folder of prepared data")
    corpus: str = key("babytalk", "training text: babytalk, a known corpus, a path or glob, an http(s) address")
    dev: str = key("", "development text, named likewise; empty: the corpus's own, else the last 2% of each file")
    tokenizer: str = key("", "run or tokenizer.json to take the tokenizer from; empty: train one on the corpus")
    vocab_size: int = key(0, "tokens, at least 259; 0: merge until no pair is left (babytalk)", low=0, high=10**6)
    mark: str = key("half", "where <s> opens more than a document: no line, every block, half of the lines, every line",
                    ["none", "block", "half", "line"])
    sentences: int = key(400_000, "lines of babytalk to generate", low=1)
    max_words: int = key(0, "words of training text to use, the same share of every file; 0: all", low=0)
    random_offset: bool = key(True, "give each chunk its own offset each epoch")
    order: str = key("", "simple text first, all of it from half of the run on: domains of short lines, chunks of short lines, "
                     "or chunks that the first teacher finds likely; empty: no order", ["", "domain", "length", "perplexity"])
    # the model
    arch: str = key("llama", "form of the model", ["llama", "gpt2"])
    n_layer: int = key(16, "layers", low=1)
    n_head: int = key(8, "attention heads a layer", low=1)
    d_model: int = key(512, "width of the residual stream", low=1)
    d_ff: int = key(1024, "width inside the feed-forward block", low=1)
    tie: bool = key(False, "the output head is the embedding matrix (always so in gpt2)")
    dropout: float = key(0.0, "probability of dropping an activation", low=0, high=0.99)
    block_size: int = key(128, "tokens of a training sequence; stages of divisors of the longest cut it, tokens a step stay",
                          low=2, schedule=True)
    # optimisation
    batch_size: int = key(32, "sequences (of the longest block) of one optimiser step, all micro-batches together", low=1)
    grad_accum: int = key(1, "micro-batches that the batch is cut into: less memory, same result", low=1)
    max_steps: int = key(0, "optimiser steps; 0: as many as `epochs` needs", low=0)
    epochs: float = key(6.0, "passes over the corpus", above=0)
    lr: float = key(2.5e-4, "peak learning rate (AdamW); warmup and cosine to zero are applied to it", low=0,
                    schedule=True)
    warmup: int = key(200, "steps of linear warmup, at most a tenth of the run", low=0)
    weight_decay: float = key(0.1, "of AdamW, on matrices only", low=0)
    beta2: float = key(0.999, "of AdamW: decay of the squared gradient's mean", low=0, high=0.99999)
    grad_clip: float = key(1.0, "largest gradient norm; 0: no clipping", low=0)
    max_skipped: int = key(10, "steps in a row with a loss or gradient that is not finite before the run stops", low=0)
    # distillation
    teachers: list[str] = key([], "run names of the teachers, or \"truth\" (babytalk's own); empty: plain language "
                              "modelling")
    ensemble: str = key("logits", "several teachers: mean of logits or of probabilities", ["logits", "probs"])
    divergence: str = key("rkl", "D between teacher p and student q: fkl = KL(p||q), rkl = KL(q||p), or "
                          f"{', '.join(d for d in losses.DIVERGENCES if d not in ('fkl', 'rkl'))}, with a parameter as in jsd(0.5)")
    tau: float = key(2.0, "temperature of p and q inside D", above=0, schedule=True)
    alpha: float = key(0.5, "loss = alpha CE + (1 - alpha) tau^2 D", low=0, high=1, schedule=True)
    mix: float = key(1.0, "D's target is mix p + (1 - mix) q; 1: the teacher alone", low=0, high=1, schedule=True)
    mix_grad: bool = key(False, "let the gradient flow through the (1 - mix) q of the target too")
    unit_curvature: bool = key(False, "divide D by its curvature at p = q: the same alpha then pulls alike in all divergences")
    reduction: str = key("token", "D's mean over tokens; Baby Llama's, that times block_size; or step by step, weighted",
                         ["token", "sequence", "step"])
    step_weights: list[float] = key([0.5, 1.5], "reduction = step: weights of the first and last time step, scaled to "
                                    "mean 1", low=0)
    on_policy: float = key(0.0, "share of batches that train on rollouts: continuations written by the student",
                           low=0, high=1, schedule=True)
    rollout_mix: float = key(0.0, "rollouts are drawn from rollout_mix p + (1 - rollout_mix) q; 0: the student's own",
                             low=0, high=1, schedule=True)
    prompt_len: int = key(8, "tokens of the corpus that a rollout starts from", low=1)
    rollout_loss: str = key("token", "on rollouts: D at each position; plain REINFORCE of sequence-level reverse KL; or its "
                            "single-step part exact and only the long-term part sampled", ["token", "reinforce", "single_step"])
    length_norm: bool = key(False, "divide the long-term return by the number of its terms (biased)")
    baseline: str = key("", "run shown beside teacher and student in the last table; trained when missing")
    # what is seen
    log_every: int = key(50, "steps between lines of metrics.jsonl", low=1)
    val_every: int = key(500, "steps between validations", low=1)
    val_tokens: int = key(50_000, "development tokens of a validation during training; 0: all", low=0)

    @property
    def longest(self):
        """The longest block of the run: block_size, or the largest of its stages."""
        return int(max(y for _, y in schedule_points(self.block_size)[1]))


KEYS = {f.name: f for f in dataclasses.fields(Config)}
TYPES = {str: "a string", int: "a whole number", float: "a number", bool: "True or False",
         list[str]: "a list of strings", list[float]: "a list of numbers"}
# A teacher, baseline or init that is found must agree with the student's run on these keys, and on the tokenizer ...
AGREEING = ("corpus", "dev", "mark", "sentences", "max_words", "seed")
# ... and a missing one is trained from its own config with these taken from the student's run.
INHERITED = (*AGREEING, "out_dir", "data_dir", "tokenizer", "vocab_size", "device", "dtype", "compile")


def schedule_points(value):
    """A schedule's kind and its points: "linear(0: 1, 0.7: 0)" -> ("linear", [(0.0, 1.0), (0.7, 0.0)]).

    Raises UserError for any other form, for points outside [0, 1] or out of order.
    """
    if not isinstance(value, str):
        return "linear", [(0.0, float(value))]
    match = re.fullmatch(r"\s*(linear|stages)\((.*)\)\s*", value)
    pairs = [[part.strip() for part in pair.split(":")] for pair in match.group(2).split(",")] if match else []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UserError(f"schedule {value!r} is neither a number, nor \"linear(0: 1, 0.7: 0)\", nor \"stages(0: 1, 0.5: 2)\"")
    try:
        points = [(float(x), float(y)) for x, y in pairs]
    except ValueError as e:  # could not convert string to float: 'x'
        raise UserError(f"schedule: {str(e).partition(': ')[2]} is not a number")
    xs = [x for x, _ in points]
    if xs != sorted(set(xs)) or not all(0 <= x <= 1 for x in xs):
        raise UserError(f"schedule {value!r}: its points must rise within [0, 1]")
    return match.group(1), points


def at(value, progress):
    """The value of a key at progress in [0, 1]: a number is itself, a schedule string is evaluated."""
    kind, points = schedule_points(value)
    before = [p for p in points if p[0] <= progress] or points[:1]
    (x0, y0), after = before[-1], points[len(before):]
    if kind == "stages" or not after or progress < x0:
        return y0
    x1, y1 = after[0]
    return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)


def check(name, value):
    """Return value as the key's type; UserError with the key, what was given and what is allowed."""
    if name not in KEYS:
        near = difflib.get_close_matches(name, KEYS, 1, 0.5)
        raise UserError(f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; --help lists all keys"))
    kind, meta = KEYS[name].type, KEYS[name].metadata
    of = {list[str]: (str,), list[float]: (int, float)}.get(kind)
    numbers, real = [value] if kind in (int, float) else [], lambda x: float(x) if abs(x) < 1e300 else float("inf")
    if meta["schedule"] and isinstance(value, str):
        try:
            numbers = [y for _, y in schedule_points(value)[1]]
        except UserError as e:
            raise UserError(f"{name}: {e}")
    elif kind is float and type(value) in (int, float):
        value = real(value)
    elif of and isinstance(value, (list, tuple)) and all(type(x) in of for x in value):
        value = list(map(real if of[-1] is float else str, value))
        numbers = value if of[-1] is float else []
    elif type(value) is not kind:
        raise UserError(f"{name} = {value!r}: must be {TYPES[kind]}" + (" or a schedule" if meta["schedule"] else ""))
    if meta["allowed"] and value not in meta["allowed"]:
        raise UserError(f"{name} = {value!r}: allowed are {', '.join(meta['allowed'])}")
    if kind is int and any(x % 1 for x in numbers):
        raise UserError(f"{name} = {value!r}: must be whole numbers")
    low, high, above = meta["low"], meta["high"], meta["above"]
    if not all(abs(x) <= 1e300 and (low is None or x >= low) and (high is None or x <= high)
               and (above is None or x > above) for x in numbers):
        lower = f">= {low}" if above is None else f"> {above}"
        raise UserError(f"{name} = {value!r}: must be {lower}" + ("" if high is None else f" and <= {high}"))
    return value


def read_file(path):
    """The assignments of a config, or of a run's config.json (keys that begin with _ are notes): dict of raw values."""
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        what = getattr(e, "strerror", "is not UTF-8 text") or "cannot be read"
        raise UserError(f"config {path}: {what}; configs/ has examples")
    try:
        if path.suffix == ".json":
            values = json.loads(text)
            if not isinstance(values, dict):
                raise UserError(f"{path}: not a run's config.json (no JSON object)")
            return {k: v for k, v in values.items() if not k.startswith("_")}
        values = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
                raise UserError(f"{path}, line {node.lineno}: a config holds only assignments such as lr = 1e-3")
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                raise UserError(f"{path}, line {node.lineno}: {node.targets[0].id} must be a literal (number, string, list)")
        return values
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        line = getattr(e, "lineno", None)
        raise UserError(f"{path}{f', line {line}' if line else ''}: cannot be read as a config ({type(e).__name__})")


def make(path, overrides=()):
    """The Config of a file with overrides [(key, raw value)]; UserError names the file or the command line."""
    config = Config()
    for source, items in ((path, read_file(path).items()), ("command line", overrides)):
        for name, value in items:
            try:
                setattr(config, name, check(name, value))
            except UserError as e:
                raise UserError(f"{source}: {e}")
    config.name = config.name or pathlib.Path(path).stem
    for name in (config.name, config.init, config.baseline, *config.teachers):
        if name and not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name in (".", ".."):
            raise UserError(f"run name {name!r}: only letters, digits, '.', '_' and '-' are allowed")
    if 0 < config.vocab_size < 259:
        raise UserError(f"vocab_size = {config.vocab_size}: the 256 bytes and 3 special tokens are always in it; choose 0 or at least 259")
    if config.batch_size % config.grad_accum:
        raise UserError(f"batch_size {config.batch_size} is not a multiple of grad_accum {config.grad_accum}")
    if config.d_model % config.n_head or config.arch == "llama" and config.d_model // config.n_head % 2:
        raise UserError(f"d_model {config.d_model} does not split into n_head = {config.n_head} heads of an even size")
    values = lambda key: [y for _, y in schedule_points(getattr(config, key))[1]]
    if isinstance(config.block_size, str) and schedule_points(config.block_size)[0] != "stages" or any(
            b % 1 or config.longest % b for b in values("block_size")):
        raise UserError(f"block_size = {config.block_size!r}: a schedule of it is stages(...) of whole divisors of the longest")
    rollout_keys = ("rollout_mix", "prompt_len", "rollout_loss", "length_norm")
    if max(values("on_policy")):
        if not config.teachers:
            raise UserError("on_policy needs teachers: rollouts are trained towards one")
        if not config.init and at(config.on_policy, 0.0) > 0:
            raise UserError("on_policy: rollouts of random weights are noise; start from a trained student with init = RUN, or later: "
                            "on_policy = \"stages(0: 0, 0.5: 0.5)\"")
        if config.rollout_loss != "token" and config.divergence != "rkl":
            raise UserError(f"rollout_loss = {config.rollout_loss!r} is the gradient of reverse KL; with {config.divergence} only token")
        if config.prompt_len >= min(values("block_size")):
            raise UserError(f"prompt_len = {config.prompt_len}: must be shorter than the shortest block, {min(values('block_size')):.0f}")
    elif changed := [k for k in rollout_keys if getattr(config, k) != getattr(Config(), k)]:
        raise UserError(f"{changed[0]} is about rollouts, and there are none; set on_policy, the share of batches with them")
    try:  # what the loss refuses, it refuses here
        losses.parse(config.divergence)
        losses.weights_of_steps(config.step_weights, 2)
        for mix in values("mix"):
            losses.check_mix(config.divergence, mix, config.mix_grad)
            if config.unit_curvature:
                losses.pull(config.divergence, mix, config.mix_grad)
    except ValueError as e:
        raise UserError(str(e))
    if config.order == "perplexity" and config.teachers[:1] in ([], ["truth"]):
        raise UserError("order = perplexity: the first teacher's, which must be a run; name one in teachers, or order by length")
    if "truth" in config.teachers and config.corpus != "babytalk":
        raise UserError("teachers: \"truth\" is known for corpus = babytalk only; name a run instead")
    return config


def related(config, name):
    """The Config that trains the missing run `name` beside `config`: configs/NAME.py with the INHERITED keys."""
    path = CONFIGS / f"{name}.py"
    if not path.exists():
        raise UserError(f"run {name!r} is neither in {config.out_dir} nor has it a config {path}; train it first")
    return make(path, [("name", name)] + [(k, getattr(config, k)) for k in INHERITED])


def load(argv, usage=""):
    """CONFIG [--key=value ...] -> Config; --help prints `usage` and every key, and exits."""
    if any(a in ("-h", "--help") for a in argv):
        print(help_text(usage))
        raise SystemExit(0)
    paths = [a for a in argv if not a.startswith("--")]
    if len(paths) != 1:
        raise UserError(f"expected one CONFIG, got {len(paths)}: {' '.join(paths) or 'none'}; --help shows how")
    overrides = []
    for arg in argv:
        if arg.startswith("--"):
            name, equals, text = arg[2:].partition("=")
            check(name, getattr(Config(), name, None))  # an unknown key is named before its value is looked at
            if not equals:
                raise UserError(f"command line: {arg} has no value; write --{name}=VALUE")
            if KEYS[name].type == list[str] and not text.startswith("["):
                text = [word for word in text.split(",") if word]  # a,b
            elif KEYS[name].type is not str:  # a schedule is no literal: it stays text
                with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                    text = ast.literal_eval(text)
            overrides.append((name, text))
    return make(paths[0], overrides)


def help_text(usage):
    lines = [usage.strip(), "", "Keys (in a config: key = value; on the command line: --key=value; * may be a schedule):"]
    for f in KEYS.values():
        left = f"  {f.name}{'*' if f.metadata['schedule'] else ''} = {f.default_factory()!r}"
        words = f.metadata["help"] + (f" ({' | '.join(f.metadata['allowed'])})" if f.metadata["allowed"] else "")
        lines += textwrap.wrap(words, 119, initial_indent=left.ljust(26) + " ", subsequent_indent=" " * 27)
    lines += ["", "Schedules over the run's progress: \"linear(0: 1, 0.7: 0)\", \"stages(0: 1, 0.5: 2)\". A whole progressive config is",
              "configs/rkl_full_10m.py:", ""]
    lines += ["  " + line for line in (CONFIGS / "rkl_full_10m.py").read_text().split("\n\n", 1)[1].splitlines()]
    return "\n".join(lines)


def interrupt(number, frame):
    """What Ctrl-C does, for SIGTERM too: `finally` and `with` clean up on the way out, run_main says what happened."""
    raise KeyboardInterrupt(number, f"interrupted by {signal.Signals(number).name}")


def on_signals(act=interrupt):
    """From here on Ctrl-C and SIGTERM call act(number, frame), where they are not ignored; only a main thread has a say in it."""
    for number in (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, act)


def run_main(main):
    """Call main(argv). One line on stderr ends a UserError, exit code 2, and Ctrl-C or SIGTERM, 130 or 143."""
    if "RANK" not in os.environ:  # a rank that waits for others must end at once, by the system's own hand
        on_signals()
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt as e:
        number, what = e.args or (signal.SIGINT, "interrupted")
        if os.environ.get("RANK", "0") == "0":  # the others would say the same
            print(what, file=sys.stderr)
        raise SystemExit(128 + number)
    except (UserError, OSError) as e:  # OSError: a folder that is a file, a full disk, no permission
        if getattr(e, "filename", "") is None:
            raise
        print(f"error: {e.filename}: {e.strerror}" if isinstance(e, OSError) else f"error: {e}", file=sys.stderr)
        raise SystemExit(2)
