"""Evaluations that processes share: each judges its own parts of them, with draws that belong to a part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import Generator

T = TypeVar("T")


class _Sharing:
    def __init__(self, rank: int, ranks: int, gather: Callable[[Any], list[Any]]) -> None:
        self.rank, self.ranks, self.gather = rank, ranks, gather
        self.divided, self.place = False, 0


_sharing: ContextVar[_Sharing | None] = ContextVar("_sharing", default=None)


def own_parts(parts: Iterable[T], generator: Generator | None = None) -> Iterator[tuple[T, Generator | None]]:
    """Iterates over those parts of an evaluation that this process judges: (part, its generator).

    They are all parts, unless processes share it. The first part draws from the generator itself,
    each other one from a generator that follows from its state and the part's place: so a part's
    draws do not depend on who judges the parts before it. Without a generator parts have none.

    >>> with sharing(rank=1, ranks=2, gather=lambda own: [own]):
    ...     [part for part, _ in own_parts("abcde")]
    ['b', 'd']
    """
    from ebm.randomness import stream

    shared = _sharing.get()
    seed = 0
    if generator is not None:
        seed = int.from_bytes(hashlib.sha256(generator.get_state().numpy().tobytes()).digest()[:8], "little") >> 1
    if shared is not None:
        shared.divided = True
    for place, part in enumerate(parts):
        if shared is not None:
            if place % shared.ranks != shared.rank:
                continue
            shared.place = place
        new = generator is not None and place > 0
        yield part, stream(seed, "part", place, device=generator.device) if new and generator is not None else generator


def of_all(found: Iterator[T]) -> list[T]:
    """Lists what is found of this process's parts, and of those of all others that share them, in their order.

    Raises:
        Exception: what another process, or this one, met with. All raise it.
    """
    shared = _sharing.get()
    if shared is None:
        return [*found]
    own, met = list[tuple[int, T]](), None
    shared.divided = False
    try:
        for each in found:
            own.append((shared.place, each))
    except Exception as error:
        met = error
    every = shared.gather((own if shared.divided or not shared.rank else [], met))
    for _, other in every:
        if other is not None:
            raise other
    return [each for _, each in sorted((pair for pairs, _ in every for pair in pairs), key=lambda pair: pair[0])]


@contextmanager
def sharing(rank: int, ranks: int, gather: Callable[[Any], list[Any]]) -> Iterator[None]:
    """Lets processes share the evaluations inside; all of them make the same ones.

    Arguments:
        rank, ranks: which process this is, of how many.
        gather: maps what a process has to what all have, in the order of ranks; all call it together.
    """
    token = _sharing.set(_Sharing(rank, ranks, gather))
    try:
        yield
    finally:
        _sharing.reset(token)
