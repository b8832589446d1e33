"""Laws of the way back from noise: against Bayes' rule on a grid, and against Gaussian data, where all is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.baselines.diffusion_steps import bound, ddim_step, ddpm_step, log_variance, posterior, predicted_clean, route
from ebm.tasks.images.noising import NoiseSchedule
from tests.helpers import close, grads, laws, normal, seeds

SCHEDULE = NoiseSchedule()
pairs = st.tuples(st.integers(-1, 998), st.integers(1, 400)).map(lambda pair: (min(pair[0] + pair[1], 999), pair[0]))


def steps(*numbers):
    return torch.tensor(numbers)


def forward(earlier: int, step: int) -> tuple[float, float]:
    """The scale and the variance from an earlier step to a step, one beta after the other."""
    scale, variance = 1.0, 0.0
    for beta in SCHEDULE.betas[earlier + 1 : step + 1].tolist():
        scale, variance = scale * math.sqrt(1 - beta), variance * (1 - beta) + beta
    return scale, variance


def image(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1, 1, 1)


# ------------------------------------------------------------------------------------------------------------- Bayes' rule


@laws
@given(pairs.filter(lambda pair: pair[1] >= 0), st.floats(-1, 1), st.floats(-2, 2))
def test_the_posterior_is_bayes_rule(pair, clean, noisy):
    """q(x_r | x_s, x_0) ∝ q(x_s | x_r) q(x_r | x_0), summed up on a grid."""
    step, earlier = pair
    (scale, variance), (signal, spread) = forward(earlier, step), forward(-1, earlier)
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    weights = (-((noisy - scale * x) ** 2) / (2 * variance) - (x - signal * clean) ** 2 / (2 * spread)).softmax(0)
    mean = (weights * x).sum()
    a, b, found = posterior(SCHEDULE, steps(step), steps(earlier))
    close(a[0] * clean + b[0] * noisy, mean, rtol=1e-6, atol=1e-6)
    close(found[0], (weights * (x - mean) ** 2).sum(), rtol=1e-5)


@laws
@given(pairs, seeds)
def test_a_noised_picture_and_its_noise_give_the_clean_one(pair, seed):
    clean, noise, step = normal(2, 3, 4, 4, seed=seed), normal(2, 3, 4, 4, seed=seed + 1), steps(*pair).clamp(min=0)
    close(predicted_clean(SCHEDULE, SCHEDULE.noised(clean, step, noise), step, noise), clean, atol=1e-7)


def test_variances_lie_between_the_posteriors_and_beta():
    step = torch.arange(1000)
    low, middle, high = (
        log_variance(SCHEDULE, step, step - 1, normal(1000, 1, 1, 1) * 0 + share).flatten() for share in (-1, 0, 1)
    )
    close(high.exp(), SCHEDULE.betas)
    close(low[1:].exp(), posterior(SCHEDULE, step, step - 1)[2][1:])
    assert low[0] == low[1]  # that of the clean picture is none, which has no logarithm
    close(middle, (low + high) / 2)
    assert (low < high).all()


# --------------------------------------------------------------------------------------------------------------- the steps


@laws
@given(pairs, seeds)
def test_a_ddim_step_keeps_the_noise(pair, seed):
    step, earlier = steps(*pair[:1]).expand(2), steps(*pair[1:]).expand(2)
    clean, noise = normal(2, 1, 2, 2, seed=seed), normal(2, 1, 2, 2, seed=seed + 1)
    noisy = SCHEDULE.noised(clean, step, noise)
    wanted = clean if pair[1] < 0 else SCHEDULE.noised(clean, earlier, noise)
    close(ddim_step(SCHEDULE, noisy, step, earlier, clean), wanted, atol=1e-7)


def test_rows_go_each_their_own_way():
    step, earlier, x, clean, noise = (
        steps(99, 500),
        steps(-1, 3),
        normal(2, 1, 2, 2),
        normal(2, 1, 2, 2, seed=1),
        normal(2, 1, 2, 2),
    )
    spread = log_variance(SCHEDULE, step, earlier, torch.zeros_like(x))
    for act in (lambda *rows: ddim_step(SCHEDULE, *rows[:4]), lambda *rows: ddpm_step(SCHEDULE, *rows)):
        together = act(x, step, earlier, clean, spread, noise)
        alone = [act(*(part[i : i + 1] for part in (x, step, earlier, clean, spread, noise))) for i in range(2)]
        close(together, torch.cat(alone))
        assert torch.equal(together[0], clean[0])  # at the clean picture there is no noise left


def exact(x: torch.Tensor, step: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """The expected clean picture of Gaussian data N(mean, std²) of which x is seen."""
    signal, noise = SCHEDULE.signal[step].reshape(-1, 1, 1, 1), SCHEDULE.std[step].reshape(-1, 1, 1, 1)
    return mean + std**2 * signal / (std**2 * signal**2 + noise**2) * (x - signal * mean)


@pytest.mark.parametrize("start", [99, 999])
@pytest.mark.parametrize("std", [0.3, 1.0])
def test_ddim_maps_gaussian_data_onto_themselves_ever_better(start, std):
    """The flow keeps how many deviations from the mean a picture is: x_0 = m + s (x_t − ᾱ m) / sqrt(ᾱ² s² + σ²)."""
    mean, x = 0.2, image(-1.5, 0.0, 0.7)
    signal, noise = SCHEDULE.signal[start], SCHEDULE.std[start]
    wanted = mean + std * (x - signal * mean) / (std**2 * signal**2 + noise**2).sqrt()
    errors = []
    for passes in (1, 10, 100, start + 1):
        y, path = x, [*route(start, passes), -1]
        for here, there in pairwise(path):
            step, earlier = steps(here).expand(3), steps(there).expand(3)
            y = ddim_step(SCHEDULE, y, step, earlier, exact(y, step, mean, std))
        errors.append((y - wanted).abs().max().item())
    assert errors[0] > 2 * errors[1] > 10 * errors[2]
    assert errors[-1] < 0.01


@pytest.mark.parametrize("passes", [2, 7, 100])
def test_ancestral_steps_of_the_exact_variance_keep_gaussian_data(passes):
    """A step is affine: what it makes of a mean and a variance is known without a draw, and is the earlier step's own."""
    mean, std = 0.2, 0.5
    for here, there in pairwise(route(99, passes)):  # at the clean picture the mean is taken, which varies less than the data
        step, earlier = steps(here).expand(3), steps(there).expand(3)
        signal, noise = SCHEDULE.signal[here], SCHEDULE.std[here]
        unsure = std**2 * noise**2 / (std**2 * signal**2 + noise**2)  # the variance of the clean picture, given the noisy one
        a, _, variance = posterior(SCHEDULE, steps(here), steps(there))
        spread = (a**2 * unsure + variance).log().reshape(1, 1, 1, 1).expand(3, 1, 1, 1)
        assert (spread[0] <= log_variance(SCHEDULE, steps(here), steps(there), torch.ones(1, 1, 1, 1)) + 1e-6).all()
        centre = signal * mean
        x, z = image(centre, centre + 1, centre), image(0.0, 0.0, 1.0)
        y = ddpm_step(SCHEDULE, x, step, earlier, exact(x, step, mean, std), spread, z).flatten()
        slope, drawn = y[1] - y[0], y[2] - y[0]
        close(y[0], SCHEDULE.signal[there] * mean)
        got = slope**2 * (std**2 * signal**2 + noise**2) + drawn**2
        close(got, std**2 * SCHEDULE.signal[there] ** 2 + SCHEDULE.std[there] ** 2)


