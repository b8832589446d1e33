"""Block Gibbs sampling of energies with two layers: all hidden units given the visible ones, and
back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebm.interfaces import EnergyFn, Given, Info, Sampler, State, check_steps, evaluate


class BlockGibbs(Sampler):
    """Samples p ∝ exp(−E) exactly where E is the free energy of two layers: h ~ p(h | y), and then
    y ~ p(y | h).

    For an `RBM`, and any energy that offers `sample_hidden(y, generator=)` and `sample_visible(h,
    generator=)`. No gradient and no step size; a step costs two matrix products. In
    `ContrastiveDivergence` it is the classical CD-k (steps=k), in a `ReplayAugmented` sampler
    persistent CD.

    Source: Hinton, 2002 (Training products of experts by minimizing contrastive divergence).

    Arguments:
        steps: sweeps through both layers per landscape, or a pair (low, high) drawn in train mode.

    Raises:
        ValueError: (at the call) for an energy without conditionals.

    >>> from ebm.energies import RBM
    >>> y = BlockGibbs(steps=10).sample(RBM(6, 3), torch.zeros(1000, 6), generator=torch.Generator().manual_seed(0))
    >>> y.unique().tolist(), 0.4 < y.mean().item() < 0.6
    ([0.0, 1.0], True)
    """

    differentiable = False
    stationary = True

    def __init__(self, steps: int | tuple[int, int] = 1) -> None:
        super().__init__()
        low, high = check_steps(steps)
        self.steps = low if low == high else (low, high)

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        for energy in energies:
            _layers(energy)
        return energies

    def step(
        self, energy: EnergyFn, state: State, *, create_graph: bool = False, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        if create_graph:
            raise ValueError("BlockGibbs draws bits, and no gradient passes through that: leave create_graph=False")
        layers = _layers(energy)
        with torch.no_grad():
            value = evaluate(energy, state.y)
            hidden = layers.sample_hidden(state.y, generator=generator)
            y: Tensor = layers.sample_visible(hidden, generator=generator)
        return state._replace(y=y, t=state.t + 1), Info(value)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


def _layers(energy: EnergyFn) -> Any:
    """Finds the energy with two layers, behind its bound form."""
    layers = energy.energy if isinstance(energy, Given) else energy
    if not (hasattr(layers, "sample_hidden") and hasattr(layers, "sample_visible")):
        raise ValueError(
            f"{type(layers).__name__} has no sample_hidden(y, generator=) and sample_visible(h, generator=): BlockGibbs is for "
            f"energies of two layers, such as RBM"
        )
    return layers
