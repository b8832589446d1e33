"""Annealing: one sampler over a sequence of landscapes, each with its step size and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, ScaledEnergy, savable
from ebm.samplers.wrapper import Wrapper


@savable
class AnnealedState(NamedTuple):
    """The inner sampler's state, and the number of the landscape it is on."""

    inner: Any
    level: int = 0

    @property
    def y(self) -> Tensor:
        return self.inner.y


class Annealed(Wrapper):
    """Anneals a sampler over a sequence of landscapes, or over temperatures of a single one.

    An energy E and temperatures T_1 … T_L make the landscapes E/T_1 … E/T_L. For noise levels σ_1 >
    … > σ_L, annealed Langevin dynamics has step_scales (σ_l/σ_L)². Source: Song and Ermon, 2019
    (arXiv 1907.05600), algorithm 1; temperatures: Kirkpatrick et al., 1983.

    Arguments:
        sampler: moves on each landscape; its `steps` are steps per landscape.
        temperatures: T_1 … T_L, for a single energy; the last is usually 1.
        step_scales: each landscape's multiplier of the step size; none means 1.

    >>> from ebm.samplers import LangevinDynamics
    >>> annealed = Annealed(LangevinDynamics(0.01, steps=5), temperatures=[8.0, 4.0, 2.0, 1.0])
    >>> sum(1 for _ in annealed.trajectory(lambda y: (y**2).sum(-1), torch.zeros(1, 2)))
    20
    """

    def __init__(self, sampler: Sampler, temperatures: Sequence[float] = (), step_scales: Sequence[float] = ()) -> None:
        super().__init__(sampler)
        for name, values in (("temperatures", temperatures), ("step_scales", step_scales)):
            if not all(value > 0 for value in values):
                raise ValueError(f"{name}={list(values)}: pass positive numbers")
        if temperatures and step_scales and len(temperatures) != len(step_scales):
            raise ValueError(f"{len(temperatures)} temperatures, but {len(step_scales)} step_scales: pass one per landscape")
        self.temperatures, self.step_scales = tuple(temperatures), tuple(step_scales)

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        if self.temperatures:
            if len(energies) != 1:
                raise ValueError(f"temperatures anneal a single energy, but there are {len(energies)} landscapes")
            energies = [ScaledEnergy(energies[0], 1 / temperature) for temperature in self.temperatures]
        if self.step_scales and len(self.step_scales) != len(energies):
            raise ValueError(f"{len(self.step_scales)} step_scales for {len(energies)} landscapes: pass one for each")
        return energies

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> AnnealedState:
        return self._gained(AnnealedState(self.sampler.init(energy, y, generator=generator)))

    def enter(self, energy: EnergyFn, state: AnnealedState) -> AnnealedState:
        return self._gained(AnnealedState(self.sampler.enter(energy, state.inner), state.level + 1))

    def step(
        self, energy: EnergyFn, state: AnnealedState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[AnnealedState, Info]:
        inner, info = self.sampler.step(energy, state.inner, create_graph=create_graph, generator=generator)
        return AnnealedState(inner, state.level), info

    def _gained(self, state: AnnealedState) -> AnnealedState:
        if not self.step_scales:
            return state
        if not hasattr(state.inner, "gain"):
            raise ValueError(f"{type(self.sampler).__name__}'s state has no gain: step_scales need a sampler with a step size")
        level = state.level % len(self.step_scales)
        return AnnealedState(state.inner._replace(gain=self.step_scales[level]), level)
