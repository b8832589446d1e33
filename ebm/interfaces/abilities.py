"""Abilities: small protocols by which a component shows what else can be done with it. Who has the methods has the ability."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebm.interfaces.values import Batch, Prediction

__all__ = ["FeedForward", "Paced", "Represents", "Scorer", "ScoresPatches"]


@runtime_checkable
class Scorer(Protocol):
    """A predictor that scores given configurations, so that reports can draw landscapes and energies."""

    def score(self, batch: Batch, y: Tensor) -> Tensor:
        """Computes the energies (*chains,) of configurations y."""
        ...


@runtime_checkable
class FeedForward(Protocol):
    """An energy that predicts without descending: it is its own predictor."""

    def predict(self, batch: Batch, start: Any, *, generator: torch.Generator | None = None) -> Prediction:
        """Predicts a batch in one forward pass, or in a fixed number of them."""
        ...


@runtime_checkable
class Paced(Protocol):
    """A predictor that can take several forward passes, as a diffusion model does."""

    def at(self, passes: int) -> Any:
        """Makes the predictor of the same weights that takes another number of passes."""
        ...


@runtime_checkable
class ScoresPatches(Protocol):
    """An energy of images that knows the energy of each patch."""

    patch_size: int

    def patch_energies(self, y: Tensor, code: Any) -> Tensor:
        """Computes the energies (*more, B, rows, columns) of patches."""
        ...


@runtime_checkable
class Represents(Protocol):
    """An energy of images whose features can be probed."""

    event: tuple[int, ...]  # (C, H, W)

    def representations(self, images: Tensor) -> list[Tensor]:
        """Computes features (n, D) of images (n, C, H, W) at every depth."""
        ...
