"""HMC: what it costs, what its leapfrogs keep, and what a mass is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import energy_and_grad
from ebm.samplers import HMC, LangevinDynamics
from ebm.samplers.hamiltonian import Mass, Phase, leapfrogs
from tests.helpers import close, laws, normal, quadratic, seeded, seeds

MATRIX = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)


def bent(y):
    """A smooth landscape with no symmetry."""
    return y.square().sum(-1) / 2 + (2 * y[..., 0] - y[..., 1]).sin()


def phase(rows=5, dim=2, energy=bent, seed=0):
    y = normal(rows, dim, seed=seed)
    return Phase(y, normal(rows, dim, seed=seed + 1), *energy_and_grad(energy, y))


def total(at, mass):
    return at.value + mass.kinetic(at.momentum, 1)


@laws
@given(seed=st.integers(0, 1000), dense=st.booleans())
def test_leapfrogs_go_back_the_way_they_came(seed, dense):
    mass, start = Mass(MATRIX if dense else None), phase(seed=seed)
    end = start
    for _ in range(7):
        end = leapfrogs(bent, end, mass, 0.1, 1.0)
    back = end._replace(momentum=-end.momentum)
    for _ in range(7):
        back = leapfrogs(bent, back, mass, 0.1, 1.0)
    close(back.y, start.y)
    close(-back.momentum, start.momentum)


def test_leapfrogs_keep_the_hamiltonian_to_second_order():
    mass = Mass(MATRIX)

    def error(step_size):
        start = end = phase()
        for _ in range(round(1 / step_size)):
            end = leapfrogs(bent, end, mass, step_size, 1.0)
        return (total(end, mass) - total(start, mass)).abs().max()

    assert 3.5 < error(0.02) / error(0.01) < 4.5


@laws
@given(stiffness=st.floats(0.2, 4.0), heavy=st.floats(0.5, 3.0), size=st.floats(0.01, 1.9), steps=st.integers(1, 40), seed=seeds)
def test_leapfrogs_of_an_oscillator_turn_by_a_known_angle(stiffness, heavy, size, steps, seed):
    """E = ky²/2, mass m, h² = ε²k/m < 4: n steps turn (y, p) by nθ with cos θ = 1 − h²/2, on a known ellipse."""
    step_size = size * math.sqrt(heavy / stiffness)

    def energy(y):
        return stiffness * quadratic(y)

    start = end = phase(energy=energy, seed=seed % 1000)
    for _ in range(steps):
        end = leapfrogs(energy, end, Mass(torch.tensor(heavy, dtype=torch.float64)), step_size, 1.0)
    angle = math.acos(1 - size**2 / 2)
    width = step_size / heavy / math.sin(angle)
    turned = steps * angle
    close(end.y, start.y * math.cos(turned) + width * start.momentum * math.sin(turned), rtol=1e-7, atol=1e-8)
    close(end.momentum, start.momentum * math.cos(turned) - start.y / width * math.sin(turned), rtol=1e-7, atol=1e-8)


def test_leapfrogs_keep_volumes():
    y, p = normal(2), normal(2, seed=1)

    def map_of(z):
        # The landscape's gradient in closed form, since a Jacobian must pass through it.
        def grad(y):
            slope = (2 * y[0] - y[1]).cos()
            return y + torch.stack([2 * slope, -slope])

        half = z[2:] - 0.15 * grad(z[:2])
        moved = z[:2] + 0.3 * half
        return torch.cat([moved, half - 0.15 * grad(moved)])

    start = Phase(y[None], p[None], *energy_and_grad(bent, y[None]))
    end = leapfrogs(bent, start, Mass(), 0.3, 1.0)
    close(map_of(torch.cat([y, p])), torch.cat([end.y[0], end.momentum[0]]))
    close(torch.linalg.det(torch.autograd.functional.jacobian(map_of, torch.cat([y, p]))), torch.tensor(1.0, dtype=torch.float64))


def test_ends_whose_energy_or_gradient_is_not_finite_are_rejected():
    """Half of the places are walls: with no finite energy, or with one but no gradient."""

    class Lost(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            ctx.save_for_backward(y)
            return torch.zeros_like(y)

        @staticmethod
        def backward(ctx, grad):
            return torch.where(ctx.saved_tensors[0] > 0, torch.nan, grad)

    def no_gradient(y):
        return quadratic(y) + Lost.apply(y).sum(-1)

    y = -normal(200, 2).abs()
    for energy in (
        no_gradient,
        *(lambda y, high=high: quadratic(y) + torch.where(y > 0, high, 0.0).sum(-1) for high in (torch.inf, -torch.inf)),
        lambda y: quadratic(y) + torch.where(y > 0, torch.nan, 0.0).sum(-1),
    ):
        end = HMC(0.3, leapfrog_steps=4, steps=15).sample(energy, y, generator=seeded())
        assert (end < 0).all()
        assert (end != y).any(-1).double().mean() > 0.5


def test_a_step_costs_one_gradient_for_each_leapfrog():
    calls = []

    def counted(y):
        calls.append(len(y))
        return bent(y)

    gradients = [
        info.gradients for _, info in HMC(0.1, leapfrog_steps=6).trajectory(counted, normal(3, 2), steps=4, generator=seeded())
    ]
    assert calls == [3] * (2 + 4 * 6)
    assert all(torch.equal(each, torch.full_like(each, 6)) for each in gradients)


@laws
@given(seed=seeds)
def test_a_mass_is_a_change_of_coordinates(seed):
    """With M = L Lᵀ, y = L⁻ᵀ x and p = L q: HMC on E with M is HMC on x ↦ E(L⁻ᵀ x) without a mass."""
    factor = torch.linalg.cholesky(MATRIX)
    y = normal(6, 2, seed=seed % 1000)
    one = HMC(0.2, steps=5, leapfrog_steps=3, mass=MATRIX).sample(bent, y, generator=seeded(seed))
    inverse = torch.linalg.inv(factor)
    plain = HMC(0.2, steps=5, leapfrog_steps=3)
    other = plain.sample(lambda x: bent(x @ inverse), y @ factor, generator=seeded(seed)) @ inverse
    close(one, other, rtol=1e-7, atol=1e-8)


def test_a_diagonal_is_the_matrix_with_that_diagonal():
    diagonal = torch.tensor([2.0, 0.5], dtype=torch.float64)
    ends = [HMC(0.2, steps=4, mass=mass).sample(bent, normal(6, 2), generator=seeded()) for mass in (diagonal, diagonal.diag())]
    close(*ends)


def test_a_mass_of_events_with_several_axes():
    def energy(y):
        return y.square().sum((-1, -2)) / 2

    y = normal(4, 2, 3)
    for mass in (normal(2, 3).abs(), torch.eye(6, dtype=torch.float64)):
        assert HMC(0.2, steps=2, mass=mass).sample(energy, y, generator=seeded()).shape == y.shape


def test_one_leapfrog_proposes_as_langevin_does():
    """With L = 1 a proposal is Langevin's with step size ε²/2; at a tiny step all are accepted."""
    y = normal(5, 2)
    one = HMC(1e-4, steps=1, leapfrog_steps=1).sample(bent, y, generator=seeded())
    other = LangevinDynamics(1e-8 / 2, steps=1).sample(bent, y, generator=seeded())
    close(one, other)


