"""Stein variational gradient descent against the sums of its definition, and by what its particles come to stand for."""

import math

import pytest
import torch

from ebm.interfaces import energy_and_grad
from ebm.samplers import GradientDescent, SteinVariational
from tests.helpers import close, normal, quadratic, seeded
from tests.problems import PROBLEMS


def direction(energy, y, bandwidth):
    """φ(y_i) as the double sum over particles, the kernel's gradient by automatic differentiation."""
    count = len(y)
    _, grad = energy_and_grad(energy, y)
    if bandwidth is None:
        squares = [float((y[i] - y[j]).square().sum()) for i in range(count) for j in range(i)]
        bandwidth = sorted(squares)[(len(squares) - 1) // 2] / math.log(count + 1)
    total = torch.zeros_like(y)
    for i in range(count):
        for j in range(count):
            there = y[j].clone().requires_grad_()
            kernel = torch.exp(-(there - y[i]).square().sum() / bandwidth)
            (away,) = torch.autograd.grad(kernel, there)
            total[i] += (-kernel.detach() * grad[j] + away) / count
    return total


@pytest.mark.parametrize("bandwidth", [None, 0.7])
@pytest.mark.parametrize("name", ["correlated", "funnel", "line-mixture"])
def test_a_step_is_the_double_sum(bandwidth, name):
    problem = PROBLEMS[name]
    y = normal(6, problem.dim)
    moved = SteinVariational(0.3, steps=1, bandwidth=bandwidth).sample(problem.energy, y)
    close(moved, y + 0.3 * direction(problem.energy, y, bandwidth))


def test_a_particle_alone_descends():
    y = normal(1, 3)
    close(SteinVariational(0.1, steps=9).sample(quadratic, y), GradientDescent(step_size=0.1, steps=9).sample(quadratic, y))


def test_groups_along_other_axes_know_nothing_of_each_other():
    y, moving = normal(7, 3, 2), SteinVariational(0.2, steps=5)
    together = moving.sample(PROBLEMS["banana"].energy, y)
    for group in range(3):
        close(together[:, group], moving.sample(PROBLEMS["banana"].energy, y[:, group]))


def test_particles_in_one_place_move_as_one():
    y = torch.ones(4, 2, dtype=torch.float64)
    assert bool(SteinVariational(0.1, steps=3).sample(quadratic, y).isfinite().all())


@pytest.mark.parametrize("name", ["correlated", "plane-mixture", "banana"])
def test_particles_come_to_stand_for_the_distribution(name):
    problem = PROBLEMS[name]
    start = 1 + torch.randn(100, problem.dim, generator=seeded(), dtype=torch.float64)
    y = SteinVariational(0.5, steps=1500).sample(problem.energy, start)
    spread = problem.variance.sqrt()
    assert bool(((y.mean(0) - problem.mean).abs() < 0.15 * spread).all()), y.mean(0)
    assert bool(((y.var(0) / problem.variance - 1).abs() < 0.3).all()), y.var(0)


def test_they_say_an_expectation_better_than_as_many_draws():
    problem = PROBLEMS["correlated"]
    start = torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
    ours = (SteinVariational(0.5, steps=1000).sample(problem.energy, start).mean(0) - problem.mean).norm()
    drawn = torch.stack([(problem.sample(50, seeded(seed)).mean(0) - problem.mean).norm() for seed in range(40)])
    assert float(ours) < float(drawn.quantile(0.05))


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.inf])
def test_broken_input_is_named(bandwidth):
    with pytest.raises(ValueError, match="bandwidth="):
        SteinVariational(bandwidth=bandwidth)
