"""Underdamped Langevin dynamics against BAOAB written out, letter by letter; its moments are in test_moments."""

import math

import pytest
import torch

from ebm.interfaces import energy_and_grad
from ebm.samplers import UnderdampedLangevin
from ebm.samplers.hamiltonian import Mass
from tests.helpers import close, normal, quadratic, seeded
from tests.problems import PROBLEMS, float64

MASSES = {"identity": None, "number": float64(2.0), "diagonal": float64([0.5, 3.0]), "matrix": float64([[2.0, 0.5], [0.5, 1.0]])}


def baoab(energy, y, h, friction, mass, temperature, steps, generator):
    """The five letters, with the gradient computed anew at each B."""
    kept, path = math.exp(-friction * h), []
    momentum = math.sqrt(temperature) * mass.draw(y, 1, generator)
    for _ in range(steps):
        momentum = momentum - h / 2 * energy_and_grad(energy, y)[1]  # B
        y = y + h / 2 * mass.velocity(momentum, 1)  # A
        momentum = kept * momentum + math.sqrt((1 - kept**2) * temperature) * mass.draw(y, 1, generator)  # O
        y = y + h / 2 * mass.velocity(momentum, 1)  # A
        momentum = momentum - h / 2 * energy_and_grad(energy, y)[1]  # B
        path.append(y)
    return path


@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("name", ["correlated", "plane-mixture", "banana"])
def test_positions_are_those_of_baoab(mass, temperature, name):
    energy, y = PROBLEMS[name].energy, normal(5, 2)
    moving = UnderdampedLangevin(0.2, friction=0.8, mass=MASSES[mass], temperature=temperature)
    path = moving.trajectory(energy, y, steps=30, generator=seeded())
    expected = baoab(energy, y, 0.2, 0.8, Mass(MASSES[mass]), temperature, 30, seeded())
    for (state, _), there in zip(path, expected, strict=True):
        close(state.y, there)


def test_a_step_costs_one_gradient():
    calls = []
    UnderdampedLangevin(0.2, steps=7).sample(lambda y: (calls.append(1), quadratic(y))[1], normal(3, 2), generator=seeded())
    assert len(calls) == 7


def test_without_heat_it_comes_to_rest_at_the_minimum():
    y = UnderdampedLangevin(0.3, steps=300, friction=1.0, temperature=0.0).sample(quadratic, normal(4, 3))
    assert float(y.abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UnderdampedLangevin(friction=0.0), "friction=0"),
        (lambda: UnderdampedLangevin(temperature=-1.0), "temperature=-1"),
        (lambda: UnderdampedLangevin(mass=torch.tensor([1.0, -1.0])), "positive"),
        (lambda: UnderdampedLangevin(mass=torch.ones(3)).sample(quadratic, torch.ones(2, 2)), r"mass of shape \(3,\)"),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
