"""Every key of a run, declared once; read from a config file and the command line.

A config is a Python file of plain assignments of literals, read with `ast` and never executed. If
its first line is `base = "NAME"`, it starts from the assignments of that config. The command line
overrides any key: `--lr=1e-3`. Unknown keys, wrong types and values out of range are refused.

A number that changes during a run is a schedule over progress in [0, 1], written as a string:
    "linear(0: 1, 0.7: 0)"      straight lines between the points, flat outside them
    "stages(0: 1, 0.5: 2)"      each value holds from one point to the next
The loop calls `now = config.at(progress)` in each step; there every schedule is a number.
"""
import argparse
import ast
import bisect
import contextlib
import copy
import dataclasses
import difflib
import functools
import json
import os
import pathlib
import re
import shlex
import signal
import sys
import textwrap
import threading

# This process's number, and how many there are. Schedulers set RANK, too: only torchrun's counts.
RANK, WORLD = 0, 1
if "TORCHELASTIC_RUN_ID" in os.environ:
    RANK = int(os.environ["RANK"])
    WORLD = int(os.environ["WORLD_SIZE"])

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"  # NAME.py of a missing teacher is there


class UserError(Exception):
    """A user's mistake, printed as one line: the thing, what is wrong, the remedy."""


class Stopped(Exception):
    """The command ends here, and all is saved; the message says how to go on."""


NO_RUNS = ("truth",)  # teachers that are no runs, but made by distill.load_teacher
RUN_NAME = r"(?!\.\.?$)[A-Za-z0-9._-]+"


# ---------------------------------------------------------------- the keys

def key(default, help, allowed=(), low=None, high=1e300, above=None, schedule=False, path=False):
    """Declare a key.

    allowed: words to choose from. low, high: bounds of a number; above: it must be greater than
    that. schedule: the value may be a schedule. path: `~` in it is the home folder.
    """
    meta = dict(help=help, allowed=allowed, low=low, high=high, above=above, schedule=schedule,
                path=path)
    return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=meta)


