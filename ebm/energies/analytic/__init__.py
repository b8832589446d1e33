"""Energies with known moments, score and log Z: what samplers and objectives are measured against."""

from ebm.energies.analytic.base import Analytic
from ebm.energies.analytic.gaussian import Gaussian, GaussianMixture
from ebm.energies.analytic.toys import Banana, DoubleWell, Funnel, Ring

__all__ = ["Analytic", "Banana", "DoubleWell", "Funnel", "Gaussian", "GaussianMixture", "Ring"]
