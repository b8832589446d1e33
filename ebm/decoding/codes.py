"""Decoding from cached codes: a context that grows element by element is not encoded anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ebm.interfaces import Energy, Given


def growing(energy: Energy, last: Callable[[int], Any], length: int, window: int) -> Iterator[list[Given]]:
    """Binds an energy's landscapes to a context that has one more element at each iteration.

    The context is encoded once, then its codes are extended. When the window is full, the last half
    window is encoded anew: some two positions are encoded for each element.

    Arguments:
        energy: an energy that can extend its codes (or an iteration raises ValueError).
        last: makes the context of the last n elements, as `encode` and `extend` take it.
        length: how many elements there are at first.
        window: how many elements are seen at most.

    >>> import torch
    >>> class Grows(Energy):
    ...     def extend(self, code, context):
    ...         return torch.cat([code, context])
    >>> numbers = torch.arange(9)
    >>> codes = growing(Grows(), lambda n: numbers[seen - n : seen], 3, window=4)
    >>> for seen in (3, 4, 5):
    ...     print(next(codes)[0].code)
    tensor([0, 1, 2])
    tensor([0, 1, 2, 3])
    tensor([3, 4])
    """
    length = min(length, window)
    bound: Any = energy.landscapes(last(length))
    while True:
        yield bound
        if length < window:
            bound, length = _extended(bound, last(1)), length + 1
        else:
            length = max(1, window // 2)
            bound = energy.landscapes(last(length))


def _extended(bound: list[Given], context: Any) -> list[Given]:
    """Extends the codes of bound energies, once for those that are the same object."""
    different = {id(one): one for one in bound}
    try:
        new = {key: Given(one.energy, one.energy.extend(one.code, context)) for key, one in different.items()}
    except NotImplementedError as error:
        raise ValueError(f"nothing can be decoded from cached codes: {error}") from error
    return [new[id(one)] for one in bound]
