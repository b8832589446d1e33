"""Laws of energy discrepancy: the formula by hand, its limit for Gaussians, no bias at few candidates, a known model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import Batch, Energy
from ebm.objectives import EnergyDiscrepancy
from tests.estimation import (
    GAUSSIAN,
    ball,
    by_differences,
    by_row,
    estimates,
    gaussian,
    gaussian_likeliest,
    gaussian_samples,
    is_zero_in_the_mean,
    recovers,
)
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds


@laws
@given(
    seed=seeds,
    std=st.floats(0.1, 2.0),
    samples=st.integers(1, 4),
    w=st.floats(0.1, 10.0),
    has_weight=st.booleans(),
    has_context=st.booleans(),
)
def test_it_equals_its_formula(seed, std, samples, w, has_weight, has_context):
    energy, data = Valley(), normal(5, 2, seed=seed)
    context = normal(5, 3, seed=seed + 1) if has_context else None
    weight = normal(5, seed=seed + 2).abs() if has_weight else None
    batch, bound, g = Batch(data, context, weight), energy.given(context), seeded(seed)
    loss = EnergyDiscrepancy(std, samples, w)(energy, batch, generator=seeded(seed))
    x_t = data + std * torch.randn(5, 2, generator=g, dtype=torch.float64)
    candidates = [x_t + std * noise for noise in torch.randn(samples, 5, 2, generator=g, dtype=torch.float64)]
    ratios = [torch.exp(bound(data) - bound(candidate)) for candidate in candidates]
    expected = batch.mean(torch.log(w / samples + sum(ratios) / samples))
    close(loss.value, expected)
    held = (energy.inner, energy.heights)
    for got, hand in zip(grads(loss.value, *held), grads(expected, *held), strict=True):
        close(got, hand)
    close(loss.terms["energy_data"], batch.mean(bound(data).detach()))
    close(loss.terms["energy_noised"], batch.mean(sum(bound(candidate) for candidate in candidates).detach() / samples))
    lowest = torch.stack([ratio < 1 for ratio in ratios]).all(0).double()
    close(loss.terms["accuracy"], batch.mean(lowest))


@pytest.mark.parametrize("std", [0.3, 1.0])
def test_its_limit_for_a_gaussian(std):
    """E = |y − m|²/2s² on N(μ, σ² I): with many candidates, L = (|μ − m|² + dσ²)/2s² − (|μ − m|² + d(σ² + t))/2(s² + t)
    − ½ d log((s² + t)/s²), and the slopes of that."""
    theta, sigma, mu = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64).requires_grad_(), 0.8, (0.2, 0.4)
    square = (theta[:2] - torch.tensor(mu, dtype=torch.float64)).square().sum()
    s2, t = torch.exp(2 * theta[2]), std**2
    expected = (square + 2 * sigma**2) / (2 * s2) - (square + 2 * (sigma**2 + t)) / (2 * (s2 + t)) - torch.log((s2 + t) / s2)
    found, aim = [], EnergyDiscrepancy(std, samples=400)
    for seed in range(30):
        data = torch.tensor(mu, dtype=torch.float64) + sigma * normal(400, 2, seed=seed)
        loss = aim(lambda y: ball(theta, y), Batch(data), generator=seeded(1000 + seed)).value
        found.append(torch.cat([loss.detach()[None], grads(loss, theta)[0]]))
    apart = torch.stack(found) - torch.cat([expected.detach()[None], grads(expected, theta)[0]])
    bias = 2e-3  # of 400 candidates, which falls as 1/M
    assert bool((apart.mean(0).abs() <= 4 * apart.std(0) / math.sqrt(30) + bias).all()), apart.mean(0)
    assert bool((apart.std(0) / math.sqrt(30) < 0.03).all())


@pytest.mark.parametrize("std", [0.3, 1.5])
@pytest.mark.parametrize("samples", [1, 3])
def test_the_truth_has_no_slope_in_the_mean_at_any_number_of_candidates(std, samples):
    theta = torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64)
    data = theta[:2] + theta[2].exp() * normal(20_000, 2)
    assert is_zero_in_the_mean(by_row(EnergyDiscrepancy(std, samples), ball, theta, data))
    assert not is_zero_in_the_mean(by_row(EnergyDiscrepancy(std, samples), ball, theta + 0.1, data))


def test_another_stability_is_biased_where_candidates_are_few():
    theta = torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64)
    data = theta[:2] + theta[2].exp() * normal(20_000, 2)
    few, many = (by_row(EnergyDiscrepancy(1.0, m, stability=4.0), ball, theta, data[:4000]) for m in (2, 400))
    assert not is_zero_in_the_mean(few)
    assert is_zero_in_the_mean(many)


@pytest.mark.parametrize("aim", [EnergyDiscrepancy(), EnergyDiscrepancy(1.0, 3, 0.5)])
def test_gradients_equal_differences(aim):
    energy, batch = Valley(), Batch(normal(4, 2), normal(4, 3, seed=1), normal(4, seed=2).abs())
    loss = aim(energy, batch, generator=seeded())
    for held, found in zip(energy.parameters(), grads(loss.value, *energy.parameters()), strict=True):
        close(found, by_differences(aim, energy, held, batch), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("aim", "worse"), [(EnergyDiscrepancy(1.0, 4), 2.5), (EnergyDiscrepancy(1.5, 32), 1.7)])
def test_a_gaussian_is_recovered(aim, worse):
    data = gaussian_samples(replicas=40, rows=600)
    recovers(estimates(aim, gaussian, GAUSSIAN * 0, data), GAUSSIAN, gaussian_likeliest(data), worse)


def test_the_weights_of_modes_far_apart_are_recovered():
    """Between modes 5 apart scores know nothing of their weights; with noise that spans the gap, energies do."""
    truth, replicas, rows = torch.tensor([math.log(0.3 / 0.7)], dtype=torch.float64), 40, 600
    right = torch.rand(rows, replicas, 1, generator=seeded(5), dtype=torch.float64) < 0.3
    data = torch.where(right, 5.0, 0.0) + normal(rows, replicas, 1)

    def modes(theta, y):
        return -torch.logaddexp(-(y[..., 0] ** 2) / 2, theta[..., 0] - (y[..., 0] - 5) ** 2 / 2)

    found = estimates(EnergyDiscrepancy(3.0, 32), modes, torch.zeros(1).double(), data)
    share = right.double().mean(0)
    recovers(found, truth, torch.log(share / (1 - share)), worse=2.0)


def test_a_constant_of_the_energy_falls_out():
    batch, aim = Batch(normal(5, 2), normal(5, 3, seed=1)), EnergyDiscrepancy()
    one, other = (aim(energy, batch, generator=seeded()).value for energy in (Valley(), Valley() + (lambda y: 7 + 0 * y.sum(-1))))
    close(one, other)


def test_all_candidates_are_evaluated_at_once():
    seen = []

    class Counting(Energy):
        def forward(self, y, code=None):
            seen.append(tuple(y.shape))
            return quadratic(y)

    EnergyDiscrepancy(samples=7)(Counting(), Batch(normal(5, 3, 2), normal(5, 3, 3)))
    assert seen == [(5, 3, 2), (7, 5, 3, 2)]


def test_energies_far_apart_do_not_overflow():
    """Data a long way up, with candidates a long way down: the loss is the largest of the gaps."""
    scale = parameter(1e6)
    loss = EnergyDiscrepancy(samples=4)(lambda y: scale * quadratic(y), Batch(normal(5, 2)), generator=seeded())
    assert bool(torch.isfinite(loss.value))
    assert bool(torch.isfinite(grads(loss.value, scale)[0]))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"noise_std": 0.0}, "noise_std=0.0"),
        ({"noise_std": math.nan}, "noise_std=nan"),
        ({"stability": 0.0}, "stability=0.0"),
        ({"samples": 0}, "samples=0"),
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        EnergyDiscrepancy(**keywords)


def test_a_start_is_refused():
    with pytest.raises(ValueError, match="moves no chains"):
        EnergyDiscrepancy()(quadratic, Batch(normal(4, 2)), start=normal(4, 2))
