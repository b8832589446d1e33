"""Laws of Langevin dynamics: the update by hand, and its stationary distribution where that has a closed form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.samplers import GradientDescent, LangevinDynamics
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds

sizes = st.floats(0.01, 0.5)


@settings(laws, max_examples=40)
@given(
    sizes,
    st.floats(0.1, 3.0),
    st.none() | st.floats(0.01, 1.0),
    st.sampled_from([None, torch.tanh]),
    st.sampled_from(["none", "each", "last", "full"]),
    seeds,
)
def test_the_update_equals_the_loop_in_value_and_in_gradient(size, temperature, noise_std, retract, unroll, seed):
    energy, step_size = Valley(seed=seed % 100), parameter(size)
    y = normal(3, 2, seed=seed).requires_grad_()
    moving = LangevinDynamics(step_size, steps=3, temperature=temperature, noise_std=noise_std, retraction=retract)
    end = moving.sample(energy, y, unroll=unroll, generator=seeded(seed))

    g, state = seeded(seed), y
    for k in range(3):
        state = state if unroll == "full" else state.detach()
        point = state if retract is None else retract(state)
        point = point if point.requires_grad else point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(point).sum(), point, create_graph=True)
        std = (2 * step_size * temperature) ** 0.5 if noise_std is None else noise_std
        state = point - step_size * slope + std * torch.randn(3, 2, generator=g, dtype=torch.float64)
        if unroll == "none" or (unroll == "last" and k < 2):
            state = state.detach()
    close(end, state)
    if unroll != "none":
        inputs = (energy.inner, energy.heights, step_size, y)
        for one, two in zip(grads(end.square().sum(), *inputs), grads(state.square().sum(), *inputs), strict=True):
            close(one, two)


@laws
@given(sizes, seeds)
def test_at_temperature_zero_it_is_gradient_descent(size, seed):
    energy, y = Valley(), normal(3, 2, seed=seed)
    for step_size in (size, torch.tensor(size, dtype=torch.float64), parameter(size), lambda t: size / (1 + t)):
        cold = LangevinDynamics(step_size, steps=3, temperature=0.0).sample(energy, y, generator=seeded())
        close(cold, GradientDescent(step_size, steps=3).sample(energy, y))


@pytest.mark.parametrize("keywords", [{"temperature": 0.0}, {"noise_std": 0.0}, {"temperature": lambda t: float(t > 0)}])
def test_no_noise_leaves_a_finite_gradient_of_a_learnable_step_size(keywords):
    moving = LangevinDynamics(0.1, steps=3, learnable=True, **keywords)
    moving.sample(quadratic, normal(3, 2), unroll="full", generator=seeded()).square().sum().backward()
    assert bool(torch.isfinite(moving.step_size.grad))
    assert moving.step_size.grad != 0


@laws
@given(seeds)
def test_temperature_and_noise_may_follow_schedules(seed):
    y, g = normal(4, 3, seed=seed), seeded(seed)
    by_temperature = by_noise = y
    noise = [torch.randn(4, 3, generator=g, dtype=torch.float64) for _ in range(3)]
    for t in range(3):
        by_temperature = 0.9 * by_temperature + math.sqrt(2 * 0.1 * (1 - t / 4)) * noise[t]
        by_noise = 0.9 * by_noise + (1 - t / 4) * noise[t]
    falling = {"schedule": "linear", "start": 1.0, "end": 0.0, "steps": 4}
    tempered = LangevinDynamics(0.1, steps=3, temperature=falling)
    close(tempered.sample(quadratic, y, generator=seeded(seed)), by_temperature)
    decoupled = LangevinDynamics(0.1, steps=3, noise_std=falling)
    close(decoupled.sample(quadratic, y, generator=seeded(seed)), by_noise)


CHAINS = 20_000


def within(got: torch.Tensor, expected: float, deviation: float) -> None:
    """Within four standard errors of a mean over independent chains."""
    assert got.item() == pytest.approx(expected, abs=4 * deviation / math.sqrt(CHAINS))


@pytest.mark.parametrize("step_size", [0.05, 0.5, 1.5])
@pytest.mark.parametrize(("precision", "temperature"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_the_stationary_variance_on_a_gaussian(step_size, precision, temperature):
    """y⁺ = (1 − ελ) y + √(2εT) ξ has the variance T / (λ (1 − ελ/2)): for λ = T = 1, 1 / (1 − ε/2)."""
    moving = LangevinDynamics(step_size, steps=math.ceil(8 / (step_size * precision)), temperature=temperature)
    expected = temperature / (precision * (1 - step_size * precision / 2))
    start = math.sqrt(expected) * torch.randn(CHAINS, 1, generator=seeded(), dtype=torch.float64)
    y = moving.sample(lambda y: precision * quadratic(y), start, generator=seeded(1))
    within(y.mean(), 0.0, math.sqrt(expected))
    within(y.square().mean(), expected, math.sqrt(2) * expected)


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_the_stationary_variance_is_reached_from_elsewhere(start):
    y = LangevinDynamics(0.2, steps=80).sample(quadratic, torch.full((CHAINS, 1), start, dtype=torch.float64), generator=seeded())
    within(y.mean(), 0.0, 1.06)
    within(y.square().mean(), 1 / 0.9, math.sqrt(2) / 0.9)


def test_decoupled_noise_samples_at_its_effective_temperature():
    """y⁺ = (1 − ε) y + σ ξ has the variance σ² / (1 − (1 − ε)²), about σ²/(2ε)."""
    moving = LangevinDynamics(0.2, steps=60, noise_std=0.3, temperature=50.0)
    y = moving.sample(quadratic, torch.zeros(CHAINS, 1, dtype=torch.float64), generator=seeded())
    expected = 0.3**2 / (1 - 0.8**2)
    within(y.square().mean(), expected, math.sqrt(2) * expected)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"noise_std": -0.1}, "noise_std=-0.1"),
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        LangevinDynamics(0.1, **keywords)
