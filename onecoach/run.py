"""A run's state: folder, lock, device, clock, log and checkpoints.

    out/NAME/config.json      every key, resolved, with versions and commit
             ckpt.pt          the last state, to resume from; ckpt.prev.pt: the one before
             best.pt          the weights with the lowest val_ce
             chck_10M.pt      the weights after 10 million words (key checkpoints)
             metrics.jsonl    a line per log step
             tokenizer.json   Hugging Face tokenizers' form
             eval.json, samples.txt    results of eval.py
             .lock            locked by the process that trains it

No file is ever half written (files.py). The loop in distill.py uses `Run`; `load` reads a run.
"""
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

from bpe import Tokenizer
from model import LM, ModelConfig
from onecoach import __version__, files
from onecoach.config import KEYS, Config, Stopped, UserError, on_signals, read_config
from onecoach.imported import load_tokenizer
from onecoach.ranks import LAUNCH, RANK, RESTARTS, WORLD, all_reduce, gather, in_turn, join_ranks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Keys that may differ when a run goes on: they name places and limits, and change no weight.
FREE_ON_RESUME = ("out_dir", "name", "data_dir", "resume", "max_minutes", "baseline", "device",
                  "corpus", "dev", "tokenizer", "compile", "grad_accum", "log_every",
                  "max_skipped", "eval_tokens", "checkpoints")

# Results of the weights, next to eval.json.
RESULTS = ("samples.txt", "modes.json", "report.md", "report*.html")

# Dense bf16 operations per second, by data sheet, of the first name that is in the card's name.
PEAK = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12,
        "L40S": 362e12, "RTX 4090": 165e12}


# ---------------------------------------------------------------- device and dtype