@dataclasses.dataclass
class Config:
    # the run
    out_dir: str = key("out", "parent folder of all runs", path=True)
    name: str = key("", "the run's folder is out_dir/name; empty: the config's file stem")
    seed: int = key(0, "seed of data order, initialisation and sampling", low=0, high=2**31 - 1)
    init_seed: int = key(0, "added to seed for first weights and dropout: an ensemble's members",
                         low=0, high=2**31 - 1)
    device: str = key("auto", "where to compute; auto: cuda, else mps, else cpu",
                      ["auto", "cpu", "cuda", "mps"])
    dtype: str = key("auto", "dtype of matrix products; auto: bfloat16 if the processor has it",
                     ["auto", "float32", "bfloat16", "float16"])
    compile: bool = key("auto", "torch.compile the models; auto: on a GPU, from 2,000 steps on",
                        ["auto"])
    resume: str = key("auto", "auto: go on with an unfinished run of this name; no: start over",
                      ["auto", "no"])
    max_minutes: float = key(0.0, "minutes after which to save and stop; 0: never", low=0)
    init: str = key("", "run whose weights the model starts from; empty: random")
    # data
    data_dir: str = key("out/data", "parent folder of prepared data", path=True)
    corpus: str = key("babytalk", "training text: babytalk, a known corpus, a path or glob, an "
                      "http(s) address", path=True)
    dev: str = key("", "development text, like corpus; empty: the corpus's own, else the last 2% "
                   "of each file", path=True)
    tokenizer: str = key("", "run or tokenizer.json to take it from; empty: train one", path=True)
    vocab_size: int = key(0, "tokens, at least 259; 0: merge until no pair is left (babytalk)",
                          low=0, high=10**6)
    mark: str = key("half", "lines that <s> opens, besides every document",
                    ["none", "half", "line"])
    sentences: int = key(400_000, "lines of babytalk to generate", low=1, high=10**8)
    max_words: int = key(0, "words of training text, the same share of every file; 0: all", low=0)
    random_offset: bool = key(True, "give each chunk its own offset each epoch")
    order: str = key("", "length: chunks of short lines first, all chunks from half of the run on",
                     ["", "length"])
    # the model
    arch: str = key("llama", "architecture", ["llama", "gpt2"])
    n_layer: int = key(16, "layers", low=1, high=1000)
    n_head: int = key(8, "attention heads per layer", low=1, high=2**12)
    d_model: int = key(512, "width of the residual stream", low=1, high=2**16)
    d_ff: int = key(1024, "width inside the feed-forward block", low=1, high=2**20)
    tie: bool = key(False, "the output head is the embedding matrix (in gpt2 always)")
    dropout: float = key(0.0, "probability of dropping an activation", low=0, high=0.99)
    n_kv_head: int = key(0, "heads of keys and values (llama), divides n_head; 0: n_head", low=0)
    norm_eps: float = key(0.0, "added to the variance in norms; 0: 1e-6 in llama, 1e-5 in gpt2",
                          low=0, high=1)
    rope_theta: float = key(10000.0, "base of the rotary angles (llama)", low=1, high=1e12)
    rope_scaling: list[float] = key([], "Llama 3's scaling of the rotary angles: factor, low and "
                                    "high frequency factor, original length", above=0)
    attn_bias: bool = key(False, "biases in llama's attention (gpt2 always has them)")
    mlp_bias: bool = key(False, "biases in llama's feed-forward block (gpt2 always has them)")
    block_size: int = key(128, "tokens of a training sequence; stages(...) of divisors of the "
                          "longest cut it", low=2, high=2**18, schedule=True)
    # optimisation
    batch_size: int = key(32, "sequences of the longest block per step", low=1)
    grad_accum: int = key(1, "micro-batches of a batch: less memory, the same result", low=1)
    max_steps: int = key(0, "optimiser steps; 0: as many as `epochs` needs", low=0)
    epochs: float = key(6.0, "passes over the corpus", above=0, high=1e6)
    optimizer: str = key("adamw", "muon: on the blocks' matrices, in bfloat16; AdamW on the rest",
                         ["adamw", "muon"])
    lr: float = key(2.5e-4, "peak learning rate, before warmup and cosine to zero", low=0, high=10,
                    schedule=True)
    warmup: int = key(200, "steps of linear warmup; in a run that is shorter, a tenth of it", low=0)
    weight_decay: float = key(0.1, "weight decay, on matrices only", low=0, high=100)
    beta2: float = key(0.999, "AdamW's decay of the mean squared gradient", low=0, high=0.99999)
    grad_clip: float = key(1.0, "largest gradient norm; 0: no clipping", low=0)
    max_skipped: int = key(10, "steps in a row without a finite loss or gradient to bear", low=0)
    # distillation
    teachers: list[str] = key([], "run names of the teachers, or \"truth\" (babytalk's own); "
                              "empty: plain language modelling")
    ensemble: str = key("logits", "several teachers: mean of logits or of probabilities",
                        ["logits", "probs"])
    divergence: str = key("rkl", "D between teacher p and student q: fkl = KL(p||q), rkl = "
                          "KL(q||p), or another of losses.py's, with a parameter as in jsd(0.5)")
    tau: float = key(2.0, "temperature of p and q inside D", above=0, high=1e4, schedule=True)
    alpha: float = key(0.5, "loss = alpha CE + (1 - alpha) tau^2 D", low=0, high=1, schedule=True)
    mix: float = key(1.0, "D's target is mix p + (1 - mix) q, with this q held fixed", low=0,
                     high=1, schedule=True)
    reduction: str = key("token", "mean of D per token; that times block_size (Baby Llama's); or "
                         "weighted means per time step", ["token", "sequence", "step"])
    step_weights: list[float] = key([0.5, 1.5], "reduction = step: weights of the first and last "
                                    "time step, scaled to mean 1", low=0)
    teacher_cache: int = key(0, "store the teachers' k most likely tokens and the remainder, for "
                             "later epochs and runs; D is then a lower bound; 0: none", low=0)
    on_policy: float = key(0.0, "share of batches that train on rollouts: continuations written "
                           "by the student", low=0, high=1, schedule=True)
    rollout_mix: float = key(0.0, "rollouts are drawn from rollout_mix p + (1 - rollout_mix) q",
                             low=0, high=1, schedule=True)
    rollout_every: int = key(1, "write the rollouts of so many steps at once: faster, but biased, "
                             "for the student is an older one (docs/speed.md)", low=1, high=1000)
    prompt_len: int = key(8, "tokens of the corpus that a rollout starts from", low=1)
    rollout_loss: str = key("token", "on rollouts: D at each position; REINFORCE of the sequence's "
                            "reverse KL; or of its long-term part, the single-step part exact",
                            ["token", "reinforce", "single_step"])
    length_norm: bool = key(False, "divide the return-to-go by the number of its terms (biased)")
    baseline: str = key("", "run to show next to teacher and student in the last table")
    # log, validation, checkpoints
    checkpoints: list[float] = key([], "keep the weights at these millions of words; babylm: 1 "
                                   "to 10, then 20 to 100", ["babylm"], above=0)
    log_every: int = key(50, "steps between lines of metrics.jsonl", low=1)
    val_every: int = key(500, "steps between validations", low=1)
    val_tokens: int = key(50_000, "development tokens of a validation; 0: all", low=0)
    eval_tokens: int = key(200_000, "development tokens of each domain, scored after training; 0: "
                           "no evaluation then", low=0)

    file = None  # the path of the config file; no key

    @property
    def folder(self):
        """The run's folder."""
        return pathlib.Path(self.out_dir, self.name)

    @property
    def teacher_runs(self):
        """The names of the teachers that are runs, with a folder and weights."""
        return [name for name in self.teachers if name not in NO_RUNS]

    @property
    def longest(self):
        """The longest block of the run."""
        return int(max(schedule_values(self.block_size)))

    def at(self, progress):
        """Return this config at progress in [0, 1]: schedules are numbers there."""
        now = copy.copy(self)
        for name in SCHEDULED:
            setattr(now, name, value_at(getattr(self, name), progress))
        now.block_size = int(now.block_size)
        now.longest_block = self.longest
        now.progress = progress
        return now

    def word_marks(self):
        """Return {"chck_10M": 10_000_000, ...}: when `checkpoints` keeps the weights, rising."""
        millions = self.checkpoints
        if millions == "babylm":
            millions = [*range(1, 10), *range(10, 101, 10)]
        return {f"chck_{m:g}M": round(m * 1e6) for m in sorted(millions)}

    def loss_keys(self):
        """Return the keyword arguments of losses.distillation_loss; self: from `at`."""
        return dict(divergence=self.divergence, tau=self.tau, alpha=self.alpha, mix=self.mix,
                    ensemble=self.ensemble, reduction=self.reduction,
                    step_weights=self.step_weights, T=self.longest_block)


