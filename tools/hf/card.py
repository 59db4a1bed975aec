"""The model card of an exported run, README.md of its folder: facts from the run's own files."""
import dataclasses
import math
import pathlib

from distill import trained_for
from onecoach import files, tables
from onecoach.config import NO_RUNS, Config
from onecoach.run import changed_needs

# Keys about the place and manner of the run: they do not change the model.
ASIDE = ("out_dir", "data_dir", "name", "device", "resume", "max_minutes", "log_every")

HEAD = """---
language: en
license: mit  # the program's licence; change it if your text asks for another
library_name: transformers
pipeline_tag: text-generation
tags:
- babylm
- onecoach
---"""

USE = """## Use
```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("DIR")  # puts <s> before a text, as in training
model = AutoModelForCausalLM.from_pretrained("DIR")
inputs = tokenizer("the dog", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20, do_sample=True)[0]))
```"""


def card(folder, which, lm):
    """Return the README.md for the weights `which` of the run in `folder`; lm: those weights."""
    folder = pathlib.Path(folder)
    config = files.read_json(folder / "config.json")
    parts = [HEAD, f"# {config.get('name') or folder.name}", summary(config, lm)]
    if "_imported" not in config:
        parts.append(words_table(folder, config, which))
    parts += [settings(config), figures_table(folder, which), USE]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(config, lm):
    """Return a sentence or two: form, size, how it was trained."""
    form = {"llama": "Llama", "gpt2": "GPT-2"}[lm.config.arch]
    origin = "Trained without a teacher by `onecoach`."
    if "_imported" in config:
        origin = f"Trained elsewhere: imported from {config['_imported'].get('from')}."
    elif config.get("teachers"):
        origin = (f"Distilled by `onecoach` from {', '.join(config['teachers'])} with the "
                  f"divergence `{config.get('divergence')}`.")
    return (f"A language model of the form {form}, {lm.num_params() / 1e6:.2f}M parameters, "
            f"{lm.config.vocab_size} tokens, context {lm.config.block_size}. {origin}")


def words_table(folder, config, which):
    """Return how many words student and teachers read, and how many their text has."""
    runs = [("this model, to the end of its run", folder)]
    changed = changed_needs(folder)
    for name in config.get("teachers") or []:
        if name in changed:
            runs.append((f"teacher {name}, trained again since", None))
        elif name not in NO_RUNS:
            runs.append((f"teacher {name}", folder.with_name(name)))

    state = files.load_checkpoint(folder / f"{which}.pt")
    when = "the lowest cross-entropy on development text"
    if "words" in state:
        when = f"when {state['words']:,} words had been read"
    return "\n".join(["## Words",
                      "| | words of the training text | words read, all epochs | steps |",
                      "|---|---|---|---|", *(words_row(*run) for run in runs),
                      f"\nThese weights are from step {state.get('step')}, {when}."])


def words_row(title, folder):
    """Return a run's row; "not known" for anything that no file in the folder tells."""
    config = files.read_json_or_empty(folder / "config.json") if folder else {}
    figures = [math.nan] * 3
    if config and "_imported" not in config:
        steps, words = trained_for(folder)
        figures = [config.get("_words") or math.nan, words, steps]
    cells = ["not known" if math.isnan(n) else f"{n:,.0f}" for n in figures]
    return f"| {title} | {' | '.join(cells)} |"


def settings(config):
    """Return the keys that are not at their defaults, and the commit."""
    default = dataclasses.asdict(Config())
    keys = [f"{name} = {config[name]!r}" for name in default
            if name not in ASIDE and config.get(name, default[name]) != default[name]]
    made_by = (f"onecoach, commit {config.get('_commit') or 'not known'}, torch "
               f"{(config.get('_versions') or {}).get('torch', 'not known')}. "
               "Settings that are not at their defaults:")
    return "\n".join(["## Settings", made_by, "", "```python", *keys, "```"])


def figures_table(folder, which):
    """Return eval.json as a table; "" where these weights have not been evaluated."""
    results = files.read_json_or_empty(folder / "eval.json")
    if which != "best":  # their slots are called so
        end = f" --which={which}"
        results = {name.removesuffix(end): result for name, result in results.items()
                   if name.endswith(end)}
    rows = []
    for title, place, form in tables.final_lines([("", results)]):
        figure = tables.look_up(results, place)
        if figure is not None:
            chance = tables.look_up(results, f"{place.rpartition('.')[0]}.chance")
            title = title.replace("|", r"\|")  # it would end the cell
            rows.append(f"| {title} | {form.format(figure)} | {tables.as_text(chance, form)} |")
    if not rows:
        return ""
    limits = [f"- {remark}" for remark in tables.remarks(results)]
    return "\n".join(["## Evaluation", "A tie of two sentences counts half a point.", "",
                      "| | | chance |", "|---|---|---|", *rows, "", *limits]).rstrip()