def choose_device(config):
    """Return the torch.device of the key `device`; UserError if this machine has none."""
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
                "cpu": True}
    name = config.device
    if name == "auto":
        name = next(filter(is_there.get, is_there))
    if not is_there[name]:
        raise UserError(f"device = {name!r} is not on this machine; use --device=auto")
    if name == "cuda" and WORLD > 1:
        return torch.device(name, int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(name)


def has_bf16(device):
    """Does the processor multiply in bfloat16? If not, bfloat16 is far slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def choose_dtype(config, device):
    """Return the name of the dtype of matrix products."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if has_bf16(device) else "float32"


def autocast(dtype, device):
    """Return a context in which matrix products run in `dtype` (a name) on `device`."""
    return torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")


def gpu_usage(device, flops_per_second):
    """Return peak memory in GB and MFU, the share of the card's peak rate; {} without a GPU."""
    if device.type != "cuda":
        return {}
    usage = {"peak_gb": torch.cuda.max_memory_allocated(device) / 1e9}
    name = torch.cuda.get_device_name(device)
    peak = next((rate for card, rate in PEAK.items() if card in name), None)
    if peak:
        usage["mfu"] = flops_per_second / peak
    return usage


# ---------------------------------------------------------------- one process a folder

in_training = []  # the folders of the runs that this process trains, each needed by the one before


def alone(train):
    """Decorate train(config) to run alone in the run's folder, and to end in one line."""
    @functools.wraps(train)
    def guarded(config):
        folder = config.folder
        if not in_training:
            Run.minutes_spent = 0.0  # a command begins
        with locked(folder):
            in_training.append(folder)
            try:
                return train(config)
            except Stopped as e:
                if in_training[0] != folder:  # the runs that need this one stop, too
                    raise
                print(e)
            except RuntimeError as e:
                # torch has no class for a CPU's
                if isinstance(e, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(e):
                    raise UserError(out_of_memory(config))
                if WORLD > 1 and "onnection" in str(e):
                    raise UserError(f"{config.name}: another rank is gone; {same_command(config)} "
                                    "goes on from the last checkpoint")
                raise
            finally:
                on_signals()
                in_training.remove(folder)
    return guarded


@contextlib.contextmanager
def locked(folder):
    """Hold the lock folder/.lock, a file with the process's number; the first rank does for all.

    A folder that is made here and stays empty is removed: the run was refused.
    """
    if RANK:
        yield
        return
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(path, wait=False))
        except BlockingIOError:
            raise UserError(f"{folder} is being trained by process {path.read_text()}; wait for "
                            "it, or choose another --name")
        path.write_text(str(os.getpid()))
        try:
            yield
        finally:
            path.write_text("")
            if made and [*folder.iterdir()] == [path]:
                path.unlink()
                with contextlib.suppress(OSError):  # a teacher may be in the parent
                    for parent in made:
                        parent.rmdir()


def out_of_memory(config):
    B, n = config.batch_size, config.grad_accum
    more = [f"--grad_accum={m}" for m in range(n + 1, B + 1) if B % (WORLD * m) == 0]
    remedies = [*more[:1], "a smaller block_size or model"]
    return (f"{config.name}: out of memory with batch_size {B} in grad_accum {n} pieces; try "
            f"{' or '.join(remedies)}")


def catch_signals():
    """Return a list into which the next signal puts 1 + number; one more signal acts at once."""
    caught = []

    def note(number, frame):
        on_signals()
        caught.append(1 + number)
        # print must not be called in here
        os.write(2, b"\nfinishing this step, then saving; once more stops at once\n")
    on_signals(note)
    return caught


# ---------------------------------------------------------------- the run state

class Run:
    """A run that is being trained. It computes no loss, and never sees a teacher or a batch."""

    minutes_spent = 0.0  # by this command in the loops of the runs before, the teachers'

    def __init__(self, config):
        self.config = config
        self.folder = config.folder
        self.device = choose_device(config)
        join_ranks(config, self.device)
        self.state = in_turn(lambda: state_to_go_on_from(config, self.folder))
        self.notes = files.read_json(self.folder / "config.json") if self.state else {}
        self.steps = self.state["steps"] if self.state else 0
        self.compiled = False  # whether the models are
        # a resumed run keeps the dtype that it was begun with, on whatever machine
        self.dtype = self.notes["_dtype"] if self.state else choose_dtype(config, self.device)
        if self.device.type == "cuda" and self.dtype != "float32":
            torch.set_float32_matmul_precision("high")  # TF32 for products that stay in fp32

    @property
    def is_finished(self):
        return bool(self.state) and is_finished(self.folder)

    def check_data(self, data):
        """Raise UserError if the run was begun on another text, or with another tokenizer."""
        if self.notes.get("_text", data.train.corpus) != data.train.corpus:
            raise UserError(f"{self.folder} was begun on another text than corpus = "
                            f"{self.config.corpus!r} is now; --resume=no starts over")
        if self.notes.get("_tokenizer", data.tokenizer.hash) != data.tokenizer.hash:
            raise UserError(f"{self.folder} was begun with another tokenizer than now; "
                            f"--tokenizer={self.folder} has its own, --resume=no starts over")

    def begin(self, student, optimizer, data, steps, words_read, flops_per_token, loss_path):
        """Begin a run of `steps` steps, or restore all of it from the last checkpoint.

        words_read: data.Batches.words_read. Raises UserError if a teacher has changed, or if the
        checkpoint does not fit.
        """
        for name in changed_needs(self.folder) if self.state else ():
            path = self.folder.with_name(name) / "best.pt"
            raise UserError(f"{self.folder} was begun with another {path} than there is now; put "
                            "that back, or start over with --resume=no")
        self.tokenizer = data.tokenizer
        self.student = student
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == "float16")
        self.steps = steps
        self.step = 0
        self.minutes = 0.0  # of earlier calls
        self.kept = {}  # tensors that the loop needs in later steps
        self.meter = Meter(self.device)
        if self.state:
            put_state(self.state, student, optimizer, self.scaler, self.meter,
                      self.folder / "ckpt.pt")
            self.step = self.state["step"]
            self.minutes = self.state["minutes"]
            self.kept = self.state.get("kept", {})
            self.state = None
        elif RANK == 0:
            remove(self.folder, "best.pt", "ckpt.pt", "ckpt.prev.pt", "chck_*.pt", "metrics.jsonl",
                   "eval.json", *RESULTS)  # of an earlier run
        files.write_text(self.folder / "tokenizer.json", data.tokenizer.to_json())
        write_config(self.config, self.dtype, data.tokenizer, data.train.corpus, loss_path,
                     digest_needs(self.config), data.train.words)

        self.metrics = Metrics(self.folder / "metrics.jsonl", self.step)
        self.best = self.best_so_far()
        self.tokens_per_step = self.config.batch_size * self.config.longest
        self.flops_per_token = flops_per_token
        self.words_read = words_read
        self.marks = {name: words for name, words in self.config.word_marks().items()
                      if words > self.words}  # passed ones are there already
        # delay: it is drawn from the first step on, below all that is printed before
        self.bar = tqdm(total=steps, initial=self.step, unit="step", leave=False, delay=1e-9,
                        disable=not sys.stderr.isatty() or RANK > 0)
        self.caught = catch_signals()  # signals wait for the end of the step
        self.max_minutes = self.config.max_minutes or math.inf
        # 1: max_minutes is over, here if the teachers took it all; more: 1 + a signal's number
        self.stop = int(Run.minutes_spent >= self.max_minutes)
        self.first_step = self.step + 1  # of this call: it compiles what is compiled
        self.begun = self.saved = time.monotonic()
        self.save_seconds = 0.0  # that the last save took

    def best_so_far(self):
        """Return the lowest val_ce so far, from best.pt or, if that is of a later step, the log."""
        best = {}
        path = self.folder / "best.pt"
        if path.exists():  # or it was taken away: the next one is the best there is
            best = files.load_checkpoint(path)
            if best.get("step", 0) > self.step or type(best.get("val_ce")) is not float:
                best = files.best_line(files.read_metrics(self.folder / "metrics.jsonl")) or {}
        return best.get("val_ce", math.inf)

    def autocast(self):
        return autocast(self.dtype, self.device)

    def goes_on(self):
        """Is there a step to do, before the last one, max_minutes and a signal?"""
        self.meter.start_step()
        return self.step < self.steps and not self.stop

    @property
    def progress(self):
        return self.step / self.steps

    @property
    def words(self):
        """The words that this run has read, over all epochs."""
        return round(self.words_read(self.step))

    @property
    def should_log(self):
        """Does the current step get a line in the log?"""
        return (self.step + 1) % self.config.log_every == 0 or self.step + 1 == self.steps

    def stepped(self, lr, norm, skipped, sums):
        """Count the step that ended. If a log line is due, write and return it, else return {}.

        sums: the loss and the figures of the step, tensors; norm: the gradient's, before clipping;
        skipped: whether the optimizer left the step out, because loss or norm were not finite.
        """
        is_due = self.should_log
        self.step += 1
        loss = sums.pop("loss")
        clipped = norm > (self.config.grad_clip or math.inf)
        self.meter.add(loss, norm, clipped, skipped, sums)
        self.bar.update()
        if self.compiled and self.step == self.first_step:
            self.say(f"compiling and a step took {time.monotonic() - self.meter.clock:.0f} s")
        self.keep_by_words()
        line = self.log(lr) if is_due else {}

        over = Run.minutes_spent + self.minutes_now() >= self.max_minutes
        self.stop = self.caught[0] if self.caught else int(over)
        if WORLD > 1:  # all stop together; asking waits for the device, so it is done now and then
            self.stop = self.largest(self.stop) if self.step % 10 == 0 else 0
        return line

    def largest(self, number):
        """Return the largest of all ranks' numbers."""
        return int(all_reduce(torch.tensor(number, device=self.device), "MAX"))

    def log(self, lr):
        """Write the line of the steps since the last one; UserError if too many were skipped."""
        figures, skipped, (n, last), steps_per_s = self.meter.read(self.step)
        tokens_per_s = steps_per_s * self.tokens_per_step
        line = dict(step=self.step, tokens=self.step * self.tokens_per_step, words=self.words,
                    **figures, lr=lr, tokens_per_s=tokens_per_s)
        line |= gpu_usage(self.device, tokens_per_s * self.flops_per_token / WORLD)
        if skipped:
            line["skipped"] = skipped
            self.say(f"{skipped} steps since the last line skipped, loss or gradient was not "
                     "finite")
        if n > self.config.max_skipped:
            path = self.folder / "ckpt.pt"
            good = f"last good checkpoint {path}" if path.exists() else "no checkpoint yet"
            raise UserError(f"{self.config.name}: loss or gradient not finite {n} steps in a row "
                            f"up to step {last} (from batch {last - n}); {good}; try a lower lr, "
                            "or dtype = float32")
        try:
            self.metrics.write(**line)
        except UserError:  # a full disk: the checkpoint before the last one makes room
            if WORLD == 1:  # saving needs all ranks, and the others have no error
                (self.folder / "ckpt.prev.pt").unlink(missing_ok=True)
                self.save()
            raise
        self.bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
        if not sys.stderr.isatty():
            minutes = (self.steps - self.step) / steps_per_s / 60
            print(f"  step {self.step}/{self.steps} loss {line['loss']:.4f} ce {line['ce']:.4f} "
                  f"{tokens_per_s:.0f} tokens/s, {minutes:.1f} minutes left", flush=True)
        return line

    def say(self, *sentences):
        write = tqdm.write if sys.stderr.isatty() else print
        for sentence in sentences:
            write(f"  step {self.step}: {sentence}")

    @property
    def should_validate(self):
        """Is it time to validate? Not again, if the last call did so at this step."""
        due = self.step % self.config.val_every == 0 or self.step == self.steps
        return due and self.metrics.validated != self.step

    def save_weights(self, name, **notes):
        files.save_checkpoint(self.folder / f"{name}.pt", {
            "model": self.student.state_dict(), "step": self.step, **notes})

    def validated(self, figures):
        """Write a validation's figures; keep the weights if their val_ce is the lowest so far."""
        if figures["val_ce"] < self.best and self.step:  # at step 0 they are init's
            self.best = figures["val_ce"]
            self.save_weights("best", val_ce=self.best)
        # last: with this line, a run that goes on does not validate again
        self.metrics.write(step=self.step, tokens=self.step * self.tokens_per_step, **figures)
        self.say(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))

    @property
    def should_save(self):
        """Is it time to save? Each tenth, before validations and every 15 minutes.

        A save that takes seconds waits until it is 2% of the time since the last one.
        """
        if self.stop or self.step == self.steps:
            return True
        is_due = self.should_validate or self.step % max(1, self.steps // 10) == 0
        if WORLD > 1:  # the ranks save together, and their clocks differ
            return is_due
        since = time.monotonic() - self.saved
        is_cheap = self.save_seconds < max(2, 0.02 * since)
        return is_cheap and (is_due or since > 15 * 60)

    def save(self):
        started = time.monotonic()
        self.save_weights("ckpt", optimizer=self.optimizer.state_dict(),
                          scaler=self.scaler.state_dict(), random=random_states(self.device),
                          steps=self.steps, meter=dict(vars(self.meter)), kept=self.kept,
                          minutes=self.minutes + self.minutes_now())
        self.saved = time.monotonic()
        self.save_seconds = self.saved - started
        if self.save_seconds >= 2:
            self.say(f"checkpoint written in {self.save_seconds:.1f} s")

    def keep_by_words(self):
        """Write the weights, chck_10M.pt, of each mark of `checkpoints` that the step has passed.

        The last step also passes a mark up to 2% beyond it: cleaning and the end of each epoch take
        words out, so ten epochs of 10 million read a little less than 100 million.
        """
        reach = self.words * 1.02 if self.step == self.steps else self.words
        for name in [name for name, words in self.marks.items() if words <= reach]:
            del self.marks[name]
            self.save_weights(name, words=self.words)

    def minutes_now(self):
        """Return the minutes in this call's loop, without teachers and data before it."""
        return (time.monotonic() - self.begun) / 60

    def end(self):
        """End the run; raise Stopped if max_minutes is over, KeyboardInterrupt after a signal."""
        self.bar.close()
        on_signals()
        Run.minutes_spent += self.minutes_now()
        if self.step == self.steps:  # a signal may have come since: in the last validation
            self.stop = self.largest(self.caught[0] if self.caught else self.stop)
        name = self.config.name
        ended = (f"at step {self.step} of {self.steps}; {same_command(self.config)} goes on from "
                 "here")
        if self.stop > 1:
            raise KeyboardInterrupt(self.stop - 1, f"{name}: interrupted {ended}")
        if self.step < self.steps:
            raise Stopped(f"{name}: max_minutes is over {ended}")
        if RANK == 0:
            forget_results(self.folder)
        print(f"{name}: {self.steps} steps in {self.minutes + self.minutes_now():.1f} minutes; all "
              f"of it is in {self.folder}")


def remove(folder, *patterns):
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def forget_results(folder):
    """Remove the results of an earlier best.pt or ckpt.pt, if somebody asked before the end."""
    remove(folder, *RESULTS)
    results = files.read_json_or_empty(folder / "eval.json")
    if results:
        # weights of checkpoints by words never change
        files.write_json(folder / "eval.json", {slot: result for slot, result in results.items()
                                                if "--which=chck_" in slot})


def same_command(config):
    """Name the command that goes on: with resume = no the same one would start at step 0."""
    return "the same command with --resume=auto" if config.resume == "no" else "the same command"


def state_to_go_on_from(config, folder):
    """Return the last checkpoint, None for a new run; UserError if it is of another config."""
    path = folder / "config.json"
    # torchrun begins its command again, which has begun the run
    is_restart = RESTARTS and files.read_json_or_empty(path).get("_launch") == LAUNCH
    if config.resume == "no" and not is_restart:
        return None
    state, path = files.last_checkpoint(folder)
    if not state and (folder / "best.pt").exists():
        raise UserError(f"{folder} holds a run's weights, best.pt, and no checkpoint to go on "
                        "from; choose another --name, or start over with --resume=no")
    if not state:
        return None
    # a key that is newer than the run had its default
    stored = vars(Config()) | files.read_json(folder / "config.json")
    differ = [f"{name} = {stored[name]!r} there, {getattr(config, name)!r} here" for name in KEYS
              if name not in FREE_ON_RESUME and stored[name] != getattr(config, name)]
    if differ:
        raise UserError(f"{folder} holds a run with other settings: {'; '.join(differ)}; choose "
                        "another --name, or --resume=no")
    is_whole = ({"optimizer", "random", "step", "steps", "minutes"} <= state.keys()
                and 0 < state["step"] <= state["steps"] and type(state["minutes"]) is float)
    if not is_whole or stored.get("_dtype") not in [*DTYPES]:
        raise UserError(f"{path} or {folder / 'config.json'} is not whole; start over with "
                        "--resume=no")
    path.replace(folder / "ckpt.pt")  # a damaged one must not take the place of the previous
    return state


def put_state(state, student, optimizer, scaler, meter, path):
    """Restore everything from a checkpoint's state; UserError names `path` if it does not fit."""
    check_fit(student, state["model"], path)
    student.load_state_dict(state["model"])
    own = optimizer.state_dict()  # with the learning rate and so on of this config
    params = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    try:
        for i, (p, group) in enumerate(params):
            shapes = {"step": (), "exp_avg": p.shape, "exp_avg_sq": p.shape}
            if "betas" not in group:  # Muon's
                shapes = {"momentum_buffer": p.shape}
            own["state"][i] = state["optimizer"]["state"][i]
            if {name: value.shape for name, value in own["state"][i].items()} != shapes:
                raise ValueError
        optimizer.load_state_dict(own)
        if scaler.is_enabled():
            scaler.load_state_dict(state["scaler"])
            scaler.get_scale() + 0.0  # TypeError if it is no number
        set_random_state(state["random"])
        if "rows" in state.get("meter", {}):
            meter.load(state["meter"])
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as e:
        raise UserError(f"{path}: optimizer or random state is damaged ({type(e).__name__}); "
                        "start over with --resume=no")


def random_states(device):
    """Return [the states of a rank's random numbers] of all ranks."""
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state()
    return gather(own)


def set_random_state(states):
    state = states[RANK % len(states)]
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def check_fit(lm, weights, path, model="the model of its config (another arch or size?)"):
    """Raise UserError with the first tensor of a state dict from `path` that lm does not take."""
    own = lm.state_dict()
    for name in {**own, **weights}:
        a, b = own.get(name), weights.get(name)
        if a is None or not files.is_weight(b) or a.shape != b.shape:
            raise UserError(f"{path}: {name} does not fit {model}")


def digest_needs(config, folder=None):
    """Return {teacher or init: digest of best.pt}; `folder`: of config's run, if moved."""
    folder = folder or config.folder
    digests = {}
    for name in sorted({*config.teacher_runs, config.init} - {""}):
        path = folder.with_name(name) / "best.pt"
        if path.exists():
            with open(path, "rb") as f:
                digests[name] = hashlib.file_digest(f, "sha256").hexdigest()[:16]
    return digests


def changed_needs(folder):
    """Return the names of teachers and init that were trained again after the run in `folder`."""
    path = folder / "config.json"
    noted = files.read_json(path).get("_needs") or {}  # some runs came without these notes
    digests = digest_needs(read_config(path), folder)
    return [name for name, digest in digests.items() if noted.get(name, digest) != digest]


def git_commit(root=pathlib.Path(__file__).parents[1]):
    """Return the commit of the code in root, with -dirty if it was edited; None without git."""
    # --git-dir: a repository that root was unpacked into is not asked
    git = ["git", "-C", root, "--git-dir=.git", "describe", "--always", "--dirty", "--abbrev=40",
           "--exclude=*"]
    with contextlib.suppress(OSError):
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None


def write_config(config, dtype, tokenizer, text="", loss_path="eager", needs=None, words=0):
    """Write config.json: the keys and, as notes (names with _), how this machine resolved them."""
    versions = {"onecoach": __version__, "python": platform.python_version(),
                "torch": torch.__version__, "numpy": np.__version__}
    files.write_json(config.folder / "config.json", {
        **dataclasses.asdict(config), "_dtype": dtype, "_text": text, "_tokenizer": tokenizer.hash,
        "_vocab_size": tokenizer.vocab_size, "_commit": git_commit(), "_versions": versions,
        "_loss": loss_path, "_threads": torch.get_num_threads(), "_needs": needs or {},
        "_words": words, "_launch": LAUNCH})


# ---------------------------------------------------------------- reading a run

def make_model(config, vocab_size):
    """Make the LM that a config describes, with random weights."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(ModelConfig)}
    fields["vocab_size"] = vocab_size
    fields["block_size"] = config.longest
    return LM(ModelConfig(**fields))


def shape_keys(config):
    """Return the keys that shape the weights: one model's fit another if these are equal."""
    names = ["arch", "n_layer", "n_head", "d_model", "d_ff"]
    if config.arch == "gpt2":  # each position has a weight
        more = {"block_size": config.longest}
    else:
        names += ["tie", "attn_bias", "mlp_bias"]
        more = {"n_kv_head": config.n_kv_head % config.n_head}  # n_head of them are 0, too
    return {name: getattr(config, name) for name in names} | more


def load(path, device="cpu", which="best") -> tuple[LM, Tokenizer, Config]:
    """Return (LM in eval mode on `device`, Tokenizer, Config) of the run folder `path`.

    which: best, last, or a checkpoint by words, chck_10M. Raises UserError.
    """
    folder = pathlib.Path(path)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a run (it has no config.json); train it with distill.py "
                        "or teacher.py")
    config = read_config(folder / "config.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    file = folder / f"{which}.pt"
    if which == "last":
        state, file = files.last_checkpoint(folder)
    else:
        state = files.load_checkpoint(file) if file.exists() else None
    if not state:
        raise UserError(missing_weights(folder, which))

    with torch.device("meta"):  # takes no memory: a stranger's config may name a large model
        check_fit(make_model(config, tokenizer.vocab_size), state["model"], file)
    lm = make_model(config, tokenizer.vocab_size)
    lm.load_state_dict(state["model"])
    return lm.to(device).eval(), tokenizer, config


def missing_weights(folder, which):
    """Return the message for a run that lacks the weights `which`."""
    names = {"best.pt": "best", "ckpt.pt": "last"}
    kept = [names[name] for name in names if (folder / name).exists()]
    kept += word_checkpoints(folder)
    remedy = f"use --which={' or --which='.join(kept)}" if kept else "train it first"
    return f"{folder} has no weights {which!r}; {remedy}"


def word_checkpoints(folder):
    """Return the checkpoints by words in a folder in their order: ["chck_1M", "chck_2M", ...]."""
    names = [path.stem for path in pathlib.Path(folder).glob("chck_*M.pt")]
    return sorted(names, key=lambda name: float(name[len("chck_"):-1]))


def text_digest(folder):
    """Return the digest of the text that a run was trained on; "" if it is not known."""
    return files.read_json_or_empty(pathlib.Path(folder, "config.json")).get("_text") or ""


def other_text(folder, other):
    """Were two runs trained on different text? No if one is not known (it was imported)."""
    return len({text_digest(folder), text_digest(other)} - {""}) == 2


def is_finished(folder):
    """Can others build on the run in `folder`? All steps are done, and the last is validated.

    Weights that came without a checkpoint (downloaded, archived) are taken as they are.
    """
    state = files.last_checkpoint(folder)[0]
    if not state:
        needed = ("config.json", "tokenizer.json", "best.pt")
        return all((folder / name).exists() for name in needed)
    validated = last_validation(files.read_metrics(folder / "metrics.jsonl"))
    return state.get("step") == state.get("steps", math.inf) == validated


def last_validation(lines):
    """Return the step of the last validation in lines of metrics.jsonl, or None."""
    return max((line["step"] for line in lines if "val_ce" in line), default=None)


# ---------------------------------------------------------------- the log

class Meter:
    """The steps since the last log line, on the device: no step waits. The clock is of steps."""

    def __init__(self, device):
        self.in_a_row = 0  # steps that were skipped at the end of the lines before
        self.restart(device)

    def restart(self, device):
        self.rows = torch.zeros(0, 4, device=device)  # loss, norm, clipped, skipped of each step
        self.figures = {}
        self.seconds = 0.0
        self.start_step()

    def start_step(self):
        self.clock = time.monotonic()

    def add(self, loss, norm, clipped, skipped, figures):
        """Add the tensors of the step that ended; of figures the latest stay."""
        row = torch.stack([loss, norm, clipped, skipped])
        self.rows = torch.cat([self.rows, row[None]])
        self.figures |= figures
        self.seconds += time.monotonic() - self.clock

    def read(self, step):
        """Return figures, steps skipped, (the most in a row, the last of them), steps per second.

        All are of the steps since the last reading. Means are nan if all steps were skipped.
        """
        before = time.monotonic()
        rows = self.rows.cpu().double()
        seconds = self.seconds + time.monotonic() - before
        skipped = rows[:, 3] > 0
        loss, norm = rows[~skipped, :2].mean(0).tolist()
        clipped = (rows[:, 2] > rows[:, 3]).double().mean().item()
        figures = dict(loss=loss, grad_norm=norm, clipped=clipped)
        figures |= {name: value.tolist() for name, value in self.figures.items()}

        streaks = []
        for i, is_skipped in enumerate(skipped.tolist(), step - len(rows) + 1):
            self.in_a_row = (self.in_a_row + 1) * is_skipped
            streaks.append((self.in_a_row, i))
        self.restart(self.rows.device)
        return figures, int(skipped.sum()), max(streaks), len(rows) / seconds

    def load(self, state):
        """Go on from vars(meter) of a checkpoint, so that the next log line is the same."""
        device = self.rows.device
        self.rows = state["rows"].to(device).reshape(-1, 4)
        self.figures = {name: value.to(device) for name, value in state["figures"].items()}
        self.in_a_row = int(state["in_a_row"])
        self.seconds = float(state["seconds"])
        self.start_step()


class Metrics:
    """metrics.jsonl. Lines are appended whole; at first, lines after the checkpoint are dropped."""

    def __init__(self, path, step):
        self.path = pathlib.Path(path)
        lines = [line for line in files.read_metrics(path) if line["step"] <= step]
        self.validated = last_validation(lines)
        files.write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def write(self, **values):
        if "val_ce" in values:
            self.validated = values["step"]
        line = json.dumps(files.rounded(values, digits=6)) + "\n"
        if RANK:
            return
        try:
            with open(self.path, "a") as f:
                f.write(line)
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise UserError(f"{self.path} could not be written: {e.strerror}")
