"""Features of samples and data, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ebm.interfaces import eval_mode


def check_samples(samples: Tensor, data: Tensor, least: int = 2) -> None:
    """Raises ValueError unless both are rows of the same events, at least `least` of each."""
    if not samples.ndim or samples.shape[1:] != data.shape[1:] or min(len(samples), len(data)) < least:
        rows = {2: "two"}.get(least, str(least))
        shapes = f"samples {tuple(samples.shape)}, data {tuple(data.shape)}"
        raise ValueError(f"{shapes}: pass {rows} rows or more of the same events")


@torch.no_grad()
def featured(rows: Tensor, features: Callable[[Tensor], Tensor] | None, what: str, batch_size: int = 256) -> Iterator[Tensor]:
    """Iterates over the features (batch, d) of rows (n, *event), in float64.

    Arguments:
        rows: what is looked at.
        features: maps a batch to features (batch, d), in eval mode; None takes the values.
        what: what the rows are, for errors.
        batch_size: rows that pass through `features` at once.

    Raises:
        ValueError: for features of another shape, or that are not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: pass a whole number of at least 1")
    with eval_mode(features):
        for batch in rows.split(batch_size):
            found = batch if features is None else features(batch)
            if found.ndim < 2 or len(found) != len(batch):
                raise ValueError(f"features of {len(batch)} rows have shape {tuple(found.shape)}: (batch, d) is due")
            found = found.flatten(1).double()
            if not bool(found.isfinite().all()):
                raise ValueError(f"the features of the {what} are not finite")
            yield found
