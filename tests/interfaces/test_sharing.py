"""Laws of shared evaluations: processes together judge what one does, whatever falls to each, and none waits for ever."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import Prediction, Task
from ebm.interfaces.sharing import own_parts, sharing
from ebm.randomness import randn_like
from ebm.tasks import Arithmetic, Denoising, Dyck, Text
from tests.helpers import laws, seeded

TASKS: dict[str, Task] = {
    "text": Text([f"document number {index}" for index in range(60)], context=5),
    "dyck": Dyck(n=40),
    "sums": Arithmetic(n=30),
    "photographs": Denoising(tile=8, crop=16, stride=8),
}


class Asked(Exception):
    """What ends a process's first round."""


class Noisy:
    """Adds noise to the start, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def predict(self, batch, start, *, generator=None):
        self.calls += 1
        return Prediction(start + randn_like(start, generator), None, 1)


def judged(task, ranks, limit, predictors):
    """What each of several processes gets, one after the other: what the others have is known in a second round."""
    have = []

    def note(own):
        have.append(own)
        raise Asked

    def one(rank, gather):
        with sharing(rank, ranks, gather):
            return task.evaluate(predictors[rank], limit=limit, generator=seeded(3))

    for rank in range(ranks):
        with pytest.raises(Asked):
            one(rank, note)
    calls = [predictor.calls for predictor in predictors]
    return [one(rank, lambda own: have) for rank in range(ranks)], calls


@pytest.mark.parametrize("name", TASKS)
@laws
@given(ranks=st.integers(1, 4), limit=st.integers(1, 9), at_once=st.integers(1, 4))
def test_processes_judge_together_what_one_judges(name, ranks, limit, at_once):
    task = TASKS[name]
    task.rows_at_once = at_once
    alone, predictors = Noisy(), [Noisy() for _ in range(ranks)]
    expected = task.evaluate(alone, limit=limit, generator=seeded(3))
    found, calls = judged(task, ranks, limit, predictors)
    assert all(each == expected for each in found)
    assert sum(calls) == alone.calls
    if name != "photographs":  # whose parts are of several tiles each
        assert max(calls) - min(calls) <= 1


def test_a_part_draws_the_same_whoever_judges_those_before():
    def draws(rank, ranks):
        with sharing(rank, ranks, list):
            return {part: torch.rand(2, generator=own) for part, own in own_parts(range(5), seeded(1))}

    whole = draws(0, 1)
    assert len({tuple(draw.tolist()) for draw in whole.values()}) == 5
    for rank in range(3):
        own = draws(rank, 3)
        assert [*own] == [*range(5)][rank::3]
        assert all(torch.equal(draw, whole[part]) for part, draw in own.items() if part)
    assert all(torch.equal(draw, torch.rand(2, generator=seeded(1))) for part, draw in draws(0, 3).items() if not part)


def test_an_error_of_one_process_is_an_error_of_all():
    class Failing(Noisy):
        def predict(self, batch, start, *, generator=None):
            raise FloatingPointError("there")

    task = TASKS["text"]
    task.rows_at_once = 2
    for rank in range(3):
        with (
            sharing(rank, 3, lambda own: [([], None), own, ([], FloatingPointError("elsewhere"))]),
            pytest.raises(FloatingPointError),
        ):
            task.evaluate(Failing() if rank == 1 else Noisy(), limit=6, generator=seeded(0))
    with sharing(1, 2, lambda own: [([], None), own]), pytest.raises(ValueError, match="no chain to score"):
        task.evaluate(Noisy(), limit=1, generator=seeded(0))


def test_predictions_that_know_nothing_of_it_are_the_first_process_own():
    class Unaware(Text):
        def predictions(self, predictor, split, limit=None, generator=None):
            for batch in self.judged(split, limit):
                yield batch, predictor.predict(batch, self.start(batch, generator=generator), generator=generator)

    task = Unaware([f"document number {index}" for index in range(60)], context=5)
    task.rows_at_once = 2
    expected = task.evaluate(Noisy(), limit=6, generator=seeded(3))
    found, _ = judged(task, 3, 6, [Noisy() for _ in range(3)])
    assert found == [expected] * 3
