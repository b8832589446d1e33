"""Exact samplers refuse energies that are drawn anew at each call, and name them."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ebm.samplers import (
    HMC,
    MALA,
    NUTS,
    Annealed,
    LangevinDynamics,
    ParallelTempering,
    RandomWalk,
    ReplayAugmented,
    SliceSampler,
    TemperedTransitions,
    warm_up,
)
from tests.helpers import normal, quadratic, seeded


def dropout():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Dropout(0.2), nn.Linear(32, 1, bias=False)).double()
    return lambda y: quadratic(y) + layers(y).squeeze(-1)  # a closure hides the module


def minibatch():
    data, draw = normal(100, 2), np.random.default_rng(0)
    return lambda y: 10 * (y[..., None, :] - data[draw.integers(100, size=10)]).square().sum(-1).mean(-1)


def in_turn():
    parts = itertools.cycle(normal(100, 2).split(10))
    return lambda y: (y[..., None, :] - next(parts)).square().sum((-1, -2))


EXACT = {
    "mala": lambda: MALA(0.01, 3),
    "hmc": lambda: HMC(0.1, 3, leapfrog_steps=2),
    "nuts": lambda: NUTS(0.1, 3, max_depth=3),
    "random walk": lambda: RandomWalk(0.1, 3),
    "slice": lambda: SliceSampler(1.0, 3),
    "tempered transitions": lambda: TemperedTransitions(MALA(0.01), temperatures=(1.0, 2.0)),
    "tempered mala": lambda: ParallelTempering(MALA(0.01, 3)),
    "tempered langevin": lambda: ParallelTempering(LangevinDynamics(0.01, 3)),
    "annealed": lambda: Annealed(MALA(0.01, 3), temperatures=[2.0, 1.0]),
    "replay": lambda: ReplayAugmented(HMC(0.1, 3), 8),
}
every = pytest.mark.parametrize("name", EXACT)


@every
@pytest.mark.parametrize("make", [dropout, minibatch, in_turn])
def test_energies_that_are_drawn_anew_are_named(name, make):
    with pytest.raises(ValueError, match=r"accepts by differences of energies.* and then .*\(chain 0\).*draws anew.*eval\(\)"):
        EXACT[name]().sample(make(), normal(4, 2), generator=seeded())


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_energies_that_are_not_stay(name, dtype):
    y = 30 * normal(4, 2).to(dtype)
    assert bool(EXACT[name]().sample(lambda y: 1e4 * quadratic(y), y, generator=seeded()).isfinite().all())


def test_a_landscape_that_changes_between_walks_is_no_draw():
    """A model in training, between the batches of contrastive divergence."""
    heights = iter([1.0, 2.0])
    for height in heights:
        MALA(0.01, 3).sample(lambda y, height=height: height * quadratic(y), normal(4, 2), generator=seeded())


def test_one_chain_of_many_is_enough_and_warm_up_refuses_too():
    draw = seeded()

    def energy(y):
        return quadratic(y) + (torch.arange(4) == 2) * torch.rand((), generator=draw)

    with pytest.raises(ValueError, match=r"\(chain 2\)"):
        MALA(0.01).sample(energy, normal(4, 2))
    with pytest.raises(ValueError, match="draws anew"):
        warm_up(HMC(0.1), energy, normal(4, 2), steps=20)


def test_samplers_that_bear_noise_take_them():
    for make in (dropout, minibatch, in_turn):
        assert LangevinDynamics(1e-3, 5).sample(make(), normal(4, 2), generator=seeded()).shape == (4, 2)
