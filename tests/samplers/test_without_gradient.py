"""Random-walk Metropolis and slice sampling: their textbooks line by line, and energies without a gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebm.samplers import RandomWalk, SliceSampler
from tests.helpers import close, laws, normal, quadratic, seeded, seeds

CHAINS = 4000
SAMPLERS = [RandomWalk(1.2, steps=60), SliceSampler(1.5, steps=25)]
both = pytest.mark.parametrize("moving", SAMPLERS, ids=["random-walk", "slice"])


def by_numpy(y):
    """|y| summed, through NumPy: no graph reaches y."""
    return torch.from_numpy(np.abs(y.numpy()).sum(-1))


@both
def test_an_energy_may_leave_torch(moving):
    """Laplace: mean 0, variance 2, E|y| = 1."""
    y = moving.sample(by_numpy, normal(CHAINS, 1), generator=seeded())
    for values, expected in ((y, 0.0), (y.square(), 2.0), (y.abs(), 1.0)):
        assert abs(values.mean() - expected) < 4.5 * values.std() / math.sqrt(CHAINS)


@both
def test_an_energy_may_be_a_staircase(moving):
    """p is geometric over the steps of floor(|y|), uniform on each."""
    y = moving.sample(lambda y: y.abs().floor().sum(-1), normal(CHAINS, 1), generator=seeded())
    counts = np.bincount(y.abs().floor().long().flatten().clamp(max=5).numpy(), minlength=6)
    shares = np.array([(1 - math.exp(-1)) * math.exp(-k) for k in range(5)] + [math.exp(-5)])
    assert stats.chisquare(counts, CHAINS * shares).pvalue > 1e-4


@both
def test_walls_are_never_crossed(moving):
    def cut(y):
        return torch.where((y < 0).any(-1), math.nan, quadratic(y))

    y = torch.full((CHAINS, 1), 0.5, dtype=torch.float64)
    for state, info in moving.trajectory(cut, y, generator=seeded()):
        assert bool((state.y >= 0).all())
        assert bool(info.energy.isfinite().all())
    assert state.y.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=4.5 * 0.6 / math.sqrt(CHAINS))


@both
def test_no_gradient_is_asked_for(moving):
    def refusing(y):
        assert not y.requires_grad
        assert not torch.is_grad_enabled()
        return quadratic(y)

    with torch.enable_grad():
        moving.sample(refusing, normal(3, 2).requires_grad_(), steps=3, generator=seeded())


@laws
@given(seeds, st.floats(0.05, 1.0), st.floats(0.5, 2.0))
def test_a_random_walk_is_the_textbooks(seed, size, temperature):
    y, g = normal(6, 2, seed=seed), seeded(seed)
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    noise = torch.randn(6, 2, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(covariance).mT
    draws = torch.rand(6, generator=g, dtype=torch.float64)
    expected = []
    for row, xi, u in zip(y, noise, draws, strict=True):
        new = row + size * xi
        expected.append(new if u < torch.exp((quadratic(row) - quadratic(new)) / temperature) else row)
    moving = RandomWalk(size, steps=1, covariance=covariance, temperature=temperature)
    close(moving.sample(quadratic, y, generator=seeded(seed)), torch.stack(expected))


def textbook(energy, y, w, grow, generator):
    """One chain's step of Neal's figures 3 and 5 along a random line; draws come in the sampler's order."""
    level = energy(y) - math.log(1 - next(generator))
    way = next(generator)
    f = lambda x: energy(y + x * w * way)  # noqa: E731
    low = -next(generator)
    high = low + 1
    lower = math.floor(grow * next(generator))
    upper = grow - 1 - lower
    while lower > 0 and f(low) <= level:
        low, lower = low - 1, lower - 1
    while upper > 0 and f(high) <= level:
        high, upper = high + 1, upper - 1
    while True:
        x = low + (high - low) * next(generator)
        if f(x) <= level:
            return y + x * w * way
        low, high = (x, high) if x < 0 else (low, x)


@laws
@given(seeds, st.floats(0.05, 20.0), st.integers(1, 6))
def test_a_slice_is_the_textbooks(seed, width, grow):
    y = normal(1, 2, seed=seed)
    own = seeded(int(torch.randint(2**62, (), generator=seeded(seed))))

    def draws():
        one = lambda: torch.rand(1, generator=own, dtype=torch.float64).item()  # noqa: E731
        yield one()
        way = torch.randn(1, 2, generator=own, dtype=torch.float64)[0]
        yield way / way.norm()
        while True:
            yield one()

    expected = textbook(lambda y: (y**4).sum() - y.square().sum(), y[0], width, grow, draws())
    found = SliceSampler(width, steps=1, grow=grow).sample(lambda y: (y**4 - y**2).sum(-1), y, generator=seeded(seed))
    close(found[0], expected)


@laws
@given(seeds, st.floats(0.05, 20.0))
def test_slices_of_chains_do_not_know_of_each_other(seed, width):
    y = normal(5, 2, seed=seed)
    other = y.clone()
    other[0] = 40.0  # takes more evaluations, or fewer
    a, b = (SliceSampler(width, steps=4).sample(quadratic, start, generator=seeded(seed)) for start in (y, other))
    assert torch.equal(a[1:], b[1:])


@pytest.mark.parametrize("width", [0.01, 1.0, 1000.0])
def test_any_width_is_right(width):
    """Starts are exact draws, which stay exact draws; a far too narrow slice hardly moves, a far too wide one shrinks."""
    y = SliceSampler(width, steps=10).sample(quadratic, normal(CHAINS, 2), generator=seeded(1))
    assert stats.kstest(y[:, 0].numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(y[:, 1].numpy(), "norm").pvalue > 1e-3


@laws
@given(st.integers(1, 4), st.integers(0, 4))
def test_a_walk_costs_one_evaluation_and_the_first_two_more(n, m):
    calls = []

    def energy(y):
        calls.append(1)
        return quadratic(y)

    path = list(RandomWalk(0.1).trajectory(energy, normal(3, 2), steps=n))
    RandomWalk(0.1).sample(energy, path[-1][0], steps=m)
    assert len(calls) == n + m + 2  # the value at the start, twice


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SliceSampler(1.0, grow=0), "grow=0"),
        (lambda: SliceSampler(1.0, grow=2.5), "grow=2.5"),
        (lambda: SliceSampler(1.0, temperature=0.0), "temperature=0"),
        (lambda: RandomWalk(0.0), "step_size=0"),
        (lambda: RandomWalk(1.0, temperature=-1.0), "temperature=-1"),
        (lambda: RandomWalk(1.0, covariance=torch.tensor([1.0, -1.0])), "covariance of shape"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
