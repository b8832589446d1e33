"""Laws of gradient descent: the update against hand-written loops, and gradients through it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.samplers import Geometric, GradientDescent, LangevinDynamics
from tests.helpers import Valley, close, descent, gradient, grads, laws, normal, parameter, quadratic, seeded, seeds

MODES = ("each", "last", "full")
sizes = st.floats(0.01, 0.5)


def by_hand(energy, y, steps, step_size, *, momentum=0.0, nesterov=False, retract=None, clip=None, bounds=None, unroll="none"):
    """Descends as a textbook would, and returns every state; step_size(k) is the k-th step's. `bounds` end each step."""
    velocity, states = torch.zeros_like(y), []
    for k in range(steps):
        if unroll != "full":
            y, velocity = y.detach(), velocity.detach()
        point = y if retract is None else retract(y)
        if not point.requires_grad:
            point = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(point).sum(), point, create_graph=True)
        if clip is not None:
            slope = slope.clamp(-clip, clip)
        velocity = momentum * velocity + slope
        y = point - step_size(k) * (slope + momentum * velocity if nesterov else velocity)
        y = y if bounds is None else bounds(y)
        if unroll == "none" or (unroll == "last" and k < steps - 1):
            y, velocity = y.detach(), velocity.detach()
        states.append(y)
    return states


VARIANTS = st.fixed_dictionaries(
    {"momentum": st.sampled_from([0.0, 0.5, 0.9]), "nesterov": st.booleans(), "clip": st.sampled_from([None, 0.2, 1.0])}
).filter(lambda v: v["momentum"] > 0 or not v["nesterov"])
RETRACTIONS = {None: None, "softmax": lambda y: y.softmax(-1), "clamp": lambda y: y.clamp(-1, 1), torch.tanh: torch.tanh}


@settings(laws, max_examples=60)
@given(VARIANTS, st.sampled_from(list(RETRACTIONS)), sizes, seeds, st.sampled_from(["none", *MODES]))
def test_descent_equals_the_loop_in_value_and_in_gradient(variant, retraction, size, seed, unroll):
    energy, step_size = Valley(seed=seed % 100), parameter(size)
    y = normal(3, 2, seed=seed).requires_grad_()
    moving = GradientDescent(
        step_size,
        steps=4,
        momentum=variant["momentum"],
        nesterov=variant["nesterov"],
        retraction=retraction,
        grad_clip=variant["clip"],
    )
    retract = RETRACTIONS[retraction]
    how = {"retract": retract, "bounds": retract if retraction == "clamp" else None}
    expected = by_hand(energy, y, 4, lambda k: step_size, **variant, **how, unroll=unroll)
    path = [state.y for state, _ in moving.trajectory(energy, y, unroll=unroll)]
    for got, state in zip(path, expected, strict=True):
        close(got, state)
    if unroll == "none":
        assert not any(state.requires_grad for state in path)
        return
    # Every state has a weight of its own in the loss, so that no step can stand in for another.
    used = [len(path) - 1] if unroll == "last" else range(len(path))
    inputs = (energy.inner, energy.heights, step_size, y)
    got, hand = (sum(((k + 1) * states[k] * normal(3, 2, seed=k)).sum() for k in used) for states in (path, expected))
    for one, two in zip(grads(got, *inputs), grads(hand, *inputs), strict=True):
        close(one, two)


@settings(laws, max_examples=5)
@given(seeds, sizes)
def test_the_full_gradient_equals_finite_differences(seed, size):
    energy, step_size = Valley(seed=seed % 100), parameter(size)
    y = normal(2, 2, seed=seed).requires_grad_()
    moving = GradientDescent(step_size, steps=3, momentum=0.5, retraction=torch.tanh)
    end = moving.sample(energy, y, unroll="full").square().sum()
    for one in (energy.inner, step_size, y):

        def ended(value, one=one):
            kept, one.data = one.data, value.clone()
            result = moving.sample(energy, y).square().sum().item()
            one.data = kept
            return result

        close(grads(end, one)[0], gradient(ended, one), rtol=1e-6, atol=1e-8)


