"""Fréchet's distance against the closed form of Gaussians, in features of all kinds."""

import pytest
import torch
from scipy import linalg
from torch import nn

from ebm.judging import frechet_distance
from tests.helpers import normal, seeded


def closed_form(x, y):
    mean, other = x.mean(0), y.mean(0)
    one, two = (torch.cov(rows.T).numpy() for rows in (x, y))
    root = linalg.sqrtm(one @ two).real
    return float((mean - other).square().sum()) + float((one + two - 2 * root).trace())


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_it_is_the_closed_form_of_the_moments(batch_size):
    x = normal(300, 4) @ normal(4, 4, seed=1)
    y = normal(200, 4, seed=2) * 2 + 1
    assert frechet_distance(x, y, batch_size=batch_size) == pytest.approx(closed_form(x, y), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_features_are_ones_own():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(48, 5)).double()
    x, y = normal(100, 1, 6, 6), normal(120, 1, 6, 6, seed=1) + 0.5
    with torch.no_grad():
        expected = closed_form(network.eval()(x), network(y))
    network.train()
    assert frechet_distance(x, y, network) == pytest.approx(expected, rel=1e-6)
    assert network.training
    assert network[2].training
    assert frechet_distance(x, y, lambda batch: batch.mean((2, 3))) > 0


def test_it_tends_to_the_distance_of_the_distributions():
    """N(0, I) and N(m, 4 I) in three dimensions: |m|² + 3 (1 + 4 − 2·2)."""
    x = torch.randn(40_000, 3, generator=seeded(), dtype=torch.float64)
    y = 2 * torch.randn(40_000, 3, generator=seeded(1), dtype=torch.float64) + 1.0
    assert frechet_distance(x, y) == pytest.approx(3 + 3, rel=0.03)


def test_features_of_low_precision_are_compared_in_double():
    x, y = normal(200, 3), normal(200, 3, seed=1) + 0.5
    expected = closed_form(x.bfloat16().double(), y.bfloat16().double())
    assert frechet_distance(x, y, lambda batch: batch.bfloat16()) == pytest.approx(expected, rel=1e-6)


def test_broken_input_is_named():
    with pytest.raises(ValueError, match="same events"):
        frechet_distance(normal(5, 2), normal(5, 3))
    with pytest.raises(ValueError, match="two rows or more"):
        frechet_distance(normal(1, 2), normal(5, 2))
    with pytest.raises(ValueError, match="batch_size=0"):
        frechet_distance(normal(5, 2), normal(5, 2), batch_size=0)
    with pytest.raises(ValueError, match=r"\(batch, d\) is due"):
        frechet_distance(normal(5, 2), normal(5, 2), lambda batch: batch.sum(-1))
    with pytest.raises(ValueError, match=r"\(batch, d\) is due"):
        frechet_distance(normal(5), normal(5))
    with pytest.raises(ValueError, match="features of the samples are not finite"):
        frechet_distance(normal(5, 2) / 0, normal(5, 2))
