"""Rows in memory: their loaders and splits, rows of an array, and judging samples by MMD."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Sized
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves  # private, but what torch.func itself maps trees by
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ebm.interfaces import Batch, Predictor, Task, raise_if_not_finite
from ebm.interfaces.task import check_limit
from ebm.judging.mmd import median_distance, mmd, mmd_permutation_test
from ebm.randomness import randn_like, stream
from ebm.words import nearest

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
SPLITS = tuple(SHARES)
LOSSES = {"squared": F.mse_loss, "smooth-l1": F.smooth_l1_loss}
THREE = "at least 3 are needed, for train, validation and test"
JUDGED = 2_000  # samples that a task draws to judge a predictor, where no limit is given


class InMemory(Task):
    """Holds rows in memory. A task of this kind sets `spec` and `splits`, and writes `start`.

    One that reads files may make `splits` a cached property, and touch it in its constructor
    unless that was handed what a run `learned`.
    """

    splits: dict[str, Batch]
    rows_at_once = 1_000

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Hashes the rows of all splits: a run that was stopped must not go on with other data."""
        return digest_of([leaf for rows in self.splits.values() for leaf in tree_leaves(rows) if isinstance(leaf, Tensor)])

    def rows(self, split: str) -> Batch:
        """Returns a split as one batch; ValueError for an unknown split, or an empty one."""
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: {nearest(split, self.splits)}")
        rows = self.splits[split]
        if len(rows.target) == 0:
            held = {name: len(batch.target) for name, batch in self.splits.items()}
            raise ValueError(f"split {split!r} is empty, the rows are {held}: more rows are needed")
        return rows

    def check_split(self, split: str, limit: int | None = None) -> None:
        """Raises ValueError for an unknown or empty split."""
        check_limit(limit)
        self.rows(split)

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es (batch_size, *event), as `rows` and `loader_of` say."""
        return loader_of(RowsOf(self.rows(split)), batch_size, split == "train", seed, workers)

    def judged(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """Iterates over the first `limit` rows of a split in their order, "train" included."""
        check_limit(limit)
        rows = self.rows(split)
        count = len(rows.target[:limit])
        for first in range(0, count, self.rows_at_once):
            yield rows.rows(slice(first, min(first + self.rows_at_once, count)))

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Averages `errors` over the event: y (*more, rows, *event) -> (*more, rows)."""
        return errors(y, batch.target).flatten(y.ndim - batch.target.ndim + 1).mean(-1)


class Rows(InMemory):
    """Rows of an array, without a judge of samples: chains start at standard normal noise.

    The loss says how near a prediction is to its own row; `RowTask` judges samples by their MMD.
    For numbers in a file, `Points` reads tables.

    Arguments:
        array: the rows (n, *event): a tensor, a NumPy array or a sequence of numbers, or a dataset
            of rows or of (row, label) pairs. A floating tensor keeps its dtype; other numbers
            become torch's default float. Or a dictionary of splits ("train", "validation", "test"),
            each such rows, or a pair (rows, labels) of them.
        labels: the context (n, ...), one label for each row.
        seed: decides which rows belong to which split, where splits are not given: 70 % train,
            10 % validation, 20 % test.

    Raises:
        ValueError: for fewer than three rows without splits, rows that are no numbers, empty, NaN
            or infinite, labels of another length, or splits of unlike rows.

    >>> import numpy as np
    >>> task = Rows(np.arange(40).reshape(20, 2), labels=[0, 1] * 10)
    >>> batch = next(iter(task.loader("train", 8)))
    >>> batch.target.shape, batch.context.shape, task.spec
    (torch.Size([8, 2]), torch.Size([8]), {'dim': 2, 'classes': 2})
    """

    def __init__(self, array: Any, labels: Any = None, *, seed: int = 0) -> None:
        if isinstance(array, Mapping):
            self.splits = _read_splits(array, labels)
        else:
            rows = _read(array, labels)
            if len(rows.target) < 3:
                raise ValueError(f"array has {len(rows.target)} rows: {THREE}")
            self.splits = {split: rows.rows(index) for split, index in draw_splits(len(rows.target), None, seed).items()}
        self.spec = _spec_of([*self.splits.values()])
        self.reads = f"{sum(len(rows.target) for rows in self.splits.values()):,} rows of an array"

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws standard normal noise of the target's shape."""
        return randn_like(batch.target, generator)


