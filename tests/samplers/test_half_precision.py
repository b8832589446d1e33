"""Chains in bfloat16 and float16 keep their drift: steps that y's own bits could not hold add up."""

import math

import pytest
import torch

from ebm.energies import MLPEnergy
from ebm.samplers import (
    HMC,
    MALA,
    NUTS,
    Annealed,
    GradientDescent,
    LangevinDynamics,
    Linear,
    MirrorDescent,
    ParallelTempering,
    PreconditionedLangevin,
    ReplayAugmented,
    SteinVariational,
    UnderdampedLangevin,
    from_tensors,
    to_tensors,
    warm_up,
)
from ebm.thinking import think
from tests.helpers import SAMPLERS, quadratic, sampler, seeded

HALVES = [torch.bfloat16, torch.float16]
half = pytest.mark.parametrize("dtype", HALVES)

STILL = {
    "descent": lambda: GradientDescent(1e-4, 1000),
    "descent with momentum": lambda: GradientDescent(1e-5, 1000, momentum=0.9),
    "langevin": lambda: LangevinDynamics(1e-4, 1000, temperature=0.0),
    "annealed": lambda: Annealed(GradientDescent(Linear(1e-4, 1e-5, 400), 500), step_scales=[1.0, 1.0], temperatures=[1.0, 1.0]),
    "replay": lambda: ReplayAugmented(GradientDescent(1e-4, 1000), 8),
    "mirror": lambda: MirrorDescent(1e-4, 1000),
    "underdamped": lambda: UnderdampedLangevin(1e-3, 300, temperature=0.0),
    "preconditioned": lambda: PreconditionedLangevin(0.5, 2e-4, 1000, temperature=0.0),
    "stein": lambda: SteinVariational(1e-4, 500),
}


@half
@pytest.mark.parametrize("name", STILL)
def test_small_steps_without_noise_go_as_far_as_in_float32(name, dtype):
    start = torch.tensor([[3.0, 1.0], [-2.0, 5.0]])
    near, far = (STILL[name]().eval().sample(quadratic, start.to(kind)).float() for kind in (dtype, torch.float32))
    assert (far - start).abs().max() > 0.01
    assert (near - far).abs().max() <= torch.finfo(dtype).eps * 5 + 0.05 * (far - start).abs().max()


@half
@pytest.mark.parametrize(
    "moving",
    [LangevinDynamics(1e-4, 1000), PreconditionedLangevin(0.5, 2e-4, 1000), MALA(1e-4, 1000)],
    ids=["langevin", "p", "mala"],
)
def test_small_steps_with_noise_have_the_moments_of_the_diffusion(moving, dtype):
    """The Ornstein-Uhlenbeck process from 3: mean 3 exp(−t), variance 1 − exp(−2t), at t = 0.1."""
    y = moving.sample(quadratic, torch.full((2000, 1), 3.0, dtype=dtype), generator=seeded()).float()
    std = math.sqrt(1 - math.exp(-0.2))
    assert y.mean().item() == pytest.approx(3 * math.exp(-0.1), abs=4 * std / math.sqrt(2000) + 0.005)
    assert y.std().item() == pytest.approx(std, rel=0.08)


@half
@pytest.mark.parametrize(
    "moving",
    [MALA(0.05, 200), HMC(0.1, 40), NUTS(0.2, 20), ParallelTempering(MALA(0.05, 200))],
    ids=["mala", "hmc", "nuts", "pt"],
)
def test_exact_samplers_are_right(moving, dtype):
    y = moving.sample(quadratic, torch.full((2000, 1), 1.0, dtype=dtype), generator=seeded()).float()
    assert y.mean().item() == pytest.approx(0, abs=0.1)
    assert y.var().item() == pytest.approx(1, abs=0.15)
    if isinstance(moving, MALA):
        tuned = warm_up(moving, quadratic, y[:200].to(dtype), steps=60, generator=seeded())
        assert tuned.y.dtype == dtype
        assert 0.5 < tuned.sampler.step_size < 5


@half
@pytest.mark.parametrize("label", SAMPLERS)
def test_states_are_of_ys_own_dtype_and_go_on_as_if_they_had_not_stopped(label, dtype):
    if len(sampler(label).route([quadratic])) > 1:
        return
    y, seen = torch.randn(3, 2, generator=seeded()).to(dtype), set()

    def energy(y):
        seen.add(y.dtype)
        return quadratic(y)

    whole, parts = seeded(), seeded()
    path = [state for state, _ in sampler(label).trajectory(energy, y, steps=4, generator=whole)]
    assert {state.y.dtype for state in path} == seen == {dtype}
    *_, (state, _) = sampler(label).trajectory(energy, y, steps=2, generator=parts)
    other = seeded(7)
    again = from_tensors(to_tensors(state, parts), sampler(label).init(energy, y), other)
    for start, g in ((state, parts), (again, other)):
        assert torch.equal(sampler(label).sample(energy, start, steps=2, generator=g), path[-1].y)


@half
def test_a_network_in_half_precision_trains_through_steps_and_thinks(dtype):
    energy = MLPEnergy(2, hidden=(8,)).to(dtype)
    y = torch.randn(6, 2, generator=seeded()).to(dtype)
    end = GradientDescent(0.1, 3).sample(energy, y, unroll="full")
    end.float().square().sum().backward()
    assert end.dtype == dtype
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in energy.parameters())
    thought = think(energy, GradientDescent(0.1, 3), start=y[None], patience=2, residual=1e-3)
    assert thought.y.dtype == dtype
    with pytest.raises(ValueError, match=r"y is torch\.float16 on cpu, but the energy holds torch\.float32"):
        GradientDescent(0.1, 3).sample(MLPEnergy(2), y.to(torch.float16))


def test_what_overflows_half_precision_stops():
    with pytest.raises(FloatingPointError, match="not finite"):
        GradientDescent(1.0, 3).sample(lambda y: -9e4 * y.sum(-1).float(), torch.ones(2, 1, dtype=torch.float16))


def test_other_precisions_keep_their_states():
    for dtype in (torch.float32, torch.float64):
        for state, _ in LangevinDynamics(0.1, 2).trajectory(quadratic, torch.ones(2, 1, dtype=dtype)):
            assert type(state).__name__ == "State"