def test_the_acceptance_is_that_of_the_energy_error():
    y, g = normal(4000, 2), seeded()
    ((_, info),) = HMC(0.8, leapfrog_steps=3).trajectory(bent, y, steps=1, generator=g)
    assert 0.5 < info.acceptance.mean() < 0.99
    spread = (info.acceptance * (1 - info.acceptance)).mean().sqrt() / len(y) ** 0.5
    assert (info.accepted.double().mean() - info.acceptance.mean()).abs() < 4 * spread


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HMC(0.1, leapfrog_steps=0), "leapfrog_steps=0: .*a path has at least one step"),
        (lambda: HMC(0.1, temperature=0.0), "temperature=0.0: pass a positive number"),
        (lambda: HMC(0.1, mass=torch.tensor([1.0, -1.0])), "pass a positive diagonal, or a symmetric positive definite"),
        (lambda: HMC(0.1, mass=torch.tensor([[1.0, -2.0], [-2.0, 1.0]])), "symmetric positive definite"),
        (lambda: HMC(0.1, mass="2"), "mass=.2.: pass a finite tensor"),
        (
            lambda: HMC(0.1, mass=torch.ones(3)).sample(quadratic, torch.zeros(4, 2)),
            r"mass of shape \(3,\) for events \(2,\): pass a diagonal \(2,\), or a matrix \(2, 2\)",
        ),
    ],
)
def test_errors_restate_the_call(call, message):
    with pytest.raises(ValueError, match=message):
        call()
