"""Feed-forward baselines: what energy-based models are compared with, on the same data and through the same tasks."""

from __future__ import annotations

from ebm.baselines.transformer import Transformer

__all__ = ["Transformer"]
