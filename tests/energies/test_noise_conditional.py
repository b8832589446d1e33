"""Laws of energies that are read at noise levels, and of the perceptron that is told one: against the formula, level by level."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.energies import ConditionalMLP, MLPEnergy, NoiseConditional, NoiseEmbedded
from ebm.interfaces import energy_and_grad
from ebm.testing import check_energy
from tests.helpers import Valley, close, laws, normal, quadratic, seeds

ladders = st.lists(st.floats(0.01, 50.0), min_size=1, max_size=4)


@laws
@given(seed=seeds, sigma=ladders, has_context=st.booleans())
def test_every_landscape_is_the_energy_over_its_noise(seed, sigma, has_context):
    energy, y = Valley(seed=seed), normal(4, 2, seed=seed)
    context = normal(4, 3, seed=seed + 1) if has_context else None
    value, grad = energy_and_grad(energy.given(context), y)
    laid = NoiseConditional(energy, sigma)
    assert laid.levels == len(sigma)
    for level, landscape in zip(sigma, laid.landscapes(context), strict=True):
        for got, expected in zip(energy_and_grad(landscape, y), (value / level, grad / level), strict=True):
            close(got, expected)
    close(laid(y), energy(y) / sigma[-1])


@laws
@given(seed=seeds, sigma=ladders, has_context=st.booleans())
def test_an_embedded_level_is_the_last_entry_of_the_context(seed, sigma, has_context):
    torch.manual_seed(seed)
    energy, y = ConditionalMLP(2, 1 + 3 * has_context, hidden=(5,)).double(), normal(4, 2, seed=seed)
    context = normal(4, 3, seed=seed + 1) if has_context else None
    laid = NoiseEmbedded(energy, sigma).double()
    for level, landscape in zip(sigma, laid.landscapes(context), strict=True):
        told = torch.full((4, 1), math.log(level), dtype=torch.float64)
        whole = told if context is None else torch.cat([context, told], 1)
        close(landscape(y), energy.given(whole)(y), rtol=1e-6, atol=1e-7)  # the levels' logarithms were made in float32


@laws
@given(seed=seeds, hidden=st.lists(st.integers(1, 6), min_size=1, max_size=3), activation=st.sampled_from(["tanh", "silu"]))
def test_a_conditional_perceptron_is_one_of_y_beside_the_context(seed, hidden, activation):
    torch.manual_seed(seed)
    energy, plain = ConditionalMLP(2, 3, hidden, activation).double(), MLPEnergy(5, hidden, activation).double()
    with torch.no_grad():
        plain.layers[0].weight.copy_(torch.cat([energy.of_y.weight, energy.of_context.weight], 1))
        plain.layers[0].bias.copy_(energy.of_y.bias)
        for other, own in zip(plain.layers[1:], energy.layers, strict=True):
            other.load_state_dict(own.state_dict())
    y, context = normal(7, 4, 2, seed=seed), normal(4, 3, seed=seed + 1)
    beside = torch.cat([y, context.expand(7, 4, 3)], -1)
    close(energy.given(context)(y), plain(beside))
    assert energy.given(context).code.shape == (4, hidden[0])  # shared by the candidates, and not copied
    bound = 1 / math.sqrt(5)  # that of a linear layer of [y, c], up to float32's rounding
    assert max(energy.of_y.weight.abs().max(), energy.of_context.weight.abs().max()) <= bound * (1 + 1e-6)


def test_they_keep_the_laws_of_energies():
    y = torch.randn(6, 2)
    check_energy(lambda: ConditionalMLP(2, 3, hidden=(6,)), y, torch.randn(6, 3))
    check_energy(lambda: NoiseEmbedded(ConditionalMLP(2, 4, hidden=(6,)), [1.0, 0.1]), y, torch.randn(6, 3))
    check_energy(lambda: NoiseConditional(ConditionalMLP(2, 3, hidden=(6,)), [1.0, 0.1]), y, torch.randn(6, 3))


def test_levels_are_hyper_parameters_and_not_saved():
    energy = ConditionalMLP(2, 1, hidden=(4,))
    for laid in (NoiseConditional(energy, [1.0, 0.1]), NoiseEmbedded(energy, [1.0, 0.1])):
        assert set(laid.state_dict()) == {f"energy.{name}" for name in energy.state_dict()}


@pytest.mark.parametrize("wrap", [NoiseConditional, NoiseEmbedded])
def test_what_cannot_be_read_at_levels_is_refused(wrap):
    for sigma in (0.0, -1.0, [], [1.0, 0.0], math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma="):
            wrap(quadratic, sigma)
    with pytest.raises(ValueError, match="3 landscapes has its own"):
        wrap(Valley(levels=3), [1.0, 0.5, 0.1])
    with pytest.raises(ValueError, match="no energy"):
        wrap(3.0, [1.0])


def test_contexts_that_do_not_fit_are_refused():
    energy, y = ConditionalMLP(2, 3, hidden=(4,)), torch.zeros(5, 2)
    for context, message in ((None, "NoneType"), (torch.zeros(5, 2), r"\(5, 2\).*\(\*rows, 3\)"), ([1.0], "list")):
        with pytest.raises(ValueError, match=message):
            energy.given(context)
    with pytest.raises(ValueError, match=r"rows \(4,\) for chains \(5,\)"):
        energy.given(torch.zeros(4, 3))(y)
    with pytest.raises(ValueError, match=r"rows \(1, 5\) for chains \(5,\)"):
        energy.given(torch.zeros(1, 5, 3))(y)
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(\*chains, 2\)"):
        energy.given(torch.zeros(5, 3))(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"given\(context\)"):
        energy(y)
    with pytest.raises(ValueError, match="list"):
        NoiseEmbedded(energy, 0.1).given([1.0])
    for sizes in ({"dim": 0}, {"context_dim": 0}, {"hidden": ()}, {"hidden": (0,)}):
        with pytest.raises(ValueError, match="at least 1"):
            ConditionalMLP(**{"dim": 2, "context_dim": 3, **sizes})
    with pytest.raises(ValueError, match="relu"):
        ConditionalMLP(2, 3, activation="relu")


@pytest.mark.parametrize("wrap", [NoiseConditional, NoiseEmbedded])
def test_any_noise_level_can_be_asked_for(wrap):
    """At those of the landscapes it is the landscape; between them, the landscape that a wrapper of that level has."""
    torch.manual_seed(0)
    energy, y, context = (
        ConditionalMLP(2, 3 if wrap is NoiseConditional else 4, hidden=(6,)),
        torch.randn(5, 2),
        torch.randn(5, 3),
    )
    laid = wrap(energy, [1.0, 0.1])
    for level, sigma in enumerate(laid.sigma):
        torch.testing.assert_close(laid.at_noise(sigma, context)(y), laid.given(context, level)(y))
    torch.testing.assert_close(laid.at_noise(0.3, context)(y), wrap(energy, [0.3]).given(context)(y))
    for sigma in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a noise level is a positive number"):
            laid.at_noise(sigma, context)
