"""Laws of Annealed: temperatures and step scales against hand-written loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.samplers import MALA, Annealed, GradientDescent, LangevinDynamics, Monotone, ReplayAugmented
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds

positive = st.lists(st.floats(0.2, 5.0), min_size=1, max_size=4)
WELLS = (quadratic, lambda y: quadratic(y - 1), lambda y: 2 * quadratic(y + 1))
SLOPES = (lambda y: y, lambda y: y - 1, lambda y: 2 * (y + 1))


@laws
@given(positive, st.booleans(), seeds)
def test_temperatures_equal_the_loop(temperatures, scaled, seed):
    y, g = normal(4, 3, seed=seed), seeded(seed)
    gains = [1 / (1 + level) for level in range(len(temperatures))] if scaled else [1.0] * len(temperatures)
    expected, energies = y, []
    for temperature, gain in zip(temperatures, gains, strict=True):
        for _ in range(2):
            step_size = 0.1 * gain
            energies.append(quadratic(expected) / temperature)
            noise = torch.randn(4, 3, generator=g, dtype=torch.float64)
            expected = expected - step_size * expected / temperature + math.sqrt(2 * step_size) * noise
    moving = Annealed(LangevinDynamics(0.1, steps=2), temperatures, gains if scaled else ())
    path = list(moving.trajectory(quadratic, y, generator=seeded(seed)))
    assert len(path) == 2 * len(temperatures)
    for (_, info), energy in zip(path, energies, strict=True):
        close(info.energy, energy)
    close(path[-1][0].y, expected)


@laws
@given(st.tuples(*[st.floats(0.1, 3.0)] * 3), seeds, st.sampled_from(["none", "each", "last", "full"]))
def test_step_scales_equal_the_loop_in_value_and_in_gradient(gains, seed, unroll):
    step_size, y = parameter(0.1), normal(4, 3, seed=seed).requires_grad_()
    expected, taken = y, 0
    for slope, gain in zip(SLOPES, gains, strict=True):
        for _ in range(2):
            taken += 1
            expected = expected if unroll == "full" else expected.detach()
            expected = expected - gain * step_size * slope(expected)
            if unroll == "none" or (unroll == "last" and taken < 6):
                expected = expected.detach()
    moving = Annealed(GradientDescent(step_size, steps=2), step_scales=gains)
    end = moving.sample(list(WELLS), y, unroll=unroll)
    close(end, expected)
    if unroll != "none":
        for one, two in zip(grads(end.sum(), step_size, y), grads(expected.sum(), step_size, y), strict=True):
            close(one, two)


SCALED = Annealed(GradientDescent(0.1, steps=2), step_scales=[1.0, 0.5, 0.1])


@pytest.mark.parametrize("moving", [SCALED, MALA(0.3, steps=2), Monotone(GradientDescent(0.1, steps=2))])
@pytest.mark.parametrize("taken", [1, 3, 6])
def test_a_state_over_several_landscapes_brings_nothing_of_an_old_one_or_is_refused(moving, taken):
    """Neither the last landscape's step scale nor the energies cached on it belong to the first."""
    state = list(moving.trajectory(list(WELLS), normal(4, 3), generator=seeded()))[taken - 1][0]
    try:
        on = list(moving.trajectory(list(WELLS), state, generator=seeded(1)))
    except ValueError:
        return
    anew = list(moving.trajectory(list(WELLS), state.y, generator=seeded(1)))
    for (one, of_one), (two, of_two) in zip(on, anew, strict=True):
        close(of_one.energy, of_two.energy)
        close(one.y, two.y)


@pytest.mark.parametrize("wrap", [lambda s: ReplayAugmented(s, capacity=4), Monotone])
def test_annealing_works_inside_other_wrappers(wrap):
    moving, y = wrap(Annealed(GradientDescent(0.1, steps=2), temperatures=[4.0, 2.0, 1.0])), normal(4, 3)
    expected = y
    for temperature in (4.0, 4.0, 2.0, 2.0, 1.0, 1.0):
        expected = expected - 0.1 * expected / temperature
    close(moving.sample(quadratic, y), expected)


