"""Laws of the interfaces' own code: gradients with their checks, weighted means, landscapes, the base sampler."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.interfaces import (
    Batch,
    Energy,
    Info,
    Loss,
    Objective,
    Sampler,
    State,
    bind,
    check_steps,
    detach,
    energy_and_grad,
    eval_mode,
    evaluate,
    landscapes,
    left,
    raise_if_not_finite,
)
from tests.helpers import Restless, Valley, close, gradient, grads, laws, normal, quadratic, seeds

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
events = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


class Wave(Energy):
    """E(y) = Σ over the event of sin(w y) + y⁴/8, for events of any number of axes."""

    def __init__(self, event_axes: int) -> None:
        super().__init__()
        self.axes = tuple(range(-event_axes, 0))
        self.frequency = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, y, code=None):
        return ((self.frequency * y).sin() + y**4 / 8).sum(self.axes)


# ------------------------------------------------------------------------------------------------------- energy_and_grad


@laws
@given(shapes, events, seeds)
def test_the_gradient_equals_finite_differences(chains, event, seed):
    energy, y = Wave(len(event)), normal(*chains, *event, seed=seed)
    if not chains and len(event) > 1:
        return  # one number for all of several axes is refused, see below
    value, grad = energy_and_grad(energy, y)
    assert value.shape == chains
    close(grad, gradient(lambda z: energy(z).sum().item(), y), rtol=1e-6, atol=1e-8)


@laws
@given(st.lists(st.integers(1, 2), min_size=1, max_size=2).map(tuple), seeds)
def test_second_derivatives_equal_finite_differences(chains, seed):
    energy, y, along = Wave(1), normal(*chains, 2, seed=seed).requires_grad_(), normal(*chains, 2, seed=seed + 1)

    def slope(z):
        return (energy_and_grad(energy, z)[1] * along).sum().item()

    def slope_at(frequency):
        kept = energy.frequency.data
        energy.frequency.data = frequency
        result = slope(y)
        energy.frequency.data = kept
        return result

    value, grad = energy_and_grad(energy, y, create_graph=True)
    assert value.requires_grad
    of_y, of_frequency = grads((grad * along).sum(), y, energy.frequency)
    close(of_y, gradient(slope, y), rtol=1e-6, atol=1e-8)
    close(of_frequency, gradient(slope_at, energy.frequency), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("tracked", [False, True])
def test_y_and_parameters_are_left_alone(create_graph, tracked):
    energy, y = Valley(), normal(3, 2).requires_grad_(tracked)
    before = y.detach().clone()
    value, grad = energy_and_grad(energy, y, create_graph=create_graph)
    assert value.requires_grad == grad.requires_grad == create_graph
    assert y.grad is None
    assert all(p.grad is None and p.requires_grad for p in energy.parameters())
    assert torch.equal(y, before)
    assert y.requires_grad == tracked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays(dtype):
    value, grad = energy_and_grad(quadratic, torch.ones(3, 2, dtype=dtype))
    assert value.dtype == grad.dtype == dtype


@pytest.mark.parametrize("outside", [False, True])
def test_gradients_are_taken_in_any_grad_mode_which_stays(outside):
    with torch.set_grad_enabled(outside):
        _, grad = energy_and_grad(quadratic, torch.ones(3, 2))
        assert torch.is_grad_enabled() == outside
        with pytest.raises(ValueError):
            energy_and_grad(lambda y: y.detach().sum(-1), torch.ones(3, 2))
        assert torch.is_grad_enabled() == outside
    assert torch.equal(grad, torch.ones(3, 2))


def test_inference_mode_is_refused_with_the_way_out():
    with torch.inference_mode():
        made = torch.ones(3, 2)
        with pytest.raises(RuntimeError, match=r"inference_mode.*no_grad"):
            energy_and_grad(quadratic, made)
    for create_graph in (False, True):  # but what was made there can be used outside
        assert torch.equal(energy_and_grad(quadratic, made, create_graph=create_graph)[1], torch.ones(3, 2))


class Single(Energy):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)

    def forward(self, y, code=None):
        return self.layer(y).squeeze(-1)


four = torch.ones(4, 7, 11)
ERRORS = {
    "last axis kept": (lambda y: y.sum(-1, keepdim=True), four, r"\(4, 7, 1\).*\(4, 7, 11\).*sum out the last axis"),
    "wrong axis": (lambda y: y.sum(0), four, r"\(7, 11\).*\(4, 7, 11\).*reduce y's last axes"),
    "more axes": (lambda y: y[..., None].expand(4, 7, 2), torch.ones(4, 7), r"\(4, 7, 2\).*\(4, 7\).*more axes"),
    "one for all": (lambda y: y.sum(), torch.ones(4, 7), r"shape \(\).*\(4, 7\).*one number for all chains"),
    "no tensor": (lambda y: y.sum().item(), torch.ones(4), "returned float"),
    "nothing": (lambda y: None, torch.ones(4), "returned NoneType"),
    "integer energy": (lambda y: y.sum(-1).long(), torch.ones(4, 2), "int64"),
    "other device": (lambda y: torch.ones(4, device="meta", requires_grad=True), torch.ones(4, 2), "meta.*cpu"),
    "detached": (lambda y: y.detach().sum(-1), torch.ones(4, 2), r"\(4,\).*detach"),
    "no_grad inside": (torch.no_grad()(lambda y: y.sum(-1)), torch.ones(4, 2), "no gradient"),
    "ignores y": (lambda y: torch.ones(4, requires_grad=True) * 2, torch.ones(4, 2), "ignores it|ignores y"),
    "integer y": (quadratic, torch.ones(4, 2, dtype=torch.long), r"int64.*y\.float\(\)"),
    "boolean y": (quadratic, torch.ones(4, 2, dtype=torch.bool), "bool"),
    "list": (quadratic, [[1.0, 2.0]], "list"),
    "none": (quadratic, None, "NoneType"),
    "no chains": (quadratic, torch.ones(0, 2), r"\(0, 2\).*no chains"),
    "no event": (quadratic, torch.ones(3, 0), r"\(3, 0\)"),
    "a number": (lambda y: y**2, torch.tensor(1.0), r"\(\)"),
    "other dtype": (Single(), torch.ones(4, 2, dtype=torch.float64), r"float64.*float32.*energy\.to\(y\)"),
    "other dtype, bound": (Single().given(), torch.ones(4, 2, dtype=torch.float64), "float64.*float32"),
    "other dtype, a method": (Single().forward, torch.ones(4, 2, dtype=torch.float64), "float64.*float32"),
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", ERRORS)
def test_errors_restate_the_call(name, create_graph):
    energy, y, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        energy_and_grad(energy, y, create_graph=create_graph)


def test_errors_do_not_depend_on_whether_y_is_tracked():
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        energy_and_grad(quadratic, torch.ones(0, 2, requires_grad=True), create_graph=True)


def test_errors_of_an_energy_of_its_own_pass_through():
    def broken(y):
        raise RuntimeError("my own")

    class Mixed(Energy):
        """Keeps a table in float64 beside parameters in float32, and fails for a reason of its own."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("table", torch.ones(3, dtype=torch.float64))

        def forward(self, y, code=None):
            return broken(y)

    for energy in (broken, Mixed(), Mixed().given()):
        with pytest.raises(RuntimeError, match="my own"):
            evaluate(energy, torch.ones(2, 2))


