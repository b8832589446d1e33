"""Retractions: maps applied to the raw state before each step, that bring it to where the energy is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

__all__ = ["Retraction", "as_retraction", "clamp", "softmax"]

Retraction: TypeAlias = Callable[[Tensor], Tensor]


def softmax(y: Tensor) -> Tensor:
    """Maps logits (…, V) to probabilities along the last axis."""
    return y.softmax(-1)


def clamp(low: float = -1.0, high: float = 1.0) -> Retraction:
    """Makes the retraction that clips every entry into [low, high]."""

    def clip(y: Tensor) -> Tensor:
        return y.clamp(low, high)

    return clip


RETRACTIONS: dict[str, Retraction] = {"softmax": softmax, "clamp": clamp(-1.0, 1.0)}


def as_retraction(value: str | Retraction | None) -> Retraction | None:
    """Reads a retraction by name ("softmax"; "clamp" is to [-1, 1]), or as the function itself."""
    if value is None or callable(value):
        return value
    if value not in RETRACTIONS:
        raise ValueError(f"retraction={value!r}: choose one of {', '.join(RETRACTIONS)}, a function, or None")
    return RETRACTIONS[value]
