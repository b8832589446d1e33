"""Encoders: what turns frames into the feature vectors that a model predicts."""

from __future__ import annotations

from ebm.encoders.autoencoder import Autoencoder
from ebm.encoders.backbones import TimmEncoder
from ebm.encoders.base import Encoder
from ebm.encoders.kl import KLAutoencoder
from ebm.encoders.pixels import Pixels
from ebm.registry import hookimpl

__all__ = ["Autoencoder", "Encoder", "KLAutoencoder", "Pixels", "TimmEncoder"]


@hookimpl
def ebm_encoders() -> dict[str, type[Encoder]]:
    """Offers the encoders of this package."""
    return {
        "pixels": Pixels,
        "autoencoder": Autoencoder,
        "timm": TimmEncoder,
        "autoencoder-kl": KLAutoencoder,
    }
