"""Laws of rows in memory: every kind of array becomes the same rows, and what cannot be rows is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import ebm
from ebm.interfaces import Batch, Prediction
from ebm.tasks import InMemory, Points, Rows, as_task, draw_splits
from ebm.testing import check_task
from tests.helpers import laws, seeded

NUMBERS = np.arange(24).reshape(12, 2)
KINDS = {
    "list": NUMBERS.tolist(),
    "tuples": [tuple(row) for row in NUMBERS.tolist()],
    "rows of tensors": list(torch.from_numpy(NUMBERS)),
    "rows of arrays": list(NUMBERS),
    "tensor": torch.from_numpy(NUMBERS),
    **{dtype: NUMBERS.astype(dtype) for dtype in ("float64", "float32", "float16", "uint8", "int16", "uint16", "int64")},
}


def everything(task):
    return sorted(torch.cat([rows.target for rows in task.splits.values()]).tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array_becomes_the_same_rows(kind):
    task = Rows(KINDS[kind])
    assert everything(task) == NUMBERS.tolist()
    assert {rows.target.dtype for rows in task.splits.values()} == {torch.float32}
    assert task.spec == {"dim": 2}
    assert task.reads == "12 rows of an array"


def test_the_dtype_of_a_floating_tensor_is_kept():
    assert Rows(torch.zeros(5, 2, dtype=torch.float64)).rows("train").target.dtype == torch.float64


def test_rows_obey_the_laws():
    check_task(lambda: Rows(torch.randn(200, 3, generator=seeded()), torch.arange(200) % 4))


@laws
@given(st.integers(3, 40), st.integers(0, 99))
def test_labels_stay_with_their_rows(count, seed):
    """As a keyword, and as pairs of a dataset."""
    array, labels = torch.arange(2.0 * count).reshape(count, 2), torch.arange(count) % 3
    given, pairs = Rows(array, labels.tolist(), seed=seed), Rows(TensorDataset(array, labels), seed=seed)
    for split, index in draw_splits(count, None, seed).items():
        for task in (given, pairs):
            assert torch.equal(task.splits[split].target, array[index])
            assert torch.equal(task.splits[split].context, labels[index])
    assert given.spec == pairs.spec == {"dim": 2, "classes": 3}


def test_spec_says_what_the_data_decide():
    assert Rows(np.zeros((4, 3, 8, 8), "uint8")).spec == {"image_size": 8, "channels": 3}
    assert Rows(np.zeros((4, 3, 8, 6))).spec == Rows(np.zeros((4, 3, 8))).spec == {}
    floats = Rows(np.zeros((4, 2)), np.zeros((4, 5)))
    assert floats.spec == {"dim": 2}
    assert floats.rows("train").context.shape == (3, 5)


def test_chains_start_at_noise_and_are_judged_by_distance():
    task = Rows(torch.zeros(2000, 2))
    start = task.start(task.rows("train"), generator=seeded())
    assert start.std().item() == pytest.approx(1, abs=0.05)
    wide = type("Wide", (), {"predict": lambda self, batch, start, *, generator=None: Prediction(start, start.sum(1), 1)})()
    found = task.evaluate(wide, limit=300, generator=seeded())
    assert found["loss"] == pytest.approx(1, abs=0.15)
    assert list(found) == ["loss", "energy", "evaluations"]


def test_what_is_judged_comes_in_order_even_of_the_training_split():
    class Held(InMemory):
        rows_at_once = 4

        def __init__(self):
            self.spec, self.splits = {"dim": 1}, {"train": Batch(torch.arange(10.0)[:, None])}

        def start(self, batch, *, generator=None):
            return batch.target

    assert [batch.target.flatten().tolist() for batch in Held().judged("train", 6)] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("array", "labels", "message"),
    [
        ([], None, "array has 0 rows: at least 3 are needed"),
        (np.zeros((2, 2)), None, "array has 2 rows"),
        (np.zeros(5), None, r"array has shape \(5,\): pass rows"),
        (np.zeros((5, 0)), None, r"array has shape \(5, 0\): its rows are empty"),
        (np.array([[1.0], [np.nan], [2.0], [np.inf]]), None, r"array: 2 of 4 rows are NaN or infinite \(row 1 first\)"),
        (np.zeros((5, 2)), [0, 1], r"labels have shape \(2,\), the array \(5, 2\): pass one label for each row"),
        (np.zeros((3, 2)), [0.0, np.nan, 1.0], "labels: 1 of 3 rows are NaN"),
        (np.zeros((3, 2)), ["a", "b", "c"], "labels cannot be read as numbers"),
        (["a", "b", "c"], None, "array cannot be read as numbers"),
        ([[1.0], [1.0, 2.0], [3.0]], None, "array cannot be read as numbers .*rows of one shape"),
        ([torch.zeros(1), torch.zeros(2)], None, "array cannot be read as numbers"),
        (np.zeros((3, 2), "complex64"), None, "array cannot be read as numbers .*complex"),
        (7, None, "array cannot be read as numbers"),
        (np.float64(7), None, "array cannot be read as numbers .a single number"),
        (iter([[1.0]]), None, "array cannot be read as numbers"),
    ],
)
def test_what_cannot_be_rows_is_refused(array, labels, message):
    with pytest.raises(ValueError, match=message):
        Rows(array, labels)


def test_a_recipe_that_names_no_array_is_told():
    with pytest.raises(ValueError, match="task 'rows' needs array"):
        ebm.build("task", "rows")
    assert ebm.build("task", "rows", array=NUMBERS.tolist()).spec == {"dim": 2}


# ------------------------------------------------------------------------------------------------------ data of one's own


class Serving(Dataset):
    """A dataset whose rows are what a function makes of their number."""

    def __init__(self, count, row):
        self.count, self.row = count, row

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError
        return self.row(index)


TENSOR = torch.from_numpy(NUMBERS).float()
CONTEXT = torch.arange(36.0).reshape(12, 3)
OWN = {
    **KINDS,
    "TensorDataset": TensorDataset(TENSOR),
    "dataset of rows": Serving(12, lambda index: TENSOR[index]),
    "dataset of 1-tuples": Serving(12, lambda index: (TENSOR[index],)),
    "batch": Batch(TENSOR),
}


@pytest.mark.parametrize("kind", OWN)
def test_data_of_ones_own_are_a_task_of_the_same_rows(kind):
    task = as_task(OWN[kind])
    assert everything(task) == NUMBERS.tolist()
    assert task.rows("train").context is None


@pytest.mark.parametrize(
    "data",
    [
        (TENSOR, CONTEXT),
        (NUMBERS, CONTEXT.numpy()),
        (TENSOR.tolist(), CONTEXT.tolist()),
        TensorDataset(TENSOR, CONTEXT),
        Serving(12, lambda index: (TENSOR[index], CONTEXT[index])),
        Batch(TENSOR, CONTEXT),
    ],
    ids=lambda data: type(data).__name__,
)
def test_contexts_stay_with_the_rows_that_they_came_with(data):
    """Also contexts that are vectors, which a dataset gives beside each row."""
    task = as_task(data)
    for split, index in draw_splits(12, None, 0).items():
        assert torch.equal(task.rows(split).target, TENSOR[index])
        assert torch.equal(task.rows(split).context, CONTEXT[index])


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_dataset_of_a_loader_is_read(shuffle):
    dataset = TensorDataset(TENSOR, CONTEXT)
    with pytest.warns(UserWarning, match=r"its dataset is read, as by fit\(energy, objective, loader.dataset\)"):
        task = as_task(DataLoader(dataset, batch_size=5, shuffle=shuffle))
    assert task.digest == as_task(dataset).digest


def test_a_task_stays_what_it_is():
    task = Points("moons", n=20)
    assert as_task(task) is task


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TensorDataset(TENSOR), 5, collate_fn=list), r"pass its dataset, as in .*loader\.dataset, batch_size=5\)"),
        (DataLoader(TensorDataset(TENSOR), sampler=[0, 0, 1]), r"a way of its own to choose rows"),
        (DataLoader(TensorDataset(TENSOR), batch_sampler=[[0], [1]]), r"a way of its own to choose rows"),
        (Batch(TENSOR, None, torch.ones(12)), "Batch with weights: write a Task"),
        ([TENSOR, CONTEXT], r"two arrays of shapes \(12, 2\), \(12, 3\): pass a tuple"),
        ((TENSOR[:, 0], CONTEXT[:, 0]), r"two arrays of shapes \(12,\), \(12,\): pass a tuple"),
        ((TENSOR, CONTEXT[:5]), r"labels have shape \(5, 3\), the array \(12, 2\)"),
        (TensorDataset(TENSOR, CONTEXT, CONTEXT), "gives 3 things a row"),
        (Serving(12, lambda index: {"y": TENSOR[index]}), "cannot be read as numbers"),
        (type("Stream", (IterableDataset,), {"__iter__": lambda self: iter([])})(), "a stream of unknown length"),
        ({"train": TENSOR, "tset": TENSOR}, "unknown split 'tset': did you mean 'test'"),
        ({"train": TENSOR, "test": CONTEXT}, "pass rows of one shape"),
        ({"train": (TENSOR, CONTEXT), "test": TENSOR}, "all with labels or none"),
        ({"train": TENSOR, "test": TENSOR / 0}, "test: 12 of 12 rows are NaN or infinite"),
        ({}, "at least 'train'"),
        (None, "cannot be read as numbers"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_with_what_to_pass(data, message):
    with pytest.raises(ValueError, match=message):
        as_task(data)


def test_splits_are_what_their_names_say():
    task = Rows({"train": TENSOR[:6], "test": (TENSOR[6:7])})
    assert torch.equal(task.rows("train").target, TENSOR[:6])
    assert torch.equal(task.rows("test").target, TENSOR[6:7])
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        task.check_split("validation")
    task.check_split("test")
    labelled = Rows({"train": (TENSOR[:6], [0, 1, 2, 0, 1, 2]), "test": (TENSOR[6:8], [0, 3])})
    assert labelled.spec == {"dim": 2, "classes": 4}


def test_a_split_is_known_to_be_too_small_before_it_is_judged():
    """Two halves of two rows are the least that MMD compares; the loss of `Rows` needs one row."""
    Points("moons", n=20).check_split("test", 2)
    for limit, n in ((1, 20), (None, 10)):
        with pytest.raises(ValueError, match="MMD needs halves of at least two rows"):
            Points("moons", n=n).check_split("test", limit)
    with pytest.raises(ValueError, match="split 'validation' is empty"):
        Rows(torch.zeros(3, 2)).check_split("validation")
