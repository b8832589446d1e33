"""Basin hopping: part of the best state is drawn anew now and then, and what is lower is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, left, savable
from ebm.randomness import randn_like
from ebm.samplers.wrapper import Wrapper, moved


@savable
class HoppingState(NamedTuple):
    """The inner sampler's state, and the lowest state that it visited; None before the first hop."""

    inner: Any
    best: Tensor | None = None
    energy: Tensor | None = None  # (*chains,), of the best
    t: int = 0

    @property
    def y(self) -> Tensor:
        return self.inner.y if self.best is None else self.best


class BasinHopping(Wrapper):
    """Searches by short walks, each from the best state so far, part of which is drawn anew.

    Every `every` steps of the inner sampler, each chain goes on from its lowest state, where every
    position (all of the event's axes but the last) is replaced by normal noise with probability
    `share`; with share = 1 these are fresh starts. y is the lowest state that was visited, by the
    energies that the inner steps report. A step takes no more passes than the inner sampler's.

    Source: Wales and Doye, 1997 (Global optimization by basin-hopping), at temperature 0.

    Arguments:
        sampler: the inner sampler, which walks.
        every: steps from one hop to the next.
        share: how many positions a hop draws anew, in (0, 1].
        scale: the standard deviation of what is drawn.

    >>> from ebm.samplers import GradientDescent
    >>> wells = lambda y: (y.square() - 1).square().sum(-1) + 0.3 * y.sum(-1)    # the left one is the lower
    >>> hopping = BasinHopping(GradientDescent(0.05), every=20, share=1.0, scale=2.0)
    >>> ends = hopping.sample(wells, torch.ones(50, 1), steps=200, generator=torch.Generator().manual_seed(0))
    >>> (ends < 0).float().mean().item()
    1.0
    """

    differentiable = False
    stationary = False

    def __init__(self, sampler: Sampler, every: int = 16, share: float = 0.6, scale: float = 1.0) -> None:
        super().__init__(sampler)
        if every < 1 or not 0 < share <= 1 or not scale > 0:
            raise ValueError(
                f"every={every}, share={share}, scale={scale}: pass steps of at least 1, a share in (0, 1], a scale > 0"
            )
        self.every, self.share, self.scale = every, share, scale

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> HoppingState:
        return HoppingState(self.sampler.init(energy, y, generator=generator))

    def enter(self, energy: EnergyFn, state: HoppingState) -> HoppingState:
        return HoppingState(self.sampler.enter(energy, moved(state.inner, state.y)))

    def step(
        self, energy: EnergyFn, state: HoppingState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[HoppingState, Info]:
        if create_graph:
            raise ValueError(
                "BasinHopping accepts or rejects states, and no gradient passes through that: leave create_graph=False"
            )
        inner, best, lowest, t = state
        at = inner.y
        inner, info = self.sampler.step(energy, inner, generator=generator)
        if best is None or lowest is None:
            best, lowest = at, info.energy
        else:
            lower = info.energy < lowest
            best, lowest = torch.where(left(lower, at), at, best), torch.where(lower, info.energy, lowest)
        if (t + 1) % self.every == 0:
            # Positions are all axes but the last; where a chain is one number, its only position.
            positions = best.shape if best.ndim == lowest.ndim else (*best.shape[:-1], 1)
            anew = torch.rand(positions, generator=generator, dtype=best.dtype, device=best.device) < self.share
            drawn = self.project(self.scale * randn_like(best, generator))
            inner = moved(inner, torch.where(anew, drawn, best))
        elif t + 1 < self.every:
            return HoppingState(inner, None, None, t + 1), info  # the first walk: where it is, is the best
        return HoppingState(inner, best, lowest, t + 1), Info(info.energy if state.energy is None else state.energy, info.grad)
