"""log Z by annealed importance sampling, against closed forms and enumeration."""

import math

import pytest
import torch

from ebm.energies import RBM, Gaussian, MLPEnergy
from ebm.judging import annealed_importance_sampling, geometric_path, reverse_annealed_importance_sampling
from ebm.samplers import HMC, MALA, Annealed, BlockGibbs, GradientDescent, LangevinDynamics
from tests.helpers import close, normal, quadratic, seeded
from tests.problems import PROBLEMS, float64

SEEDS = 20
BASE = Gaussian(mean=float64([0.5, 0.0]), covariance=float64([4.0, 4.0]))


def others(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def wide(dim):
    return Gaussian(mean=float64([0.0] * dim), covariance=float64([6.0] * dim))


def forward(name, seed, chains=500, betas=30, confidence=0.99):
    problem = PROBLEMS[name]
    base, g = wide(problem.dim), seeded(seed)
    path = geometric_path(base, problem.energy, betas)
    return annealed_importance_sampling(
        path, MALA(0.2, steps=3), base.sample(chains, generator=g), confidence=confidence, generator=g
    )


@pytest.mark.parametrize("name", ["plane-mixture", "banana", *others("correlated", "line-mixture")])
def test_log_z_is_inside_its_interval_in_19_of_20_seeds(name):
    found = [forward(name, seed) for seed in range(SEEDS)]
    inside = sum(one.low <= PROBLEMS[name].log_z <= one.high for one in found)
    assert inside >= 19, [(one.low, one.high) for one in found]
    assert all(one.high - one.low < 0.5 and one.low < one.estimate < one.high for one in found)  # and it says something


@pytest.mark.parametrize("units", ["binary", "gaussian"])
def test_log_z_of_a_small_rbm_is_inside_its_interval_in_19_of_20_seeds(units):
    """Sixteen hidden units, whose 65536 states enumeration goes through; weights as large as a trained machine's."""
    rbm, scale = RBM(20, 16, units=units).double(), {"binary": 0.5, "gaussian": 0.3}[units]
    for parameter in rbm.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=seeded(parameter.numel()), dtype=torch.float64)
    path, inside = [rbm.tempered(k / 60) for k in range(61)], []
    for seed in range(SEEDS):
        g = seeded(seed)
        start = path[0].sample_visible(torch.zeros(300, 16, dtype=torch.float64), generator=g)  # units apart, at β = 0
        found = annealed_importance_sampling(path, BlockGibbs(steps=1), start, generator=g)
        inside.append(found.low <= float(rbm.log_z.detach()) <= found.high)
        assert found.high - found.low < 1
    assert sum(inside) >= 19


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("name", ["correlated", "plane-mixture", "banana"])
def test_intervals_cover_as_often_as_they_say(name, confidence):
    found = [forward(name, seed, confidence=confidence) for seed in range(300)]
    share = sum(one.low <= PROBLEMS[name].log_z <= one.high for one in found) / len(found)
    slack = 3 * math.sqrt(confidence * (1 - confidence) / len(found))
    assert confidence - slack - 0.01 < share <= min(1.0, confidence + slack + 0.005), share


def test_one_step_of_the_path_is_importance_sampling():
    """With K = 1 no chain moves: the weights are exp(E_0 − E_1) of the base's draws."""
    problem, base = PROBLEMS["correlated"], BASE
    y = base.sample(400, generator=seeded())
    found = annealed_importance_sampling([base, problem.energy], MALA(0.1), y)
    close(found.log_weights, base.log_z + base(y) - problem.energy(y))
    close(found.estimate, float(found.log_weights.logsumexp(0) - math.log(400)))


def test_the_mean_of_weights_is_unbiased_however_short_the_path():
    """Twenty thousand chains, five landscapes, one step on each: Z within its standard errors."""
    problem, g = PROBLEMS["plane-mixture"], seeded(3)
    base = wide(2)
    path = geometric_path(base, problem.energy, [0.0, 0.05, 0.2, 0.5, 1.0])
    weights = annealed_importance_sampling(
        path, MALA(0.3, steps=1), base.sample(20_000, generator=g), generator=g
    ).log_weights.exp()
    assert abs(float(weights.mean()) - math.exp(problem.log_z)) < 4.5 * float(weights.std()) / math.sqrt(20_000)


class Hot(HMC):
    """Says that it samples exp(−E), at whatever temperature."""

    stationary = True


def test_what_is_wrong_is_found():
    """A sampler at another temperature walks along other landscapes than the weights are of."""
    problem = PROBLEMS["correlated"]
    g, base = seeded(), wide(2)
    hot = Hot(0.4, leapfrog_steps=4, steps=3, temperature=1.5)
    found = annealed_importance_sampling(
        geometric_path(base, problem.energy, 30), hot, base.sample(2000, generator=g), generator=g
    )
    assert not found.low <= problem.log_z <= found.high


