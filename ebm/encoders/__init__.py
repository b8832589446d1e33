"""Encoders: what turns frames into the feature vectors that a model predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebm.encoders.autoencoder import Autoencoder
from ebm.encoders.backbones import TimmEncoder
from ebm.encoders.base import Encoder
from ebm.encoders.kl import KLAutoencoder
from ebm.encoders.pixels import Pixels
from ebm.registry import hookimpl

__all__ = ["Autoencoder", "Encoder", "KLAutoencoder", "Pixels", "TimmEncoder"]


@hookimpl
def ebm_examples() -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
    """Says how the conformance kit builds what by default learns for a minute."""
    small = {"size": 16, "channels": 4, "downsample": 8, "width": 4, "steps": 3}
    return {("encoder", "autoencoder"): lambda: {"factory": lambda: Autoencoder(**small)}}
