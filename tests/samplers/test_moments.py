"""Moments: every exact sampler ends at the closed forms, every biased one at what is known of its own stationary law.

Chains start from a wrong distribution and are independent, so the standard error of a mean over time is that of its values per
chain, however slowly a chain moves.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from scipy import linalg
from torch import Tensor

import ebm
from ebm.interfaces import Batch, Sampler, energy_and_grad
from ebm.samplers import MALA, LangevinDynamics
from tests.helpers import SAMPLERS, close, sampler, seeded
from tests.problems import PROBLEMS, Problem, float64

CHAINS = 2000
BOUND = 4.5  # standard errors: one of the few hundred below lies outside once in some hundred choices of the seeds

# The time step h of a proposal, at which roughly two of three are accepted; ε = h²/2 for Langevin samplers.
TIME_STEPS = {"correlated": 0.75, "plane-mixture": 0.9, "funnel": 0.4, "banana": 0.4}
OTHERS = {"standard": 1.2, "diagonal": 0.7, "line-mixture": 1.1, "double-well": 0.7, "ring": 0.6}
PATIENCE = {"funnel": 4, "banana": 4}  # how many times as many steps: their ends are reached by small steps only


def build(name: str, **keywords: Any) -> Sampler:
    return ebm.build("sampler", name, **keywords)


def mala(h: float, **keywords: Any) -> Sampler:
    return build("mala", step_size=h * h / 2, **keywords)


MASSES = float64([1.0, 2.0, 1.5])


def dense(dim: int) -> Tensor:
    """A mass matrix that no problem's covariance inverts."""
    return MASSES[:dim].diag() + 0.4


def hmc(h: float, **keywords: Any) -> Sampler:
    # Two step sizes by turns: with one, leapfrogs may come to a whole turn of a Gaussian, and a chain is back where it was.
    return build("hmc", step_size=lambda t: h * (0.7 + 0.3 * (t % 2)), leapfrog_steps=4, **keywords)


def excursions(inner: Sampler, temperatures: tuple[float, ...]) -> Sampler:
    return build("tempered-transitions", sampler=inner, temperatures=temperatures)


class Row(NamedTuple):
    make: Callable[[float, int], Sampler]  # of the time step and the number of coordinates
    steps: int  # per landscape


# "registered name/variant" -> what makes it. A sampler that leaves exp(−E) alone exactly belongs here.
EXACT = {
    "mala": Row(lambda h, dim: mala(h), 240),
    "mala/scale": Row(lambda h, dim: mala(h / 2, step_scale=3.0), 300),
    "mala/diagonal": Row(lambda h, dim: mala(h, preconditioner=1 / MASSES[:dim]), 240),
    "mala/dense": Row(lambda h, dim: mala(h, preconditioner=dense(dim).inverse()), 240),
    "random-walk": Row(lambda h, dim: build("random-walk", step_size=h), 480),
    "random-walk/dense": Row(lambda h, dim: build("random-walk", step_size=h, covariance=dense(dim).inverse()), 480),
    "slice": Row(lambda h, dim: build("slice", step_size=2 * h), 160),
    "slice/narrow": Row(lambda h, dim: build("slice", step_size=h / 2, grow=3), 600),
    "conditioned/mala": Row(lambda h, dim: build("conditioned", sampler=mala(h), still=False), 240),
    "structured/mala": Row(lambda h, dim: build("structured", sampler=mala(h)), 240),
    "hmc": Row(lambda h, dim: hmc(h), 60),
    "hmc/diagonal": Row(lambda h, dim: hmc(h, mass=MASSES[:dim]), 60),
    "hmc/dense": Row(lambda h, dim: hmc(h, mass=dense(dim)), 60),
    "nuts": Row(lambda h, dim: build("nuts", step_size=h), 24),
    "nuts/dense": Row(lambda h, dim: build("nuts", step_size=h, mass=dense(dim)), 24),
    "annealed/mala": Row(lambda h, dim: build("annealed", sampler=mala(h), temperatures=[1.5, 1.0]), 200),
    "parallel-tempering/mala": Row(lambda h, dim: build("parallel-tempering", sampler=mala(h), temperatures=(1.0, 1.5)), 200),
    "tempered-transitions/mala": Row(lambda h, dim: excursions(mala(h), (1.0, 1.3, 1.7)), 80),
    "tempered-transitions/walk": Row(lambda h, dim: excursions(build("random-walk", step_size=h), (1.0, 1.5)), 160),
    "parallel-tempering/hmc": Row(lambda h, dim: build("parallel-tempering", sampler=hmc(h), temperatures=(1.0, 1.5)), 80),
}
# Not here: replay steps as its inner sampler does, and its buffer has a test below; Gibbs sampling moves binary units; what is
# compiled makes the moves of the sampler inside it (test_compiled.py).
ELSEWHERE = {"replay", "block-gibbs", "compiled"}
every = pytest.mark.parametrize("label", EXACT)
# Where steps are small, one sampler of each kind; the others are slow.
USUAL = {("mala", "banana"), ("hmc", "funnel"), ("nuts", "banana")} | {
    (label, name) for label in EXACT for name in ("correlated", "plane-mixture")
}


