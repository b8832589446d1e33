"""Energies made of energies: sums (products of experts), scaled or tempered ones, and an added quadratic prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebm.energies.unconditional import Unconditional
from ebm.interfaces import Energy, EnergyFn, Given

__all__ = ["Function", "ScaledEnergy", "SumEnergy", "WithPrior"]


class Function(Unconditional):
    """Wraps a plain function y (*chains, *event) -> (*chains,) as an energy; the parameters of a module in it are found.

    >>> Function(lambda y: y.square().sum(-1))(torch.ones(3, 2))
    tensor([2., 2., 2.])
    """

    def __init__(self, function: EnergyFn) -> None:
        super().__init__()
        if not callable(function):
            raise ValueError(f"{function!r} is no energy: pass an Energy, or a function of y")
        self.function = function
        # A bound energy is no module, but it has one.
        self.bound = function.energy if isinstance(function, Given) else None

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,)."""
        return self.function(y)

    def extra_repr(self) -> str:
        return "" if isinstance(self.function, nn.Module) else getattr(self.function, "__name__", repr(self.function))


class Several(Energy):
    """Stands for several energies of the same y, with one context for all of them; what it makes of their values, `forward` says.

    The context goes to every part (plain functions do without); the code is the tuple of the parts' codes. A part with one
    landscape is repeated for all landscapes of the others.
    """

    energies: Any  # an nn.ModuleList of Energy

    def __init__(self, energies: Sequence[EnergyFn]) -> None:
        super().__init__()
        parts = [as_energy(energy) for energy in energies]
        levels = [part.levels for part in parts]
        if not parts or len({*levels} - {1}) > 1:
            what = type(self).__name__
            raise ValueError(f"{what} of parts with {levels} landscapes: pass parts with one, or all with the same number")
        self.energies, self.levels = nn.ModuleList(parts), max(levels)

    def encode(self, context: Any = None, level: int = -1) -> tuple[Any, ...]:
        """Encodes the context for every part."""
        return tuple(part.encode(context, -1 if part.levels == 1 else level) for part in self.energies)

    def extend(self, code: tuple[Any, ...], context: Any) -> tuple[Any, ...]:
        """Extends every part's code."""
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
    """Adds energies up: E(y) = Σᵢ Eᵢ(y), the product of their densities. What `e1 + e2` makes.

    The context goes to every part (plain functions do without); the code is the tuple of the parts' codes. A part with one
    landscape is repeated for all landscapes of the others. Sums within sums are flattened.

    Source: Training products of experts by minimizing contrastive divergence (Hinton, 2002), equation 1.

    Arguments:
        energies: energies, or functions of y.

    Raises:
        ValueError: for no parts, parts that cannot be called, parts with different numbers of landscapes other than one,
            and (at the call) parts that disagree on what a chain is.

    >>> energy = SumEnergy([lambda y: y.square().sum(-1), lambda y: y.sum(-1)])
    >>> (energy + (lambda y: -y.sum(-1)))(torch.ones(3, 2))
    tensor([2., 2., 2.])
    """

    def __init__(self, energies: Sequence[EnergyFn]) -> None:
        parts: list[EnergyFn] = []
        for energy in energies:
            parts += energy.energies if isinstance(energy, SumEnergy) else [energy]
        super().__init__(parts)

    def forward(self, y: Tensor, code: tuple[Any, ...] | None = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,)."""
        values = self.values(y, code)
        return sum(values[1:], start=values[0])


class Modified(Energy):
    """Stands for one energy with its values changed: landscapes, codes and contexts are that energy's own."""

    def __init__(self, energy: EnergyFn) -> None:
        super().__init__()
        self.energy = as_energy(energy)
        self.levels = self.energy.levels

    def encode(self, context: Any = None, level: int = -1) -> Any:
        """Encodes the context for the energy."""
        return self.energy.encode(context, level)

    def extend(self, code: Any, context: Any) -> Any:
        """Extends the energy's code."""
        return self.energy.extend(code, context)


class ScaledEnergy(Modified):
    """Multiplies an energy by a number: c E(y), the density to the power c. What `c * e` makes, and `e / T`, with c = 1/T.

    Arguments:
        energy: an energy, or a function of y.
        scale: c; a negative one turns the landscape over, an nn.Parameter is learned.

    Raises:
        ValueError: for a scale that is no finite number.

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
        """Maps y (*chains, *event) to energies (*chains,)."""
        return self.scale * self.energy(y, code)

    def extra_repr(self) -> str:
        return f"scale={float(torch.as_tensor(self.scale).detach()):g}"


class WithPrior(Modified):
    """Adds a quadratic prior to an energy: E(y) + |y|² / (2σ²), the density times N(0, σ²); no chain escapes it.

    The norm runs over each chain's event: the axes of y that the energy's output does not have.

    Arguments:
        energy: an energy, or a function of y.
        std: σ, in units of y.

    Raises:
        ValueError: for a standard deviation that is no positive number.

    >>> WithPrior(lambda y: y.sum((-3, -2, -1)), std=2.0)(torch.ones(3, 1, 2, 2))
    tensor([4.5000, 4.5000, 4.5000])
    """

    def __init__(self, energy: EnergyFn, std: float = 1.0) -> None:
        super().__init__(energy)
        if not 0 < std < math.inf:
            raise ValueError(f"WithPrior(std={std}): pass a positive number")
        self.std = std

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,)."""
        energy = self.energy(y, code)
        event = y[..., None].flatten(energy.ndim)  # with an axis added, so that something is left where a chain is a number
        return energy + event.square().sum(-1) / (2 * self.std**2)

    def extra_repr(self) -> str:
        return f"std={self.std:g}"


def as_energy(energy: EnergyFn) -> Energy:
    """Takes an energy as it is, and wraps a plain function.

    Raises:
        ValueError: for what cannot be called.
    """
    return energy if isinstance(energy, Energy) else Function(energy)
