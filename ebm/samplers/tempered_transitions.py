"""Tempered transitions: one long proposal through rising and falling temperatures, and a test of its end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, ScaledEnergy, left
from ebm.samplers.accepting import AcceptingSampler, AcceptingState, chance
from ebm.samplers.mala import MALA
from ebm.samplers.wrapper import Wrapper


class TemperedTransitions(Wrapper):
    """Samples p ∝ exp(−E) by excursions through temperatures 1 = T₀ < … < T_n and back.

    A step is one of the inner sampler, and then a proposal: from x̂₀ moves at T₁, …, T_n lead to
    x̂₁, …, x̂_n, and moves at T_n, …, T₁ back to x̌_{n−1}, …, x̌₀, which is accepted with probability

        min(1, exp(Σᵢ (1/Tᵢ − 1/Tᵢ₊₁) (E(x̂ᵢ) − E(x̌ᵢ)))),    i = 0 … n − 1.

    One chain crosses barriers so, where `ParallelTempering` needs a replica for each temperature.
    Temperatures have to be close: where proposals are hardly ever accepted, add some between. At T
    steps are longer by √T, as wide as the tempered landscape. A step costs 2 n `moves` + 1 of the
    inner sampler's. `info.accepted` is the fate of the excursion.
    Source: Neal, 1996 (Sampling from multimodal distributions using tempered transitions), section 3.

    Arguments:
        sampler: moves at every temperature; a reversible one of a fixed step size: `MALA`, `HMC`,
            `NUTS`, `RandomWalk` or `SliceSampler`.
        temperatures: at least two, rising from 1.
        moves: the inner sampler's steps at each temperature, up and down.

    >>> from ebm.samplers import RandomWalk
    >>> sampler = TemperedTransitions(RandomWalk(0.5), temperatures=(1.0, 2.0, 4.0, 8.0))
    >>> g, wells = torch.Generator().manual_seed(0), lambda y: 8 * (y.square().sum(-1) - 1) ** 2
    >>> y = sampler.sample(wells, torch.ones(500, 1), steps=100, generator=g)    # barrier: 8
    >>> 0.4 < (y > 0).float().mean().item() < 0.6
    True
    """

    differentiable = False

    def __init__(self, sampler: Sampler, temperatures: Sequence[float] = (1.0, 1.4, 2.0, 2.8, 4.0), moves: int = 1) -> None:
        super().__init__(sampler)
        self.temperatures, self.moves = tuple(map(float, temperatures)), moves
        if len(self.temperatures) < 2 or self.temperatures[0] != 1 or self.temperatures[-1] == torch.inf:
            raise ValueError(f"temperatures={[*temperatures]}: pass at least two finite ones, rising from 1, the one that counts")
        if not all(a < b for a, b in pairwise(self.temperatures)):
            raise ValueError(f"temperatures={[*temperatures]}: they rise from 1, so that the way down is the way up")
        if type(moves) is not int or moves < 1:
            raise ValueError(f"moves={moves!r}: pass a whole number of at least 1")
        fixed = not callable(getattr(sampler, "step_size", None))
        if not isinstance(sampler, AcceptingSampler) or not sampler.stationary or not fixed:
            what = (
                f"{type(sampler).__name__} is not reversible at each step" if fixed else "a scheduled step_size is not the same"
            )
            raise ValueError(f"{what} on the way up and down: pass MALA, HMC, NUTS, RandomWalk or SliceSampler at temperature 1")

    def step(
        self, energy: EnergyFn, state: AcceptingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[AcceptingState, Info]:
        here, info = self.sampler.step(energy, state, create_graph=create_graph, generator=generator)
        assert here.energy is not None
        levels = [*pairwise(self.temperatures)]
        away, value, log_ratio = here, here.energy, torch.zeros_like(here.energy)
        for colder, hotter in levels:
            log_ratio = log_ratio + (1 / colder - 1 / hotter) * value
            away, value = self._moved(energy, away, hotter, here.gain, generator)
        for colder, hotter in reversed(levels):
            away, value = self._moved(energy, away, hotter, here.gain, generator)
            log_ratio = log_ratio - (1 / colder - 1 / hotter) * value
        draw = chance(value, generator)
        accepted = draw.log() < log_ratio
        # The cached gradient is the last level's: of E / T₁.
        grad = None if away.grad is None else away.grad * self.temperatures[1]
        new = (away.y, value, grad)
        y, value, grad = (
            None if a is None else torch.where(left(accepted, a), a, b)
            for a, b in zip(new, (here.y, here.energy, here.grad), strict=True)
        )
        return here._replace(y=y, energy=value, grad=grad), info._replace(accepted=accepted)

    def _moved(
        self, energy: EnergyFn, state: Any, temperature: float, gain: float, generator: Generator | None
    ) -> tuple[Any, Tensor]:
        """Moves at a temperature: the state, and E there."""
        scaled = ScaledEnergy(energy, 1 / temperature)
        longer = temperature if isinstance(self.sampler, MALA) else temperature**0.5  # ε is half of a step squared
        state = self.sampler.enter(scaled, state._replace(gain=gain * longer))
        for _ in range(self.moves):
            state, _ = self.sampler.step(scaled, state, generator=generator)
        return state, state.energy * temperature

    def extra_repr(self) -> str:
        return f"temperatures={self.temperatures}, moves={self.moves}"
