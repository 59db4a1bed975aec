"""The model card of an exported run: README.md of its folder, facts from the run's own files.

    card(folder, which, lm) -> its text. What it was trained on, by which config and commit, how
    many words student and teachers read, and eval.json as a table beside chance.
"""
import dataclasses
import math
import pathlib

from distill import trained_for
from onecoach import files, tables
from onecoach.config import NO_RUNS, Config

CHANCE = {  # of a path in eval.json, as tables.FINAL has them: what guessing gives
    "blimp.accuracy": "50%",
    "supplement.accuracy": "50%",
    "ewok.accuracy": "50%",
    "comps.accuracy": "50%",
    "entity_tracking.accuracy": "20%",
    "global_piqa_parallel.accuracy": "25%",
    "global_piqa_nonparallel.accuracy": "50%",
    "babytalk.minimal_pairs": "50%",
}
# Keys that say where and how it ran, not what it is.
ASIDE = ("out_dir", "data_dir", "name", "device", "resume", "max_minutes", "log_every")


def card(folder, which, lm):
    """The text of README.md for the weights `which` of the run in `folder`; lm: those weights."""
    folder = pathlib.Path(folder)
    its = files.read_json(folder / "config.json")
    name = its.get("name") or folder.name
    parts = [head(), f"# {name}", what(its, lm), table_of_words(folder, its, which),
             settings(its), figures(folder, which), use()]
    return "\n\n".join(part for part in parts if part) + "\n"


def head():
    return ("---\nlanguage: en\nlibrary_name: transformers\npipeline_tag: text-generation\n"
            "tags:\n- babylm\n- onecoach\n---")


def what(its, lm):
    """A sentence or two: form, size, how it was trained."""
    form = {"llama": "Llama", "gpt2": "GPT-2"}[lm.config.arch]
    text = (f"A language model of the form {form}, {lm.num_params() / 1e6:.2f}M parameters, "
            f"{lm.config.vocab_size} tokens, context {lm.config.block_size}.")
    if "_imported" in its:
        return f"{text} Trained elsewhere: imported from {its['_imported'].get('from')}."
    if not its.get("teachers"):
        return f"{text} Trained without a teacher by `onecoach`."
    return (f"{text} Distilled by `onecoach` from {', '.join(its['teachers'])} with the divergence "
            f"`{its.get('divergence')}`.")


def table_of_words(folder, its, which):
    """How many words student and teachers read, and how many their text has."""
    if "_imported" in its:
        return ""
    file = folder / f"{which}.pt"
    state = files.load_checkpoint(file)
    lines = ["## Words", "| | words of the training text | words read, all epochs | steps |",
             "|---|---|---|---|", row_of_words("this model, to the end of its run", folder)]
    lines += [row_of_words(f"teacher {name}", folder.with_name(name))
              for name in its.get("teachers") or [] if name not in NO_RUNS]
    lines.append(f"\nThese weights are those of step {state.get('step')}"
                 + (f", when {state['words']:,} words had been read." if "words" in state else
                    ", the lowest cross-entropy on development text."))
    return "\n".join(lines)


def row_of_words(title, folder):
    """Of one run; what is not in its folder is not known."""
    unknown = f"| {title} | not known | not known | not known |"
    if not (folder / "config.json").exists():
        return unknown
    its = files.read_json(folder / "config.json")
    if "_imported" in its:
        return unknown
    steps, words = trained_for(folder)
    unique = f"{its['_words']:,}" if its.get("_words") else "not known"
    read = ["not known" if math.isnan(n) else f"{n:,.0f}" for n in (words, steps)]
    return f"| {title} | {unique} | {' | '.join(read)} |"


def settings(its):
    """The keys that are not at their defaults, and the commit."""
    default = dataclasses.asdict(Config())
    keys = [f"{name} = {its[name]!r}" for name in default
            if name in its and its[name] != default[name] and name not in ASIDE]
    commit = its.get("_commit") or "not known"
    torch = (its.get("_versions") or {}).get("torch", "not known")
    made_by = f"onecoach, commit {commit}, torch {torch}. What is not at its default:"
    return "\n".join(["## Settings", made_by, "", "```python", *keys, "```"])


def figures(folder, which):
    """eval.json as a table; "" where nothing has been evaluated of these weights."""
    path = folder / "eval.json"
    results = files.read_json_or_empty(path)
    if which != "best":  # their slots are called so
        end = f" --which={which}"
        results = {name.removesuffix(end): result for name, result in results.items()
                   if name.endswith(end)}
    rows = []
    for title, place, form in tables.final_lines([("", results)]):
        figure = tables.look_up(results, place)
        if figure is not None:
            rows.append(f"| {title} | {form.format(figure)} | {CHANCE.get(place, '')} |")
    if not rows:
        return ""
    return "\n".join(["## Evaluation", "A tie of two sentences counts half a point.", "",
                      "| | | chance |", "|---|---|---|", *rows])


def use():
    return """## Use
```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("DIR")  # puts <s> before a text, as in training
model = AutoModelForCausalLM.from_pretrained("DIR")
ids = tokenizer("the dog", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=20, do_sample=True)[0]))
```"""
