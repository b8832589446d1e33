"""Effective sample sizes against a process whose autocorrelation is known, and R-hat on chains that agree, or do not."""

import math
import warnings

import pytest
import torch

from ebm.judging import effective_sample_size, split_rhat
from tests.helpers import seeded

pytest.importorskip("arviz")


def autoregressive(rho, draws, chains, event=(), seed=0):
    """y_t = ρ y_{t−1} + √(1 − ρ²) ξ: standard normal, with autocorrelations ρ^t."""
    y = torch.randn(chains, *event, generator=seeded(seed), dtype=torch.float64)
    noise = torch.randn(draws, chains, *event, generator=seeded(seed + 1), dtype=torch.float64)
    path = []
    for step in noise:
        y = rho * y + math.sqrt(1 - rho**2) * step
        path.append(y)
    return torch.stack(path)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.4])
def test_of_an_autoregressive_process_it_is_known(rho):
    draws = autoregressive(rho, 4000, 4)
    expected = 16_000 * (1 - rho) / (1 + rho)
    assert 0.85 < float(effective_sample_size(draws)) / expected < 1.15


def test_there_is_one_number_for_each_coordinate():
    draws = torch.stack([autoregressive(rho, 1000, 4, (2,)) for rho in (0.0, 0.8, 0.95)], -2)  # (draws, chains, 3, 2)
    found = effective_sample_size(draws)
    assert found.shape == split_rhat(draws).shape == (3, 2)
    assert bool((found.diff(dim=0) < 0).all())


def test_rhat_sees_chains_apart_and_chains_that_drift():
    draws = autoregressive(0.3, 1000, 4, (3,))
    assert bool((split_rhat(draws) < 1.01).all())
    draws[:, 0, 0] += 1.0  # one chain is elsewhere
    draws[:500, :, 1] += 1.0  # all chains drift
    draws[:, 1, 2] *= 3.0  # one is wider, in the same place: the folded one sees it
    assert bool((split_rhat(draws) > 1.05).all())


def test_many_short_chains_and_still_coordinates_warn_of_nothing():
    draws = torch.stack([torch.randn(20, 50, generator=seeded()), torch.ones(20, 50)], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert effective_sample_size(draws).isfinite().all()
        assert split_rhat(draws).isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("draws", "message"),
    [(torch.zeros(10), r"\(10,\)"), (torch.zeros(3, 4), "at least 4 draws"), (torch.full((10, 4), math.nan), "not finite")],
)
def test_broken_input_is_named(draws, message):
    for judge in (effective_sample_size, split_rhat):
        with pytest.raises(ValueError, match=message):
            judge(draws)
    with pytest.raises(ValueError, match="one chain"):
        split_rhat(torch.randn(10, 1))


def test_without_arviz_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arviz", None)
    with pytest.raises(ImportError, match=r"ebm-toolkit\[arviz\]"):
        effective_sample_size(torch.randn(10, 2))