# --------------------------------------------------------------------------------------------------------------- the route


@laws
@given(st.integers(0, 999), st.integers(1, 1200))
def test_a_route_falls_evenly_from_the_start_to_zero(start, passes):
    path = route(start, passes)
    gaps = [here - there for here, there in pairwise(path)]
    assert path[0] == start
    assert len(path) == min(passes, start + 1)
    assert path[-1] == 0 or len(path) == 1
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@pytest.mark.parametrize(("start", "passes"), [(-1, 3), (3, 0)])
def test_routes_that_lead_nowhere_are_refused(start, passes):
    with pytest.raises(ValueError, match=rf"route\(start={start}, passes={passes}\)"):
        route(start, passes)


# --------------------------------------------------------------------------------------------------------------- the bound


def seen(step: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    clean, noise = normal(len(step), 1, 2, 3, seed=seed).clamp(-1, 1), normal(len(step), 1, 2, 3, seed=seed + 1)
    return clean, noise, SCHEDULE.noised(clean, step, noise)


def test_the_bound_is_zero_where_the_prediction_is_the_posterior():
    step = torch.arange(1, 1000)
    clean, noise, noisy = seen(step)
    close(bound(SCHEDULE, clean, noisy, step, noise, torch.full_like(clean, -1.0)), torch.zeros(999).double(), atol=1e-7)


@laws
@given(st.integers(1, 999), seeds)
def test_the_bound_is_the_divergence_of_two_gaussians(number, seed):
    step = steps(number)
    clean, noise, noisy = seen(step, seed)
    guess, share = noise + 0.3 * normal(*noise.shape, seed=seed + 2), normal(*noise.shape, seed=seed + 3).tanh()
    a, b, variance = posterior(SCHEDULE, step, step - 1)
    truth = torch.distributions.Normal(a * clean + b * noisy, variance.sqrt().expand_as(clean))
    mean = (noisy - SCHEDULE.betas[number] / SCHEDULE.std[number] * guess) / (1 - SCHEDULE.betas[number]).sqrt()  # DDPM's (11)
    own = torch.distributions.Normal(mean, (log_variance(SCHEDULE, step, step - 1, share) / 2).exp())
    wanted = torch.distributions.kl_divergence(truth, own).mean() / math.log(2)
    close(bound(SCHEDULE, clean, noisy, step, guess, share)[0], wanted, rtol=1e-6, atol=1e-9)


def test_the_likelihoods_of_all_levels_add_up_to_one():
    levels, step = torch.linspace(-1, 1, 256, dtype=torch.float64).reshape(-1, 1, 1, 1), torch.zeros(256, dtype=torch.long)
    for noisy, share in ((0.123, 0.0), (0.997, 1.0), (-1.02, -1.0)):
        x, noise = torch.full_like(levels, noisy), torch.full_like(levels, 0.4)
        bits = bound(SCHEDULE, levels, x, step, noise, torch.full_like(levels, share))
        assert (2.0**-bits).sum().item() == pytest.approx(1, abs=1e-9)


def test_the_bounds_gradient_says_how_sure_to_be():
    """With a wrong prediction a larger variance is better, with the right one a smaller."""
    step = steps(0, 1, 50, 999)
    clean, noise, noisy = seen(step)
    for guess, sign in ((noise + 5, -1), (noise, 1)):
        share = torch.zeros_like(clean, requires_grad=True)
        (slope,) = grads(bound(SCHEDULE, clean, noisy, step, guess, share).sum(), share)
        assert (slope[1:3].sign() == sign).all()
        assert slope.isfinite().all()
