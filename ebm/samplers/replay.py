"""Replay: a buffer of past ends from which later trajectories start, rows with their contexts."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree

from ebm.interfaces import Batch, Sampler, left
from ebm.randomness import stream
from ebm.samplers.wrapper import Wrapper


class ReplayAugmented(Wrapper):
    """Steps as its inner sampler does, and starts trajectories from a buffer of past ends.

    A stored row is an end with its target, context and weight. With `join` = 0 each row of a batch
    and its start are swapped for a stored row with probability 1 − fresh: persistent contrastive
    divergence. A batch meets no stored row twice, so that a buffer of a batch's size is that many
    chains; one that is too small for its batches warns. With `join` > 0 the batch keeps its rows,
    and stored ones are appended: an EBT's second training stage. Only in train mode; rows are the
    first axis. The buffer is saved with the module's state, and belongs to one process.
    Source: Tieleman, 2008 (persistent chains); Du and Mordatch, 2019 (arXiv 1903.08689), section
    3.2 (5% fresh rows); joined rows: arXiv 2507.02092. Reservoir: Vitter, 1985, algorithm R.

    Arguments:
        sampler: moves the chains.
        capacity: how many rows the buffer holds.
        fresh: the fraction of rows that start anew when rows are swapped.
        policy: which row a full buffer replaces: "fifo" the oldest, "reservoir" a random one, so
            that it stays a uniform sample of all rows.
        join: stored rows to append, as a fraction of the batch size; 0 swaps rows instead.

    >>> from ebm.samplers import LangevinDynamics
    >>> replay = ReplayAugmented(LangevinDynamics(step_size=0.1), capacity=100, fresh=0.0)
    >>> batch = Batch(torch.zeros(4, 2))
    >>> replay.finish(batch, torch.ones(4, 2))
    >>> replay.begin(batch, torch.zeros(4, 2))[1].unique(), len(replay)
    (tensor([1.]), 4)
    """

    def __init__(
        self,
        sampler: Sampler,
        capacity: int,
        fresh: float = 0.05,
        policy: Literal["fifo", "reservoir"] = "fifo",
        join: float = 0.0,
    ) -> None:
        super().__init__(sampler)
        if capacity < 1 or not 0 <= fresh <= 1 or not 0 <= join < math.inf or policy not in ("fifo", "reservoir"):
            what = f"ReplayAugmented(capacity={capacity}, fresh={fresh}, policy={policy!r}, join={join})"
            raise ValueError(f"{what}: capacity is at least 1, fresh in [0, 1], policy fifo or reservoir, join at least 0")
        self.capacity, self.fresh, self.policy, self.join = capacity, fresh, policy, join
        self.rows: list[Tensor] = []  # one tensor (capacity, ...) per stored leaf
        self.ages = torch.zeros(capacity, dtype=torch.float32)  # trajectories behind each row
        self.seen = 0  # rows ever offered
        self._begun: Tensor | None = None  # (rows,): trajectories behind the batch's starts
        self._joined = (0, 0)  # the batch's rows, and how many at its end are stored already
        self._draw = 0  # this batch's seed for the reservoir

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    @property
    def age(self) -> Tensor | None:
        """Averages how many trajectories are behind stored rows; None while nothing is stored."""
        return self.ages[: len(self)].mean() if self.rows else None

    def __bool__(self) -> bool:
        return True  # an empty buffer is a sampler all the same

    def begin(self, batch: Batch, y: Tensor, *, generator: Generator | None = None) -> tuple[Batch, Tensor]:
        batch, y = self.sampler.begin(batch, y, generator=generator)
        if not self.training:
            return batch, y
        self._joined, self._begun = (0, 0), torch.zeros(len(y), dtype=torch.float32)
        if (asked := int(self.join * len(y)) if self.join else len(y)) > self.capacity:
            what = f"ReplayAugmented(capacity={self.capacity}): a batch of {len(y)} rows asks for {asked} stored ones"
            lost = "fewer are joined" if self.join else "some chains are lost, and others go on in several rows"
            warnings.warn(f"{what}, so that {lost}: pass capacity={asked} or more", stacklevel=2)
        device = "cpu" if generator is None else generator.device
        if self.policy == "reservoir":
            self._draw = int(torch.randint(2**62, (), generator=generator, device=device))
        if not len(self):
            return batch, y
        leaves, spec = pytree.tree_flatten((batch, y))
        self._check(leaves)
        if self.join:
            count = min(int(self.join * len(y)), len(self))
            self._joined = (len(y) + count, count)
            rows = torch.randperm(len(self), generator=generator, device=device)[:count]
            mix = partial(_join, rows=rows)
        else:
            rounds = range(-(-len(y) // len(self)))  # one, unless fewer rows are stored than there are chains
            rows = torch.cat([torch.randperm(len(self), generator=generator, device=device) for _ in rounds])[: len(y)]
            fresh = torch.rand(len(y), generator=generator, device=device) < self.fresh
            mix = partial(_swap, rows=rows, fresh=fresh)
        self._begun, stored = mix(self._begun, self.ages), iter(self.rows)
        return pytree.tree_unflatten([leaf if leaf is None else mix(leaf, next(stored)) for leaf in leaves], spec)

    def finish(self, batch: Batch, y: Tensor) -> None:
        self.sampler.finish(batch, y)
        y = self.project(y)
        if not self.training:
            return
        finite = torch.isfinite(y).flatten(1).all(1) if y.ndim > 1 else torch.isfinite(y)
        if not bool(finite.all()):
            rows = torch.nonzero(~finite).flatten().tolist()[:8]
            raise FloatingPointError(f"rows {rows} are not finite: the replay buffer takes none of this batch")
        leaves, _ = pytree.tree_flatten((batch, y))
        self._check(leaves)
        whole, joined = self._joined
        own, self._joined = len(y) - (joined if whole == len(y) else 0), (0, 0)
        begun = torch.zeros(len(y), dtype=torch.float32) if self._begun is None or len(self._begun) != len(y) else self._begun
        given = [leaf[:own].detach() for leaf in leaves if leaf is not None]
        if not self.rows:
            self.rows = [leaf.new_zeros((self.capacity, *leaf.shape[1:])) for leaf in given]
        slots, sources = self._slots(own)
        for stored, leaf in zip(self.rows, given, strict=True):
            stored[slots.to(stored.device)] = leaf[sources.to(leaf.device)].to(stored)
        self.ages[slots], self._begun = begun[sources] + 1, None
        self.seen += own

    def _check(self, leaves: list[Any]) -> None:
        if any(not isinstance(leaf, Tensor) for leaf in leaves if leaf is not None):
            raise ValueError("a replay buffer stores tensors: the batch's target, context and weight may hold nothing else")
        shapes = [tuple(leaf.shape[1:]) for leaf in leaves if leaf is not None]
        if len(counts := {len(leaf) for leaf in leaves if leaf is not None}) > 1:
            raise ValueError(f"the batch's target, context and weight and y have {sorted(counts)} rows: rows belong together")
        stored = [tuple(row.shape[1:]) for row in self.rows]
        if stored and shapes != stored:
            raise ValueError(f"the batch's rows have shapes {shapes}, the replay buffer's {stored}: one buffer holds one kind")

    def _slots(self, count: int) -> tuple[Tensor, Tensor]:
        """Chooses where `count` new rows go: (slots, the rows that go there), no slot twice."""
        order = torch.arange(self.seen, self.seen + count)
        slots = order % self.capacity
        if self.policy == "reservoir":
            # The n-th row offered (from 0) draws a slot from 0 … n; without such a slot it is lost.
            draw = torch.rand(count, generator=stream(self._draw, self.seen), dtype=torch.float64)
            slots = torch.where(order < self.capacity, order, (draw * (order + 1)).long())
        winner = {slot: row for row, slot in enumerate(slots.tolist()) if slot < self.capacity}
        return torch.tensor(list(winner), dtype=torch.long), torch.tensor(list(winner.values()), dtype=torch.long)

    def get_extra_state(self) -> dict[str, Tensor]:
        rows = {f"rows.{index}": stored[: len(self)] for index, stored in enumerate(self.rows)}
        return {"seen": torch.tensor(self.seen), "ages": self.ages[: len(self)], **rows}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        seen, stored = int(state["seen"]), [state[f"rows.{index}"] for index in range(len(state) - 2)]
        if stored and min(seen, self.capacity) != len(stored[0]):
            raise ValueError(f"the saved replay buffer holds {len(stored[0])} rows of {seen} seen: its capacity was another")
        self.seen, self.ages = seen, torch.zeros(self.capacity, dtype=torch.float32)
        self.ages[: len(state["ages"])] = state["ages"]
        self.rows = [row.new_zeros((self.capacity, *row.shape[1:])) for row in stored]
        for row, saved in zip(self.rows, stored, strict=True):
            row[: len(saved)] = saved

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}, fresh={self.fresh}, policy={self.policy!r}, join={self.join}"


def _join(leaf: Tensor, stored: Tensor, rows: Tensor) -> Tensor:
    return torch.cat([leaf, stored[rows.to(stored.device)].to(leaf)])


def _swap(leaf: Tensor, stored: Tensor, rows: Tensor, fresh: Tensor) -> Tensor:
    return torch.where(left(fresh.to(leaf.device), leaf), leaf, stored[rows.to(stored.device)].to(leaf))
