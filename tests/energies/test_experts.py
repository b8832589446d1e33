"""Products and mixtures of experts: closed forms, contexts, and what a part may be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ebm
from ebm.energies import Funnel, Gaussian, GaussianMixture, MixtureOfExperts, MLPEnergy, ProductOfExperts, Ring, SumEnergy
from ebm.interfaces import energy_and_grad
from tests.energies.test_compose import Pull, draw

LAW = settings(max_examples=20, deadline=None, derandomize=True)
COVARIANCES = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 0.5]], [[0.5, 0.0], [0.0, 3.0]]]).double()
Y = draw(4, 3, 2)


def gaussians(means: torch.Tensor) -> list[Gaussian]:
    return [Gaussian(mean, covariance) for mean, covariance in zip(means, COVARIANCES, strict=True)]


def weighted(energies, weights) -> ProductOfExperts:
    energy = ProductOfExperts(energies).double()
    with torch.no_grad():
        energy.log_weights.copy_(torch.tensor(weights, dtype=torch.float64).log())
    return energy


@LAW
@given(weights=st.lists(st.floats(0.1, 5), min_size=3, max_size=3), seed=st.integers(0, 1000))
def test_a_weighted_product_of_gaussians_is_the_gaussian_of_summed_precisions(weights, seed):
    means, y = draw(3, 2, seed=seed), draw(7, 2, seed=seed + 1)
    energy = weighted(gaussians(means), weights)
    precisions = torch.tensor(weights, dtype=torch.float64)[:, None, None] * COVARIANCES.inverse()
    covariance = precisions.sum(0).inverse()
    whole = Gaussian(covariance @ (precisions @ means[:, :, None]).sum(0)[:, 0], (covariance + covariance.T) / 2)
    value, grad = energy_and_grad(energy, y)
    expected, slope = energy_and_grad(whole, y)
    torch.testing.assert_close(grad, slope)
    torch.testing.assert_close(value - value[0], expected - expected[0])  # they differ by a constant


def test_a_product_starts_as_the_sum():
    parts = [MLPEnergy(2, hidden=(3,)), Ring(), Pull(3)]
    product, whole = ProductOfExperts(parts).double(), SumEnergy(parts).double()
    context = draw(2, 2)
    assert product.levels == 3
    for one, other in zip(product.landscapes(context), whole.landscapes(context), strict=True):
        torch.testing.assert_close(one(Y), other(Y))


def test_a_product_or_mixture_within_a_sum_stays_one():
    """Only sums are flattened: weights would be lost."""
    product, mixture = weighted([Ring(), Funnel()], [2.0, 0.5]), MixtureOfExperts([Ring(), Funnel()]).double()
    torch.testing.assert_close((product + mixture)(Y), product(Y) + mixture(Y))
    assert len((product + mixture).energies) == 2


@LAW
@given(logits=st.lists(st.floats(-3, 3), min_size=3, max_size=3), seed=st.integers(0, 1000))
def test_a_mixture_of_gaussians_is_the_gaussian_mixture(logits, seed):
    means, y = draw(3, 2, seed=seed), draw(7, 2, seed=seed + 1)
    logits = torch.tensor(logits, dtype=torch.float64)
    energy, whole = MixtureOfExperts(gaussians(means), logits), GaussianMixture(means, COVARIANCES, logits.softmax(0))
    for got, expected in zip(energy_and_grad(energy, y), energy_and_grad(whole, y), strict=True):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(energy.given()(y), energy(y))


def test_a_mixture_of_mixtures_is_the_flat_mixture():
    means = draw(3, 2)
    *pair, last = gaussians(means)
    inner = MixtureOfExperts(pair, torch.tensor([0.25, 0.75], dtype=torch.float64).log())
    outer = MixtureOfExperts([inner, last], torch.tensor([0.4, 0.6], dtype=torch.float64).log())
    torch.testing.assert_close(outer(Y), GaussianMixture(means, COVARIANCES, (0.1, 0.3, 0.6))(Y))


def test_a_mixture_of_analytic_energies_has_mass_one():
    """By the trapezoidal rule on a grid that holds all of it."""
    energy = MixtureOfExperts([Ring(1.5, 0.3), Gaussian((1.0, 0.0), 0.5)], (0.3, -0.2)).double()
    line = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    mass = (-energy(torch.cartesian_prod(line, line))).exp().sum() * 0.01**2
    torch.testing.assert_close(mass, torch.ones_like(mass))


def test_the_logit_of_an_unnormalised_part_takes_up_its_log_z():
    known, plain = Gaussian((1.0, 0.0), 2.0).double(), Gaussian((-1.0, 0.0), 0.5).double()
    energy = MixtureOfExperts([known, plain.given()], torch.stack([torch.zeros_like(plain.log_z), -plain.log_z]))
    both = (-(known(Y) + known.log_z)).exp() + (-(plain(Y) + plain.log_z)).exp()
    torch.testing.assert_close((energy(Y) + both.log()).std(), torch.zeros(()).double())


@LAW
@given(levels=st.integers(1, 4))
def test_contexts_and_landscapes_reach_the_parts_of_a_mixture(levels):
    pull, gaussian, context, more = Pull(levels), Gaussian((1.0, 0.0)).double(), draw(3, 2, seed=1), draw(1, 2, seed=2)
    energy = MixtureOfExperts([pull, gaussian, Pull(1)], (0.5, 0.0, -0.5)).double()
    extended = energy.extend(energy.encode(context), more)
    torch.testing.assert_close(energy(Y, extended), energy.given(torch.cat([context, more]))(Y))
    log_weights = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64).log_softmax(0)
    for level, landscape in enumerate(energy.landscapes(context)):
        values = (pull.given(context, level)(Y), gaussian(Y) + gaussian.log_z, Pull(1).given(context)(Y))
        density = sum((own - value).exp() for own, value in zip(log_weights, values, strict=True))
        torch.testing.assert_close(landscape(Y), -density.log())


def test_far_from_all_experts_a_mixture_stays_finite():
    value, grad = energy_and_grad(MixtureOfExperts([Gaussian(), Gaussian((3.0, 0.0))]), torch.full((1, 2), 1e4))
    assert value.isfinite().all()
    torch.testing.assert_close(grad, torch.tensor([[9997.0, 1e4]]))


def test_a_weights_gradient_is_its_experts_surprise():
    """d(E(y) − E(x)) / d log wᵢ = wᵢ (Eᵢ(y) − Eᵢ(x)): contrastive training weighs down an expert that data surprise."""
    parts, weights, x = [Ring().double(), Funnel().double()], [0.5, 2.0], draw(4, 3, 2, seed=1)
    energy = weighted(parts, weights)
    (grad,) = torch.autograd.grad((energy(Y) - energy(x)).sum(), energy.log_weights)
    expected = [weight * (part(Y) - part(x)).sum() for weight, part in zip(weights, parts, strict=True)]
    torch.testing.assert_close(grad, torch.stack(expected).to(grad))


def test_recipes_build_them():
    table = {"use": "mixture-of-experts", "energies": [{"use": "mlp", "dim": 2}, {"use": "gaussian"}], "logits": [0.0, 1.0]}
    energy = ebm.recipes.recipe.build_table("energy", table, {"task": None})
    assert energy(torch.zeros(3, 2)).shape == (3,)
    assert energy.logits.tolist() == [0.0, 1.0]


def test_logits_may_be_a_parameter_of_yours():
    logits = nn.Parameter(torch.zeros(2))
    assert MixtureOfExperts([Ring(), Gaussian()], logits).logits is logits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProductOfExperts([]), "ProductOfExperts of parts with"),
        (lambda: ProductOfExperts([Ring(), 5]), "5 is no energy"),
        (lambda: MixtureOfExperts([Pull(3), Pull(2)]), r"MixtureOfExperts of parts with \[3, 2\] landscapes"),
        (lambda: MixtureOfExperts([Ring(), Ring()], (1.0,)), "pass 2 finite numbers"),
        (lambda: MixtureOfExperts([Ring(), Ring()], (1.0, float("nan"))), "pass 2 finite numbers"),
        (lambda: ProductOfExperts([Ring(), torch.square])(Y.float()), "the parts of a ProductOfExperts have energies of shapes"),
    ],
)
def test_errors_restate_the_call(make, message):
    with pytest.raises(ValueError, match=message):
        make()
