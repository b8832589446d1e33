"""Posteriors: densities against torch.distributions, Gaussian conditionals, moments by quadrature and by weighting."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Beta, Cauchy, HalfCauchy, LogNormal, MultivariateNormal, Normal
from torch.func import hessian

from ebm.energies import BrownianBridge, EightSchools, ItemResponse, LogisticRegression, StochasticVolatility
from ebm.energies.posteriors import brownian_bridge, eight_schools
from ebm.interfaces import energy_and_grad
from ebm.samplers import NUTS, warm_up
from tests.helpers import close, gradient, laws, normal, seeded, seeds

POSTERIORS = {
    "eight-schools": lambda: EightSchools(),
    "eight-schools-non-centred": lambda: EightSchools(centred=False),
    "logistic-regression": lambda: LogisticRegression(),
    "brownian-bridge": lambda: BrownianBridge(),
    "stochastic-volatility": lambda: StochasticVolatility(),
    "item-response": lambda: ItemResponse(),
}


@pytest.fixture(autouse=True)
def double():
    """Data are held in torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def data(energy):
    return dict(energy.energy.energy.named_buffers())


# ------------------------------------------------------------------- the density, written again with torch.distributions


def schools(y):
    seen, errors = torch.tensor(eight_schools.EFFECTS), torch.tensor(eight_schools.ERRORS)
    prior = Normal(0.0, 5.0).log_prob(y["mean"]) + HalfCauchy(5.0).log_prob(y["scale"])
    return prior + Normal(y["mean"], y["scale"]).log_prob(y["effects"]).sum() + Normal(y["effects"], errors).log_prob(seen).sum()


def schools_apart(y):
    seen, errors = torch.tensor(eight_schools.EFFECTS), torch.tensor(eight_schools.ERRORS)
    prior = Normal(0.0, 5.0).log_prob(y["mean"]) + HalfCauchy(5.0).log_prob(y["scale"])
    effects = y["mean"] + y["scale"] * y["standard"]
    return prior + Normal(0.0, 1.0).log_prob(y["standard"]).sum() + Normal(effects, errors).log_prob(seen).sum()


def regression(y):
    held = data(LogisticRegression())
    labels, inputs = (held["sign"] + 1) / 2, held["signed"] * held["sign"][:, None]
    prior = Normal(0.0, 1.0).log_prob(y["weights"]).sum() + Normal(0.0, 1.0).log_prob(y["intercept"])
    return prior + Bernoulli(logits=inputs @ y["weights"] + y["intercept"]).log_prob(labels).sum()


def bridge(y):
    total, before = LogNormal(0.0, 2.0).log_prob(y["innovation"]) + LogNormal(0.0, 2.0).log_prob(y["noise"]), torch.tensor(0.0)
    for place, seen in zip(y["path"], brownian_bridge.SEEN, strict=True):
        total = total + Normal(before, y["innovation"]).log_prob(place)
        if not math.isnan(seen):
            total = total + Normal(place, y["noise"]).log_prob(torch.tensor(seen))
        before = place
    return total


def volatility(y):
    persistence, mean, scale, log_variance = (y[name] for name in ("persistence", "mean", "scale", "log_variance"))
    share = Beta(torch.tensor(20.0), torch.tensor(1.5)).log_prob((persistence + 1) / 2) - math.log(2)
    total = share + Cauchy(0.0, 5.0).log_prob(mean) + HalfCauchy(2.0).log_prob(scale)
    expected, spread = mean, scale / (1 - persistence**2).sqrt()
    for now, seen in zip(log_variance, data(StochasticVolatility())["returns"], strict=True):
        total = total + Normal(expected, spread).log_prob(now) + Normal(0.0, (now / 2).exp()).log_prob(seen)
        expected, spread = mean + persistence * (now - mean), scale
    return total


def response(y):
    held = data(ItemResponse())
    total = Normal(0.75, 1.0).log_prob(y["mean_ability"])
    total = total + Normal(0.0, 1.0).log_prob(y["ability"]).sum() + Normal(0.0, 1.0).log_prob(y["difficulty"]).sum()
    for i, j in held["asked"].nonzero().tolist():
        logit = y["mean_ability"] + y["ability"][i] - y["difficulty"][j]
        total = total + Bernoulli(logits=logit).log_prob((held["sign"][i, j] + 1) / 2)
    return total


ORACLES = dict(zip(POSTERIORS, (schools, schools_apart, regression, bridge, volatility, response), strict=True))


