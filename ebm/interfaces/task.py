"""The objective and task interfaces: how data shape a landscape, and what the data mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ebm.interfaces.energy import EnergyFn
from ebm.interfaces.values import Batch, Loss, Predictor

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class Objective(nn.Module):
    """Shapes a landscape with data: maps an energy and a batch to a scalar loss. Owns its sampler, start rule and weights."""

    def forward(
        self,
        energy: EnergyFn,
        batch: Batch,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Loss:
        """Computes the loss of one batch; `start` replaces the objective's own start of the chains."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(energy, batch, *, start, generator)")


class Task(ABC):
    """Owns data and their meaning: where y starts, how far it is from the truth, how it is judged. No parameters.

    `spec` holds what the data decide (dim, image_size, channels, vocab_size …); recipes fill in factories' keywords from it.
    """

    spec: dict[str, Any]

    @abstractmethod
    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es; the order of the training split depends on the seed alone."""

    @abstractmethod
    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws y_0 for a batch."""

    def starts(self, predictor: Predictor, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws what a predictor starts from: y_0, or where it has several `candidates`, one y_0 for each in front."""
        count = getattr(predictor, "candidates", 1)
        if count == 1:
            return self.start(batch, generator=generator)
        return torch.stack([self.start(batch, generator=generator) for _ in range(count)])

    @abstractmethod
    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Measures how far y is from the batch's truth (*chains,), differentiably."""

    @abstractmethod
    def evaluate(
        self,
        predictor: Predictor,
        *,
        split: str = "test",
        limit: int | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """Judges a predictor on a split, on at most `limit` examples."""
