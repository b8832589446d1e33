"""What samplers around another sampler share: what they do not change is the inner sampler's."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from ebm.interfaces import Batch, EnergyFn, Info, Sampler


class Wrapper(Sampler):
    """Steps as the sampler inside it does."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler is {type(sampler).__name__}: pass a Sampler to wrap")
        self.sampler = sampler

    steps = property(lambda self: self.sampler.steps, lambda self, steps: setattr(self.sampler, "steps", steps))
    differentiable = property(lambda self: self.sampler.differentiable)
    stationary = property(lambda self: self.sampler.stationary)
    interacting = property(lambda self: self.sampler.interacting)
    heated = property(lambda self: getattr(self.sampler, "heated", 0.0))
    compensated = property(lambda self: self.sampler.compensated)
    hidden = property(lambda self: getattr(self.sampler, "hidden", 0))

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> Any:
        return self.sampler.init(energy, y, generator=generator)

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[Any, Info]:
        return self.sampler.step(energy, state, create_graph=create_graph, generator=generator)

    def enter(self, energy: EnergyFn, state: Any) -> Any:
        return self.sampler.enter(energy, state)

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        return self.sampler.route(energies)

    def point(self, y: Tensor) -> Tensor:
        return self.sampler.point(y)

    def project(self, y: Tensor) -> Tensor:
        return self.sampler.project(y)

    def begin(self, batch: Batch, y: Tensor, *, generator: Generator | None = None) -> tuple[Batch, Tensor]:
        return self.sampler.begin(batch, y, generator=generator)

    def finish(self, batch: Batch, y: Tensor) -> None:
        self.sampler.finish(batch, y)


def moved(state: Any, y: Tensor) -> Any:
    """Puts y into a sampler's state, or its inner state; raises ValueError for another shape."""
    if "y" not in state._fields:
        return state._replace(inner=moved(state.inner, y))
    if state.y.shape != y.shape:
        raise ValueError(f"the inner sampler moves {tuple(state.y.shape)}, several states for each chain: wrap another one")
    return state._replace(y=y)
