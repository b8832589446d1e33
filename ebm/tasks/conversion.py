"""Data of one's own as tasks: the one place where arrays, datasets and splits become a `Task`."""

from __future__ import annotations

import warnings
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate

from ebm.interfaces import Batch, Task
from ebm.tasks.rows import Rows, is_pair


def as_task(data: Any) -> Task:
    """Makes a task of data; what has a `loader`, a `start` and an `evaluate` is one already.

    Arguments:
        data: rows (n, *event), a pair (rows, contexts), a dataset of either, or a dictionary of
            splits: what `Rows` takes. Of a DataLoader the dataset is read, with a warning: training
            makes batches itself, in an order that the seed fixes.

    Raises:
        ValueError: for what are no rows, and for a DataLoader whose batches are more than rows of
            its dataset (a collate_fn, a sampler, a stream).

    >>> import numpy as np
    >>> as_task((np.zeros((20, 3)), np.arange(20) % 2)).spec
    {'dim': 3, 'classes': 2}
    """
    if all(hasattr(data, name) for name in ("loader", "start", "evaluate")):
        return data
    if isinstance(data, DataLoader):
        return as_task(_dataset_of(data))
    if isinstance(data, Batch):
        if data.weight is not None:
            raise ValueError("task is a Batch with weights: write a Task whose loader gives them, or pass (target, context)")
        return Rows(data.target, data.context)
    if is_pair(data):
        return Rows(*data)
    if isinstance(data, list | tuple) and len(data) == 2 and all(hasattr(part, "__array__") for part in data):
        shapes = ", ".join(str(tuple(part.shape)) for part in data)
        raise ValueError(
            f"task is two arrays of shapes {shapes}: pass a tuple (rows (n, *event), contexts (n, ...)), or an array"
        )
    return Rows(data)


def _dataset_of(loader: DataLoader[Any]) -> Any:
    """Returns the dataset of a loader that serves its rows, each once, and nothing else."""
    size = "" if loader.batch_size is None else f", batch_size={loader.batch_size}"
    why = "batches are made and ordered here, by the seed, so that a stopped run goes on exactly"
    plain = loader.collate_fn is default_collate and type(loader.sampler) in (RandomSampler, SequentialSampler)
    if not plain or loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            f"task is a DataLoader with a way of its own to choose rows or to make batches of them: pass its dataset, "
            f"as in fit(energy, objective, loader.dataset{size}), or write a Task: {why}"
        )
    warnings.warn(f"task is a DataLoader: its dataset is read, as by fit(energy, objective, loader.dataset): {why}", stacklevel=4)
    return loader.dataset
