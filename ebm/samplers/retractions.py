"""Retractions map a state to where its energy is taken: projections into bounds, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ebm.interfaces import plainly

Retraction: TypeAlias = Callable[[Tensor], Tensor]
Bound: TypeAlias = float | Tensor | None


def softmax(y: Tensor) -> Tensor:
    """Maps logits (…, V) to probabilities along the last axis."""
    return y.softmax(-1)


@plainly
def clamp(low: Bound = -1.0, high: Bound = 1.0) -> Retraction:
    """Makes the retraction that clips every entry into [low, high].

    Bounds are numbers, or tensors that broadcast over y; None leaves that side open.

    Raises:
        ValueError: low is not below high everywhere.

    >>> clamp(0.0, None)(torch.tensor([-1.0, 3.0]))
    tensor([0., 3.])
    """
    ends = [torch.as_tensor(end if end is not None else side) for end, side in ((low, -torch.inf), (high, torch.inf))]
    if not bool((ends[0] < ends[1]).all()):
        raise ValueError(f"clamp(low={low}, high={high}): pass a low that is below high")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return partial(_clip, low=ends[0], high=ends[1])
    return partial(torch.clamp, min=low, max=high)


def _clip(y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return y.clamp(low.to(y), high.to(y))


RETRACTIONS: dict[str, Retraction] = {"softmax": softmax, "clamp": clamp(-1.0, 1.0)}


def as_retraction(value: str | Retraction | None) -> Retraction | None:
    """Reads a retraction: a name ("softmax", "clamp"), a function, or None."""
    if value is None or callable(value):
        return value
    if value not in RETRACTIONS:
        raise ValueError(f"retraction={value!r}: choose one of {', '.join(RETRACTIONS)}, a function, or None")
    return RETRACTIONS[value]


def is_projection(retraction: Retraction, like: Tensor) -> bool:
    """Tells whether a retraction R leaves its own values alone, R(R(y)) = R(y), as a clamp does.

    It looks at one y of `like`'s shape, with entries from −4 to 4, so that softmax of an even start
    is not mistaken.

    >>> [is_projection(retraction, torch.zeros(2, 3)) for retraction in (clamp(0.0, 1.0), softmax, torch.tanh)]
    [True, False, False]
    """
    with torch.no_grad():
        probe = torch.linspace(-4, 4, like.numel(), dtype=like.dtype, device=like.device).reshape(like.shape)
        once = retraction(probe)
        return once.shape == probe.shape and torch.allclose(retraction(once), once, rtol=1e-4, atol=1e-6)
