"""Analytic energies: what they claim of their densities is held against closed forms, quadrature and exact samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebm.energies import Banana, DoubleWell, Funnel, Gaussian, GaussianMixture, Ring
from ebm.interfaces import energy_and_grad
from tests.problems import PROBLEMS, Problem, float64

LAW = settings(max_examples=10, deadline=None, derandomize=True)
problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
analytic = pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS.values() if isinstance(p.energy, nn.Module)], ids=lambda problem: problem.name
)
classes = pytest.mark.parametrize("kind", [Gaussian, GaussianMixture, Banana, DoubleWell, Funnel, Ring])
sizes = st.floats(0.3, 3.0)
coordinates = st.floats(-3.0, 3.0)
seeds = st.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadrature(energy: nn.Module, low: list[float], high: list[float], points: int = 501) -> tuple[Tensor, Tensor, Tensor]:
    """log Z, mean and variance by the trapezoidal rule on a box outside of which there is nothing."""
    axes = [torch.linspace(a, b, points, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    cell = math.prod((b - a) / (points - 1) for a, b in zip(low, high, strict=True))
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    log_density = -energy(grid)
    log_z = log_density.logsumexp(0) + math.log(cell)
    weight = (log_density - log_density.logsumexp(0)).exp()
    mean = weight @ grid
    return log_z, mean, weight @ (grid - mean) ** 2


def assert_moments(energy, low: list[float], high: list[float], points: int = 501) -> None:
    log_z, mean, variance = quadrature(energy, low, high, points)
    torch.testing.assert_close(energy.log_z, log_z, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(energy.mean, mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(energy.variance, variance, rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------- against the table of problems


@problems
@LAW
@given(seed=seeds)
def test_gradient_is_minus_the_score(problem: Problem, seed):
    y = 2 * torch.randn(4, 3, problem.dim, generator=generator(seed), dtype=torch.float64)
    _, grad = energy_and_grad(problem.energy, y)
    torch.testing.assert_close(-grad, problem.score(y))
    if isinstance(problem.energy, nn.Module):
        torch.testing.assert_close(problem.energy.score(y), problem.score(y))
        torch.testing.assert_close(problem.energy.score(y[0, 0]), problem.score(y[0, 0]))


@analytic
def test_moments_and_log_z_are_the_tables(problem: Problem):
    torch.testing.assert_close(problem.energy.mean, problem.mean)
    torch.testing.assert_close(problem.energy.variance, problem.variance)
    torch.testing.assert_close(problem.energy.log_z, float64(problem.log_z))


@problems
def test_samples_have_the_tables_moments(problem: Problem):
    n = 40_000
    y = problem.sample(n, generator(3))
    assert y.shape == (n, problem.dim)
    assert y.dtype == torch.float64
    for values, expected in ((y, problem.mean), ((y - problem.mean) ** 2, problem.variance)):
        error = (values.mean(0) - expected).abs()
        assert (error < 5 * values.std(0) / math.sqrt(n)).all()


# Integration by parts: E[y_i dE/dy_i] = 1 under exp(-E)/Z, for every coordinate, which sees more than the moments do.
@problems
def test_samples_meet_the_virial_theorem(problem: Problem):
    n = 40_000
    y = problem.sample(n, generator(4))
    values = -y * problem.score(y)
    assert ((values.mean(0) - 1).abs() < 5 * values.std(0) / math.sqrt(n)).all()


@analytic
def test_a_generator_decides_and_leaves_the_global_one_alone(problem: Problem):
    before = torch.random.get_rng_state()
    first = problem.sample(5, generator(7))
    assert torch.equal(first, problem.sample(5, generator(7)))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(0)
    default = problem.energy.sample(5)
    torch.manual_seed(0)
    assert torch.equal(default, problem.energy.sample(5))


# ------------------------------------------------------------------------------------------------------ against quadrature


@LAW
@given(a=sizes, b=sizes, correlation=st.floats(-0.8, 0.8), centre=st.tuples(coordinates, coordinates))
def test_gaussian_against_quadrature(a, b, correlation, centre):
    cross = correlation * a * b
    energy = Gaussian(float64(centre), float64([[a * a, cross], [cross, b * b]]))
    assert_moments(energy, [centre[0] - 9 * a, centre[1] - 9 * b], [centre[0] + 9 * a, centre[1] + 9 * b])


@LAW
@given(
    means=st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=2),
    variances=st.lists(st.tuples(sizes, sizes), min_size=2, max_size=2),
    weight=st.floats(0.0, 1.0),
)
def test_mixture_against_quadrature(means, variances, weight):
    energy = GaussianMixture(float64(means), float64(variances), float64([weight, 1.5 - weight]))
    assert_moments(energy, [-20.0, -20.0], [20.0, 20.0])


@LAW
@given(curvature=st.floats(-1.0, 1.0), scale=st.floats(0.3, 1.5))
def test_banana_against_quadrature(curvature, scale):
    end = curvature * (80 * scale**2)  # where the bend has taken y₂ at y₁ = ±9s
    low, high = sorted((-curvature * scale**2, end))
    assert_moments(Banana(float64(curvature), float64(scale)), [-9 * scale, low - 9], [9 * scale, high + 9], points=1201)


def test_a_banana_without_a_bend_is_a_gaussian():
    banana, gaussian = Banana(0.0, float64(1.5)), Gaussian(float64([0.0, 0.0]), float64([2.25, 1.0]))
    y = torch.randn(5, 2, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(banana(y), gaussian(y))
    torch.testing.assert_close(banana.log_z, gaussian.log_z)


@LAW
@given(barrier=st.floats(0.1, 10.0), location=sizes)
def test_double_well_against_quadrature(barrier, location):
    reach = location * math.sqrt(1 + math.sqrt(40 / barrier))
    assert_moments(DoubleWell(2, float64(barrier), float64(location)), [-reach, -9.0], [reach, 9.0])
    assert_moments(DoubleWell(1, float64(barrier), float64(location)), [-reach], [reach])


@LAW
@given(scale=st.floats(0.2, 0.6))
def test_funnel_against_quadrature(scale):
    # Its own coordinates stretch: with x = exp(v/2) t the density over (v, t) is exp(-E) exp(v/2).
    energy = Funnel(2, float64(scale))

    def stretched(y: Tensor) -> Tensor:
        v, t = y.unbind(-1)
        return energy(torch.stack([v, (v / 2).exp() * t], -1)) - v / 2

    log_z, _, variance = quadrature(stretched, [-9 * scale, -9.0], [9 * scale, 9.0])
    torch.testing.assert_close(energy.log_z, log_z)
    torch.testing.assert_close(variance, float64([scale**2, 1.0]))


@LAW
@given(radius=sizes, width=st.floats(0.2, 1.0))
def test_ring_against_quadrature(radius, width):
    reach = math.sqrt(radius**2 + 20 * radius * width)
    assert_moments(Ring(float64(radius), float64(width)), [-reach] * 2, [reach] * 2)


# ------------------------------------------------------------------------------------------------- how they are constructed


@classes
def test_a_recipe_needs_no_arguments(kind):
    energy = kind()
    y = energy.sample(6)
    assert energy(y).shape == (6,)
    assert y.dtype == torch.get_default_dtype()
    assert energy.mean.shape == energy.variance.shape == (energy.dim,) == y.shape[1:]
    assert energy.log_z.shape == ()


@LAW
@given(seed=seeds, variance=sizes)
def test_forms_of_a_covariance_agree(seed, variance):
    y = torch.randn(5, 2, generator=generator(seed), dtype=torch.float64)
    forms = (variance, [variance] * 2, [[variance, 0.0], [0.0, variance]])
    energies = [Gaussian(float64([1.0, 2.0]), form) for form in forms]
    means = float64([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]])
    shapes = (variance, [variance] * 3, [[variance] * 2] * 3, [[[variance, 0.0], [0.0, variance]]] * 3)
    mixtures = [GaussianMixture(means, form) for form in shapes]
    for group in (energies, mixtures):
        for energy in group[1:]:
            for what in (lambda e: e(y), lambda e: e.score(y), lambda e: e.log_z, lambda e: e.mean, lambda e: e.variance):
                torch.testing.assert_close(what(energy), what(group[0]))
            torch.testing.assert_close(energy.sample(4, generator=generator(0)), group[0].sample(4, generator=generator(0)))


def test_a_mixture_of_one_is_its_gaussian():
    covariance = float64([[2.0, 0.6], [0.6, 0.5]])
    gaussian = Gaussian(float64([1.0, 2.0]), covariance)
    mixture = GaussianMixture(float64([[1.0, 2.0]]), covariance[None], float64([3.0]))
    y = torch.randn(5, 2, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(mixture(y), gaussian(y) + gaussian.log_z)


def test_far_away_energies_stay_finite():
    y = torch.full((1, 2), 1e4, dtype=torch.float64)
    value, grad = energy_and_grad(GaussianMixture().double(), y)
    assert value.isfinite().all()
    torch.testing.assert_close(grad, y - float64([2.0, 0.0]))  # only the nearer component pulls


def test_parameters_stay_parameters_and_buffers_are_copies():
    mean, covariance = nn.Parameter(torch.zeros(2, dtype=torch.float64)), torch.eye(2, dtype=torch.float64)
    energy = Gaussian(mean, covariance)
    assert energy.mean is mean
    assert [name for name, _ in energy.named_parameters()] == ["mean"]
    covariance.mul_(0)
    assert torch.equal(energy.covariance, torch.eye(2, dtype=torch.float64))


def test_numbers_take_the_tensors_dtype():
    energy = GaussianMixture([[0, 0], [1, 1]], torch.ones(2, dtype=torch.float64))
    assert {buffer.dtype for buffer in energy.buffers()} == {torch.float64}
    assert Gaussian([0, 1], 2).mean.dtype == torch.get_default_dtype()


def test_log_z_can_be_learned():
    covariance = nn.Parameter(float64([[2.0, 0.5], [0.5, 1.0]]))
    for energy in (Gaussian(float64([0.0, 0.0]), covariance), DoubleWell(2, nn.Parameter(float64(2.0)))):
        y = torch.zeros(1, 2, dtype=torch.float64)
        (energy(y).mean() + energy.log_z).backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in energy.parameters())


def test_log_z_of_a_double_well_has_the_right_slope():
    barrier, step = nn.Parameter(float64(2.0)), 1e-5
    DoubleWell(2, barrier).log_z.backward()
    up, down = (DoubleWell(2, float64(2.0 + sign * step)).log_z for sign in (1, -1))
    torch.testing.assert_close(barrier.grad, (up - down) / (2 * step))


@pytest.mark.parametrize(
    ("kind", "keywords", "message"),
    [
        (Gaussian, {"mean": 0.0}, r"Gaussian\(mean=0.0\): pass a mean \(d,\)"),
        (Gaussian, {"mean": [[0.0]]}, r"pass a mean \(d,\)"),
        (Gaussian, {"mean": []}, r"pass a mean \(d,\)"),
        (Gaussian, {"mean": [0.0, math.nan]}, "finite"),
        (Gaussian, {"covariance": [1.0, 1.0, 1.0]}, r"Gaussian\(covariance=\[1.0, 1.0, 1.0\]\): pass one of the shapes"),
        (Gaussian, {"covariance": -1.0}, "positive definite"),
        (Gaussian, {"covariance": [1.0, 0.0]}, "positive definite"),
        (Gaussian, {"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "positive definite"),
        (Gaussian, {"covariance": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
        (GaussianMixture, {"means": [0.0, 1.0]}, r"pass means \(K, d\)"),
        (GaussianMixture, {"covariances": [1.0, 1.0, 1.0]}, "pass one of the shapes"),
        (GaussianMixture, {"covariances": [1.0, -1.0]}, "positive definite"),
        (GaussianMixture, {"covariances": [[[1.0, 2.0], [2.0, 1.0]]] * 2}, "positive definite"),
        (GaussianMixture, {"weights": [1.0]}, "pass 2 weights"),
        (GaussianMixture, {"weights": [1.0, -0.5]}, "not negative"),
        (GaussianMixture, {"weights": [0.0, 0.0]}, "not all zero"),
        (GaussianMixture, {"weights": [1.0, math.inf]}, "finite"),
        (Banana, {"scale": 0.0}, r"Banana\(scale=0.0\): pass a positive number"),
        (Banana, {"curvature": [1.0, 2.0]}, r"pass a number"),
        (Banana, {"curvature": math.inf}, "finite"),
        (DoubleWell, {"dim": 0}, r"DoubleWell\(dim=0\)"),
        (DoubleWell, {"barrier": 0.0}, r"DoubleWell\(barrier=0.0\): pass a positive number"),
        (DoubleWell, {"location": [1.0, 2.0]}, "positive number"),
        (Funnel, {"dim": 1}, r"Funnel\(dim=1\)"),
        (Funnel, {"scale": -1.0}, "positive number"),
        (Ring, {"radius": 0.0}, "positive number"),
        (Ring, {"width": math.nan}, "finite"),
    ],
)
def test_errors_restate_the_argument(kind, keywords, message):
    with pytest.raises(ValueError, match=message):
        kind(**keywords)


@classes
@pytest.mark.parametrize("shape", [(5, 7), (5, 1), ()])
def test_another_last_axis_is_an_error_and_no_broadcast(kind, shape):
    with pytest.raises(ValueError, match=r"is over 2 coordinates: pass y \(\*chains, 2\)"):
        kind()(torch.zeros(shape))
