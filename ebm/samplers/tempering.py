"""Parallel tempering: replicas at rising temperatures, which exchange their configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map  # private, but what torch.func itself maps trees by

from ebm.interfaces import EnergyFn, Info, Sampler, evaluate, left, savable
from ebm.samplers.accepting import chance, require_repeatable
from ebm.samplers.wrapper import Wrapper


@savable
class ParallelTemperingState(NamedTuple):
    """The inner state over all replicas, along a leading axis; y is the first, coldest one's."""

    inner: Any
    t: int = 0

    @property
    def y(self) -> Tensor:
        return self.inner.y[0]


class Tempered:
    """E / T, with a temperature for each entry of y's leading axis."""

    def __init__(self, energy: EnergyFn, temperatures: Sequence[float]) -> None:
        self.energy, self.temperatures = energy, temperatures  # `modules_of` looks for `.energy`

    def __call__(self, y: Tensor) -> Tensor:
        value = evaluate(self.energy, y)
        return value / left(value.new_tensor(self.temperatures), value)


class ParallelTempering(Wrapper):
    """Samples p ∝ exp(−E) with replicas at temperatures 1 = T₁ < … < T_R; hot ones cross barriers.

    The inner sampler moves all replicas at once on E / Tᵣ, along a leading axis; all start at y.
    Then neighbours r and r + 1 exchange configurations, chain by chain, with probability

        min(1, exp((1/Tᵣ − 1/Tᵣ₊₁) (Eᵣ − Eᵣ₊₁))),

    alternately for even and odd r. E/T is about √T times as wide, so that a replica's step size
    grows with its temperature: by Tᵣ in MALA, whose noise is √(2ε), and by √Tᵣ in HMC and NUTS, where
    it is a time. With one size for all, hot replicas hardly move, and modes far apart are not weighed
    against each other. Samplers without a test grow it by the root of that (Langevin √Tᵣ, underdamped
    Tᵣ^¼), since hot chains meet steeper walls; pass step_scales=temperatures where E grows no faster
    than quadratically. The trajectory's y is the coldest replica's. The inner state's
    fields per chain are exchanged too, and what it caches is dropped. A step costs one more
    evaluation, without gradient. `info.accepted` is the exchange of the coldest pair of that step.
    Source: Geyer, 1991; Hukushima and Nemoto, 1996.

    Arguments:
        sampler: moves each replica; any that preserves exp(−E) and does not anneal.
        temperatures: at least two, rising from 1.
        step_scales: what each replica's step size is multiplied by; None is as above, and ones give
            all replicas the same.

    >>> from ebm.samplers import MALA
    >>> sampler = ParallelTempering(MALA(step_size=0.2), temperatures=(1.0, 3.0, 9.0))
    >>> g, wells = torch.Generator().manual_seed(0), lambda y: 8 * (y.square().sum(-1) - 1) ** 2
    >>> y = sampler.sample(wells, torch.ones(500, 1), steps=300, generator=g)    # barrier: 8
    >>> 0.4 < (y > 0).float().mean().item() < 0.6
    True
    """

    differentiable = False

    def __init__(
        self, sampler: Sampler, temperatures: Sequence[float] = (1.0, 2.0, 4.0), step_scales: Sequence[float] | None = None
    ) -> None:
        super().__init__(sampler)
        self.temperatures = tuple(map(float, temperatures))
        rising = all(a < b for a, b in zip(self.temperatures, self.temperatures[1:], strict=False))
        if len(self.temperatures) < 2 or self.temperatures[0] != 1 or not rising or self.temperatures[-1] == torch.inf:
            raise ValueError(f"temperatures={[*temperatures]}: pass at least two finite ones, rising from 1, the one that counts")
        heated = getattr(sampler, "heated", 0.0)
        self.scales = tuple(t**heated for t in self.temperatures) if step_scales is None else tuple(map(float, step_scales))
        count = len(self.temperatures)
        if len(self.scales) != count or not all(0 < scale < torch.inf for scale in self.scales):
            raise ValueError(f"step_scales={[*self.scales]}: pass a positive one for each of {count} temperatures")

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        if len(self.sampler.route(energies)) != len(energies):
            raise ValueError("an annealed sampler cannot be tempered: wrap the other way round, Annealed(ParallelTempering(…))")
        return energies

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> ParallelTemperingState:
        replicas = y.expand(len(self.temperatures), *y.shape).clone()
        tempered = Tempered(energy, self.temperatures)
        return ParallelTemperingState(self.sampler.init(tempered, replicas, generator=generator))

    def enter(self, energy: EnergyFn, state: ParallelTemperingState) -> ParallelTemperingState:
        return state._replace(inner=self.sampler.enter(Tempered(energy, self.temperatures), state.inner))

    def step(
        self, energy: EnergyFn, state: ParallelTemperingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[ParallelTemperingState, Info]:
        if create_graph:
            raise ValueError("ParallelTempering accepts or rejects exchanges, which no gradient passes: leave create_graph=False")
        tempered = Tempered(energy, self.temperatures)
        inner, info = self.sampler.step(tempered, self._geared(state.inner, state.inner), generator=generator)
        inner = self._geared(inner, state.inner, back=True)
        with torch.no_grad():
            value = evaluate(energy, self.sampler.point(inner.y))
            if state.t == 0:
                require_repeatable("ParallelTempering", energy, self.sampler.point(inner.y), value)
        count = len(self.temperatures)
        first = state.t % 2 if count > 2 else 0
        colder = torch.arange(first, count - 1, 2, device=value.device)
        cold = 1 / value.new_tensor(self.temperatures)
        log_ratio = left(cold[colder] - cold[colder + 1], value) * (value[colder] - value[colder + 1])
        draws = chance(log_ratio, generator)
        accepted = draws.log() < log_ratio
        source = torch.arange(count, device=value.device).reshape(-1, *[1] * (value.ndim - 1)).repeat(1, *value.shape[1:])
        source[colder] += accepted.long()
        source[colder + 1] -= accepted.long()
        inner = self.sampler.enter(tempered, _exchange(inner, source))
        told = info.energy[0] + 0 * info.energy.sum(0)  # not finite if any replica is not
        grad = None if info.grad is None else info.grad[0]
        return ParallelTemperingState(inner, state.t + 1), Info(told, grad, accepted[0])

    def _geared(self, state: Any, before: Any, back: bool = False) -> Any:
        """Gives each replica its step size, by the state's `gain`, or gives the gain of before back."""
        if set(self.scales) == {1.0}:
            return state
        if "gain" not in state._fields:
            return state._replace(inner=self._geared(state.inner, before.inner, back)) if "inner" in state._fields else state
        scales = before.y.new_tensor(self.scales).reshape(-1, *[1] * (before.y.ndim - 1))
        return state._replace(gain=before.gain if back else before.gain * scales)

    def extra_repr(self) -> str:
        return f"temperatures={self.temperatures}"


def _exchange(state: Any, source: Tensor) -> Any:
    """Takes each replica's fields from another, chain by chain; other fields stay."""

    def exchange(field: Any) -> Any:
        per_replica = isinstance(field, Tensor) and field.shape[: source.ndim] == source.shape
        return field.gather(0, left(source, field).expand(field.shape)) if per_replica else field

    return tree_map(exchange, state)
