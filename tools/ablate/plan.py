"""A plan: the variants of a table, read from a file and checked whole before anything is run."""
import dataclasses
import difflib
import itertools
import pathlib
import re

import eval
from onecoach import tables
from onecoach.config import CONFIGS, KEYS, UserError, read_assignments, read_config


@dataclasses.dataclass
class Plan:
    """The assignments of a plan's file; `python -m tools.ablate --help` explains them."""
    table: str
    seeds: list
    tuning_seeds: list
    variants: dict
    figures: dict
    common: dict = dataclasses.field(default_factory=dict)
    tasks: list = dataclasses.field(default_factory=list)
    contrasts: list = dataclasses.field(default_factory=list)
    grids: dict = dataclasses.field(default_factory=dict)
    over: dict = dataclasses.field(default_factory=dict)
    curves: dict = dataclasses.field(default_factory=dict)
    extends: str = ""
    tables: dict = dataclasses.field(default_factory=dict)  # {variant: the table of its rows}

    @property
    def folder(self):
        """The folder name of its runs: the first plan's, whose teachers the others share."""
        return next(iter(self.tables.values()))  # the first plan's variants come first

    def needs(self, variant):
        """Return the variants that a variant needs: its teachers and init."""
        keys = self.variants[variant]
        names = [*keys.get("teachers", []), keys.get("init", "")]
        return [name for name in names if name in self.variants]

    def all_needs(self, variant):
        """Return a variant's needs and theirs in turn, each after its own needs."""
        names = self.needs(variant)
        return [far for name in names for far in self.all_needs(name)] + names

    def space(self, variant):
        """Return the values {key: [values]} that a variant is tuned over; {} for none."""
        keys = self.variants[variant]
        return keys.get("grid") or keys.get("ladder") or {}

    def search(self, variant, mean):
        """Return (settings, []) once a variant is tuned, else (None, points to try next).

        mean: the function from a point {key: value} to its mean val_ce, None until it is known.
        """
        keys = self.variants[variant]
        if "ladder" in keys:
            return climb(keys["ladder"], keys["start"], mean)
        points = grid_points(self.space(variant))
        if len(points) == 1:
            return points[0], []
        unknown = [point for point in points if mean(point) is None]
        return (None, unknown) if unknown else (min(points, key=mean), [])


ASSIGNED = {field.name: field.type for field in dataclasses.fields(Plan) if field.name != "tables"}
SPACES = ("grid", "ladder")  # of a variant, two ways to be tuned
REQUIRED = ("table", "seeds", "tuning_seeds", "variants", "figures")
SHARED = ("seeds", "tuning_seeds", "common")  # a plan that extends another has the other's
ROW_FIGURES = ("val_ce", "val_fkl", "val_rkl", "best_step", "steps", "words", "tokens", "flops")


def read_plan(path):
    """Return the Plan of a file; UserError for what is missing, unknown or misspelt in it."""
    path = pathlib.Path(path)
    values = read_assignments(path)
    before = None
    if "extends" in values:
        before = read_plan(path.with_name(f"{values['extends']}.py"))
    try:
        return make_plan(values, before)
    except UserError as e:
        raise UserError(f"{path}: {e}")


def make_plan(values, before):
    """Return the Plan of a file's assignments and, where it extends one, of the Plan `before`."""
    for name, value in values.items():
        if name not in ASSIGNED:
            raise UserError(f"unknown {name!r}; a plan assigns {', '.join(ASSIGNED)}")
        if not isinstance(value, ASSIGNED[name]):
            raise UserError(f"{name} must be a {ASSIGNED[name].__name__}")

    tables = {}
    if before:
        for name in SHARED:
            if name in values:
                raise UserError(f"{name} comes from {before.table}: with another its rows would "
                                "not compare with these")
        values = {name: getattr(before, name) for name in (*SHARED, "figures")} | values
        tables = before.tables
    for name in REQUIRED:
        if name not in values:
            raise UserError(f"{name} is missing; python -m tools.ablate --help explains it")

    plan = Plan(**values)
    check_seeds(plan)
    for name, keys in plan.variants.items():
        check_keys(name, keys, plan)
    plan.variants = spread_out(plan.variants, plan.over)
    for name in plan.variants:
        if name in tables:
            raise UserError(f"{tables[name]} has a variant {name!r} already")
    plan.tables = tables | {name: plan.table for name in plan.variants}
    if before:
        plan.variants = before.variants | plan.variants
    check_names(plan)
    check_figures(plan)
    return plan


