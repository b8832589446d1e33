"""Monotone: a step that does not lower a chain's energy is halved, or leaves that chain as it was."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, evaluate, left, savable
from ebm.samplers.wrapper import Wrapper, moved


@savable
class MonotoneState(NamedTuple):
    """The inner sampler's state, and the energy (*chains,) there, None until the first step."""

    inner: Any
    energy: Tensor | None = None

    @property
    def y(self) -> Tensor:
        return self.inner.y


class Monotone(Wrapper):
    """Accepts a step of its inner sampler only where it lowers the energy, chain by chain.

        y⁺ = y' if E(point(y')) < E(point(y)), else y, raw and unretracted.

    With `halvings`, y' is drawn nearer first, to y + (y' − y)/2, /4 … until the energy falls there
    (backtracking line search, without Armijo's slope). It rejects proposals that are not finite. A
    rejected chain tries elsewhere at the next step if the inner sampler draws noise. A step costs
    one more evaluation, without gradient, and one more for each halving that some chain needs; a
    chain that its step does not move needs none.
    Source: "accept lower energies", an option of the code, not the paper, of Energy-Based Transformers
    (arXiv 2507.02092).

    Arguments:
        sampler: proposes the steps.
        halvings: how often a step that is too long is halved, at most.

    Raises:
        ValueError: halvings is negative.

    >>> from ebm.samplers import GradientDescent
    >>> sampler, bowl = Monotone(GradientDescent(3.0, steps=5)), lambda y: (y**2).sum(-1) / 2
    >>> sampler.sample(bowl, torch.ones(1, 1))
    tensor([[1.]])
    >>> Monotone(GradientDescent(3.0, steps=1), halvings=1).sample(bowl, torch.ones(1, 1))
    tensor([[-0.5000]])
    """

    differentiable = False
    stationary = False

    def __init__(self, sampler: Sampler, halvings: int = 0) -> None:
        super().__init__(sampler)
        if halvings < 0:
            raise ValueError(f"halvings={halvings}: pass how often a step may be halved, at least 0")
        self.halvings = halvings

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> MonotoneState:
        return MonotoneState(self.sampler.init(energy, y, generator=generator))

    def enter(self, energy: EnergyFn, state: MonotoneState) -> MonotoneState:
        return MonotoneState(self.sampler.enter(energy, state.inner))

    def step(
        self, energy: EnergyFn, state: MonotoneState, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[MonotoneState, Info]:
        if create_graph:
            raise ValueError("Monotone accepts or rejects, and no gradient passes through that: leave create_graph=False")
        with torch.no_grad():
            before = evaluate(energy, self.point(state.y)) if state.energy is None else state.energy
            proposal, info = self.sampler.step(energy, state.inner, generator=generator)
            accepted, after = _falls(energy, self.point(proposal.y), before)
            for _ in range(self.halvings):
                still = (proposal.y == state.y).reshape(*accepted.shape, -1).all(-1)
                if bool((accepted | still).all()):
                    break  # what a step does not move, half of it does not either
                nearer = self.project((state.y + proposal.y) / 2)
                proposal = moved(proposal, torch.where(left(accepted, proposal.y), proposal.y, nearer))
                accepted, after = _falls(energy, self.point(proposal.y), before)
        inner = choose(accepted, proposal, state.inner)
        return MonotoneState(inner, torch.where(accepted, after, before)), Info(before, info.grad, accepted)


def _falls(energy: EnergyFn, point: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Tells at which points the energy is lower than before, and finite; and the energies there."""
    after = evaluate(energy, point)
    return (after < before) & torch.isfinite(point).reshape(*after.shape, -1).all(-1) & torch.isfinite(after), after


def choose(accepted: Tensor, new: Any, old: Any) -> Any:
    """Takes each chain's fields from the new state or the old; others are the new state's."""
    if isinstance(new, tuple):
        return type(new)(*(choose(accepted, a, b) for a, b in zip(new, old, strict=True)))
    per_chain = isinstance(new, Tensor) and new.shape[: accepted.ndim] == accepted.shape
    return torch.where(left(accepted, new), new, old) if per_chain and isinstance(old, Tensor) else new
