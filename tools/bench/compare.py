"""Compare ours with the peers: one table for all commands, and the keys of the last line.

rows: {name: {"seconds", "gb", further columns}}. Names of ours begin with "ours".
"""
import math

from onecoach.tables import table


def best_peers(rows, left_out=()):
    """Return the names of the fastest peer and of the one of least memory, or None."""
    rivals = {name: row for name, row in rows.items()
              if not name.startswith(("ours", "products", "the teacher's"))
              and name not in left_out}
    measured = {name: row for name, row in rivals.items() if math.isfinite(row["gb"])}
    fastest = min(rivals, key=lambda name: rivals[name]["seconds"], default=None)
    leanest = min(measured, key=lambda name: measured[name]["gb"], default=None)
    return fastest, leanest


def show(rows, unit="seconds", left_out=()):
    """Print the table of all rows, and return the last line's keys, `ours` and `peer` in `unit`.

    left_out: peers that compute something else: they are shown, but never the best.
    """
    fastest, leanest = best_peers(rows, left_out)
    further = dict.fromkeys(column for row in rows.values() for column in row)
    further = [column for column in further if column not in ("seconds", "gb")]

    lines = [["", "seconds", f"speed / {fastest or 'peer'}", "GB", f"/ {leanest or 'peer'}",
              *further]]
    for name, row in rows.items():
        speed = fastest and rows[fastest]["seconds"] / row["seconds"]
        memory = leanest and row["gb"] / rows[leanest]["gb"]
        cells = [row["seconds"], speed, row["gb"], memory, *map(row.get, further)]
        lines.append([name, *map(cell, cells)])
    print(table(lines))

    ours, peer, lean = (rows.get(name, {}) for name in ("ours", fastest, leanest))
    return dict(unit=unit, ours=ours[unit], peer=peer.get(unit), peer_is=fastest,
                ours_gb=ours["gb"], peer_gb=lean.get("gb"), peer_gb_is=leanest, rows=rows)


def cell(value):
    """Write a value for the table: three digits, "-" for what was not measured."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