KEYS = {field.name: field for field in dataclasses.fields(Config)}
SCHEDULED = [name for name, field in KEYS.items() if field.metadata["schedule"]]
TYPES = {str: "a string", int: "a whole number", float: "a number", bool: "True or False",
         list[str]: "a list of strings", list[float]: "a list of numbers"}
ACCEPTED = {str: {str}, int: {int}, float: {float, int}, bool: {bool}}

# A missing teacher, baseline or init has a config, and takes these keys from the student's run. An
# existing one must agree in text, tokenizer, mark and seed.
INHERITED = ("corpus", "dev", "mark", "sentences", "max_words", "seed", "out_dir", "data_dir",
             "tokenizer", "vocab_size", "device", "dtype", "compile", "max_minutes")


# ---------------------------------------------------------------- schedules

@functools.cache
def read_schedule(value):
    """Return ("linear", ((0.0, 1.0), (0.7, 0.0))) of "linear(0: 1, 0.7: 0)", or raise ValueError.

    A number is a flat line.
    """
    if not isinstance(value, str):
        return "linear", ((0.0, float(value)),)
    match = re.fullmatch(r"\s*(linear|stages)\((.*)\)\s*", value)
    if not match:
        raise ValueError("neither linear(...) nor stages(...)")
    points = tuple(tuple(map(float, point.split(":"))) for point in match[2].split(","))
    places = [x for x, _ in points]
    if places != sorted({*places}) or not 0 <= places[0] <= places[-1] <= 1:
        raise ValueError("the points do not rise within [0, 1]")
    return match[1], points


def schedule_values(value):
    """Return the numbers at a schedule's points; of a number itself alone."""
    return [y for _, y in read_schedule(value)[1]]


