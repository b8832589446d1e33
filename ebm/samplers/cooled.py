"""Cooling: beliefs are kept soft at first, by a temperature on their entropy that falls to 1."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, savable
from ebm.samplers.schedules import Linear
from ebm.samplers.stepping import Scheduled, as_scheduled, at
from ebm.samplers.wrapper import Wrapper

LEAST = 1e-35  # the least probability whose logarithm is taken


@savable
class CooledState(NamedTuple):
    """The inner sampler's state, and the steps taken."""

    inner: Any
    t: int = 0

    @property
    def y(self) -> Tensor:
        return self.inner.y


class Cooled(Wrapper):
    """Steps on a free energy whose entropy counts more at first: deterministic annealing.

        E_T(p) = E(p) + (T − 1) Σ p log p,

    for an energy of probabilities p that has its own Σ p log p (T = 1). High temperatures have one
    broad minimum, which splits as T falls. Energies that are reported are those of T = 1.

    Source: Rose, 1998 (Deterministic annealing for clustering, compression, classification,
    regression, and related optimization problems).

    Arguments:
        sampler: the inner sampler, whose point is probabilities along the last axis.
        temperature: a schedule t -> T, such as {"schedule": "linear", "start": 2.0, "end": 1.0,
            "steps": 48}, or a number.

    Raises:
        ValueError: a schedule around a sampler that accepts or rejects, which belongs outside.

    >>> import torch
    >>> from ebm.samplers import MirrorDescent
    >>> costs = torch.tensor([0.0, 1.0])
    >>> free = lambda p: (p * (p.log() + costs)).sum(-1)    # its minimum at T is softmax(−costs / T)
    >>> y = Cooled(MirrorDescent(0.5, steps=40), temperature=2.0).sample(free, torch.zeros(1, 2))
    >>> torch.allclose(y.softmax(-1), (-costs / 2).softmax(-1))
    True
    """

    stationary = False

    def __init__(self, sampler: Sampler, temperature: Scheduled = Linear(start=2.0, end=1.0, steps=48)) -> None:  # noqa: B008
        super().__init__(sampler)
        self.temperature = as_scheduled("temperature", temperature, positive=True)
        if callable(self.temperature) and not sampler.differentiable:
            name = type(sampler).__name__
            what = f"Cooled({name}): {name} compares energies of one step with the next one's, which has another temperature"
            raise ValueError(f"{what}: put it around, as in {name}(Cooled(…)), or pass one number as the temperature")

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> CooledState:
        return CooledState(self.sampler.init(energy, y, generator=generator))

    def enter(self, energy: EnergyFn, state: CooledState) -> CooledState:
        return CooledState(self.sampler.enter(energy, state.inner), state.t)

    def step(
        self, energy: EnergyFn, state: CooledState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[CooledState, Info]:
        more = at(self.temperature, state.t, positive=True) - 1.0
        cold: list[Tensor] = []  # energies at T = 1

        def heated(p: Tensor) -> Tensor:
            value = energy(p)
            if value.ndim == p.ndim:
                raise ValueError(f"Cooled over y {tuple(p.shape)} with an energy for each entry: probabilities are y's last axis")
            cold.append(value.detach())
            return value + more * (p * p.clamp(min=LEAST).log()).flatten(value.ndim).sum(-1)

        how: dict[str, Any] = {"create_graph": create_graph, "generator": generator}
        inner, info = self.sampler.step(energy if more == 0 else heated, state.inner, **how)
        return CooledState(inner, state.t + 1), info._replace(energy=cold[0] if cold else info.energy)
