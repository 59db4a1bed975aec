"""A plan: the variants of a table, read from its file and checked."""
import dataclasses
import itertools
import pathlib
import re

from onecoach.config import UserError, read_assignments


@dataclasses.dataclass
class Plan:
    """What a plan's file assigns; see the head of this file."""
    table: str
    seeds: list
    tuning_seeds: list
    variants: dict
    figures: dict
    common: dict = dataclasses.field(default_factory=dict)
    tasks: list = dataclasses.field(default_factory=list)
    contrasts: list = dataclasses.field(default_factory=list)
    over: dict = dataclasses.field(default_factory=dict)
    curves: dict = dataclasses.field(default_factory=dict)
    extends: str = ""
    tables: dict = dataclasses.field(default_factory=dict)  # {variant: where its rows lie}

    @property
    def runs(self):
        """The folder of its runs: the first plan's, whose teachers those that extend it share."""
        return next(iter(self.tables.values()))  # the first plan's variants stand first

    @property
    def over_points(self):
        """The values of `over`'s one key."""
        points, = self.over.values()
        return points

    def needs(self, variant):
        """The variants whose runs a variant needs: its teachers and its init."""
        keys = self.variants[variant]
        names = [*keys.get("teachers", []), keys.get("init", "")]
        return [name for name in names if name in self.variants]

    def all_needs(self, variant):
        """The same, and before them those that they need in turn."""
        names = self.needs(variant)
        return [far for name in names for far in self.all_needs(name)] + names

    def points(self, variant):
        """The settings {key: value} of a variant's grid, one dict a point."""
        grid = self.variants[variant].get("grid", {})
        return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def read_plan(path, extended_by=()):
    """The Plan of a file; UserError for what is missing, unknown, or names what is not there."""
    path = pathlib.Path(path)
    if path in extended_by:
        raise UserError(f"{path}: a plan cannot extend itself")
    values = read_assignments(path)
    for name in values:
        if name not in TYPES:
            raise UserError(f"{path}: unknown {name!r}; a plan assigns {', '.join(TYPES)}")
        if not isinstance(values[name], TYPES[name]):
            raise UserError(f"{path}: {name} must be a {TYPES[name].__name__}")

    for variant, keys in values.get("variants", {}).items():
        if not isinstance(variant, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", variant):
            raise UserError(f"{path}: variant {variant!r}: a name of letters, digits, '_' and '-'")
        if not isinstance(keys, dict) or "base" not in keys:
            raise UserError(f"{path}: variant {variant} has no base, the config that it alters")
        if not isinstance(keys.get("teachers", []), list):
            raise UserError(f"{path}: variant {variant}: teachers must be a list")
    spell_grids_out(values.get("variants", {}), values.pop("grids", {}), path)
    over = values.get("over", {})
    if len(over) > 1 or not all(isinstance(points, list) and points for points in over.values()):
        raise UserError(f"{path}: over must be {{key: [values]}}, of one key")
    variants = at_each_value(values.get("variants", {}), over)
    tables = {}
    if "extends" in values:
        before = read_plan(path.with_name(f"{values['extends']}.py"), [*extended_by, path])
        for name in ("seeds", "tuning_seeds", "common"):
            if name in values:
                raise UserError(f"{path}: {name} is {before.table}'s, or its rows would not belong "
                                "beside these")
        again = [*set(variants) & set(before.variants)]
        if again:
            raise UserError(f"{path}: {before.table} has a variant {again[0]!r} already")
        tables = before.tables
        variants = before.variants | variants
        # each plan asks its own
        questions = {"contrasts": [], "tasks": [], "over": {}, "curves": {}}
        values = dataclasses.asdict(before) | questions | values
    for name in ("table", "seeds", "tuning_seeds", "variants", "figures"):
        if name not in values:
            raise UserError(f"{path}: {name} is missing; python -m tools.ablate --help says what "
                            "it is")
    tables = tables | {name: values["table"] for name in variants if name not in tables}
    plan = Plan(**{**values, "variants": variants, "tables": tables})
    check_plan(plan, path)
    return plan


def spell_grids_out(variants, grids, path):
    """Put grids[name] where a variant's grid is "name"; UserError where there is none of it."""
    for variant, keys in variants.items():
        grid = keys.get("grid")
        if isinstance(grid, str):
            if grid not in grids:
                raise UserError(f"{path}: variant {variant}: grids has no {grid!r}")
            keys["grid"] = grids[grid]


def at_each_value(variants, over):
    """Variants {name: keys} once at each value of over, {key: [values]}: rkl becomes rkl_1000 ...

    Teachers and init that are variants are those of the same value. Without over all stays.
    """
    if not over:
        return variants
    (key, points), = over.items()
    spread = {}
    for point in points:
        for name, keys in variants.items():
            keys = {**keys, key: point}
            if "teachers" in keys:
                keys["teachers"] = [at(teacher, point) if teacher in variants else teacher
                                    for teacher in keys["teachers"]]
            if keys.get("init") in variants:
                keys["init"] = at(keys["init"], point)
            spread[at(name, point)] = keys
    return spread


def at(variant, point):
    """The name of a variant at a value of the plan's `over`."""
    return f"{variant}_{point}"


def check_plan(plan, path):
    if not re.fullmatch(r"[A-Za-z0-9_-]+", plan.table):
        raise UserError(f"{path}: table = {plan.table!r}: letters, digits, '_' and '-' only")
    for variant, keys in plan.variants.items():
        grid = keys.get("grid", {})
        if not isinstance(grid, dict) or not all(isinstance(values, list) and values
                                                 for values in grid.values()):
            raise UserError(f"{path}: variant {variant}: a grid must be {{key: [values]}}")
        if len(plan.points(variant)) > 1 and not plan.tuning_seeds:
            raise UserError(f"{path}: variant {variant} has a grid, and there are no tuning_seeds "
                            "to choose on")
        for name in plan.needs(variant):
            if [*plan.variants].index(name) >= [*plan.variants].index(variant):
                raise UserError(f"{path}: variant {variant} needs {name}, which must stand before "
                                "it")
    for panel, names in plan.curves.items():
        for name in names:
            if not plan.over or at(name, plan.over_points[0]) not in plan.variants:
                raise UserError(f"{path}: curves: over spreads no variant {name!r}")
    for contrast in plan.contrasts:
        is_list = isinstance(contrast, list) and len(contrast) == 3
        if not is_list or not all(isinstance(text, str) for text in contrast):
            raise UserError(f"{path}: contrasts: {contrast!r} is not [variant, variant, title]")
        one, other, title = contrast
        for name in [*one.split(" - "), *other.split(" - ")]:
            if name not in plan.variants:
                raise UserError(f"{path}: contrasts: there is no variant {name!r}")
        if title not in plan.figures:
            raise UserError(f"{path}: contrasts: there is no figure {title!r}")


TYPES = {"table": str, "seeds": list, "tuning_seeds": list, "variants": dict, "figures": dict,
         "common": dict, "tasks": list, "contrasts": list, "grids": dict, "over": dict,
         "curves": dict, "extends": str}
