"""What samplers that move y in other coordinates share: an inner sampler of those coordinates."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map  # private, but what torch.func itself maps trees by

from ebm.interfaces import EnergyFn, Info, savable
from ebm.samplers.wrapper import Wrapper


class Chart(Protocol):
    """Coordinates z (*chains, d) of y."""

    def pack(self, y: Any) -> Tensor: ...

    def unpack(self, z: Tensor) -> Any: ...

    def energy(self, energy: EnergyFn) -> EnergyFn: ...


@savable
class ChartedState(NamedTuple):
    """The whole of y, and the inner sampler's state, whose y are coordinates of it."""

    whole: Any
    inner: Any

    @property
    def y(self) -> Any:
        return self.whole


class Charted(Wrapper):
    """Lets its inner sampler move coordinates of y. Write `chart`, which says what they are."""

    def chart(self, y: Any) -> Chart:
        """Makes the coordinates around y."""
        raise NotImplementedError(f"{type(self).__name__} must define chart(y)")

    def init(self, energy: EnergyFn, y: Any, *, generator: Generator | None = None) -> Any:
        chart = self.chart(y)
        z = chart.pack(y)
        self.check_point(chart, z)
        return ChartedState(y, self.sampler.init(chart.energy(energy), z, generator=generator))

    def enter(self, energy: EnergyFn, state: ChartedState) -> ChartedState:
        chart = self.chart(state.whole)
        inner = self.sampler.enter(chart.energy(energy), state.inner)
        return ChartedState(chart.unpack(inner.y), inner)

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[Any, Info]:
        chart = self.chart(state.whole)
        inner, info = self.sampler.step(chart.energy(energy), state.inner, create_graph=create_graph, generator=generator)
        return ChartedState(chart.unpack(inner.y), inner), info

    def point(self, y: Any) -> Any:
        chart = self.chart(y)
        return chart.unpack(self.sampler.point(chart.pack(y)))

    def project(self, y: Any) -> Any:
        chart = self.chart(y)
        z = chart.pack(y)
        inside = self.sampler.project(z)
        return y if inside is z else chart.unpack(inside)

    def check_point(self, chart: Chart, z: Tensor) -> None:
        """Raises ValueError for a retraction that means an axis of y, which coordinates do not have."""
        probe = torch.linspace(-9.0, 9.0, z.numel(), dtype=z.dtype, device=z.device).reshape(z.shape)
        moving = self.sampler
        while isinstance(moving, Charted):
            moving = moving.sampler
        there = chart.pack(tree_map(moving.point, chart.unpack(probe)))
        if not torch.equal(there, chart.pack(chart.unpack(moving.point(probe)))):
            what = f"{type(moving).__name__}'s states are retracted along an axis of y (a softmax)"
            raise ValueError(f"{what}, which the coordinates that {type(self).__name__} moves do not have: take another sampler")