def start_of(problem: Problem, chains: int) -> Tensor:
    """A narrow cloud off the centre. (A wide one has chains where only far smaller steps are ever accepted.)

    But exact draws where it takes longer to cross a barrier, or to go round, than anybody waits: they must stay as they are.
    """
    if problem.name in ("double-well", "ring"):
        return problem.sample(chains, seeded())
    return 1 + torch.randn(chains, problem.dim, generator=seeded(), dtype=torch.float64)


def straight(problem: Problem) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """What to look at, with its mean and variance: y itself, but of the funnel (v, e^(-v/2) x), all of them normal.

    x itself has tails so heavy that the mean of x² over thousands of chains is far from normal.
    """
    if problem.name != "funnel":
        return (lambda y: y), problem.mean, problem.variance
    return (lambda y: torch.cat([y[..., :1], (-y[..., :1] / 2).exp() * y[..., 1:]], -1)), problem.mean, float64([1.0, 1.0, 1.0])


def z_scores(moving: Sampler, problem: Problem, steps: int, *, law=None, chains: int = CHAINS, seed: int = 1, bias=0.0) -> Tensor:
    """How many standard errors the mean and the variance of every coordinate are away from the expected, (2, dim).

    Draws are those of the last quarter of a trajectory. `law` is another mean and variance than the problem's; up to a known
    `bias` they may be wrong.
    """
    view, mean, variance = straight(problem)
    mean, variance = law or (mean, variance)
    total, sums = steps * len(moving.route([problem.energy])), 0.0
    late, kept = 3 * total // 4, total - 3 * total // 4
    path = moving.trajectory(problem.energy, start_of(problem, chains), steps=steps, generator=seeded(seed))
    for index, (state, _) in enumerate(path):
        if index >= late:
            away = view(state.y) - mean
            sums = sums + torch.stack([away, away.square() - variance]) / kept
    off, error = sums.mean(1), sums.std(1) / math.sqrt(chains)
    return off.sign() * (off.abs() - bias).clamp(min=0) / error


def of_exact(label: str, name: str, times: int = 1, **keywords: Any) -> Tensor:
    row, problem = EXACT[label], PROBLEMS[name]
    moving = row.make({**TIME_STEPS, **OTHERS}[name], problem.dim)
    return z_scores(moving, problem, times * row.steps * PATIENCE.get(name, 1), **keywords)


# ------------------------------------------------------------------------------------------------------------------ exact


