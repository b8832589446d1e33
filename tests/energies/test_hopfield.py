"""Associative memories: attention as a gradient step, bounds, mixtures of Gaussians, Hebb's rule, retrieval."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ebm
from ebm.energies import GaussianMixture, Hopfield, ModernHopfield
from ebm.interfaces import energy_and_grad
from ebm.samplers import GradientDescent
from tests.energies.test_compose import draw

LAW = settings(max_examples=20, deadline=None, derandomize=True)
betas, seeds = st.floats(0.05, 8), st.integers(0, 1000)


def signs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.where(draw(*shape, seed=seed) > 0, 1.0, -1.0).double()


# ----------------------------------------------------------------------------------------------------------------- modern


@LAW
@given(beta=betas, seed=seeds)
def test_one_gradient_step_of_size_one_is_attention(beta, seed):
    patterns, y = draw(5, 3, seed=seed), draw(4, 2, 3, seed=seed + 1)
    step = GradientDescent(step_size=1.0, steps=1).sample(ModernHopfield(patterns, beta), y)
    torch.testing.assert_close(step, (beta * y @ patterns.T).softmax(-1) @ patterns)
    heads = torch.nn.functional.scaled_dot_product_attention(y, patterns.expand(4, 5, 3), patterns.expand(4, 5, 3), scale=beta)
    torch.testing.assert_close(step, heads)


@LAW
@given(beta=betas, seed=seeds)
def test_attention_never_raises_the_energy(beta, seed):
    energy = ModernHopfield(draw(5, 3, seed=seed), beta)
    steps = GradientDescent(step_size=1.0, steps=20).trajectory(energy, 3 * draw(6, 3, seed=seed + 1))
    energies = torch.stack([info.energy for _, info in steps])
    assert (energies.diff(dim=0) <= 1e-12).all()


@LAW
@given(beta=betas, seed=seeds)
def test_the_energy_is_between_zero_and_twice_the_largest_squared_norm(beta, seed):
    """The paper's bounds, the upper one within the ball that holds the patterns."""
    patterns, y = draw(5, 3, seed=seed), draw(50, 3, seed=seed + 1)
    largest, energy = patterns.norm(dim=-1).max(), ModernHopfield(patterns, beta)
    assert (energy(10 * y) >= 0).all()
    assert (energy(largest * y / y.norm(dim=-1, keepdim=True).clamp_min(1.0)) <= 2 * largest**2).all()


@LAW
@given(beta=betas, seed=seeds)
def test_its_density_at_temperature_one_over_beta_is_a_mixture_of_gaussians(beta, seed):
    patterns, y = draw(4, 2, seed=seed), draw(6, 2, seed=seed + 1)
    weights = (beta * patterns.square().sum(-1) / 2).softmax(0)
    value, grad = energy_and_grad(beta * ModernHopfield(patterns, beta), y)
    expected, slope = energy_and_grad(GaussianMixture(patterns, 1 / beta, weights), y)
    torch.testing.assert_close(grad, slope)
    torch.testing.assert_close(value - value[0], expected - expected[0])  # they differ by a constant


def test_corrupted_patterns_are_retrieved_many_more_than_there_are_dimensions():
    patterns = signs(200, 64)
    energy = ModernHopfield(patterns, beta=1.0)
    corrupted = torch.where(torch.arange(64) < 12, signs(200, 64, seed=1), patterns)  # of 12 units about half are wrong
    first = GradientDescent(step_size=1.0, steps=1).sample(energy, corrupted)
    torch.testing.assert_close(GradientDescent(step_size=1.0, steps=5).sample(energy, corrupted), patterns, atol=1e-3, rtol=0)
    assert ((first - patterns).abs().amax(-1) < 1e-3).double().mean() > 0.95  # the paper: one update is mostly enough
    masked = torch.where(torch.arange(64) < 32, 0.0, patterns)
    torch.testing.assert_close(GradientDescent(step_size=1.0, steps=5).sample(energy, masked), patterns, atol=1e-3, rtol=0)


def test_a_low_beta_averages():
    patterns = draw(5, 3)
    end = GradientDescent(step_size=1.0, steps=50).sample(ModernHopfield(patterns, beta=1e-6), draw(4, 3, seed=1))
    torch.testing.assert_close(end, patterns.mean(0).expand(4, 3), atol=1e-5, rtol=0)


def test_large_betas_do_not_overflow():
    value, grad = energy_and_grad(ModernHopfield(100 * draw(5, 3).float(), beta=1e4), torch.ones(2, 3))
    assert value.isfinite().all()
    assert grad.isfinite().all()


def test_patterns_are_learned_where_none_are_given():
    learned, given = ModernHopfield(dim=3, count=5), ModernHopfield(nn.Parameter(torch.zeros(5, 3)))
    assert [p.shape for p in learned.parameters()] == [p.shape for p in given.parameters()] == [(5, 3)]
    assert not list(ModernHopfield(torch.zeros(5, 3)).parameters())


