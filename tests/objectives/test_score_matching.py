"""Laws of score matching, exact and sliced: closed forms of Gaussians, Hessians row by row, differences, known models."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.energies import DoubleWell, MLPEnergy
from ebm.interfaces import Batch
from ebm.objectives import ScoreMatching, SlicedScoreMatching
from tests.estimation import (
    GAUSSIAN,
    by_differences,
    by_row,
    estimates,
    gaussian,
    gaussian_likeliest,
    gaussian_samples,
    is_zero_in_the_mean,
    recovers,
)
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds

EVERY = [ScoreMatching(), SlicedScoreMatching(), SlicedScoreMatching(3), SlicedScoreMatching(2, variance_reduced=False)]
A = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)


def tilted(y):
    """E = yᵀAy / 2."""
    return ((y @ A) * y).sum(-1) / 2


def directions(shape, seed, count):
    g = seeded(seed)
    return [2 * torch.empty(shape, dtype=torch.float64).bernoulli_(0.5, generator=g) - 1 for _ in range(count)]


@laws
@given(seed=seeds, event=st.sampled_from([(3,), (2, 4), (3, 4, 2), (2, 1, 3, 2)]), cut=st.integers(1, 6))
def test_a_bowl_is_known_for_events_of_any_shape_and_a_batch_is_the_mean_of_its_parts(seed, event, cut):
    """E = |y|²/2 over d numbers: L = mean |y|²/2 − d, whose mean over standard normal data is −d/2."""

    def bowl(y):
        return y.flatten(1).square().sum(-1) / 2

    data, size = normal(7, *event, seed=seed), math.prod(event)
    known = data.square().sum() / 14 - size
    close(ScoreMatching()(bowl, Batch(data)).value.detach(), known)
    parts = [ScoreMatching()(bowl, Batch(part)).value.detach() * len(part) for part in (data[:cut], data[cut:])]
    close(sum(parts) / 7, known)


@laws
@given(seed=seeds, log_s=st.floats(-0.7, 0.7), has_weight=st.booleans())
def test_value_and_gradient_for_a_gaussian(seed, log_s, has_weight):
    """E = |y − m|²/2s²: L = ½ mean |y − m|²/s⁴ − d/s², dL/dm = −mean(y − m)/s⁴, dL/dlog s = −2 mean |y − m|²/s⁴ + 2d/s²."""
    data, centre, width = normal(6, 3, seed=seed), parameter(0.5, -0.3, 0.1), parameter(log_s)
    weight = normal(6, seed=seed + 1).abs() if has_weight else None
    loss = ScoreMatching()(lambda y: quadratic(y - centre) * torch.exp(-2 * width), Batch(data, weight=weight))
    w = torch.full((6,), 1 / 6, dtype=torch.float64) if weight is None else weight / weight.sum()
    away, s = data - centre.detach(), math.exp(log_s)
    square = w @ away.square().sum(-1) / s**4
    close(loss.value.detach(), square / 2 - 3 / s**2)
    close(grads(loss.value, centre)[0], -(w @ away) / s**4)
    close(grads(loss.value, width)[0], -2 * square + 6 / s**2)
    close(loss.terms["laplacian"], torch.tensor(3 / s**2, dtype=torch.float64))
    close(loss.terms["grad_norm"], w @ away.norm(dim=-1) / s**2)
    close(loss.terms["energy_data"], w @ quadratic(away) / s**2)


@laws
@given(seed=seeds, has_weight=st.booleans(), has_context=st.booleans())
def test_the_laplacian_is_the_trace_of_every_rows_hessian(seed, has_weight, has_context):
    energy, data = Valley(), normal(4, 2, seed=seed)
    context = normal(4, 3, seed=seed + 1) if has_context else None
    weight = normal(4, seed=seed + 2).abs() if has_weight else None
    rows = []
    for i, y in enumerate(data):
        bound = energy.given(None if context is None else context[i])
        slope = torch.autograd.functional.jacobian(bound, y, create_graph=True)
        curvature = torch.autograd.functional.hessian(bound, y, create_graph=True)
        rows.append(slope.square().sum() / 2 - curvature.trace())
    batch = Batch(data, context, weight)
    expected, loss = batch.mean(torch.stack(rows)), ScoreMatching()(energy, batch)
    close(loss.value, expected)
    held = [p for p in energy.parameters() if has_context or p is not energy.outer]
    for got, hand in zip(grads(loss.value, *held), grads(expected, *held), strict=True):
        close(got, hand)


@laws
@given(seed=seeds, projections=st.integers(1, 3), variance_reduced=st.booleans())
def test_slices_are_taken_along_signs(seed, projections, variance_reduced):
    data, centre = normal(5, 2, seed=seed), parameter(0.5, -0.3)
    loss = SlicedScoreMatching(projections, variance_reduced)(lambda y: tilted(y - centre), Batch(data), generator=seeded(seed))
    slope = (data - centre) @ A
    along = directions((5, 2), seed, projections)
    squares = [slope.square().sum(-1) if variance_reduced else (v * slope).sum(-1).square() for v in along]
    expected = torch.stack([s / 2 - 2 * tilted(v) for s, v in zip(squares, along, strict=True)]).mean()
    close(loss.value, expected)
    close(grads(loss.value, centre)[0], grads(expected, centre)[0])


@laws
@given(seed=seeds)
def test_slices_are_exact_in_one_dimension_and_along_the_axes(seed):
    line = Batch(normal(5, 1, seed=seed))
    for aim in EVERY[1:]:
        close(aim(Valley(dim=1), line, generator=seeded(seed)).value, ScoreMatching()(Valley(dim=1), line).value)
    plane = Batch(normal(5, 3, seed=seed))
    sliced, exact = (aim(lambda y: y.cosh().sum(-1), plane).value for aim in (SlicedScoreMatching(), ScoreMatching()))
    close(sliced, exact)


@pytest.mark.parametrize("variance_reduced", [True, False])
@pytest.mark.parametrize("projections", [1, 4])
def test_slices_are_exact_in_the_mean(variance_reduced, projections):
    """Var vᵀAv = 4 A₁₂², and the square adds −4 A₁₂ s₁s₂ + s₁²s₂²: vᵀAv and ½ (vᵀs)² both move with v₁v₂ alone."""
    rows, y = 20_000, torch.tensor([0.4, -1.1], dtype=torch.float64)
    batch, (one, two) = Batch(y.expand(rows, 2)), (A @ y).tolist()
    found = SlicedScoreMatching(projections, variance_reduced)(tilted, batch, generator=seeded()).value
    spread = abs(-2 * A[0, 1].item() + (0.0 if variance_reduced else one * two))
    assert abs(found - ScoreMatching()(tilted, batch).value).item() < 4 * spread / math.sqrt(rows * projections)
    # The gradients too: of every row's own loss, with its own noise.
    theta, data = GAUSSIAN + 0.3, gaussian_samples(1, 4000)[:, 0]
    sliced, exact = (
        by_row(aim, gaussian, theta, data) for aim in (SlicedScoreMatching(projections, variance_reduced), ScoreMatching())
    )
    assert is_zero_in_the_mean(sliced - exact)


@pytest.mark.parametrize("aim", EVERY)
def test_gradients_equal_differences(aim):
    energy, batch = Valley(), Batch(normal(4, 2), normal(4, 3, seed=1), normal(4, seed=2).abs())
    loss = aim(energy, batch, generator=seeded())
    for held, found in zip(energy.parameters(), grads(loss.value, *energy.parameters()), strict=True):
        close(found, by_differences(aim, energy, held, batch), rtol=1e-6, atol=1e-8)


def test_gaussians_are_fitted_as_by_maximum_likelihood():
    """The minimum of exact score matching for Gaussians is the sample mean and covariance."""
    data = gaussian_samples(replicas=40, rows=400)
    found, best = estimates(ScoreMatching(), gaussian, GAUSSIAN * 0, data), gaussian_likeliest(data)
    close(found, best, rtol=1e-5, atol=1e-6)
    recovers(found, GAUSSIAN, best, worse=1.01)


@pytest.mark.parametrize(("aim", "worse"), [(SlicedScoreMatching(), 2.0), (SlicedScoreMatching(4, False), 2.0)])
def test_sliced_score_matching_recovers_a_gaussian(aim, worse):
    data = gaussian_samples(replicas=40, rows=400)
    recovers(estimates(aim, gaussian, GAUSSIAN * 0, data), GAUSSIAN, gaussian_likeliest(data), worse)


def test_a_double_wells_barrier_is_recovered_with_its_standard_error():
    """E = b T: the minimum is b̂ = mean ΔT / mean |∇T|², with the variance Var(b |∇T|² − ΔT) / (N (mean |∇T|²)²)."""
    barrier, replicas, rows = 1.5, 60, 500
    source = DoubleWell(dim=1, barrier=torch.tensor(barrier, dtype=torch.float64), location=1.0)
    data = source.sample(replicas * rows, generator=seeded()).reshape(rows, replicas, 1)
    u = data[..., 0]
    square, laplacian = (4 * u**3 - 4 * u).square(), 12 * u**2 - 4
    found = laplacian.mean(0) / square.mean(0)
    held = found.clone().requires_grad_()
    loss = ScoreMatching()(lambda y: held * (y[..., 0] ** 2 - 1) ** 2, Batch(data)).value
    close(grads(loss, held)[0], torch.zeros_like(found))  # the objective's minimum, too
    scores = (found - barrier) / ((found * square - laplacian).std(0) / square.mean(0) / math.sqrt(rows))
    assert is_zero_in_the_mean(scores)
    assert 0.7 < scores.std().item() < 1.35  # 60 replicas tell it to one part in eleven


@pytest.mark.parametrize("aim", EVERY)
def test_events_and_chains_may_have_several_axes(aim):
    data, weight = normal(2, 3, 2, 2), normal(2, 3, seed=1).abs()
    loss = aim(lambda y: y.cosh().sum((-2, -1)), Batch(data, weight=weight), generator=seeded())
    flat = aim(lambda y: y.cosh().sum(-1), Batch(data.reshape(6, 4), weight=weight.flatten()), generator=seeded())
    close(loss.value, flat.value)
    numbers = aim(lambda y: y.cosh(), Batch(data[0, 0, 0]), generator=seeded())  # every number a chain
    x = data[0, 0, 0]
    close(numbers.value, (x.sinh().square() / 2 - x.cosh()).mean())


@pytest.mark.parametrize("aim", EVERY)
def test_a_constant_slope_has_no_curvature(aim):
    """Here the gradient has no graph at all, and with a parameter one that does not lead to y."""
    slope, data = parameter(3.0, 4.0), Batch(normal(5, 2))
    exact = aim(lambda y: y @ slope.detach(), data, generator=seeded())
    close(exact.terms["laplacian"], torch.zeros((), dtype=torch.float64))
    loss = aim(lambda y: y @ slope, data, generator=seeded())
    close(loss.value, exact.value)
    if getattr(aim, "variance_reduced", True):
        close(loss.value.detach(), torch.tensor(12.5, dtype=torch.float64))
        close(grads(loss.value, slope)[0], slope.detach())


def test_the_last_landscape_is_trained():
    energy = Valley(levels=3)
    loss = ScoreMatching()(energy, Batch(normal(4, 2)))
    of = grads(loss.value, energy.heights)[0]
    assert not of[:2].any()
    assert of[2] != 0


def test_what_is_compiled_is_left_aside():
    """A compiled gradient can be differentiated once; this loss needs it twice more."""

    def refuse(y, code):
        raise RuntimeError("does not currently support double backward")

    energy, batch = Valley(), Batch(normal(4, 2))
    expected = ScoreMatching()(energy, batch).value
    energy._compiled = energy.encode, refuse
    close(ScoreMatching()(energy, batch).value, expected)


def test_networks_of_smooth_units_train():
    energy, batch = MLPEnergy(2, hidden=(8,), activation="softplus").double(), Batch(normal(64, 2))
    optimizer = torch.optim.Adam(energy.parameters(), lr=1e-2)
    first = ScoreMatching()(energy, batch).value.item()
    for _ in range(50):
        optimizer.zero_grad()
        ScoreMatching()(energy, batch).value.backward()
        optimizer.step()
    assert ScoreMatching()(energy, batch).value.item() < first - 0.1


@pytest.mark.parametrize("aim", EVERY)
def test_a_start_is_refused(aim):
    with pytest.raises(ValueError, match="moves no chains"):
        aim(quadratic, Batch(normal(4, 2)), start=normal(4, 2))


def test_arguments_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="projections=0"):
        SlicedScoreMatching(0)
    with pytest.raises(ValueError, match=r"int64.*float"):
        ScoreMatching()(quadratic, Batch(torch.ones(4, 2, dtype=torch.long)))


# ------------------------------------------------------------------------------------------ energies without any curvature


def network(activation):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 1))
    return lambda y: layers.to(y.dtype)(y).squeeze(-1)


@pytest.mark.parametrize("aim", [ScoreMatching, SlicedScoreMatching, lambda: SlicedScoreMatching(2, variance_reduced=False)])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.Hardtanh(), nn.PReLU()])
def test_an_energy_without_curvature_is_warned_of_at_the_first_batch_alone(aim, activation):
    objective, energy, batch = aim(), network(activation), Batch(normal(6, 2))
    with pytest.warns(UserWarning, match=r"sees no curvature: .* at all 6 rows.*ReLU.*smooth activation.*Denoising"):
        objective(energy, batch, generator=seeded())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(energy, batch, generator=seeded())


@pytest.mark.parametrize("aim", [ScoreMatching, SlicedScoreMatching])
@pytest.mark.parametrize("energy", [network(nn.SiLU()), network(nn.Softplus()), quadratic, lambda y: 0 * quadratic(y)])
def test_an_energy_with_curvature_is_not_warned_of(aim, energy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aim()(energy, Batch(normal(6, 2)), generator=seeded())
