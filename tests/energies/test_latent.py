"""Latent variables: probabilistic PCA in closed form, rates of convergence, both derivatives, sums over finite values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

import ebm
from ebm.energies import FreeEnergy, Gaussian, GaussianMixture, LatentEnergy, MLPEnergy
from ebm.interfaces import Batch, Energy, energy_and_grad
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching
from ebm.samplers import MALA, GradientDescent, LangevinDynamics
from tests.energies.test_compose import Pull, draw

LAW = settings(max_examples=10, deadline=None, derandomize=True)
LONG = GradientDescent(step_size=0.1, steps=300)
SHORT = GradientDescent(step_size=0.1, steps=5)


class PPCA(Energy):
    """E(y, z) = |z|²/2 + |y − Wz − b|²/2s², probabilistic principal components of 3 coordinates by 2."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(draw(3, 2, seed=seed).clamp(-1.5, 1.5))
        self.b = nn.Parameter(draw(3, seed=seed + 1))
        self.s = nn.Parameter(torch.tensor(1.2, dtype=torch.float64))

    def encode(self, context=None, level=-1):
        return context

    def forward(self, joint, code=None):
        y, z = joint[..., :3], joint[..., 3:]
        return z.square().sum(-1) / 2 + (y - z @ self.w.T - self.b).square().sum(-1) / (2 * self.s**2)

    def least(self, y):
        """min_z E(y, z) = (y − b)ᵀ (WWᵀ + s²)⁻¹ (y − b) / 2, the marginal's energy."""
        covariance = self.w @ self.w.T + self.s**2 * torch.eye(3, dtype=y.dtype)
        away = y - self.b
        return (away * torch.linalg.solve(covariance, away.mT).mT).sum(-1) / 2

    def explains(self, y):
        """The mean of z given y, which is its minimum: (WᵀW + s²)⁻¹ Wᵀ (y − b)."""
        inverse = torch.linalg.inv(self.w.T @ self.w + self.s**2 * torch.eye(2, dtype=y.dtype))
        return (y - self.b) @ self.w @ inverse


def everything(energy, y, parameters):
    """Value, slope, curvature by y, and gradients of the value and of the squared slope by the parameters."""
    y = y.detach().requires_grad_()
    value, slope = energy_and_grad(energy, y, create_graph=True)
    curvature = [torch.autograd.grad(part.sum(), y, retain_graph=True)[0] for part in slope.unbind(-1)]
    return [
        value,
        slope,
        torch.stack(curvature),
        *torch.autograd.grad(value.square().sum(), parameters, retain_graph=True),
        *torch.autograd.grad(slope.square().sum(), parameters),
    ]


# ---------------------------------------------------------------------------------------------------------------- minimum


@settings(LAW, max_examples=4)
@given(seed=st.integers(0, 1000))
def test_probabilistic_pca_has_a_minimum_in_closed_form_with_all_derivatives(seed):
    joint, y = PPCA(seed), draw(5, 3, seed=seed + 2)
    parameters = list(joint.parameters())
    energy = LatentEnergy(joint, 2, LONG)
    got, expected = everything(energy, y, parameters), everything(joint.least, y, parameters)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(energy.infer(y), joint.explains(y))
    torch.testing.assert_close(energy(y), Gaussian(joint.b, joint.w @ joint.w.T + joint.s**2 * torch.eye(3))(y))


@LAW
@given(seed=st.integers(0, 1000))
def test_the_minimum_of_a_gaussian_is_its_marginal(seed):
    root = draw(4, 4, seed=seed)
    mean, covariance = draw(4, seed=seed + 1), root @ root.T / 4 + torch.eye(4)
    energy, y = LatentEnergy(Gaussian(mean, covariance), 1, GradientDescent(0.3, 200)), draw(6, 3, seed=seed + 2)
    marginal = Gaussian(mean[:3], covariance[:3, :3])
    for got, expected in zip(energy_and_grad(energy, y), energy_and_grad(marginal, y), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("unroll", "power"), [("full", 2), ("none", 1)])