def plainly(name, energy, y):
    """−log p(θ, data) − log|det ∂θ/∂y| of one chain (dim,)."""

    def flat(y):
        values = energy.constrain(y)
        return torch.cat([values[name].reshape(-1) for name in energy.packing.names])

    return -ORACLES[name](energy.constrain(y)) - torch.linalg.slogdet(torch.func.jacfwd(flat)(y)).logabsdet


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_density_is_what_torch_distributions_say(name):
    energy, y = POSTERIORS[name](), normal(2, POSTERIORS[name]().dim)
    value, grad = energy_and_grad(energy, y)
    close(value, torch.stack([plainly(name, energy, row) for row in y]))
    along = normal(energy.dim, seed=1)
    slope = gradient(lambda t: plainly(name, energy, y[0] + t * along), torch.zeros(1))
    close(grad[0] @ along, slope[0], rtol=1e-6)


# ------------------------------------------------------------------------------------------------- Gaussian conditionals


class Linear(NamedTuple):
    """The posterior of x ~ N(0, prior), seen = x + N(0, noise) at some entries: its moments, and log p(seen)."""

    mean: torch.Tensor
    covariance: torch.Tensor
    evidence: torch.Tensor


def linear(prior, noise, seen):
    at = ~seen.isnan()
    marginal = MultivariateNormal(torch.zeros(int(at.sum())), prior[..., at, :][..., at] + torch.diag_embed(noise[..., at]))
    gain = torch.linalg.solve(marginal.covariance_matrix, prior[..., at, :]).mT
    return Linear(gain @ seen[at], prior - gain @ prior[..., at, :], marginal.log_prob(seen[at]))


def schools_given(scale):
    """Mean and effects, given their scale (…): mean first."""
    seen, errors = torch.tensor((math.nan, *eight_schools.EFFECTS)), torch.tensor((1.0, *eight_schools.ERRORS))
    own = torch.diag(torch.tensor([0.0] + [1.0] * 8))
    return linear(25 * torch.ones(9, 9) + scale[..., None, None] ** 2 * own, errors.square().expand(*scale.shape, 9), seen)


def bridge_given(innovation, noise):
    seen, times = torch.tensor(brownian_bridge.SEEN), torch.arange(1.0, 31.0)
    walk = torch.minimum(times[:, None], times)
    return linear(innovation[..., None, None] ** 2 * walk, noise[..., None].square().expand(*noise.shape, 30), seen)


def gaussian(energy, still, moving):
    """Mode, covariance and log ∫ exp(−E) over the coordinates `moving`, of an energy that is quadratic there."""
    zero = torch.zeros(len(moving))

    def part(x):
        return energy(still.index_copy(0, torch.tensor(moving), x))

    precision, slope = hessian(part)(zero), torch.func.grad(part)(zero)
    mode = -torch.linalg.solve(precision, slope)
    volume = len(moving) * math.log(2 * math.pi) / 2 - torch.linalg.slogdet(precision).logabsdet / 2
    return Linear(mode, torch.linalg.inv(precision), volume - part(mode))


@laws
@given(st.floats(-3.0, 3.0))
def test_eight_schools_given_their_scale_are_gaussian(log_scale):
    energy, scale = EightSchools(), torch.tensor(log_scale).exp()
    still = torch.zeros(10).index_fill(0, torch.tensor(energy.labels().index("scale")), log_scale)
    found = gaussian(energy, still, [0, *range(2, 10)])
    expected = schools_given(scale)
    prior = HalfCauchy(5.0).log_prob(scale) + log_scale
    close(found, expected._replace(evidence=expected.evidence + prior), rtol=1e-7, atol=1e-7)


@laws
@given(seeds)
def test_centred_and_non_centred_schools_are_one_posterior(seed):
    one, other, y = EightSchools(), EightSchools(centred=False), normal(5, 10, seed=seed)
    values = other.constrain(y)
    apart = {name: values[name] for name in one.packing.names}
    close(one(one.unconstrain(apart)) - 8 * values["scale"].log(), other(y), rtol=1e-8)