def value_at(value, progress):
    """Return the value of a schedule or a number at progress in [0, 1]."""
    kind, points = read_schedule(value)
    i = bisect.bisect([x for x, _ in points], progress)  # points[i] is the next one
    x0, y0 = points[max(0, i - 1)]
    if kind == "stages" or i in (0, len(points)):
        return y0
    x1, y1 = points[i]
    return y0 + (y1 - y0) * (progress - x0) / (x1 - x0)


# ---------------------------------------------------------------- checks

def find_key(name):
    """Return the field of a key; UserError for an unknown one."""
    if name not in KEYS:
        raise UserError(f"unknown key {name!r}; {hint(name, KEYS, '--help lists all keys')}")
    return KEYS[name]


def hint(word, names, otherwise, form="{!r}"):
    """Return "did you mean ...?" with the name most like a misspelt word; `otherwise` without."""
    near = difflib.get_close_matches(word, names, 1, 0.5)
    return f"did you mean {form.format(near[0])}?" if near else otherwise


def check(name, value):
    """Return the value in the key's type; UserError names the key, the value and the bounds."""
    field = find_key(name)
    kind, meta = field.type, field.metadata
    allowed = meta["allowed"]
    if value in allowed:
        return value  # it may stand in the place of a list or of True and False
    if kind is str and allowed:
        raise UserError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")
    try:
        parts = parts_of(value, field)
    except ValueError:
        others = [repr(word) for word in allowed]
        if meta["schedule"]:
            others = ["a schedule, such as \"linear(0: 1, 0.7: 0)\" or \"stages(0: 1, 0.5: 2)\", "
                      "with points that rise within [0, 1]"]
        raise UserError(f"{name} = {value!r}: must be {' or '.join([TYPES[kind], *others])}")

    low, high, above = meta["low"], meta["high"], meta["above"]
    if above is not None and not all(above < x <= high for x in parts):
        raise UserError(f"{name} = {value!r}: must be > {above} and <= {high}")
    if low is not None and not all(low <= x <= high for x in parts):
        raise UserError(f"{name} = {value!r}: must be >= {low} and <= {high}")

    if isinstance(value, str):
        return os.path.expanduser(value) if meta["path"] else value
    if isinstance(value, (list, tuple)):
        return [kind.__args__[0](x) for x in value]
    return kind(value)


def parts_of(value, field):
    """Return a list's items, a schedule's numbers, or [value]; ValueError for another type."""
    if field.metadata["schedule"] and isinstance(value, str):
        return schedule_values(value)
    kind, parts = field.type, [value]
    if kind in (list[str], list[float]) and isinstance(value, (list, tuple)):
        kind, parts = kind.__args__[0], value
    if not {*map(type, parts)} <= ACCEPTED.get(kind, set()):
        raise ValueError
    return parts


def check_together(config):
    """Raise UserError for the first of `conflicts` that is true, or for what the loss refuses."""
    for is_wrong, message in conflicts(config):
        if is_wrong:
            raise UserError(message)
    import losses  # here, so that --help and most mistakes do not wait for torch
    divergence = config.divergence.partition("(")[0]
    if divergence not in losses.DIVERGENCES:
        meant = hint(divergence, losses.DIVERGENCES, "losses.py has them")
        raise UserError(f"divergence is {config.divergence!r}; allowed: "
                        f"{', '.join(losses.DIVERGENCES)}; {meant}")
    try:
        for tau in schedule_values(config.tau):
            for mix in schedule_values(config.mix):
                losses.check(config.divergence, tau, 0.0, mix, config.ensemble, config.reduction,
                             config.step_weights)
    except ValueError as e:
        raise UserError(str(e))


