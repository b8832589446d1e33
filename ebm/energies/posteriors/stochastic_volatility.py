"""Stochastic volatility: how restless a market was on each day, from its returns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ebm.energies.posteriors.posterior import Posterior, Variables, half_cauchy, normal, numbers

# Closing prices of the S&P 500 in US dollars, the 101 trading days until 2020-06-24, as in inference-gym's
# sp500_closing_prices (rounded to cents).
# fmt: off
PRICES = (
    3225.52, 3248.92, 3297.59, 3334.69, 3345.78, 3327.71, 3352.09, 3357.75, 3379.45, 3373.94, 3380.16, 3370.29, 3386.15,
    3373.23, 3337.75, 3225.89, 3128.21, 3116.39, 2978.76, 2954.22, 3090.23, 3003.37, 3130.12, 3023.94, 2972.37, 2746.56,
    2882.23, 2741.38, 2480.64, 2711.02, 2386.13, 2529.19, 2398.10, 2409.39, 2304.92, 2237.40, 2447.33, 2475.56, 2630.07,
    2541.47, 2626.65, 2584.59, 2470.50, 2526.90, 2488.65, 2663.68, 2659.41, 2749.98, 2789.82, 2761.63, 2846.06, 2783.36,
    2799.55, 2874.56, 2823.16, 2736.56, 2799.31, 2797.80, 2836.74, 2878.48, 2863.39, 2939.51, 2912.43, 2830.71, 2842.74,
    2868.44, 2848.42, 2881.19, 2929.80, 2930.19, 2870.12, 2820.00, 2852.50, 2863.70, 2953.91, 2922.94, 2971.61, 2948.51,
    2955.45, 2991.77, 3036.13, 3029.73, 3044.31, 3055.73, 3080.82, 3122.87, 3112.35, 3193.93, 3232.39, 3207.18, 3190.14,
    3002.10, 3041.31, 3066.59, 3124.74, 3113.49, 3115.34, 3097.74, 3117.86, 3131.29, 3050.33,
)
# fmt: on


class StochasticVolatility(Posterior):
    """Scores log variances h₁ … h_T of returns r, which follow an autoregression, and its parameters:

        (φ + 1) / 2 ~ Beta(20, 1.5),  m ~ Cauchy(0, 5),  s ~ C⁺(0, 2),
        h₁ ~ N(m, s² / (1 − φ²)),  hₜ ~ N(m + φ (hₜ₋₁ − m), s²),  rₜ ~ N(0, exp(hₜ)),

    by variables `persistence` φ in (−1, 1), `mean` m, `scale` s and `log_variance` h (T,). Without
    data the returns are of logarithms of the S&P 500, 100 days until 2020-06-24, less their mean.

    Source: Kim, Shephard and Chib, 1998 (Stochastic volatility); model and data of inference-gym's
    stochastic_volatility_log_sp500_small.

    Arguments:
        returns: r (T,), finite, with the mean taken off, at least two.

    Raises:
        ValueError: for another shape, or values that are not finite.

    >>> energy = StochasticVolatility()
    >>> energy.dim, energy.labels()[:4]
    (103, ['persistence', 'mean', 'scale', 'log_variance[0]'])
    """

    def __init__(self, returns: Any = None) -> None:
        values = _returns() if returns is None else numbers(self, returns=returns)
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(f"StochasticVolatility(returns {tuple(values.shape)}): pass (T,), at least two days")
        variables = {
            "persistence": ((), constraints.interval(-1.0, 1.0)),
            "mean": ((), "real"),
            "scale": ((), "positive"),
            "log_variance": (tuple(values.shape), "real"),
        }
        super().__init__(_joint, variables, {"returns": values}, "stochastic-volatility" if returns is None else None)


def _joint(y: Variables, returns: Tensor) -> Tensor:
    persistence, mean, scale, log_variance = (y[name] for name in ("persistence", "mean", "scale", "log_variance"))
    away = log_variance - mean[..., None]
    forgets = (1 - persistence) * (1 + persistence)
    shocks = away[..., 1:] - persistence[..., None] * away[..., :-1]
    walk = normal(away[..., 0], scale * forgets.rsqrt()) + normal(shocks, scale[..., None]).sum(-1)
    likelihood = normal(returns * (-log_variance / 2).exp(), 1.0) + log_variance / 2
    cauchy = (mean / 5).square().log1p() + math.log(5 * math.pi)
    return _beta(persistence) + cauchy + half_cauchy(scale, 2.0) + walk + likelihood.sum(-1)


def _beta(persistence: Tensor, a: float = 20.0, b: float = 1.5) -> Tensor:
    """Computes −log p(φ) where (φ + 1) / 2 ~ Beta(a, b)."""
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    rises, falls = ((1 + persistence) / 2).log(), ((1 - persistence) / 2).log()
    return (1 - a) * rises + (1 - b) * falls + log_beta + math.log(2)


def _returns() -> Tensor:
    changes = torch.tensor(PRICES, dtype=torch.float64).log().diff()
    return (changes - changes.mean()).to(torch.get_default_dtype())