# ----------------------------------------------------------------------------------------------------------------- values


@laws
@given(shapes.filter(len), seeds, st.sampled_from([torch.float64, torch.float32, torch.long, torch.bool]))
def test_weighted_mean_equals_the_loop(chains, seed, dtype):
    values, weight = normal(*chains, seed=seed), normal(*chains, seed=seed + 1).abs().mul(3).to(dtype)
    pairs = list(zip(values.flatten().tolist(), weight.flatten().double().tolist(), strict=True))
    total = sum(w for _, w in pairs)
    expected = sum(w * v for v, w in pairs) / total if total else 0.0
    assert Batch(None, weight=weight).mean(values).item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    close(Batch(None).mean(values), values.mean())
    close(Batch(None, weight=torch.full_like(values, 0.25)).mean(values), values.mean())


def test_all_masked_says_nothing():
    values = normal(3).requires_grad_()
    mean = Batch(None, weight=torch.zeros(3, dtype=torch.float64)).mean(values)
    assert mean == 0
    assert torch.equal(*grads(mean, values), torch.zeros(3, dtype=torch.float64))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*\(3, 2\)"):
        Batch(None, weight=torch.ones(3)).mean(torch.ones(3, 2))


@laws
@given(shapes, events, seeds)
def test_grad_norm_is_each_chains(chains, event, seed):
    grad = normal(*chains, *event, seed=seed)
    norm = Info(torch.zeros(chains), grad).grad_norm
    expected = [math.sqrt(sum(x * x for x in row)) for row in grad.reshape(math.prod(chains), -1).tolist()]
    close(norm, torch.tensor(expected, dtype=torch.float64).reshape(chains))
    assert Info(torch.zeros(chains)).grad_norm is None


