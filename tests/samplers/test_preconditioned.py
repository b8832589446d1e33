"""Preconditioned Langevin dynamics: plain Langevin in other coordinates, and its adaptive form against a plain loop."""

import math

import pytest
import torch

from ebm.interfaces import energy_and_grad
from ebm.samplers import LangevinDynamics, PreconditionedLangevin, RMSpropLangevin
from tests.helpers import close, normal, quadratic, seeded
from tests.problems import PROBLEMS, float64

MATRIX = float64([[1.5, 0.3], [0.3, 0.4]])


@pytest.mark.parametrize("preconditioner", [float64(0.7), float64([0.5, 3.0]), MATRIX], ids=["number", "diagonal", "matrix"])
@pytest.mark.parametrize("name", ["correlated", "plane-mixture", "banana"])
def test_it_is_langevin_in_coordinates_in_which_the_preconditioner_is_the_identity(preconditioner, name):
    """With y = L u and P = L Lᵀ, a step of u by E(L u) is a step of y."""
    energy, y = PROBLEMS[name].energy, normal(5, 2)
    matrix = preconditioner if preconditioner.ndim == 2 else preconditioner.expand(2).diag()
    factor = torch.linalg.cholesky(matrix)
    u = torch.linalg.solve(factor, y.T).T
    plain = LangevinDynamics(0.05, steps=20).sample(lambda u: energy(u @ factor.T), u, generator=seeded())
    moved = PreconditionedLangevin(preconditioner, 0.05, steps=20).sample(energy, y, generator=seeded())
    close(moved, plain @ factor.T)


def test_the_covariance_as_preconditioner_makes_all_directions_alike():
    """ULA on a Gaussian then forgets by the same factor 1 − ε everywhere."""
    problem = PROBLEMS["correlated"]
    covariance = float64([[2.0, 0.6], [0.6, 0.5]])
    cold = PreconditionedLangevin(covariance, 0.1, steps=7, temperature=0.0)
    y = normal(4, 2)
    close(cold.sample(problem.energy, y) - problem.mean, 0.9**7 * (y - problem.mean))


def rmsprop(energy, y, step_size, decay, eps, steps, generator):
    square = None
    for _ in range(steps):
        _, grad = energy_and_grad(energy, y)
        square = grad**2 if square is None else decay * square + (1 - decay) * grad**2
        metric = 1 / (square.sqrt() + eps)
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        y = y - step_size * metric * grad + (2 * step_size * metric).sqrt() * noise
    return y


@pytest.mark.parametrize("name", ["correlated", "funnel", "banana"])
def test_the_adaptive_form_is_the_plain_loop(name):
    problem = PROBLEMS[name]
    y = normal(5, problem.dim)
    moved = RMSpropLangevin(0.02, steps=15, decay=0.9, eps=1e-3).sample(problem.energy, y, generator=seeded())
    close(moved, rmsprop(problem.energy, y, 0.02, 0.9, 1e-3, 15, seeded()))


def test_the_adaptive_form_is_blind_to_the_scale_of_an_axis():
    """Where every axis is scaled by a number, so is the way, but for eps (without noise)."""
    scales, y = float64([1e-3, 1.0, 1e3]), normal(4, 3)
    cold = RMSpropLangevin(0.05, steps=10, eps=1e-300, temperature=0.0)
    # P ∇E has the size of a sign: in coordinates y/s the step is s times as long.
    steps = cold.sample(lambda y: (y / scales).square().sum(-1) / 2, scales * y, steps=1) - scales * y
    close(steps, (-0.05 * y.sign()).expand_as(y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PreconditionedLangevin(None), "LangevinDynamics"),
        (lambda: PreconditionedLangevin(torch.tensor([1.0, 0.0])), "preconditioner of shape"),
        (lambda: PreconditionedLangevin(math.nan), "preconditioner="),
        (lambda: PreconditionedLangevin(torch.ones(3)).sample(quadratic, torch.ones(2, 2)), r"preconditioner of shape \(3,\)"),
        (lambda: PreconditionedLangevin(1.0, temperature=-1.0), "temperature=-1"),
        (lambda: RMSpropLangevin(decay=1.0), "decay=1"),
        (lambda: RMSpropLangevin(eps=0.0), "eps=0"),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_recipe_says_a_preconditioner_as_a_list():
    y = normal(3, 2)
    listed = PreconditionedLangevin([2.0, 0.5], 0.05, steps=3).sample(quadratic, y, generator=seeded())
    close(listed, PreconditionedLangevin(float64([2.0, 0.5]), 0.05, steps=3).sample(quadratic, y, generator=seeded()))