def test_every_sampler_that_accepts_or_rejects_is_here():
    exact = {label.partition("/")[0] for label in SAMPLERS if not sampler(label).differentiable and sampler(label).stationary}
    missing = exact - {label.partition("/")[0] for label in EXACT} - ELSEWHERE
    assert not missing, f"nobody looked at the moments of {sorted(missing)}: add a row of each to EXACT"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        pytest.param(label, name, marks=[] if (label, name) in USUAL else [pytest.mark.slow])
        for label in EXACT
        for name in TIME_STEPS
    ],
)
def test_moments_are_the_closed_forms(label, name):
    found = of_exact(label, name)
    assert bool((found.abs() < BOUND).all()), found


@pytest.mark.slow
@every
@pytest.mark.parametrize("name", {**TIME_STEPS, **OTHERS})
def test_moments_are_the_closed_forms_with_eight_times_the_chains(label, name):
    found = of_exact(label, name, times=2, chains=8 * CHAINS, seed=2)
    assert bool((found.abs() < BOUND).all()), found


class Eager(MALA):
    """Accepts by energies alone, as if its proposals were symmetric."""

    def step(self, energy, state, *, create_graph=False, generator=None):
        proposal, info = LangevinDynamics(self.step_size).step(energy, state, generator=generator)
        draw = torch.rand(info.energy.shape, generator=generator, dtype=torch.float64)
        accepted = draw.log() < info.energy - energy(proposal.y)
        return state._replace(y=torch.where(accepted[..., None], proposal.y, state.y)), info


WRONG = {
    "temperature": (lambda h: mala(h, temperature=1.4), 240),
    "one-sided": (lambda h: Eager(h * h / 2), 240),
    "short": (mala, 4),
}


