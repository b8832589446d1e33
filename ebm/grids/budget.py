"""A budget of time: which points and seeds a study keeps, so that what is run is a balanced table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

UNITS = {"s": 1, "m": 60, "h": 3600}
ENOUGH = 3  # seeds that all points have before a point is dropped for them; with fewer intervals are very wide


class Kept(NamedTuple):
    """How many of the points and of the seeds are kept, from the first on."""

    points: int
    seeds: int


def seconds_of(text: str) -> float:
    """Reads a budget: 90s, 30m, 1.5h.

    Raises:
        ValueError: it is none.

    >>> seconds_of("30m"), seconds_of("1h30m")
    (1800.0, 5400.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise ValueError(f"--budget {text!r}: write a time, as in 90s, 30m, 1.5h or 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def keep(points: int, seeds: int, fewest: int, cost: Callable[[int, int], float], left: float) -> Kept:
    """Decides what of a grid fits into the time that is left.

    The rule: the last points go first, down to `fewest`, until three seeds (or all, of fewer) fit;
    then seeds go down to one; then further points, with as many of the three as fit. What fits
    beyond that are more seeds, each for all kept points. Every kept point has every kept seed.

    Arguments:
        points: how many there are, the least costly first.
        seeds: how many there are.
        fewest: points that a reading needs.
        cost: (points, seeds) -> seconds that the first so many of both still take.
        left: seconds.

    >>> keep(4, 5, 2, lambda points, seeds: points * seeds * 10, left=90)
    Kept(points=3, seeds=3)
    >>> keep(4, 5, 2, lambda points, seeds: points * seeds * 10, left=30)
    Kept(points=2, seeds=1)
    >>> keep(4, 5, 2, lambda points, seeds: points * seeds * 10, left=1)
    Kept(points=0, seeds=0)
    """
    enough = min(ENOUGH, seeds)
    tried = [(each, enough) for each in range(points, min(fewest, points) - 1, -1)]
    tried += [(min(fewest, points), each) for each in range(enough - 1, 0, -1)]
    tried += [(p, s) for p in range(min(fewest, points) - 1, 0, -1) for s in range(enough, 0, -1)]
    found = next(((p, s) for p, s in tried if cost(p, s) <= left), None)
    if found is None:
        return Kept(0, 0)
    p, s = found
    while s == enough and s < seeds and cost(p, s + 1) <= left:
        s, enough = s + 1, enough + 1
    return Kept(p, s)


def expected(places: Sequence[float], known: dict[int, float], point: int) -> float:
    """Expects a run's seconds at a point from those at others: as they grow along the axis, or in proportion.

    Arguments:
        places: where points lie along the axis.
        known: seconds of runs that were done, by point.
        point: which is asked for.

    >>> expected([100, 200, 400], {0: 3.0}, 2), expected([100, 200, 400], {0: 3.0, 1: 5.0}, 2)
    (12.0, 9.0)
    """
    if point in known:
        return known[point]
    if not known:
        return 0.0
    below = sorted(known, key=lambda each: abs(each - point))[:2]
    if len(below) == 2 and places[below[0]] != places[below[1]]:
        a, b = below
        line = known[a] + (known[b] - known[a]) * (places[point] - places[a]) / (places[b] - places[a])
        return max(line, min(known.values()))
    near = below[0]
    return known[near] * max(1.0, places[point] / places[near]) if min(places[near], places[point]) > 0 else known[near]
