"""Posteriors that people know: Bayesian models as energies, with reference moments of their variables."""

from ebm.energies.posteriors.brownian_bridge import BrownianBridge
from ebm.energies.posteriors.eight_schools import EightSchools
from ebm.energies.posteriors.item_response import ItemResponse
from ebm.energies.posteriors.logistic_regression import LogisticRegression
from ebm.energies.posteriors.posterior import Moments, Posterior
from ebm.energies.posteriors.stochastic_volatility import StochasticVolatility

__all__ = ["BrownianBridge", "EightSchools", "ItemResponse", "LogisticRegression", "Moments", "Posterior", "StochasticVolatility"]