def test_slopes_converge_as_fast_as_is_said(unroll, power):
    """E(y, z) = (y − z)²/2 + z²/2: z* = y/2, zₙ − z* = −ρⁿ y/2 with ρ = 1 − 2ε, and the slopes' errors are ρ²ⁿ y/2 and ρⁿ y/2."""
    y, rate = torch.tensor([[3.0], [-1.0]]).double(), 1 - 2 * 0.1
    for steps in (1, 3, 10):
        energy = LatentEnergy(halves, 1, GradientDescent(0.1, steps), unroll=unroll)
        value, slope = energy_and_grad(energy, y)
        torch.testing.assert_close(energy.infer(y).detach() - y / 2, -(rate**steps) * y / 2)
        torch.testing.assert_close(value - (y**2)[:, 0] / 4, rate ** (2 * steps) * (y**2)[:, 0] / 4)
        torch.testing.assert_close(slope - y / 2, rate ** (power * steps) * y / 2)


def halves(yz):
    return ((yz[..., 0] - yz[..., 1]).square() + yz[..., 1].square()) / 2


def test_curvature_converges_as_the_square_too():
    y = torch.tensor([[3.0]]).double().requires_grad_()
    for steps in (1, 3, 10):
        _, slope = energy_and_grad(LatentEnergy(halves, 1, GradientDescent(0.1, steps)), y, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, y)
        torch.testing.assert_close(curvature - 0.5, torch.tensor([[0.5 * 0.8 ** (2 * steps)]]).double())


def test_the_envelope_gives_values_slopes_and_gradients_of_parameters():
    joint, y = PPCA(), draw(5, 3)
    energy, parameters = LatentEnergy(joint, 2, LONG, unroll="none"), list(joint.parameters())
    for got, expected in zip(energy_and_grad(energy, y), energy_and_grad(joint.least, y), strict=True):
        torch.testing.assert_close(got, expected)
    got = torch.autograd.grad(energy(y).square().sum(), parameters)
    for one, other in zip(got, torch.autograd.grad(joint.least(y).square().sum(), parameters), strict=True):
        torch.testing.assert_close(one, other)
    assert not energy.infer(y).requires_grad
    assert gradcheck(energy, y.requires_grad_())


