"""Preconditioned Langevin dynamics: long steps along flat directions, short along steep ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, State, energy_and_grad, savable
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
    std_of,
)


class PreconditionedLangevin(SteppingSampler):
    """Samples p ∝ exp(−E/T) by unadjusted Langevin dynamics in the metric of a fixed matrix P:

        y⁺ = y − ε P ∇E(y) + √(2εT) P^(1/2) ξ.

    Any positive definite P keeps the distribution, up to a bias of O(ε) as in `LangevinDynamics`.
    The closer P is to the covariance, the fewer steps. ε must stay below 2 / (largest eigenvalue of
    P ∇²E).
    Source: Roberts and Stramer, 2002 (Langevin diffusions and Metropolis-Hastings algorithms).

    Arguments:
        preconditioner: P: a number, a diagonal of the event's shape, or a matrix (d, d).
        step_size: ε: a number, a tensor (*chains,), an nn.Parameter, or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        temperature: T; a number or a schedule.
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.
        learnable: makes the step size a parameter.

    >>> scales, g = torch.tensor([1.0, 100.0]), torch.Generator().manual_seed(0)
    >>> energy = lambda y: (y / scales).square().sum(-1) / 2
    >>> sampler = PreconditionedLangevin(scales**2, step_size=0.1, steps=50)
    >>> y = sampler.sample(energy, torch.zeros(4000, 2), generator=g)
    >>> bool((y.std(0) / scales - 1).abs().max() < 0.1)
    True
    """

    stationary = at_temperature_one
    steady = True

    def __init__(
        self,
        preconditioner: float | Sequence[Any] | Tensor,
        step_size: StepSize = 0.1,
        steps: Steps = 100,
        *,
        temperature: Scheduled = 1.0,
        step_scale: float = 1.0,
        learnable: bool = False,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale, learnable=learnable)
        if preconditioner is None:
            raise ValueError("preconditioner=None is LangevinDynamics: pass a positive number or diagonal, or a matrix")
        self.preconditioner = Mass(preconditioner, name="preconditioner")
        self.temperature = as_scheduled("temperature", temperature)

    def step(
        self, energy: EnergyFn, state: State, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[State, Info]:
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        scale, chains = self.scale(state, value, generator), value.ndim
        step_size = self.stride(state, scale, value, state.y)
        y = plus(state.y, -step_size, self.preconditioner.times(grad, chains))
        if is_noise(temperature := at(self.temperature, state.t)):
            y = plus(y, std_of(step_size, temperature), self.preconditioner.draw(y, chains, generator))
        return State(y, state.t + 1, scale, state.gain), Info(value, grad)


@savable
class RMSpropState(NamedTuple):
    """A configuration, and the running mean of its gradients' squares."""

    y: Tensor
    t: int = 0
    scale: Tensor | None = None
    gain: float = 1.0
    square: Tensor | None = None


class RMSpropLangevin(SteppingSampler):
    """Samples roughly from p ∝ exp(−E/T) with a diagonal metric that each chain adapts (pSGLD):

        v ← α v + (1 − α) ∇E(y)²,    P = 1 / (√v + λ),    y⁺ = y − ε P ∇E(y) + √(2εT P) ξ,

    with v₀ = ∇E(y₀)². For rough landscapes of unknown scales: network weights, raw features. As in
    the paper's practice it leaves out Γ, the divergence of P, which biases it at any ε where P
    varies: for moments use `PreconditionedLangevin` or an exact sampler.
    Source: Li et al., 2016 (arXiv 1512.07666), algorithm 1, where v₀ = 0 makes first steps longer.

    Arguments:
        step_size: ε: a number, a tensor (*chains,), an nn.Parameter, or a schedule t -> number.
        steps: steps per landscape, or a pair (low, high) drawn from in train mode.
        decay: α, from 0 to below 1.
        eps: λ > 0, the smallest divisor, in units of gradients.
        temperature: T; a number or a schedule.
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.
        learnable: makes the step size a parameter.

    >>> scales, g = torch.tensor([1.0, 100.0]), torch.Generator().manual_seed(0)
    >>> energy, start = lambda y: (y / scales).square().sum(-1) / 2, scales * torch.ones(1000, 2)
    >>> y = RMSpropLangevin(step_size=0.1, steps=400).sample(energy, start, generator=g)
    >>> bool((y.std(0) / scales).log2().abs().max() < 1)    # right within a factor of two
    True
    """

    stationary = False
    steady = True
    heated = 0.25  # P grows by a root of T already
    begins = RMSpropState

    def __init__(
        self,
        step_size: StepSize = 0.01,
        steps: Steps = 100,
        *,
        decay: float = 0.99,
        eps: float = 1e-5,
        temperature: Scheduled = 1.0,
        step_scale: float = 1.0,
        learnable: bool = False,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale, learnable=learnable)
        if not 0 <= decay < 1 or not 0 < eps < math.inf:
            raise ValueError(f"decay={decay}, eps={eps}: pass a decay from 0 to below 1, and a positive eps")
        self.decay, self.eps, self.temperature = decay, eps, as_scheduled("temperature", temperature)

    def step(
        self, energy: EnergyFn, state: RMSpropState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[RMSpropState, Info]:
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        square = grad.square() if state.square is None else torch.lerp(grad.square(), state.square, self.decay)
        # The root's derivative is infinite at 0, and finite at the smallest number above.
        metric = 1 / ((square + torch.finfo(square.dtype).tiny).sqrt() + self.eps)
        scale = self.scale(state, value, generator)
        step_size = self.stride(state, scale, value, state.y)
        y = plus(state.y, -step_size, metric * grad)
        if is_noise(temperature := at(self.temperature, state.t)):
            y = plus(y, std_of(step_size, temperature), metric.sqrt() * self.normals(y, generator))
        return RMSpropState(y, state.t + 1, scale, state.gain, square), Info(value, grad)
