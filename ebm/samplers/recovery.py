"""Recovery: from a noised point back to a less noised one, landscape by landscape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, evaluate, left, savable
from ebm.samplers.schedules import noise_levels
from ebm.samplers.wrapper import Wrapper, moved


@savable
class RecoveryState(NamedTuple):
    """The inner state u, the noised point ỹ, and the landscape's noise and number."""

    inner: Any
    noised: Tensor
    sigma: float
    level: int = 0

    @property
    def y(self) -> Tensor:
        return self.noised + self.sigma * self.inner.y


@dataclass(frozen=True)
class Recovered:
    """The energy of u = (y − ỹ)/s given ỹ = y + s ξ: E(ỹ + s u) + |u|²/2, one s or one a row."""

    energy: EnergyFn
    noised: Tensor
    sigma: float | Tensor

    def __call__(self, u: Tensor) -> Tensor:
        sigma = left(self.sigma, u) if isinstance(self.sigma, Tensor) else self.sigma
        value = evaluate(self.energy, self.noised + sigma * u)
        return value + u[..., None].flatten(value.ndim).square().sum(-1) / 2


class Recovery(Wrapper):
    """Recovers y from ỹ = y + s_l ξ on each landscape, and takes the result as the next one's ỹ.

        p(y | ỹ) ∝ exp(−E_l(y) − |ỹ − y|² / 2s_l²),    from y = ỹ.

    On landscapes trained by `DiffusionRecoveryLikelihood`, from data with noise of variance Σ s_l²
    (in practice from wide noise alone), the last ends are samples. The inner sampler moves u = (y −
    ỹ)/s_l, whose prior is a standard normal: step sizes are in units of s_l², and infos are those
    of u. The quadratic makes a conditional easier to sample than a marginal.
    Source: Gao et al., 2021 (arXiv 2012.08125), algorithm 2, without scaling data down.

    Arguments:
        sampler: moves on each landscape, without a retraction; its `steps` are per landscape.
        sigma: s_l > 0 of each landscape, in units of y, or one for all of them.

    >>> from ebm.samplers import LangevinDynamics
    >>> g, energy = torch.Generator().manual_seed(0), lambda y: (y - 3).square().sum(-1) / 2
    >>> noised = 3 + 2**0.5 * torch.randn(4000, 1, generator=g)    # data are N(3, 1)
    >>> sampler = Recovery(LangevinDynamics(step_size=0.05, steps=100), sigma=1.0)
    >>> y = sampler.sample(energy, noised, generator=g)
    >>> abs(y.mean().item() - 3) < 0.1, abs(y.var().item() - 1) < 0.1
    (True, True)
    """

    stationary = False

    def __init__(self, sampler: Sampler, sigma: float | Sequence[float] = 0.1) -> None:
        super().__init__(unretracted(sampler))
        self.sigma = noise_levels(sigma)

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        if len(self.sigma) not in (1, len(energies)):
            raise ValueError(f"{len(self.sigma)} noise levels for {len(energies)} landscapes: pass one sigma for each")
        return energies

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> RecoveryState:
        inner = self.sampler.init(Recovered(energy, y, self.sigma[0]), torch.zeros_like(y), generator=generator)
        return RecoveryState(inner, y, self.sigma[0])

    def enter(self, energy: EnergyFn, state: RecoveryState) -> RecoveryState:
        level, noised = state.level + 1, state.y
        sigma = self.sigma[level % len(self.sigma)]
        inner = self.sampler.enter(Recovered(energy, noised, sigma), moved(state.inner, torch.zeros_like(noised)))
        return RecoveryState(inner, noised, sigma, level)

    def step(
        self, energy: EnergyFn, state: RecoveryState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[RecoveryState, Info]:
        recovered = Recovered(energy, state.noised, state.sigma)
        inner, info = self.sampler.step(recovered, state.inner, create_graph=create_graph, generator=generator)
        return state._replace(inner=inner), info

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


def unretracted(sampler: Sampler) -> Sampler:
    """Returns the sampler; raises ValueError if it retracts, since recovery moves differences."""
    probe = torch.zeros(1)
    if isinstance(sampler, Sampler) and sampler.point(probe) is not probe:
        raise ValueError(f"{type(sampler).__name__} retracts y, but recovery moves differences (y − ỹ)/s: leave retraction out")
    return sampler
