"""What tasks of independent rows share: splits, loaders, and judging samples by their MMD from held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebm.interfaces import Batch, Predictor, Task, raise_if_not_finite
from ebm.judging.mmd import median_distance, mmd, mmd_permutation_test
from ebm.randomness import stream
from ebm.words import nearest

__all__ = ["RowTask", "take"]

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
JUDGED = 2_000  # samples that a task draws to judge a predictor, where no limit is given
CHUNK = 1_000  # chains that move at a time while a predictor is judged


class RowTask(Task):
    """Holds independent rows in memory, by split. A task of this kind sets `spec` and `splits`, and writes `start`."""

    splits: dict[str, Batch]

    def rows(self, split: str) -> Batch:
        """Returns all rows of a split as one batch.

        Raises:
            ValueError: for an unknown split, or an empty one.
        """
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: {nearest(split, self.splits)}")
        rows = self.splits[split]
        if len(rows.target) == 0:
            held = {name: len(batch.target) for name, batch in self.splits.items()}
            raise ValueError(f"split {split!r} is empty, the rows are {held}: more rows are needed")
        return rows

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es (batch_size, *event).

        The training split is shuffled, by `seed` alone, and leaves out its last batch where that is short (unless it is the
        only one); other splits come whole and in a fixed order.

        Raises:
            ValueError: for an unknown or empty split, or a batch_size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1")
        return loader_of(_Rows(self.rows(split)), batch_size, split == "train", seed, workers)

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Averages the squared error over the event: y (*more, rows, *event) -> (*more, rows).

        Raises:
            ValueError: y does not end in the target's shape.
        """
        target = batch.target
        if y.shape[-target.ndim :] != target.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}, the target {tuple(target.shape)}: y's must end in the target's")
        return (y - target).square().flatten(y.ndim - target.ndim + 1).mean(-1)

    @torch.no_grad()
    def evaluate(
        self,
        predictor: Predictor,
        *,
        split: str = "test",
        limit: int | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """Compares a predictor's samples with one half of a split, by the squared MMD.

        Arguments:
            predictor: draws the samples, on the generator's device.
            split: the held-out rows: two halves of `limit` rows each, or of as many as there are.
            limit: how many samples are drawn; 2,000 if None.
            generator: where starts, noise and permutations come from; torch's global generator if None.

        Returns:
            `mmd`, of the samples from the first half; `mmd_reference`, of the second half from the first, with the same
            kernel; `mmd_p`, the p-value of "the samples come from the data's distribution"; `energy`, the samples' mean
            energy, where the predictor has one.

        Raises:
            ValueError: for an unknown split, halves of fewer than two rows, or samples or energies of a wrong shape.
            FloatingPointError: a sample or its energy is not finite.
        """
        rows = self.rows(split)
        count = min(JUDGED if limit is None else limit, len(rows.target) // 2)
        if count < 2:
            raise ValueError(
                f"limit={limit} and {len(rows.target)} rows in split {split!r}: MMD needs halves of at least two rows"
            )
        held, other = rows.target[:count], rows.target[count : 2 * count]
        samples, energies = [], []
        for batch in chunks(rows, count, generator):
            start = self.starts(predictor, batch, generator=generator)
            y, energy, _ = predictor.predict(batch, start, generator=generator)
            if y.shape != batch.target.shape:
                raise ValueError(f"the predictor returned {tuple(y.shape)} for targets of {tuple(batch.target.shape)}")
            raise_if_not_finite(None, y, y.new_zeros(len(y)) if energy is None else one_per_row(energy, y))
            samples.append(y.cpu())
            energies += [] if energy is None else [energy.cpu().double()]
        drawn = torch.cat(samples)
        width = median_distance(drawn, held)
        test = mmd_permutation_test(drawn, held, bandwidth=width, generator=generator)
        result = {"mmd": test.mmd, "mmd_reference": mmd(other, held, bandwidth=width), "mmd_p": test.p}
        if energies:
            result["energy"] = torch.cat(energies).mean().item()
        return result | self.said_of(drawn)

    def said_of(self, samples: Tensor) -> dict[str, float]:
        """Says more of drawn samples (rows, *event) than how far they are from data; nothing, unless a task does."""
        return {}


class _Rows(Dataset[Batch]):
    """Serves rows to a DataLoader, a whole batch at a time."""

    def __init__(self, rows: Batch) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.target)

    def __getitem__(self, index: Any) -> Batch:
        return take(self.rows, index)

    __getitems__ = __getitem__  # what torch's loader calls with all indices of a batch


def loader_of(rows: Any, batch_size: int, training: bool, seed: int, workers: int) -> DataLoader[Batch]:
    """Makes a loader of a dataset that serves a whole batch at a time; in training shuffled, and without a short last batch."""
    return DataLoader(
        rows,
        batch_size,
        shuffle=training,
        drop_last=training and len(rows) >= batch_size,
        num_workers=workers,
        collate_fn=_whole,
        generator=stream(seed, "loader"),  # without one, a loader draws from torch's global generator
    )


def _whole(batch: Any) -> Any:
    return batch


def take(batch: Batch, index: Any) -> Batch:
    """Selects rows of a batch of tensors.

    >>> take(Batch(torch.arange(4), context=torch.arange(4) * 10), slice(2)).context
    tensor([ 0, 10])
    """
    return Batch(*(None if field is None else field[index] for field in batch))


def chunks(rows: Batch, count: int, generator: torch.Generator | None) -> Iterator[Batch]:
    """Cuts the first `count` rows into batches that are evaluated at once, on the generator's device."""
    device = "cpu" if generator is None else generator.device
    for first in range(0, count, CHUNK):
        batch = take(rows, slice(first, min(first + CHUNK, count)))
        yield Batch(*(None if field is None else field.to(device) for field in batch))


def one_per_row(energy: Tensor, y: Tensor) -> Tensor:
    """Returns the energies (rows,) of y (rows, *event), once their shape is right.

    >>> one_per_row(torch.zeros(()), torch.zeros(5, 2))
    Traceback (most recent call last):
    ValueError: the predictor's energies have shape (), those of y (5, 2) have (5,): sum out the event's axes alone
    """
    if energy.shape != y.shape[:1]:
        raise ValueError(
            f"the predictor's energies have shape {tuple(energy.shape)}, those of y {tuple(y.shape)} have "
            f"{tuple(y.shape[:1])}: sum out the event's axes alone"
        )
    return energy


def draw_splits(count: int, n: int | None, seed: int) -> dict[str, Tensor]:
    """Deals `count` rows, or n of them, out to disjoint splits (70, 10 and 20 %): their indices, fixed by the seed."""
    if n is not None and n < 1:
        raise ValueError(f"n={n}: at least one row is needed")
    order = torch.randperm(count, generator=stream(seed, "split"))[:n]
    validation, test = (round(SHARES[split] * len(order)) for split in ("validation", "test"))
    return dict(zip(SHARES, order.split([len(order) - validation - test, validation, test]), strict=True))
