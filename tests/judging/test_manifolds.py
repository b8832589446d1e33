"""Laws of precision and recall, of density and coverage, and a slow oracle that is written as the papers are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.judging import manifolds, precision_recall
from tests.helpers import laws, normal


def slow(x, y, k):
    """Kynkäänniemi et al., equations 1 and 2, and Naeem et al., equations 3 and 4, point by point."""

    def distance(a, b):
        return float((a - b).square().sum().sqrt())

    def radius(points, i):
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    def inside(point, points, i, radii):
        return distance(point, points[i]) <= radii[i]

    rx, ry = ([radius(points, i) for i in range(len(points))] for points in (x, y))
    precision = sum(any(inside(a, y, j, ry) for j in range(len(y))) for a in x) / len(x)
    recall = sum(any(inside(b, x, i, rx) for i in range(len(x))) for b in y) / len(y)
    density = sum(inside(a, y, j, ry) for a in x for j in range(len(y))) / (k * len(x))
    coverage = sum(any(inside(a, y, j, ry) for a in x) for j in range(len(y))) / len(y)
    return precision, recall, density, coverage


@laws
@given(st.integers(5, 12), st.integers(5, 12), st.integers(1, 4), st.floats(0, 3), st.integers(0, 99))
def test_it_is_what_the_papers_say(m, n, k, shift, seed):
    x, y = normal(m, 2, seed=seed), normal(n, 2, seed=seed + 100) + shift
    assert precision_recall(x, y, k=k) == pytest.approx(slow(x, y, k))


def test_blocks_are_the_whole(monkeypatch):
    x, y = normal(40, 3), normal(30, 3, seed=1) + 0.3
    expected = precision_recall(x, y)
    monkeypatch.setattr(manifolds, "ROWS", 7)
    assert precision_recall(x, y) == expected


@laws
@given(st.integers(5, 40), st.integers(1, 4), st.integers(0, 99))
def test_the_same_points_are_all_there(count, k, seed):
    """A point lies in its own ball, and in those of the k points of which it is a near neighbour, on average."""
    x = normal(count, 2, seed=seed)
    assert precision_recall(x, x, k=k) == pytest.approx((1, 1, (k + 1) / k, 1))


@laws
@given(st.integers(5, 30), st.integers(5, 30), st.integers(0, 99), st.floats(0.01, 100))
def test_precision_and_recall_change_places_and_units_do_not_matter(m, n, seed, unit):
    x, y = normal(m, 2, seed=seed), normal(n, 2, seed=seed + 100) + 0.5
    one, other = precision_recall(x, y), precision_recall(y, x)
    assert (one.precision, one.recall) == (other.recall, other.precision)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    assert precision_recall(unit * x @ turn, unit * y @ turn) == pytest.approx(one)
    assert precision_recall(x.flip(0)[:, None], y[:, None]) == pytest.approx(one)


def test_what_does_not_overlap_shares_nothing():
    assert precision_recall(normal(50, 2) + 100, normal(60, 2)) == (0, 0, 0, 0)


def test_samples_of_one_mode_are_precise_and_recall_half():
    """Data have two modes, and samples one of them."""
    data = torch.cat([normal(200, 2, seed=1), normal(200, 2, seed=2) + 30])
    found = precision_recall(normal(400, 2), data)
    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.05)
    assert found.coverage == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_of_one_distribution_density_and_coverage_are_what_counting_gives(k):
    """Of n + n points that are dealt out at random, the k nearest of a point are all data with probability about 2⁻ᵏ."""
    found = torch.tensor(
        [precision_recall(normal(200, 2, seed=seed), normal(200, 2, seed=seed + 500), k=k) for seed in range(40)]
    )
    nobody = 1.0
    for i in range(k):
        nobody *= (199 - i) / (399 - i)
    expected = torch.tensor([1.0, 1 - nobody])  # of density n k / (n − 1) … over n k: each ball holds k of the others in the mean
    error = found[:, 2:].std(0) / 40**0.5
    assert bool(((found[:, 2:].mean(0) - expected).abs() < 4 * error + 0.01).all())


def test_what_cannot_be_measured_is_refused():
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"k={k}"):
            precision_recall(normal(5, 2), normal(5, 2), k=k)
    with pytest.raises(ValueError, match="4 rows or more of the same events"):
        precision_recall(normal(3, 2), normal(5, 2))
    with pytest.raises(ValueError, match="features of the samples are not finite"):
        precision_recall(normal(5, 2) / 0, normal(5, 2))
    with pytest.raises(ValueError, match=r"\(batch, d\) is due"):
        precision_recall(normal(5, 2), normal(5, 2), lambda rows: rows.sum())