@laws
@given(shapes, events, seeds)
def test_left_broadcasts_from_the_left(chains, event, seed):
    values, like = normal(*chains, seed=seed), normal(*chains, *event)
    product = left(values, like) * like
    assert product.shape == like.shape
    for index in range(math.prod(chains)):
        close(product.reshape(-1, *event)[index], values.flatten()[index] * like.reshape(-1, *event)[index])


class Deep(NamedTuple):
    inner: Any
    extra: Any


def test_detach_cuts_every_tensor_and_keeps_the_kind():
    y = normal(3, 2).requires_grad_() * 2
    whole = Deep(State(y, 3, None, 0.5), {"a": [1, y], "b": (y, "text")})
    cut = detach(whole)
    assert isinstance(cut, Deep)
    assert isinstance(cut.inner, State)
    assert cut.inner[1:] == (3, None, 0.5)
    assert not cut.inner.y.requires_grad
    assert not cut.extra["b"][0].requires_grad
    assert y.requires_grad


@pytest.mark.parametrize("good", [(3, (3, 3)), (0, (0, 0)), ((2, 4), (2, 4)), ([2, 4], (2, 4)), ((2, 2), (2, 2))])
def test_steps_are_read_as_a_pair(good):
    assert check_steps(good[0]) == good[1]


@pytest.mark.parametrize("bad", [-1, 2.0, "4", "ab", None, True, (4, 2), (1, 2, 3), (1,), (1.0, 2.0), (-1, 2), (False, True)])
def test_other_steps_are_refused(bad):
    with pytest.raises(ValueError, match="steps="):
        check_steps(bad)


def test_non_finite_values_are_named():
    y, energy = torch.zeros(4, 2), torch.zeros(4)
    raise_if_not_finite(1, y, energy)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(FloatingPointError, match=r"step 7: the energy .* 1 of 4 chains \(chain 2\)"):
            raise_if_not_finite(7, y, torch.where(torch.arange(4) == 2, bad, energy))
        with pytest.raises(FloatingPointError, match=r"step 7: the state .* 1 of 4 chains \(chain 2\)"):
            raise_if_not_finite(7, torch.where(torch.arange(4)[:, None] == 2, bad, y), energy)
    with pytest.raises(FloatingPointError, match=r"20 of 20 chains \(chain 0, 1, 2, 3, 4, 5, 6, 7, …\)"):
        raise_if_not_finite(None, torch.zeros(20, 2), torch.full((20,), math.nan))
    raise_if_not_finite(1, torch.full((4, 2), 1e38), torch.full((4,), 3e38))  # large is finite


# -------------------------------------------------------------------------------------------------------------- energies


@pytest.mark.parametrize("within", [lambda e: e, lambda e: e + quadratic, lambda e: 0.5 * e, lambda e: e - 0.1 * Valley(seed=1)])
def test_forward_hooks_fire_at_every_evaluation(within):
    """Whoever watches a module (a profiler, a data-parallel wrapper) sees each call of it, bound, composed or differentiated."""
    energy, seen = Valley(), []
    energy.register_forward_pre_hook(lambda module, inputs: seen.append("before"))
    energy.register_forward_hook(lambda module, inputs, output: seen.append("after"))
    function = bind(within(energy), normal(4, 3))
    function(normal(4, 2))
    energy_and_grad(function, normal(4, 2))
    energy_and_grad(function, normal(4, 2).requires_grad_(), create_graph=True)
    assert seen == ["before", "after"] * 3


