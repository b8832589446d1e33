"""Underdamped Langevin dynamics: momenta with friction and noise, in the splitting BAOAB."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, energy_and_grad, savable
from ebm.samplers.hamiltonian import Mass
from ebm.samplers.stepping import (
    Scheduled,
    SteppingSampler,
    Steps,
    StepSize,
    as_scheduled,
    at,
    at_temperature_one,
    is_noise,
    plus,
)


@savable
class UnderdampedState(NamedTuple):
    """A configuration and its momentum, which is None until the first step."""

    y: Tensor
    t: int = 0
    scale: Tensor | None = None
    gain: float = 1.0
    momentum: Tensor | None = None


class UnderdampedLangevin(SteppingSampler):
    """Samples p ∝ exp(−E/T) by Langevin dynamics with momenta p of mass M, in the splitting BAOAB:

        B: p ← p − h/2 ∇E(y),    A: y ← y + h/2 M⁻¹ p,
        O: p ← e^(−γh) p + √((1 − e^(−2γh)) T) M^(1/2) ξ,    A,    B.

    A step costs one gradient, since neighbouring B's share it. Momenta start from N(0, T M). The
    bias is O(h²), and zero for positions on a Gaussian. Chains cross long valleys faster than with
    `LangevinDynamics`, the limit γ → ∞. h must stay below 2/ω, with ω² the largest curvature in
    units of M. T = 0 is descent with heavy-ball momentum. Source: Leimkuhler and Matthews, 2013
    (Rational construction of stochastic numerical methods for molecular sampling, arXiv 1203.5428).

    Arguments:
        step_size: h: a number, a tensor (*chains,), an nn.Parameter, or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        friction: γ > 0: momenta are forgotten after a time of 1/γ.
        mass: M: None (identity), a diagonal of the event's shape, or a matrix (d, d).
        temperature: T; a number or a schedule.
        step_scale: s >= 1; train mode draws each chain's h from [h/s, hs] per trajectory.
        learnable: makes h a parameter.

    >>> g, normal = torch.Generator().manual_seed(0), lambda y: (y**2).sum(-1) / 2
    >>> y = UnderdampedLangevin(0.5, steps=50).sample(normal, torch.zeros(4000, 1), generator=g)
    >>> abs(y.var().item() - 1) < 0.1
    True
    """

    stationary = at_temperature_one
    steady = True
    heated = 0.25  # a time, and without a test
    begins = UnderdampedState

    def __init__(
        self,
        step_size: StepSize = 0.1,
        steps: Steps = 100,
        *,
        friction: float = 1.0,
        mass: Tensor | None = None,
        temperature: Scheduled = 1.0,
        step_scale: float = 1.0,
        learnable: bool = False,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale, learnable=learnable)
        if not 0 < friction < math.inf:
            raise ValueError(f"friction={friction}: pass a positive number; without friction it would be HMC without its test")
        self.friction, self.mass = float(friction), Mass(mass)
        self.temperature = as_scheduled("temperature", temperature)

    def step(
        self, energy: EnergyFn, state: UnderdampedState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[UnderdampedState, Info]:
        y, momentum = state.y, state.momentum
        value, grad = energy_and_grad(energy, y, create_graph=create_graph)
        chains, temperature = value.ndim, at(self.temperature, state.t)
        scale = self.scale(state, value, generator)
        h = self.stride(state, scale, value, y)
        if momentum is None:
            drawn = is_noise(temperature)
            momentum = temperature**0.5 * self.mass.draw(y, chains, generator) if drawn else torch.zeros_like(y)
            momentum = plus(momentum, h / 2, grad)  # no step ended here: undoes half of the kick
        library: Any = torch if isinstance(h, Tensor) else math
        momentum = plus(momentum, -h, grad)
        y = plus(y, h / 2, self.mass.velocity(momentum, chains))
        momentum = library.exp(-self.friction * h) * momentum
        if is_noise(temperature):
            variance = -library.expm1(-2 * self.friction * h) * temperature
            momentum = plus(momentum, variance**0.5, self.mass.draw(y, chains, generator))
        y = plus(y, h / 2, self.mass.velocity(momentum, chains))
        return UnderdampedState(y, state.t + 1, scale, state.gain, momentum), Info(value, grad)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, friction={self.friction:g}"
