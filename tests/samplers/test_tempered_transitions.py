"""Tempered transitions: Neal's acceptance by hand, its law on separated modes, and what is not reversible."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import ScaledEnergy
from ebm.samplers import HMC, MALA, NUTS, Annealed, LangevinDynamics, RandomWalk, SliceSampler, TemperedTransitions
from tests.helpers import Valley, close, laws, normal, quadratic, seeded, seeds


def wells(y):
    """Two wells at ±1 with a barrier of 8, the right one deeper by 1 nat."""
    return 8 * (y.square().sum(-1) - 1) ** 2 - y.sum(-1).tanh() / 2


@pytest.mark.parametrize(
    "inner",
    [
        RandomWalk(0.5),
        MALA(0.02),
        HMC(0.15, leapfrog_steps=2),
        SliceSampler(0.5),
        pytest.param(NUTS(0.2, max_depth=3), marks=pytest.mark.slow),
    ],
    ids=["random-walk", "mala", "hmc", "slice", "nuts"],
)
def test_wells_are_visited_by_their_weight(inner):
    grid = torch.linspace(-3, 3, 20001, dtype=torch.float64)[:, None]
    weight = (-wells(grid)).exp()
    share = float(weight[grid[:, 0] > 0].sum() / weight.sum())
    moving = TemperedTransitions(inner, (1.0, 1.6, 2.5, 4.0, 6.5))
    path = moving.trajectory(wells, torch.full((2000, 1), -1.0, dtype=torch.float64), steps=100, generator=seeded())
    *_, (state, info) = path
    assert 0.05 < info.accepted.double().mean() < 0.95
    found = (state.y > 0).double().mean().item()
    assert abs(found - share) < 4.5 * math.sqrt(share * (1 - share) / 2000)


@laws
@given(seeds, st.integers(1, 2))
def test_the_acceptance_is_neals(seed, moves):
    """A step by hand: the same draws through the same levels, with the product of density ratios written out."""
    energy, y, temperatures = Valley(), normal(6, 2, seed=seed), (1.0, 1.7, 3.0)
    inner, g = RandomWalk(0.8), seeded(seed)

    def density(x, i):
        return -energy(x) / temperatures[i]

    def moved(x, i):
        level = RandomWalk(0.8 * math.sqrt(temperatures[i]), steps=moves)
        return level.sample(ScaledEnergy(energy, 1 / temperatures[i]), x, generator=g)

    start = inner.sample(energy, y, steps=1, generator=g)
    up = [start]
    for i in (1, 2):
        up.append(moved(up[-1], i))
    down = [up[-1]]
    for i in (2, 1):
        down.insert(0, moved(down[0], i))
    log_ratio = sum(density(up[i], i + 1) - density(up[i], i) + density(down[i], i) - density(down[i], i + 1) for i in (0, 1))
    accepted = torch.rand(6, generator=g, dtype=torch.float64).log() < log_ratio
    expected = torch.where(accepted[:, None], down[0], start)
    moving = TemperedTransitions(inner, temperatures, moves)
    ((state, info),) = moving.trajectory(energy, y, steps=1, generator=seeded(seed))
    close(state.y, expected)
    assert torch.equal(info.accepted, accepted)


@laws
@given(seeds)
def test_the_cache_is_the_energy_and_gradient_at_y(seed):
    for state, info in TemperedTransitions(MALA(0.5)).trajectory(
        quadratic, normal(5, 2, seed=seed), steps=3, generator=seeded(seed)
    ):
        close(state.energy, quadratic(state.y))
        close(state.grad, state.y)
        assert info.accepted.shape == (5,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TemperedTransitions(LangevinDynamics(0.1)), "LangevinDynamics is not reversible"),
        (lambda: TemperedTransitions(MALA(0.1, temperature=2.0)), "at temperature 1"),
        (lambda: TemperedTransitions(MALA(lambda t: 0.1 / (1 + t))), "scheduled step_size"),
        (lambda: TemperedTransitions(Annealed(MALA(0.1))), "Annealed is not reversible"),
        (lambda: TemperedTransitions(MALA(0.1), (1.0,)), "at least two"),
        (lambda: TemperedTransitions(MALA(0.1), (2.0, 4.0)), "rising from 1"),
        (lambda: TemperedTransitions(MALA(0.1), (1.0, 4.0, 2.0)), "rise from 1"),
        (lambda: TemperedTransitions(MALA(0.1), (1.0, math.inf)), "finite"),
        (lambda: TemperedTransitions(MALA(0.1), moves=0), "moves=0"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
