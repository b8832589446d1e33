"""Laws of shared batches: all processes' rows are one process's rows, each is read once, and going on reads none again."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.interfaces import Batch
from ebm.tasks import Arithmetic, Points, Puzzles
from ebm.tasks.rows import RowLoader, RowsOf, loader_of
from ebm.tasks.text.text import Text
from ebm.training.batches import Batches, Member
from tests.fake_plugins import Bare

laws = settings(deadline=None, max_examples=12)
TEXTS = [f"document number {index}" for index in range(40)]
TASKS = {
    "rows": lambda: Points("moons", n=60),
    "text": lambda: Text(TEXTS, context=5),
    "weighted text": lambda: Text([TEXTS, TEXTS[::-1]], context=5, weights=[1, 3]),
    "turned by the batch": lambda: Puzzles(n=60),
    "drawn by the batch": lambda: Arithmetic(n=60),
    "that knows nothing of ranks": Bare,
}


class Counting(RowsOf):
    """Notes which rows are read."""

    by_index = True

    def __init__(self, rows):
        super().__init__(rows)
        self.read = []

    def __getitems__(self, index):
        self.read += index
        return super().__getitems__(index)


class Counted(Points):
    """Points whose loaders note what is read."""

    def __init__(self):
        super().__init__("moons", n=60)
        self.data = Counting(self.splits["train"])

    def loader(self, split, batch_size, *, seed=0, workers=0):
        return loader_of(self.data, batch_size, True, seed, workers)


def first(batches, count):
    return [*islice(batches, count)]


def same(one, two):
    return all(a is b is None or torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_rows_of_all_processes_are_those_of_one(name, ranks):
    task = TASKS[name]()
    alone = first(Batches(task, 4, 0, 0, (0, 0)), 15)  # more than an epoch of some
    shares = [first(Batches(task, 4, 0, 0, (0, 0), member=Member(rank, ranks)), 15) for rank in range(ranks)]
    for (place, batch), *parts in zip(alone, *shares, strict=True):
        assert {found for found, _ in parts} == {place}
        assert all(len(part.target) == 4 // ranks for _, part in parts)
        together = Batch(*(None if field[0] is None else torch.cat(field) for field in zip(*(p for _, p in parts), strict=True)))
        assert same(together, batch)


@laws
@given(taken=st.integers(0, 12), rank=st.integers(0, 1))
def test_a_process_reads_its_own_rows_and_none_again(taken, rank):
    task, other = Counted(), Counted()
    member = Member(rank, 2)
    expected = first(Batches(task, 8, 0, 0, (0, 0), member=member), 13)
    place = expected[taken - 1][0] if taken else (0, 0)
    found = first(Batches(other, 8, 0, 0, place, member=member), 13 - taken)
    for (where, batch), (wanted, rows) in zip(found, expected[taken:], strict=True):
        assert where == wanted
        assert same(batch, rows)
    assert len(task.data.read) == 13 * 4
    assert other.data.read == task.data.read[4 * taken :]


def test_workers_change_nothing():
    task = Points("moons", n=60)
    for member in (Member(), Member(1, 2)):
        for one, two in zip(*(first(Batches(task, 8, 0, workers, (0, 2), member=member), 4) for workers in (0, 2)), strict=True):
            assert one[0] == two[0]
            assert same(one[1], two[1])


def test_a_batch_that_does_not_divide_is_refused_and_an_empty_split_too():
    with pytest.raises(ValueError, match="a batch of 8 rows does not divide over 3 processes"):
        next(Batches(Counted(), 8, 0, 0, (0, 0), member=Member(0, 3)))
    task = Counted()
    task.loader = lambda *_, **__: []
    with pytest.raises(ValueError, match="the training split of Counted gives no batch of 8: it is empty"):
        next(Batches(task, 8, 0, 0, (0, 0)))


def test_a_subclass_says_itself_whether_its_rows_stand_alone():
    rows = Batch(torch.arange(8.0)[:, None])
    assert isinstance(loader_of(RowsOf(rows), 4, True, 0), RowLoader)
    assert not isinstance(loader_of(type("Joined", (RowsOf,), {})(rows), 4, True, 0), RowLoader)