@pytest.mark.parametrize("name", ["plane-mixture", *others("correlated")])
def test_the_two_bounds_lie_on_either_side(name):
    """With few landscapes and few chains, means over runs: below by forward weights, above by reverse ones."""
    problem, base = PROBLEMS[name], wide(PROBLEMS[name].dim)
    path, moving = geometric_path(base, problem.energy, 2), MALA(0.2, steps=1)
    lower, upper = [], []
    for seed in range(60):
        g = seeded(seed)
        lower.append(annealed_importance_sampling(path, moving, base.sample(5, generator=g), generator=g).estimate)
        upper.append(reverse_annealed_importance_sampling(path, moving, problem.sample(5, g), generator=g).estimate)
    lower, upper = torch.tensor(lower), torch.tensor(upper)
    error = math.hypot(float(lower.std()), float(upper.std())) / math.sqrt(60)
    assert float(lower.mean()) < problem.log_z + 2 * error
    assert float(upper.mean()) > problem.log_z - 2 * error
    assert float(upper.mean() - lower.mean()) > 3 * error


@pytest.mark.parametrize("name", ["correlated", *others("plane-mixture")])
def test_the_reverse_is_inside_its_interval_too(name):
    problem, base, inside = PROBLEMS[name], wide(PROBLEMS[name].dim), 0
    moving = HMC(0.5, leapfrog_steps=5, steps=1)  # long ways: chains have to spread out over the base
    for seed in range(SEEDS):
        g = seeded(seed)
        found = reverse_annealed_importance_sampling(
            geometric_path(base, problem.energy, 40), moving, problem.sample(500, g), generator=g
        )
        inside += found.low <= problem.log_z <= found.high
    assert inside >= 19


def test_an_annealed_sampler_has_a_step_size_for_each_landscape():
    problem, base, g = PROBLEMS["correlated"], wide(2), seeded()
    path = geometric_path(base, problem.energy, 20)
    moving = Annealed(MALA(0.2, steps=2), step_scales=[1 + 2 * (1 - k / 20) for k in range(1, 20)])
    found = annealed_importance_sampling(path, moving, base.sample(1000, generator=g), generator=g)
    assert found.low < problem.log_z < found.high


def test_a_run_is_a_function_of_its_generator():
    one, other = (forward("correlated", 7, chains=50) for _ in range(2))
    assert one[:3] == other[:3]
    assert torch.equal(one.log_weights, other.log_weights)


def test_equal_weights_have_an_interval_without_width():
    y = normal(20, 2)
    found = annealed_importance_sampling([quadratic, lambda y: quadratic(y) - 1.0], MALA(0.1), y, log_z=2.0)
    close(found[:3], (3.0, 3.0, 3.0))
    close(found.effective, 20.0)


Y = normal(20, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: annealed_importance_sampling([quadratic], MALA(), Y, log_z=0.0), "1 landscapes"),
        (lambda: annealed_importance_sampling([quadratic, quadratic], MALA(), Y), "no log_z"),
        (lambda: annealed_importance_sampling([BASE, quadratic], GradientDescent(), Y), "does not leave"),
        (lambda: annealed_importance_sampling([BASE, quadratic], MALA(steps=(1, 3)), Y), "one whole number"),
        (lambda: annealed_importance_sampling([BASE, quadratic], MALA(), Y[:1]), "at least two chains"),
        (lambda: annealed_importance_sampling([BASE, quadratic], MALA(), Y, confidence=1.0), "confidence=1"),
        (lambda: geometric_path(BASE, quadratic, [0.0, 0.5]), "rise from 0 to 1"),
        (lambda: geometric_path(BASE, quadratic, 0), "at least 1"),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unadjusted_sampler_is_warned_of():
    with pytest.warns(UserWarning, match="no acceptance test"):
        annealed_importance_sampling(geometric_path(BASE, quadratic, 3), LangevinDynamics(0.1, steps=1), Y)


def test_weights_that_are_not_finite_stop():
    with pytest.raises(FloatingPointError, match="20 of 20 weights"):
        annealed_importance_sampling([BASE, lambda y: quadratic(y) + math.inf], MALA(0.1), Y)


def test_the_energys_parameters_are_left_as_they_were():
    torch.manual_seed(0)
    energy, base = MLPEnergy(2, hidden=(8,)).double(), wide(2)
    next(energy.parameters()).requires_grad_(False)
    before = [(parameter.requires_grad, parameter.detach().clone()) for parameter in energy.parameters()]
    path = geometric_path(base, energy, 4)
    annealed_importance_sampling(path, MALA(0.2, steps=1), base.sample(20, generator=seeded()), generator=seeded())
    reverse_annealed_importance_sampling(path, MALA(0.2, steps=1), normal(20, 2), generator=seeded())
    for parameter, (learnable, value) in zip(energy.parameters(), before, strict=True):
        assert parameter.grad is None
        assert parameter.requires_grad is learnable
        assert torch.equal(parameter, value)
