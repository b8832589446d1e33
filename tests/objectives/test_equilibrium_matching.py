"""Laws of equilibrium matching: the formula, its closed form over Gaussian data, and the least squares that it solves."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import hessian, jacobian

from ebm.interfaces import Batch
from ebm.objectives import EquilibriumMatching
from ebm.objectives.equilibrium_matching import decay
from ebm.samplers import GradientDescent
from tests.estimation import by_differences
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds

MU, V = torch.tensor([2.0, -1.0], dtype=torch.float64), 0.5  # data are N(MU, V I)
GAMMA = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # midpoints, for means over γ


def slope(gamma, cutoff, multiplier):
    """c(γ), piece by piece."""
    return torch.where(gamma <= cutoff, multiplier, multiplier * (1 - gamma) / (1 - cutoff))


@laws
@given(seed=seeds, cutoff=st.floats(0.0, 0.95), multiplier=st.floats(0.1, 5.0), has_weight=st.booleans(), started=st.booleans())
def test_value_and_gradient_of_a_bowl(seed, cutoff, multiplier, has_weight, started):
    """E = k |y − m|²/2: the loss is the mean of |r|², r = k (x_γ − m) − c(γ) (ε − x)."""
    x, g, k, m = normal(5, 2, seed=seed), seeded(seed), parameter(1.5), parameter(0.5, -0.3)
    weight = normal(5, seed=seed + 1).abs() if has_weight else None
    epsilon = normal(5, 2, seed=seed + 2) if started else torch.randn(5, 2, generator=g, dtype=torch.float64)
    gamma = torch.rand(5, generator=g, dtype=torch.float64)
    point = gamma[:, None] * x + (1 - gamma)[:, None] * epsilon
    residual = k * (point - m) - slope(gamma, cutoff, multiplier)[:, None] * (epsilon - x)
    weights = torch.ones(5, dtype=torch.float64) if weight is None else weight
    expected = (weights * residual.square().sum(1)).sum() / weights.sum()
    aim = EquilibriumMatching(cutoff, multiplier)
    loss = aim(
        lambda y: k * quadratic(y - m), Batch(x, weight=weight), start=epsilon if started else None, generator=seeded(seed)
    )
    close(loss.value, expected)
    for got, hand in zip(grads(loss.value, k, m), grads(expected, k, m), strict=True):
        close(got, hand)
    norms = (k * (point - m)).norm(dim=1).detach()
    close(loss.terms["grad_norm"], (weights * norms).sum() / weights.sum())


@pytest.mark.parametrize(("cutoff", "multiplier"), [(0.8, 4.0), (0.0, 1.0), (0.5, 2.0)])
def test_its_mean_over_gaussian_data(cutoff, multiplier):
    k, m, rows = 1.2, torch.tensor([0.3, 0.1], dtype=torch.float64), 40_000
    x = MU + math.sqrt(V) * normal(rows, 2)
    loss = EquilibriumMatching(cutoff, multiplier)(lambda y: k * quadratic(y - m), Batch(x), generator=seeded(1)).value.item()
    c = slope(GAMMA, cutoff, multiplier)
    # r = (kγ + c) x + (k (1 − γ) − c) ε − k m, with x and ε normal and independent
    variance = (k * GAMMA + c) ** 2 * V + (k * (1 - GAMMA) - c) ** 2
    mean = (k * GAMMA + c)[:, None] * MU - k * m
    square = mean.square().sum(1)
    expected = (2 * variance + square).mean().item()
    second = (4 * variance**2 + 4 * variance * square + (2 * variance + square) ** 2).mean().item()  # of |r|²
    assert loss == pytest.approx(expected, abs=4 * math.sqrt((second - expected**2) / rows))


@laws
@given(seed=seeds)
def test_gradients_equal_finite_differences(seed):
    energy, batch, aim = Valley(seed=seed), Batch(normal(5, 2, seed=seed), normal(5, 3, seed=seed + 1)), EquilibriumMatching()
    held = (energy.inner, energy.outer, energy.heights)
    exact = grads(aim(energy, batch, generator=seeded(seed)).value, *held)
    for parameters, got in zip(held, exact, strict=True):
        close(got, by_differences(aim, energy, parameters, batch, seed), rtol=1e-6, atol=1e-7)


def least(aim, data, seed):
    """Minimises the loss of E = k|y|²/2 − b·y, which is a quadratic of (k, b): one Newton step is exact."""
    zero = torch.zeros(1 + data.shape[1], dtype=torch.float64)

    def value(parameters):
        k, b = parameters[0], parameters[1:]
        return aim(lambda y: k * quadratic(y) - (y * b).sum(-1), Batch(data), generator=seeded(seed)).value

    slope_, curvature = (found(value, zero) for found in (jacobian, hessian))
    return -torch.linalg.solve(curvature, slope_)


def test_it_recovers_the_least_squares_of_gaussian_data():
    """Of thirty data sets: the mean of (k, b) within 4 standard errors of the closed form, and these small."""
    c = slope(GAMMA, 0.8, 4.0)
    # The normal equations of k x_γ − b ≈ c (ε − x): E[x_γ] = E[γ] μ, E|x_γ|², E[c (ε − x)] = −E[c] μ and E[c (ε − x)·x_γ].
    square = 2 * (GAMMA**2 * V + (1 - GAMMA) ** 2) + GAMMA**2 * MU.square().sum()
    cross = c * (2 * (1 - GAMMA) - 2 * GAMMA * V - GAMMA * MU.square().sum())
    left, right = torch.eye(3, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    left[0, 0], left[0, 1:], left[1:, 0] = square.mean(), -GAMMA.mean() * MU, -GAMMA.mean() * MU
    right[0], right[1:] = cross.mean(), c.mean() * MU
    truth = torch.linalg.solve(left, right)
    rows, repeats = 2000, 30
    found = torch.stack(
        [least(EquilibriumMatching(), MU + math.sqrt(V) * normal(rows, 2, seed=seed), 100 + seed) for seed in range(repeats)]
    )
    error = found.std(0) / math.sqrt(repeats)
    assert bool(((found.mean(0) - truth).abs() < 4 * error).all())
    assert bool((error < 0.03).all())


def test_descent_of_what_it_fits_ends_at_the_data():
    """Data in one point: slopes vanish there, and chains from noise come to rest in it."""
    data = torch.zeros(4000, 2, dtype=torch.float64)
    k, *b = least(EquilibriumMatching(), data, 0)
    assert k > 1
    ends = GradientDescent(0.1, steps=60, momentum=0.35, nesterov=True).sample(
        lambda y: k * quadratic(y) - (y * torch.stack(b)).sum(-1), normal(50, 2)
    )
    assert bool((ends.norm(dim=1) < 0.2).all())


def test_the_decay_is_one_and_then_falls_to_nothing():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    close(decay(t, 0.8), torch.where(t <= 0.8, 1.0, 5 * (1 - t)))
    close(decay(t, 0.0), 1 - t)
    close(decay(t, 1.0), torch.ones_like(t))


@pytest.mark.parametrize(
    "keywords", [{"cutoff": 1.0}, {"cutoff": -0.1}, {"multiplier": 0.0}, {"multiplier": math.inf}, {"cutoff": math.nan}]
)
def test_numbers_that_cannot_work_are_refused(keywords):
    with pytest.raises(ValueError, match=r"cutoff=.*multiplier="):
        EquilibriumMatching(**keywords)
    with pytest.raises(ValueError, match=r"int64.*float"):
        EquilibriumMatching()(quadratic, Batch(torch.ones(4, 2, dtype=torch.long)))