@laws
@given(seeds, sizes)
def test_a_softmax_retraction_steps_from_the_probabilities(seed, size):
    moving, y, energy = GradientDescent(size, steps=1, retraction="softmax"), normal(4, 5, seed=seed), Valley(dim=5)
    p = y.softmax(-1)
    slope = torch.stack([gradient(lambda z: energy(z).item(), row) for row in p])
    close(moving.sample(energy, y), p - size * slope, rtol=1e-6, atol=1e-8)
    close(moving.point(y), p)
    close(next(iter(moving.trajectory(energy, y)))[1].energy, energy(p).detach())


@laws
@given(seeds, st.sampled_from([None, "softmax"]))
def test_noise_comes_before_the_retraction_and_the_gradient(seed, retraction):
    moving, y, g = GradientDescent(0.3, steps=3, noise_std=0.5, retraction=retraction), normal(4, 3, seed=seed), seeded(seed)
    expected = y
    for _ in range(3):
        noised = expected + 0.5 * torch.randn(4, 3, generator=g, dtype=torch.float64)
        p = noised.softmax(-1) if retraction else noised
        expected = p - 0.3 * (p - 1)
    close(moving.sample(lambda y: quadratic(y - 1), y, generator=seeded(seed)), expected)


@laws
@given(seeds)
def test_noise_std_may_follow_a_schedule(seed):
    y, g = normal(4, 3, seed=seed), seeded(seed)
    expected = y
    for t in range(3):
        noised = expected + Geometric(1.0, 0.25, steps=2)(t) * torch.randn(4, 3, generator=g, dtype=torch.float64)
        expected = 0.5 * noised
    schedule = {"schedule": "geometric", "start": 1.0, "end": 0.25, "steps": 2}
    close(GradientDescent(0.5, steps=3, noise_std=schedule).sample(quadratic, y, generator=seeded(seed)), expected)


@pytest.mark.parametrize("unroll", MODES)
def test_detaching_states_never_cuts_a_learnable_step_size(unroll):
    for moving in (descent(learnable=True, momentum=0.5), LangevinDynamics(0.1, steps=4, learnable=True)):
        end = moving.sample(quadratic, normal(3, 2), unroll=unroll, generator=seeded())
        end.square().sum().backward()
        assert moving.step_size.grad.abs() > 0


def test_a_graph_of_a_learnable_step_size_lives_within_its_step():
    moving, y = descent(learnable=True, steps=2), normal(3, 2)
    first, second = (state.y for state, _ in moving.trajectory(quadratic, y, unroll="each"))
    of_second = grads(second.sum(), moving.step_size)[0]
    close(of_second, -first.detach().sum().to(of_second.dtype), rtol=1e-5)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"nesterov": True}, "nesterov"),
        ({"noise_std": -1.0}, "noise_std=-1.0"),
        ({"noise_std": float("nan")}, "noise_std=nan"),
        ({"retraction": "simplex"}, "retraction='simplex'.*softmax, clamp"),
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        GradientDescent(0.1, **keywords)


@laws
@given(seeds, st.integers(1, 8))
def test_retracted_states_of_the_inner_loop_are_on_the_simplex(seed, steps):
    moving = GradientDescent(0.5, steps=steps, retraction="softmax")
    for state, info in moving.trajectory(Valley(dim=4), normal(3, 4, seed=seed)):
        p = moving.point(state.y)
        close(p.sum(-1), torch.ones(3, dtype=torch.float64))
        assert bool((p > 0).all())
        assert info.energy.shape == (3,)


@laws
@given(momentum=st.floats(0.1, 0.95), size=sizes, seed=seeds)
def test_nesterovs_states_are_the_points_ahead_at_which_slopes_are_taken(momentum, size, seed):
    """Textbooks keep x⁺ = x + v⁺ with v⁺ = μv − ε∇E(x + μv); ours, as in torch, is x + μv: the same way, looked at ahead."""
    x, velocity = normal(3, 2, seed=seed), torch.zeros(3, 2, dtype=torch.float64)
    moving, ahead = GradientDescent(size, steps=5, momentum=momentum, nesterov=True), x
    for state, _ in moving.trajectory(quadratic, x):
        velocity = momentum * velocity - size * ahead
        x = x + velocity
        ahead = x + momentum * velocity
        close(state.y, ahead)
