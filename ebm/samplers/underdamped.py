"""Underdamped Langevin dynamics: momenta that friction slows and heat stirs, in the splitting
BAOAB."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Info, energy_and_grad
from ebm.samplers.hamiltonian import Mass
from ebm.samplers.stepping import Scheduled, SteppingSampler, Steps, StepSize, as_scheduled, at, at_temperature_one, plus


class UnderdampedState(NamedTuple):
    """A configuration and its momentum, between the two B's of neighbouring steps; None until the
    first step."""

    y: Tensor
    t: int = 0
    scale: Tensor | None = None
    gain: float = 1.0
    momentum: Tensor | None = None


class UnderdampedLangevin(SteppingSampler):
    """Samples p ∝ exp(−E/T) by Langevin dynamics with momenta p of mass M, in the splitting BAOAB:

        B: p ← p − h/2 ∇E(y),    A: y ← y + h/2 M⁻¹ p,    O: p ← e^(−γh) p + √((1 − e^(−2γh)) T)
        M^(1/2) ξ,    A,    B.

    One gradient per step: the B that ends one step and the B that begins the next are at the same
    y, and done at once. Momenta are first drawn from N(0, T M). The bias is O(h²), and on a
    Gaussian the positions have none. Chains go through long valleys faster than by
    `LangevinDynamics`, whose limit this is for γ → ∞. h must stay below 2/ω, ω² the largest
    curvature in units of M. At T = 0 it is descent with heavy-ball momentum.

    Source: Leimkuhler and Matthews, 2013 (Rational construction of stochastic numerical methods for
    molecular sampling, arXiv 1203.5428).

    Arguments:
        step_size: the time step h: a number, a tensor (*chains,), an nn.Parameter, or a schedule t
            -> number.
        steps: steps per landscape, or a pair (low, high) drawn in train mode, its upper end in eval
            mode.
        friction: γ > 0, in units of 1/time: momenta are forgotten after a time of 1/γ.
        mass: M: None for the identity, a diagonal of the event's shape, or a matrix (d, d) over the
            flattened event.
        temperature: T; a number or a schedule.
        step_scale: s >= 1: in train mode each chain's h is drawn per trajectory from [h/s, hs].
        learnable: makes h a parameter.

    >>> g = torch.Generator().manual_seed(0)
    >>> sampler = UnderdampedLangevin(step_size=0.5, steps=50)
    >>> y = sampler.sample(lambda y: (y**2).sum(-1) / 2, torch.zeros(4000, 1), generator=g)
    >>> abs(y.var().item() - 1) < 0.1
    True
    """

    stationary = at_temperature_one

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

    def init(self, energy: EnergyFn, y: Tensor, *, generator: torch.Generator | None = None) -> UnderdampedState:
        return UnderdampedState(y)

    def step(
        self, energy: EnergyFn, state: UnderdampedState, *, create_graph: bool = False, generator: torch.Generator | None = None
    ) -> tuple[UnderdampedState, Info]:
        y, momentum = state.y, state.momentum
        value, grad = energy_and_grad(energy, y, create_graph=create_graph)
        chains, temperature = value.ndim, at(self.temperature, state.t)
        scale = self.scale(state, value, generator)
        h = self.stride(state, scale, value, y)
        if momentum is None:
            momentum = math.sqrt(temperature) * self.mass.draw(y, chains, generator) if temperature else torch.zeros_like(y)
            momentum = plus(momentum, h / 2, grad)  # takes back half of the kick: no step has ended here
        kept = (-self.friction * h).exp() if isinstance(h, Tensor) else math.exp(-self.friction * h)
        momentum = plus(momentum, -h, grad)
        y = plus(y, h / 2, self.mass.velocity(momentum, chains))
        momentum = kept * momentum
        if temperature:
            momentum = plus(momentum, ((1 - kept**2) * temperature) ** 0.5, self.mass.draw(y, chains, generator))
        y = plus(y, h / 2, self.mass.velocity(momentum, chains))
        return UnderdampedState(y, state.t + 1, scale, state.gain, momentum), Info(value, grad)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, friction={self.friction:g}"
