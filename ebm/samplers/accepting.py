"""What samplers that accept or reject share: no graph, and energy and gradient kept at y."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, energy_and_grad, evaluate, left, savable
from ebm.randomness import Source, rand_like
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
    heated = 1.0  # too long a step is rejected
    begins = AcceptingState

    def enter(self, energy: EnergyFn, state: Any) -> Any:
        return state._replace(energy=None, grad=None)

    def here(self, energy: EnergyFn, state: AcceptingState, create_graph: bool) -> tuple[Tensor, Tensor]:
        """Looks up, or computes, energy and gradient at y.

        Raises:
            ValueError: a graph is asked for; or at a chain's start, the energy is drawn anew at
                each call.
        """
        if create_graph:
            name = type(self).__name__
            raise ValueError(f"{name} accepts or rejects, and no gradient passes through that: leave create_graph=False")
        if state.energy is None or state.grad is None:
            value, grad = energy_and_grad(energy, state.y)
            if state.t == 0:
                require_repeatable(type(self).__name__, energy, state.y, value)
            return value, grad
        return state.energy, state.grad

    def settled(
        self, state: AcceptingState, scale: Tensor | None, accepted: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]
    ) -> AcceptingState:
        """Makes the next state: (y, energy, gradient) are new where accepted, and else old."""
        y, value, grad = (torch.where(left(accepted, a), a, b) for a, b in zip(new, old, strict=True))
        return AcceptingState(y, state.t + 1, scale, state.gain, value, grad)


def require_repeatable(name: str, energy: EnergyFn, y: Tensor, value: Tensor) -> None:
    """Evaluates the energy at y again; raises ValueError where it is not the value that it was.

    A test of acceptance by energies that are drawn anew (dropout, a minibatch) leaves another
    distribution than exp(−E) alone, and nothing would show it.
    """
    with torch.no_grad():
        again = evaluate(energy, y).to(value)
    tolerance = 100 * torch.finfo(value.dtype).eps  # sums on an accelerator may differ in order
    same = torch.isclose(again, value, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not bool(same.all()):
        chain = int((~same).flatten().nonzero()[0])
        one, other = value.flatten()[chain].item(), again.flatten()[chain].item()
        raise ValueError(
            f"{name} accepts by differences of energies, and this energy gave {one:.6g} and then {other:.6g} at the same y "
            f"(chain {chain}): it draws anew at each call. Call eval() on a module with dropout that only a closure knows, hold "
            f"a minibatch fixed, or take a sampler that bears noise, such as LangevinDynamics"
        )


def chance(value: Tensor, generator: Generator | Source | None) -> Tensor:
    """Draws uniform numbers (*chains,) for a test, at least in float32: in half precision each 256th is 0, which accepts all."""
    return rand_like(value.to(torch.promote_types(value.dtype, torch.float32)), generator)


def finite_chains(value: Tensor, grad: Tensor) -> Tensor:
    """Tells which chains (*chains,) have a finite energy and gradient."""
    return torch.isfinite(value) & torch.isfinite(grad).reshape(*value.shape, -1).all(-1)
