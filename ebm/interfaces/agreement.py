"""Numbers that are drawn, and that processes which share weights must agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_agreement: ContextVar[Callable[[int], int] | None] = ContextVar("_agreement", default=None)


def agreed(number: int) -> int:
    """Makes a drawn number the same in all processes that must compute alike; else it stays as it is.

    What decides how often an energy is evaluated goes through it, as a number of steps.

    >>> with agreeing(lambda number: 3):
    ...     agreed(5)
    3
    """
    rule = _agreement.get()
    return number if rule is None else rule(number)


@contextmanager
def agreeing(rule: Callable[[int], int]) -> Iterator[None]:
    """Lets `agreed` follow a rule inside: what all processes take for a number that each has drawn."""
    token = _agreement.set(rule)
    try:
        yield
    finally:
        _agreement.reset(token)