def conflicts(c):
    """Yield (is it so?, message) for keys of a Config c that do not go with one another."""
    for name in (c.name, c.init, c.baseline, *c.teachers):
        yield (name and not re.fullmatch(RUN_NAME, name),
               f"run name {name!r}: only letters, digits, '.', '_' and '-' are allowed")
    yield ("truth" in c.teachers and c.corpus != "babytalk",
           "teachers: \"truth\" is known for corpus = babytalk only; name a run instead")

    # sizes
    yield (0 < c.vocab_size < 259,
           f"vocab_size = {c.vocab_size}: the 256 bytes and 3 special tokens are always in it; "
           "choose 0 or at least 259")
    yield (c.batch_size % c.grad_accum,
           f"batch_size {c.batch_size} is not a multiple of grad_accum {c.grad_accum}")
    head_dim, rest = divmod(c.d_model, c.n_head)
    yield (rest or c.arch == "llama" and head_dim % 2,
           f"d_model {c.d_model} does not split into n_head = {c.n_head} heads of an even size")
    yield (c.n_head % (c.n_kv_head or c.n_head),
           f"n_kv_head = {c.n_kv_head}: must divide n_head = {c.n_head}")
    for name in ("n_kv_head", "rope_theta", "rope_scaling", "attn_bias", "mlp_bias"):
        yield (c.arch == "gpt2" and getattr(c, name) != getattr(Config(), name),
               f"{name} is about arch = llama; gpt2 has no such variant")
    scaling = c.rope_scaling
    yield (scaling and (len(scaling) != 4 or scaling[1] >= scaling[2]),
           f"rope_scaling = {scaling}: must be four numbers, the second below the third: "
           "[8, 1, 4, 8192]")
    blocks = schedule_values(c.block_size)
    yield (isinstance(c.block_size, str) and read_schedule(c.block_size)[0] != "stages"
           or any(b % 1 or c.longest % b for b in blocks),
           f"block_size = {c.block_size!r}: a schedule of it is stages(...) of whole numbers, "
           "divisors of the longest")

    if c.teacher_cache:
        yield (not c.teachers or c.teacher_runs != c.teachers,
               "teacher_cache stores the outputs of teachers that are runs; name one in teachers, "
               "or set teacher_cache = 0")
        yield (c.random_offset, "teacher_cache needs the same chunks in every epoch; set "
                                "random_offset = False")
        for name in ("tau", "block_size"):
            yield (len({*schedule_values(getattr(c, name))}) > 1,
                   f"teacher_cache stores outputs of one {name}, and it is a schedule, "
                   f"{getattr(c, name)!r}; give a number, or set teacher_cache = 0")

    yield from rollout_conflicts(c, blocks)


def rollout_conflicts(c, blocks):
    """Yield `conflicts` of the keys about rollouts; blocks: the values of block_size."""
    if not max(schedule_values(c.on_policy)):
        for name in ("rollout_mix", "rollout_every", "prompt_len", "rollout_loss", "length_norm"):
            yield (getattr(c, name) != getattr(Config(), name),
                   f"{name} is about rollouts, and there are none; set on_policy, the share of "
                   "batches with them")
        return
    yield not c.teachers, "on_policy needs teachers: rollouts are trained towards one"
    yield (not c.init and value_at(c.on_policy, 0.0) > 0,
           "on_policy: rollouts of random weights are noise; start from a trained student with "
           "init = RUN, or later: on_policy = \"stages(0: 0, 0.5: 0.5)\"")
    yield (c.rollout_loss != "token" and c.divergence != "rkl",
           f"rollout_loss = {c.rollout_loss!r} is the gradient of reverse KL; with {c.divergence} "
           "only token")
    yield (c.rollout_every > 1 and len({*blocks}) > 1,
           f"rollout_every = {c.rollout_every}: rollouts written together are of one length, and "
           f"block_size = {c.block_size!r} has stages; set rollout_every = 1")
    yield (c.prompt_len >= min(blocks),
           f"prompt_len = {c.prompt_len}: must be shorter than the shortest block, "
           f"{min(blocks):.0f}")


# ---------------------------------------------------------------- config files

def read_text(path):
    """Read a UTF-8 file on any system, without a byte order mark."""
    return pathlib.Path(path).read_text(encoding="utf-8-sig")


def read_assignments(path):
    """Read the assignments {name: value} of a config file, or a run's config.json, unchecked."""
    path = pathlib.Path(path).expanduser()
    try:
        text = read_text(path)
        return from_json(path, text) if path.suffix == ".json" else from_python(path, text)
    except OSError as e:
        names = [file.stem for file in CONFIGS.glob("*.py")]
        meant = hint(path.stem, names, "configs/ has examples", "configs/{}.py")
        raise UserError(f"config {path}: {e.strerror}; {meant}")
    except UnicodeDecodeError:
        raise UserError(f"config {path}: is not UTF-8 text")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        line = getattr(e, "lineno", None)
        where = f", line {line}" if line else ""
        raise UserError(f"{path}{where}: cannot be read as a config ({type(e).__name__})")


