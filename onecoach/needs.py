"""The runs that a run needs, teachers, init and baseline, trained first if missing.

All are checked before any is trained, so that a mistake in the last one costs no hours.
"""
import contextlib
import os

from onecoach import files
from onecoach.config import UserError, read_config, related_config
from onecoach.imported import load_tokenizer
from onecoach.run import Run, choose_device, has_bf16, is_finished, shape_keys


def train_missing(config, data, train, check_run):
    """Train, by `train`, the runs that config's run needs and that are not finished yet.

    check_run(config, data) raises UserError for a run that could not be trained on this data.
    """
    runs = find_missing(config, data, check_run)
    if config.optimizer == "muon" and not has_bf16(choose_device(config)):
        print(f"{config.name}: optimizer = 'muon' multiplies in bfloat16, which this processor has "
              "no instructions for: steps take many times as long as with --optimizer=adamw")
    for name, (role, needed) in runs.items():
        print(f"\n{role} {name} is not there yet: training it first")
        with naming_its_command(needed):
            train(needed)


def find_missing(config, data, check_run, needed_by=()):
    """Return {name: (role, Config)} of the runs to train before config's, in order.

    Raises UserError for a mistake in config or in a run that it needs. needed_by: the names of the
    runs that need this one, each needed by the one before it.
    """
    if needed_by:
        with naming_its_command(config):
            Run(config).check_data(data)  # an unfinished run must be able to go on
    check_run(config, data)

    runs = {}
    chain = [*needed_by, config.name]
    for role, name in needs(config):
        if name in chain:
            circle = [*chain[chain.index(name):], name]
            raise UserError(f"{' needs '.join(circle)}: a run cannot need itself; change teachers, "
                            "init or baseline, or choose another --name")
        folder = config.folder.with_name(name)
        if is_finished(folder):
            check_agreement(role, folder, config, data)
            needed = read_config(folder / "config.json")
        else:
            needed = related_config(config, name)
            try:
                runs |= find_missing(needed, data, check_run, chain)
            except UserError as e:
                raise UserError(f"{role} {name}: {e}")
            runs.setdefault(name, (role, needed))
        check_model(role, name, needed, config)
    return runs


def needs(config):
    """Return [(role, name)] of the runs that config's run needs."""
    pairs = [("teacher", name) for name in config.teacher_runs]
    pairs += [("init", config.init), ("baseline", config.baseline)]
    return [pair for pair in pairs if pair[1]]


@contextlib.contextmanager
def naming_its_command(config):
    """Add to a UserError the command of config's run: it is not the command that was typed."""
    try:
        yield
    except UserError as e:
        file = os.path.relpath(config.file)
        raise UserError(f"{e}; its own command is python distill.py {file}")


def check_agreement(role, folder, config, data):
    """Raise UserError if the finished run in `folder` has another text, tokenizer, mark or seed."""
    there = files.read_json(folder / "config.json")
    differ = []
    if "_imported" not in there:  # a model trained elsewhere has read other text
        differ = [f"{key} = {there.get(key)!r} there, {getattr(config, key)!r} here"
                  for key in ("mark", "seed") if there.get(key) != getattr(config, key)]
        if there.get("_text") != data.train.corpus:
            differ.append(f"its text is another (corpus = {there.get('corpus')!r} there, "
                          f"{config.corpus!r} here)")
    remedy = "another --out_dir"
    if there.get("_tokenizer") != data.tokenizer.hash:
        difference = data.tokenizer.differs_from(load_tokenizer(folder))
        differ.append(f"its tokenizer is another ({difference})")
        remedy = f"--tokenizer={folder}, or another --out_dir"
    if differ:
        raise UserError(f"{role} {folder} does not agree with this run: {'; '.join(differ)}; use "
                        f"{remedy}")


def check_model(role, name, needed, config):
    """Raise UserError if config's run cannot use the model of `needed`, a teacher's or init's."""
    is_short = role == "teacher" and needed.longest < config.longest
    if is_short and needed.arch == "llama":
        print(f"teacher {name} was trained on blocks of {needed.longest} tokens, and teaches "
              f"blocks of {config.longest}: it has seen no text of that length")
    elif is_short:
        raise UserError(f"teacher {name} is a GPT-2 of block_size {needed.longest}, too short for "
                        f"block_size = {config.longest}; choose --block_size={needed.longest}, or "
                        "another teacher")
    if role == "init":
        there, here = shape_keys(needed), shape_keys(config)
        differ = [f"{key} = {there[key]!r} there, {here[key]!r} here"
                  for key in here if key in there and there[key] != here[key]]
        if differ:
            raise UserError(f"init {name} does not fit the model of {config.name}: "
                            f"{'; '.join(differ)}; set these as {needed.file} has them")
