"""Chains in half precision: a float32 copy of y moves, and energies see it rounded.

A step that is small beside y would be lost in rounding y ± step to 8 or 11 bits, drift first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map  # private, but what torch.func itself maps trees by

from ebm.interfaces.energy import EnergyFn, Given, evaluate
from ebm.interfaces.values import savable

HALF = (torch.bfloat16, torch.float16)


@savable
class Fine(NamedTuple):
    """The state of a chain in half precision: its float32 copy's, and a number of y's own dtype."""

    inner: Any
    one: Tensor

    @property
    def y(self) -> Tensor:
        return self.inner.y.to(self.one.dtype)


class Rounded:
    """An energy of half-precision y as a function of float32 y: E(round(y)), in float32."""

    def __init__(self, energy: EnergyFn, dtype: torch.dtype) -> None:
        self.energy, self.dtype = energy, dtype  # `modules_of` looks for `.energy`

    def __call__(self, y: Tensor) -> Tensor:
        return evaluate(self.energy, y.to(self.dtype)).to(y.dtype)

    def __getattr__(self, name: str) -> Any:  # what a sampler asks of a landscape beside its values
        if name == "energy":
            raise AttributeError(name)
        return getattr(self.energy, name)


def behind(function: Any, counted: bool = True) -> Any:
    """Looks behind what rounds y, or counts calls (`count`, which is told), and nothing else.

    What changes the energy, as a temperature or a mask does, stays.
    """
    while not isinstance(function, Given | nn.Module):
        if not isinstance(function, Rounded):
            if not callable(count := getattr(function, "count", None)) or not hasattr(function, "energy"):
                break
            if counted:
                count()
        function = function.energy
    return function


def refined(y: Any) -> Any:
    """Makes a start (or a State) in half precision one of the float32 copy."""
    if isinstance(y, Fine):
        return y.inner
    return tree_map(lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in HALF else leaf, y)
