"""HMC: a fresh momentum, L leapfrog steps, and a Metropolis test of the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn
from ebm.samplers.accepting import AcceptingSampler, AcceptingState, chance
from ebm.samplers.hamiltonian import HamiltonianInfo, Mass, Phase, leapfrogs
from ebm.samplers.stepping import Scheduled, Steps, StepSize, as_scheduled, at, at_temperature_one


class HMC(AcceptingSampler):
    """Samples p ∝ exp(−E/T) exactly by Hamiltonian Monte Carlo. With p ~ N(0, M), L times

        p ← p − ε/2 ∇E(y)/T,    y ← y + ε M⁻¹ p,    p ← p − ε/2 ∇E(y)/T,

    and accepts the end (y', p') with probability min(1, exp(H(y, p) − H(y', p'))), chain by chain,
    where H = E/T + pᵀ M⁻¹ p / 2.

    A step costs L gradients, the first one L + 1 and an evaluation. It rejects ends that are not finite. Aim at an
    acceptance of 0.65 to 0.8; `warm_up` finds step size and mass. Where paths of length ε L are
    whole turns of a landscape, chains hardly move: change L, or vary ε by a schedule.
    Source: Duane et al., 1987; Neal, 2011 (arXiv 1206.1901).

    Arguments:
        step_size: ε: a number, a tensor (*chains,), or a schedule t -> number.
        steps: steps (proposals) per landscape, or a pair (low, high) drawn from in train mode.
        leapfrog_steps: L.
        mass: M: None (identity), a diagonal of the event's shape, or a matrix (d, d).
        temperature: T > 0; a number or a schedule.
        step_scale: s >= 1; train mode draws each chain's step from [ε/s, εs] per trajectory.

    >>> g, normal = torch.Generator().manual_seed(0), lambda y: (y**2).sum(-1) / 2
    >>> y = HMC(0.5, leapfrog_steps=5, steps=20).sample(normal, torch.zeros(4000, 1), generator=g)
    >>> abs(y.var().item() - 1) < 0.1
    True
    """

    stationary = at_temperature_one
    steady = True
    heated = 0.5  # a time: paths are as long as the landscape is wide

    def __init__(
        self,
        step_size: StepSize = 0.1,
        steps: Steps = 100,
        *,
        leapfrog_steps: int = 10,
        mass: Tensor | None = None,
        temperature: Scheduled = 1.0,
        step_scale: float = 1.0,
    ) -> None:
        super().__init__(step_size, steps, step_scale=step_scale)
        if not isinstance(leapfrog_steps, int) or leapfrog_steps < 1:
            raise ValueError(f"leapfrog_steps={leapfrog_steps}: pass a whole number, a path has at least one step")
        self.leapfrog_steps, self.mass = leapfrog_steps, Mass(mass)
        self.temperature = as_scheduled("temperature", temperature, positive=True)

    def step(
        self, energy: EnergyFn, state: AcceptingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[AcceptingState, Any]:
        y, (value, grad) = state.y, self.here(energy, state, create_graph)
        chains, temperature = value.ndim, at(self.temperature, state.t, positive=True)
        scale = self.scale(state, value, generator)
        step_size = self.stride(state, scale, value, y)
        momentum, heated = self.mass.draw(y, chains, generator), isinstance(temperature, Tensor) or temperature != 1
        start = Phase(y, momentum, *((value / temperature, grad / temperature) if heated else (value, grad)))
        end = leapfrogs(energy, start, self.mass, step_size, temperature, self.leapfrog_steps)
        before, after = (phase.value + self.mass.kinetic(phase.momentum, chains) for phase in (start, end))
        # Not finite where the end's energy, its momentum, or its gradient, which is part of the momentum, is not.
        acceptance = torch.where(after.abs() < torch.inf, (before - after).clamp(max=0).exp(), 0.0)
        accepted = chance(value, generator) < acceptance
        new = (end.y, end.value * temperature, end.grad * temperature) if heated else (end.y, end.value, end.grad)
        kept = self.settled(state, scale, accepted, new, (y, value, grad))
        gradients = torch.full_like(value, self.leapfrog_steps, dtype=torch.long)
        return kept, HamiltonianInfo(value, grad, accepted, acceptance, gradients)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, leapfrog_steps={self.leapfrog_steps}"
