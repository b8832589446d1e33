"""Baselines: what energy-based models are compared with, on the same data and tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ebm.baselines.classical import Classical, tuned
from ebm.baselines.dit import DiT
from ebm.baselines.frames import CopyLast, Extrapolate, FrameTransformer
from ebm.baselines.left_to_right import LeftToRight
from ebm.baselines.looped import LoopedNetwork
from ebm.baselines.transformer import Transformer
from ebm.registry import hookimpl

__all__ = [
    "Classical",
    "CopyLast",
    "DiT",
    "Extrapolate",
    "FrameTransformer",
    "LeftToRight",
    "LoopedNetwork",
    "Transformer",
    "tuned",
]


@hookimpl
def ebm_examples() -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
    """Builds networks of whole answers, which have no default size."""
    context = torch.tensor([[-1, 2, -1, 0]]).repeat(6, 1)
    looped = {"factory": lambda: LoopedNetwork(3, dim=8, heads=2), "y": torch.randn(6, 4, 3), "context": context}
    written = {**looped, "factory": lambda: LeftToRight(3, dim=8, heads=2)}
    return {("energy", "looped"): lambda: looped, ("energy", "left-to-right"): lambda: written}