def test_learned_patterns_find_clusters():
    """Descending the mean energy of data moves the patterns to where data are."""
    torch.manual_seed(0)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    data = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2)
    energy = ModernHopfield(nn.Parameter(centres + 0.5 * torch.randn(3, 2)), beta=2.0)
    optimizer = torch.optim.Adam(energy.parameters(), lr=0.05)
    for _ in range(100):
        retrieved = GradientDescent(step_size=1.0, steps=1).sample(energy, data, unroll="last")
        loss = (retrieved - data).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (energy.patterns - centres).abs().max() < 0.1


def test_a_recipe_says_how_many_patterns_and_the_data_say_how_long():
    class Told:
        spec = {"dim": 2}  # noqa: RUF012

    energy = ebm.recipes.recipe.build_table("energy", {"use": "modern-hopfield", "count": 7, "beta": 2.0}, {"task": Told()})
    assert (energy.patterns.shape, energy.beta) == ((7, 2), 2.0)


# -------------------------------------------------------------------------------------------------------------- classical


@LAW
@given(seed=seeds, units=st.integers(1, 8))
def test_the_energy_is_the_double_sum(seed, units):
    a, b, y = draw(units, units, seed=seed), draw(units, seed=seed + 1), draw(3, units, seed=seed + 2)
    weights = a + a.T
    expected = [-sum(weights[i, j] * s[i] * s[j] for i in range(units) for j in range(units)) / 2 - b @ s for s in y]
    torch.testing.assert_close(Hopfield(weights=weights, bias=b)(y), torch.stack(expected))


@LAW
@given(seed=seeds)
def test_a_flip_costs_twice_the_units_field(seed):
    energy, y = Hopfield(signs(3, 8, seed=seed), bias=draw(8, seed=seed)), signs(5, 8, seed=seed + 1)
    flips = y[:, None] * (1 - 2 * torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(energy(flips) - energy(y)[:, None], 2 * y * (y @ energy.weights + energy.bias))


@LAW
@given(seed=seeds)
def test_stored_patterns_and_their_negatives_are_minima_among_flips(seed):
    patterns = signs(4, 100, seed=seed)  # 4 of 100: far below 0.14 d
    energy, flips = Hopfield(patterns), 1 - 2 * torch.eye(100, dtype=torch.float64)
    for kept in (patterns, -patterns):
        assert (energy(kept[:, None] * flips) > energy(kept)[:, None]).all()
    assert energy.weights.diagonal().eq(0).all()
    assert energy.weights.equal(energy.weights.T)


def test_too_many_patterns_are_forgotten():
    patterns = signs(60, 100)
    energy, flips = Hopfield(patterns), 1 - 2 * torch.eye(100, dtype=torch.float64)
    assert not (energy(patterns[:, None] * flips) > energy(patterns)[:, None]).all(-1).any()


def test_corrupted_patterns_are_retrieved_in_the_box():
    patterns = signs(4, 100)
    corrupted = torch.where(torch.arange(100) < 30, signs(4, 100, seed=1), patterns)
    sampler = GradientDescent(step_size=0.5, steps=50, retraction="clamp")
    assert sampler.point(sampler.sample(Hopfield(patterns), corrupted)).equal(patterns)


def test_a_bias_breaks_the_tie_between_a_pattern_and_its_negative():
    pattern = signs(1, 10)
    energy = Hopfield(pattern, bias=0.1 * pattern[0])
    torch.testing.assert_close(energy(-pattern) - energy(pattern), torch.tensor([2.0]).double())


@pytest.mark.parametrize("patterns", [((1, -1, 1),), torch.tensor([[1, -1, 1]]), torch.tensor([[1.0, -1.0, 1.0]])])
def test_patterns_of_whole_numbers_will_do(patterns):
    assert Hopfield(patterns)(torch.ones(2, 3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModernHopfield(), r"dim=None, count=None\): pass patterns"),
        (lambda: ModernHopfield(dim=2, count=0), "of at least 1"),
        (lambda: ModernHopfield(torch.zeros(3)), r"patterns=\[0.0, 0.0, 0.0\]"),
        (lambda: ModernHopfield(torch.full((3, 2), torch.inf)), "finite"),
        (lambda: ModernHopfield(torch.zeros(3, 2), dim=3), "they disagree"),
        (lambda: ModernHopfield(torch.zeros(3, 2), beta=0.0), r"beta=0.0"),
        (lambda: ModernHopfield(torch.zeros(3, 2))(torch.zeros(4, 1)), r"over 2 coordinates: pass y \(\*chains, 2\)"),
        (lambda: Hopfield(), "pass one of them"),
        (lambda: Hopfield(signs(2, 3), weights=torch.zeros(3, 3)), "pass one of them"),
        (lambda: Hopfield(draw(2, 3)), "rows .* of 1 and -1"),
        (lambda: Hopfield(weights=draw(3, 3)), "symmetric"),
        (lambda: Hopfield(weights=draw(2, 3)), "symmetric"),
        (lambda: Hopfield(signs(2, 3), bias=torch.zeros(1)), "each of 3 units"),
        (lambda: Hopfield(signs(2, 3))(torch.zeros(4, 2)), r"over 3 coordinates: pass y \(\*chains, 3\)"),
    ],
)
def test_errors_restate_the_call(make, message):
    with pytest.raises(ValueError, match=message):
        make()