def from_json(path, text):
    values = json.loads(text)
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a run's config.json (no JSON object)")
    return {name: value for name, value in values.items() if not name.startswith("_")}  # notes do


def from_python(path, text):
    values = {}
    for node in ast.parse(text).body:
        match node:
            case ast.Assign(targets=[ast.Name(name)]):
                try:
                    values[name] = ast.literal_eval(node.value)
                except (ValueError, TypeError):
                    raise UserError(f"{path}, line {node.lineno}: {name} must be a literal "
                                    "(number, string, list)")
            case ast.Expr(ast.Constant()):
                pass  # a docstring
            case _:
                raise UserError(f"{path}, line {node.lineno}: a config holds only assignments such "
                                "as lr = 1e-3")
    return values


def read_keys(path, builds_on_it=()):
    """Return the checked {key: value} of a config file, on top of those of its base.

    builds_on_it: the files of which this one is the base, the base's base and so on. Raises
    UserError for a loop, or a base that is not there.
    """
    values = read_assignments(path)
    inherited = {}
    if "base" in values:
        name = values.pop("base")
        base = isinstance(name, str) and re.fullmatch(RUN_NAME, name) and find_config(name, path)
        if not base:
            raise UserError(f"{path}: base = {name!r}: must be the name of a config, without "
                            f"folder and .py, in the folder of this one or in {CONFIGS}")
        chain = [*builds_on_it, path]
        if any(base.samefile(file) for file in chain):
            stems = [file.stem for file in (*chain, base)]
            raise UserError(f"{path}: base: {' builds on '.join(stems)}, a loop")
        inherited = read_keys(base, chain)
        inherited.pop("name", None)  # a run's name is its own
    return inherited | check_all(values, path)


def check_all(values, source):
    """Return {key: value} with each value in the key's type; UserError names the source."""
    try:
        return {name: check(name, value) for name, value in values.items()}
    except UserError as e:
        raise UserError(f"{source}: {e}")


def find_config(name, file):
    """Return the path of NAME.py, in the folder of `file` or in configs/; None if there is none."""
    places = [file.with_name(f"{name}.py"), CONFIGS / f"{name}.py"]
    return next((place for place in places if place.exists()), None)


def read_config(path, overrides=()):
    """Return the Config of a file with overrides [(key, value)]; UserError names the file."""
    config = Config()
    config.file = pathlib.Path(path).expanduser()
    vars(config).update(read_keys(config.file))
    vars(config).update(check_all(dict(overrides), "command line"))
    config.name = config.name or config.file.stem
    check_together(config)
    return config


def related_config(config, name):
    """Return the Config that trains the missing run `name` for config's, with the INHERITED keys.

    It has resume = auto, whatever the file says: with `no` each call would begin it at step 0.
    """
    path = find_config(name, config.file)
    if not path:
        raise UserError(f"run {name!r} in {config.out_dir} is missing or not finished, nor has it "
                        f"a config {config.file.with_name(f'{name}.py')}; train it first, with the "
                        "command that began it if it was begun")
    inherited = [(key, getattr(config, key)) for key in INHERITED]
    return read_config(path, [("name", name), ("resume", "auto"), *inherited])


# ---------------------------------------------------------------- the command line

def parse_args(argv, usage=""):
    """Return the Config of CONFIG [--key=value ...].

    --help prints `usage` and all keys, --show the keys as the run would have them.
    """
    if any(arg in ("-h", "--help") for arg in argv):
        print(help_text(usage))
        raise SystemExit(0)
    overrides = [parse_override(arg) for arg in argv
                 if arg.startswith("--") and arg != "--show"]
    paths = [arg for arg in argv if not arg.startswith("--")]
    if len(paths) != 1:
        raise UserError(f"expected one CONFIG, got {len(paths)}: {' '.join(paths) or 'none'}; "
                        "--help shows how")
    config = read_config(paths[0], overrides)
    if "--show" in argv:
        print(as_assignments(config))
        raise SystemExit(0)
    return config


def run_folder(text):
    """Return the path of a run's folder as it was typed; for "." and ".." the absolute one."""
    path = pathlib.Path(text)
    return path if path.name not in ("", "..") else path.resolve()


