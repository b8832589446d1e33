"""Laws of denoising score matching: closed forms for Gaussians, and ladders against a loop over rows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.interfaces import Batch, Energy
from ebm.objectives import DenoisingScoreMatching
from tests.helpers import Valley, close, grads, laws, normal, parameter, quadratic, seeded, seeds

SIGMAS = (1e2, 1.0, 1e-2)  # so far apart that the noise itself tells its level


@laws
@given(seed=seeds, sigma=st.floats(0.05, 2.0), spread=st.floats(0.5, 2.0), given_start=st.booleans())
def test_value_and_gradient_for_a_gaussian(seed, sigma, spread, given_start):
    """E = |y − m|²/2s²: the loss is mean ½ |r|² with r = σ (x + σξ − m)/s² − ξ, and its gradient −σ mean(r)/s²."""
    data, centre = normal(5, 3, seed=seed), parameter(0.5, -0.3, 0.1)
    noise = torch.randn(5, 3, generator=seeded(seed), dtype=torch.float64)
    noised = data + sigma * noise
    residual = sigma * (noised - centre.detach()) / spread**2 - noise
    loss = DenoisingScoreMatching(sigma)(
        lambda y: quadratic(y - centre) / spread**2,
        Batch(data),
        start=noised if given_start else None,
        generator=seeded(seed),
    )
    close(loss.value.detach(), residual.square().sum(-1).mean() / 2)
    close(grads(loss.value, centre)[0], -sigma * residual.mean(0) / spread**2)
    slope = (noised - centre.detach()) / spread**2
    close(loss.terms["grad_norm"], slope.norm(dim=1).mean())
    close(loss.terms["energy_data"], (quadratic(noised - centre.detach()) / spread**2).mean())


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("variance", [0.5, 1.0, 3.0])
def test_its_mean_over_standard_normal_data(sigma, variance):
    """½ d (σ²/v² + (σ²/v − 1)²), least where v = 1 + σ²."""
    rows = 40_000
    data = torch.randn(rows, 2, generator=seeded(), dtype=torch.float64)
    loss = DenoisingScoreMatching(sigma)(lambda y: quadratic(y) / variance, Batch(data), generator=seeded(1)).value.item()
    per_axis = sigma**2 / variance**2 + (sigma**2 / variance - 1) ** 2
    assert loss == pytest.approx(per_axis, abs=4 * per_axis / math.sqrt(rows))  # a sum of two ½ r², r normal


class Ladder(Energy):
    """E_l(y | c) = |y − c|² / 2v_l, which records the rows that every level was asked for."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.asked = levels, []
        self.variances = nn.Parameter(torch.linspace(1.0, 2.0, levels, dtype=torch.float64))

    def encode(self, context=None, level=-1):
        return level, 0.0 if context is None else context

    def forward(self, y, code=None):
        level, shift = code
        self.asked.append((level, y.detach().clone(), shift))
        return quadratic(y - shift) / self.variances[level]


@pytest.mark.parametrize("levels", [1, 3])
@laws
@given(seed=seeds, rows=st.integers(1, 8), has_weight=st.booleans(), has_context=st.booleans())
def test_a_ladder_equals_the_loop_over_rows(levels, seed, rows, has_weight, has_context):
    energy = Ladder(levels)
    # Rows are a million apart, so that a noised row is known by where it is.
    data = 1e6 * torch.arange(rows, dtype=torch.float64)[:, None] + normal(rows, 6, seed=seed)
    context = data + normal(rows, 6, seed=seed + 1) if has_context else None
    weight = normal(rows, seed=seed + 2).abs() + 0.1 if has_weight else None
    loss = DenoisingScoreMatching(SIGMAS)(energy, Batch(data, context, weight), generator=seeded(seed))

    expected, used = {}, []
    for level, noised, shifts in energy.asked:
        for place, y in enumerate(noised):
            row = round(y.mean().item() / 1e6)
            away = (y - data[row]).square().mean().sqrt().item()
            sigma = min(SIGMAS, key=lambda s: abs(math.log(away / s)))
            if levels > 1:
                assert sigma == SIGMAS[level]
            if has_context:
                assert torch.equal(shifts[place], context[row])
            noise = (y - data[row]) / sigma
            slope = (y - (context[row] if has_context else 0.0)) / energy.variances[level]
            expected[row] = (sigma * slope - noise).square().sum() / 2
            used.append(sigma)
    assert sorted(expected) == list(range(rows))
    counts = [used.count(sigma) for sigma in SIGMAS]
    assert max(counts) - min(counts) <= 1
    weights = torch.ones(rows, dtype=torch.float64) if weight is None else weight
    value = sum(weights[row] * expected[row] for row in range(rows)) / weights.sum()
    close(loss.value, value, rtol=1e-6)  # the noise is read off far-away rows
    close(grads(loss.value, energy.variances)[0], grads(value, energy.variances)[0], rtol=1e-6)


