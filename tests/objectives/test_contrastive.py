"""Laws of contrastive divergence: the closed form of its gradient, where its chains start, and what is a constant."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.interfaces import Batch, Energy
from ebm.objectives import ContrastiveDivergence
from ebm.samplers import GradientDescent, LangevinDynamics, ReplayAugmented
from tests.helpers import Valley, close, grads, laws, normal, quadratic, seeded, seeds


class Bowl(Energy):
    """E(y | c) = |y − c − m|²/2 with a learnable m: dE/dm = m + c − y."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))

    def forward(self, y, code=None):
        return quadratic(y - self.centre - (0.0 if code is None else code))


class Recorder:
    """An energy function that keeps where it was asked for."""

    def __init__(self):
        self.seen = []

    def __call__(self, y):
        self.seen.append(y.detach().clone())
        return quadratic(y)


def weighted(values, weight):
    return (weight[:, None] * values).sum(0) / weight.sum() if weight is not None else values.mean(0)


@laws
@given(seed=seeds, has_weight=st.booleans(), has_context=st.booleans(), start=st.sampled_from(["data", "noise"]))
def test_the_gradient_of_a_mean_is_the_difference_of_means(seed, has_weight, has_context, start):
    energy, data = Bowl(), normal(6, 2, seed=seed)
    weight = normal(6, seed=seed + 1).abs() if has_weight else None
    context = normal(6, 2, seed=seed + 2) if has_context else None
    sampler, g = LangevinDynamics(0.1, steps=4), seeded(seed)
    begin = data if start == "data" else torch.randn(6, 2, generator=g, dtype=torch.float64)
    samples = sampler.sample(energy.given(context), begin, generator=g)
    loss = ContrastiveDivergence(sampler, start=start)(energy, Batch(data, context, weight), generator=seeded(seed))
    close(grads(loss.value, energy.centre)[0], weighted(samples, weight) - weighted(data, weight))
    positive, negative = (weighted(energy.given(context)(y).detach()[:, None], weight)[0] for y in (data, samples))
    close(loss.value.detach(), positive - negative)
    close(loss.terms["energy_data"], positive)
    close(loss.terms["energy_samples"], negative)
    close(loss.terms["energy_gap"], positive - negative)
    close(loss.terms["displacement"], (samples - begin).norm(dim=1).mean())


@laws
@given(seed=seeds, strength=st.floats(0.01, 1.0))
def test_the_squared_energies_are_added(seed, strength):
    energy, data, sampler = Valley(), normal(6, 2, seed=seed), LangevinDynamics(0.1, steps=4)
    samples = sampler.sample(energy, data, generator=seeded(seed))
    loss = ContrastiveDivergence(sampler, energy_l2=strength)(energy, Batch(data), generator=seeded(seed))
    one, two = energy(data), energy(samples)
    expected = one.mean() - two.mean() + strength * ((one**2).mean() + (two**2).mean())
    close(loss.value, expected)
    parameters = (energy.inner, energy.heights)
    for got, hand in zip(grads(loss.value, *parameters), grads(expected, *parameters), strict=True):
        close(got, hand)


def test_chains_of_cd_start_at_data_and_short_runs_at_noise():
    data = normal(5, 2)
    for start, expected in {"data": data, "noise": torch.randn(5, 2, generator=seeded(), dtype=torch.float64)}.items():
        energy = Recorder()
        ContrastiveDivergence(LangevinDynamics(0.1, steps=2), start=start)(energy, Batch(data), generator=seeded())
        close(energy.seen[0], expected)
    energy = Recorder()
    ContrastiveDivergence(LangevinDynamics(0.1, steps=2), start="noise")(energy, Batch(data), start=data + 1)
    close(energy.seen[0], data + 1)


def test_noise_is_the_tasks_start():
    class Far:
        def start(self, batch, *, generator=None):
            return batch.target + 100 + torch.rand((), generator=generator)

    energy, data = Recorder(), normal(5, 2)
    ContrastiveDivergence(LangevinDynamics(0.1), start="noise", task=Far())(energy, Batch(data), generator=seeded())
    close(energy.seen[0], data + 100 + torch.rand((), generator=seeded()))


def test_noise_on_data_goes_to_both_sides():
    energy, data = Recorder(), normal(5, 2)
    noised = data + 0.3 * torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    aim = ContrastiveDivergence(GradientDescent(0.1, steps=1), data_noise=0.3)
    loss = aim(energy, Batch(data), generator=seeded())
    close(energy.seen[0], noised)
    close(loss.terms["energy_data"], quadratic(noised).mean())


