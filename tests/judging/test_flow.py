"""Laws of the flow's likelihood: closed forms of diffused normals and mixtures, and a density that integrates to one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebm.energies import Gaussian, GaussianMixture, MLPEnergy, NoiseConditional
from ebm.judging import flow_log_likelihood
from tests.helpers import laws, normal, quadratic, seeded

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
RANGE = (0.05, 8.0)


def diffused(sigma):
    return Gaussian(MEAN, COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64))


def mixed(sigma):
    """Two modes with full covariances of their own, with noise."""
    means = torch.tensor([[-1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    matrices = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.4, -0.1], [-0.1, 0.4]]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    return GaussianMixture(means, matrices + sigma**2 * torch.eye(2, dtype=torch.float64), weights)


def density(energy):
    return lambda y: -energy(y) - energy.log_z


@pytest.mark.parametrize("exact", [diffused, mixed])
def test_it_is_the_closed_form_of_diffused_data(exact):
    y = exact(0.0).sample(40, generator=seeded())
    found = flow_log_likelihood(exact, y, sigma=RANGE, prior=density(exact(RANGE[1])), tolerance=1e-7)
    torch.testing.assert_close(found.log_likelihood, density(exact(RANGE[0]))(y), rtol=1e-5, atol=1e-5)
    assert found.evaluations > 10


def test_the_flow_of_a_normal_stretches_about_its_mean():
    """Along an eigenvector of the covariance, with variance v, by √((v + high²) / (v + low²))."""
    values, vectors = torch.linalg.eigh(COVARIANCE)
    y = MEAN + torch.stack([vectors[:, 0], 2 * vectors[:, 1]])
    latent = flow_log_likelihood(diffused, y, sigma=RANGE, tolerance=1e-8).latent
    stretched = ((values + RANGE[1] ** 2) / (values + RANGE[0] ** 2)).sqrt()[:, None] * (y - MEAN)
    torch.testing.assert_close(latent, MEAN + stretched, rtol=1e-5, atol=1e-5)


def test_the_default_prior_is_right_where_noise_drowns_the_data():
    y = diffused(0.0).sample(20, generator=seeded())
    error = [
        (flow_log_likelihood(diffused, y, sigma=(0.05, high)).log_likelihood - density(diffused(0.05))(y)).abs().max()
        for high in (5.0, 20.0, 80.0)
    ]
    # The mean that the prior leaves out is |mean| / high deviations away.
    assert error[0] > error[1]
    assert error[1] / error[2] == pytest.approx(4, rel=0.3)
    assert error[2] < 0.1


class Bent(nn.Module):
    """A one-dimensional energy that belongs to no diffusion."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = MLPEnergy(1, hidden=(16, 16)).double()

    def forward(self, y):
        return quadratic(y) / 2 + 3 * self.layers(y)


@settings(laws, max_examples=5)
@given(st.integers(0, 99))
def test_it_is_a_density_whatever_the_energies_are(seed):
    """The trapezoidal rule over a grid, also where the energies are no diffusion's: a flow loses nothing."""
    energy = NoiseConditional(Bent(seed), [1.0])
    grid = torch.linspace(-30, 30, 2001, dtype=torch.float64)[:, None]
    found = flow_log_likelihood(energy.at_noise, grid, sigma=(0.1, 3.0), tolerance=1e-7)
    assert torch.trapezoid(found.log_likelihood.exp(), grid[:, 0]).item() == pytest.approx(1, abs=2e-3)


def test_random_directions_are_exact_for_a_diagonal_hessian_and_right_in_the_mean_otherwise():
    variances = torch.tensor([0.5, 3.0], dtype=torch.float64)
    y = normal(6, 2)
    how = {"sigma": RANGE, "tolerance": 1e-6}
    one = flow_log_likelihood(lambda s: Gaussian(MEAN, variances + s**2), y, **how)
    drawn = flow_log_likelihood(lambda s: Gaussian(MEAN, variances + s**2), y, projections=1, generator=seeded(), **how)
    torch.testing.assert_close(drawn.log_likelihood, one.log_likelihood, rtol=1e-4, atol=1e-4)
    exact = flow_log_likelihood(diffused, y[:1], **how).log_likelihood
    many = flow_log_likelihood(diffused, y[:1].expand(2000, 2), projections=1, generator=seeded(), **how).log_likelihood
    assert many.std() > 0.01
    assert abs(many.mean() - exact) < 4 * many.std() / math.sqrt(2000)
    few = flow_log_likelihood(diffused, y[:1].expand(2000, 2), projections=4, generator=seeded(), **how).log_likelihood
    assert few.std().item() == pytest.approx(many.std().item() / 2, rel=0.1)


def test_events_of_any_shape_and_low_precision():
    y = diffused(0.0).sample(8, generator=seeded())
    expected = flow_log_likelihood(diffused, y, sigma=RANGE).log_likelihood
    wide = flow_log_likelihood(lambda s: lambda x: diffused(s)(x.flatten(1)), y[:, :, None], sigma=RANGE)
    torch.testing.assert_close(wide.log_likelihood, expected)
    assert wide.latent.shape == (8, 2, 1)
    single = flow_log_likelihood(lambda s: diffused(s).float(), y.float(), sigma=RANGE)
    assert single.latent.dtype == torch.float32
    torch.testing.assert_close(single.log_likelihood, expected, rtol=1e-3, atol=1e-3)


def test_it_leaves_the_energy_and_its_gradients_as_they_were():
    energy = NoiseConditional(nn.Sequential(MLPEnergy(2, hidden=(4,)), nn.Dropout(0.5)), [1.0]).double()
    with torch.no_grad():
        one, two = (flow_log_likelihood(energy.at_noise, normal(4, 2), sigma=(0.1, 2.0)).log_likelihood for _ in range(2))
    assert torch.equal(one, two)  # dropout is off
    assert energy.training
    assert all(p.grad is None for p in energy.parameters())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sigma": (1.0, 0.1)}, r"sigma=\(1\.0, 0\.1\): pass the lowest and the highest"),
        ({"sigma": (0.0, 1.0)}, "sigma="),
        ({"projections": 0}, "projections=0"),
        ({"projections": 1.5}, r"projections=1\.5"),
        ({"tolerance": 0.0}, r"tolerance=0\.0"),
        ({"y": normal(4)}, "pass finite rows"),
        ({"y": normal(4, 2) / 0}, "pass finite rows"),
        ({"y": torch.ones(3, 2, dtype=torch.long)}, "y.float"),
        ({"prior": lambda x: x}, r"prior gave shape \(4, 2\) for 4 rows"),
        ({"energy": lambda s: lambda y: y.square()}, r"the energy has chains \(4, 2\)"),
    ],
)
def test_what_cannot_work_is_refused(keywords, message):
    usual = {"energy": diffused, "y": normal(4, 2), "sigma": (0.5, 2.0)}
    asked = {**usual, **keywords}
    with pytest.raises(ValueError, match=message):
        flow_log_likelihood(asked.pop("energy"), asked.pop("y"), **asked)


def test_an_energy_that_is_not_finite_is_named_with_its_level():
    with pytest.raises(FloatingPointError, match=r"not finite at σ = 0\.5"):
        flow_log_likelihood(lambda s: lambda y: quadratic(y) * math.inf, normal(4, 2), sigma=(0.5, 2.0))
