"""Basin hopping and cooling: what is kept is the lowest, what is drawn anew is a share, heat fades."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.samplers import BasinHopping, Cooled, GradientDescent, Linear, MirrorDescent, Monotone
from ebm.thinking import think
from tests.helpers import close, laws, normal, quadratic, seeded, seeds


def wells(y):
    return (y.square() - 1).square().sum((-2, -1)) + 0.3 * y.sum((-2, -1))


@laws
@given(seed=seeds, every=st.integers(1, 6), share=st.floats(0.2, 1.0))
def test_the_kept_state_never_rises_and_is_the_lowest_that_was_seen(seed, every, share):
    hopping = BasinHopping(GradientDescent(0.05, grad_clip=5.0), every, share)
    path = list(hopping.trajectory(wells, 2 * normal(4, 3, 2, seed=seed), steps=25, generator=seeded(seed)))
    for (state, _), (after, info) in pairwise(path):
        close(info.energy, wells(state.y))  # a step reports the energy of the state that it was taken from
        if state.energy is not None:
            assert bool((after.energy <= state.energy).all())
            close(state.energy, wells(state.y))


def test_a_share_of_the_positions_is_drawn_anew_at_each_hop():
    y = torch.full((200, 10, 3), 0.5, dtype=torch.float64)
    hopping = BasinHopping(GradientDescent(1e-9), every=1, share=0.3)
    state, _ = hopping.step(lambda y: y.sum((-2, -1)), hopping.init(quadratic, y), generator=seeded())
    anew = ((state.inner.y - y).abs() > 1e-6).float()
    assert torch.equal(anew[..., 0], anew[..., 2])  # a position's numbers together
    assert 0.25 < anew.mean().item() < 0.35


def test_fresh_starts_find_what_one_start_misses():
    start = 2 * torch.rand(60, 3, 1, generator=seeded(), dtype=torch.float64)  # all above the wrong well
    plain = GradientDescent(0.05).sample(wells, start, steps=200)
    hopped = BasinHopping(GradientDescent(0.05), 20, 1.0, 2.0).sample(wells, start, steps=200, generator=seeded())
    assert (wells(hopped) < wells(plain) - 1e-3).float().mean() > 0.9


def test_it_wraps_any_sampler_and_thinks():
    energy = lambda p: -(p[..., 0].log() + p[..., 1].log()).sum(-1)  # noqa: E731
    moving = BasinHopping(MirrorDescent(0.1), every=3, share=0.5)
    thought = think(energy, moving, None, normal(2, 5, 4, 2), candidates=2, steps=9, generator=seeded())
    assert thought.y.shape == (5, 4, 2)
    for how, message in (({"every": 0}, "every=0"), ({"share": 0.0}, "share=0"), ({"scale": 0.0}, "scale=0")):
        with pytest.raises(ValueError, match=message):
            BasinHopping(MirrorDescent(0.1), **how)


@laws
@given(seed=seeds, temperature=st.floats(0.5, 4.0))
def test_at_a_temperature_the_minimum_is_that_of_the_heated_energy(seed, temperature):
    costs = normal(4, seed=seed)
    free = lambda p: (p * (p.clamp(min=1e-35).log() + costs)).sum(-1)  # noqa: E731
    end = Cooled(MirrorDescent(0.3 / temperature, 200), temperature).sample(free, normal(2, 4, seed=seed + 1))
    close(end.softmax(-1), (-costs / temperature).softmax(-1).expand(2, 4), rtol=1e-6, atol=1e-8)


def test_energies_are_those_of_temperature_one_and_heat_fades():
    costs, y = normal(3), normal(2, 3)
    free = lambda p: (p * (p.log() + costs)).sum(-1)  # noqa: E731
    cooled = Cooled(MirrorDescent(0.2), Linear(3.0, 1.0, 5))
    path = list(cooled.trajectory(free, y, steps=12))
    for state, (_, info) in zip([y, *(state.y for state, _ in path)], path, strict=False):
        close(info.energy, free(state.softmax(-1)))
    late = MirrorDescent(0.2).sample(free, path[4][0].y, steps=7)
    close(path[-1][0].y, late)
    with pytest.raises(ValueError, match="temperature"):
        Cooled(MirrorDescent(0.2), 0.0)


def test_chains_of_single_numbers_hop_each_on_its_own():
    hopping = BasinHopping(GradientDescent(0.1), every=2, share=0.5)
    *_, (state, _) = hopping.trajectory(lambda y: (y - 5).square(), torch.zeros(1000), steps=2, generator=seeded())
    assert (state.inner.y != state.best).float().mean().item() == pytest.approx(0.5, abs=0.07)


def test_what_compares_energies_from_step_to_step_goes_around_a_heat_that_fades():
    """Energies of a hotter step are lower, so that nothing would be accepted on the way down."""
    costs, fades = torch.tensor([0.0, 1.0, 3.0]), Linear(3.0, 1.0, 20)
    free = lambda p: (p * (p.log() + costs)).sum(-1)  # noqa: E731
    for around in (Monotone, BasinHopping):
        with pytest.raises(ValueError, match=rf"put it around, as in {around.__name__}\(Cooled"):
            Cooled(around(MirrorDescent(0.5)), fades)
        around(Cooled(MirrorDescent(0.5), fades))
    end = Cooled(Monotone(MirrorDescent(0.5)), 2.0).sample(free, torch.zeros(1, 3), steps=60)
    close(end.softmax(-1), (-costs / 2).softmax(-1)[None], rtol=1e-2, atol=1e-3)