def test_annealing_works_around_other_wrappers():
    moving = Annealed(ReplayAugmented(GradientDescent(0.1, steps=2), capacity=4), temperatures=[2.0, 1.0], step_scales=[0.5, 1.0])
    y = normal(4, 3)
    close(moving.sample(quadratic, y), y * (1 - 0.025) ** 2 * 0.9**2)
    lowered = Annealed(Monotone(GradientDescent(0.1, steps=2)), temperatures=[2.0, 1.0])
    close(lowered.sample(quadratic, y), y * 0.95**2 * 0.9**2)


def test_two_annealings_are_both_followed_or_refused():
    inner = Annealed(GradientDescent(0.1, steps=1), temperatures=[4.0])
    y = normal(4, 3)
    try:
        end = Annealed(inner, step_scales=[0.5]).sample(quadratic, y)
    except ValueError:
        return
    close(end, y * (1 - 0.5 * 0.1 / 4))


def test_annealing_reaches_the_better_of_two_wells():
    """Colder and colder, chains that start in the wrong well cross over; at the last temperature alone they do not."""

    def energy(y):
        return 8 * ((y.squeeze(-1) ** 2 - 1) ** 2) + 2 * y.squeeze(-1)

    y = torch.ones(300, 1, dtype=torch.float64)
    plain = LangevinDynamics(0.005, steps=100)
    hot = Annealed(plain, temperatures=[8.0, 4.0, 2.0, 1.0], step_scales=[8.0, 4.0, 2.0, 1.0])
    crossed, stayed = ((s.sample(energy, y, generator=seeded()) < 0).double().mean() for s in (hot, plain))
    assert crossed > 0.6
    assert stayed < 0.2


def test_temperatures_scale_the_energies_of_parameters_too():
    energy, y = Valley(), normal(4, 2)
    end = Annealed(GradientDescent(0.1), temperatures=[2.0]).sample(energy, y, unroll="each")
    plain = GradientDescent(0.1).sample(energy / 2.0, y, unroll="each")
    for one, two in zip(grads(end.sum(), energy.inner), grads(plain.sum(), energy.inner), strict=True):
        close(one, two)


@pytest.mark.parametrize(
    ("keywords", "energies", "message"),
    [
        ({"temperatures": [1.0]}, list(WELLS), "single energy.*3 landscapes"),
        ({"step_scales": [1.0, 2.0]}, list(WELLS), "2 step_scales for 3 landscapes"),
        ({"step_scales": [1.0, 2.0]}, quadratic, "2 step_scales for 1 landscape"),
    ],
)
def test_landscapes_that_do_not_fit_are_refused_at_the_call(keywords, energies, message):
    with pytest.raises(ValueError, match=message):
        Annealed(GradientDescent(0.1), **keywords).trajectory(energies, normal(2, 2))


def test_arguments_that_cannot_work_are_refused():
    for keywords in ({"temperatures": [1.0, 0.0]}, {"step_scales": [-1.0]}, {"temperatures": [math.nan]}):
        with pytest.raises(ValueError, match="positive"):
            Annealed(GradientDescent(0.1), **keywords)
    with pytest.raises(ValueError, match="2 temperatures, but 1 step_scales"):
        Annealed(GradientDescent(0.1), [2.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="pass a Sampler"):
        Annealed(quadratic)
    with pytest.raises(ValueError, match="Monotone's state has no gain"):
        Annealed(Monotone(GradientDescent(0.1)), step_scales=[1.0]).trajectory(quadratic, normal(2, 2))


def test_there_is_one_number_of_steps():
    inner = GradientDescent(0.1, steps=3)
    moving = Annealed(inner)
    assert moving.steps == 3
    moving.steps = (1, 2)
    assert inner.steps == (1, 2)
