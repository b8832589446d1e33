"""The restricted Boltzmann machine against sums over all states of both layers."""

import itertools
import math

import pytest
import torch
from scipy import stats

from ebm.energies import RBM
from tests.helpers import close, seeded

SIZES = [(3, 2), (2, 4), (5, 1)]


def machine(visible, hidden, units="binary", seed=0):
    rbm = RBM(visible, hidden, units=units).double()
    for parameter in rbm.parameters():
        parameter.data = torch.randn(parameter.shape, generator=seeded(seed + parameter.numel()), dtype=torch.float64)
    return rbm


def bits(n):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)


def joint(rbm, v, h, beta=1.0):
    """E(v, h), term by term."""
    pairs = sum(v[i] * rbm.weights[i, j] * h[j] for i in range(rbm.visible) for j in range(rbm.hidden))
    fields = beta * (pairs + sum(rbm.hidden_bias[j] * h[j] for j in range(rbm.hidden)))
    if rbm.units == "binary":
        return -fields - beta * sum(rbm.visible_bias[i] * v[i] for i in range(rbm.visible))
    return sum((v[i] - beta * rbm.visible_bias[i]) ** 2 for i in range(rbm.visible)) / 2 - fields


@pytest.mark.parametrize("units", ["binary", "gaussian"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_energy_is_that_of_the_joint_with_hidden_units_summed_out(units, size, beta):
    rbm = machine(*size, units)
    v = torch.randn(4, size[0], generator=seeded(1), dtype=torch.float64)
    expected = [-torch.stack([-joint(rbm, one, h, beta) for h in bits(size[1])]).logsumexp(0) for one in v]
    close(rbm.tempered(beta)(v), torch.stack(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_log_z_is_the_sum_over_all_visible_states(size, beta):
    rbm = machine(*size).tempered(beta)
    close(rbm.log_z, (-rbm(bits(size[0]))).logsumexp(0))


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_log_z_of_gaussian_units_is_the_integral(beta):
    rbm = machine(2, 3, "gaussian").tempered(beta)
    axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    close(rbm.log_z, (-rbm(grid)).flatten().logsumexp(0) + 2 * math.log(28 / 560), rtol=1e-8)


def test_log_z_is_the_same_by_either_layer_and_in_parts(monkeypatch):
    rbm = machine(4, 4)
    whole = rbm.log_z
    close(whole, (-rbm(bits(4))).logsumexp(0))
    monkeypatch.setattr("ebm.energies.rbm.AT_ONCE", 3)
    close(rbm.log_z, whole)


def test_the_gradient_of_log_z_is_minus_the_models_mean_gradient():
    rbm = machine(3, 2)
    slopes = torch.autograd.grad(rbm.log_z, [*rbm.parameters()])
    chance = (-rbm(bits(3))).softmax(0).detach()
    means = torch.autograd.grad((chance * rbm(bits(3))).sum(), [*rbm.parameters()])
    for slope, mean in zip(slopes, means, strict=True):
        close(slope, -mean)


@pytest.mark.parametrize("units", ["binary", "gaussian"])
def test_conditionals_are_those_of_the_joint(units):
    rbm = machine(3, 2, units)
    v = torch.randn(3, generator=seeded(1), dtype=torch.float64)
    chance = torch.stack([-joint(rbm, v, h) for h in bits(2)]).softmax(0)
    close(rbm.hidden_given(v), chance @ bits(2))
    h = bits(2)[2]
    if units == "binary":
        chance = torch.stack([-joint(rbm, v, h) for v in bits(3)]).softmax(0)
        close(rbm.visible_given(h), chance @ bits(3))
    else:
        mode = v.clone().requires_grad_()
        (slope,) = torch.autograd.grad(joint(rbm, mode, h), mode)
        close(rbm.visible_given(h), v - slope)  # a quadratic of unit curvature


@pytest.mark.parametrize(("units", "each"), [("binary", math.log(2)), ("gaussian", math.log(2 * math.pi) / 2)])
def test_at_zero_log_z_is_known_for_any_size(units, each):
    close(RBM(784, 500, units).double().tempered(0.0).log_z.item(), 784 * each + 500 * math.log(2))
    small = machine(3, 2, units).tempered(0.0)
    close(small.log_z, torch.stack([part.logsumexp(0) for _, part in small._states()]).logsumexp(0))


def test_draws_carry_no_graph():
    rbm = machine(3, 2, "gaussian")
    assert not rbm.sample_visible(rbm.sample_hidden(torch.zeros(4, 3, dtype=torch.float64))).requires_grad


@pytest.mark.parametrize("size", SIZES)
def test_samples_are_exact(size):
    rbm = machine(*size)
    y = rbm.sample(20_000, generator=seeded())
    numbers = (y @ (2.0 ** torch.arange(size[0] - 1, -1, -1, dtype=torch.float64))).long()
    counts = torch.bincount(numbers, minlength=2 ** size[0])
    expected = (-rbm(bits(size[0]))).softmax(0).detach() * len(y)
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_gaussian_samples_are_exact():
    rbm = machine(1, 2, "gaussian")
    y = rbm.sample(20_000, generator=seeded())
    axis = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    chance = (-rbm(axis[:, None])).softmax(0).detach().cumsum(0)

    def below(at):
        return chance[torch.searchsorted(axis, torch.as_tensor(at)).clamp(max=4000)].numpy()

    judged = stats.kstest(y[:, 0].numpy(), below)
    assert judged.pvalue > 1e-3


def test_a_tempered_machine_shares_the_parameters():
    rbm = machine(3, 2)
    warm = rbm.tempered(0.5)
    assert all(a is b for a, b in zip(warm.parameters(), rbm.parameters(), strict=True))
    with torch.no_grad():
        rbm.weights += 1
    close(warm(bits(3)), rbm.tempered(0.5)(bits(3)))
    assert rbm.beta == 1.0
    assert warm.tempered(0.5).beta == 0.25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RBM(0, 2), "visible=0"),
        (lambda: RBM(2, 2, units="ternary"), "binary or gaussian"),
        (lambda: RBM(3, 2)(torch.zeros(4, 5)), r"\(4, 5\)"),
        (lambda: RBM(30, 21).log_z, r"2\^21 states"),
        (lambda: RBM(3, 21, units="gaussian").sample(2), r"2\^21 states"),
        (lambda: RBM(3, 2).tempered(-1.0), "at least 0"),
        (lambda: RBM(3, 2).tempered(torch.tensor(0.5)), "pass a number"),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
