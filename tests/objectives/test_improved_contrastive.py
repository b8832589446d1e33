"""Laws of the KL term: its gradient through the sampler, its entropy, and plain contrastive divergence without it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from ebm.interfaces import Batch, Energy
from ebm.objectives import ContrastiveDivergence, ImprovedContrastiveDivergence
from ebm.objectives.improved_contrastive import entropies
from ebm.samplers import MALA, GradientDescent, LangevinDynamics, ReplayAugmented
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds


class Spring(Energy):
    """E(y) = a |y − m|²/2."""

    def __init__(self, stiffness=0.7, centre=(0.5, -1.0)):
        super().__init__()
        self.stiffness, self.centre = parameter(stiffness), parameter(*centre)

    def forward(self, y, code=None):
        return self.stiffness * quadratic(y - self.centre)


def kl_of(objective, energy, batch):
    """The term alone: what the loss has beyond plain contrastive divergence of the same draws."""
    plain = ContrastiveDivergence(objective.sampler, objective.start)
    one, two = objective(energy, batch, generator=seeded()), plain(energy, batch, generator=seeded())
    return one.value - two.value


def by_hand(energy, data, step_size, noise, held):
    """E_held(x⁻) − H(x⁻) of one Langevin step, with x⁻ as a function of the energy's parameters."""
    x = data - step_size * energy.stiffness * (data - energy.centre) + math.sqrt(2 * step_size) * noise
    stiffness, centre = held
    return (stiffness * quadratic(x - centre)).mean() - entropies(x).mean()


@laws
@given(seed=seeds)
def test_the_term_and_its_gradient_are_those_of_the_step_written_out(seed):
    energy, data = Spring(), normal(6, 2, seed=seed)
    noise = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    found = kl_of(ImprovedContrastiveDivergence(LangevinDynamics(0.1, steps=1)), energy, Batch(data))
    expected = by_hand(energy, data, 0.1, noise, (energy.stiffness.detach(), energy.centre.detach()))
    close(found.detach(), expected.detach())
    parameters = (energy.stiffness, energy.centre)
    for got, hand in zip(grads(found, *parameters), grads(expected, *parameters), strict=True):
        close(got, hand)


def test_the_gradient_is_that_of_finite_differences():
    """gradcheck moves the parameters of the sampler's energy alone; those of the energy that is paid stay, as they should."""
    data, noise, held = normal(6, 2), torch.randn(6, 2, generator=seeded(), dtype=torch.float64), Spring()

    def term(stiffness, centre):
        moved = Spring()
        moved.stiffness, moved.centre = torch.nn.Parameter(stiffness), torch.nn.Parameter(centre)
        x = data - 0.1 * stiffness * (data - centre) + math.sqrt(0.2) * noise
        return held(x).mean() - entropies(x).mean()

    start = [held.stiffness.detach().clone().requires_grad_(), held.centre.detach().clone().requires_grad_()]
    assert gradcheck(term, start)
    found = kl_of(ImprovedContrastiveDivergence(LangevinDynamics(0.1, steps=1)), held, Batch(data))
    expected = torch.autograd.grad(term(*start), start)
    for got, hand in zip(grads(found, held.stiffness, held.centre), expected, strict=True):
        close(got, hand)
    assert gradcheck(entropies, [normal(7, 3).requires_grad_()])


def test_unroll_says_through_how_many_steps_the_gradient_goes():
    """Of a descent without noise from y, x_k = (1 − εa)ᵏ y around the centre 0."""
    energy, data, step, count = Spring(0.7, (0.0, 0.0)), normal(6, 2), 0.1, 3
    slope = {}
    for unroll in ("last", "full"):
        objective = ImprovedContrastiveDivergence(GradientDescent(step, steps=count), unroll=unroll, entropy=0.0)
        slope[unroll] = grads(kl_of(objective, energy, Batch(data)), energy.stiffness)[0]
    a = energy.stiffness.detach()
    shrunk = (1 - step * a) ** (2 * count - 1)
    paid = a * data.square().sum(-1).mean() * -step * shrunk  # d/da of a₀ |x|²/2, with a₀ held
    close(slope["last"], paid)
    close(slope["full"], count * paid)