class Loose(Energy):
    """E(y, z) = yz + θz²/2: neither E_yy nor E_yθ says that the slope z* = −y/θ depends on y and on θ."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def encode(self, context=None, level=-1):
        return context

    def forward(self, joint, code=None):
        return joint[..., 0] * joint[..., 1] + self.theta * joint[..., 1].square() / 2


@pytest.mark.parametrize(("make", "dim", "latent"), [(PPCA, 3, 2), (Loose, 1, 1)])
@pytest.mark.parametrize("by", ["y", "parameters", "backward"])
def test_the_envelopes_slope_cannot_be_differentiated_in_silence(make, dim, latent, by):
    joint = make()
    energy, y = LatentEnergy(joint, latent, SHORT, unroll="none"), draw(5, dim).requires_grad_()
    _, slope = energy_and_grad(energy, y, create_graph=True)
    with pytest.raises(RuntimeError, match='pass unroll="full"'):
        if by == "backward":
            slope.square().sum().backward()
        else:
            torch.autograd.grad(slope.square().sum(), y if by == "y" else list(joint.parameters()), allow_unused=True)


def test_objectives_train_with_either():
    """Contrastive divergence takes slopes alone, and the envelope will do; score matching differentiates them."""
    batch = Batch(draw(8, 3))
    chains = ContrastiveDivergence(LangevinDynamics(step_size=0.05, steps=3))
    for unroll in ("full", "none"):
        joint = PPCA()
        chains(LatentEnergy(joint, 2, SHORT, unroll=unroll), batch, generator=torch.Generator().manual_seed(0)).value.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in joint.parameters())
    matching = DenoisingScoreMatching(sigma=0.3)
    matching(LatentEnergy(PPCA(), 2, SHORT), batch).value.backward()
    with pytest.raises(RuntimeError, match='pass unroll="full"'):
        matching(LatentEnergy(PPCA(), 2, SHORT, unroll="none"), batch).value.backward()


def test_contexts_and_landscapes_reach_the_joint_energy():
    pull, context, more = Pull(3), draw(2, 3, seed=1), draw(1, 3, seed=2)
    energy, y = LatentEnergy(pull, 1, GradientDescent(0.02, 300)), draw(4, 5, 2)
    assert energy.levels == 3
    for level, landscape in enumerate(energy.landscapes(context)):
        # What pulls [y, z] to vectors c has its minimum where z is the mean of their last coordinates.
        z = context[:, 2:].mean(0).expand(4, 5, 1)
        torch.testing.assert_close(landscape(y), pull.given(context, level)(torch.cat([y, z], -1)))
    extended = energy.extend(energy.encode(context), more)
    torch.testing.assert_close(energy(y, extended), energy.given(torch.cat([context, more]))(y))


def test_a_retraction_holds_the_latent_variables_where_they_may_be():
    energy = LatentEnergy(halves, 1, GradientDescent(0.1, 100, retraction="clamp"))
    y = torch.tensor([[1.0], [6.0]]).double()
    torch.testing.assert_close(energy.infer(y), torch.tensor([[0.5], [1.0]]).double())


def test_train_mode_draws_no_step_sizes():
    energy = LatentEnergy(PPCA(), 2, GradientDescent(0.1, (1, 5), step_scale=2.0)).train()
    y, state = draw(4, 3), torch.get_rng_state()
    torch.testing.assert_close(energy(y), energy(y), rtol=0, atol=0)
    assert torch.get_rng_state().equal(state)
    assert energy.sampler.training


def test_a_learnable_inner_step_size_learns_to_descend():
    energy = LatentEnergy(PPCA(), 2, GradientDescent(0.05, 5, learnable=True))
    (grad,) = torch.autograd.grad(energy(draw(4, 3)).sum(), energy.sampler.step_size)
    assert float(grad) < 0  # longer steps would reach lower


def test_inner_steps_that_diverge_say_so():
    with pytest.raises(FloatingPointError, match="a smaller step_size"):
        LatentEnergy(halves, 1, GradientDescent(1e3, 200))(torch.ones(2, 1))


# ------------------------------------------------------------------------------------------------------------ free energy


@LAW
@given(seed=st.integers(0, 1000), temperature=st.floats(0.05, 5))
def test_a_free_energy_is_the_sum_over_values_one_by_one(seed, temperature):
    joint, values, y = MLPEnergy(5, hidden=(6,)).double(), draw(4, 2, seed=seed), draw(3, 2, 3, seed=seed + 1)
    energies = [joint(torch.cat([y, z.expand(3, 2, 2)], -1)) for z in values]
    total = sum((-energy / temperature).exp() for energy in energies)
    energy = FreeEnergy(joint, values, temperature)
    torch.testing.assert_close(energy(y), -temperature * total.log())
    least = torch.stack(energies).amin(0)
    assert (energy(y) <= least).all()
    assert (energy(y) >= least - temperature * torch.tensor(4.0).log()).all()


def test_it_sums_a_mixtures_components_out():
    """With z the component's number, E(y, z) = |y − μ_z|²/2: the mixture of Gaussians."""
    means = draw(3, 2)

    def joint(yz):
        return (yz[..., None, :2] - means).square().sum(-1).gather(-1, yz[..., 2:].long())[..., 0] / 2

    energy, y = FreeEnergy(joint, torch.arange(3).double()), draw(4, 5, 2, seed=1)
    value, slope = energy_and_grad(energy, y)
    expected, grad = energy_and_grad(GaussianMixture(means), y)
    torch.testing.assert_close(slope, grad)
    torch.testing.assert_close(value - expected, (value - expected)[0, 0].expand(4, 5))


