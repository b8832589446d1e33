"""Encoders of frames, by name."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_encoders() -> dict[str, str]:
    """Offers the encoders of the toolkit."""
    return {
        "pixels": "ebm.encoders.pixels:Pixels",
        "autoencoder": "ebm.encoders.autoencoder:Autoencoder",
        "timm": "ebm.encoders.backbones:TimmEncoder",
        "autoencoder-kl": "ebm.encoders.kl:KLAutoencoder",
    }
