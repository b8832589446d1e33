"""Activation checkpointing: which parts of an energy compute again what a backward pass needs, while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ebm.interfaces import Energy
from ebm.interfaces.abilities import Recomputes


def blockwise_parts(energy: Any, asked: bool, compile: bool | str) -> list[Recomputes]:
    """Lists the parts of an energy whose blocks can be computed again; none where nobody asks for it.

    Raises:
        ValueError: it is asked of an energy that has no such part, or is compiled as a whole.
    """
    if not asked:
        return []
    name, fit = type(energy).__name__, "fit(activation_checkpointing=True)"
    modules = energy.modules() if isinstance(energy, nn.Module) else ()
    parts: list[Recomputes] = [part for part in modules if isinstance(part, Recomputes)]
    if not parts:
        raise ValueError(
            f"{fit}: {name} has no blocks that are computed again, as Energy-Based Transformers have: leave it out, and for less "
            f"memory cut batches into pieces (accumulate)"
        )
    if compile is True and isinstance(energy, Energy) and not energy.regions():
        raise ValueError(f"{fit} and compile=True: {name} compiles as a whole, which keeps what it likes: choose one of them")
    return parts


@contextmanager
def recomputing(parts: Sequence[Recomputes]) -> Iterator[None]:
    """Lets parts compute their blocks again inside."""
    for part in parts:
        part.recomputes = True
    try:
        yield
    finally:
        for part in parts:
            part.recomputes = False
