"""Slopes: the closed form of least squares, intervals that cover, and refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.judging.slope import slope


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(3, 40))
def test_a_line_has_its_own_slope(a, b, n):
    x = torch.linspace(-1, 3, n, dtype=torch.float64)
    found = slope(x, a + b * x, resamples=50)
    assert found.value == pytest.approx(b, abs=1e-9)
    assert found.low <= found.value + 1e-9
    assert found.high >= found.value - 1e-9


def test_it_is_least_squares_and_moves_with_scale_and_place():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, generator=g), torch.randn(50, generator=g)
    design = torch.stack([torch.ones(50), x], 1).double()
    assert slope(x, y).value == pytest.approx(torch.linalg.lstsq(design, y.double()[:, None]).solution[1].item())
    assert slope(x + 7, 3 * y - 2) == pytest.approx(tuple(3 * value for value in slope(x, y)), rel=1e-5)


def test_intervals_cover_the_truth_as_often_as_they_say():
    covered = 0
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        x = torch.rand(60, generator=g)
        y = (torch.rand(60, generator=g) < 0.2 + 0.6 * x).double()  # binary, and of unequal spread
        found = slope(x, y, resamples=400, seed=seed)
        covered += found.low <= 0.6 <= found.high
    assert 180 <= covered <= 199


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0]), ([1.0, 1.0], [0.0, 1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])])
def test_what_has_no_slope_is_refused(x, y):
    with pytest.raises(ValueError, match="two or more rows"):
        slope(torch.tensor(x), torch.tensor(y))


def test_what_is_not_finite_is_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        slope(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")]))


def test_two_rows_say_nothing_of_how_far_a_slope_is_known():
    assert slope(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])) == (1.0, -float("inf"), float("inf"))
