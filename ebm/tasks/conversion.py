"""Data of one's own as tasks: the one place where arrays, datasets and splits become a `Task`."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from ebm.interfaces import Batch, Task
from ebm.tasks.rows import Rows, is_pair


def as_task(data: Any) -> Task:
    """Makes a task of data; what has a `loader`, a `start` and an `evaluate` is one already.

    Arguments:
        data: rows (n, *event), a pair (rows, contexts), a dataset of either, or a dictionary of
            splits: what `Rows` takes.

    Raises:
        ValueError: for a DataLoader, whose order and batches training makes itself, and for what
            are no rows.

    >>> import numpy as np
    >>> as_task((np.zeros((20, 3)), np.arange(20) % 2)).spec
    {'dim': 3, 'classes': 2}
    """
    if all(hasattr(data, name) for name in ("loader", "start", "evaluate")):
        return data
    if isinstance(data, DataLoader):
        size = "" if data.batch_size is None else f", batch_size={data.batch_size}"
        why = "batches are made and ordered here, by the seed, so that a stopped run goes on exactly"
        raise ValueError(f"task is a DataLoader: pass its dataset, as in fit(energy, objective, loader.dataset{size}): {why}")
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
