"""Laws of Reconstruction: the loss and its gradient against finite differences of hand-written loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.interfaces import Batch
from ebm.objectives import Reconstruction
from ebm.samplers import MALA, GradientDescent, LangevinDynamics, ReplayAugmented
from tests.helpers import Valley, close, from_noise, gradient, grads, laws, normal, parameter, quadratic, seeded, seeds, squared

STEPS = 3
MODES = {
    "mean": {"reduce": "mean"},
    "last": {"reduce": "last"},
    "full mean": {"reduce": "mean", "unroll": "full"},
    "full last": {"reduce": "last", "unroll": "full"},
}


def cross_entropy(y, batch):
    return -(batch.target.softmax(-1) * y.log_softmax(-1)).sum(-1)


def step_of(energy, context, step_size, retract, level):
    """One step y -> y⁺ with the gradient of the energy in closed form, for finite differences of its parameters."""

    def step(y):
        point = y.softmax(-1) if retract else y
        hidden = point @ energy.inner.data + context @ energy.outer.data
        slope = point + energy.heights.data[level] * ((1 - hidden.tanh() ** 2) @ energy.inner.data.T)
        return point - step_size.data * slope

    return step


@pytest.mark.parametrize("mode", MODES)
@settings(laws, max_examples=6)
@given(seed=seeds, retract=st.booleans(), levels=st.integers(1, 2), weighted=st.booleans())
def test_value_and_gradient_equal_the_loop(mode, seed, retract, levels, weighted):
    energy, step_size = Valley(levels=levels, seed=seed % 100), parameter(0.2)
    weight = normal(3, seed=seed + 2).abs() if weighted else torch.ones(3, dtype=torch.float64)
    batch = Batch(normal(3, 2, seed=seed), normal(3, 3, seed=seed + 1), weight if weighted else None)
    distance = cross_entropy if retract else squared
    start = normal(3, 2, seed=seed + 3)
    aim = Reconstruction(
        GradientDescent(step_size, steps=STEPS, retraction="softmax" if retract else None),
        start=lambda batch, generator=None: start,
        distance=distance,
        **MODES[mode],
    )
    loss = aim(energy, batch)

    def walk():
        y, states = start, [start]
        for level in range(levels):
            for _ in range(STEPS):
                y = step_of(energy, batch.context, step_size, retract, level)(y)
                states.append(y)
        return states

    frozen = walk()

    def value():
        """The loss at the present parameters; without a full graph each step starts from a state that is a constant."""
        if "full" in mode:
            states = walk()[1:]
        else:
            before = enumerate(frozen[:-1])
            states = [step_of(energy, batch.context, step_size, retract, k // STEPS)(y) for k, y in before]
        losses = [(weight * distance(y, batch)).sum() / weight.sum() for y in states]
        return (losses[-1] if aim.reduce == "last" else sum(losses) / len(losses)).item()

    assert loss.value.item() == pytest.approx(value(), rel=1e-9)
    for one in (energy.inner, energy.outer, energy.heights, step_size):

        def at(data, one=one):
            kept, one.data = one.data, data.clone()
            result = value()
            one.data = kept
            return result

        close(grads(loss.value, one)[0], gradient(at, one), rtol=1e-5, atol=1e-8)


@laws
@given(seed=seeds)
def test_terms(seed):
    start, batch = normal(5, 2, seed=seed), Batch(normal(5, 2, seed=seed + 1), weight=normal(5, seed=seed + 2).abs())
    aim = Reconstruction(GradientDescent(0.5, steps=3), start=from_noise, distance=squared)
    loss = aim(quadratic, batch, start=start)
    states = [start / 2**k for k in range(4)]
    losses = [batch.mean(squared(y, batch)) for y in states[1:]]
    close(loss.value, sum(losses) / 3)
    close(loss.terms["first_step"], losses[0])
    close(loss.terms["last_step"], losses[-1])
    close(loss.terms["energy_gap"], batch.mean(quadratic(states[0]) - quadratic(states[2])))


class Given:
    """A task, as far as Reconstruction looks at one."""

    def start(self, batch, *, generator=None):
        return from_noise(batch, generator)

    def distance(self, y, batch):
        return squared(y, batch)


def test_start_and_distance_default_to_the_tasks():
    sampler, batch = GradientDescent(0.5, steps=2), Batch(normal(4, 2))
    by_task = Reconstruction(sampler, task=Given())(quadratic, batch, generator=seeded()).value
    by_hand = Reconstruction(sampler, start=from_noise, distance=squared)(quadratic, batch, generator=seeded()).value
    close(by_task, by_hand)
    still = Reconstruction(sampler, task=Given(), start=lambda batch, generator=None: batch.target)
    distant = Reconstruction(sampler, task=Given(), distance=lambda y, batch: 2 * squared(y, batch))
    close(still(quadratic, batch, generator=seeded()).value, still(quadratic, batch, start=batch.target).value)
    close(distant(quadratic, batch, generator=seeded()).value, 2 * by_hand)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduce": "sum"}, "reduce='sum'.*mean or last"),
        ({"start": None}, "where y starts"),
        ({"distance": None}, "how far"),
        ({"unroll": "all"}, "unroll='all'"),
        ({"sampler": MALA(0.1)}, "MALA.*accepts or rejects"),
    ],
)
def test_arguments_that_cannot_work_are_refused_when_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reconstruction(**{"sampler": GradientDescent(0.1), "start": from_noise, "distance": squared, **arguments})


@pytest.mark.parametrize("shape", [(1, 2), (2,)])
def test_fewer_chains_than_distances_are_refused(shape):
    aim = Reconstruction(GradientDescent(0.5, steps=3), start=from_noise, distance=squared)
    with pytest.raises(ValueError, match=r"distances \(6,\): pass a start for each row"):
        aim(quadratic, Batch(normal(6, 2)), start=normal(*shape))
    value = aim(quadratic, Batch(normal(6, 2)), start=normal(4, 6, 2)).value  # candidates lead
    assert value.shape == ()


def test_a_sampler_without_steps_is_refused():
    with pytest.raises(ValueError, match="no step"):
        Reconstruction(GradientDescent(0.1, steps=0), start=from_noise, distance=squared)(quadratic, Batch(normal(3, 2)))


# ------------------------------------------------------------------------------------------------------------------ replay


def tagged(tags):
    tags = torch.as_tensor(tags, dtype=torch.float64)
    return Batch(tags[:, None].expand(-1, 2).clone(), tags.clone(), torch.ones(len(tags), dtype=torch.float64))


@pytest.mark.parametrize("keywords", [{"fresh": 0.3}, {"join": 1.0}, {"join": 1.0, "policy": "reservoir"}])
def test_a_stored_context_is_never_asked_for_another_rows_target(keywords):
    replay, seen = ReplayAugmented(GradientDescent(0.1, steps=2), capacity=6, **keywords), []

    def distance(y, batch):
        seen.append((batch.context, batch.target))
        assert len(y) == len(batch.target) == len(batch.context)
        return squared(y, batch)

    aim, g = Reconstruction(replay, start=from_noise, distance=distance), seeded()
    for first in range(0, 20, 4):
        aim(quadratic, tagged(range(first, first + 4)), generator=g)
    assert any(len(context) > 4 for context, _ in seen) == ("join" in keywords)
    for context, target in seen:
        assert torch.equal(context, target[:, 0])


def test_joined_rows_start_where_they_ended():
    replay, starts = ReplayAugmented(GradientDescent(0.5, steps=1), capacity=4, join=1.0), []

    def energy(y):
        starts.append(y.detach().clone())
        return quadratic(y)

    aim = Reconstruction(replay, start=from_noise, distance=squared)
    aim(energy, tagged(range(4)), generator=seeded())
    aim(energy, tagged(range(4)), generator=seeded(1))
    assert starts[1].shape == (8, 2)
    close(starts[1][4:].sort(0).values, (starts[0] / 2).sort(0).values)


def test_what_is_not_finite_is_not_stored():
    replay = ReplayAugmented(LangevinDynamics(0.5, steps=2), capacity=4)
    aim = Reconstruction(replay, start=from_noise, distance=squared)
    with pytest.raises(FloatingPointError):
        aim(lambda y: (y**2).sum(-1) * 1e200, tagged(range(4)), generator=seeded())
    assert len(replay) == 0