def test_a_bound_energy_encodes_once_and_at_the_level_asked_for():
    encoded = []

    class Counting(Valley):
        def encode(self, context=None, level=-1):
            encoded.append(level)
            return super().encode(context, level)

    energy, context, y = Counting(levels=3), normal(4, 3), normal(4, 2)
    function = energy.given(context)
    for _ in range(3):
        function(y)
    assert encoded == [2]
    encoded.clear()
    every = energy.landscapes(context)
    assert encoded == [0, 1, 2]
    for level, landscape in enumerate(every):
        close(landscape(y), energy(y, (context @ energy.outer, energy.heights[level])))
        close(landscape(y), energy.given(context, level - 3)(y))
    for level in (3, -4):
        with pytest.raises(ValueError, match=f"level {level} .* 3 landscape"):
            energy.given(context, level)


def test_plain_functions_and_sequences_have_landscapes_too():
    energy, context, y = Valley(levels=2), normal(4, 3), normal(4, 2)
    assert bind(quadratic, context) is quadratic
    assert landscapes(quadratic, context) == [quadratic]
    assert len(landscapes(energy, context)) == 2
    for pair in ([energy, quadratic], (energy, quadratic), nn.ModuleList([energy, energy])):
        assert torch.equal(landscapes(pair, context)[0](y), energy.given(context)(y))


def test_what_is_not_written_is_named():
    class Empty(Energy):
        pass

    class Idle(Sampler):
        pass

    class Aimless(Objective):
        pass

    with pytest.raises(NotImplementedError, match="Empty must define forward"):
        Empty()(torch.ones(2))
    with pytest.raises(NotImplementedError, match="Empty cannot extend"):
        Empty().extend(None, None)
    with pytest.raises(NotImplementedError, match="Idle must define step"):
        Idle().sample(quadratic, torch.ones(2, 2))
    with pytest.raises(NotImplementedError, match="Aimless must define forward"):
        Aimless()(quadratic, Batch(torch.ones(2, 2)))


# --------------------------------------------------------------------------------------------------------- modes, samplers


@pytest.mark.parametrize("of", [lambda e: e, lambda e: e.given(normal(5, 3)), lambda e: list(e.modules()), lambda e: e.forward])
def test_eval_mode_holds_and_gives_back_every_parts_own_mode(of):
    energy = Restless()
    held = of(energy)
    energy.body[3].eval()
    before = [module.training for module in energy.modules()]
    assert len(set(before)) == 2

    def broken():
        with eval_mode(held):
            assert not any(module.training for module in energy.modules())
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert [module.training for module in energy.modules()] == before


class Halving(Sampler):
    """The least a third party writes: init looks at the energy, step keeps what init saw."""

    steps = 3

    class Memory(NamedTuple):
        y: torch.Tensor
        first: torch.Tensor

    def init(self, energy, y, *, generator=None):
        return self.Memory(y, energy_and_grad(energy, y)[0])

    def step(self, energy, state, *, create_graph=False, generator=None):
        value, grad = energy_and_grad(energy, state.y, create_graph=create_graph)
        return self.Memory(state.y - grad / 2, state.first), Info(value, grad)


def test_a_sampler_is_init_step_and_steps():
    halving, y = Halving(), normal(4, 2)
    close(halving.sample(quadratic, y), y / 8)
    close(halving.sample([quadratic, quadratic], y, steps=1), y / 4)
    states = list(halving.trajectory(quadratic, y))
    close(halving.sample(quadratic, states[0][0], steps=2), y / 8)
    close(states[2][0].first, quadratic(y))
    assert halving.point(y) is y
    batch = Batch(y)
    assert halving.begin(batch, y) == (batch, y)
    assert halving.finish(batch, y) is None


def test_init_moves_no_batch_statistics_and_draws_no_dropout():
    energy, y = Restless(), normal(4, 2)
    before = energy.everything()
    first = next(halving for halving, _ in Halving().trajectory(energy, y)).first
    assert energy.untouched_since(before)
    with eval_mode(energy):
        close(first, energy(y).detach())


def test_a_loss_has_a_value_and_terms():
    loss = Loss(torch.ones(()), {"a": torch.zeros(())})
    assert loss.value == 1
    assert list(loss.terms) == ["a"]
