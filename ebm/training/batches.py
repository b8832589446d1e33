"""Batches: each process reads its own rows of them, and says where in the data it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ebm.interfaces import Batch
from ebm.interfaces.abilities import Shares, lacking
from ebm.randomness import subseed
from ebm.training import ranks


class Member(NamedTuple):
    """One of several processes, as a Fabric says it."""

    global_rank: int = 0
    world_size: int = 1


ALONE = Member()


class Batches(Iterator[tuple[tuple[int, int], Batch]]):
    """Iterates over ((epoch, batches taken of it), this process's rows of a batch) without end.

    A loader that `Shares` reads these rows alone, and goes on behind a place without reading what
    lies before it. Any other is read whole by every process, each taking its rows, and is read again
    up to the place.

    Arguments:
        task: the data.
        batch_size: rows of all processes together.
        seed: what the order of every epoch is derived from.
        workers: processes that load data.
        place: where to begin: behind that many batches of an epoch.
        member: which process this is, of how many: a Fabric, or a `Member`.
        state: what `state` was at that place; None for a loader that needs none.

    Attributes:
        state: what the loader needs to go on behind the last batch.
    """

    def __init__(
        self,
        task: Any,
        batch_size: int,
        seed: int,
        workers: int,
        place: tuple[int, int],
        *,
        member: Any = ALONE,
        state: Any = None,
    ) -> None:
        self.task, self.batch_size, self.seed, self.workers, self.place = task, batch_size, seed, workers, place
        self.member, self.state = member, state
        self._epoch = self._read(*place) if place[1] else None

    def __next__(self) -> tuple[tuple[int, int], Batch]:
        while True:
            epoch, taken = self.place
            if self._epoch is None:
                self._epoch = self._read(epoch, taken)
            if (found := next(self._epoch, None)) is not None:
                self.state, batch = found
                self.place = epoch, taken + 1
                return self.place, batch
            if not taken:
                what = f"the training split of {type(self.task).__name__} gives no batch of {self.batch_size}"
                raise ValueError(f"{what}: it is empty")
            self.place, self.state, self._epoch = (epoch + 1, 0), None, None

    def _read(self, epoch: int, taken: int) -> Iterator[tuple[Any, Batch]]:
        """Reads an epoch behind the batches that are taken of it: (state, rows)."""
        loader: Any = self.task.loader("train", self.batch_size, seed=subseed(self.seed, "data", epoch), workers=self.workers)
        if not lacking(loader, Shares):
            return loader.share(self.member.global_rank, self.member.world_size, taken=taken, state=self.state)
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        return ((None, ranks.shard(self.member, batch)) for batch in batches)
