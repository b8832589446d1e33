"""Predictor-corrector on noised Gaussians, where the variance after every step has a closed form."""

import math

import pytest
import torch

from ebm.samplers import MALA, Annealed, LangevinDynamics, ParallelTempering, PredictorCorrector
from tests.helpers import close, normal, quadratic, seeded

WIDTH = 0.5  # of the data
SIGMA = [4.0 * 0.5**k for k in range(6)]
LADDER = [lambda y, s=s: y.square().sum(-1) / (2 * (WIDTH**2 + s**2)) for s in SIGMA]
SIZE = 0.02  # ε at the last level; elsewhere by (σ_l/σ_L)²


def corrector(steps):
    return Annealed(LangevinDynamics(SIZE, steps=steps), step_scales=[(s / SIGMA[-1]) ** 2 for s in SIGMA])


def after(steps, predicts):
    """The variance at the end, of a start at the first level's own, by the recursion of each linear step."""
    variance = WIDTH**2 + SIGMA[0] ** 2
    for level, sigma in enumerate(SIGMA):
        correct = steps
        if predicts and level:
            gained = SIGMA[level - 1] ** 2 - sigma**2
            variance = (1 - gained / (WIDTH**2 + SIGMA[level - 1] ** 2)) ** 2 * variance + gained
            correct -= 1
        size = SIZE * (sigma / SIGMA[-1]) ** 2
        for _ in range(correct):
            variance = (1 - size / (WIDTH**2 + sigma**2)) ** 2 * variance + 2 * size
    return variance


def sampled(moving, chains=20_000):
    start = math.hypot(WIDTH, SIGMA[0]) * torch.randn(chains, 1, generator=seeded(), dtype=torch.float64)
    return moving.sample(LADDER, start, generator=seeded(1))


@pytest.mark.parametrize("steps", [1, 3])
def test_the_variance_is_that_of_the_recursion(steps):
    y = sampled(PredictorCorrector(corrector(steps), SIGMA))
    expected = after(steps, predicts=True)
    assert abs(float(y.square().mean()) / expected - 1) < 4.5 * math.sqrt(2 / len(y))


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_at_equal_cost_it_ends_nearer_than_correctors_alone(steps):
    truth = WIDTH**2 + SIGMA[-1] ** 2
    with_predictor, without = (abs(after(steps, predicts) - truth) for predicts in (True, False))
    assert with_predictor < 0.9 * without
    assert abs(float(sampled(corrector(steps)).square().mean()) / after(steps, False) - 1) < 4.5 * math.sqrt(2 / 20_000)


def test_the_predictor_goes_by_the_landscape_that_was_left():
    y, noise = normal(5, 2), seeded()
    first, second = (lambda y: 2 * quadratic(y)), (lambda y: 5 * quadratic(y))
    moving = PredictorCorrector(LangevinDynamics(0.1, temperature=0.0), [2.0, 1.0])
    states, infos = zip(*moving.trajectory([first, second], y, steps=2, generator=noise), strict=True)
    drawn = torch.randn(y.shape, generator=seeded(), dtype=y.dtype)
    at_first = 0.8**2 * y
    close(states[1].y, at_first)
    close(infos[2].energy, first(at_first))
    predicted = at_first - 3 * 2 * at_first + math.sqrt(3) * drawn
    close(states[2].y, predicted)
    close(states[3].y, 0.5 * predicted)


def test_what_a_corrector_cached_belongs_to_no_other_landscape():
    """MALA's energies are those of the landscape it is on, at the y that the predictor left."""
    moving, before = PredictorCorrector(MALA(0.02), SIGMA), None
    for state, info in moving.trajectory(LADDER, normal(4, 1), steps=3, generator=seeded()):
        if before is not None and not before.due and before.level == state.level:
            close(info.energy, LADDER[state.level](before.y))
        before = state
    assert before.level == len(SIGMA) - 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PredictorCorrector(LangevinDynamics(), [1.0, 2.0]), "fall"),
        (lambda: PredictorCorrector(LangevinDynamics(), [1.0, -2.0]), "positive"),
        (lambda: PredictorCorrector(LangevinDynamics(), [2.0, 1.0]).sample(quadratic, torch.ones(2, 2)), "2 noise levels for 1"),
        (
            lambda: PredictorCorrector(ParallelTempering(MALA(0.1)), [2.0, 1.0]).sample(
                [quadratic] * 2, torch.ones(2, 2), steps=2
            ),
            "several states",
        ),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
