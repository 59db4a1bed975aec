"""The search for a variant's settings: every point of a grid, or a way along ladders."""
import itertools

from onecoach.config import KEYS, UserError


def grid_points(grid):
    """Return every point {key: value} of a grid."""
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def climb(ladder, start, mean):
    """Search from `start` along one key after another, until no neighbour has a lower mean.

    Returns (settings, []) at the end, before it (None, points to try next), as Plan.search does.
    """
    point = start
    settled = 0  # keys in a row along which nothing was better
    for key in itertools.cycle(ladder):
        moved = False
        while True:
            points = [point, *neighbours(point, key, ladder[key])]
            unknown = [near for near in points if mean(near) is None]
            if unknown:
                return None, unknown
            best = min(points, key=mean)
            if best == point:
                break
            point = best
            moved = True
        settled = 1 if moved else settled + 1
        if settled == len(ladder):
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


def in_order(values):
    """Return values as the steps of a ladder: numbers by size, others as they are written."""
    if all(type(value) in (int, float) for value in values):
        return sorted({*values})
    return values
