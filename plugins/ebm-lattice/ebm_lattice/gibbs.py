"""Gibbs sampling: yᵢ ~ p(yᵢ | all others), colour by colour; the conditionals of a colour come from
one gradient."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, energy_and_grad, evaluate, savable
from ebm_lattice.states import Differences, States, check_lattice, check_words, draw, evaluated_table, read, table, write

__all__ = ["Gibbs", "LatticeState"]


@savable
class LatticeState(NamedTuple):
    """A configuration, and the energy (*chains,) and gradient there, None until the first step."""

    y: Tensor
    t: int = 0
    energy: Tensor | None = None
    grad: Tensor | None = None


class Gibbs(Sampler):
    """Samples p ∝ exp(−E) on a lattice: each site in its turn is drawn anew, given all others.

        yᵢ ~ softmaxᵥ(−E(y with yᵢ = v)).

    One step is a sweep. Sites of one colour are drawn together, from one gradient, which is exact
    where E is linear in each site and sites of one colour do not interact: their gradient must not
    change as they do, or the step raises. So a sweep costs as many gradients as there are colours.
    Other energies (a network's) need differences="evaluations": every value of every site is
    evaluated, site by site.

    Source: Geman and Geman, 1984.

    Arguments:
        states: how y is written: "spins" (−1 and 1), or "one-hot" (the last axis).
        colours: "sequential", a colour for each site; "checkerboard", two, for nearest neighbours
            alone; or colours (*lattice).
        steps: sweeps per landscape, or a pair (low, high) drawn in train mode.
        differences: where conditionals come from: one "gradient" per colour, or "evaluations" of
            the energy.

    Raises:
        ValueError: y is not on the lattice; or a gradient does not have the conditionals.

    >>> g = torch.Generator().manual_seed(0)
    >>> y = Gibbs(steps=20).sample(lambda y: -y.prod(-1), torch.ones(4000, 2), generator=g)
    >>> abs(y.prod(-1).mean().item() - math.tanh(1.0)) < 0.05
    True
    """

    differentiable = False
    stationary = True
    compensated = False  # spins are exact in any precision

    def __init__(
        self,
        states: States = "spins",
        colours: Literal["sequential", "checkerboard"] | Tensor = "sequential",
        steps: int | tuple[int, int] = 100,
        differences: Differences = "gradient",
    ) -> None:
        super().__init__()
        check_words(self, states, differences)
        if isinstance(colours, str) and colours not in ("sequential", "checkerboard"):
            raise ValueError(f"Gibbs(colours={colours!r}): choose sequential or checkerboard, or pass a tensor of colours")
        self.states, self.steps, self.differences = states, steps, differences
        self.colours = colours

    def init(self, energy: EnergyFn, y: Tensor, *, generator: torch.Generator | None = None) -> LatticeState:
        check_lattice(self, y, self.states)
        return LatticeState(y)

    def enter(self, energy: EnergyFn, state: LatticeState) -> LatticeState:
        return LatticeState(state.y, state.t)

    def step(
        self, energy: EnergyFn, state: LatticeState, *, create_graph: bool = False, generator: torch.Generator | None = None
    ) -> tuple[LatticeState, Info]:
        if create_graph:
            raise ValueError("Gibbs draws discrete values, and no gradient passes through that: leave create_graph=False")
        y, value, grad = state.y, state.energy, state.grad
        if value is None:
            value, grad = self._look(energy, y)
        info, chains = Info(value, grad), value.ndim
        index = read(y, chains, self.states)
        for sites in self._groups(y, chains):
            if grad is None:
                costs = evaluated_table(energy, y, chains, self.states, sites)
            else:
                costs = table(y, grad, chains, self.states)[..., sites, :]
            index = index.index_copy(-1, sites, draw(costs, generator))
            y = write(index, y, self.states)
            if grad is not None:
                before = grad
                value, grad = energy_and_grad(energy, y)
                _require_unmoved(before, grad, index, sites)
        kept = LatticeState(y, state.t + 1) if grad is None else LatticeState(y, state.t + 1, value, grad)
        return kept, info

    def _look(self, energy: EnergyFn, y: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.differences == "gradient":
            return energy_and_grad(energy, y)
        with torch.no_grad():
            return evaluate(energy, y), None

    def _groups(self, y: Tensor, chains: int) -> list[Tensor]:
        """Lists the numbers of the sites of each colour."""
        lattice = y.shape[chains:] if self.states == "spins" else y.shape[chains:-1]
        if isinstance(self.colours, Tensor):
            if self.colours.shape != lattice:
                raise ValueError(f"colours have shape {tuple(self.colours.shape)}, the lattice has {tuple(lattice)}")
            colours = self.colours.to(y.device).flatten()
        elif self.colours == "sequential":
            return [*torch.arange(math.prod(lattice), device=y.device).split(1)]
        else:
            colours = torch.ones(lattice, device=y.device).nonzero().sum(-1) % 2
        return [(colours == colour).nonzero().flatten() for colour in colours.unique()]

    def extra_repr(self) -> str:
        return f"states={self.states!r}, steps={self.steps}, differences={self.differences!r}"


def _require_unmoved(before: Tensor, after: Tensor, index: Tensor, sites: Tensor) -> None:
    """Raises ValueError where the gradient at sites that were drawn together depends on what was
    drawn."""
    change = (after - before).reshape(*index.shape, -1)[..., sites, :].abs().max()
    if bool(change > torch.finfo(before.dtype).eps ** 0.5 * (1 + before.abs().max())):
        raise ValueError(
            "Gibbs: the energy's gradient at sites that were drawn together changed with them. Sites of one colour interact "
            "(colours='sequential' is always right), or the energy is not linear in each site (then differences='evaluations')"
        )
