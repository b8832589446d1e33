"""Parallel tempering crosses barriers, and stays exact; more of its moments are in test_moments."""

import pytest
import torch

from ebm.energies import DoubleWell
from ebm.samplers import MALA, Annealed, LangevinDynamics, ParallelTempering
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
