"""Laws of the step size: numbers, tensors per chain, parameters, schedules, and the errors of each."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.samplers import (
    HMC,
    MALA,
    NUTS,
    Cooled,
    Cosine,
    GradientDescent,
    LangevinDynamics,
    Linear,
    MirrorDescent,
    PreconditionedLangevin,
    RandomWalk,
    RMSpropLangevin,
    SliceSampler,
    SteinVariational,
    UnderdampedLangevin,
)
from ebm.samplers.stepping import std_of
from tests.helpers import close, gradient, laws, normal, quadratic, seeded, seeds

KINDS = (GradientDescent, LangevinDynamics, MALA)


@laws
@given(st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple), seeds)
def test_a_step_size_per_chain_broadcasts_from_the_left(chains, seed):
    sizes = normal(*chains, seed=seed).abs() + 0.01
    y = normal(*chains, 3, 2, seed=seed + 1)
    moved = GradientDescent(sizes).sample(lambda y: y.square().sum((-2, -1)) / 2, y)
    for index in range(math.prod(chains)):
        close(moved.reshape(-1, 3, 2)[index], (1 - sizes.flatten()[index]) * y.reshape(-1, 3, 2)[index])


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_takes_a_step_size_per_chain(kind):
    y = torch.ones(2, 4000, 3, dtype=torch.float64)
    sizes = torch.tensor([1e-4, 1e-2], dtype=torch.float64)[:, None].expand(2, 4000)
    moved = (kind(sizes, steps=1).sample(quadratic, y, generator=seeded()) - y).square().mean((1, 2)).sqrt()
    ratio = 100 if kind is GradientDescent else 10  # a step of ε, or noise of √(2ε)
    assert (moved[1] / moved[0]).item() == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 3), (3, 2)])
def test_a_step_size_of_another_shape_is_refused(kind, shape):
    with pytest.raises(ValueError, match=r"step_size shape .* chains' \(3,\)"):
        kind(torch.full(shape, 0.1), steps=1).sample(quadratic, torch.ones(3, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, -0.1, math.nan, math.inf, torch.tensor([0.1, 0.0]), torch.tensor(-1.0), None, "big"])
def test_step_sizes_that_cannot_work_are_refused(kind, size):
    with pytest.raises(ValueError):
        kind(size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("keywords", "message"), [({"steps": -1}, "steps=-1"), ({"steps": (3, 1)}, "steps="), ({"step_scale": 0.5}, "step_scale=0.5")]
)
def test_other_arguments_that_cannot_work_are_refused(kind, keywords, message):
    with pytest.raises(ValueError, match=message):
        kind(0.1, **keywords)


def test_a_step_scale_or_a_clip_that_is_no_number_is_refused():
    for keywords in ({"step_scale": math.nan}, {"step_scale": math.inf}, {"grad_clip": 0.0}, {"grad_clip": math.nan}):
        with pytest.raises(ValueError):
            GradientDescent(0.1, **keywords)
    with pytest.raises(ValueError, match="cannot be learnable"):
        GradientDescent(lambda t: 0.1, learnable=True)


@pytest.mark.parametrize("kind", [GradientDescent, LangevinDynamics])
def test_a_learnable_step_size_is_a_parameter_and_a_buffer_is_saved(kind):
    given_parameter = nn.Parameter(torch.tensor(0.25))
    for moving in (kind(0.25, learnable=True), kind(torch.tensor(0.25), learnable=True), kind(given_parameter)):
        assert [name for name, _ in moving.named_parameters()] == ["step_size"]
        assert moving.step_size.item() == 0.25
    assert kind(given_parameter).step_size is given_parameter
    held = kind(torch.tensor([0.1, 0.2]))
    assert list(held.state_dict()) == ["step_size"]
    assert not list(held.parameters())
    assert not list(kind(0.1).state_dict())


def test_a_learnable_step_size_keeps_the_precision_it_was_given_in():
    moving = GradientDescent(torch.tensor(0.1, dtype=torch.float64), learnable=True)
    assert moving.step_size.dtype == torch.float64


def test_a_learned_step_size_stays_positive():
    moving, y = GradientDescent(0.1, learnable=True), torch.ones(3, 2)
    with torch.no_grad():
        moving.step_size.fill_(-5.0)
    moved = y - moving.sample(quadratic, y)
    close(moved, torch.full_like(y, 1e-4), rtol=1e-2)


@laws
@given(st.floats(1e-3, 0.1), st.floats(0.1, 2.0), seeds)
def test_steps_follow_a_schedule_of_the_steps_taken(first, ratio, seed):
    y, expected = normal(3, 2, seed=seed), normal(3, 2, seed=seed)
    for t in range(4):
        expected = expected - first * ratio**t * expected
    moving = GradientDescent(lambda t: first * ratio**t, steps=4)
    close(moving.sample(quadratic, y), expected)
    close(moving.sample([quadratic, quadratic], y, steps=2), expected)  # t goes on over landscapes
    *_, (half, _) = moving.trajectory(quadratic, y, steps=2)
    close(moving.sample(quadratic, half, steps=2), expected)  # and over trajectories


TAKES = {
    "step_size": [
        lambda s: GradientDescent(s, steps=4),
        lambda s: MirrorDescent(s, steps=4),
        lambda s: LangevinDynamics(s, steps=4),
        lambda s: UnderdampedLangevin(s, steps=4),
        lambda s: PreconditionedLangevin(1.0, s, steps=4),
        lambda s: RMSpropLangevin(s, steps=4),
        lambda s: MALA(s, steps=4),
        lambda s: HMC(s, leapfrog_steps=2, steps=4),
        lambda s: NUTS(s, steps=4),
        lambda s: RandomWalk(s, steps=4),
        lambda s: SliceSampler(s, steps=4),
        lambda s: SteinVariational(s, steps=4),
    ],
    "noise_std": [lambda s: GradientDescent(0.1, steps=4, noise_std=s), lambda s: LangevinDynamics(0.1, steps=4, noise_std=s)],
    "temperature": [
        lambda s: LangevinDynamics(0.1, steps=4, temperature=s),
        lambda s: UnderdampedLangevin(0.1, steps=4, temperature=s),
        lambda s: PreconditionedLangevin(1.0, 0.1, steps=4, temperature=s),
        lambda s: RMSpropLangevin(0.1, steps=4, temperature=s),
    ],
    "temperature above 0": [
        lambda s: MALA(0.1, steps=4, temperature=s),
        lambda s: HMC(0.1, leapfrog_steps=2, steps=4, temperature=s),
        lambda s: RandomWalk(0.1, steps=4, temperature=s),
        lambda s: SliceSampler(0.1, steps=4, temperature=s),
        lambda s: Cooled(MirrorDescent(0.1, steps=4), temperature=s),
    ],
}
takes = pytest.mark.parametrize(("what", "make"), [(what, make) for what, makes in TAKES.items() for make in makes])


@takes
@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, True, "0.1", None])
def test_a_schedule_that_gives_no_such_number_stops_at_that_step(what, make, bad):
    """A negative step climbs, a negative temperature samples exp(+E), and tested chains would stand still at NaN."""
    for wrong in (bad, 0.0) if "above" in what else (bad,):
        moving = make(lambda t, wrong=wrong: wrong if t == 2 else 1.0 if "above" in what else 0.01)
        path = moving.trajectory(quadratic, normal(3, 2), generator=seeded())
        next(path)
        next(path)
        with pytest.raises(ValueError, match=f"gives {wrong!r} at step 2: pass one whose numbers are finite and"):
            next(path)


@takes
def test_a_schedule_with_an_end_below_zero_is_refused_when_made(what, make):
    with pytest.raises(ValueError, match=rf"{what.split()[0]}=Linear\(start=1.0, end=-0.1, steps=9\): pass .* at both ends"):
        make({"schedule": "linear", "start": 1.0, "end": -0.1, "steps": 9})
    with pytest.raises(ValueError, match="at both ends"):
        make(Cosine(-1.0, 1.0, steps=2))
    if "above" in what:
        with pytest.raises(ValueError, match="at both ends"):
            make(Linear(1.0, 0.0, steps=2))
    else:
        make(Linear(0.1, 0.0, steps=2)).sample(quadratic, normal(3, 2), generator=seeded())  # may end at 0


@pytest.mark.parametrize("kind", [GradientDescent, LangevinDynamics])
@laws
@given(seed=seeds, clip=st.floats(0.05, 2.0))
def test_a_clip_bounds_every_entry(kind, seed, clip):
    y = normal(4, 3, seed=seed)
    without_noise = {"temperature": 0.0} if kind is LangevinDynamics else {}
    moved = y - kind(0.5, steps=1, grad_clip=clip, **without_noise).sample(quadratic, y)
    close(moved, 0.5 * torch.tensor([[max(-clip, min(clip, x)) for x in row] for row in y.tolist()], dtype=torch.float64))


def test_a_step_size_made_by_a_network_carries_its_gradient():
    slope = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def ended(value):
        return GradientDescent(lambda t: value / (1 + t), steps=3).sample(quadratic, normal(3, 2), unroll="each").sum()

    moving = GradientDescent(lambda t: slope / (1 + t), steps=3)
    end = moving.sample(quadratic, normal(3, 2), unroll="full").sum()
    close(torch.autograd.grad(end, slope)[0], gradient(lambda v: ended(v).item(), slope), rtol=1e-6)


def test_samplers_can_be_copied_and_say_what_they_are():
    for kind in KINDS:
        moving = copy.deepcopy(kind(0.5, steps=(2, 3), step_scale=2.0))
        assert moving.steps == (2, 3)
        assert "step_size=0.5" in repr(moving)
        assert moving.sample(quadratic, normal(3, 2), generator=seeded()).shape == (3, 2)


def test_the_noise_of_langevin_dynamics():
    assert std_of(0.5, 4.0) == 2.0
    close(std_of(torch.tensor(0.5), 4.0), torch.tensor(2.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_leaves_nothing_on_the_sampler(kind):
    moving = kind(0.1, steps=3, step_scale=2.0)
    before = {key: repr(value) for key, value in vars(moving).items()}
    moving.sample(quadratic, normal(3, 2), generator=seeded())
    assert {key: repr(value) for key, value in vars(moving).items()} == before


@pytest.mark.parametrize(
    ("what", "make"), [(what.split()[0], make) for what, makes in TAKES.items() for make in makes if what != "step_size"]
)
@pytest.mark.parametrize("bad", [torch.ones(3), math.inf, math.nan, "0.1"])
def test_what_is_no_number_for_all_chains_is_refused_when_made(what, make, bad):
    """A temperature for each chain would spread over the event's axes, and an infinite one make chains stand still."""
    with pytest.raises(ValueError, match=what):
        make(bad)
