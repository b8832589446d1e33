"""Energies made of energies: operators, contexts, landscapes, and what a part may be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebm.energies import Gaussian, MLPEnergy, Ring, ScaledEnergy, SumEnergy, WithPrior
from ebm.interfaces import Energy, bind, landscapes

LAW = settings(max_examples=20, deadline=None, derandomize=True)


class Pull(Energy):
    """Is pulled to each of a context's vectors (n, d), more strongly at each landscape; extends its code."""

    def __init__(self, levels: int = 1) -> None:
        super().__init__()
        self.levels = levels
        self.strength = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def encode(self, context=None, level=-1):
        return context, float(level % self.levels + 1)

    def extend(self, code, context):
        return torch.cat([code[0], context]), code[1]

    def forward(self, y, code=None):
        vectors, factor = code
        return self.strength * factor * (y[..., None, :] - vectors).square().sum((-1, -2))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bowl(y):
    return y.square().sum(-1) / 2


Y = draw(4, 3, 2)
FIRST, SECOND = Gaussian((1.0, 0.0), 2.0).double(), Ring().double()


@LAW
@given(a=st.floats(-3, 3), b=st.floats(0.1, 3), seed=st.integers(0, 1000))
def test_operators_are_arithmetic(a, b, seed):
    y = draw(5, 2, seed=seed)
    expected = a * FIRST(y) + SECOND(y) / b + bowl(y)
    for energy in (
        a * FIRST + SECOND / b + bowl,
        bowl + FIRST * a + (1 / b) * SECOND,
        sum([a * FIRST, SECOND / b, bowl]),
        SumEnergy([bowl, ScaledEnergy(FIRST, a), ScaledEnergy(SECOND, 1 / b)]),
        (a * b * FIRST + SECOND + b * SumEnergy([bowl])) / b,
    ):
        torch.testing.assert_close(energy(y), expected)
        torch.testing.assert_close(energy.given()(y), expected)


def test_lambdas_join_on_either_side():
    torch.testing.assert_close((FIRST + (lambda y: y.sum(-1)))(Y), FIRST(Y) + Y.sum(-1))
    torch.testing.assert_close(((lambda y: y.sum(-1)) + FIRST)(Y), FIRST(Y) + Y.sum(-1))


def test_sums_are_flat_and_keep_their_order():
    energy = (FIRST + SECOND) + (bowl + FIRST)
    assert [type(part).__name__ for part in energy.energies] == ["Gaussian", "Ring", "Function", "Gaussian"]
    assert energy.energies[0] is FIRST


def test_parameters_of_parts_are_found_wherever_they_are():
    parts = [MLPEnergy(2, hidden=(3,)), nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(-2)), Pull()]
    bound = parts[2].given(draw(1, 2))  # a context bound beforehand: a function with a module behind it
    energy = WithPrior(0.5 * SumEnergy([parts[0], parts[1], bound, bowl]), std=2.0).double()
    expected = {id(parameter) for part in parts for parameter in part.parameters()}
    assert {id(parameter) for parameter in energy.parameters()} == expected
    assert energy(draw(4, 5, 2)).shape == (4, 5)


@LAW
@given(levels=st.integers(1, 4), std=st.floats(0.5, 3))
def test_contexts_and_landscapes_reach_the_parts(levels, std):
    pull, context, more = Pull(levels), draw(3, 2, seed=1), draw(1, 2, seed=2)
    energy = WithPrior(0.5 * (pull + FIRST + bowl + Pull(1)), std)
    assert energy.levels == levels
    whole = torch.cat([context, more])
    extended = energy.extend(energy.encode(context), more)
    torch.testing.assert_close(energy(Y, extended), energy.given(whole)(Y))
    for level, landscape in enumerate(energy.landscapes(context)):
        parts = pull.given(context, level)(Y) + FIRST(Y) + bowl(Y) + Pull(1).given(context)(Y)
        torch.testing.assert_close(landscape(Y), 0.5 * parts + Y.square().sum(-1) / (2 * std**2))
    torch.testing.assert_close(energy.given(context)(Y), energy.given(context, levels - 1)(Y))


def test_bind_and_landscapes_take_composites_and_functions_alike():
    energy = FIRST + bowl
    torch.testing.assert_close(bind(energy)(Y), landscapes(energy)[0](Y))
    assert landscapes(bowl) == [bowl]


def test_a_sum_of_different_numbers_of_landscapes_is_an_error():
    assert (Pull(3) + Pull(3) + Pull(1)).levels == 3
    with pytest.raises(ValueError, match=r"parts with \[3, 2\] landscapes"):
        Pull(3) + Pull(2)


def test_a_level_out_of_range_is_an_error():
    with pytest.raises(ValueError, match="level 1 of an energy with 1"):
        (FIRST + bowl).given(level=1)


@pytest.mark.parametrize("event", [(), (2,), (1, 4, 4)])
def test_a_prior_runs_over_the_event_that_the_energy_leaves(event):
    y = draw(5, 3, *event)
    energy = WithPrior(lambda y: 0 * y.reshape(5, 3, -1).sum(-1), std=2.0)
    torch.testing.assert_close(energy(y), y.reshape(5, 3, -1).square().sum(-1) / 8)


def test_parts_must_agree_on_what_a_chain_is():
    with pytest.raises(ValueError, match=r"shapes \(4, 3\), \(4, 3, 2\): they must agree on what a chain is"):
        (FIRST + torch.square)(Y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SumEnergy([]), "SumEnergy of parts"),
        (lambda: FIRST + 5, "5 is no energy"),
        (lambda: 5 + FIRST, "5 is no energy"),
        (lambda: FIRST * FIRST, r"ScaledEnergy\(scale=Gaussian"),
        (lambda: float("nan") * FIRST, "finite number"),
        (lambda: ScaledEnergy(FIRST, torch.ones(2)), "one finite number"),
        (lambda: FIRST / 0.0, "temperature 0"),
        (lambda: WithPrior(FIRST, 0.0), r"WithPrior\(std=0.0\)"),
        (lambda: WithPrior("mlp"), "'mlp' is no energy"),
    ],
)
def test_errors_restate_the_call(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_scale_may_be_a_buffer_or_learned():
    fixed, learned = ScaledEnergy(FIRST, torch.tensor(2.0)), ScaledEnergy(FIRST, nn.Parameter(torch.tensor(2.0)))
    assert dict(fixed.named_buffers())["scale"] == 2
    assert dict(learned.named_parameters())["scale"] == 2
    torch.testing.assert_close(fixed.double()(Y), 2 * FIRST(Y))
    torch.testing.assert_close(learned.double()(Y), 2 * FIRST(Y))


def test_a_sum_keeps_nothing_of_a_call():
    energy = FIRST + SECOND
    before = {name: value.clone() for name, value in energy.state_dict().items()}
    energy.given()(Y)
    assert all(torch.equal(before[name], value) for name, value in energy.state_dict().items())
