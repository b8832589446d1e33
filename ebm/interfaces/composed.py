"""Energies made of energies: sums, and one energy whose values are changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm.interfaces.energy import Energy, EnergyFn, Operators
from ebm.interfaces.forms import as_energy


class Several(Energy):
    """Holds several energies of the same y; a subclass's `forward` combines their `values`.

    Every part gets the context (plain functions ignore it); the code is the tuple of the parts'
    codes. A part with one landscape serves all landscapes of the others.
    """

    energies: Any  # an nn.ModuleList of Energy

    def __init__(self, energies: Sequence[EnergyFn]) -> None:
        super().__init__()
        parts = [as_energy(energy) for energy in energies]
        levels = [part.levels for part in parts]
        if not parts or len({*levels} - {1}) > 1:
            raise ValueError(f"{type(self).__name__} of parts with {levels} landscapes: pass one, or the same number for all")
        self.energies, self.levels = nn.ModuleList(parts), max(levels)

    def encode(self, context: Any = None, level: int = -1) -> tuple[Any, ...]:
        return tuple(part.encode(context, -1 if part.levels == 1 else level) for part in self.energies)

    def extend(self, code: tuple[Any, ...], context: Any) -> tuple[Any, ...]:
        return tuple(part.extend(own, context) for part, own in zip(self.energies, code, strict=True))

    def values(self, y: Tensor, code: tuple[Any, ...] | None = None) -> list[Tensor]:
        """Maps y (*chains, *event) to every part's energies (*chains,)."""
        codes = (None,) * len(self.energies) if code is None else code
        values = [part(y, own) for part, own in zip(self.energies, codes, strict=True)]
        if any(value.shape != values[0].shape for value in values):
            shapes = ", ".join(str(tuple(value.shape)) for value in values)
            what = type(self).__name__
            raise ValueError(f"the parts of a {what} have energies of shapes {shapes}: they must agree on what a chain is")
        return values


class SumEnergy(Several):
    """Adds energies, as `e1 + e2` does: E(y) = Σᵢ Eᵢ(y), the product of their densities.

    Contexts and landscapes are as in `Several`. Sums within sums are flattened. Source: Hinton,
    2002 (Training products of experts by minimizing contrastive divergence), equation 1.

    Arguments:
        energies: energies, or functions of y, with one landscape or all with the same number.

    >>> energy = SumEnergy([lambda y: y.square().sum(-1), lambda y: y.sum(-1)])
    >>> (energy + (lambda y: -y.sum(-1)))(torch.ones(3, 2))
    tensor([2., 2., 2.])
    """

    def __init__(self, energies: Sequence[EnergyFn]) -> None:
        parts = ((energy.energies if isinstance(energy, SumEnergy) else [energy]) for energy in energies)
        super().__init__([*chain(*parts)])

    def forward(self, y: Tensor, code: tuple[Any, ...] | None = None) -> Tensor:
        values = self.values(y, code)
        return sum(values[1:], start=values[0])


class Modified(Energy):
    """Wraps one energy and changes its values; landscapes, codes and contexts stay the same."""

    def __init__(self, energy: EnergyFn) -> None:
        super().__init__()
        self.energy = as_energy(energy)
        self.levels = self.energy.levels

    def encode(self, context: Any = None, level: int = -1) -> Any:
        return self.energy.encode(context, level)

    def extend(self, code: Any, context: Any) -> Any:
        return self.energy.extend(code, context)


class ScaledEnergy(Modified):
    """Multiplies an energy, as `c * e` and `e / T` do: c E(y), the density to the power c.

    Arguments:
        energy: an energy, or a function of y.
        scale: c, finite; a negative c turns the landscape over, an nn.Parameter is learned.

    >>> (ScaledEnergy(lambda y: y.square().sum(-1), 0.5) / 2.0)(torch.ones(3, 2))
    tensor([0.5000, 0.5000, 0.5000])
    """

    scale: float | Tensor

    def __init__(self, energy: EnergyFn, scale: float | Tensor) -> None:
        super().__init__(energy)
        value = scale.item() if isinstance(scale, Tensor) and scale.ndim == 0 else scale
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"ScaledEnergy(scale={scale!r}): pass one finite number")
        if isinstance(scale, Tensor) and not isinstance(scale, nn.Parameter):
            self.register_buffer("scale", scale.detach().clone())
        else:
            self.scale = scale

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        return self.scale * self.energy(y, code)

    def extra_repr(self) -> str:
        return f"scale={float(torch.as_tensor(self.scale).detach()):g}"


class Weighed(NamedTuple):
    """A context's code, and the weight that it gives."""

    code: Any
    weight: Tensor | float


class WeightedEnergy(Modified):
    """Multiplies an energy by a weight of the context, as `e * w` does: w(x) E(y | x).

    The weight is computed once for each context. Without a context w is called with None.

    Arguments:
        energy: an energy, or a function of y.
        weight: w(context) -> a number, or a tensor that broadcasts to energies (*chains,).

    >>> energy = WeightedEnergy(lambda y: y.square().sum(-1), lambda strength: strength)
    >>> energy.given(torch.tensor([1.0, 0.5, 0.0]))(torch.ones(3, 2))
    tensor([2., 1., 0.])
    """

    def __init__(self, energy: EnergyFn, weight: Callable[[Any], Tensor | float]) -> None:
        super().__init__(energy)
        if not callable(weight):
            raise ValueError(f"WeightedEnergy(weight={weight!r}): pass a function of the context, or use ScaledEnergy")
        self.weight = weight

    def encode(self, context: Any = None, level: int = -1) -> Weighed:
        return Weighed(self.energy.encode(context, level), self.weight(context))

    def extend(self, code: Weighed, context: Any) -> Any:
        raise NotImplementedError(
            "WeightedEnergy cannot extend a code: the weight is of the whole context, so encode that instead"
        )

    def forward(self, y: Tensor, code: Weighed | None = None) -> Tensor:
        code = self.encode() if code is None else code
        value = self.energy(y, code.code)
        weighed: Tensor = code.weight * value
        if weighed.shape != value.shape:
            shapes = f"{tuple(torch.as_tensor(code.weight).shape)}, energies {tuple(value.shape)}"
            raise ValueError(f"the weight has shape {shapes}: return a number, or one for each chain")
        return weighed


Energy._operators = Operators(SumEnergy, ScaledEnergy, WeightedEnergy, as_energy)
