"""Schedules: numbers as functions of a trajectory's step t; and ladders of noise levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

Schedule: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class Between:
    """Goes from start to end over `steps` steps, and stays there."""

    start: float
    end: float
    steps: int
    positive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not math.isfinite(self.start) or not math.isfinite(self.end):
            raise ValueError(f"{self}: steps is at least 1, and both ends are finite")
        if self.positive and not (self.start > 0 and self.end > 0):
            raise ValueError(f"{self}: both ends must be positive")

    def done(self, t: int) -> float:
        """Computes the fraction of the way that is done at step t."""
        return min(t / self.steps, 1.0)


@dataclass(frozen=True)
class Linear(Between):
    """Goes from start to end in equal differences over `steps` steps, and stays there.

    >>> [Linear(1.0, 0.0, steps=4)(t) for t in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    def __call__(self, t: int) -> float:
        return self.start + (self.end - self.start) * self.done(t)


@dataclass(frozen=True)
class Geometric(Between):
    """Goes from start to end in equal ratios over `steps` steps, and stays there; both positive."""

    positive: ClassVar[bool] = True

    def __call__(self, t: int) -> float:
        return self.start * (self.end / self.start) ** self.done(t)


@dataclass(frozen=True)
class Cosine(Between):
    """Goes from start to end along half a cosine over `steps` steps, and stays there."""

    def __call__(self, t: int) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * self.done(t))) / 2


@dataclass(frozen=True)
class Polynomial:
    """Decays as start (1 + t / delay)^−power; ULA's bias vanishes for 1/2 < power <= 1.

    Source: Welling and Teh, 2011 (stochastic gradient Langevin dynamics), section 3.
    """

    start: float
    power: float = 0.55
    delay: float = 1.0

    def __post_init__(self) -> None:
        if not self.delay > 0:
            raise ValueError(f"{self}: delay is positive")

    def __call__(self, t: int) -> float:
        return self.start * (1 + t / self.delay) ** -self.power


SCHEDULES: dict[str, type] = {"linear": Linear, "geometric": Geometric, "cosine": Cosine, "polynomial": Polynomial}


def as_schedule(value: Any) -> Any:
    """Reads a schedule written as data ({"schedule": "cosine", …}); other values stay the same."""
    if not isinstance(value, Mapping):
        return value
    arguments = dict(value)
    name = arguments.pop("schedule", None)
    if name not in SCHEDULES:
        raise ValueError(f"schedule={name!r}: choose one of {', '.join(SCHEDULES)}")
    try:
        return SCHEDULES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"schedule {name!r}: {error}") from error


def noise_levels(sigma: float | Sequence[float]) -> tuple[float, ...]:
    """Reads one noise level, or a ladder of them; raises ValueError unless all are positive."""
    levels = (float(sigma),) if isinstance(sigma, int | float) else tuple(map(float, sigma))
    if not levels or not all(0 < level < math.inf for level in levels):
        raise ValueError(f"sigma={sigma}: pass a positive number, or a ladder of them")
    return levels
