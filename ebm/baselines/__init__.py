"""Feed-forward baselines: what energy-based models are compared with, on the same data and through the same tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebm.baselines.classical import Classical, tuned
from ebm.baselines.dit import DiT
from ebm.baselines.frames import CopyLast, Extrapolate, FrameTransformer
from ebm.baselines.transformer import Transformer
from ebm.registry import hookimpl

__all__ = ["Classical", "CopyLast", "DiT", "Extrapolate", "FrameTransformer", "Transformer", "tuned"]


@hookimpl
def ebm_energies() -> dict[str, Callable[..., Any]]:
    """Offers the baselines, each as the energy whose one step is its prediction."""
    return {"dit": DiT, "frame-transformer": FrameTransformer, "transformer": Transformer}
