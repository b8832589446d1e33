"""Laws of MALA: its cost, its walls, and above all that it leaves exp(−E/T) alone, with calibrated p-values."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebm.samplers import HMC, MALA, Annealed, LangevinDynamics, RandomWalk
from tests.helpers import close, laws, normal, quadratic, seeded, seeds
from tests.problems import PROBLEMS

# Step sizes at which an uncorrected step would be far off, and roughly half of all proposals are accepted.
STEP_SIZES = {
    "banana": 0.1,
    "standard": 0.8,
    "correlated": 0.3,
    "diagonal": 0.3,
    "line-mixture": 0.8,
    "plane-mixture": 0.5,
    "double-well": 0.3,
    "funnel": 0.4,
    "ring": 0.2,
}


# ------------------------------------------------------------------------------------------------------- what is sampled


def p_values(sampler, problem, temperature=1.0, repeats=120, chains=150, steps=8):
    """One p-value per repeat and statistic: exact draws moved by the sampler, against exact draws that were not moved.

    Under the law they are uniform. All repeats run as one batch: chains are independent.
    """
    spread = math.sqrt(temperature)  # only Gaussians are tempered
    others = chains + 17  # with samples of one size the statistic has few values, and p-values are not uniform
    start = spread * problem.sample(repeats * chains, seeded(0)).reshape(repeats, chains, -1)
    exact = spread * problem.sample(repeats * others, seeded(1)).reshape(repeats, others, -1)
    end = sampler.sample(problem.energy, start, steps=steps, generator=seeded(2))
    assert not torch.equal(end, start)
    statistics = [lambda y: y[..., 0], lambda y: y[..., -1], problem.energy, lambda y: y.square().sum(-1)]
    with torch.no_grad():
        pairs = [(statistic(end).numpy(), statistic(exact).numpy()) for statistic in statistics]
    return [[stats.ks_2samp(*rows).pvalue for rows in zip(*pair, strict=True)] for pair in pairs]


def uniformity(found):
    """The smallest p-value, over the statistics, of "these p-values are uniform", corrected for their number."""
    return min(1.0, len(found) * min(stats.kstest(values, "uniform").pvalue for values in found))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_stationary_distribution_is_left_alone(name):
    assert uniformity(p_values(MALA(STEP_SIZES[name]), PROBLEMS[name])) > 1e-3


VARIANTS = {
    "temperature": (lambda: MALA(0.8, temperature=2.5), 2.5),
    "step scale": (lambda: MALA(0.5, step_scale=2.0), 1.0),
    "schedule": (lambda: MALA(lambda t: 1.2 / (1 + t)), 1.0),
    "per chain": (lambda: MALA(torch.linspace(0.2, 1.2, 120 * 150, dtype=torch.float64).reshape(120, 150)), 1.0),
    "annealed": (lambda: Annealed(MALA(0.5), step_scales=[2.0]), 1.0),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_leaves_the_stationary_distribution_alone(name):
    make, temperature = VARIANTS[name]
    assert uniformity(p_values(make(), PROBLEMS["standard"], temperature)) > 1e-3


def test_the_law_can_tell_what_does_not_leave_it_alone():
    class Eager(MALA):
        """Forgets that its proposals are not symmetric: accepts by energies alone, as Metropolis would."""

        def step(self, energy, state, *, create_graph=False, generator=None):
            y = state.y
            proposal, info = LangevinDynamics(self.step_size).step(energy, state, generator=generator)
            accepted = torch.rand(info.energy.shape, generator=generator).log() < info.energy - energy(proposal.y)
            return state._replace(y=torch.where(accepted[..., None], proposal.y, y)), info

    for wrong in (LangevinDynamics(0.8), Eager(0.8), MALA(0.8, temperature=1.3)):
        assert uniformity(p_values(wrong, PROBLEMS["standard"])) < 1e-4


CHAINS = 4000


@pytest.mark.parametrize(("name", "steps"), [("correlated", 150), ("line-mixture", 300), ("funnel", 600)])
def test_moments_from_a_far_start_are_within_standard_errors(name, steps):
    problem = PROBLEMS[name]
    start = 1 + torch.randn(CHAINS, problem.dim, generator=seeded(), dtype=torch.float64)
    # The funnel's neck is entered and left by small steps only.
    moving = MALA(0.1 if name == "funnel" else STEP_SIZES[name])
    y = moving.sample(problem.energy, start, steps=steps, generator=seeded(1))
    away = y - problem.mean
    for values, expected in ((y, problem.mean), (away.square(), problem.variance)):
        error = values.std(0) / math.sqrt(CHAINS)
        assert bool(((values.mean(0) - expected).abs() < 4 * error).all()), (values.mean(0), expected, error)


def test_it_accepts_more_of_smaller_steps():
    rates = []
    for step_size in (0.01, 0.3, 1.0, 3.0):
        path = MALA(step_size, steps=20).trajectory(quadratic, normal(500, 3), generator=seeded())
        rates.append(torch.stack([info.accepted.double() for _, info in path]).mean().item())
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.98
    assert rates[-1] < 0.2


# --------------------------------------------------------------------------------------------------------------- its cost


class Counted:
    def __init__(self):
        self.count = 0

    def __call__(self, y):
        self.count += 1
        return quadratic(y)


@laws
@given(st.integers(0, 5), st.integers(0, 5))
def test_a_step_costs_one_evaluation_and_the_first_two_more(n, m):
    energy, moving = Counted(), MALA(0.1)
    path = list(moving.trajectory(energy, normal(3, 2), steps=n))
    assert energy.count == (n + 2 if n else 0)  # and one evaluation that looks whether it is repeatable
    moving.sample(energy, path[-1][0] if path else normal(3, 2), steps=m)
    assert energy.count == (n + m + 2 if n + m else 0)


def test_a_new_landscape_drops_what_the_old_one_cached():
    low, high = Counted(), Counted()
    moving, y = MALA(0.1), normal(3, 2)
    path = list(moving.trajectory([low, high, low], y, steps=2))
    assert (low.count, high.count) == (7, 3)
    state, _ = path[1]
    assert moving.enter(high, state).energy is None
    assert moving.enter(high, state).grad is None
    assert torch.equal(moving.enter(high, state).y, state.y)


@laws
@given(seeds)
def test_the_cache_is_the_energy_and_gradient_at_y(seed):
    for state, info in MALA(0.5, steps=4).trajectory(quadratic, normal(5, 2, seed=seed), generator=seeded(seed)):
        close(state.energy, quadratic(state.y))
        close(state.grad, state.y)
        assert info.accepted.shape == (5,)
        assert not state.y.requires_grad


@laws
@given(seeds, st.floats(0.05, 1.0), st.floats(0.5, 2.0))
def test_a_step_equals_the_textbook(seed, size, temperature):
    y, g = normal(6, 2, seed=seed), seeded(seed)
    noise = torch.randn(6, 2, generator=g, dtype=torch.float64)
    draws = torch.rand(6, generator=g, dtype=torch.float64)
    expected = []
    for row, xi, u in zip(y, noise, draws, strict=True):
        new = row - size * row + math.sqrt(2 * size * temperature) * xi

        def log_q(to, origin):
            return -(to - (origin - size * origin)).square().sum() / (4 * size * temperature)

        log_p = (quadratic(row) - quadratic(new)) / temperature
        accept = u < torch.exp(log_p + log_q(row, new) - log_q(new, row))
        expected.append(new if accept else row)
    close(MALA(size, steps=1, temperature=temperature).sample(quadratic, y, generator=seeded(seed)), torch.stack(expected))


# -------------------------------------------------------------------------------------------------------------------- walls


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("of", ["energy", "gradient"])
def test_a_wall_is_never_crossed(bad, of):
    """Half the line is forbidden: what is left is a normal cut off at zero, whose mean is √(2/π)."""

    def energy(y):
        beyond = (y < 0).any(-1)
        if of == "energy":
            return torch.where(beyond, bad, quadratic(y))
        z = y * 1.0
        if z.requires_grad:
            z.register_hook(lambda grad: torch.where(y < 0, bad, grad))
        return quadratic(z)

    y = torch.full((4000, 1), 0.5, dtype=torch.float64)
    for state, info in MALA(0.3, steps=60).trajectory(energy, y, generator=seeded()):
        assert bool((state.y >= 0).all())
        assert bool(torch.isfinite(info.energy).all() and torch.isfinite(state.grad).all())
    assert state.y.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=4 * 0.6 / math.sqrt(4000))


def test_a_start_inside_a_wall_stops():
    def energy(y):
        return torch.where(y[:, 0] < 0, math.inf, quadratic(y))

    with pytest.raises(FloatingPointError, match=r"step 1: the energy .* \(chain 1\)"):
        MALA(0.1).sample(energy, torch.tensor([[1.0], [-1.0], [1.0]]))


def test_a_proposal_that_overflows_is_rejected():
    y = torch.full((5, 2), 1e100, dtype=torch.float64)
    end = MALA(0.1, steps=3).sample(lambda y: y.square().sum(-1) * 1e50, y, generator=seeded())
    assert torch.equal(end, y)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperatures_that_cannot_work_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature="):
        MALA(0.1, temperature=temperature)


@pytest.mark.parametrize("make", [lambda: MALA(0.01), lambda: RandomWalk(0.01), lambda: HMC(0.01, leapfrog_steps=1)])
def test_energies_in_half_precision_accept_no_wall_by_a_draw_of_zero(make):
    """As under autocast: of uniform numbers in bfloat16 each 256th is 0, whose logarithm is below every ratio."""

    def wall(y):  # 1e4 nats high at all places but the start
        return torch.where((y == 0).all(-1), 0.0, 1e4 + 0 * y.sum(-1)).bfloat16()

    y = make().sample(wall, torch.zeros(20_000, 1), steps=1, generator=seeded())
    assert not y.any()
