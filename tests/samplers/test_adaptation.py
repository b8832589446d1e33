"""Warm-up: the acceptance that was asked for, the mass that suits, and a sampler that is left as it was."""

import warnings

import pytest
import torch

from ebm.energies import Gaussian
from ebm.samplers import (
    HMC,
    MALA,
    NUTS,
    Conditioned,
    GradientDescent,
    LangevinDynamics,
    ParallelTempering,
    PreconditionedLangevin,
    RandomWalk,
    SliceSampler,
    Structured,
    TemperedTransitions,
    UnderdampedLangevin,
    warm_up,
)
from ebm.samplers.adaptation import Moments, _plan, acceptance_of
from tests.helpers import close, normal, quadratic, seeded

COVARIANCE = torch.tensor([[25.0, 2.0, 0.0], [2.0, 1.0, 0.2], [0.0, 0.2, 0.25]], dtype=torch.float64)


def gaussian():
    return Gaussian(torch.zeros(3, dtype=torch.float64), COVARIANCE)


def accepts(sampler, energy, y, steps=60):
    path = sampler.trajectory(energy, y, steps=steps, generator=seeded(1))
    return torch.stack([acceptance_of(info).mean() for _, info in path]).mean().item()


@pytest.mark.parametrize(
    ("sampler", "target"),
    [
        (MALA(1.0), None),
        (HMC(1e-3, leapfrog_steps=1), 0.65),
        (HMC(50.0, leapfrog_steps=1), None),
        (NUTS(0.01, max_depth=6), None),
        (RandomWalk(1.0), None),
    ],
    ids=["mala", "hmc-small", "hmc-large", "nuts", "random-walk"],
)
def test_the_acceptance_is_what_was_asked_for(sampler, target):
    # Of one leapfrog, and in many dimensions, acceptance falls smoothly with the step size. (Several come to half turns, where it
    # rises again; and in few dimensions it falls off a cliff.)
    energy, y = Gaussian(normal(40), torch.linspace(0.5, 4, 40, dtype=torch.float64)), normal(64, 40)
    before = sampler.step_size
    warmed = warm_up(sampler, energy, y, steps=500, target=target, generator=seeded())
    aim = target or {MALA: 0.574, RandomWalk: 0.234}.get(type(sampler), 0.8)
    assert accepts(warmed.sampler, energy, warmed.y) == pytest.approx(aim, abs=0.08)
    assert sampler.step_size == before
    assert type(warmed.sampler.step_size) is float
    assert warmed.sampler.training == sampler.training


def test_a_walk_on_a_line_aims_higher():
    warmed = warm_up(RandomWalk(0.1), quadratic, normal(256, 1), steps=300, generator=seeded())
    assert accepts(warmed.sampler, quadratic, warmed.y) == pytest.approx(0.44, abs=0.06)


def test_one_chain_is_enough_for_a_step_size():
    warmed = warm_up(HMC(1.0, leapfrog_steps=3), quadratic, normal(1, 2), steps=400, mass=None, generator=seeded())
    assert accepts(warmed.sampler, quadratic, normal(400, 2)) == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_the_mass_is_the_inverse_of_the_covariance(kind):
    warmed = warm_up(NUTS(0.1, max_depth=5), gaussian(), normal(64, 3), steps=400, mass=kind, generator=seeded())
    held = warmed.sampler.mass.values
    if kind == "diagonal":
        assert (held * COVARIANCE.diagonal() - 1).abs().max() < 0.2
    else:
        assert torch.linalg.matrix_norm(held @ COVARIANCE - torch.eye(3, dtype=torch.float64), 2) < 0.6
    assert warm_up(NUTS(0.1), quadratic, normal(8, 2), steps=20, mass=None, generator=seeded()).sampler.mass.values is None


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
@pytest.mark.parametrize("sampler", [MALA(0.1), RandomWalk(0.1), PreconditionedLangevin(1.0, 0.1)], ids=["mala", "walk", "ula"])
def test_what_multiplies_steps_is_the_covariance(kind, sampler):
    warmed = warm_up(sampler, gaussian(), 2 * normal(128, 3), steps=1500, mass=kind, generator=seeded())
    held = getattr(warmed.sampler, "covariance" if isinstance(sampler, RandomWalk) else "preconditioner").values
    if kind == "diagonal":
        assert (held / COVARIANCE.diagonal() - 1).abs().max() < 0.25
    else:
        assert torch.linalg.matrix_norm(torch.linalg.solve(COVARIANCE, held) - torch.eye(3, dtype=torch.float64), 2) < 0.6


@pytest.mark.parametrize("sampler", [LangevinDynamics(3.0), PreconditionedLangevin(1.0, 3.0)], ids=["ula", "preconditioned"])
def test_langevin_steps_would_pass_a_test(sampler):
    energy, y = Gaussian(normal(40), torch.linspace(0.5, 4, 40, dtype=torch.float64)), normal(64, 40)
    warmed = warm_up(sampler, energy, y, steps=500, generator=seeded()).sampler
    assert type(warmed) is type(sampler)
    assert sampler.step_size == 3.0
    tested = MALA(warmed.step_size, preconditioner=getattr(getattr(warmed, "preconditioner", None), "values", None))
    assert 0.96 < accepts(tested, energy, energy.sample(64, generator=seeded())) < 0.995


def test_underdamped_steps_are_short_and_have_the_mass():
    warmed = warm_up(UnderdampedLangevin(5.0, friction=2.0), gaussian(), normal(64, 3), steps=400, generator=seeded()).sampler
    assert warmed.friction == 2.0
    assert (warmed.mass.values * COVARIANCE.diagonal() - 1).abs().max() < 0.2
    path = HMC(warmed.step_size, leapfrog_steps=8, mass=warmed.mass.values)
    assert accepts(path, gaussian(), gaussian().sample(200, generator=seeded())) == pytest.approx(0.98, abs=0.015)


