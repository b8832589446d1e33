"""Structured: any sampler moves a dict, tuple or list of tensors, and returns one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Generator, Tensor, nn

from ebm.interfaces import EnergyFn, Info, Packing, Sampler, Unroll, check_configuration
from ebm.samplers.charted import Charted, ChartedState


class Structured(Charted):
    """Moves trees of tensors (*chains, *event) by a sampler that sees them as one flat vector.

    The energy takes the tree. Steps, momenta and acceptance are those of the inner sampler on
    (*chains, d), in the order of `ebm.interfaces.Packing`; a mass or a preconditioner is over d. A
    tensor passes as it is. It is the outermost wrapper: put others inside, and keep parts still by
    `Conditioned` inside of it.

    Arguments:
        sampler: moves flat tensors; none whose retraction means an axis of y.
        chains: how many leading axes of each tensor are chains.

    >>> from ebm.samplers import NUTS
    >>> def energy(y):  # means and scales of normals, in one
    ...     return y["mean"].square().sum(-1) / 2 + (y["log_scale"] - 1).square() / 2
    >>> start = {"mean": torch.zeros(500, 2), "log_scale": torch.zeros(500)}
    >>> g = torch.Generator().manual_seed(0)
    >>> y = Structured(NUTS(0.5, steps=10)).sample(energy, start, generator=g)
    >>> y["mean"].shape, abs(y["log_scale"].mean().item() - 1) < 0.2
    (torch.Size([500, 2]), True)
    """

    def __init__(self, sampler: Sampler, chains: int = 1) -> None:
        super().__init__(sampler)
        if type(chains) is not int or chains < 0:
            raise ValueError(f"chains={chains!r}: pass how many leading axes are chains, as a whole number")
        self.chains = chains

    def chart(self, y: Any) -> Packing:
        return Packing.of(y, self.chains)

    def init(self, energy: EnergyFn, y: Any, *, generator: Generator | None = None) -> Any:
        start = super().init if not isinstance(y, Tensor) else self.sampler.init
        return start(energy, y, generator=generator)

    def enter(self, energy: EnergyFn, state: Any) -> Any:
        return super().enter(energy, state) if isinstance(state, ChartedState) else self.sampler.enter(energy, state)

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[Any, Info]:
        take = super().step if isinstance(state, ChartedState) else self.sampler.step
        return take(energy, state, create_graph=create_graph, generator=generator)

    def point(self, y: Any) -> Any:
        return self.sampler.point(y) if isinstance(y, Tensor) else super().point(y)

    def project(self, y: Any) -> Any:
        return self.sampler.project(y) if isinstance(y, Tensor) else super().project(y)

    def trajectory(
        self,
        energy: EnergyFn | Sequence[EnergyFn],
        y: Any,
        *,
        steps: int | None = None,
        unroll: Unroll = "none",
        generator: Generator | None = None,
    ) -> Iterator[tuple[Any, Info]]:
        """Iterates as every sampler does, over states whose y is a tree."""
        how: dict[str, Any] = {"steps": steps, "unroll": unroll, "generator": generator}
        if isinstance(y, Tensor) or (_is_state(y) and not isinstance(y, ChartedState)):
            return self.sampler.trajectory(energy, y, **how)
        start: Any
        if isinstance(y, ChartedState):
            packing, start = self.chart(y.whole), y.inner
        else:
            packing = self.chart(y)
            start = packing.pack(y)
            check_configuration(start, generator)
            self.check_point(packing, start)
        several = isinstance(energy, list | tuple | nn.ModuleList)
        parts: list[Any] = [*energy] if several else [energy]  # type: ignore[misc]
        flat = [packing.energy(part) if callable(part) else part for part in parts]
        return _unpacked(self.sampler.trajectory(flat if several else flat[0], start, **how), packing)

    def sample(
        self,
        energy: EnergyFn | Sequence[EnergyFn],
        y: Any,
        *,
        steps: int | None = None,
        unroll: Unroll = "none",
        generator: Generator | None = None,
    ) -> Any:
        """Runs a trajectory and returns its end, a tree like y."""
        end = y.y if _is_state(y) else y
        for state, info in self.trajectory(energy, y, steps=steps, unroll=unroll, generator=generator):
            end = state.y
            del info, state  # so that the next step finds their memory free
        return end

    def extra_repr(self) -> str:
        return f"chains={self.chains}"


def _is_state(y: Any) -> bool:
    """Tells a State, which counts its steps or holds another, from a tree that has a field y."""
    return hasattr(y, "y") and (hasattr(y, "t") or hasattr(y, "inner"))


def _unpacked(path: Iterator[tuple[Any, Info]], packing: Packing) -> Iterator[tuple[Any, Info]]:
    for inner, info in path:
        state = ChartedState(packing.unpack(inner.y), inner)
        yield state, info
        del inner, info, state  # so that the next step finds their memory free
