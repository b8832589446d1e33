"""Handwritten digits in black and white."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm.interfaces import Batch, Predictor, Scorer
from ebm.judging.ranking import auroc
from ebm.randomness import uniform
from ebm.tasks import Digits, RowTask

__all__ = ["BinaryDigits"]


class BinaryDigits(RowTask):
    """Handwritten digits of black and white pixels: 1 where the core's are bright, else −1.

    Images are (rows, 1, size, size). Chains start at fair coins.

    Arguments:
        size: 8 (scikit-learn's digits) or 28 (MNIST's).
        n: how many digits are taken at most; 70 % are for training, 10 % for validation and 20 %
            for testing.
        seed: decides which digits belong to which split.

    Raises:
        ValueError: another size, or an unknown or empty split.
        ImportError: a package that the digits need is not installed.

    >>> task = BinaryDigits()
    >>> next(iter(task.loader("train", 32))).target.unique()
    tensor([-1.,  1.])
    """

    def __init__(self, size: int = 8, n: int | None = None, seed: int = 0) -> None:
        digits = Digits(size=size, n=n, seed=seed)  # type: ignore[arg-type]  # it says which sizes there are
        self.spec, self.reads = digits.spec, digits.reads
        self.splits = {split: Batch((rows.target > 0).to(rows.target) * 2 - 1) for split, rows in digits.splits.items()}

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws every pixel by a fair coin."""
        return (uniform(batch.target, 0.0, 1.0, generator) < 0.5).to(batch.target) * 2 - 1

    @torch.no_grad()
    def evaluate(
        self, predictor: Predictor, *, split: str = "test", limit: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """Judges samples by their MMD, and energies by what they say of a pixel, given all others.

        Arguments, further results and errors are those of `RowTask.evaluate`; the following need a
        predictor with `score`.

        Returns:
            `pixel_nll`, −log p(pixel | all others) in nats, averaged over pixels of held-out
            digits; `pixel_nll_reference`, the same of independent pixels with the training split's
            frequencies; `pixel_accuracy`, how often the likelier value is right; `auroc_shuffled`,
            the chance that a digit with its pixels shuffled has a higher energy than one without.
        """
        result = super().evaluate(predictor, split=split, limit=limit, generator=generator)
        if not isinstance(predictor, Scorer):
            return result
        device = "cpu" if generator is None else generator.device
        y = self.rows(split).target[:limit].to(device)
        batch, flat = Batch(y), y.flatten(1)
        here, costs = predictor.score(batch, y), []
        for pixel in range(flat.shape[1]):
            other = flat.clone()
            other[:, pixel] *= -1
            costs.append(predictor.score(batch, other.reshape(y.shape)) - here)
        cost = torch.stack(costs, -1).double()  # of flipping each pixel
        shuffled = flat.gather(1, uniform(flat, 0.0, 1.0, generator).argsort(1)).reshape(y.shape)
        train = self.rows("train").target.flatten(1).double().to(device)
        bright = ((train > 0).sum(0) + 0.5) / (len(train) + 1)  # half a row of each, for pixels that are always dark
        return result | {
            "pixel_nll": torch.nn.functional.softplus(-cost).mean().item(),
            "pixel_nll_reference": -torch.where(flat > 0, bright, 1 - bright).log().mean().item(),
            "pixel_accuracy": (cost > 0).double().mean().item(),
            "auroc_shuffled": auroc(here.cpu(), predictor.score(batch, shuffled).cpu()),
        }
