"""Gibbs with gradients: flip the site that the gradient suggests, and accept by Metropolis and
Hastings' rule."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, energy_and_grad, left
from ebm.randomness import uniform
from ebm_lattice.gibbs import LatticeState
from ebm_lattice.states import States, check_lattice, check_words, draw, read, table, write

__all__ = ["GibbsWithGradients"]


class GibbsWithGradients(Sampler):
    """Samples p ∝ exp(−E) on a lattice, one change per step where the gradient says that it pays.

        (i, v) ~ q(i, v | y) ∝ exp(−dᵢᵥ(y) / 2),    y' = y with yᵢ = v,
        accepted with probability min(1, p(y') q(i, yᵢ | y') / (p(y) q(i, v | y))),

    where dᵢᵥ is the gradient's estimate of E(y') − E(y), v ≠ yᵢ. The test takes energies as they
    are, so that any differentiable energy is sampled exactly. One gradient per step, and one more
    for the first. A proposal that is not finite is rejected.

    Source: Grathwohl et al., 2021 (arXiv 2102.04509), algorithm 1.

    Arguments:
        states: how y is written: "spins" (−1 and 1), or "one-hot" (the last axis).
        steps: steps per landscape, or a pair (low, high) drawn in train mode; a sweep is as many as
            there are sites.

    Raises:
        ValueError: y is not on the lattice.

    >>> g = torch.Generator().manual_seed(0)
    >>> y = GibbsWithGradients(steps=20).sample(lambda y: -y.prod(-1), torch.ones(4000, 2), generator=g)
    >>> abs(y.prod(-1).mean().item() - 0.7616) < 0.05        # tanh 1
    True
    """

    differentiable = False
    stationary = True
    compensated = False  # spins are exact in any precision

    def __init__(self, states: States = "spins", steps: int | tuple[int, int] = 1000) -> None:
        super().__init__()
        check_words(self, states)
        self.states, self.steps = states, steps

    def init(self, energy: EnergyFn, y: Tensor, *, generator: torch.Generator | None = None) -> LatticeState:
        check_lattice(self, y, self.states)
        return LatticeState(y)

    def enter(self, energy: EnergyFn, state: LatticeState) -> LatticeState:
        return LatticeState(state.y, state.t)

    def step(
        self, energy: EnergyFn, state: LatticeState, *, create_graph: bool = False, generator: torch.Generator | None = None
    ) -> tuple[LatticeState, Info]:
        if create_graph:
            raise ValueError("GibbsWithGradients accepts or rejects, and no gradient passes through that: create_graph=False")
        y, value, grad = state.y, state.energy, state.grad
        if value is None or grad is None:
            value, grad = energy_and_grad(energy, y)
        index = read(y, value.ndim, self.states)
        costs = self._costs(y, grad, index)
        choice = draw(costs.flatten(-2), generator)[..., None]
        site, new = choice // costs.shape[-1], choice % costs.shape[-1]
        old = index.gather(-1, site)
        changed = index.scatter(-1, site, new)
        proposal = write(changed, y, self.states)
        value_new, grad_new = energy_and_grad(energy, proposal)
        there = self._costs(proposal, grad_new, changed).neg().flatten(-2).log_softmax(-1)
        here = costs.neg().flatten(-2).log_softmax(-1)
        back = there.gather(-1, site * costs.shape[-1] + old) - here.gather(-1, choice)
        log_ratio = value - value_new + back.squeeze(-1)
        wall = ~(torch.isfinite(value_new) & torch.isfinite(grad_new).reshape(*value.shape, -1).all(-1))
        accepted = (uniform(value, 0.0, 1.0, generator).log() < log_ratio) & ~wall
        chosen = left(accepted, y)
        kept = LatticeState(
            torch.where(chosen, proposal, y),
            state.t + 1,
            torch.where(accepted, value_new, value),
            torch.where(chosen, grad_new, grad),
        )
        return kept, Info(value, grad, accepted)

    def _costs(self, y: Tensor, grad: Tensor, index: Tensor) -> Tensor:
        """Halves the table (*chains, sites, values); what y has already is no proposal."""
        costs = table(y, grad, index.ndim - 1, self.states) / 2
        return costs.scatter(-1, index[..., None], torch.inf)

    def extra_repr(self) -> str:
        return f"states={self.states!r}, steps={self.steps}"
