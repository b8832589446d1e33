"""Power laws are found as they were made, with and without a floor."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.judging.power_law import PowerLaw, power_law, power_laws

X = [1.0, 3.0, 9.0, 27.0, 81.0]


@given(st.floats(-1, 2), st.floats(0.1, 10), st.floats(0, 5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_law_with_a_known_floor_is_found_exactly(exponent, amplitude, floor):
    made = PowerLaw(exponent, amplitude, floor)
    found = power_law(X, [made(x) for x in X], floor)
    assert found == pytest.approx(made, rel=1e-5, abs=1e-6)


@given(st.floats(0.2, 1.0), st.floats(0.2, 1.0), st.floats(0.3, 3), st.floats(0.2, 2))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_laws_that_share_their_floor_are_found_with_it(first, second, amplitude, floor):
    made = {"a": PowerLaw(first, amplitude, floor), "b": PowerLaw(second, 2 * amplitude, floor)}
    found = power_laws({name: (X, [law(x) for x in X]) for name, law in made.items()})
    for name, law in made.items():
        assert found[name] == pytest.approx(law, rel=2e-2, abs=2e-2)


@pytest.mark.parametrize(
    ("x", "losses", "floor", "message"),
    [
        ([1.0, 1.0], [2.0, 1.0], 0.0, "two or more different x"),
        ([0.0, 1.0], [2.0, 1.0], 0.0, "all above 0"),
        ([1.0, 2.0], [2.0, 1.0], 1.0, "above the floor"),
        ([1.0, 2.0, 3.0], [2.0, 1.0], 0.0, "two or more"),
    ],
)
def test_what_has_no_law_is_refused(x, losses, floor, message):
    with pytest.raises(ValueError, match=message):
        power_law(x, losses, floor)


def test_more_is_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        power_law([1.0, 2.0], [math.nan, 1.0])
    with pytest.raises(ValueError, match="three different x"):
        power_laws({"a": ([1.0, 2.0], [2.0, 1.0])})
