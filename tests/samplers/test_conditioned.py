"""Coordinates that stay still: every sampler moves the others as it moves the conditional energy written by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ebm
from ebm.samplers import HMC, MALA, NUTS, Conditioned, GradientDescent, LangevinDynamics, SteinVariational
from tests.helpers import close, laws, normal, quadratic, sampler, seeded, seeds
from tests.samplers.test_structured import MOVING

STILL = torch.tensor([[True, False, True], [False, False, True]])  # of events (2, 3)


def rough(y):
    """An energy of events (2, 3), without symmetry."""
    flat = y.flatten(-2)
    return (flat.diff(dim=-1).square() + flat[..., 1:].square() * torch.arange(1, 6) / 4).sum(-1) + flat.sin().sum(-1)


@pytest.mark.parametrize("label", MOVING)
def test_every_sampler_moves_what_is_free_as_if_it_were_all(label):
    if label.startswith(("structured", "conditioned")):
        return
    y = normal(4, 2, 3)

    def conditional(z):
        base = y.expand(*z.shape[:-1], 2, 3)  # replicas are a leading axis
        base = base.clone()
        base[..., ~STILL] = z
        return rough(base)

    expected = list(sampler(label).trajectory(conditional, y[:, ~STILL], generator=seeded()))
    found = list(Conditioned(sampler(label), STILL).trajectory(rough, y, generator=seeded()))
    assert len(found) == len(expected)
    for (state, info), (other, about) in zip(found, expected, strict=True):
        assert torch.equal(state.y[:, STILL], y[:, STILL])
        close(state.y[:, ~STILL], other.y, rtol=1e-6, atol=1e-8)
        close(info.energy, about.energy, rtol=1e-6, atol=1e-8)


COVARIANCE = torch.tensor([[2.0, 0.6, 0.3], [0.6, 0.5, -0.1], [0.3, -0.1, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "moving",
    [
        MALA(0.3),
        HMC(lambda t: 0.4 + 0.2 * (t % 2), leapfrog_steps=3),
        NUTS(0.5),
        ebm.build("sampler", "underdamped-langevin", step_size=0.3),
    ],
    ids=lambda moving: type(moving).__name__,
)
def test_moments_are_those_of_the_conditional_gaussian(moving):
    precision = torch.linalg.inv(COVARIANCE)
    energy = lambda y: torch.einsum("...i,ij,...j->...", y, precision, y) / 2  # noqa: E731
    y = normal(3000, 3)
    y[:, 1] = 1.5
    steps = 20 if isinstance(moving, NUTS) else 80
    end = Conditioned(moving, [False, True, False]).sample(energy, y, steps=steps, generator=seeded(1))
    assert torch.equal(end[:, 1], y[:, 1])
    free, slope = [0, 2], COVARIANCE[[0, 2], 1] / COVARIANCE[1, 1]
    mean, covariance = 1.5 * slope, COVARIANCE[free][:, free] - torch.outer(slope, slope) * COVARIANCE[1, 1]
    away = end[:, free] - mean
    products = torch.stack([away[:, 0].square(), away[:, 1].square(), away[:, 0] * away[:, 1]], -1)
    expected = torch.stack([covariance[0, 0], covariance[1, 1], covariance[0, 1]])
    for values, truth in ((away, torch.zeros(2)), (products, expected)):
        assert bool(((values.mean(0) - truth).abs() < 4.5 * values.std(0) / math.sqrt(3000)).all())


# ------------------------------------------------------------------------------------------------------ clouds of atoms


def cloud(own):
    """Springs between all pairs of a chain's own atoms, in a bowl: own (chains, atoms), y (chains, atoms, 2)."""

    def energy(y):
        pairs = (own[:, :, None] & own[:, None, :]).to(y.dtype)
        springs = (y[:, :, None] - y[:, None, :]).square().sum(-1)
        return (springs * pairs).sum((-2, -1)) / 4 + (y.square().sum(-1) * own).sum(-1) / 2

    return energy


def ragged(counts, atoms=4):
    own = torch.arange(atoms) < torch.tensor(counts)[:, None]
    return own, ~own[..., None].expand(-1, -1, 2)


@pytest.mark.parametrize(
    "moving", [MALA(0.05), HMC(0.25, leapfrog_steps=4), sampler("underdamped-langevin")], ids=["mala", "hmc", "baoab"]
)
def test_clouds_of_different_sizes_have_their_own_law(moving):
    """n atoms with precision (n + 1) I − 1 1ᵀ: each coordinate has variance 2 / (n + 1), covariance 1 / (n + 1)."""
    counts = [1, 2, 4] * 1000
    own, still = ragged(counts)
    y = torch.full((3000, 4, 2), 7.0, dtype=torch.float64)
    y[own] = normal(int(own.sum()), 2)
    end = Conditioned(moving, still, chains=1).sample(
        cloud(own), y, steps=40 if isinstance(moving, HMC) else 150, generator=seeded(1)
    )
    assert torch.equal(end[~own], y[~own])
    for n in (1, 2, 4):
        mine = end[torch.tensor(counts) == n][:, :n]
        for values, truth in ((mine[:, 0].square(), 2 / (n + 1)), (mine[:, 0] * mine[:, n - 1], (2 if n == 1 else 1) / (n + 1))):
            assert bool(((values.mean(0) - truth).abs() < 4.5 * values.std(0) / math.sqrt(1000)).all())


