"""Reads a training stream in lanes, which processes and workers share, from wherever each stands.

A lane has documents, windows and draws of its own, so that what it serves does not depend on who
reads it. How many there are follows from the batch size and the shards alone: a batch takes as many
windows of each, and its rows are the same on any number of processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ebm.interfaces import Batch
from ebm.randomness import stream
from ebm.tasks.text.shards import Stream
from ebm.tasks.text.tokenizers import Tokenizer

FEW = 8  # lanes of a stream of few shards, of which each lane passes over the others' documents
MOST = 64  # lanes, each of which holds a file open

Place = tuple[int, int, int, Any]  # a pass, how many share it, a shard of one's own, and a place in it


class Came(NamedTuple):
    """What comes into a lane for a batch, of one source: documents' tokens, and the windows that enter.

    Attributes:
        place: where the source stands behind them; None before it has begun.
        ids: the tokens (n,), each document with its end-of-text.
        windows: how many windows enter what is drawn from.
    """

    place: Place | None
    ids: np.ndarray
    windows: int


class Lanes(IterableDataset[Any]):
    """Tokenizes, for one batch after another, the documents that some lanes' windows need.

    A lane goes through its documents again and again. Each pass has the shards in an order of its
    own, and deals them out to the lanes; fewer shards than lanes are each dealt out by document.

    Arguments:
        sources: the shards of each source.
        shares: how often a source's window is drawn.
        tokenizer: what makes tokens of the documents.
        context: tokens of a window.
        buffer: windows that all lanes together draw from.
        seed: of orders and draws.
        batch_size: windows of a batch, of all lanes together.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Stream]],
        shares: Sequence[float],
        tokenizer: Tokenizer,
        context: int,
        *,
        buffer: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self.sources, self.shares, self.tokenizer, self.context, self.seed = sources, shares, tokenizer, context, seed
        most = min(MOST, max(FEW, min(map(len, sources))))
        self.count = max(lanes for lanes in range(1, most + 1) if batch_size % lanes == 0)
        self.windows, self.full = batch_size // self.count, batch_size // self.count - 1 - (-buffer // self.count)
        self.batch_size, self.orders = batch_size, seed
        self.taken, self.held = 0, dict[int, dict[str, Any]]()

    def share(
        self, rank: int, ranks: int, *, taken: int = 0, state: Mapping[str, Any] | None = None, workers: int = 0
    ) -> Iterator[tuple[Any, Batch]]:
        """Iterates as `ebm.interfaces.abilities.Shares` says, without end; at most a worker for each lane reads.

        Raises:
            ValueError: a batch does not divide over the processes, or the state is none of this stream.
        """
        if self.batch_size % ranks:
            raise ValueError(f"a batch of {self.batch_size} rows does not divide over {ranks} processes")
        if taken and state is None:
            raise ValueError("the checkpoint does not say where the stream stood, an older version wrote it: start anew")
        if state is not None and state["lanes"] != self.count:
            what = f"the stream was read in {state['lanes']} lanes, and now it has {self.count}"
            raise ValueError(f"{what}: its shards have changed; bring them back, or start anew")
        rows = self.batch_size // ranks
        mine = range(rank * rows // self.windows, -(-(rank + 1) * rows // self.windows))
        first = rank * rows - mine[0] * self.windows
        own = copy(self)
        own.taken = taken
        if state is None:
            own.held = {lane: self._begin() for lane in mine}
        else:
            own.held, own.orders = {lane: state["held"][lane] for lane in mine}, state["orders"]
        return own._batches(slice(first, first + rows), min(workers, len(mine)))

    def _begin(self) -> dict[str, Any]:
        left = [torch.tensor([self.tokenizer.end], dtype=torch.int32) for _ in self.sources]
        return {"places": [None] * len(left), "left": left, "windows": torch.empty(0, self.context + 1, dtype=torch.int32)}

    def _batches(self, rows: slice, workers: int) -> Iterator[tuple[Any, Batch]]:
        how: dict[str, Any] = {"num_workers": workers, "collate_fn": _as_it_is, "generator": stream(self.seed, "loader")}
        read, held = iter(DataLoader(self, batch_size=None, **how)), dict(self.held)
        for number in itertools.count(self.taken):
            came = {lane: found for _ in range(max(1, workers)) for lane, found in next(read).items()}
            drawn = []
            for lane in sorted(came):
                held[lane], chosen = self._draw(lane, number, held[lane], came[lane])
                drawn.append(chosen)
            windows = torch.cat(drawn)[rows].long()
            batch = Batch(windows[:, 1:], windows[:, :-1], torch.ones(len(windows), self.context))
            yield {"lanes": self.count, "orders": self.orders, "held": dict(held)}, batch

    def _draw(self, lane: int, number: int, held: Mapping[str, Any], came: Sequence[Came]) -> tuple[dict[str, Any], Tensor]:
        """Cuts what came into windows, and draws a batch's out of all that are held."""
        windows, left = [held["windows"]], []
        for found, before in zip(came, held["left"], strict=True):
            joined = torch.cat([before, torch.from_numpy(found.ids)])
            if found.windows:
                windows.append(joined[: found.windows * self.context + 1].unfold(0, self.context + 1, self.context))
            left.append(joined[found.windows * self.context :].clone())
        every = torch.cat(windows)
        order = torch.randperm(len(every), generator=stream(self.seed, "buffer", lane, number))
        chosen, rest = order[: self.windows], order[self.windows :].sort().values
        return {"places": [found.place for found in came], "left": left, "windows": every[rest]}, every[chosen]

    # ------------------------------------------------------------------------------------------------- in a worker

    def __iter__(self) -> Iterator[dict[int, list[Came]]]:
        """Iterates over what comes into each lane of this worker for one batch after another."""
        worker = get_worker_info()
        mine = [*self.held][slice(None) if worker is None else slice(worker.id, None, worker.num_workers)]
        coming = {lane: self._coming(lane) for lane in mine}
        while True:
            yield {lane: next(coming[lane]) for lane in mine}

    def _coming(self, lane: int) -> Iterator[list[Came]]:
        """Iterates over the documents of each source that a lane needs for a batch, and how many windows enter it.

        As many enter as fill what is drawn from; at the end of a pass that is first used up.
        """
        held, end = self.held[lane], np.array([self.tokenizer.end], np.int32)
        places, left, full = [*held["places"]], [len(ids) for ids in held["left"]], len(held["windows"])
        reading = [self._documents(lane, source, place) for source, place in enumerate(places)]
        for number in itertools.count(self.taken):
            came = []
            for source, wanted in enumerate(self._counts(lane, number, self.full - full)):
                ids = [end[:0]]
                while left[source] <= wanted * self.context:
                    there = (left[source] - 1) // self.context
                    if len(places) == 1 and _begins(places[0]) and full + there >= self.windows:
                        wanted = there
                        break
                    places[source], text = next(reading[source])
                    if text is not None:
                        ids += [*self.tokenizer.encode_batch([text]), end]
                        left[source] += len(ids[-2]) + 1
                left[source] -= wanted * self.context
                full += wanted
                came.append(Came(places[source], np.concatenate(ids, dtype=np.int32), wanted))
            full -= self.windows
            yield came

    def _counts(self, lane: int, number: int, windows: int) -> list[int]:
        """Draws how many of the windows that enter a lane are of each source."""
        if len(self.sources) == 1:
            return [windows]
        generator = stream(self.seed, "sources", lane, number)
        drawn = torch.tensor(self.shares).multinomial(windows, replacement=True, generator=generator)
        return drawn.bincount(minlength=len(self.sources)).tolist()

    def _documents(self, lane: int, source: int, place: Place | None) -> Iterator[tuple[Place, str | None]]:
        """Iterates over (place behind it, document) of a lane behind a place, without end; None ends a pass."""
        shards = self.sources[source]
        number, sharing, at, within = place or (0, self.count, 0, None)
        found = within is not None
        while True:
            order = torch.randperm(len(shards), generator=stream(self.orders, "shards", source, number)).tolist()
            turn = (lane + number) % sharing  # where documents are dealt out, a lane's are others in each pass
            apart = len(order) >= sharing
            own = order[turn::sharing] if apart else order
            for index in range(at, len(own)):
                for behind, text in shards[own[index]].read(within, (0, 1) if apart else (turn, sharing)):
                    found = True
                    yield (number, sharing, index, behind), text
                within = None
            if not found and sharing == 1:
                raise ValueError(
                    "the training split of a stream has no documents any more: they have changed since it was opened"
                )
            # A lane to which no document fell reads all of them once.
            number, sharing, at = number + 1, self.count if found else 1, 0
            if found:
                yield (number, sharing, at, None), None
            found = False


def _begins(place: Place | None) -> bool:
    """Tells whether a place is the beginning of a later pass."""
    return place is not None and place[2] == 0 and place[3] is None


def _as_it_is(came: Any) -> Any:
    return came


class LaneLoader(DataLoader[Batch]):
    """Loads the windows of a stream; processes share it in lanes."""

    readers = 0  # processes that read lanes, which may be more than there are shards

    def share(self, rank: int, ranks: int, *, taken: int = 0, state: Any = None) -> Iterator[tuple[Any, Batch]]:
        """Iterates as `Lanes.share` says."""
        dataset: Any = self.dataset
        return dataset.lanes(self.batch_size).share(rank, ranks, taken=taken, state=state, workers=self.readers)
