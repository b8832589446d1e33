"""Laws of mixtures over starts: their closed form, their gradient, their bound, and what they are for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.energies import BeliefEBT
from ebm.interfaces import Batch
from ebm.objectives import Mixture, Reconstruction
from ebm.samplers import MALA, GradientDescent, MirrorDescent, ReplayAugmented
from ebm.tasks import Arithmetic, Points
from tests.helpers import Valley, close, laws, normal, parameter, quadratic, seeded, seeds


def squared(y, batch):
    return (y - batch.target).square().sum(-1)


def noise(batch, generator=None):
    return torch.randn(batch.target.shape, generator=generator, dtype=batch.target.dtype)


def mixture(starts=3, **how):
    return Mixture(GradientDescent(parameter(0.2), steps=2), starts=starts, **{"start": noise, "distance": squared, **how})


@settings(laws, max_examples=10)
@given(seed=seeds, starts=st.integers(2, 5), weighted=st.booleans())
def test_value_and_gradient_are_those_of_the_weighted_starts(seed, starts, weighted):
    """The slow way: each start by itself, weighted by its share e^−d / Σ e^−d of the answer."""
    weight = normal(4, seed=seed + 2).abs() if weighted else torch.ones(4, dtype=torch.float64)
    batch = Batch(normal(4, 2, seed=seed), normal(4, 3, seed=seed + 1), weight if weighted else None)
    energy, start, aim = Valley(seed=seed % 100), normal(starts, 4, 2, seed=seed + 3), mixture(starts)
    loss = aim(energy, batch, start=start)
    loss.value.backward()
    found = [p.grad for p in (*energy.parameters(), *aim.parameters())]
    energy.zero_grad()
    aim.zero_grad()
    distances = []
    for one in start:
        *_, (state, _) = aim.sampler.trajectory(energy.given(batch.context), one, unroll="full")
        distances.append(squared(state.y, batch))
    shares = torch.stack([(-d.detach()).exp() for d in distances])
    close(loss.value.detach(), (weight * -(shares.mean(0)).log()).sum() / weight.sum())
    shares = shares / shares.sum(0)
    sum((weight * r * d).sum() / weight.sum() for r, d in zip(shares, distances, strict=True)).backward()
    for got, expected in zip(found, (p.grad for p in (*energy.parameters(), *aim.parameters())), strict=True):
        close(got, expected)
    assert loss.terms["best_start"] <= loss.value <= loss.terms["mean_start"]


def test_of_one_start_it_is_the_reconstruction_of_the_last_step():
    energy, batch, aim = Valley(), Batch(normal(4, 2), normal(4, 3, seed=1)), mixture()
    other = Reconstruction(aim.sampler, start=noise, distance=squared, reduce="last", unroll="full")
    start = normal(4, 2, seed=2)
    close(aim(energy, batch, start=start[None]).value, other(energy, batch, start=start).value)


def test_more_starts_are_a_tighter_bound():
    energy, batch = Valley(), Batch(normal(50, 2), normal(50, 3, seed=1))
    generator = seeded()
    means = [
        torch.stack([mixture(k)(energy, batch, generator=generator).value.detach() for _ in range(20)]).mean() for k in (2, 8, 32)
    ]
    assert means[0] > means[1] > means[2]


class Sides(Points):
    """Three places, all 0 or all 1: which of both, nothing says."""

    def __init__(self):
        self.spec = {"vocab_size": 2, "length": 3}

    def start(self, batch, *, generator=None):
        return torch.randn(*batch.target.shape, 2, generator=generator)

    def distance(self, y, batch):
        return -y[..., :2].log_softmax(-1).gather(-1, batch.target.expand(y.shape[:-1])[..., None]).sum((-1, -2))


def trained(kind, **how):
    """Trains a belief about three places, and returns nats of the mixture of 64 starts, and of a single one."""
    torch.manual_seed(0)
    energy, steps = BeliefEBT(2, length=3, dim=16, heads=2, hidden=4, fixed=False), 160
    aim, generator = kind(MirrorDescent(1.0, steps=2, hidden=4), Sides(), unroll="full", **how), seeded()
    optimizer = torch.optim.Adam(energy.parameters(), lr=0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batch = Batch(torch.tensor([[0, 0, 0], [1, 1, 1]]), torch.full((2, 3), -1))
    for _ in range(steps):
        optimizer.zero_grad()
        aim(energy, batch, generator=generator).value.backward()
        optimizer.step()
        rate.step()
    judged = Mixture(aim.sampler, Sides(), starts=64)
    with torch.no_grad():
        loss = judged(energy, batch, generator=generator)
    return loss.value.item(), loss.terms["mean_start"].item()


def test_starts_share_two_answers_where_their_mean_blurs_them():
    """Of 64 starts 32 are right about either answer: ln 2. What all say alike is each place by itself: 3 ln 2."""
    value, mean = trained(Mixture, starts=16)
    assert value < 1.5 * math.log(2)
    assert mean > 3 * math.log(2)
    for found in trained(Reconstruction, reduce="last"):
        assert found == pytest.approx(3 * math.log(2), rel=0.02)


def test_a_tasks_whole_answers_are_counted_in_nats():
    task = Arithmetic(width=(2, 2), n=20)
    batch = task.rows("test")
    aim = Mixture(MirrorDescent(1.0, steps=1), task)
    assert aim.distance == task.nats
    y = normal(3, *batch.target.shape, task.spec["vocab_size"])
    asked = task.unknown(batch.context).sum(-1)
    close(task.nats(y, batch), task.distance(y, batch) * asked)
    assert bool((asked > 1).all())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"starts": 1}, r"starts=1: a mixture has at least 2; of one start it is Reconstruction\(reduce='last'\)"),
        ({"unroll": "each"}, "unroll='each': the loss is of the last state, so choose full or last"),
        ({"sampler": MALA(0.1)}, "MALA accepts or rejects"),
        ({"start": None}, "Mixture needs to know where y starts and how far it is"),
        ({"distance": None}, "Mixture needs to know where y starts and how far it is"),
        (
            {"sampler": ReplayAugmented(GradientDescent(0.1), capacity=8)},
            "every row has starts of its own, drawn anew: pass the sampler inside",
        ),
    ],
)
def test_what_cannot_work_is_refused(how, reason):
    with pytest.raises(ValueError, match=reason):
        Mixture(**{"sampler": GradientDescent(0.1), "starts": 3, "start": noise, "distance": squared, **how})


def test_starts_that_are_all_the_same_are_refused():
    batch = Batch(normal(4, 2))
    same = mixture(start=lambda batch, generator=None: torch.zeros_like(batch.target))
    with pytest.raises(ValueError, match="all starts end at one state, and are no mixture"):
        same(quadratic, batch)
    with pytest.raises(ValueError, match="takes no step"):
        Mixture(GradientDescent(0.1, steps=0), start=noise, distance=squared)(quadratic, batch)
