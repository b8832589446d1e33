"""Bounds of a residual model's perplexity, against sums over all sequences."""

import itertools
import math

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


def rare(count, seed, trials=1):
    """Energies of draws of two sequences: one in 200 draws is of energy −8, the others of energy 0."""
    hit = torch.rand(count, trials, generator=seeded(seed), dtype=torch.float64) < 1 / 200
    return torch.where(hit, -8.0, 0.0)


def test_no_number_of_draws_makes_what_resampling_writes_look_too_good():
    """The sum over all sequences, of what is drawn and chosen, is known; estimates of Z miss the rare one."""
    n, trials = 16, 4000
    chances = torch.tensor([1 / 200, 199 / 200], dtype=torch.float64)
    own = torch.tensor([-8.0, 0.0], dtype=torch.float64)
    hits = torch.arange(n + 2, dtype=torch.float64)  # of n + 1 draws that are the rare one
    often = torch.distributions.Binomial(n + 1, chances[0]).log_prob(hits).exp()
    rare_one = (often * hits * math.exp(8) / (hits * math.exp(8) + n + 1 - hits)).sum()
    written = -torch.stack([rare_one, 1 - rare_one]).log()  # nats of what resampling writes
    modelled = -(chances.log() - own - (chances * (-own).exp()).sum().log())  # of p itself
    draws = rare(n, 0, trials)
    for place in range(2):
        likelihood, energy = chances[place].log().expand(trials), own[place].expand(trials)
        found = residual_nats(likelihood, energy, draws, torch.ones(trials, dtype=torch.long))
        assert found.resampled.value > written[place] - 0.02
        assert found.at_most.value < modelled[place] - 1  # that is why it is no bound of few draws
    assert found.resampled.value < found.base.value + math.log(n + 1)


def test_what_resampling_gains_is_the_logarithm_of_its_draws_at_most():
    tokens = torch.ones(3, dtype=torch.long)
    found = residual_nats(torch.full((3,), -9.0), torch.full((3,), -50.0), torch.zeros(15, 3), tokens)
    close(found.gain.value, math.log(16), atol=1e-9)


def test_intervals_over_few_prompts_cover_the_truth_as_often_as_they_say():
    trials, covered = 500, 0
    for seed in range(trials):
        tokens = torch.randint(1, 9, (6,), generator=seeded(seed))
        nats = 2.0 * tokens + normal(6, seed=seed) * tokens.double().sqrt()
        base = residual_nats(-nats, torch.zeros(6), torch.zeros(2, 6), tokens).base
        covered += base.low <= 2.0 <= base.high
    assert covered / trials > 0.92


def test_one_prompt_has_no_interval():
    found = residual_nats(torch.tensor([-2.0]), torch.zeros(1), torch.zeros(8, 1), torch.tensor([2]))
    assert found.at_most[1:] == (-math.inf, math.inf)


def test_nats_of_no_energy_are_the_base_s_and_gain_nothing():
    base, tokens = -torch.tensor([2.0, 6.0]), torch.tensor([2, 4])
    found = residual_nats(base, torch.zeros(2), torch.zeros(8, 2), tokens)
    close(found.base.value, 8 / 6)
    for estimate in (found.at_least, found.at_most, found.resampled):
        close(estimate.value, 8 / 6, atol=1e-9)
    close(found.gain.value, 0.0, atol=1e-9)
    assert found.base.low <= found.base.value <= found.base.high


def test_an_energy_that_is_lower_on_data_than_on_draws_gains():
    tokens = torch.full((50,), 5)
    found = residual_nats(torch.full((50,), -10.0), torch.full((50,), -1.0), torch.zeros(8, 50), tokens)
    close(found.at_most.value, 1.8, atol=1e-9)
    close(found.gain.value, (1 - math.log((math.e + 8) / 9)) / 5, atol=1e-9)
