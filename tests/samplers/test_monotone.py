"""Laws of Monotone: the energy never rises, and what is rejected leaves its chain as it was."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.samplers import GradientDescent, LangevinDynamics, Monotone
from tests.helpers import Valley, close, laws, normal, quadratic, seeded, seeds
from tests.problems import PROBLEMS

INNER = {
    "langevin": lambda size: LangevinDynamics(size, steps=6),
    "descent": lambda size: GradientDescent(size, steps=6),
    "momentum": lambda size: GradientDescent(size, steps=6, momentum=0.9),
    "softmax": lambda size: GradientDescent(size, steps=6, retraction="softmax", noise_std=0.5),
}


@pytest.mark.parametrize("inner", INNER)
@laws
@given(size=st.floats(0.01, 3.0), seed=seeds, name=st.sampled_from(sorted(PROBLEMS)))
def test_the_energy_never_rises_whatever_the_step(inner, size, seed, name):
    energy, y = PROBLEMS[name].energy, PROBLEMS[name].sample(5, seeded(seed))
    moving = Monotone(INNER[inner](size))
    before, state = energy(moving.point(y)), y
    for state, info in moving.trajectory(energy, y, generator=seeded(seed)):
        after = energy(moving.point(state.y))
        assert bool((after <= before).all())
        close(info.energy, before)
        close(state.energy, after)
        assert torch.equal(after < before, info.accepted)
        before = after


@pytest.mark.parametrize("inner", INNER)
def test_a_rejected_chain_keeps_its_raw_state(inner):
    moving, y = Monotone(INNER[inner](5.0)), normal(40, 3)
    previous, rejected = y, 0
    for state, info in moving.trajectory(quadratic, y, generator=seeded()):
        assert torch.equal(state.y[~info.accepted], previous[~info.accepted])
        previous, rejected = state.y, rejected + int((~info.accepted).sum())
    assert rejected > 0


@settings(laws, max_examples=30)
@given(st.sampled_from([0.0, 0.5, 0.9]), st.floats(0.3, 4.0), seeds)
def test_it_equals_the_loop_chain_by_chain(momentum, size, seed):
    energy, y = Valley(), normal(6, 2, seed=seed)
    expected = []
    for row in y:
        velocity = torch.zeros_like(row)
        for _ in range(5):
            point = row.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(point), point)
            tried = momentum * velocity + slope
            if energy(row - size * tried) < energy(row):
                row, velocity = row - size * tried, tried
        expected.append(row)
    moving = Monotone(GradientDescent(size, steps=5, momentum=momentum))
    close(moving.sample(energy, y), torch.stack(expected), rtol=1e-7)


def test_a_rejected_chain_keeps_its_velocity_too():
    """A hill lies at one step's length, at one and a half there is none: momentum of a rejected step would leap over it."""

    def hill(y):
        return (-y + 10 * (-((y - 1) ** 2) / 0.02).exp()).sum(-1)

    y = torch.zeros(1, 1, dtype=torch.float64)
    path = list(Monotone(GradientDescent(1.0, steps=4, momentum=0.5)).trajectory(hill, y))
    assert not any(bool(info.accepted) for _, info in path)
    assert torch.equal(path[-1][0].y, y)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_proposal_that_is_not_finite_is_rejected(bad):
    def energy(y):
        return torch.where(y[:, 0] < 0.5, bad, quadratic(y))

    y = torch.tensor([[1.0, 0.0], [8.0, 0.0]], dtype=torch.float64)
    path = list(Monotone(GradientDescent(0.6, steps=2)).trajectory(energy, y))
    assert [info.accepted.tolist() for _, info in path] == [[False, True], [False, True]]
    close(path[-1][0].y, torch.tensor([[1.0, 0.0], [1.28, 0.0]], dtype=torch.float64))


def test_noise_tries_elsewhere_after_a_rejection():
    moving = Monotone(LangevinDynamics(0.5, steps=40))
    path = [info.accepted for _, info in moving.trajectory(quadratic, normal(20, 1) / 2, generator=seeded())]
    accepted = torch.stack(path)
    later = accepted.cummax(0).values & ~accepted
    assert bool((~accepted).any(0).all())  # every chain was rejected once
    assert bool((later[:-1] & accepted[1:]).any())  # and some went on after that


def test_a_new_landscape_is_compared_with_itself():
    """The second landscape lies far above the first: a cached energy of the first would reject everything."""
    moving, y = Monotone(GradientDescent(0.1, steps=3)), normal(4, 2)
    path = list(moving.trajectory([quadratic, lambda y: quadratic(y) + 100], y))
    assert all(bool(info.accepted.all()) for _, info in path)
    close(path[3][1].energy, quadratic(path[2][0].y) + 100)


@laws
@given(size=st.floats(0.01, 30.0), seed=seeds, name=st.sampled_from(sorted(PROBLEMS)), momentum=st.sampled_from([0.0, 0.7]))
def test_halved_steps_are_the_longest_that_lower_the_energy(size, seed, name, momentum):
    energy, y = PROBLEMS[name].energy, PROBLEMS[name].sample(5, seeded(seed))
    descent = GradientDescent(size, steps=1, momentum=momentum)
    found = Monotone(descent, halvings=6).sample(energy, y)
    whole = descent.sample(energy, y)
    for start, end, got in zip(y, whole, found, strict=True):
        tried = [start + (end - start) / 2**k for k in range(7)]
        expected = next((row for row in tried if bool(energy(row[None]) < energy(start[None]))), start)
        close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("start", "calls"), [([[0.0, 0.0]], 3), ([[1.0, 0.0]], 3 + 4), ([[0.0, 0.0], [1.0, 0.0]], 3 + 4)])
def test_a_chain_that_its_step_does_not_move_is_not_halved(start, calls):
    """Before, with gradient, and after; for a step that is 20 times too long four halvings more, until it is 1.25."""
    called = []

    def bowl(y):
        called.append(len(y))
        return (y**2).sum(-1) / 2

    y = torch.tensor(start, dtype=torch.float64)
    found = Monotone(GradientDescent(20.0, steps=1), halvings=6).sample(bowl, y)
    assert len(called) == calls
    close(found, torch.where(y == 1, -0.25, y))


def test_a_step_beyond_the_finite_numbers_is_halved_too():
    def walled(y):
        return torch.where(y.abs() < 1, y.square(), torch.inf).sum(-1)

    y = torch.full((1, 1), 0.9, dtype=torch.float64)
    assert torch.equal(Monotone(GradientDescent(2.0, steps=1)).sample(walled, y), y)
    close(Monotone(GradientDescent(2.0, steps=1), halvings=2).sample(walled, y), y - 0.9)
    with pytest.raises(ValueError, match="halvings=-1: pass how often"):
        Monotone(GradientDescent(0.1), halvings=-1)
