"""Laws of InfoNCE: the formula by hand for both sources, no bias at few proposals, conditional models with a known answer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ebm
from ebm.energies import Gaussian
from ebm.interfaces import Batch, Energy
from ebm.objectives import InfoNCE
from ebm.testing import check_objective
from tests.estimation import (
    GAUSSIAN,
    ball,
    by_differences,
    by_row,
    estimates,
    gaussian,
    gaussian_likeliest,
    gaussian_samples,
    is_zero_in_the_mean,
    recovers,
)
from tests.helpers import Valley, close, grads, laws, normal, quadratic, seeded, seeds


@laws
@given(seed=seeds, std=st.floats(0.5, 3.0), proposals=st.integers(1, 4), has_weight=st.booleans(), has_context=st.booleans())
def test_noise_by_hand(seed, std, proposals, has_weight, has_context):
    energy, data = Valley(), normal(5, 2, seed=seed)
    context = normal(5, 3, seed=seed + 1) if has_context else None
    weight = normal(5, seed=seed + 2).abs() if has_weight else None
    batch, bound = Batch(data, context, weight), energy.given(context)
    loss = InfoNCE(std, proposals)(energy, batch, generator=seeded(seed))
    noise = std * torch.randn(proposals, 5, 2, generator=seeded(seed), dtype=torch.float64)
    scores = [torch.exp(-bound(y) + quadratic(y) / std**2) for y in (data, *noise)]
    expected = batch.mean(-torch.log(scores[0] / (sum(scores) / (1 + proposals))))
    close(loss.value, expected)
    held = (energy.inner, energy.heights)
    for got, hand in zip(grads(loss.value, *held), grads(expected, *held), strict=True):
        close(got, hand)
    close(loss.terms["energy_data"], batch.mean(bound(data).detach()))
    first = torch.stack([score < scores[0] for score in scores[1:]]).all(0).double()
    close(loss.terms["accuracy"], batch.mean(first))


@laws
@given(seed=seeds, rows=st.integers(1, 5), has_weight=st.booleans())
def test_the_batchs_rows_by_a_loop(seed, rows, has_weight):
    """Every row's target with every row's context; a row without weight is no proposal, and keeps its own loss to itself."""
    energy, data, context = Valley(), normal(rows, 2, seed=seed), normal(rows, 3, seed=seed + 1)
    weight = normal(rows, seed=seed + 2).relu() + 0.01 * (torch.arange(rows) == 0) if has_weight else None
    batch = Batch(data, context, weight)
    losses, firsts = [], []
    for i in range(rows):
        bound = energy.given(context[i])
        others = [j for j in range(rows) if j != i and (weight is None or weight[j] > 0)]
        scores = [torch.exp(-bound(data[j])) for j in (i, *others)]
        losses.append(-torch.log(scores[0] / (sum(scores) / len(scores))))
        firsts.append(torch.tensor(float(all(score < scores[0] for score in scores[1:])), dtype=torch.float64))
    loss, expected = InfoNCE("batch")(energy, batch), batch.mean(torch.stack(losses))
    close(loss.value, expected)
    for got, hand in zip(grads(loss.value, *energy.parameters()), grads(expected, *energy.parameters()), strict=True):
        close(got, hand)
    close(loss.terms["accuracy"], batch.mean(torch.stack(firsts)))
    close(loss.terms["energy_data"], batch.mean(energy.given(context)(data).detach()))


def test_rows_at_several_places_meet_those_at_their_own():
    """Chains (rows, places): at each place the loss is that of a batch of its own."""
    energy, data, context, weight = Valley(), normal(4, 3, 2), normal(4, 3, 3, seed=1), normal(4, 3, seed=2).relu() + 0.1
    loss = InfoNCE("batch")(energy, Batch(data, context, weight)).value
    apart = [InfoNCE("batch")(energy, Batch(data[:, k], context[:, k], weight[:, k])).value for k in range(3)]
    close(loss, (torch.stack(apart) * weight.sum(0)).sum() / weight.sum())


@pytest.mark.parametrize("source", [2.0, "batch"])
def test_what_a_context_alone_adds_falls_out(source):
    """A normaliser, and for a batch's rows nothing else: for noise what y alone adds is learned."""
    energy, batch = Valley(), Batch(normal(5, 2), normal(5, 3, seed=1))

    class Shifted(Energy):
        def encode(self, context=None, level=-1):
            return context

        def forward(self, y, code=None):
            return energy.given(code)(y) + code.sum(-1)

    one, other = (InfoNCE(source)(each, batch, generator=seeded()).value for each in (energy, Shifted()))
    close(one, other)


