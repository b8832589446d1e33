"""What a reading of a table comes to: estimates with intervals, and a sentence that is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from ebm.grids.table import Table
from ebm.judging.seeds import Estimate, over_seeds

SHOWN = 6  # estimates that a sentence names


class Compared(NamedTuple):
    """One estimate: of an arm, beside another where there is one, at a point where it is of one."""

    arm: str
    against: str
    point: str
    what: str
    estimate: Estimate
    nothing: float = 0.0  # the value that says neither

    @property
    def supports(self) -> int:
        """Whether the interval lies where the claim says (1), on the other side (−1), or on both (0)."""
        return int(self.estimate.low > self.nothing) - int(self.estimate.high < self.nothing)


class Reading(NamedTuple):
    """A verdict, its sentence, and the estimates that it is made of.

    "holds" and "opposite" are of all comparisons, and of all runs; "mixed" of some; "undecided" of none.
    """

    verdict: str
    sentence: str
    found: list[Compared]


Read: TypeAlias = Callable[..., Reading]


def estimate(values: Sequence[float]) -> Estimate | None:
    """Estimates from one number of each seed; None where there is none.

    Numbers that are all alike, as counts of a few problems may be, have no spread to make an interval
    of: its ends are infinite, as those of one seed.
    """
    if not values:
        return None
    found = over_seeds(values)
    alike = max(values) - min(values) <= 1e-9 * max(map(abs, values))
    return Estimate(found.value, seeds=found.seeds) if alike else found


def concluded(table: Table, found: Sequence[Compared], missing: Sequence[str] = (), more: Sequence[str] = ()) -> Reading:
    """Makes the verdict and the sentence.

    Arguments:
        table: what was read.
        found: the estimates.
        missing: a sentence for each comparison that could not be made.
        more: further sentences.
    """
    signs = [each.supports for each in found]
    whole = bool(signs) and not missing and not table.missing  # runs that diverge may well be those that speak against it
    if whole and all(sign > 0 for sign in signs):
        verdict = "holds"
    elif whole and all(sign < 0 for sign in signs):
        verdict = "opposite"
    else:
        verdict = "mixed" if any(signs) else "undecided"
    counted = {1: "support{} the claim", -1: "contradict{} it", 0: "decide{} nothing"}
    shares = [f"{n} {said.format('s' * (n == 1))}" for sign, said in counted.items() if (n := signs.count(sign))]
    parts = [f"Of {len(found)} comparison{'s' * (len(found) != 1)} {', '.join(shares)}"] if found else ["Nothing can be compared"]
    parts[0] += f": {'; '.join(map(told, found[:SHOWN]))}" if found else ""
    if len(found) > SHOWN:
        parts.append(f"{len(found) - SHOWN} more estimates are in finding.json")
    if found:
        seeds = sorted({each.estimate.seeds for each in found})
        many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        parts.append(f"means over {many} seed{'s' * (seeds[-1] != 1)}, each interval covers 95 %")
    if lost := table.missing:
        runs = sorted({row.run for row in lost})
        parts.append(f"{len(runs)} run{'s' * (len(runs) != 1)} without a number left out ({runs[0]}: {lost[0].verdict[:120]})")
    return Reading(verdict, ". ".join(_capital(part) for part in (*parts, *more, *missing)) + ".", list(found))


def told(each: Compared) -> str:
    """Tells one estimate in words.

    >>> told(Compared("ours", "theirs", "400", "loss better by", Estimate(0.5, 0.25, 0.75)))
    'ours against theirs at 400: loss better by 0.5 [0.25, 0.75]'
    """
    beside = f" against {each.against}" if each.against else ""
    at = f" at {each.point}" if each.point else ""
    value, low, high = (number(part) for part in each.estimate[:3])
    alike = "one seed" if each.estimate.seeds == 1 else "seeds alike"
    interval = f"[{low}, {high}]" if math.isfinite(each.estimate.high) else f"({alike}: no interval)"
    return f"{each.arm}{beside}{at}: {each.what} {value} {interval}"


def number(value: float) -> str:
    """Writes a number with three digits that count.

    >>> number(-0.00012345), number(12.345)
    ('-0.000123', '12.3')
    """
    return f"{value:.3g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def pairs(table: Table) -> list[tuple[str, str]]:
    """Lists the arms that are compared, each with its other.

    Raises:
        ValueError: none is.
    """
    grid = table.grid
    found = [(arm, other) for arm in grid.arms if (other := grid.against(arm))]
    if not found:
        raise ValueError("test: nothing is compared: name the arm to compare with, as in against = 'transformer'")
    return found