def check_seeds(plan):
    """Raise UserError where a run would count twice, or be tuned on and reported."""
    for name in ("seeds", "tuning_seeds"):
        seeds = getattr(plan, name)
        if any(type(seed) is not int for seed in seeds) or len({*seeds}) < len(seeds):
            raise UserError(f"{name} = {seeds}: must be whole numbers, each of them once")
    both = {*plan.seeds} & {*plan.tuning_seeds}
    if both:
        raise UserError(f"seed {min(both)} is in tuning_seeds and in seeds: settings must not be "
                        "chosen on a seed that is reported")


def check_keys(name, keys, plan):
    """Raise UserError where one of a variant's runs has no config; write out its grid or ladder."""
    if not isinstance(keys, dict) or "base" not in keys:
        raise UserError(f"variant {name} has no base, the config that it changes")
    for kind in SPACES:
        if isinstance(keys.get(kind), str):
            if keys[kind] not in plan.grids:
                raise UserError(f"variant {name}: grids has no {keys[kind]!r}")
            keys[kind] = plan.grids[keys[kind]]
    grid, ladder = (keys.get(kind, {}) for kind in SPACES)
    if not all(map(is_space, (grid, ladder, plan.over))) or len(plan.over) > 1:
        raise UserError(f"variant {name}: a grid must be {{key: [values]}}, and so must a ladder "
                        "and over, of one key")
    if grid and ladder:
        raise UserError(f"variant {name} has a grid and a ladder; leave one of them out")

    fixed = {key: value for key, value in {**plan.common, **keys}.items() if key not in SPACES}
    path = CONFIGS / f"{fixed.pop('base')}.py"
    changes = grid_points(grid | plan.over)
    changes += [{key: value} for key, values in ladder.items() for value in values]
    try:
        for change in changes:
            config = read_config(path, [*{**fixed, **change}.items()])
        if ladder:
            own = read_config(path, [*fixed.items()])
            keys["start"] = {key: start_value(own, key, values) for key, values in ladder.items()}
    except UserError as e:
        raise UserError(f"variant {name}: {str(e).removeprefix('command line: ')}")
    if "epochs" in {**grid, **ladder, **plan.over} and config.max_steps:
        raise UserError(f"variant {name}: epochs has no effect beside max_steps; set max_steps = 0")


def spread_out(variants, over):
    """Return each variant once for every value of `over`, {key: [values]} of one key or empty.

    "rkl" becomes "rkl_1000", "rkl_3000", ...; a teacher or init that is a variant is the one of
    the same value.
    """
    if not over:
        return variants

    (key, values), = over.items()
    spread = {}
    for value in values:
        names = {name: f"{name}_{value}" for name in variants}
        for name, keys in variants.items():
            keys = {**keys, key: value}
            if "teachers" in keys:
                keys["teachers"] = [names.get(teacher, teacher) for teacher in keys["teachers"]]
            if "init" in keys:
                keys["init"] = names.get(keys["init"], keys["init"])
            spread[names[name]] = keys
    return spread


def is_space(space):
    """Whether it has the form {key: [values]}."""
    return isinstance(space, dict) and all(isinstance(values, list) and values
                                           for values in space.values())


