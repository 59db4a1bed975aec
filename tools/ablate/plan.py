"""A plan: the variants of a table, read from a file and checked whole before anything is run."""
import itertools
import pathlib
import re

import eval
from onecoach.config import CONFIGS, KEYS, UserError, read_assignments, read_config

# The assignments of a plan's file; `python -m tools.ablate --help` explains them.
REQUIRED = ("table", "seeds", "tuning_seeds", "variants", "figures")
DEFAULTS = dict(common={}, tasks=[], contrasts=[], grids={}, over={}, extends="", budget=0)
SHARED = ("seeds", "tuning_seeds", "common")  # a plan that extends another has the other's


def read_plan(path):
    """Return the Plan of a file; UserError for anything missing, unknown or misspelt in it."""
    path = pathlib.Path(path)
    values = read_assignments(path)
    before = None
    if "extends" in values:
        before = read_plan(path.with_name(f"{values['extends']}.py"))
    try:
        return Plan(values, before)
    except UserError as e:
        raise UserError(f"{path}: {e}")
    except (AttributeError, LookupError, TypeError, ValueError) as e:  # a value of another form
        raise UserError(f"{path}: cannot be read as a plan ({type(e).__name__}: {e}); "
                        "python -m tools.ablate --help explains it")


class Plan:
    """The assignments of a plan's file, on top of the Plan `before` that it extends.

    By variant: tables, the table of the rows; spaces, the grid or ladder {key: [values]}; starts,
    the point where the search on a ladder starts; same, the variant that has the settings.
    """

    def __init__(self, values, before=None):
        for name in values:
            if name not in (*REQUIRED, *DEFAULTS):
                raise UserError(f"unknown {name!r}; a plan assigns {', '.join(REQUIRED)}, and may "
                                f"assign {', '.join(DEFAULTS)}")
            if before and name in SHARED:
                raise UserError(f"{name} comes from {before.table}: with another the rows would "
                                "not compare with these")
        if before:
            values = {name: getattr(before, name) for name in (*SHARED, "figures")} | values
        for name in REQUIRED:
            if name not in values:
                raise UserError(f"{name} is missing; python -m tools.ablate --help explains it")
        vars(self).update(DEFAULTS | values)

        seeds = self.tuning_seeds + self.seeds
        if any(type(seed) is not int for seed in seeds) or len({*seeds}) < len(seeds):
            raise UserError(f"seeds {self.seeds} and tuning_seeds {self.tuning_seeds} must be "
                            "whole numbers, each once: no run counts twice, and no "
                            "settings are chosen on a seed that is reported")
        for name in ("variants", "tables", "spaces", "starts", "same"):
            setattr(self, name, {**getattr(before, name)} if before else {})
        for name, keys in spread_out(values["variants"], self.over).items():
            self.add(name, keys)
        self.check_names()

    def add(self, name, keys):
        """Add a variant; UserError if one of its runs has no config."""
        if name in self.variants:
            raise UserError(f"{self.tables[name]} has a variant {name!r} already")
        if "grid" in keys and "ladder" in keys:
            raise UserError(f"variant {name} has a grid and a ladder; leave one of them out")
        space = keys.get("grid", keys.get("ladder", {}))
        if isinstance(space, str):
            space = self.grids[space]
        if "settings" in keys:
            if keys["settings"] not in self.variants or space:
                raise UserError(f"variant {name}: settings must name an earlier variant, and "
                                "leaves no grid or ladder to be searched")
            self.same[name] = keys["settings"]
        own = {key: value for key, value in keys.items()
               if key not in ("grid", "ladder", "settings")}
        self.variants[name] = own
        self.tables[name] = self.table
        self.spaces[name] = space

        fixed = {**self.common, **own}
        path = CONFIGS / f"{fixed.pop('base')}.py"
        points = grid_points(space)
        if "ladder" in keys:
            points = [{}] + [{key: value} for key, values in space.items() for value in values]
        try:
            configs = [read_config(path, {**fixed, **point}.items()) for point in points]
            if "ladder" in keys:
                self.starts[name] = find_start(configs[0], space)
        except UserError as e:
            raise UserError(f"variant {name}: {str(e).removeprefix('command line: ')}")
        if configs[0].max_steps and "epochs" in {**own, **space}:
            raise UserError(f"variant {name}: epochs has no effect beside max_steps; set "
                            "max_steps = 0")

    def check_names(self):
        """Raise UserError if a variant, figure or task is named that is not there."""
        order = [*self.variants]
        for variant in order:
            if not self.tuning_seeds and any(len(v) > 1 for v in self.spaces[variant].values()):
                raise UserError(f"variant {variant} has a grid or ladder, and there are no "
                                "tuning_seeds to choose on")
            for name in self.needs(variant):
                if order.index(name) >= order.index(variant):
                    raise UserError(f"variant {variant} needs {name}, which must come before it")

        for one, other, title in self.contrasts:
            for name in [*one.split(" - "), *other.split(" - ")]:
                if name not in self.variants:
                    raise UserError(f"contrasts: there is no variant {name!r}")
            if title not in self.figures:
                raise UserError(f"contrasts: there is no figure {title!r}")

        tasks = {"babytalk", "ppl", "val_ce", *eval.named_tasks(self.tasks)}
        for title, path in self.figures.items():
            file, task, *_ = re.split("[. ]", path + ".")
            if file == "eval" and task not in tasks:
                raise UserError(f"figure {title!r}: {path} comes from a task that tasks does not "
                                "name")

    @property
    def folder(self):
        """The folder name of the runs: the first plan's, so that all plans share teachers."""
        return next(iter(self.tables.values()))  # the first plan's variants come first

    def needs(self, variant):
        """Return the variants that a variant needs: teachers and init."""
        keys = self.variants[variant]
        names = [*keys.get("teachers", []), keys.get("init", "")]
        return [name for name in names if name in self.variants]

    def all_needs(self, variant):
        """Return a variant's needs and the needs of these, each after all that it needs."""
        names = self.needs(variant)
        return [far for name in names for far in self.all_needs(name)] + names

    def search(self, variant, mean):
        """Return (settings, []) once a variant is tuned, else (None, points to try next).

        mean: a function, point {key: value} -> mean val_ce, None until that is known.
        """
        space = self.spaces[variant]
        if variant in self.starts:
            return climb(space, self.starts[variant], mean)
        points = grid_points(space)
        if len(points) == 1:
            return points[0], []
        unknown = [point for point in points if mean(point) is None]
        return (None, unknown) if unknown else (min(points, key=mean), [])


