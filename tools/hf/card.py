"""The model card of an exported run, README.md of its folder: card.md with facts of the run."""
import dataclasses
import math
import pathlib

from distill import trained_for
from onecoach import files, tables
from onecoach.config import NO_RUNS, Config
from onecoach.run import changed_needs

TEMPLATE = pathlib.Path(__file__).with_name("card.md")

# Keys about the place and manner of the run: they do not change the model.
ASIDE = ("out_dir", "data_dir", "name", "device", "resume", "max_minutes", "log_every")


def card(folder, which, lm):
    """Return the README.md for the weights `which` of the run in `folder`; lm: those weights."""
    folder = pathlib.Path(folder)
    config = files.read_json(folder / "config.json")
    state = files.load_checkpoint(folder / f"{which}.pt")
    chosen = "the lowest cross-entropy on development text"
    if "words" in state:
        chosen = f"when {state['words']:,} words had been read"

    origin = "Trained without a teacher by `onecoach`."
    if "_imported" in config:
        origin = f"Trained elsewhere: imported from {config['_imported'].get('from')}."
    elif config.get("teachers"):
        origin = (f"Distilled by `onecoach` from {', '.join(config['teachers'])} with the "
                  f"divergence `{config.get('divergence')}`.")

    defaults = dataclasses.asdict(Config())
    settings = [f"{name} = {config[name]!r}" for name in defaults
                if name not in ASIDE and config.get(name, defaults[name]) != defaults[name]]
    results = results_of(folder, which)
    return TEMPLATE.read_text(encoding="utf-8").format(
        name=config.get("name") or folder.name, origin=origin, step=state.get("step"),
        chosen=chosen, form={"llama": "Llama", "gpt2": "GPT-2"}[lm.config.arch],
        parameters=lm.num_params() / 1e6, tokens=lm.config.vocab_size,
        context=lm.config.block_size, commit=config.get("_commit") or "not known",
        torch=(config.get("_versions") or {}).get("torch", "not known"),
        words="\n".join(words_rows(folder, config)), settings="\n".join(settings),
        figures="\n".join(figure_rows(results)) or "| not yet evaluated | | |",
        remarks="\n".join(f"- {remark}" for remark in tables.remarks(results)))


def words_rows(folder, config):
    """Yield a row for student and teachers; "not known" for anything that no file tells."""
    changed = changed_needs(folder)
    runs = {"this model, to the end of its run": folder}
    for name in config.get("teachers") or []:
        if name in changed:
            runs[f"teacher {name}, trained again since"] = None
        elif name not in NO_RUNS:
            runs[f"teacher {name}"] = folder.with_name(name)

    for title, run in runs.items():
        notes = files.read_json_or_empty(run / "config.json") if run else {}
        figures = [math.nan] * 3
        if notes and "_imported" not in notes:
            steps, words = trained_for(run)
            figures = [notes.get("_words") or math.nan, words, steps]
        cells = ["not known" if math.isnan(n) else f"{n:,.0f}" for n in figures]
        yield f"| {title} | {' | '.join(cells)} |"


def results_of(folder, which):
    """Return the results of these weights in eval.json."""
    results = files.read_json_or_empty(folder / "eval.json")
    if which == "best":
        return results
    end = f" --which={which}"
    return {name.removesuffix(end): result for name, result in results.items()
            if name.endswith(end)}


def figure_rows(results):
    for title, place, form in tables.final_lines([("", results)]):
        figure = tables.look_up(results, place)
        if figure is not None:
            chance = tables.look_up(results, f"{place.rpartition('.')[0]}.chance")
            title = title.replace("|", r"\|")  # it would end the cell
            yield f"| {title} | {form.format(figure)} | {tables.as_text(chance, form)} |"