@pytest.mark.parametrize("source", [2.0, "batch"])
def test_gradients_equal_differences(source):
    energy, batch = Valley(), Batch(normal(4, 2), normal(4, 3, seed=1), normal(4, seed=2).abs())
    loss = InfoNCE(source, 3)(energy, batch, generator=seeded())
    for held, found in zip(energy.parameters(), grads(loss.value, *energy.parameters()), strict=True):
        close(found, by_differences(InfoNCE(source, 3), energy, held, batch), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("proposals", [1, 5])
def test_the_truth_has_no_slope_in_the_mean_at_any_number_of_proposals(proposals):
    theta = torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64)
    data = theta[:2] + theta[2].exp() * normal(20_000, 2)
    assert is_zero_in_the_mean(by_row(InfoNCE(2.0, proposals), ball, theta, data))
    assert not is_zero_in_the_mean(by_row(InfoNCE(2.0, proposals), ball, theta + 0.1, data))


@pytest.mark.parametrize("source", [2.0, Gaussian(torch.tensor([0.5, 0.0]).double(), 4.0)])
@pytest.mark.parametrize(("proposals", "worse"), [(2, 3.0), (32, 1.5)])
def test_a_gaussian_is_recovered(source, proposals, worse):
    data = gaussian_samples(replicas=40, rows=600)
    recovers(estimates(InfoNCE(source, proposals), gaussian, GAUSSIAN * 0, data), GAUSSIAN, gaussian_likeliest(data), worse)


def test_a_regression_with_its_noise_is_recovered():
    """p(y | c) = N(a c, s²), whose normaliser is nobody's business: θ = (a, log s)."""
    truth, rows, replicas = torch.tensor([0.8, -0.4], dtype=torch.float64), 600, 40
    context = normal(rows, replicas, 1, seed=3)
    data = truth[0] * context + truth[1].exp() * normal(rows, replicas, 1, seed=4)

    def line(theta, y, c):
        return quadratic(y - theta[..., :1] * c) * torch.exp(-2 * theta[..., 1])

    found = estimates(InfoNCE(1.5, 16), line, torch.zeros(2).double(), data, context)
    slope = (data * context).sum(0) / context.square().sum(0)
    best = torch.cat([slope, (data - slope * context).square().mean(0).log() / 2], -1)
    recovers(found, truth, best, worse=2.0)


def test_among_rows_a_ratio_of_densities_is_recovered():
    """x and c are normal with correlation ρ = tanh a: log p(x | c)/p(x) = (ρ x c − ½ ρ² x²)/(1 − ρ²), but for what c adds."""
    truth, rows, replicas = torch.tensor([0.6], dtype=torch.float64), 100, 40
    rho = truth.tanh()
    context = normal(rows, replicas, 1, seed=3)
    data = rho * context + (1 - rho**2).sqrt() * normal(rows, replicas, 1, seed=4)

    def ratio(theta, y, c):
        r = theta[..., 0].tanh()
        return -(r * y[..., 0] * c[..., 0] - r**2 * y[..., 0] ** 2 / 2) / (1 - r**2)

    found = estimates(InfoNCE("batch"), ratio, torch.zeros(1).double(), data, context)
    # Of ρ with known variances, by the sample's correlation: at least as variable as maximum likelihood.
    sample = (data * context).sum(0) / (data.square().sum(0) * context.square().sum(0)).sqrt()
    recovers(found, truth, sample.atanh(), worse=1.5)


def test_the_laws_of_objectives_hold_among_rows():
    check_objective(lambda: InfoNCE("batch"), Valley(), Batch(torch.randn(12, 2), torch.randn(12, 3)))


def test_a_row_alone_says_nothing():
    energy = Valley()
    loss = InfoNCE("batch")(energy, Batch(normal(1, 2), normal(1, 3)))
    assert loss.value == 0
    assert all(not one.any() for one in grads(loss.value, *energy.parameters()))


def test_a_recipe_names_its_source():
    for source in (2.5, "batch"):
        table = {"use": "infonce", "source": source, "proposals": 8}
        resolved = ebm.recipes.resolve({"task": {"use": "points", "n": 100}, "energy": {"use": "mlp"}, "objective": table})
        assert resolved["objective"] == table
    with pytest.raises(ValueError, match="source"):
        ebm.recipes.resolve({"task": {"use": "points"}, "energy": {"use": "mlp"}, "objective": {"use": "infonce", "source": "b"}})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"source": 0.0}, "noise 0.0"),
        ({"source": "rows"}, "source='rows': choose batch"),
        ({"source": Valley()}, r"sample\(n, generator=\) and log_z"),
        ({"proposals": 0}, "proposals=0"),
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        InfoNCE(**keywords)


def test_calls_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="moves no chains"):
        InfoNCE()(quadratic, Batch(normal(4, 2)), start=normal(4, 2))
    with pytest.raises(ValueError, match="by their context, and there is none"):
        InfoNCE("batch")(Valley(), Batch(normal(4, 2)))


def test_a_whole_number_is_a_deviation():
    one, two = (InfoNCE(source)(quadratic, Batch(normal(4, 2)), generator=seeded()).value for source in (2, 2.0))
    assert torch.equal(one, two)
