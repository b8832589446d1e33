"""The kernelised Stein discrepancy against automatic differentiation, and its test's p-values under both hypotheses."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from ebm.judging import kernel_stein_discrepancy, stein_test
from ebm.judging.stein import _stein_kernel
from tests.helpers import close, normal, quadratic, seeded
from tests.problems import PROBLEMS


def oracle(x, y, score, bandwidth, beta):
    """u(x, y) with the kernel's derivatives by automatic differentiation."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    kernel = (bandwidth**2 + (x - y).square().sum()) ** beta
    by_x, by_y = torch.autograd.grad(kernel, (x, y), create_graph=True)
    trace = sum(torch.autograd.grad(by_x[i], y, retain_graph=True)[0][i] for i in range(len(x)))
    return (score(x) @ score(y) * kernel + score(x) @ by_y + score(y) @ by_x + trace).detach()


@pytest.mark.parametrize("beta", [-0.5, -0.2])
@pytest.mark.parametrize("name", ["correlated", "funnel", "plane-mixture"])
def test_the_kernel_is_its_definition(name, beta):
    problem = PROBLEMS[name]
    x = problem.sample(5, seeded())
    found = _stein_kernel(x, problem.energy, 0.8, beta)

    def score(y):
        return problem.score(y[None])[0]

    expected = torch.stack([torch.stack([oracle(a, b, score, 0.8, beta) for b in x]) for a in x])
    close(found, expected, rtol=1e-7, atol=1e-9)
    off = ~torch.eye(5, dtype=torch.bool)
    close(kernel_stein_discrepancy(x, problem.energy, bandwidth=0.8, beta=beta), float(expected[off].mean()), rtol=1e-7)


@pytest.mark.parametrize("name", ["correlated", "banana", "line-mixture"])
def test_of_exact_samples_it_is_zero_in_the_mean(name):
    problem = PROBLEMS[name]
    found = torch.tensor(
        [kernel_stein_discrepancy(problem.sample(100, seeded(s)), problem.energy, bandwidth=1.0) for s in range(60)]
    )
    assert abs(float(found.mean())) < 4.5 * float(found.std()) / math.sqrt(60)


def test_in_one_dimension_it_is_the_double_integral():
    """Samples of N(0, 1) judged by N(1/2, 1): E u(x, y) on a grid."""
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    weight = (-(axis**2) / 2).softmax(0)

    def shifted(y):
        return (y - 0.5).square().sum(-1) / 2

    expected = float(weight @ _stein_kernel(axis[:, None], shifted, 1.0, -0.5) @ weight)
    x = torch.randn(3000, 1, generator=seeded(), dtype=torch.float64)
    assert abs(kernel_stein_discrepancy(x, shifted, bandwidth=1.0) / expected - 1) < 0.1


@pytest.mark.parametrize("name", ["correlated", "banana"])
def test_p_values_are_uniform_where_the_samples_are_the_energys_own(name):
    problem = PROBLEMS[name]
    found = [stein_test(problem.sample(80, seeded(s)), problem.energy, resamples=200, generator=seeded(s)).p for s in range(100)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_it_finds_another_mean_and_another_width():
    y = torch.randn(400, 2, generator=seeded(), dtype=torch.float64)
    for wrong in (y + 0.4, 1.3 * y, 0.7 * y):
        assert stein_test(wrong, quadratic, generator=seeded()).p < 0.01


def test_signs_that_are_all_equal_reach_what_was_observed():
    """Of n signs, all equal ones have a share of 2^(1 − n) at least: no p can be much smaller, however sums round."""
    for n in (2, 3, 5):
        for s in range(100):
            p = stein_test(normal(n, 2, seed=s), quadratic, resamples=400, generator=seeded(s + 1)).p
            share = 2.0 ** (1 - n)
            assert p > share - 5 * math.sqrt(share * (1 - share) / 400)


def test_an_energy_is_judged_in_eval_mode():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, y):
            return quadratic(self.dropout(y))

    energy, y = Dropped().train(), normal(50, 2)
    assert kernel_stein_discrepancy(y, energy) == kernel_stein_discrepancy(y, quadratic)
    assert energy.dropout.training


def test_far_from_the_origin_it_is_the_same():
    y, away = normal(100, 3), 1e6
    found = kernel_stein_discrepancy(y + away, lambda y: quadratic(y - away))
    assert found == pytest.approx(kernel_stein_discrepancy(y, quadratic), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_stein_discrepancy(normal(1, 2), quadratic), "at least two"),
        (lambda: kernel_stein_discrepancy(normal(5), lambda y: y.square()), "at least two"),
        (lambda: kernel_stein_discrepancy(normal(5, 2), quadratic, beta=0.5), "beta=0.5"),
        (lambda: kernel_stein_discrepancy(normal(5, 2), quadratic, bandwidth=0.0), "bandwidth=0"),
        (lambda: kernel_stein_discrepancy(normal(5, 2, 2), quadratic), "one for each"),
        (lambda: kernel_stein_discrepancy(math.nan * normal(5, 2), quadratic), "not finite"),
        (lambda: stein_test(normal(5, 2), quadratic, resamples=0), "resamples=0"),
    ],
)
def test_broken_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
