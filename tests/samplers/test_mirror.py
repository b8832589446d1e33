"""Mirror descent: closed forms on the simplex, falling energies, exact derivatives, sure beliefs."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.energies import BeliefEBT
from ebm.samplers import GradientDescent, LangevinDynamics, Linear, MirrorDescent
from tests.helpers import close, laws, normal, seeded, seeds


def linear(costs):
    return lambda p: (p * costs).sum(-1)


def free(field):
    """Σ p log p − ⟨p, field⟩, whose minimum is softmax(field)."""
    return lambda p: (p * (p.clamp(min=1e-35).log() - field)).sum(-1)


@laws
@given(seed=seeds, size=st.floats(0.01, 2.0), steps=st.integers(1, 6))
def test_on_a_linear_energy_steps_add_up(seed, size, steps):
    costs, y = normal(4, seed=seed), normal(3, 4, seed=seed + 1)
    end = MirrorDescent(size, steps).sample(linear(costs), y)
    close(end, (y - steps * size * costs).log_softmax(-1))


@laws
@given(seed=seeds, size=st.floats(0.05, 1.0))
def test_on_a_free_energy_the_way_shrinks_by_a_share(seed, size):
    """With E = Σ p log p − ⟨p, f⟩ the gap z − f falls by 1 − ε a step, up to a constant."""
    field, y = normal(4, seed=seed), normal(2, 4, seed=seed + 1)
    end = MirrorDescent(size, 3).sample(free(field), y)
    close(end, ((1 - size) ** 3 * y + (1 - (1 - size) ** 3) * field).log_softmax(-1))
    close(MirrorDescent(1.0, 1).sample(free(field), y).softmax(-1), field.softmax(-1).expand(2, 4))


@laws
@given(seed=seeds)
def test_on_a_quadratic_energy_it_finds_the_projection_to_the_simplex(seed):
    """|p − q|² / 2 over the simplex: for q inside it the minimum is q."""
    inside = normal(4, seed=seed).softmax(-1)
    end = MirrorDescent(1.0, 2000).sample(lambda p: (p - inside).square().sum(-1) / 2, normal(3, 4, seed=seed + 1))
    close(end.softmax(-1), inside.expand(3, 4), rtol=1e-4, atol=1e-5)


@laws
@given(seed=seeds, momentum=st.sampled_from([0.0, 0.3]))
def test_small_steps_lower_a_smooth_energy(seed, momentum):
    matrix, y = normal(5, 5, seed=seed), normal(6, 5, seed=seed + 1)

    def energy(p):
        return (p * (p @ (matrix + matrix.T))).sum(-1) / 2 + (p * p.log()).sum(-1)

    path = [info.energy for _, info in MirrorDescent(0.02, 30, momentum=momentum).trajectory(energy, y)]
    if momentum == 0.0:
        assert all(bool((after <= before + 1e-12).all()) for before, after in itertools.pairwise(path))
    assert bool((path[-1] < path[0]).all())


def test_steps_agree_with_exponentiated_gradient_written_out():
    costs, p = normal(3), normal(2, 3).softmax(-1)
    y = p.log()
    for _ in range(4):
        weights = p * torch.exp(-0.3 * (costs + p))
        p = weights / weights.sum(-1, keepdim=True)
    end = MirrorDescent(0.3, 4).sample(lambda p: (p * costs).sum(-1) + p.square().sum(-1) / 2, y)
    close(end.softmax(-1), p)


@pytest.mark.parametrize("how", [{}, {"momentum": 0.5}, {"momentum": 0.5, "nesterov": True}, {"hidden": 1}])
def test_derivatives_through_many_steps_are_exact(how):
    torch.manual_seed(0)
    hidden = how.get("hidden", 0)
    energy = BeliefEBT(3, relations={"kind": "order", "reach": 1}, dim=4, heads=2, hidden=hidden).double()
    context = torch.tensor([[-1, 2, -1]])
    sampler = MirrorDescent(0.7, 3, learnable=True, **how).double()
    y = normal(1, 3, 3 + hidden).requires_grad_()
    function = energy.given(context)

    assert torch.autograd.gradcheck(lambda y: sampler.sample(function, y, unroll="full"), (y,), atol=1e-6)
    # and by the energy's parameters: the loss's slope against finite differences
    weight = energy.read_out.weight

    def loss():
        return sampler.sample(energy.given(context), y.detach(), unroll="full").softmax(-1).square().sum()

    slope, step = torch.autograd.grad(loss(), [weight, sampler.step_size])
    for parameter, found, place in ((weight, slope, (0, 1)), (sampler.step_size, step, ())):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * 1e-5
            ends.append(loss().item())
            with torch.no_grad():
                parameter[place] -= sign * 1e-5
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(found[place].item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sure_beliefs_stay_finite_and_can_change(dtype):
    energy = free(torch.tensor([0.0, 4.0, 0.0], dtype=dtype))
    sure = torch.tensor([[0.0, -1e4, -1e4]], dtype=dtype)
    states = [state.y for state, _ in MirrorDescent(0.5, 40).trajectory(energy, sure)]
    assert all(bool(torch.isfinite(y).all()) and y.dtype == dtype for y in states)
    assert states[-1].argmax(-1).item() == 1
    hard = MirrorDescent(50.0, 20).sample(linear(torch.tensor([1.0, 0.0, 3.0], dtype=dtype)), torch.zeros(1, 3, dtype=dtype))
    close(hard.float().softmax(-1), torch.tensor([[0.0, 1.0, 0.0]]), rtol=1e-2, atol=1e-6)


def test_noise_can_be_left_out_of_evaluation():
    sampler = MirrorDescent(0.1, 3, noise_std=0.5, noise_in="train")
    y, energy = normal(2, 3), linear(normal(3))
    ends = [sampler.train(mode).sample(energy, y, generator=seeded(seed)) for mode in (True, False) for seed in (0, 1)]
    assert not torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[3])
    used = seeded()
    sampler.eval().sample(energy, y, generator=used)
    assert torch.equal(used.get_state(), seeded().get_state())


def test_hidden_units_are_means_and_get_room():
    torch.manual_seed(0)
    energy = BeliefEBT(3, dim=8, heads=2, hidden=2)
    sampler = MirrorDescent(0.5, 4, hidden=2)
    end = sampler.sample(energy.given(torch.full((5, 4), -1)), torch.randn(5, 4, 3), generator=seeded())
    assert end.shape == (5, 4, 5)
    point = sampler.point(end)
    close(point[..., :3].sum(-1), torch.ones(5, 4), rtol=1e-5)
    assert bool((point[..., 3:].abs() < 1).all())
    # E = −H(g) − ⟨g, r⟩ has its minimum at g = tanh r, which one step of size 1 finds
    field = torch.tensor([0.3, -1.2])

    def of_units(point):
        g = point[..., 2:]
        up, down = (1 + g) / 2, (1 - g) / 2
        return (up * up.log() + down * down.log() - g * field).sum(-1) + point[..., :2].sum(-1)

    end = MirrorDescent(1.0, 1, hidden=2).sample(of_units, torch.zeros(1, 4))
    close(end[..., 2:].tanh(), field.tanh()[None], rtol=1e-5, atol=1e-6)


def test_schedules_and_arguments():
    costs = torch.tensor([0.0, 1.0], dtype=torch.float64)
    end = MirrorDescent(Linear(1.0, 0.0, 4), 4).sample(linear(costs), torch.zeros(1, 2, dtype=torch.float64))
    close(end, (-(1.0 + 0.75 + 0.5 + 0.25) * costs).log_softmax(-1)[None])
    for how, message in (
        ({"hidden": -1}, "hidden=-1"),
        ({"noise_in": "eval"}, "noise_in='eval'"),
        ({"momentum": 1.0}, "momentum"),
    ):
        with pytest.raises(ValueError, match=message):
            MirrorDescent(0.1, 2, **how)
    assert math.isclose(MirrorDescent(0.3).step_size, 0.3)


@pytest.mark.parametrize(
    "sampler", [MirrorDescent(0.1), GradientDescent(0.1, retraction="softmax"), LangevinDynamics(0.1, retraction="softmax")]
)
def test_an_energy_for_each_entry_would_mix_chains(sampler):
    with pytest.raises(ValueError, match=r"would mix the chains: pass logits"):
        sampler.sample(lambda p: p**2, torch.zeros(5))
    assert sampler.sample(lambda p: (p**2).sum(-1), torch.zeros(5)).shape == (5,)
