"""What samplers that accept or reject share: no graph, and energy and gradient kept at y."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, energy_and_grad, left, savable
from ebm.samplers.stepping import SteppingSampler


@savable
class AcceptingState(NamedTuple):
    """A configuration with its energy (*chains,) and gradient, which are None until the first step."""

    y: Tensor
    t: int = 0
    scale: Tensor | None = None
    gain: float = 1.0
    energy: Tensor | None = None
    grad: Tensor | None = None


class AcceptingSampler(SteppingSampler):
    """A sampler whose steps are proposals. Write `step`, which begins with `here`."""

    differentiable = False
    begins = AcceptingState

    def enter(self, energy: EnergyFn, state: Any) -> Any:
        return state._replace(energy=None, grad=None)

    def here(self, energy: EnergyFn, state: AcceptingState, create_graph: bool) -> tuple[Tensor, Tensor]:
        """Looks up, or computes, energy and gradient at y; raises ValueError if asked for a graph."""
        if create_graph:
            name = type(self).__name__
            raise ValueError(f"{name} accepts or rejects, and no gradient passes through that: leave create_graph=False")
        if state.energy is None or state.grad is None:
            return energy_and_grad(energy, state.y)
        return state.energy, state.grad

    def settled(
        self, state: AcceptingState, scale: Tensor | None, accepted: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]
    ) -> AcceptingState:
        """Makes the next state: (y, energy, gradient) are new where accepted, and else old."""
        y, value, grad = (torch.where(left(accepted, a), a, b) for a, b in zip(new, old, strict=True))
        return AcceptingState(y, state.t + 1, scale, state.gain, value, grad)


def finite_chains(value: Tensor, grad: Tensor) -> Tensor:
    """Tells which chains (*chains,) have a finite energy and gradient."""
    return torch.isfinite(value) & torch.isfinite(grad).reshape(*value.shape, -1).all(-1)