@pytest.mark.parametrize("name", TIME_STEPS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found(name, wrong):
    make, steps = WRONG[wrong]
    found = z_scores(make(TIME_STEPS[name]), PROBLEMS[name], steps if wrong == "short" else steps * PATIENCE.get(name, 1))
    assert bool((found.abs() > 2 * BOUND).any()), found


@pytest.mark.parametrize("name", ["correlated", "plane-mixture"])
def test_rows_of_a_replay_buffer_end_at_the_closed_forms(name):
    """Trajectories that start where others ended: what comes out is distributed as the energy says."""
    problem, batch, g = PROBLEMS[name], Batch(None), seeded(1)
    replay = build("replay", sampler=mala(TIME_STEPS[name]), capacity=CHAINS, fresh=0.0)
    for _ in range(4):  # rows share ancestors, which 60 steps forget
        _, y = replay.begin(batch, start_of(problem, CHAINS), generator=g)
        y = replay.sample(problem.energy, y, steps=60, generator=g)
        replay.finish(batch, y)
    away = y - problem.mean
    for values, expected in ((away, 0.0), (away.square(), problem.variance)):
        assert bool(((values.mean(0) - expected).abs() < BOUND * values.std(0) / math.sqrt(CHAINS)).all())


# ----------------------------------------------------------------------------------------------------------------- biased


PRECISION = torch.linalg.inv(float64([[2.0, 0.6], [0.6, 0.5]]))  # of the problem "correlated"
SKEWED = float64([[1.5, 0.3], [0.3, 0.4]])  # a preconditioner that does not commute with it


def stationary_covariance(step_size: float, preconditioner: Tensor) -> Tensor:
    """Solves C = A C Aᵀ + 2εP with A = I − εPΛ: the law of y⁺ = y − εPΛy + √(2εP) ξ."""
    turn = torch.eye(2, dtype=torch.float64) - step_size * preconditioner @ PRECISION
    return torch.from_numpy(linalg.solve_discrete_lyapunov(turn.numpy(), (2 * step_size * preconditioner).numpy()))


def test_the_oracle_is_the_known_variance_of_ula():
    """In the eigenvectors of Λ the variance is 1 / (λ (1 − ελ/2))."""
    values, vectors = torch.linalg.eigh(PRECISION)
    close(
        vectors.T @ stationary_covariance(0.3, torch.eye(2, dtype=torch.float64)) @ vectors,
        torch.diag(1 / (values * (1 - 0.15 * values))),
    )


def test_the_moments_of_ula_on_a_gaussian_are_its_own():
    problem = PROBLEMS["correlated"]
    expected = stationary_covariance(0.3, torch.eye(2, dtype=torch.float64)).diagonal()
    found = z_scores(LangevinDynamics(0.3), problem, 160, law=(problem.mean, expected))
    assert bool((found.abs() < BOUND).all()), found


@pytest.mark.parametrize("preconditioner", [SKEWED, float64([1.5, 0.4])], ids=["matrix", "diagonal"])
def test_the_moments_of_a_preconditioned_step_on_a_gaussian_are_its_own(preconditioner):
    problem = PROBLEMS["correlated"]
    expected = stationary_covariance(0.3, preconditioner if preconditioner.ndim == 2 else preconditioner.diag()).diagonal()
    moving = build("preconditioned-langevin", step_size=0.3, preconditioner=preconditioner)
    found = z_scores(moving, problem, 240, law=(problem.mean, expected))
    assert bool((found.abs() < BOUND).all()), found


@pytest.mark.parametrize("h", [0.3, 0.7])
@pytest.mark.parametrize("friction", [0.5, 3.0])
def test_the_moments_of_baoab_on_a_gaussian_are_exact_at_any_step(h, friction):
    """Leimkuhler and Matthews, 2013: on a harmonic energy the positions have no bias."""
    problem = PROBLEMS["correlated"]
    moving = build("underdamped-langevin", step_size=h, friction=friction)
    found = z_scores(moving, problem, round(120 / h))
    assert bool((found.abs() < BOUND).all()), found


def ula_on_a_line(problem: Problem, step_size: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of ULA's own stationary law in one dimension: the fixed point of its transition density on a grid."""
    grid = torch.linspace(-9, 9, 901, dtype=torch.float64)
    _, grad = energy_and_grad(problem.energy, grid[:, None])
    drift = grid - step_size * grad[:, 0]
    kernel = (-(grid - drift[:, None]).square() / (4 * step_size)).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    _, _, vectors = torch.linalg.svd(kernel.T - torch.eye(len(grid), dtype=torch.float64))
    law = vectors[-1] / vectors[-1].sum()
    mean = law @ grid
    return mean.reshape(1), (law @ (grid - mean).square()).reshape(1)


@pytest.mark.parametrize("step_size", [0.1, 0.4])
def test_the_moments_of_ula_on_a_mixture_are_its_own(step_size):
    problem = PROBLEMS["line-mixture"]
    found = z_scores(LangevinDynamics(step_size), problem, round(80 / step_size), law=ula_on_a_line(problem, step_size))
    assert bool((found.abs() < BOUND).all()), found


def test_the_bias_of_ula_is_of_the_order_of_its_step():
    problem = PROBLEMS["line-mixture"]
    biases = [ula_on_a_line(problem, step_size)[1] - problem.variance for step_size in (0.02, 0.04, 0.08)]
    assert biases[0] > 0
    for one, two in pairwise(biases):
        assert 1.8 < float(two / one) < 2.4


# name -> (what makes it of ε, how far from the closed forms its moments may be, as a multiple of ε)
BIASED = {
    "langevin": (lambda size: LangevinDynamics(size), 1.0),
    "preconditioned-langevin": (lambda size: build("preconditioned-langevin", step_size=size, preconditioner=float64(0.8)), 1.0),
    "underdamped-langevin": (lambda size: build("underdamped-langevin", step_size=math.sqrt(2 * size), friction=1.5), 1.0),
}


@pytest.mark.parametrize("label", BIASED)
@pytest.mark.parametrize("name", ["plane-mixture", "banana"])
def test_the_bias_of_the_others_is_within_the_order_of_the_step(label, name):
    make, factor = BIASED[label]
    problem, size = PROBLEMS[name], 0.05
    found = z_scores(make(size), problem, 400, bias=factor * size)
    assert bool((found.abs() < BOUND).all()), found
