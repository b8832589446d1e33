"""Calibration: probabilities that were wrong become right, and what is right has no error."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.judging.calibration import Calibration, reliability
from tests.helpers import close, laws, seeded, seeds


def examples(count: int, seed: int = 0, slope: float = 1.5):
    """Scores, and what is right with the probability σ(slope · score)."""
    generator = seeded(seed)
    scores = torch.randn(count, generator=generator, dtype=torch.float64)
    chances = (slope * scores).sigmoid()
    return scores, torch.rand(count, generator=generator, dtype=torch.float64) < chances, chances


@pytest.mark.parametrize("kind", ["isotonic", "logistic"])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 50.0), (1e4, -1e6)])
def test_it_finds_the_chances_whatever_the_unit_of_the_scores(kind, scale, shift):
    scores, right, _ = examples(4000)
    found = Calibration(scale * scores + shift, right, kind)
    others, _, chances = examples(4000, seed=1)
    assert (found(scale * others + shift) - chances).abs().mean() < 0.04


@pytest.mark.parametrize("kind", ["isotonic", "logistic"])
def test_it_rises_and_stays_a_probability(kind):
    scores, right, _ = examples(200)
    found = Calibration(scores, right, kind)(torch.linspace(-100, 100, 101))
    assert (found.diff() >= 0).all()
    assert (found >= 0).all()
    assert (found <= 1).all()


@pytest.mark.parametrize("kind", ["isotonic", "logistic"])
@pytest.mark.parametrize("always", [True, False])
def test_of_what_is_always_right_it_knows_no_better(kind, always):
    found = Calibration(torch.randn(9, generator=seeded()), torch.full((9,), always), kind)
    close(found(torch.zeros(2, 3)), torch.full((2, 3), float(always), dtype=torch.float64))


@laws
@given(seed=seeds, bins=st.integers(1, 20), count=st.integers(1, 60))
def test_the_error_is_the_mean_distance_of_the_curve_from_the_diagonal(seed, bins, count):
    said = torch.rand(count, generator=seeded(seed))
    right = torch.rand(count, generator=seeded(seed + 1)) < 0.5
    found = reliability(said, right, bins)
    expected = 0.0
    for place in range(bins):
        members = [i for i in range(count) if min(int(said[i].double().item() * bins), bins - 1) == place]
        assert found.members[place] == len(members)
        if members:
            mean, share = said[members].double().mean(), right[members].double().mean()
            close(found.said[place], mean)
            close(found.true[place], share)
            expected += len(members) / count * abs(mean - share).item()
    close(found.error, expected, rtol=1e-5, atol=1e-6)


def test_calibrated_scores_have_a_smaller_error_than_overconfident_ones():
    scores, right, _ = examples(4000)
    others, answers, _ = examples(4000, seed=1)
    overconfident = reliability((6 * others).sigmoid(), answers).error
    calibrated = reliability(Calibration(scores, right)(others), answers).error
    assert overconfident > 0.1
    assert calibrated < 0.04


def test_scores_that_know_nothing_have_no_error_and_no_lower_brier_score_than_the_share_alone():
    scores, right, chances = examples(4000)
    others, answers, _ = examples(4000, seed=1)
    ignorant = reliability(Calibration(torch.zeros(4000), right)(others), answers)
    knowing = reliability(Calibration(scores, right)(others), answers)
    assert ignorant.error < 0.02
    assert ignorant.blind - 1e-9 <= ignorant.brier < ignorant.blind + 1e-3
    close(knowing.blind, ignorant.blind)
    best = (chances * (1 - chances)).mean().item()
    assert best - 0.01 < knowing.brier < best + 0.02 < knowing.blind


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="pass one of each"):
        Calibration(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="pass one of each"):
        reliability(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="choose isotonic or logistic"):
        Calibration(torch.zeros(3), torch.zeros(3), "platt")
    with pytest.raises(ValueError, match="from -1 to 2"):
        reliability(torch.tensor([-1.0, 2.0]), torch.tensor([True, False]))
    with pytest.raises(FloatingPointError, match="1 of 2 scores"):
        Calibration(torch.tensor([0.0, torch.nan]), torch.tensor([True, False]))
