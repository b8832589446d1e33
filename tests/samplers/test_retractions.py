"""Laws of retractions: their values, their names, and where they may come from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm import Batch, think
from ebm.objectives import ContrastiveDivergence
from ebm.samplers import (
    Annealed,
    BasinHopping,
    GradientDescent,
    LangevinDynamics,
    Monotone,
    ParallelTempering,
    PredictorCorrector,
    ReplayAugmented,
    clamp,
    softmax,
)
from ebm.samplers.retractions import RETRACTIONS, as_retraction, is_projection
from tests.helpers import close, laws, normal, quadratic, seeded, seeds


@laws
@given(seeds, st.floats(-2, 0), st.floats(0.1, 2))
def test_values(seed, low, width):
    y = 2 * normal(3, 4, seed=seed)
    close(softmax(y), y.exp() / y.exp().sum(-1, keepdim=True))
    clipped = [[max(low, min(low + width, x)) for x in row] for row in y.tolist()]
    close(clamp(low, low + width)(y), torch.tensor(clipped, dtype=torch.float64))


def test_names_and_functions():
    assert as_retraction(None) is None
    assert as_retraction(torch.tanh) is torch.tanh
    y = 3 * normal(3, 4)
    close(as_retraction("softmax")(y), softmax(y))
    close(as_retraction("clamp")(y), y.clamp(-1, 1))
    with pytest.raises(ValueError, match=f"'sphere'.*{', '.join(RETRACTIONS)}"):
        as_retraction("sphere")


@pytest.mark.parametrize("kind", [GradientDescent, LangevinDynamics])
def test_a_sampler_takes_its_energies_at_the_retracted_point(kind):
    seen = []

    def energy(y):
        seen.append(y.detach().clone())
        return quadratic(y)

    moving, y = kind(0.5, steps=3, retraction=clamp(-0.1, 0.1)), normal(5, 2)
    path = list(moving.trajectory(energy, y, generator=seeded()))
    for state, point in zip([y, *(state.y for state, _ in path)], seen, strict=False):
        close(point, state.clamp(-0.1, 0.1))
        close(moving.point(state), point)


# ------------------------------------------------------------------------------------------- samples lie within their bounds


def slope(y):
    return -3 * y.sum(-1)  # it falls without end


def langevin(retraction):
    return LangevinDynamics(0.5, steps=6, noise_std=2.0, retraction=retraction)


BOUNDED = {
    "descent": lambda r: GradientDescent(0.9, steps=6, retraction=r),
    "descent with momentum and noise": lambda r: GradientDescent(0.9, steps=6, momentum=0.5, noise_std=3.0, retraction=r),
    "langevin": langevin,
    "annealed": lambda r: Annealed(langevin(r), temperatures=[4.0, 1.0], step_scales=[2.0, 1.0]),
    "replay": lambda r: ReplayAugmented(langevin(r), capacity=8),
    "monotone": lambda r: Monotone(langevin(r)),
    "hopping": lambda r: BasinHopping(langevin(r), every=2, scale=9.0),
    "tempering": lambda r: ParallelTempering(langevin(r), (1.0, 3.0)),
    "predictor-corrector": lambda r: PredictorCorrector(langevin(r), [3.0, 1.0]),
}
every = pytest.mark.parametrize("name", BOUNDED)


def visited(moving, y, **how):
    energies = [slope, slope] if isinstance(moving, PredictorCorrector) else slope
    states = [state.y for state, _ in moving.trajectory(energies, y, generator=seeded(), **how)]
    return [*states, moving.sample(energies, y, generator=seeded(), **how), moving.sample(energies, y, steps=0)]


@every
@laws
@given(low=st.floats(-3, 3), width=st.floats(0.01, 4), seed=seeds, as_tensor=st.booleans())
def test_states_and_samples_lie_within_the_bounds(name, low, width, seed, as_tensor):
    ends = torch.tensor([[low, low - 1], [low + width, low + width]], dtype=torch.float64)
    moving = BOUNDED[name](clamp(*ends) if as_tensor else clamp(low, low + width))
    floor = ends[0] if as_tensor else low
    for y in visited(moving, 5 * normal(3, 2, seed=seed)):
        assert bool(((y >= floor) & (y <= low + width)).all())
        assert torch.equal(moving.point(y), y)


@every
@pytest.mark.parametrize(
    "retract", [torch.relu, lambda y: torch.nn.functional.normalize(y, dim=-1), lambda y: y.clamp(max=0.5), "clamp"]
)
def test_a_projection_of_ones_own_bounds_states_too(name, retract):
    moving = BOUNDED[name](retract)
    for y in visited(moving, 5 * normal(3, 2)):
        close(as_retraction(retract)(y), y)


@every
@pytest.mark.parametrize("retract", ["softmax", softmax, torch.tanh, torch.sigmoid])
def test_other_retractions_keep_raw_states(name, retract):
    start = torch.zeros(3, 2, dtype=torch.float64)  # whose softmax is even, so that another softmax would not change it
    *states, end, still = visited(BOUNDED[name](retract), start)
    assert torch.equal(still, start)
    assert torch.equal(end, states[-1])
    assert any(not torch.equal(as_retraction(retract)(y), y) for y in states)
    assert any(bool((y.sum(-1) - 1).abs().max() > 0.1) for y in states)


def test_the_walk_is_the_one_that_projects_before_each_step():
    """What is new is where states are kept: the points at which energies are taken are those of the loop."""
    y, points, g = 3 * normal(4, 2), [], seeded()
    for _ in range(5):
        point = y.clamp(-0.5, 0.7)
        points.append(point)
        y = point - 0.3 * (point - 2) + 0.6**0.5 * torch.randn(4, 2, generator=g, dtype=torch.float64)
    seen = []

    def energy(y):
        seen.append(y.detach().clone())
        return (y - 2).square().sum(-1) / 2

    end = LangevinDynamics(0.3, steps=5, retraction=clamp(-0.5, 0.7)).sample(energy, 3 * normal(4, 2), generator=seeded())
    for got, expected in zip([*seen, end], [*points, y.clamp(-0.5, 0.7)], strict=True):
        close(got, expected)


def test_thoughts_buffers_and_samples_of_an_objective_lie_inside():
    replay = ReplayAugmented(langevin(clamp(-0.5, 0.5)), capacity=8, fresh=0.5)
    start, seen = 4 * normal(4, 2), []

    def energy(y):
        seen.append(y.detach().clone())
        return slope(y)

    loss = ContrastiveDivergence(replay, start="noise")(energy, Batch(0.1 * normal(4, 2)), start=start, generator=seeded())
    assert all(bool((y.abs() <= 0.5).all()) for y in [*seen, replay.rows[-1]])
    assert 0 < loss.terms["clamped"] <= 1
    replay.finish(Batch(start), start)  # whoever hands it what no step has moved
    assert bool((replay.rows[-1].abs() <= 0.5).all())
    for how in ({}, {"steps": 0}, {"steps": 3, "patience": 1}):
        thought = think(quadratic, langevin(clamp(-0.5, 0.5)), start=start[None], generator=seeded(), **how)
        assert bool((thought.y.abs() <= 0.5).all())
        close(thought.energy, quadratic(thought.y))


def test_the_share_of_entries_at_a_bound_is_told():
    def share(retraction):
        moving = GradientDescent(0.05, steps=1, retraction=retraction)
        data = torch.tensor([[0.0, 0.9], [-0.5, 0.95]])
        return ContrastiveDivergence(moving)(lambda y: -3 * y[:, 1] + 0 * y[:, 0], Batch(data)).terms.get("clamped")

    assert share("clamp").item() == 0.5
    assert share(clamp(-0.5, 2.0)).item() == 0.25
    assert share("softmax").item() == 0.0
    assert share(None) is None


def test_what_is_a_projection():
    like = torch.zeros(4, 3)
    for retract in (clamp(-0.1, 7.0), clamp(0.0, None), torch.relu, torch.round, lambda y: y, lambda y: y / y.norm()):
        assert is_projection(retract, like)
    for retract in (softmax, torch.tanh, torch.sigmoid, lambda y: 3 * (y / 3).tanh(), torch.exp):
        assert not is_projection(retract, like)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (torch.tensor([0.0, 2.0]), 1.0)])
def test_bounds_that_cannot_hold_are_refused(ends):
    with pytest.raises(ValueError, match="low that is below high"):
        clamp(*ends)