def test_persistent_chains_go_on_where_they_ended():
    replay = ReplayAugmented(GradientDescent(0.5, steps=1), capacity=4, fresh=0.0)
    aim, energy = ContrastiveDivergence(replay, start="noise"), Recorder()
    first = aim(energy, Batch(normal(4, 2)), generator=seeded())
    ends = energy.seen[0] / 2
    energy.seen.clear()
    second = aim(energy, Batch(normal(4, 2, seed=1)), generator=seeded(1))
    assert all(any(torch.equal(row, end) for end in ends) for row in energy.seen[0])
    assert first.terms.keys() == second.terms.keys()
    assert len(replay) == 4


def test_stored_rows_are_judged_with_their_own_context():
    """Every context is a centre of its own, far from the others; chains start near theirs and hardly move."""
    replay = ReplayAugmented(GradientDescent(1e-3, steps=1), capacity=8, fresh=0.2)
    aim, energy, g = ContrastiveDivergence(replay), Bowl(), seeded()
    for first in range(0, 20, 4):
        centres = 100.0 * torch.arange(first, first + 4, dtype=torch.float64)[:, None].expand(-1, 2)
        loss = aim(energy, Batch(centres + normal(4, 2), centres), generator=g)
        assert loss.terms["energy_samples"] < 10


def test_displacement_is_that_of_chains():
    """Chains are the entries of the energy's output, here two axes of them."""
    data = normal(2, 3, 4)
    loss = ContrastiveDivergence(GradientDescent(0.25, steps=1))(quadratic, Batch(data))
    close(loss.terms["displacement"], (data / 4).norm(dim=-1).mean())
    close(loss.terms["grad_norm"], data.norm(dim=-1).mean())


def test_samples_are_points_and_constants():
    class Logits(Energy):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(normal(3))
            self.seen = []

        def forward(self, y, code=None):
            self.seen.append(y)
            return (y * self.weight).sum(-1)

    energy, data = Logits(), normal(4, 3)
    sampler = GradientDescent(0.5, steps=3, retraction="softmax")
    loss = ContrastiveDivergence(sampler)(energy, Batch(data))
    assert not energy.seen[-1].requires_grad
    samples = sampler.point(sampler.sample(energy, data))
    close(energy.seen[-4].detach(), samples)  # before the three steps of our own
    close(grads(loss.value, energy.weight)[0], data.mean(0) - samples.mean(0))


def test_landscapes_are_all_visited_and_the_last_is_trained():
    visited = []

    class Stairs(Energy):
        levels = 3

        def __init__(self):
            super().__init__()
            self.heights = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def encode(self, context=None, level=-1):
            return level

        def forward(self, y, code=None):
            visited.append(code)
            return quadratic(y) * self.heights[code]

    energy = Stairs()
    loss = ContrastiveDivergence(LangevinDynamics(0.1, steps=2))(energy, Batch(normal(4, 2)), generator=seeded())
    assert visited == [0, 0, 1, 1, 2, 2, 2, 2]
    of = grads(loss.value, energy.heights)[0]
    assert not of[:2].any()
    assert of[2] != 0


def test_no_steps_are_no_divergence():
    loss = ContrastiveDivergence(LangevinDynamics(0.1, steps=0))(quadratic, Batch(normal(4, 2)))
    assert loss.value == loss.terms["displacement"] == loss.terms["grad_norm"] == 0


def test_the_gradient_norm_is_that_of_the_last_step():
    data, sampler = normal(4, 2), GradientDescent(0.5, steps=3)
    loss = ContrastiveDivergence(sampler)(quadratic, Batch(data))
    close(loss.terms["grad_norm"], (data / 4).norm(dim=1).mean())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"start": "buffer"}, "start='buffer'"), ({"energy_l2": -1.0}, "energy_l2=-1.0"), ({"data_noise": -1.0}, "data_noise=-1.0")],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveDivergence(LangevinDynamics(0.1), **keywords)


@pytest.mark.parametrize("how", [{"start": "noise"}, {"data_noise": 0.1}, {}])
def test_data_of_whole_numbers_are_refused_with_the_way_out(how):
    with pytest.raises(ValueError, match=r"y is torch.int64: .* pass y.float\(\)"):
        ContrastiveDivergence(LangevinDynamics(0.1, steps=1), **how)(quadratic, Batch(torch.ones(3, 2, dtype=torch.long)))
