"""Bounds of a residual model's perplexity, against sums over all sequences."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.judging.residual import log_z_bounds, residual_nats
from tests.helpers import close, laws, normal, seeded, seeds


def test_bounds_enclose_log_z_in_expectation():
    """Of an energy of five values that are equally often drawn, averaged over many sets of draws."""
    values = torch.tensor([0.0, 1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
    truth = (-values).exp().mean().log()
    draws = values[torch.randint(5, (16, 20_000), generator=seeded())]
    low, high = (bound.mean() for bound in log_z_bounds(draws))
    assert low < truth < high
    assert high - low < 0.2
    many = values[torch.randint(5, (128, 5000), generator=seeded(1))]
    closer = [bound.mean() for bound in log_z_bounds(many)]
    assert closer[1] - closer[0] < (high - low) / 4


def test_all_sets_of_two_draws_by_hand():
    """(2n − 1) T_n − 2 (n − 1) T_{n−1} = 3 T_2 − 2 T_1 for n = 2."""
    energies = torch.tensor([*itertools.product([0.0, 1.0], repeat=2)], dtype=torch.float64).T
    low, high = log_z_bounds(energies)
    close(low, (-energies).exp().mean(0).log())
    close(high, 3 * low - 2 * (-energies).mean(0))


@laws
@given(seed=seeds, n=st.integers(2, 6), shift=st.floats(-50, 50))
def test_a_constant_moves_log_z_alike(seed, n, shift):
    energies = normal(n, 3, seed=seed)
    for bound, moved in zip(log_z_bounds(energies), log_z_bounds(energies + shift), strict=True):
        close(moved, bound - shift, atol=1e-9)


def test_one_draw_is_no_estimate():
    with pytest.raises(ValueError, match="at least two draws"):
        log_z_bounds(torch.zeros(1, 3))


def test_nats_of_no_energy_are_the_base_s_and_gain_nothing():
    base, tokens = -torch.tensor([2.0, 6.0]), torch.tensor([2, 4])
    found = residual_nats(base, torch.zeros(2), torch.zeros(8, 2), tokens, generator=seeded())
    close(found.base.value, 8 / 6)
    for estimate in (found.at_least, found.at_most):
        close(estimate.value, 8 / 6, atol=1e-9)
    close(found.gain.value, 0.0, atol=1e-9)
    assert found.base.low <= found.base.value <= found.base.high


def test_an_energy_that_is_lower_on_data_than_on_draws_gains():
    tokens = torch.full((50,), 5)
    found = residual_nats(torch.full((50,), -10.0), torch.full((50,), -1.0), torch.zeros(8, 50), tokens, generator=seeded())
    close(found.gain.value, 0.2, atol=1e-9)
    close(found.at_most.value, 1.8, atol=1e-9)
