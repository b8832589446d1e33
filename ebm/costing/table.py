"""A recipe's cost as tables that fit 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Table: TypeAlias = tuple[str, Sequence[str], list[list[str]]]  # title, columns, rows
STEPS = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # thousands
SPANS = ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


def short(value: float) -> str:
    """Writes a number with three digits and the sign of its thousands.

    >>> short(0), short(999.9), short(1_234_567), short(2.5e20)
    ('0', '1.00 k', '1.23 M', '250 E')
    """
    place = 0
    while place + 1 < len(STEPS) and float(f"{value:.3g}") >= 1000:
        value, place = value / 1000, place + 1
    digits = f"{value:.3g}" if place == 0 else f"{value:#.3g}".rstrip(".")
    return f"{digits} {STEPS[place]}".strip()


def span(seconds: float) -> str:
    """Writes a time in its largest unit.

    >>> span(90), span(86400 * 3), span(0.02)
    ('1.50 minutes', '3.00 days', '0.0200 seconds')
    """
    size, name = next((one for one in SPANS if seconds >= one[0]), SPANS[-1])
    return f"{seconds / size:#,.3g}".rstrip(".") + f" {name}" if seconds / size < 1000 else f"{seconds / size:,.0f} {name}"


def times(value: float, of: float) -> str:
    """Writes how many times another number one is.

    >>> times(3, 2), times(1, 0)
    ('1.50', '')
    """
    return f"{value / of:#.3g}".rstrip(".") if of else ""


def everyone(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Lists the model, its baselines, and the paper's own form."""
    return [found["model"], *found["baselines"].values(), *([found["paper"]] if found["paper"] else [])]


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Lays a cost out: training, thinking, generation, and the whole run."""
    unit, who, model = found["unit"], everyone(found), found["model"]

    def activity(key: str) -> list[list[str]]:
        rows = []
        for one in who:
            spent, own = one.get(key), model.get(key) or {}
            if spent and "flops" in spent:
                cells = [short(spent["flops"]), times(spent["flops"], own.get("flops", 0)), short(spent["bytes"])]
                rows.append([one["name"], *cells, times(spent["flops"], spent["bytes"])])
            elif spent:
                rows.append([one["name"], "not told", "", "", ""])
        return rows

    columns = ("", "FLOPs", "of the first", "bytes", "FLOPs a byte")
    training = activity("training")
    sized = [[row[0], f"{one['parameters']:,}", *row[1:], _memory(one)] for row, one in zip(training, who, strict=True)]
    yield f"training, a {unit}", ("", "parameters", *columns[1:], "memory"), sized
    if rows := activity("thinking"):
        how = f", {_many(found['think_steps'], 'step')} of a landscape" if found["think_steps"] else ", as the recipe thinks"
        tried = f", of {found['candidates']} candidates" if found["candidates"] > 1 else ""
        yield f"predicting a {unit}{how}{tried}", columns, rows
    if rows := activity("generation"):
        yield f"generating a {unit} behind {found['behind']:,}", columns, rows
    run = found["run"]
    rows = []
    for one in who:
        if whole := one["run"]:
            spent = [span(whole["seconds"])] if "seconds" in whole else []
            spent += [f"{whole['price']:,.2f}"] if "price" in whole else []
            rows.append([one["name"], f"{one['steps']:,}", short(whole["flops"]), *spent])
    more = [name for name, key in (("time", "seconds"), ("price", "price")) if model["run"] and key in model["run"]]
    yield f"the whole training, {short(run['units'])} {unit}s", ("", "steps", "FLOPs", *more), rows


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _memory(one: Mapping[str, Any]) -> str:
    return short(one["training"]["memory"]) + "B" if "memory" in one["training"] else ""


def reasons(found: Mapping[str, Any]) -> list[str]:
    """Lists what cannot be told, and why."""
    keys = ("training", "thinking", "generation")
    parts = ((one["name"], one.get(key) or {}) for one in everyone(found) for key in keys)
    return [f"{name}: {part['untold']}" for name, part in parts if "untold" in part]


def sizes(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lays out one line for each size."""
    rows, first = [], next(iter(found.values()))
    unit, rivals = first["unit"], [*first["baselines"]]
    timed, priced = ("seconds" in (first["model"]["run"] or {}), "price" in (first["model"]["run"] or {}))
    for size, one in found.items():
        model, spent, run = one["model"], one["model"]["training"], one["model"]["run"]
        others = [*one["baselines"].values(), *([one["paper"]] if one["paper"] else [])]
        row = [size, f"{model['parameters']:,}", short(spent["flops"])]
        row += [times(spent["flops"], other["training"]["flops"]) for other in others]
        row += [short(spent["memory"]) + "B", short(run["flops"])]
        rows.append(row + ([span(run["seconds"])] if timed else []) + ([f"{run['price']:,.0f}"] if priced else []))
    columns = [
        "size",
        "parameters",
        f"FLOPs a {unit}",
        *(f"x {name}" for name in rivals),
        *(["x paper's form"] if first["paper"] else []),
    ]
    columns += ["memory", "run's FLOPs", *(["time"] if timed else []), *(["price"] if priced else [])]
    return f"training, {short(first['run']['units'])} {unit}s", columns, rows
