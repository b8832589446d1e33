"""Energies: how compatible is y with the context? Analytic ones, networks, and energies made of energies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebm.energies.analytic import DoubleWell, Funnel, Gaussian, GaussianMixture, Ring
from ebm.energies.compose import ScaledEnergy, SumEnergy, WithPrior
from ebm.energies.conv import ConvEnergy
from ebm.energies.ebt import FrameEBT, ImageEBT, ResidualFrameEBT, ResidualImageEBT, ResidualTextEBT, TextEBT
from ebm.energies.mlp import MLPEnergy
from ebm.energies.unconditional import Unconditional
from ebm.registry import hookimpl

__all__ = [
    "ConvEnergy",
    "DoubleWell",
    "FrameEBT",
    "Funnel",
    "Gaussian",
    "GaussianMixture",
    "ImageEBT",
    "MLPEnergy",
    "ResidualFrameEBT",
    "ResidualImageEBT",
    "ResidualTextEBT",
    "Ring",
    "ScaledEnergy",
    "SumEnergy",
    "TextEBT",
    "Unconditional",
    "WithPrior",
]


@hookimpl
def ebm_energies() -> dict[str, Callable[..., Any]]:
    """Offers the energies of this package."""
    return {
        "gaussian": Gaussian,
        "mixture": GaussianMixture,
        "double-well": DoubleWell,
        "funnel": Funnel,
        "ring": Ring,
        "mlp": MLPEnergy,
        "conv": ConvEnergy,
        "sum": SumEnergy,
        "scaled": ScaledEnergy,
        "with-prior": WithPrior,
        "text-ebt": TextEBT,
        "residual-text-ebt": ResidualTextEBT,
        "frame-ebt": FrameEBT,
        "residual-frame-ebt": ResidualFrameEBT,
        "image-ebt": ImageEBT,
        "residual-image-ebt": ResidualImageEBT,
    }