def check_names(plan):
    """Raise UserError where a plan names a variant or figure that is not in it."""
    order = [*plan.variants]
    for variant in order:
        if not plan.tuning_seeds and any(len(v) > 1 for v in plan.space(variant).values()):
            raise UserError(f"variant {variant} has a grid or ladder, and there are no "
                            "tuning_seeds to choose on")
        for name in plan.needs(variant):
            if order.index(name) >= order.index(variant):
                raise UserError(f"variant {variant} needs {name}, which must come before it")

    ends = [f"_{values[0]}" for values in plan.over.values()]
    for name in itertools.chain(*plan.curves.values()):
        if not any(name + end in plan.variants for end in ends):
            raise UserError(f"curves: over has no variant {name!r}")
    for contrast in plan.contrasts:
        if [type(text) for text in contrast] != [str, str, str]:
            raise UserError(f"contrasts: {contrast!r} is not [variant, variant, title]")
        one, other, title = contrast
        for name in [*one.split(" - "), *other.split(" - ")]:
            if name not in plan.variants:
                raise UserError(f"contrasts: there is no variant {name!r}")
        if title not in plan.figures:
            raise UserError(f"contrasts: there is no figure {title!r}")


def check_figures(plan):
    """Raise UserError for a task that eval.py does not have, or a figure that no row will have."""
    tasks = {"babytalk", "ppl", "val_ce", *eval.named_tasks(plan.tasks)}
    known = [*ROW_FIGURES, *(f"eval.{path}" for _, path, _ in tables.FINAL)]
    for title, path in plan.figures.items():
        plain = re.sub(r" --\w+=\S*?(?=\.|$)", "", path)  # "eval.ppl --limit=9.x" is "eval.ppl.x"
        if {"groups", "paradigms", "domains"} & {*plain.split(".")}:
            continue  # their names are the benchmark's, or the text's
        if plain not in known:
            near = difflib.get_close_matches(plain, known, 3, 0)
            raise UserError(f"figure {title!r}: no row has {path!r}; near it are {', '.join(near)}")
        if plain.startswith("eval.") and plain.split(".")[1] not in tasks:
            raise UserError(f"figure {title!r}: {path} comes from a task that tasks does not name")


# ---------------------------------------------------------------- the search for settings

def grid_points(grid):
    """Return every point {key: value} of a grid."""
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def climb(ladder, start, mean):
    """Search from `start` along one key after another, until no neighbour has a lower mean.

    Returns (settings, []) at the end, before it (None, points to try next), as Plan.search does.
    """
    point = start
    settled = 0  # keys in a row along which nothing was better
    keys = itertools.cycle(ladder)
    key = next(keys)
    while settled < len(ladder):
        points = [point, *neighbours(point, key, ladder[key])]
        unknown = [near for near in points if mean(near) is None]
        if unknown:
            return None, unknown
        best = min(points, key=mean)
        if best == point:
            settled += 1
            key = next(keys)
        else:
            point = best
            settled = 0
    return point, []


def neighbours(point, key, values):
    """Return the points one step down and one step up the values of a key."""
    i = values.index(point[key])
    return [{**point, key: value} for value in [*values[:i][-1:], *values[i + 1:][:1]]]


def open_ends(space, settings):
    """Return the keys whose chosen value is the first or last of several, and no bound of the key.

    Beyond such a value something better may lie. Words, such as an optimizer's name, have no ends.
    """
    keys = []
    for key, values in space.items():
        is_number = KEYS[key].type in (int, float)
        if all(isinstance(value, (int, float)) for value in values):
            values = sorted(values)
        at_end = len(values) > 1 and settings[key] in (values[0], values[-1])
        bounds = KEYS[key].metadata["low"], KEYS[key].metadata["high"]
        if is_number and at_end and settings[key] not in bounds:
            keys.append(key)
    return keys


def start_value(config, key, values):
    """Return a Config's own value of a key, as it is on the ladder; UserError where it is not."""
    own = getattr(config, key)
    if own not in values:
        raise UserError(f"its search starts from {key} = {own!r}, which is not on the ladder "
                        f"{values}; add it, or set another {key}")
    return values[values.index(own)]  # 4, where the config says 4.0

