"""Block Gibbs sampling of energies with two layers: all hidden units given visible, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Given, Info, Sampler, State, check_steps, evaluate
from ebm.interfaces.precision import behind


class BlockGibbs(Sampler):
    """Samples p ∝ exp(−E) exactly for the free energy E of two layers: h ~ p(h | y), then y ~ p(y |
    h).

    For an `RBM`, or any energy with `sample_hidden(y, generator=)` and `sample_visible(h,
    generator=)`. A step costs two matrix products and no gradient. `ContrastiveDivergence` with
    steps=k is the classical CD-k.
    Source: Hinton, 2002 (Training products of experts by minimizing contrastive divergence).

    Arguments:
        steps: sweeps through both layers per landscape, or a pair drawn from in train mode.

    >>> from ebm.energies import RBM
    >>> g = torch.Generator().manual_seed(0)
    >>> y = BlockGibbs(steps=10).sample(RBM(6, 3), torch.zeros(1000, 6), generator=g)
    >>> y.unique().tolist(), 0.4 < y.mean().item() < 0.6
    ([0.0, 1.0], True)
    """

    differentiable = False
    stationary = True
    compensated = False  # bits are exact in any precision

    def __init__(self, steps: int | tuple[int, int] = 1) -> None:
        super().__init__()
        low, high = check_steps(steps)
        self.steps = low if low == high else (low, high)

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        for energy in energies:
            _layers(energy)
        return energies

    def step(
        self, energy: EnergyFn, state: State, *, create_graph: bool = False, generator: Generator | None = None
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
    function = behind(energy, counted=False)
    layers: Any = function.energy if isinstance(function, Given) else function
    if not (hasattr(layers, "sample_hidden") and hasattr(layers, "sample_visible")):
        what = f"{type(layers).__name__} has no sample_hidden(y, generator=) and sample_visible(h, generator=)"
        raise ValueError(f"{what}: BlockGibbs is for energies of two layers, such as RBM")
    return layers
