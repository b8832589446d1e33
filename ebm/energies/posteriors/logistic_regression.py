"""Logistic regression: a log-concave posterior of correlated weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import logsigmoid

from ebm.energies.posteriors.posterior import Posterior, Variables, normal, numbers


class LogisticRegression(Posterior):
    """Scores the weights of a classifier of rows x, with labels of 0 or 1:

        w, b ~ N(0, 1),  label ~ Bernoulli(1 / (1 + exp(−w·x − b))),

    by variables `weights` w (d,) and `intercept` b. Without data it has a design of the size of the
    German credit data (1,000 rows, 24 inputs, three of ten labels 1): correlated normal inputs,
    standardised, of a stream that numpy promises to keep (RandomState(0)).

    Source: model of inference-gym's german_credit_numeric_logistic_regression.

    Arguments:
        inputs: x (n, d), finite; scale them so that weights of order 1 are plausible.
        labels: (n,), zeros and ones.

    Raises:
        ValueError: for inputs without labels (or the reverse), or shapes or labels other than these.

    >>> import torch
    >>> LogisticRegression().dim
    25
    >>> LogisticRegression([[0.5], [1.0]], [0, 1])(torch.zeros(3, 2))  # 2 (log 2 + log(2π) / 2)
    tensor([3.2242, 3.2242, 3.2242])
    """

    def __init__(self, inputs: Any = None, labels: Any = None) -> None:
        if (inputs is None) != (labels is None):
            raise ValueError("LogisticRegression has inputs without labels, or labels without inputs: pass both, or neither")
        own = inputs is not None
        inputs, labels = (inputs, labels) if own else _design()
        x, seen = numbers(self, inputs=inputs), numbers(self, labels=labels)
        shapes = f"LogisticRegression(inputs {tuple(x.shape)}, labels {tuple(seen.shape)})"
        if x.ndim != 2 or seen.shape != x.shape[:1] or not x.numel():
            raise ValueError(f"{shapes}: pass (n, d) and (n,)")
        if not bool(((seen == 0) | (seen == 1)).all()):
            raise ValueError(f"{shapes} has labels other than 0 and 1: number the two classes so")
        sign = 2 * seen.to(x) - 1  # with it every row's likelihood is the sigmoid of one product
        variables = {"weights": (tuple(x.shape[1:]), "real"), "intercept": ((), "real")}
        data = {"signed": sign[:, None] * x, "sign": sign}
        super().__init__(_joint, variables, data, None if own else "logistic-regression")


def _joint(y: Variables, signed: Tensor, sign: Tensor) -> Tensor:
    weights, intercept = y["weights"], y["intercept"]
    evidence = weights @ signed.mT + intercept[..., None] * sign
    return normal(weights, 1.0).sum(-1) + normal(intercept, 1.0) - logsigmoid(evidence).sum(-1)


def _design() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.RandomState(0)
    x = draws.standard_normal((1000, 24)) @ (np.eye(24) + 0.3 * draws.standard_normal((24, 24)))
    x = (x - x.mean(0)) / x.std(0)
    logits = x @ (0.3 * draws.standard_normal(24)) - 1.2
    return x, (draws.random_sample(1000) < 1 / (1 + np.exp(-logits))).astype(float)
