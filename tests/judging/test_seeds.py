"""Intervals over seeds cover as often as they say: the truth, and a repetition's mean; a bootstrap would not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.judging.seeds import over_seeds

TRIALS = 2000
WITHIN = 4 * math.sqrt(0.95 * 0.05 / TRIALS)  # four standard errors of a share


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_truth_and_a_repetition_fall_inside_as_often_as_said(seeds, level):
    draws = torch.Generator().manual_seed(seeds)
    numbers = 2.0 + 0.3 * torch.randn(TRIALS, 2, seeds, generator=draws, dtype=torch.float64)
    covered = again = 0
    for ours, others in numbers:
        found = over_seeds(ours.tolist(), level)
        covered += found.low <= 2.0 <= found.high
        again += found.again_low <= others.mean().item() <= found.again_high
    within = 4 * math.sqrt(level * (1 - level) / TRIALS)
    assert covered / TRIALS == pytest.approx(level, abs=within)
    assert again / TRIALS == pytest.approx(level, abs=within)


def test_a_bootstrap_over_three_seeds_would_cover_too_little():
    """Why the intervals are Student's."""
    draws = torch.Generator().manual_seed(0)
    numbers = torch.randn(500, 3, generator=draws, dtype=torch.float64)
    picked = torch.cartesian_prod(*[torch.arange(3)] * 3)  # all resamples there are
    means = numbers[:, picked].mean(-1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
    assert ((low <= 0) & (high >= 0)).double().mean().item() == pytest.approx(2 / 3, abs=0.08)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.floats(-100, 100), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_interval_shifts_and_scales_with_the_numbers(values, shift, scale):
    plain, moved = over_seeds(values), over_seeds([shift + scale * value for value in values])
    for before, after in zip(plain[:5], moved[:5], strict=True):
        assert after == pytest.approx(shift + scale * before, rel=1e-6, abs=1e-6 * (1 + 1e3 * scale + abs(shift)))
    assert plain.again_low <= plain.low <= plain.value <= plain.high <= plain.again_high


def test_one_seed_has_no_interval_and_what_is_no_number_is_refused():
    assert over_seeds([3.0]) == (3.0, -math.inf, math.inf, -math.inf, math.inf, 1)
    with pytest.raises(FloatingPointError, match="not finite"):
        over_seeds([1.0, math.nan])
    with pytest.raises(ValueError, match="pass a number or more"):
        over_seeds([])
    with pytest.raises(ValueError, match="level inside"):
        over_seeds([1.0, 2.0], 95)