@pytest.mark.parametrize("label", ["mala", "hmc"])
@laws
@given(seeds)
def test_what_a_chain_does_not_own_changes_no_acceptance(label, seed):
    """The same noise for the same atoms gives the same proposals and the same decisions, whatever is carried beside them."""
    make = {"mala": lambda: MALA(0.3, steps=6), "hmc": lambda: HMC(0.7, leapfrog_steps=2, steps=6)}[label]
    own, still = ragged([2] * 5)
    y = normal(5, 4, 2, seed=seed)
    other, apart = y.clone(), cloud(own)
    other[~own] = 100.0
    paths = [Conditioned(make(), still, chains=1).trajectory(apart, start, generator=seeded(seed)) for start in (y, other)]
    # A sampler that has one chain more with four atoms carries numbers for all others.
    more, holds = ragged([2] * 5 + [4])
    carried = Conditioned(make(), holds, chains=1).trajectory(cloud(more), normal(6, 4, 2, seed=seed), generator=seeded(seed))
    for (a, seen), (b, told), (c, _) in zip(*paths, carried, strict=True):
        assert torch.equal(a.y[own], b.y[own])
        assert torch.equal(seen.accepted, told.accepted)
        assert torch.equal(c.y[:5][~own], normal(6, 4, 2, seed=seed)[:5][~own])


@laws
@given(seeds)
def test_a_carried_number_feels_no_force(seed):
    own, still = ragged([1, 3, 4])
    y = normal(3, 4, 2, seed=seed)
    for state, info in Conditioned(MALA(0.1, steps=3), still, chains=1).trajectory(cloud(own), y, generator=seeded(seed)):
        free = own[..., None].expand(-1, -1, 2).flatten(1)
        counts = free.sum(-1)
        for grad, count in zip(info.grad, counts, strict=True):
            assert not bool(grad[count:].any())
            assert bool(grad[:count].any())
        close(cloud(own)(state.y), cloud(own)(torch.where(own[..., None], state.y, 0.0)))


# ---------------------------------------------------------------------------------------------------------------- calls


def test_graphs_reach_the_start_and_none_is_left_without():
    y = normal(4, 3).requires_grad_()
    moving = Conditioned(GradientDescent(0.1, steps=3), [True, False, False])
    end = moving.sample(quadratic, y, unroll="full", generator=seeded())
    (grad,) = torch.autograd.grad(end.sum(), y)
    close(grad, torch.tensor([1.0, 0.9**3, 0.9**3], dtype=torch.float64).expand(4, 3))
    assert not moving.sample(quadratic, y, generator=seeded()).requires_grad


@pytest.mark.parametrize(
    ("still", "chains", "message"),
    [([0.0, 1.0], 0, "truth values"), ([True, True], 0, "nothing would move"), ([True, False], 2, "chains=2")],
)
def test_masks_that_cannot_work_are_refused(still, chains, message):
    with pytest.raises(ValueError, match=message):
        Conditioned(MALA(0.1), still, chains=chains)


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"still of shape \(2,\) for y of shape \(4, 3\)"):
        Conditioned(MALA(0.1), [True, False]).trajectory(quadratic, torch.ones(4, 3))


def test_a_chain_may_be_everything_there_is():
    y = normal(5)
    end = Conditioned(MALA(0.1, steps=3), [True, False, False, False, True]).sample(
        lambda y: y.square().sum(), y, generator=seeded()
    )
    assert torch.equal(end[[0, 4]], y[[0, 4]])
    assert not torch.equal(end, y)


def test_a_mask_that_covers_chains_says_so():
    still = torch.tensor([[True, False], [False, False], [False, True]])
    with pytest.raises(ValueError, match=r"chains of the energy \(3,\).*chains=1"):
        Conditioned(MALA(0.1, steps=1), still).sample(quadratic, torch.ones(3, 2))
    assert Conditioned(MALA(0.1, steps=1), still, chains=1).sample(quadratic, torch.ones(3, 2)).shape == (3, 2)


def test_softmaxes_and_particles_of_different_coordinates_are_refused():
    with pytest.raises(ValueError, match="axis of y"):
        Conditioned(GradientDescent(0.1, retraction="softmax"), [True, False, False]).trajectory(quadratic, torch.ones(4, 3))
    Conditioned(SteinVariational(0.1), [True, False]).sample(quadratic, torch.randn(4, 2), steps=1)
    with pytest.raises(ValueError, match="act on each other"):
        Conditioned(SteinVariational(0.1), [[True, False], [False, True]], chains=1)


@laws
@given(st.integers(1, 4), seeds)
def test_candidates_are_more_leading_axes(more, seed):
    y = normal(more, 3, 2, seed=seed)
    still = torch.tensor([[True, False], [False, False], [False, True]])
    end = Conditioned(LangevinDynamics(0.1, steps=2), still, chains=1).sample(quadratic, y, generator=seeded(seed))
    assert torch.equal(end[:, still], y[:, still])
    assert bool((end != y)[:, ~still].all())


def test_bounds_hold_what_moves_and_leave_alone_what_is_still():
    """Thinking projects its start: so the still coordinate, outside of the bounds, would move."""
    clamped = Conditioned(GradientDescent(0.1, steps=2, retraction="clamp"), [True, False])
    y = torch.tensor([[3.0, 2.0]])
    assert clamped.project(y).tolist() == clamped.sample(quadratic, y, steps=0).tolist() == [[3.0, 1.0]]
    assert ebm.think(quadratic, clamped, start=y[None]).y[0, 0] == 3