def test_values_are_those_of_plain_contrastive_divergence_and_the_draws_too():
    energy, data = Valley(), normal(6, 2)
    plain = ContrastiveDivergence(LangevinDynamics(0.1, steps=3), energy_l2=0.1)(energy, Batch(data), generator=seeded())
    none = ImprovedContrastiveDivergence(LangevinDynamics(0.1, steps=3), energy_l2=0.1, kl=0.0)
    found = none(energy, Batch(data), generator=seeded())
    close(found.value, plain.value)
    for got, expected in zip(grads(found.value, *energy.parameters()), grads(plain.value, *energy.parameters()), strict=True):
        close(got, expected)
    assert {name: found.terms[name] for name in plain.terms} == plain.terms


def test_the_sampler_is_pulled_to_low_energy_and_its_chains_apart():
    """A learnable step trains by this term alone: plain contrastive divergence has chains that are constants."""
    data = normal(64, 2) + 3
    for weight, sign in ((0.0, -1), (20.0, 1)):  # a longer step goes further down; or entropy keeps chains from one minimum
        sampler = GradientDescent(0.5, steps=1, learnable=True)
        loss = ImprovedContrastiveDivergence(sampler, entropy=weight)(quadratic, Batch(data))
        assert grads(loss.value, sampler.step_size)[0].sign() == sign
        assert not ContrastiveDivergence(sampler)(quadratic, Batch(data)).value.requires_grad


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_entropy_is_that_of_a_normal(dim):
    """H = d/2 log 2πe + log |L|, within four standard errors."""
    points = normal(4000, dim, seed=dim) * 2.5
    found = entropies(points)
    expected = dim / 2 * math.log(2 * math.pi * math.e) + dim * math.log(2.5)
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(4000) + 0.05 * (dim > 2)


@laws
@given(st.integers(2, 12), st.integers(1, 3), st.floats(0.1, 10), seeds)
def test_the_entropy_knows_scales_and_is_what_its_sum_says(count, dim, unit, seed):
    points = normal(count, dim, seed=seed)
    close(entropies(unit * points), entropies(points) + dim * math.log(unit), rtol=1e-7, atol=1e-7)
    nearest = [min(float((points[i] - points[j]).norm()) for j in range(count) if j != i) for i in range(count)]
    harmonic = sum(1 / i for i in range(1, count))  # ψ(n) − ψ(1)
    volume = {1: 2.0, 2: math.pi, 3: 4 * math.pi / 3}[dim]
    expected = [dim * math.log(rho) + math.log(volume) + harmonic for rho in nearest]
    close(entropies(points), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7)


def test_chains_without_weight_are_nobodys_neighbours():
    points = normal(6, 2)
    counted = torch.tensor([True, True, False, True, False, True])
    close(entropies(points, counted)[counted], entropies(points[counted]))


def test_stored_chains_are_trained_through_their_last_step():
    replay = ReplayAugmented(LangevinDynamics(0.1, steps=2), capacity=32)
    objective = ImprovedContrastiveDivergence(replay, start="noise")
    energy = Spring()
    for seed in range(3):
        loss = objective(energy, Batch(normal(8, 2, seed=seed)), generator=seeded(seed))
        assert grads(loss.value, energy.centre)[0].isfinite().all()
    assert len(replay) > 8
    assert not any(isinstance(kept, torch.Tensor) and kept.requires_grad for kept in replay.get_extra_state().values())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"kl": -1.0}, r"kl=-1\.0"),
        ({"entropy": float("nan")}, "entropy=nan"),
        ({"unroll": "none"}, "unroll='none': choose last or full"),
        ({"sampler": MALA(0.1)}, "MALA accepts or rejects"),
    ],
)
def test_what_cannot_work_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        ImprovedContrastiveDivergence(**{"sampler": LangevinDynamics(0.1), **keywords})


def test_one_chain_is_refused_and_equal_ones_stop_training():
    objective = ImprovedContrastiveDivergence(GradientDescent(0.1, steps=1))
    with pytest.raises(ValueError, match="at least two chains"):
        objective(quadratic, Batch(normal(1, 2)))
    assert objective(quadratic, Batch(torch.ones(3, 2))).value == math.inf  # and not a number that looks like one
