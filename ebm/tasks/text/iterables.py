"""Rows of a `datasets.IterableDataset`: whole in any worker, by parts, and behind a place."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

from ebm.tasks.text.reading import ALL, Part


def rows_of(rows: Any) -> Iterator[dict[str, Any]]:
    """Iterates over all rows. In a loader's worker a dataset's own iterator would give the worker's share alone."""
    return _plain(rows.with_format(None))


def _plain(rows: Any) -> Iterator[dict[str, Any]]:
    return ({name: column[0] for name, column in batch.items()} for batch in rows.iter(1))


def placed_rows(rows: Any, place: Any = None, part: Part = ALL) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """Iterates over (number, place behind it, row) of a part of the rows, behind a place.

    A place is how many rows of the part lie before, and the dataset's own state: it skips shards
    that are done, and what lies before in a shard as far as its source can. A dataset with a
    shuffle buffer forgets what is in it, so that its rows are read again up to the place.
    """
    from datasets.distributed import split_dataset_by_node

    count, state = place or (0, None)
    index, of = part
    own = deepcopy(rows)  # what is iterated over notes where it is, and copies share that
    own = (own if of == 1 else split_dataset_by_node(own, index, of)).with_format(None)
    kept = not _forgets(own)
    if kept and state is not None:
        own.load_state_dict(state)
    for row in islice(_plain(own), 0 if kept else count, None):
        count += 1
        yield (count - 1) * of + index, (count, own.state_dict() if kept else None), row


def _forgets(rows: Any) -> bool:
    """Tells whether a dataset has a shuffle buffer somewhere."""
    inner = [getattr(rows, "_ex_iterable", None), getattr(rows, "ex_iterable", None), *getattr(rows, "ex_iterables", ())]
    return hasattr(rows, "buffer_size") or any(_forgets(one) for one in inner if one is not None)
