"""Hamiltonian motion: H(y, p) = E(y)/T + pᵀ M⁻¹ p / 2, and its leapfrog steps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ebm.interfaces import EnergyFn, Info, energy_and_grad
from ebm.randomness import randn_like
from ebm.samplers.stepping import plus


class HamiltonianInfo(NamedTuple):
    """An `Info` with acceptance probability, gradient count, divergence and depth (*chains,)."""

    energy: Tensor
    grad: Tensor | None = None
    accepted: Tensor | None = None
    acceptance: Tensor | None = None
    gradients: Tensor | None = None
    diverged: Tensor | None = None
    depth: Tensor | None = None

    @property
    def grad_norm(self) -> Tensor | None:
        return Info(self.energy, self.grad).grad_norm


class Phase(NamedTuple):
    """A point of phase space: y, its momentum, and the potential E/T (*chains,) with its gradient."""

    y: Tensor
    momentum: Tensor
    value: Tensor
    grad: Tensor


class Mass(nn.Module):
    """A mass matrix M: momenta p ~ N(0, M) have velocities M⁻¹ p.

    The closer M⁻¹ is to the covariance, the fewer steps are needed.

    Arguments:
        mass: None for the identity, a number (times the identity), a positive diagonal of the
            event's shape, or a positive definite matrix (d, d) over the flattened event.
        name: what errors call it.
    """

    values: Tensor | None  # as they were passed
    factor: Tensor | None
    inverse: Tensor | None

    def __init__(self, mass: Any = None, name: str = "mass") -> None:
        super().__init__()
        self.name = name
        if isinstance(mass, int | float | list | tuple):  # as a recipe says it
            mass = torch.tensor(mass, dtype=torch.get_default_dtype())
        if mass is not None and not (isinstance(mass, Tensor) and mass.is_floating_point() and bool(mass.isfinite().all())):
            raise ValueError(f"{name}={mass!r}: pass a finite tensor, of the event's shape (a diagonal) or (d, d), or None")
        self.register_buffer("values", mass)
        self.register_buffer("factor", None)
        self.register_buffer("inverse", None)
        if mass is None:
            return
        if mass.ndim == 2 and mass.shape[0] == mass.shape[1] and torch.allclose(mass, mass.mT):
            factor, failed = torch.linalg.cholesky_ex(mass)
            if not failed:
                self.factor, self.inverse = factor, torch.cholesky_inverse(factor)
        if self.factor is None and not bool((mass > 0).all()):
            way_out = "pass a positive diagonal, or a symmetric positive definite matrix"
            raise ValueError(f"{name} of shape {tuple(mass.shape)}: {way_out}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # A mass that `warm_up` found is loaded whatever mass there was before, or none.
        if prefix + "values" in state_dict:
            for name in ("values", "factor", "inverse"):
                saved = state_dict.get(prefix + name)
                setattr(self, name, None if saved is None else saved.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def draw(self, y: Tensor, chains: int, generator: Generator | None) -> Tensor:
        """Draws momenta of y's shape; y has `chains` leading axes of chains."""
        noise = randn_like(y, generator)
        if self.values is None:
            return noise
        if self._is_diagonal(self.values, y, chains):
            return noise * self.values.to(y).sqrt()
        assert self.factor is not None
        return (_flat(noise, chains) @ self.factor.to(y).mT).reshape(y.shape)

    def velocity(self, momentum: Tensor, chains: int) -> Tensor:
        """Computes M⁻¹ p."""
        if self.values is None:
            return momentum
        if self._is_diagonal(self.values, momentum, chains):
            return momentum / self.values.to(momentum)
        assert self.inverse is not None
        return (_flat(momentum, chains) @ self.inverse.to(momentum)).reshape(momentum.shape)

    def times(self, velocity: Tensor, chains: int) -> Tensor:
        """Computes M v."""
        if self.values is None:
            return velocity
        if self._is_diagonal(self.values, velocity, chains):
            return velocity * self.values.to(velocity)
        return (_flat(velocity, chains) @ self.values.to(velocity)).reshape(velocity.shape)

    def kinetic(self, momentum: Tensor, chains: int) -> Tensor:
        """Computes pᵀ M⁻¹ p / 2, (*chains,)."""
        return inner(momentum, self.velocity(momentum, chains), chains) / 2

    def _is_diagonal(self, values: Tensor, y: Tensor, chains: int) -> bool:
        event = tuple(y.shape[chains:])
        if values.ndim == 0 or values.shape == event:
            return True
        size = math.prod(event)
        if self.factor is None or values.shape != (size, size):
            what = f"{self.name} of shape {tuple(values.shape)} for events {event}"
            raise ValueError(f"{what}: pass a diagonal {event}, or a matrix {(size, size)}")
        return False


def inner(a: Tensor, b: Tensor, chains: int) -> Tensor:
    """Computes the inner product of events, (*chains,)."""
    return _flat(a * b, chains).sum(-1)


def _flat(y: Tensor, chains: int) -> Tensor:
    return y if y.ndim == chains + 1 else y.reshape(*y.shape[:chains], -1)


def leapfrogs(
    energy: EnergyFn, phase: Phase, mass: Mass, step_size: float | Tensor, temperature: float | Tensor = 1.0, count: int = 1
) -> Phase:
    """Takes leapfrog steps: half a kick, a drift, half a kick, with one gradient at each new y.

    Where two half kicks meet they are one, so L steps cost L gradients and L + 1 kicks.
    """
    chains, y, value, grad = phase.value.ndim, phase.y, phase.value, phase.grad
    half, heated = step_size / 2, isinstance(temperature, Tensor) or temperature != 1
    back, back_half = -step_size, -half
    momentum = plus(phase.momentum, back_half, grad)
    for left in range(count, 0, -1):
        y = plus(y, step_size, mass.velocity(momentum, chains))
        value, grad = energy_and_grad(energy, y)
        if heated:
            value, grad = value / temperature, grad / temperature
        momentum = plus(momentum, back if left > 1 else back_half, grad)
    return Phase(y, momentum, value, grad)
