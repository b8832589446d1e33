"""Laws of energy matching: pairings against all permutations, the flow against closed forms, and the sum with chains."""

import itertools
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import Batch
from ebm.objectives import ContrastiveDivergence, EnergyMatching
from ebm.objectives.energy_matching import paired
from ebm.samplers import LangevinDynamics
from tests.estimation import by_differences
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds
from tests.objectives.test_equilibrium_matching import least

MU, V = torch.tensor([2.0, -1.0], dtype=torch.float64), 0.5  # data are N(MU, V I)
T = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # midpoints, for means over t


def total(noise, data):
    return (data - noise).square().sum().item()


@laws
@given(seed=seeds, rows=st.integers(1, 6), dim=st.integers(1, 3))
def test_no_permutation_pairs_better(seed, rows, dim):
    noise, data = normal(rows, dim, seed=seed), normal(rows, dim, seed=seed + 1)
    best = min(total(noise[list(order)], data) for order in itertools.permutations(range(rows)))
    found = paired(noise, data)
    assert total(found, data) == pytest.approx(best)
    close(found.sort(0).values, noise.sort(0).values)
    order = torch.randperm(rows, generator=seeded(seed))
    close(paired(noise, data[order]), found[order])


@laws
@given(seed=seeds)
def test_chains_without_weight_do_not_change_how_others_are_paired(seed):
    noise, data = normal(6, 2, 3, seed=seed), normal(6, 2, 3, seed=seed + 1)
    weight = normal(6, 2, seed=seed + 2).clamp(min=0)
    weight[1] = 0.0
    changed = torch.where(weight[..., None] > 0, data, math.nan)
    found = paired(noise, data, weight)
    close(paired(noise, changed, weight), found)
    rest = (weight > 0).any(1)
    assert torch.equal(found[~rest], noise[~rest])
    close(paired(noise[rest], data[rest], weight[rest]), found[rest])


def test_a_single_axis_of_chains_is_paired():
    close(paired(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([10.0, 30.0, 20.0])), torch.tensor([1.0, 3.0, 2.0]))


@laws
@given(seed=seeds, cutoff=st.floats(0.0, 1.0), has_weight=st.booleans(), pairing=st.sampled_from(["optimal", "independent"]))
def test_value_and_gradient_of_a_bowl(seed, cutoff, has_weight, pairing):
    """E = k |y − m|²/2: the flow's loss is the mean of w(t) |r|², r = k (x_t − m) + x₁ − x₀."""
    x1, g, k, m = normal(5, 2, seed=seed), seeded(seed), parameter(1.5), parameter(0.5, -0.3)
    weight = normal(5, seed=seed + 1).abs() + 0.1 if has_weight else None
    x0 = torch.randn(5, 2, generator=g, dtype=torch.float64)
    x0 = paired(x0, x1) if pairing == "optimal" else x0
    t = torch.rand(5, generator=g, dtype=torch.float64)
    residual = k * (t[:, None] * x1 + (1 - t)[:, None] * x0 - m) + x1 - x0
    falling = torch.where(t <= cutoff, 1.0, (1 - t) / max(1 - cutoff, 1e-300))
    weights = torch.ones(5, dtype=torch.float64) if weight is None else weight
    expected = (weights * falling * residual.square().sum(1)).sum() / weights.sum()
    aim = EnergyMatching(cutoff=cutoff, pairing=pairing)
    loss = aim(lambda y: k * quadratic(y - m), Batch(x1, weight=weight), generator=seeded(seed))
    close(loss.value, expected)
    for got, hand in zip(grads(loss.value, k, m), grads(expected, k, m), strict=True):
        close(got, hand)


def test_its_mean_over_gaussian_data_with_independent_noise():
    k, m, rows = 1.2, torch.tensor([0.3, 0.1], dtype=torch.float64), 40_000
    x1 = MU + math.sqrt(V) * normal(rows, 2)
    loss = EnergyMatching(pairing="independent")(lambda y: k * quadratic(y - m), Batch(x1), generator=seeded(1)).value.item()
    # r = (k t + 1) x₁ + (k (1 − t) − 1) x₀ − k m, with x₁ and x₀ normal and independent
    variance = (k * T + 1) ** 2 * V + (k * (1 - T) - 1) ** 2
    square = ((k * T + 1)[:, None] * MU - k * m).square().sum(1)
    expected = (2 * variance + square).mean().item()
    second = (4 * variance**2 + 4 * variance * square + (2 * variance + square) ** 2).mean().item()  # of |r|²
    assert loss == pytest.approx(expected, abs=4 * math.sqrt((second - expected**2) / rows))


