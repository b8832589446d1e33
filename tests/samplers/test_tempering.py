"""Parallel tempering crosses barriers, and stays exact; more of its moments are in test_moments."""

import pytest
import torch

from ebm.energies import DoubleWell, GaussianMixture
from ebm.samplers import (
    HMC,
    MALA,
    NUTS,
    Annealed,
    LangevinDynamics,
    Monotone,
    ParallelTempering,
    PreconditionedLangevin,
    ReplayAugmented,
    RMSpropLangevin,
    UnderdampedLangevin,
)
from tests.helpers import quadratic, seeded

WELLS = DoubleWell(dim=1, barrier=7.0).double()


def in_the_right_well(sampler, start):
    end = sampler.sample(WELLS, start, generator=seeded(3))
    return end, (end > 0).double().mean().item()


def test_tempering_crosses_barriers_that_its_sampler_does_not():
    left, ladder = torch.full((2000, 1), -1.0, dtype=torch.float64), (1.0, 2.0, 4.0, 8.0)
    for inner in (MALA(step_size=0.04, steps=400), LangevinDynamics(step_size=0.01, steps=1200)):
        assert in_the_right_well(inner, left)[1] < 0.2
        share = in_the_right_well(ParallelTempering(inner, ladder), left)[1]
        assert abs(share - 0.5) < 4 * (0.25 / 2000) ** 0.5


def test_tempered_mala_is_exact():
    start = WELLS.sample(4000, generator=seeded())
    end, share = in_the_right_well(ParallelTempering(MALA(step_size=0.04, steps=60), (1.0, 2.0, 5.0)), start)
    exact = WELLS.sample(200_000, generator=seeded(1))
    assert abs(share - 0.5) < 4 * (0.25 / 4000) ** 0.5
    for statistic in (WELLS, lambda y: y.square()[:, 0], lambda y: y.abs()[:, 0]):
        error = statistic(exact).std() / 4000**0.5
        assert abs(statistic(end).mean() - statistic(exact).mean()) < 4 * error


def test_what_an_inner_state_keeps_belongs_to_its_replica():
    tempered = ParallelTempering(MALA(step_size=0.04), (1.0, 2.0, 5.0))
    temperatures = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    exchanged, before = 0, None
    for state, info in tempered.trajectory(WELLS, torch.full((50, 1), -1.0, dtype=torch.float64), steps=30, generator=seeded()):
        assert state.y.shape == (50, 1)
        assert info.accepted.shape == info.energy.shape == (50,)
        if state.inner.energy is not None:
            torch.testing.assert_close(state.inner.energy, WELLS(state.inner.y) / temperatures[:, None])
        if before is not None:
            torch.testing.assert_close(info.energy, WELLS(before.y))
        exchanged, before = exchanged + int(info.accepted.sum()), state
    assert exchanged > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ParallelTempering(MALA(), (2.0, 1.0)), "rising from 1"),
        (lambda: ParallelTempering(MALA(), (1.0,)), "at least two"),
        (
            lambda: ParallelTempering(Annealed(MALA(), temperatures=[2.0, 1.0])).sample(quadratic, torch.ones(2, 2)),
            "other way round",
        ),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_hot_replica_that_is_not_finite_stops_the_run():
    def steep(y):  # a hot replica falls off where the cold one does not get to
        return torch.where(y[..., 0].abs() > 3, torch.nan, y.square().sum(-1) * 8)

    start = torch.zeros(5, 1, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="chain"):
        ParallelTempering(LangevinDynamics(0.02, steps=500), (1.0, 40.0)).sample(steep, start, generator=seeded())


# ------------------------------------------------------------------------------------------------ replicas' own step sizes

CENTRES = 8.0 * torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)) - 16
GRID = GaussianMixture(CENTRES, torch.eye(2).expand(25, 2, 2).clone())
LADDER = (1.0, 2.5, 6.0, 15.0, 40.0)


def unevenness(inner, chains=250, **how):
    """Pearson's χ² of modes' counts, per degree of freedom: 1 ± 0.29 for independent draws."""
    start = CENTRES[:1].expand(chains, 2)  # all in one corner
    end = ParallelTempering(inner, LADDER, **how).sample(GRID, start, steps=400, generator=seeded())
    counts = torch.cdist(end, CENTRES).argmin(1).bincount(minlength=25)
    return ((counts - chains / 25).square() / (chains / 25)).sum().item() / 24


def test_hot_replicas_with_longer_steps_weigh_modes_that_lie_apart():
    assert unevenness(MALA(0.5)) < 2
    assert unevenness(MALA(0.5), step_scales=[1.0] * 5) > 5


@pytest.mark.parametrize(("inner", "power"), [(LangevinDynamics(0.1), 1), (UnderdampedLangevin(0.4), 0.5)], ids=["ula", "baoab"])
def test_samplers_without_a_test_gain_less_unless_told(inner, power):
    one, usual, told = (unevenness(inner, step_scales=s) for s in ([1.0] * 5, None, [t**power for t in LADDER]))
    assert told < 2.5
    assert told < usual < one / 2


@pytest.mark.parametrize(
    ("inner", "power"),
    [
        (MALA(0.1), 1),
        (LangevinDynamics(0.1), 0.5),
        (PreconditionedLangevin(2.0, 0.1), 0.5),
        (HMC(0.1), 0.5),
        (NUTS(0.1), 0.5),
        (UnderdampedLangevin(0.1), 0.25),
        (RMSpropLangevin(0.1), 0.25),
        (ReplayAugmented(Monotone(HMC(0.1)), 8), 0.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_steps_grow_by_the_temperature_or_its_root(inner, power):
    tempered = ParallelTempering(inner, (1.0, 4.0, 9.0))
    assert tempered.scales == (1.0, 4.0**power, 9.0**power)
    assert ParallelTempering(inner, (1.0, 4.0), step_scales=[1, 3]).scales == (1.0, 3.0)
    for state, _ in tempered.trajectory(quadratic, torch.ones(6, 2), steps=3, generator=seeded()):
        walked = state.inner
        while not hasattr(walked, "gain"):
            walked = walked.inner
        assert walked.gain == 1.0  # a multiplier stays with its replica, and out of what is exchanged or saved


def test_each_replica_is_a_walk_with_its_own_step_size():
    inner, y = LangevinDynamics(0.1, temperature=0.0), torch.ones(6, 2)
    for scale in (1.0, 4.0):  # of a landscape at T = 4, whose drift is a fourth
        tempered = ParallelTempering(inner, (1.0, 4.0), step_scales=(1.0, scale))
        ((state, _),) = tempered.trajectory(lambda y: y.sum(-1), y, steps=1, generator=seeded())
        found = {round(value, 4) for value in state.inner.y.flatten().tolist()}
        assert found == {0.9, 1 - 0.1 * scale / 4}


def test_step_scales_that_do_not_fit_are_refused():
    for scales in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="a positive one for each of 2 temperatures"):
            ParallelTempering(MALA(), (1.0, 2.0), step_scales=scales)
