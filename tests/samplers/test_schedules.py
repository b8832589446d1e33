"""Laws of schedules: ends, direction, and schedules written as data."""

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm.samplers import Cosine, Geometric, Linear, Polynomial
from ebm.samplers.schedules import SCHEDULES, as_schedule
from ebm.samplers.stepping import at
from tests.helpers import laws

positive = st.floats(1e-3, 1e3)


@pytest.mark.parametrize("kind", [Linear, Geometric, Cosine])
@laws
@given(start=positive, end=positive, steps=st.integers(1, 50))
def test_a_schedule_goes_from_start_to_end_and_stays(kind, start, end, steps):
    schedule = kind(start, end, steps)
    values = [schedule(t) for t in range(steps + 5)]
    assert values[0] == pytest.approx(start)
    assert values[steps:] == pytest.approx([end] * 5)
    assert values == sorted(values, reverse=start > end) or values == pytest.approx([start] * len(values))


@laws
@given(start=positive, end=positive, half=st.integers(1, 25))
def test_halfway_is_the_mean_of_its_kind(start, end, half):
    assert Linear(start, end, 2 * half)(half) == pytest.approx((start + end) / 2)
    assert Cosine(start, end, 2 * half)(half) == pytest.approx((start + end) / 2)
    assert Geometric(start, end, 2 * half)(half) == pytest.approx(math.sqrt(start * end))


@laws
@given(start=positive, power=st.floats(0.1, 1.0), delay=positive, t=st.integers(0, 100))
def test_polynomial_decay(start, power, delay, t):
    schedule = Polynomial(start, power, delay)
    assert schedule(0) == start
    assert schedule(t) == pytest.approx(start / (1 + t / delay) ** power)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_may_be_written_as_data(name):
    arguments = {"start": 0.5} if name == "polynomial" else {"start": 0.5, "end": 0.1, "steps": 4}
    written = {"schedule": name, **arguments}
    read = as_schedule(written)
    assert read == SCHEDULES[name](**arguments)
    assert written == {"schedule": name, **arguments}  # not eaten
    assert at(read, 3) == read(3)
    assert pickle.loads(pickle.dumps(read)) == read


def test_what_is_no_schedule_stays_itself():
    def own(t):
        return 2.0 * t

    for value in (0.5, None, own):
        assert as_schedule(value) is value
    assert at(0.5, 3) == 0.5
    assert at(own, 3) == 6.0


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"schedule": "stairs"}, "'stairs'.*linear, geometric, cosine, polynomial"),
        ({"start": 1.0}, "schedule=None.*linear"),
        ({"schedule": "linear", "start": 1.0}, "linear.*end"),
        ({"schedule": "linear", "start": 1.0, "end": 0.0, "steps": 3, "extra": 1}, "extra"),
        ({"schedule": "geometric", "start": 1.0, "end": 0.0, "steps": 3}, "positive"),
        ({"schedule": "linear", "start": 1.0, "end": 0.5, "steps": 0}, "steps=0"),
        ({"schedule": "cosine", "start": 1.0, "end": 0.5, "steps": -2}, "steps=-2"),
        ({"schedule": "polynomial", "start": 1.0, "delay": 0.0}, "delay=0"),
    ],
)
def test_schedules_that_cannot_work_are_refused_when_made(written, message):
    with pytest.raises(ValueError, match=message):
        as_schedule(written)