class Arguments(argparse.ArgumentParser):
    """The command line of eval.py and the tools, with `usage` as help; a mistake is a UserError."""

    def __init__(self, command, usage, **more):
        super().__init__(prog=f"python {command}", description=usage, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter, **more)

    def parse_known_args(self, args, namespace=None):
        """Parse, with `~` at the start of a value as the home folder: a shell leaves --data=~/x."""
        home = os.path.expanduser("~")
        args = [re.sub(r"^(--\w+=)?~(?=/|$)", lambda match: (match[1] or "") + home, arg)
                for arg in args]
        return super().parse_known_args(args, namespace)

    def error(self, message):
        raise UserError(f"{message}; --help shows how")


def parse_override(arg):
    """Return ("lr", 1e-3) of "--lr=1e-3". A list may lack brackets: a,b; one alone; empty."""
    name, equals, text = arg[2:].partition("=")
    kind = find_key(name).type
    if not equals:
        raise UserError(f"command line: {arg} has no value; write --{name}=VALUE")
    literal = text
    if kind in (list[str], list[float]) and not text.startswith(("[", "(")):
        if kind == list[str]:
            return name, [word for word in text.split(",") if word]
        literal = f"[{text}]"
    if kind is not str:
        # a schedule is no literal: it stays text
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return name, ast.literal_eval(literal)
    return name, text


def command_line(keys):
    """Return {key: value} as "--lr=0.001 --teachers=a,b", quoted for a shell."""
    words = []
    for name, value in keys.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words.append(f"--{name}={shlex.quote(text)}")
    return " ".join(words)


def as_assignments(config):
    """Return the text of a config file with every key of `config`."""
    lines = []
    for name, field in KEYS.items():
        value = getattr(config, name)
        default = field.default_factory()
        note = f"  # default: {default!r}" if value != default else ""
        lines.append(f"{name} = {value!r}{note}")
    return "\n".join(lines)


AFTER_THE_KEYS = """

--show prints the keys of CONFIG as a run would have them, and ends.
A config's first line may be base = "NAME": it starts from configs/NAME.py.
Schedules over the run's progress: "linear(0: 1, 0.7: 0)", "stages(0: 1, 0.5: 2)".
A whole progressive config is configs/rkl_full_10m.py:

"""


def help_text(usage):
    lines = [usage.strip(), "", "Keys (in a config: key = value; on the command line: --key=value; "
             "* may be a schedule):"]
    for field in KEYS.values():
        meta = field.metadata
        left = f"  {field.name}{'*' * meta['schedule']} = {field.default_factory()!r}"
        allowed = " | ".join(word or repr(word) for word in meta["allowed"])
        words = f"{meta['help']} ({allowed})" if allowed else meta["help"]
        lines += textwrap.wrap(words, 99, initial_indent=left.ljust(26) + " ",
                               subsequent_indent=" " * 27)
    example = read_text(CONFIGS / "rkl_full_10m.py").split("\n\n", 1)[1]
    return "\n".join(lines) + AFTER_THE_KEYS + textwrap.indent(example, "  ")


SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def interrupt(number, frame):
    """Raise KeyboardInterrupt: `with` blocks clean up, and run_main prints the message."""
    raise KeyboardInterrupt(number, f"interrupted by {signal.Signals(number).name}")


def on_signals(act=interrupt):
    """Let Ctrl-C, SIGTERM and SIGHUP call act(number, frame), unless they are ignored so far."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows it to the main thread alone
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, act)


def run_main(main):
    """Call main(argv); a UserError is one line on stderr and exit code 2, a signal 128 + number.

    Like stderr, stdout is written line by line, and escapes characters that its encoding lacks.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    if WORLD == 1:  # the system's default ends a waiting rank at once
        on_signals()
    try:
        try:
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()
        return
    except BrokenPipeError:  # the reader, head for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE)
    except KeyboardInterrupt as e:
        number, line = e.args or (signal.SIGINT, "interrupted")
        code = 128 + number
    except UserError as e:
        code, line = 2, f"error: {e}"
    except OSError as e:  # a folder that is a file, a full disk, no permission
        if e.filename is None:
            raise
        code, line = 2, f"error: {e.filename}: {e.strerror}"
    if RANK == 0:  # the other ranks would say the same
        print(line, file=sys.stderr)
    raise SystemExit(code)
