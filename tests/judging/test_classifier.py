"""Laws of the classifier two-sample test: chance for one distribution, certainty for two that nobody confuses."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ebm.judging import classifier_test
from tests.helpers import normal, seeded


class Nearest:
    """Calls a point by the nearer mean: fast, and the best there is for two normals of one covariance."""

    def fit(self, points, labels):
        self.means = [points[labels == label].mean(0) for label in (0, 1)]

    def predict(self, points):
        near = [np.square(points - mean).sum(1) for mean in self.means]
        return (near[1] < near[0]).astype(int)


@pytest.mark.parametrize("classifier", [None, KNeighborsClassifier(1), LogisticRegression()])
def test_the_same_points_cannot_be_told_apart(classifier):
    """Also by whoever remembers: a point and its twin are on one side of the split, and one of them is called right."""
    x = normal(100, 2)
    found = classifier_test(x, x, classifier=classifier, generator=seeded())
    assert found.accuracy == 0.5
    assert found.p >= 0.5


@pytest.mark.parametrize("classifier", [None, Nearest()])
def test_what_does_not_overlap_is_told_apart(classifier):
    x, y = normal(100, 2), normal(60, 2, seed=1) + 20
    found = classifier_test(x, y, classifier=classifier, generator=seeded())
    assert found.accuracy == 1
    assert found.p == pytest.approx(1 / math.comb(60, 30))


def test_the_accuracy_is_that_of_the_best_rule():
    """For normals at a distance of d along one axis it is Φ(d / 2)."""
    x, y = normal(20_000, 2), normal(20_000, 2, seed=1) + torch.tensor([1.5, 0.0])
    best = stats.norm.cdf(0.75)
    for classifier in (Nearest(), None):
        found = classifier_test(x, y, classifier=classifier, generator=seeded()).accuracy
        assert found == pytest.approx(best, abs=4 * math.sqrt(best * (1 - best) / 20_000) + (0.0 if classifier else 0.01))


def test_the_network_sees_what_means_and_covariances_do_not():
    """A ring against a normal of its mean and covariance."""
    angle = 2 * math.pi * torch.rand(1000, generator=seeded(), dtype=torch.float64)
    ring = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
    assert classifier_test(ring, normal(1000, 2), generator=seeded()).accuracy > 0.8
    assert classifier_test(ring, normal(1000, 2), classifier=LogisticRegression(), generator=seeded()).accuracy < 0.6


def test_p_values_keep_their_level_where_the_distributions_agree():
    ps = [
        classifier_test(
            normal(40, 2, seed=2 * seed), normal(40, 2, seed=2 * seed + 1), classifier=Nearest(), generator=seeded(seed)
        ).p
        for seed in range(300)
    ]
    for level in (0.01, 0.05, 0.1, 0.5):
        assert stats.binomtest(sum(p <= level for p in ps), 300, level, "greater").pvalue > 0.01
    assert np.mean(np.array(ps) <= 0.6) > 0.3  # and are not simply large


def test_p_is_the_share_of_labellings_that_are_called_as_well():
    """The oracle counts all ways to say which of 8 held-out points are data; only two features decide what each is called."""

    class Sign:
        def fit(self, points, labels):
            pass

        def predict(self, points):
            return (points[:, 0] > 0).astype(int)

    x, y = normal(20, 1, seed=3), normal(20, 1, seed=4) + 0.4
    found = classifier_test(x, y, classifier=Sign(), generator=seeded())
    order = torch.randperm(20, generator=seeded())[10:]
    called = [bool(v > 0) for v in torch.cat([x[order], y[order]]).flatten()]
    right = [sum(called[i] == (i in data) for i in range(20)) for data in map(set, itertools.combinations(range(20), 10))]
    observed = sum(called[i] == (i >= 10) for i in range(20))
    assert found.accuracy == observed / 20
    assert found.p == pytest.approx(sum(r >= observed for r in right) / len(right))


def test_it_is_a_function_of_its_generator_and_features_are_ones_own():
    x, y = normal(50, 1, 4), normal(70, 1, 4, seed=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = (classifier_test(x, y, generator=seeded(3)) for _ in range(2))
    assert one == two
    assert torch.equal(torch.get_rng_state(), before)
    blind = classifier_test(x, y + 50, lambda rows: torch.ones(len(rows), 1), generator=seeded())
    assert (blind.accuracy, blind.p) == (0.5, 1.0)


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(ValueError, match="20 rows or more of the same events"):
        classifier_test(normal(19, 2), normal(50, 2))
    with pytest.raises(ValueError, match="same events"):
        classifier_test(normal(50, 2), normal(50, 3))
    with pytest.raises(ValueError, match="features of the data are not finite"):
        classifier_test(normal(50, 2), normal(50, 2) / 0)