def test_cold_it_is_the_least_energy_k_means():
    """Learned values under E(y, z) = |y − z|²: the cost of k-means."""
    centres = nn.Parameter(draw(4, 2))
    energy, y = FreeEnergy(lambda yz: (yz[..., :2] - yz[..., 2:]).square().sum(-1), centres, temperature=1e-4), draw(9, 2, seed=1)
    distances, nearest = torch.cdist(y, centres.detach()).min(-1)
    torch.testing.assert_close(energy(y), distances.square(), rtol=0, atol=1e-4)
    (grad,) = torch.autograd.grad(energy(y).sum() / 2, centres)
    expected = torch.stack([(centres[k] - y[nearest == k]).sum(0) for k in range(4)])
    torch.testing.assert_close(grad, expected.detach(), rtol=1e-6, atol=1e-6)


def test_a_grid_of_values_approaches_the_integral():
    """At T = 1, and up to the grid's spacing: the marginal, which a Gaussian has in closed form."""
    whole = Gaussian((0.5, -1.0), ((2.0, 0.6), (0.6, 1.0))).double()
    grid = torch.linspace(-12, 12, 961, dtype=torch.float64)
    energy, marginal, y = FreeEnergy(whole, grid), Gaussian((0.5,), ((2.0,),)).double(), draw(6, 1)
    torch.testing.assert_close((-energy(y)).exp() * 0.025 / whole.log_z.exp(), (-marginal(y) - marginal.log_z).exp())


def test_contexts_are_shared_by_all_values():
    pull, y, context = Pull(2), draw(4, 5, 2), draw(2, 3, seed=1)
    values = draw(3, 1, seed=2)
    for level, landscape in enumerate(FreeEnergy(pull, values, 0.7).landscapes(context)):
        each = [pull.given(context, level)(torch.cat([y, z.expand(4, 5, 1)], -1)) for z in values]
        torch.testing.assert_close(landscape(y), -0.7 * torch.stack([-e / 0.7 for e in each]).logsumexp(0))


# ------------------------------------------------------------------------------------------------------------------- both


def test_recipes_build_them():
    mlp = {"use": "mlp", "dim": 4, "hidden": [8]}
    table = {"use": "latent", "latent": 2, "energy": mlp, "sampler": {"use": "gradient-descent", "steps": 3}, "unroll": "none"}
    energy = ebm.recipes.recipe.build_table("energy", table, {"task": None})
    assert energy(torch.zeros(5, 2)).shape == (5,)
    assert (energy.sampler.steps, energy.unroll) == (3, "none")
    table = {"use": "free-energy", "energy": mlp, "values": [[0.0, 0.0], [1.0, 1.0]], "temperature": 0.5}
    assert ebm.recipes.recipe.build_table("energy", table, {"task": None})(torch.zeros(5, 2)).shape == (5,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LatentEnergy(halves, 0), "latent=0"),
        (lambda: LatentEnergy(halves, 1, event=0), "event=0"),
        (lambda: LatentEnergy(halves, 1, unroll="last"), "unroll='last'"),
        (lambda: LatentEnergy(halves, 1, MALA(0.1)), "accepts or rejects"),
        (lambda: LatentEnergy(halves, 1, event=3)(torch.zeros(4, 1)), "an event has 3 axes"),
        (lambda: LatentEnergy("mlp", 1), "'mlp' is no energy"),
        (lambda: FreeEnergy(halves, ()), r"values=<\(0,\)"),
        (lambda: FreeEnergy(halves, torch.zeros(2, 1, 1)), r"values=<\(2, 1, 1\)"),
        (lambda: FreeEnergy(halves, (0.0, float("inf"))), "finite"),
        (lambda: FreeEnergy(halves, (0.0, 1.0), 0.0), "temperature=0.0"),
        (lambda: FreeEnergy(halves, (0.0, 1.0), event=2)(torch.zeros(1)), "an event has 2 axes"),
    ],
)
def test_errors_restate_the_call(make, message):
    with pytest.raises(ValueError, match=message):
        make()