@laws
@given(st.floats(-3.0, 1.0), st.floats(-3.0, 1.0))
def test_a_bridge_given_its_scales_is_gaussian(log_innovation, log_noise):
    logs = torch.tensor([log_innovation, log_noise])
    found = gaussian(BrownianBridge(), torch.cat([logs, torch.zeros(30)]), [*range(2, 32)])
    expected = bridge_given(*logs.exp())
    prior = LogNormal(0.0, 2.0).log_prob(logs.exp()).sum() + logs.sum()
    close(found, expected._replace(evidence=expected.evidence + prior), rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------- moments by quadrature, and by weighting


def mixed(parts, weights):
    """Means and standard deviations of x, Gaussian in every cell of a grid; `weights` are logarithms."""
    shares = (weights - weights.logsumexp(0)).exp()[:, None]
    mean = (shares * parts.mean).sum(0)
    second = (shares * (parts.covariance.diagonal(dim1=-2, dim2=-1) + parts.mean.square())).sum(0)
    return mean, (second - mean.square()).sqrt()


def known(values, weights):
    """The same of numbers, one for each cell."""
    return mixed(Linear(values[:, None], torch.zeros(len(values), 1, 1), weights), weights)


def schools_by_quadrature():
    scale = torch.linspace(-9.0, 6.0, 600).exp()
    parts = schools_given(scale)
    weights = parts.evidence + HalfCauchy(5.0).log_prob(scale) + scale.log()
    (mean, deviation), (scale, scale_deviation) = mixed(parts, weights), known(scale, weights)
    return (
        {"mean": mean[0], "scale": scale[0], "effects": mean[1:]},
        {"mean": deviation[0], "scale": scale_deviation[0], "effects": deviation[1:]},
    )


def bridge_by_quadrature():
    innovation = torch.linspace(-6.0, 1.0, 60).exp()
    noise = torch.linspace(-10.0, 0.5, 80).exp()
    grid = torch.cartesian_prod(innovation, noise)
    parts = bridge_given(*grid.mT)
    weights = parts.evidence + (LogNormal(0.0, 2.0).log_prob(grid) + grid.log()).sum(1)
    mean, deviation = mixed(parts, weights)
    scales = [known(of, weights) for of in grid.mT]
    names = ("innovation", "noise", "path")
    of_scales = [[scale[kind][0] for scale in scales] for kind in (0, 1)]
    return dict(zip(names, [*of_scales[0], mean], strict=True)), dict(zip(names, [*of_scales[1], deviation], strict=True))


def by_weighting(energy, draws, freedom=10, seed=0):
    """Means, deviations and standard errors of means by draws about the mode, Student's with 10 degrees, weighted by exp(−E)."""
    mode = torch.zeros(energy.dim)
    for _ in range(8):  # Newton's method: the energy is convex
        mode = mode - torch.linalg.solve(hessian(energy)(mode), torch.func.grad(energy)(mode))
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian(energy)(mode)))
    stream = np.random.RandomState(seed)
    tail = torch.as_tensor(np.sqrt(stream.chisquare(freedom, draws) / freedom))
    plain = torch.as_tensor(stream.standard_normal((draws, energy.dim))) / tail[:, None]
    log_proposal = -(freedom + energy.dim) / 2 * (plain.square().sum(1) / freedom).log1p()
    y = mode + plain @ factor.mT
    with torch.no_grad():
        log_weight = torch.cat([-energy(part) for part in y.split(1000)]) - log_proposal
    shares = (log_weight - log_weight.logsumexp(0)).exp()[:, None]
    mean = (shares * y).sum(0)
    deviation = (shares * (y - mean).square()).sum(0).sqrt()
    error = (shares.square() * (y - mean).square()).sum(0).sqrt()
    return [energy.constrain(each) for each in (mean, deviation, error)]


@pytest.mark.parametrize(("energy", "oracle"), [(EightSchools, schools_by_quadrature), (BrownianBridge, bridge_by_quadrature)])
def test_reference_moments_are_those_of_quadrature(energy, oracle):
    mean, deviation = oracle()
    found = energy().reference
    close(found.mean, mean, rtol=1e-4)
    close(found.deviation, deviation, rtol=1e-4)


@pytest.mark.parametrize("energy", [LogisticRegression, ItemResponse])
def test_reference_moments_are_those_of_weighted_draws(energy):
    mean, deviation, error = by_weighting(energy(), 4000, seed=1)
    found = energy().reference
    for name in found.mean:
        off = (mean[name] - found.mean[name]) / (error[name].square() + found.error[name].square()).sqrt()
        assert bool((off.abs() < 4.5).all())
        assert bool(((deviation[name] / found.deviation[name]).log().abs() < 0.35).all())


PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text("utf-8"))


def test_eight_schools_have_the_moments_that_posteriordb_publishes():
    found, known = EightSchools().reference, PUBLISHED["eight-schools"]
    for name, mean in found.mean.items():
        square = found.deviation[name].square() + mean.square()
        for value, kind, error in ((mean, "mean", "error"), (square, "square", "square_error")):
            off = (value - torch.tensor(known[kind][name])) / torch.tensor(known[error][name])
            assert bool((off.abs() < 4.5).all()), (name, kind, off)