class RowTask(InMemory):
    """Judges samples by their MMD from held-out rows. A task of this kind writes `start`."""

    headline = "mmd"

    def check_split(self, split: str, limit: int | None = None) -> None:
        """Raises ValueError for an unknown split, or halves of fewer than two rows."""
        self._half(split, limit)

    def _half(self, split: str, limit: int | None) -> int:
        """Counts the samples that are drawn."""
        found = len(self.rows(split).target)
        count = min(JUDGED if limit is None else limit, found // 2)
        if count < 2:
            raise ValueError(f"limit={limit} and {found} rows in split {split!r}: MMD needs halves of at least two rows")
        return count

    @torch.no_grad()
    def evaluate(
        self, predictor: Predictor, *, split: str = "test", limit: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """Compares a predictor's samples with one half of a split, by the squared MMD.

        Arguments:
            predictor, generator: as in `Task.evaluate`; the generator also draws permutations.
            split: the held-out rows: two halves of `limit` rows each, or of as many as there are.
            limit: how many samples are drawn; 2,000 if None.

        Returns:
            `mmd`, of the samples from the first half; `mmd_reference`, of the second half from the
            first, with the same kernel; `mmd_p`, the p-value of "the samples come from the data's
            distribution"; `energy`, their mean energy, if there is one; and `extra_metrics`.

        Raises:
            ValueError: for an unknown split, halves of fewer than two rows, or samples or energies
                of a wrong shape.
            FloatingPointError: a sample or its energy is not finite.
        """
        rows, count = self.rows(split), self._half(split, limit)
        held, other = rows.target[:count], rows.target[count : 2 * count]
        samples, energies = [], []
        for batch, (y, energy, _) in self.predictions(predictor, split, count, generator):
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
        return result | self.extra_metrics(drawn)

    def extra_metrics(self, samples: Tensor) -> dict[str, float]:
        """Measures samples (rows, *event) in further ways; here in none."""
        return {}


class RowsOf(Dataset[Batch]):
    """Serves the rows of a batch to a DataLoader, a whole batch at a time."""

    by_index = True  # a row is a function of its index, whichever others it comes with

    def __init__(self, rows: Batch) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.target)

    def __getitem__(self, index: Any) -> Batch:
        return self.rows.rows(index)

    __getitems__ = __getitem__  # what torch's loader calls with all indices of a batch


def loader_of(rows: Any, batch_size: int, training: bool, seed: int, workers: int = 0) -> DataLoader[Batch]:
    """Makes a loader of a dataset that serves whole batches, by `__getitems__` of indices.

    In training it is shuffled, by `seed` alone, and leaves out its last batch where that is short
    (unless it is the only one); otherwise all rows come, in a fixed order. A batch_size below 1 is
    a ValueError. Of a dataset that says `by_index`, processes each read their own rows alone.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: it must be at least 1")
    how: dict[str, Any] = {"shuffle": training, "drop_last": training and len(rows) >= batch_size, "num_workers": workers}
    # Without a generator, a loader draws from torch's global one.
    kind = RowLoader if vars(type(rows)).get("by_index") else DataLoader  # a subclass may do otherwise
    return kind(rows, batch_size, **how, collate_fn=_whole, generator=stream(seed, "loader"))


class RowLoader(DataLoader[Batch]):
    """Loads rows that are each a function of their index alone, so that processes can share its batches.

    >>> loader = RowLoader(RowsOf(Batch(torch.arange(8))), 4, collate_fn=lambda rows: rows)
    >>> [rows.target.tolist() for _, rows in loader.share(rank=1, ranks=2, taken=1)]
    [[6, 7]]
    """

    def share(self, rank: int, ranks: int, *, taken: int = 0, state: None = None) -> Iterator[tuple[None, Batch]]:
        """Iterates as `ebm.interfaces.abilities.Shares` says; the state is None."""
        assert state is None
        own = DataLoader(
            self.dataset,
            batch_sampler=_Share(self.batch_sampler, rank, ranks, taken),
            collate_fn=self.collate_fn,
            num_workers=self.num_workers,
            generator=self.generator,
        )
        return ((None, rows) for rows in own)


class _Share(Sampler[list[int]]):
    """A process's indices of each batch, which lie side by side, behind some batches."""

    def __init__(self, batches: Any, rank: int, ranks: int, taken: int) -> None:
        self.batches, self.rank, self.ranks, self.taken = batches, rank, ranks, taken

    def __iter__(self) -> Iterator[list[int]]:
        for batch in islice(self.batches, self.taken, None):
            rows, over = divmod(len(batch), self.ranks)
            if over:
                raise ValueError(f"a batch of {len(batch)} rows does not divide over {self.ranks} processes")
            yield batch[self.rank * rows : (self.rank + 1) * rows]


def _whole(batch: Any) -> Any:
    return batch


def errors(y: Tensor, target: Tensor, loss: str = "squared") -> Tensor:
    """Computes the error of every number of y (*more, *shape) from a target (*shape).

    >>> errors(torch.ones(3, 2), torch.zeros(2), "smooth-l1").shape
    torch.Size([3, 2])
    >>> errors(torch.ones(3), torch.zeros(2))
    Traceback (most recent call last):
    ValueError: y has shape (3,), the target (2,): y's must end in the target's
    """
    if y.shape[-target.ndim :] != target.shape:
        raise ValueError(f"y has shape {tuple(y.shape)}, the target {tuple(target.shape)}: y's must end in the target's")
    return LOSSES[loss](y, target.expand_as(y), reduction="none")


def one_per_row(energy: Tensor, y: Tensor) -> Tensor:
    """Returns the energies (rows,) of y (rows, *event), once their shape is right.

    >>> one_per_row(torch.zeros(()), torch.zeros(5, 2))
    Traceback (most recent call last):
    ValueError: the predictor's energies have shape (), those of y (5, 2) have (5,): sum out the event's axes alone
    """
    if energy.shape != y.shape[:1]:
        right = f"those of y {tuple(y.shape)} have {tuple(y.shape[:1])}: sum out the event's axes alone"
        raise ValueError(f"the predictor's energies have shape {tuple(energy.shape)}, {right}")
    return energy


def draw_splits(count: int, n: int | None, seed: int) -> dict[str, Tensor]:
    """Deals `count` rows, or n of them, out to splits (70, 10, 20 %) by a seed: their indices."""
    if n is not None and n < 1:
        raise ValueError(f"n={n}: at least one row is needed")
    order = torch.randperm(count, generator=stream(seed, "split"))[:n]
    validation, test = (round(SHARES[split] * len(order)) for split in ("validation", "test"))
    return dict(zip(SHARES, order.split([len(order) - validation - test, validation, test]), strict=True))


def deal(items: Sequence[Any], seed: int) -> dict[str, list[Any]]:
    """Deals items out to splits, as `draw_splits` does."""
    return {split: [items[i] for i in rows.tolist()] for split, rows in draw_splits(len(items), None, seed).items()}


def check_splits(source: str, found: Mapping[str, Sequence[Any]], what: str) -> None:
    """Raises ValueError where a split has none of a source's items."""
    count = {split: len(held) for split, held in found.items()}
    if not all(count.values()):
        way_out = "each split needs at least one, so add some, or sort them into sub-folders train, validation and test"
        raise ValueError(f"{source} has {sum(count.values())} {what}, as splits {count}: {way_out}")


def digest_of(tensors: Sequence[Tensor]) -> str:
    """Hashes tensors of the CPU: the same numbers in the same order have the same digest."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _read_splits(splits: Mapping[Any, Any], labels: Any) -> dict[str, Batch]:
    """Reads splits that are given, each as rows or as (rows, labels)."""
    if labels is not None:
        raise ValueError("labels beside a dictionary of splits: pass each split as a pair (rows, labels)")
    for name in splits:
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}: {nearest(str(name), SPLITS)}")
    pairs = {name: part if is_pair(part) else (part, None) for name, part in splits.items()}
    found = {name: _read(rows, own, name) for name, (rows, own) in pairs.items()}
    kinds = {name: (*rows.target.shape[1:], rows.context is not None) for name, rows in found.items()}
    if len({*kinds.values()}) != 1:
        shapes = {name: tuple(rows.target.shape) for name, rows in found.items()}
        raise ValueError(f"the splits are {shapes}: pass rows of one shape, all with labels or none, and at least 'train'")
    return found


def is_pair(data: Any) -> bool:
    """Tells whether data are a tuple (rows, labels)."""
    return isinstance(data, tuple) and not hasattr(data, "_fields") and len(data) == 2 and np.ndim(data[0]) > 1


def _read(array: Any, labels: Any, name: str = "array") -> Batch:
    """Reads rows (n, *event) as floating numbers, and their labels."""
    if labels is None and (width := _columns(array)):
        if width > 2:
            raise ValueError(f"{name} gives {width} things a row: pass (rows, labels), the context being the labels")
        columns = [*zip(*(array[index] for index in range(len(array))), strict=True)]
        array, labels = columns if width == 2 else (columns[0], None)
    rows = _tensor(name, array)
    rows, shape = rows if rows.is_floating_point() else rows.to(torch.get_default_dtype()), tuple(rows.shape)
    if rows.ndim == 1 or not rows.numel():
        if not len(rows):
            raise ValueError(f"{name} has 0 rows: {THREE}")
        what = "pass rows (n, *event), as in array[:, None]" if rows.ndim == 1 else "its rows are empty"
        raise ValueError(f"{name} has shape {shape}: {what}")
    if labels is None:
        return Batch(rows)
    context = _tensor("labels", labels)
    if context.shape[:1] != rows.shape[:1]:
        raise ValueError(f"labels have shape {tuple(context.shape)}, the {name} {shape}: pass one label for each row")
    return Batch(rows, context if context.is_floating_point() else context.long())


def _columns(array: Any) -> int:
    """Counts what a dataset gives for each row, as tuples; 0 for rows themselves.

    A plain sequence of tuples is rows, unless its first is a row and one number.
    """
    if hasattr(array, "__array__") or not isinstance(array, Sized) or not len(array):
        return 0
    first = array[0]  # type: ignore[index]
    if not isinstance(first, tuple):
        return 0
    pair = len(first) == 2 and np.ndim(first[0]) > 0 and np.ndim(first[1]) == 0
    return len(first) if isinstance(array, Dataset) or pair else 0


def _tensor(name: str, values: Any) -> Tensor:
    """Makes a tensor of a tensor, of what NumPy can read, or of a sequence of either."""
    if isinstance(values, IterableDataset):
        raise ValueError(f"{name} is a stream of unknown length: read its rows into a tensor, or write a Task with a loader")
    try:
        if not hasattr(values, "__array__"):
            values = [values[index] for index in range(len(values))]
            if any(isinstance(row, Tensor) for row in values):
                values = torch.stack([torch.as_tensor(row) for row in values])
        if isinstance(values, Tensor):
            found = values.detach().cpu()
        elif (found := torch.from_numpy(np.array(values))).is_floating_point():
            found = found.to(torch.get_default_dtype())
        if found.is_complex() or not found.ndim:
            raise TypeError("a single number" if not found.ndim else "complex numbers")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as numbers ({error}): pass a tensor, an array, or rows of one shape") from error
    bad = (~found.isfinite()).reshape(len(found), -1).any(1).nonzero().flatten().tolist() if found.numel() else []
    if bad:
        raise ValueError(f"{name}: {len(bad)} of {len(found)} rows are NaN or infinite (row {bad[0]} first)")
    return found


def _spec_of(splits: Sequence[Batch]) -> dict[str, Any]:
    shape, labels = splits[0].target.shape, [rows.context for rows in splits]
    spec: dict[str, Any] = {"dim": shape[1]} if len(shape) == 2 else {}
    if len(shape) == 4 and shape[2] == shape[3]:
        spec = {"image_size": shape[2], "channels": shape[1]}
    if all(part is not None and part.ndim == 1 and not part.is_floating_point() for part in labels):
        spec["classes"] = max(int(part.max()) for part in labels if len(part)) + 1
    return spec
