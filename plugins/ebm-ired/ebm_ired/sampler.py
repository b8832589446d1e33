"""Descent through annealed landscapes: y⁺ = y − η s_k ∇E_k(y) where that lowers E_k, and y ·
a_(k−1) / a_k between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Info
from ebm.randomness import randn_like
from ebm.samplers import GradientDescent, Monotone
from ebm.samplers.monotone import MonotoneState
from ebm_ired.levels import levels

__all__ = ["Landscape", "LandscapeDescent"]


@dataclass(frozen=True)
class Landscape:
    """An energy function that knows its noise s, and by what factor a state grows that comes from
    the landscape before."""

    energy: EnergyFn
    noise: float
    growth: float

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(y)


class LandscapeDescent(Monotone):
    """Descends K landscapes one after the other, from the noisiest to the last, and accepts only
    what lowers the energy.

    On landscape k, `steps` times, each chain for itself:

        y' = y − step_size · s_k ∇E_k(y),    y⁺ = y' if E_k(y') < E_k(y), else y;

    and between landscapes the state is brought to the next one's scale, and may be noised anew:

        y ← y a_(k−1) / a_k + noise · s_(k−1) ξ,    ξ ~ N(0, I).

    The number of landscapes is that of the energies that are passed; a and s are those of `levels`.
    Steps are without noise: a chain that is rejected waits for the next landscape.

    Arguments:
        step_size: η, in units of the step s_k that leads to a fixed guess.
        steps: T, steps per landscape; more for harder problems.
        noise: the share of a landscape's noise that a state enters it with: 0, as in the paper,
            where the start alone is random; 1, as in diffusion models, where candidates differ more
            (which is ours).

    Raises:
        ValueError: noise is negative.

    Source: arXiv 2406.11179, algorithm 2.

    >>> bowl = lambda y: (y - 1).square().sum(-1) / 2
    >>> LandscapeDescent(step_size=0.5, steps=20).sample([bowl, bowl, bowl], torch.zeros(1, 2)).round(decimals=2)
    tensor([[1., 1.]])
    """

    def __init__(self, step_size: float = 1.0, steps: int = 5, noise: float = 0.0) -> None:
        super().__init__(GradientDescent(step_size, steps))
        if not noise >= 0:
            raise ValueError(f"noise={noise}: pass a number of at least 0")
        self.noise = noise

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        ladder = levels(len(energies))
        before = [ladder[0], *ladder]
        return [
            Landscape(energy, here.noise, here.signal / last.signal)
            for energy, here, last in zip(energies, ladder, before, strict=False)
        ]

    def init(self, energy: EnergyFn, y: Tensor, *, generator: torch.Generator | None = None) -> MonotoneState:
        return self._placed(energy, super().init(energy, y, generator=generator))

    def enter(self, energy: EnergyFn, state: MonotoneState) -> MonotoneState:
        return self._placed(energy, super().enter(energy, state))

    def step(
        self, energy: EnergyFn, state: MonotoneState, *, create_graph: bool = False, generator: torch.Generator | None = None
    ) -> tuple[MonotoneState, Info]:
        descent = state.inner
        if self.noise and state.energy is None and descent.t > 0:  # the first step of a later landscape: `enter` cannot draw
            y = descent.y + self.noise * descent.gain * randn_like(descent.y, generator)
            state = MonotoneState(descent._replace(y=y))
        return super().step(energy, state, create_graph=create_graph, generator=generator)

    def _placed(self, energy: EnergyFn, state: MonotoneState) -> MonotoneState:
        """Brings a state to a landscape's scale and step size; an energy that is on no route is at
        scale 1."""
        noise, growth = getattr(energy, "noise", 1.0), getattr(energy, "growth", 1.0)
        return MonotoneState(state.inner._replace(y=growth * state.y, gain=noise))
