"""Random-walk Metropolis: a Gaussian step, and a test by energies alone. No gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, evaluate, left
from ebm.samplers.accepting import AcceptingSampler, AcceptingState, chance, require_repeatable
from ebm.samplers.hamiltonian import Mass
from ebm.samplers.stepping import Scheduled, Steps, StepSize, as_scheduled, at, at_temperature_one


class RandomWalk(AcceptingSampler):
    """Samples p ∝ exp(−E/T) exactly by random-walk Metropolis, without gradients:

        y' = y + σ C^(1/2) ξ,    P(accept) = min(1, exp((E(y) − E(y')) / T)), chain by chain.

    For energies that are not differentiable (counts, simulators, kinks), in few dimensions: the
    number of steps grows with the dimension, and `MALA` needs far fewer where there is a gradient.
    It rejects proposals whose energy is not finite. A step costs one evaluation, the first one three,
    of which one finds energies that are drawn anew at each call.
    Aim at an acceptance of 0.44 in one dimension and 0.23 in many; `warm_up` finds σ, and C.
    Source: Metropolis et al., 1953; rates: Roberts, Gelman and Gilks, 1997.

    Arguments:
        step_size: σ: a number, a tensor (*chains,), or a schedule t -> number.
        steps: steps (proposals) per landscape, or a pair (low, high) drawn from in train mode.
        covariance: C: None (identity), a diagonal of the event's shape, or a matrix (d, d).
        temperature: T > 0; a number or a schedule.
        step_scale: s >= 1; train mode draws each chain's step from [σ/s, σs] per trajectory.

    >>> g, flat = torch.Generator().manual_seed(0), lambda y: torch.where(y.abs() < 1, 0.0, torch.inf)[:, 0]
    >>> y = RandomWalk(1.0, steps=100).sample(flat, torch.zeros(4000, 1), generator=g)
    >>> abs(y.var().item() - 1 / 3) < 0.03    # uniform on (−1, 1)
    True
    """

    stationary = at_temperature_one
    steady = True

    def __init__(
        self,
        step_size: StepSize = 0.5,
        steps: Steps = 100,
        *,
        covariance: Any = None,
        temperature: Scheduled = 1.0,
        step_scale: float = 1.0,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale)
        self.covariance = Mass(covariance, name="covariance")
        self.temperature = as_scheduled("temperature", temperature, positive=True)

    def step(
        self, energy: EnergyFn, state: AcceptingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[AcceptingState, Info]:
        y, value = state.y, energy_here(self, energy, state, create_graph)
        scale = self.scale(state, value, generator)
        with torch.no_grad():
            proposal = y + self.stride(state, scale, value, y) * self.covariance.draw(y, value.ndim, generator)
            there = evaluate(energy, proposal)
            draw = chance(value, generator)
            accepted = (draw.log() < (value - there) / at(self.temperature, state.t, positive=True)) & torch.isfinite(there)
            moved, kept = torch.where(left(accepted, y), proposal, y), torch.where(accepted, there, value)
        return AcceptingState(moved, state.t + 1, scale, state.gain, kept), Info(value, None, accepted)


def energy_here(sampler: AcceptingSampler, energy: EnergyFn, state: AcceptingState, create_graph: bool) -> Tensor:
    """Looks up, or computes, the energy at y without a gradient; raises ValueError if asked for a graph,
    and at a chain's start, where the energy is drawn anew at each call."""
    if create_graph:
        name = type(sampler).__name__
        raise ValueError(f"{name} accepts or rejects, and no gradient passes through that: leave create_graph=False")
    if state.energy is not None:
        return state.energy
    with torch.no_grad():
        value = evaluate(energy, state.y)
    if state.t == 0:
        require_repeatable(type(sampler).__name__, energy, state.y, value)
    return value
