"""Arithmetic: answers are right by Python's own numbers, chains run as far as they say."""

import pytest
import torch

from ebm.interfaces import Batch
from ebm.tasks import Arithmetic
from ebm.testing import check_task

FORMS = {
    "add": lambda: Arithmetic(width=(2, 3), n=60),
    "subtract": lambda: Arithmetic("subtract", width=(2, 3), n=60),
    "multiply": lambda: Arithmetic("multiply", width=(2, 2), n=200),
}
every = pytest.mark.parametrize("form", FORMS)
RESULTS = {"add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b}


@every
def test_it_keeps_the_laws_of_tasks(form):
    check_task(FORMS[form])


@every
def test_answers_are_those_of_whole_numbers(form):
    task, sign = FORMS[form](), {"add": "+", "subtract": "-", "multiply": "*"}[form]
    batches = [task.rows(split) for split in task.splits] + list(task.loader("train", 20, seed=3))
    for batch in batches:
        assert bool(task.accepts(batch.target, batch).all())
        for answer, context in zip(batch.target, batch.context, strict=True):
            problem, result = task.show(answer, context).split(" = ")
            a, b = (int(part) for part in problem.split(f" {sign} "))
            assert int(result) == RESULTS[form](a, b)


@every
def test_a_problem_is_read_and_answered(form):
    task, problem = FORMS[form](), {"add": "58+67", "subtract": "67 - 58", "multiply": "57*63"}[form]
    context = task.read(problem)[None]
    answer = task.answer_of(context)
    result = {"add": 125, "subtract": 9, "multiply": 3591}[form]
    assert task.show(answer[0], context[0]).endswith(f"= {result}")
    assert bool(task.accepts(answer, Batch(None, context)).all())
    wrong = answer.clone()
    wrong[0, -1] = (wrong[0, -1] + 1) % 10
    assert not bool(task.accepts(wrong, Batch(None, context)).any())


@pytest.mark.parametrize("operation", ["add", "subtract"])
def test_chains_run_through_all_columns(operation):
    task = Arithmetic(operation, width=(2, 5), n=300)
    for split, wide in (("hard", 10), ("hardest", 20)):
        context, answer = task.rows(split).context, task.rows(split).target
        a, b = context[:, :-1] // 10, context[:, :-1] % 10
        assert context.shape[1] == wide + 1
        handing_on = a[:, 1:] + b[:, 1:] == 9 if operation == "add" else (a[:, 1:-1] == b[:, 1:-1])
        assert bool(handing_on.all())
        started = a[:, 0] + b[:, 0] > 9 if operation == "add" else a[:, 0] < b[:, 0]
        assert 0.3 < started.float().mean() < 0.7
        expected = torch.where(started, 0, 9) if operation == "add" else torch.where(started, 9, 0)
        assert bool((answer[:, 1 : wide - 1] == expected[:, None]).all())


def test_training_has_every_width_and_nothing_that_is_held_out():
    task = Arithmetic(width=(2, 4), n=200)
    held = {tuple(row) for split in ("validation", "test") for row in task.rows(split).context.tolist()}
    widths = set()
    for batch in task.loader("train", 10, seed=1):
        widths.add(batch.context.shape[1])
        assert not held & {tuple(row) for row in batch.context.tolist()}
    assert widths == {3, 4, 5}


def test_pairs_of_factors_are_dealt_out_once():
    task = FORMS["multiply"]()
    pairs = [tuple(row) for split in task.splits for row in task.rows(split).context[:, :4].tolist()]
    assert len(pairs) == len(set(pairs)) == 10_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arithmetic("divide"), "divide"),
        (lambda: Arithmetic(width=(1, 1)), "leave half to train on"),
        (lambda: Arithmetic(width=(3, 2)), "width"),
        (lambda: Arithmetic("multiply"), "one width"),
        (lambda: Arithmetic("multiply", width=(1, 1)), "pairs"),
        (lambda: FORMS["add"]().read("5*7"), "no problem"),
        (lambda: FORMS["subtract"]().read("5-7"), "negative"),
        (lambda: FORMS["multiply"]().read("157*63"), "at most 2 digits"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
