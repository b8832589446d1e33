"""The classifier two-sample test: can anybody tell samples from data?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from ebm.judging.features import check_samples, featured

MANY = 1_000  # rows of either set to train with, from which on a tenth of them says when to stop


class C2ST(NamedTuple):
    """The accuracy on held-out points (1/2: nobody can tell), and the p-value of one distribution."""

    accuracy: float
    p: float


def classifier_test(
    samples: Tensor,
    data: Tensor,
    features: Callable[[Tensor], Tensor] | None = None,
    *,
    classifier: Any = None,
    generator: Generator | None = None,
) -> C2ST:
    """Tests whether samples and data have one distribution, by a classifier that tells them apart.

    A random half of both trains it, the other half judges it. An accuracy of 1/2 means that it sees
    no difference, 1 that it sees all; a density ratio gives accuracy (1 + total variation) / 2 at
    best. The p-value is Fisher's exact one for the held-out table of what is what against what it
    was called: it is valid at any size, whatever the classifier. Of sets of unlike size the larger
    loses its last rows, so that 1/2 is chance: shuffle one that has an order. By scikit-learn and SciPy.
    Source: Lopez-Paz and Oquab, 2017 (arXiv 1610.06545), section 3.

    Arguments:
        samples, data: (n, *event) and (m, *event), at least 20 rows each.
        features: maps a batch to features (batch, d), in eval mode; None takes the values.
        classifier: with scikit-learn's `fit` and `predict`; by default a network with two hidden
            layers of 64, on standardised features.
        generator: where the halves and the network's start come from; the global one if None.

    Raises:
        ValueError: for fewer rows, unlike events, or features that are not finite.

    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 200, 2, generator=g)
    >>> classifier_test(x, y + 6, generator=g).accuracy, classifier_test(x, y, generator=g).p > 0.01
    (1.0, True)
    """
    check_samples(samples, data, least=20)
    try:
        from scipy.stats import hypergeom
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("scikit-learn is not installed: pip install 'ebm-toolkit[recipes]'") from error
    found = [torch.cat([*featured(rows, features, what)]).cpu().numpy() for rows, what in ((samples, "samples"), (data, "data"))]
    count, device = min(map(len, found)), "cpu" if generator is None else generator.device
    # The same order for both: a point that is in both is then on one side of the split, and is called right just once.
    order = torch.randperm(count, generator=generator, device=device).cpu().numpy()
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
    train, held = order[: count // 2], order[count // 2 :]
    if classifier is None:
        # Of few rows too few would be left to stop by.
        network = MLPClassifier((64, 64), early_stopping=len(train) >= MANY, max_iter=500, random_state=seed)
        classifier = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(np.concatenate([rows[train] for rows in found]), np.repeat([0, 1], len(train)))
    called = [np.asarray(classifier.predict(rows[held])).astype(bool) for rows in found]  # whether data
    right = int((~called[0]).sum() + called[1].sum())
    # Given how many points are called data, the number of those that are data is hypergeometric.
    p = hypergeom.sf(called[1].sum() - 1, 2 * len(held), len(held), called[0].sum() + called[1].sum())
    return C2ST(right / (2 * len(held)), float(p))