def test_a_learnable_step_stays_learnable():
    found = warm_up(LangevinDynamics(0.5, learnable=True), quadratic, normal(64, 2), steps=100, generator=seeded()).sampler
    assert isinstance(found.step_size, torch.nn.Parameter)
    assert found.step_size.item() != 0.5


def test_what_wraps_a_sampler_is_tuned_by_what_it_moves():
    energy, y, aim = gaussian(), normal(64, 3), {"steps": 200, "mass": None}
    alone = warm_up(HMC(0.1), energy, y, generator=seeded(), **aim)
    for wrapper in (ParallelTempering, TemperedTransitions):
        cold = warm_up(wrapper(HMC(0.1)), energy, y, generator=seeded(), **aim)
        assert isinstance(cold.sampler, wrapper)
        assert cold.sampler.sampler.step_size == alone.sampler.step_size

    tree = {"a": y[:, :1], "b": y[:, 1:]}
    whole = warm_up(Structured(HMC(0.1)), lambda y: energy(torch.cat([y["a"], y["b"]], -1)), tree, generator=seeded(), **aim)
    assert whole.sampler.sampler.step_size == alone.sampler.step_size
    assert torch.equal(whole.y["b"], alone.y[:, 1:])

    held = warm_up(Conditioned(HMC(0.1), [True, False, False]), energy, y, generator=seeded(), **aim)
    rest = warm_up(HMC(0.1), lambda z: energy(torch.cat([y[:, :1], z], -1)), y[:, 1:], generator=seeded(), **aim)
    assert torch.equal(held.y[:, 0], y[:, 0])
    assert held.sampler.sampler.step_size == pytest.approx(rest.sampler.step_size, rel=1e-6)


@pytest.mark.parametrize("dense", [False, True])
def test_moments_are_those_of_all_draws_together(dense):
    draws, moments = normal(40, 3) * 3 + 1, Moments(dense)
    for part in draws.split([1, 7, 12, 20]):
        moments.see(part, 1)
    covariance = torch.cov(draws.T)
    close(moments.mean, draws.mean(0))
    close(moments.scatter / 39, covariance if dense else covariance.diagonal())


@pytest.mark.parametrize("kind", ["diagonal", "dense", None])
@pytest.mark.parametrize("sampler", [MALA(0.1), HMC(0.1, leapfrog_steps=3), NUTS(0.1, max_depth=4)], ids=["mala", "hmc", "nuts"])
def test_chains_may_be_single_numbers_or_all_there_is(sampler, kind):
    """y (B,) with energies (B,), and y (S,) with one energy ()."""
    warmed = warm_up(sampler, lambda y: (y / 3).square() / 2, 3 * normal(1000), steps=60, mass=kind, generator=seeded())
    draws = warmed.sampler.sample(lambda y: (y / 3).square() / 2, warmed.y, steps=20, generator=seeded(1))
    assert draws.std().item() == pytest.approx(3, rel=0.1)
    one = warm_up(sampler, lambda y: quadratic(y), normal(5), steps=60, mass=kind, generator=seeded())
    assert one.sampler.sample(quadratic, one.y, steps=3).shape == (5,)


def test_windows_double_between_the_first_and_the_last_steps():
    plan = list(_plan(1000, 1000))
    ends = [step for step, (_, ending) in enumerate(plan) if ending]
    assert [b - a for a, b in zip([149, *ends], ends, strict=False)] == [25, 50, 100, 475]
    assert [gathers for gathers, _ in plan] == [150 <= step < 800 for step in range(1000)]
    assert not any(gathers or ending for gathers, ending in _plan(0, 100))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warm_up(GradientDescent(0.1), quadratic, normal(4, 2)), "and GradientDescent is none of them"),
        (lambda: warm_up(SliceSampler(0.1), quadratic, normal(4, 2)), "and SliceSampler is none of them"),
        (lambda: warm_up(LangevinDynamics(0.1, noise_std=0.1), quadratic, normal(4, 2)), "noise_std has no law"),
        (lambda: warm_up(LangevinDynamics(0.1, retraction="clamp"), quadratic, normal(4, 2)), "retraction has no law"),
        (lambda: warm_up(LangevinDynamics(0.1, temperature=0.0), quadratic, normal(4, 2)), "temperature=0"),
        (lambda: warm_up(HMC(0.1), quadratic, normal(4, 2), steps=5), r"warm_up\(steps=5, .*at least 20 steps"),
        (lambda: warm_up(HMC(0.1), quadratic, normal(4, 2), mass="full"), "diagonal, dense or None"),
        (lambda: warm_up(HMC(0.1), quadratic, normal(4, 2), target=1.0), r"target=1.0: .* lies in \(0, 1\)"),
        (lambda: warm_up(HMC(0.1), lambda y: 0 * y.sum(-1), normal(4, 2)), "no step size between .* the energy is all but flat"),
    ],
)
def test_errors_restate_the_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("sampler", [HMC(leapfrog_steps=3), MALA(), NUTS()])
def test_chains_that_never_move_are_told(sampler):
    """Fifteen chains tune a step size at which the sixteenth, on a wall, rejects everything."""

    def walled(y):
        return (y.square() / 2 + 1e4 * (y.abs() - 20).clamp(min=0) ** 2).sum(-1)

    start = torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warm_up(sampler, walled, start, steps=60, generator=torch.Generator().manual_seed(1))
    start[3] = 60.0
    with pytest.warns(UserWarning, match="1 of 16 chains accepted nothing in the last 30 steps"):
        warm_up(sampler, walled, start, steps=60, generator=torch.Generator().manual_seed(1))