def spread_out(variants, over):
    """Return each variant once for every value of `over`, {key: [values]} of one key or empty.

    "rkl" becomes "rkl_1000", "rkl_3000", ...; teachers, init and settings that are variants get the
    same value.
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
            for link in {"init", "settings"} & keys.keys():
                keys[link] = names.get(keys[link], keys[link])
            spread[names[name]] = keys
    return spread


# ---------------------------------------------------------------- the search for settings

def grid_points(grid):
    """Return every point {key: value} of a grid."""
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def find_start(config, ladder):
    """Return a Config's own point on a ladder; UserError if it is not there."""
    point = {}
    for key, values in ladder.items():
        own = getattr(config, key)
        if own not in values:
            raise UserError(f"the search starts from {key} = {own!r}, which is not on the ladder "
                            f"{values}; add it, or set another {key}")
        point[key] = values[values.index(own)]  # 4, also if the config says 4.0
    return point


def climb(ladder, start, mean):
    """Search from `start` along one key after another, until no neighbour has a lower mean.

    Returns (settings, []) at the end, before it (None, points to try next), as Plan.search does.
    """
    point = start
    settled = 0  # keys in a row along which nothing was better
    keys = itertools.cycle(ladder)
    key = next(keys)
    while settled < len(ladder):
        values = ladder[key]
        i = values.index(point[key])
        near = [*values[max(i - 1, 0):i], *values[i + 1:i + 2]]  # one value down, one up
        points = [point, *({**point, key: value} for value in near)]
        unknown = [each for each in points if mean(each) is None]
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