def test_the_levels_of_rows_change_from_batch_to_batch():
    energy, aim, found = Ladder(3), DenoisingScoreMatching(SIGMAS), []
    data = 1e6 * torch.arange(6, dtype=torch.float64)[:, None] + normal(6, 6)
    for seed in range(20):
        energy.asked.clear()
        aim(energy, Batch(data), generator=seeded(seed))
        found.append({round(y.mean().item() / 1e6): level for level, rows, _ in energy.asked for y in rows})
    for row in range(6):
        assert {levels[row] for levels in found} == {0, 1, 2}


def test_terms_of_a_ladder():
    loss = DenoisingScoreMatching(SIGMAS)(Ladder(3), Batch(normal(9, 2)), generator=seeded())
    assert set(loss.terms) == {"energy_data", "grad_norm", "loss_0", "loss_1", "loss_2"}
    close(loss.value.detach(), sum(loss.terms[f"loss_{level}"] for level in range(3)) / 3)
    single = DenoisingScoreMatching(SIGMAS)(quadratic, Batch(normal(9, 2)), generator=seeded())
    assert set(single.terms) == {"energy_data", "grad_norm"}


def test_terms_of_a_ladder_are_weighted_as_the_loss_is():
    weight = torch.tensor([1.0, 0.0] * 6, dtype=torch.float64)
    data = normal(12, 2)
    data[1::2] = 1e3  # masked rows, far off
    loss = DenoisingScoreMatching(SIGMAS)(Ladder(3), Batch(data, weight=weight), generator=seeded())
    assert all(loss.terms[f"loss_{level}"] <= 12 * loss.value.detach() for level in range(3))


@pytest.mark.parametrize("energy", [Valley(), quadratic])
def test_chains_may_have_several_axes(energy):
    data, context, weight = normal(2, 3, 2), normal(2, 3, 3), normal(2, 3).abs()
    loss = DenoisingScoreMatching((1.0, 0.5))(energy, Batch(data, context, weight), generator=seeded())
    assert loss.value.shape == ()
    flat = DenoisingScoreMatching(0.5)(energy, Batch(data, context, weight), start=data + 0.5 * normal(2, 3, 2, seed=5))
    one = Batch(data.flatten(0, 1), context.flatten(0, 1), weight.flatten())
    start = one.target + 0.5 * normal(2, 3, 2, seed=5).flatten(0, 1)
    close(flat.value, DenoisingScoreMatching(0.5)(energy, one, start=start).value)


@pytest.mark.parametrize("sigma", [0.0, -1.0, [], [1.0, 0.0], math.nan, math.inf])
def test_noise_levels_that_cannot_work_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma="):
        DenoisingScoreMatching(sigma)


def test_ladders_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"2 noise levels.*3 landscapes"):
        DenoisingScoreMatching([1.0, 0.5])(Ladder(3), Batch(normal(4, 2)))
    with pytest.raises(ValueError, match="ladder"):
        DenoisingScoreMatching([1.0, 0.5])(quadratic, Batch(normal(4, 2)), start=normal(4, 2))


def test_integer_data_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"int64.*float"):
        DenoisingScoreMatching(0.1)(quadratic, Batch(torch.ones(4, 2, dtype=torch.long)))