def test_a_bridge_of_known_scales_has_the_moments_that_inference_gym_publishes():
    found, known = bridge_given(*torch.tensor([0.1, 0.15])), PUBLISHED["brownian-bridge, innovation 0.1, noise 0.15"]
    off = (found.mean - torch.tensor(known["mean"])) / torch.tensor(known["error"])
    assert bool((off.abs() < 4.5).all())
    close(found.covariance.diagonal().sqrt(), torch.tensor(known["deviation"]), rtol=0.02)


def finds(energy, y, warming, steps):
    """NUTS reaches the reference moments: within 4.5 standard errors, which many chains tell."""
    g, chains = seeded(), len(y)
    sampler, y = warm_up(NUTS(), energy, y, steps=warming, generator=g)
    draws = [energy.constrain(state.y) for state, _ in sampler.trajectory(energy, y, steps=steps, generator=g)]
    known = energy.reference
    for name, mean in known.mean.items():
        of_chains = torch.stack([draw[name] for draw in draws]).mean(0)
        error = (of_chains.var(0) / chains + known.error[name].square()).sqrt()
        assert bool(((of_chains.mean(0) - mean).abs() < 4.5 * error).all()), name
        assert bool((error < 0.2 * known.deviation[name]).all()), f"too few draws to see anything of {name}"


def test_chains_find_the_reference_moments():
    finds(EightSchools(centred=False), normal(64, 10), warming=60, steps=12)


@pytest.mark.slow
@pytest.mark.parametrize("energy", [LogisticRegression, ItemResponse])
def test_more_chains_find_the_reference_moments(energy):
    finds(energy(), normal(32, energy().dim), warming=200, steps=50)


@pytest.mark.slow
def test_chains_find_the_moments_of_volatility_that_inference_gym_publishes():
    """From a smooth start: of many rough ones some are so steep that the chains' common step size never moves them."""
    energy = StochasticVolatility()
    values = {"persistence": torch.tensor(0.5), "mean": torch.tensor(-8.0), "scale": torch.tensor(0.5)}
    start = energy.unconstrain({name: v[None] for name, v in values.items()} | {"log_variance": torch.full((1, 100), -8.0)})
    finds(energy, start + 0.05 * normal(24, energy.dim), warming=250, steps=250)


# ------------------------------------------------------------------------------------------------------ data of one's own


@pytest.mark.parametrize("name", POSTERIORS)
def test_there_and_back(name):
    energy, y = POSTERIORS[name](), normal(3, POSTERIORS[name]().dim)
    values = energy.constrain(y)
    assert set(energy.reference.mean) <= set(values)
    assert all(values[name].shape == (3, *mean.shape) for name, mean in energy.reference.mean.items())
    close(energy.unconstrain({name: values[name] for name in energy.packing.names}), y, rtol=1e-6, atol=1e-8)
    assert len(energy.labels()) == energy.dim


OWN = {
    "logistic-regression": lambda: LogisticRegression(np.ones((3, 2), np.float32), np.array([0, 1, 1])),
    "brownian-bridge": lambda: BrownianBridge(np.array([np.nan, 1.0])),
    "stochastic-volatility": lambda: StochasticVolatility([0.1, -0.2]),
    "item-response": lambda: ItemResponse(np.array([[0, 1, 1]])),
}


@pytest.mark.parametrize("name", OWN)
def test_arrays_are_data_and_have_no_reference(name):
    energy = OWN[name]()
    assert energy.reference is None
    assert bool(energy(normal(4, energy.dim)).isfinite().all())
    with pytest.raises(ValueError, match=rf"{type(energy).__name__} is over {energy.dim} coordinates"):
        energy(normal(4, energy.dim + 1))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: LogisticRegression([[1.0]]), "inputs without labels"),
        (lambda: LogisticRegression([[1.0], [2.0]], [0]), r"inputs \(2, 1\), labels \(1,\)"),
        (lambda: LogisticRegression([[1.0], [2.0]], [-1, 1]), "other than 0 and 1"),
        (lambda: LogisticRegression([[1.0], [math.nan]], [0, 1]), r"LogisticRegression\(inputs \(2, 1\)\) .* not finite"),
        (lambda: BrownianBridge([math.nan]), "with 0 steps seen"),
        (lambda: BrownianBridge([1.0, math.inf]), "not finite.*NaN for what is missing"),
        (lambda: StochasticVolatility([1.0]), "at least two days"),
        (lambda: StochasticVolatility([1.0, math.nan]), "not finite"),
        (lambda: ItemResponse([[0.5, 1.0]]), "of 0 and 1"),
        (lambda: ItemResponse([0, 1]), r"pass \(students, questions\)"),
        (lambda: ItemResponse([[math.nan]]), "0 of them asked"),
    ],
)
def test_what_is_no_data_is_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()
