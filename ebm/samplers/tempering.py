"""Parallel tempering: replicas at rising temperatures, which exchange their configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, evaluate, left
from ebm.samplers.wrapper import Wrapper


class ParallelTemperingState(NamedTuple):
    """The inner sampler's state over all replicas, the coldest first along a leading axis; y is the
    coldest's."""

    inner: Any
    t: int = 0

    @property
    def y(self) -> Tensor:
        return self.inner.y[0]


class Tempered:
    """E / T, with a temperature for each entry of y's leading axis."""

    def __init__(self, energy: EnergyFn, temperatures: Sequence[float]) -> None:
        self.energy, self.temperatures = energy, temperatures  # modules behind an energy are found by this name

    def __call__(self, y: Tensor) -> Tensor:
        value = evaluate(self.energy, y)
        return value / left(value.new_tensor(self.temperatures), value)


class ParallelTempering(Wrapper):
    """Samples p ∝ exp(−E) with replicas at temperatures 1 = T₁ < … < T_R, of which the hot ones
    cross barriers.

    After a step of the inner sampler on E / Tᵣ, for all replicas at once, neighbours r and r + 1
    exchange their configurations with probability

        min(1, exp((1/Tᵣ − 1/Tᵣ₊₁) (Eᵣ − Eᵣ₊₁))),

    chain by chain, pairs with even and odd r by turns. The trajectory's y is the coldest replica's.
    For the inner sampler and the energy replicas are y's leading axis; all of them start at y. What
    the inner state holds for each chain is exchanged with it, and what it cached of the landscape
    is dropped. One more evaluation per step, without gradient.

    `info.accepted` is the coldest replica's exchange; when it is not its turn, that of the pair
    above it.

    Source: Geyer, 1991; Hukushima and Nemoto, 1996.

    Arguments:
        sampler: moves each replica: any that leaves exp(−E) alone, of which hot replicas need no
            other step size. Not one that anneals.
        temperatures: 1 = T₁ < … < T_R.

    Raises:
        ValueError: for fewer than two temperatures, or others than these.

    >>> from ebm.samplers import MALA
    >>> sampler = ParallelTempering(MALA(step_size=0.2), temperatures=(1.0, 3.0, 9.0))
    >>> wells = lambda y: 8 * (y.square().sum(-1) - 1) ** 2                              # a barrier of height 8 between two
    >>> y = sampler.sample(wells, torch.ones(500, 1), steps=300, generator=torch.Generator().manual_seed(0))
    >>> 0.4 < (y > 0).float().mean().item() < 0.6
    True
    """

    differentiable = False

    def __init__(self, sampler: Sampler, temperatures: Sequence[float] = (1.0, 2.0, 4.0)) -> None:
        super().__init__(sampler)
        self.temperatures = tuple(map(float, temperatures))
        rising = all(a < b for a, b in zip(self.temperatures, self.temperatures[1:], strict=False))
        if len(self.temperatures) < 2 or self.temperatures[0] != 1 or not rising or self.temperatures[-1] == torch.inf:
            raise ValueError(f"temperatures={[*temperatures]}: pass at least two finite ones, rising from 1, the one that counts")

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        if len(self.sampler.route(energies)) != len(energies):
            raise ValueError("an annealed sampler cannot be tempered: wrap the other way round, Annealed(ParallelTempering(…))")
        return energies

    def init(self, energy: EnergyFn, y: Tensor, *, generator: torch.Generator | None = None) -> ParallelTemperingState:
        replicas = y.expand(len(self.temperatures), *y.shape).clone()
        return ParallelTemperingState(self.sampler.init(self._tempered(energy), replicas, generator=generator))

    def enter(self, energy: EnergyFn, state: ParallelTemperingState) -> ParallelTemperingState:
        return state._replace(inner=self.sampler.enter(self._tempered(energy), state.inner))

    def step(
        self,
        energy: EnergyFn,
        state: ParallelTemperingState,
        *,
        create_graph: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[ParallelTemperingState, Info]:
        if create_graph:
            raise ValueError("ParallelTempering accepts or rejects exchanges, which no gradient passes: leave create_graph=False")
        tempered = self._tempered(energy)
        inner, info = self.sampler.step(tempered, state.inner, generator=generator)
        with torch.no_grad():
            value = evaluate(energy, self.sampler.point(inner.y))
        count = len(self.temperatures)
        first = state.t % 2 if count > 2 else 0
        colder = torch.arange(first, count - 1, 2, device=value.device)
        cold = 1 / value.new_tensor(self.temperatures)
        log_ratio = left(cold[colder] - cold[colder + 1], value) * (value[colder] - value[colder + 1])
        draws = torch.rand(log_ratio.shape, generator=generator, dtype=value.dtype, device=value.device)
        accepted = draws.log() < log_ratio
        source = torch.arange(count, device=value.device).reshape(-1, *[1] * (value.ndim - 1)).repeat(1, *value.shape[1:])
        source[colder] += accepted.long()
        source[colder + 1] -= accepted.long()
        inner = self.sampler.enter(tempered, _exchange(inner, source))
        told = info.energy[0] + 0 * info.energy.sum(0)  # so that a hot replica that is not finite stops the run, too
        grad = None if info.grad is None else info.grad[0]
        return ParallelTemperingState(inner, state.t + 1), Info(told, grad, accepted[0])

    def _tempered(self, energy: EnergyFn) -> EnergyFn:
        return Tempered(energy, self.temperatures)

    def extra_repr(self) -> str:
        return f"temperatures={self.temperatures}"


def _exchange(state: Any, source: Tensor) -> Any:
    """Takes each replica's fields from another, chain by chain; what is no tensor (*replicas,
    *chains, …) stays."""
    if isinstance(state, Tensor):
        if state.shape[: source.ndim] != source.shape:
            return state
        return state.gather(0, left(source, state).expand(state.shape))
    if isinstance(state, tuple):
        fields = [_exchange(field, source) for field in state]
        return type(state)(*fields) if hasattr(state, "_fields") else type(state)(fields)
    return state