@laws
@given(seed=seeds)
def test_gradients_equal_finite_differences(seed):
    energy, batch, aim = Valley(seed=seed), Batch(normal(5, 2, seed=seed), normal(5, 3, seed=seed + 1)), EnergyMatching()
    held = (energy.inner, energy.outer, energy.heights)
    exact = grads(aim(energy, batch, generator=seeded(seed)).value, *held)
    for parameters, got in zip(held, exact, strict=True):
        close(got, by_differences(aim, energy, parameters, batch, seed), rtol=1e-6, atol=1e-7)


def estimates(aim, spread, rows, repeats):
    found = [least(aim, MU + math.sqrt(spread) * normal(rows, 2, seed=seed), 100 + seed) for seed in range(repeats)]
    return torch.stack(found)


def test_it_recovers_the_least_squares_of_independent_pairs():
    """Of thirty data sets: the mean of E = k|y|²/2 − b·y within 4 standard errors of the closed form, and these small."""
    # The normal equations of k x_t − b ≈ x₀ − x₁: E[x_t] = μ/2, E|x_t|², E[x₀ − x₁] = −μ and E[(x₀ − x₁)·x_t].
    square = 2 * (T**2 * V + (1 - T) ** 2) + T**2 * MU.square().sum()
    cross = 2 * (1 - T) - 2 * T * V - T * MU.square().sum()
    left, right = torch.eye(3, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    left[0, 0], left[0, 1:], left[1:, 0], right[0], right[1:] = square.mean(), -MU / 2, -MU / 2, cross.mean(), MU
    truth = torch.linalg.solve(left, right)
    found = estimates(EnergyMatching(pairing="independent"), V, 2000, 30)
    error = found.std(0) / math.sqrt(30)
    assert bool(((found.mean(0) - truth).abs() < 4 * error).all())
    assert bool((error < 0.01).all())


def test_it_recovers_a_shift_by_optimal_transport():
    """Data are the noise's distribution moved by μ: the flow is μ everywhere, that is k = 0 and b = μ."""
    found = estimates(EnergyMatching(), 1.0, 400, 20)
    error = found.std(0) / math.sqrt(20)
    truth = torch.tensor([0.0, *MU], dtype=torch.float64)
    assert bool(((found.mean(0) - truth).abs() < 4 * error).all())
    assert bool((error < 0.03).all())


@laws
@given(seed=seeds, strength=st.floats(0.0, 2.0))
def test_chains_add_contrastive_divergence_from_data_and_from_noise(seed, strength):
    energy, x1, g = Valley(seed=seed), normal(6, 2, seed=seed), seeded(seed)
    batch, moving = Batch(x1, normal(6, 3, seed=seed + 1)), LangevinDynamics(0.1, steps=3, temperature=lambda t: t / 3)
    flow = EnergyMatching()(energy, batch, generator=g)
    at_data = torch.rand(6, generator=g) < 0.5
    x0 = paired(torch.randn(6, 2, generator=seeded(seed), dtype=torch.float64), x1)
    start = torch.where(at_data[:, None], x1, x0)
    contrast = ContrastiveDivergence(moving)(energy, batch, start=start, generator=g)
    loss = EnergyMatching(moving, cd_weight=strength)(energy, batch, generator=seeded(seed))
    close(loss.value, flow.value + strength * contrast.value)
    assert loss.terms.keys() == {"flow", "energy_path", "path_norm"} | contrast.terms.keys()
    for name, term in contrast.terms.items():
        close(loss.terms[name], term)
    close(loss.terms["flow"], flow.value.detach())


def test_its_sampler_is_the_chains():
    moving = LangevinDynamics(0.1)
    assert EnergyMatching(moving).sampler is moving
    assert EnergyMatching().sampler is None


def test_without_scipy_it_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"recipes.*independent"):
        EnergyMatching()(quadratic, Batch(normal(4, 2)))
    EnergyMatching(pairing="independent")(quadratic, Batch(normal(4, 2)))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"cd_weight": -1.0}, "cd_weight=-1"),
        ({"cutoff": 1.5}, "cutoff=1.5"),
        ({"cutoff": math.nan}, "cutoff=nan"),
        ({"pairing": "sinkhorn"}, "pairing='sinkhorn'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        EnergyMatching(**keywords)


def test_values_that_are_not_finite_reach_the_loss():
    data = normal(4, 2)
    data[2, 1] = math.nan
    assert EnergyMatching()(quadratic, Batch(data), generator=seeded()).value.isnan()
