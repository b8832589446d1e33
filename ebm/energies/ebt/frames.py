"""The Energy-Based Transformer of frames: candidates are the next frame's features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ebm.energies.ebt.blocks import initialise
from ebm.energies.ebt.causal import CausalEBT
from ebm.energies.ebt.sizes import size_of
from ebm.energies.ebt.stream import Conditioning

__all__ = ["FrameEBT"]


class FrameEBT(CausalEBT):
    """Scores next frames: E_i = E(f_i | x_0 … x_i), for feature vectors of frames.

    The context is features (B, S, features), y is (*more, B, T, features), energies are (*more, B, T). Observed and
    candidate frames are embedded by the same projection.

    Arguments:
        features: numbers that a frame is encoded as.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.
        conditioning: how landscapes are told apart: "none", "time", "adaln" or "adaln-zero".
        levels: how many landscapes there are.

    Source: arXiv 2507.02092, section 4.2.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) features of another shape.

    >>> import torch
    >>> energy = FrameEBT(features=6, dim=8, depth=2, heads=2)
    >>> energy.given(torch.randn(3, 5, 6))(torch.randn(3, 5, 6)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        features: int,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        conditioning: Conditioning = "none",
        levels: int = 1,
    ) -> None:
        if features < 1:
            raise ValueError(f"features={features}: a frame has at least one")
        super().__init__(size_of(size, dim, depth, heads), hidden, conditioning, levels)
        self.features = features
        self.projection = nn.Linear(features, self.dim)
        initialise(self)
        self.reset_adaln()

    def observe(self, context: Any) -> tuple[Tensor, Tensor | None]:
        if not isinstance(context, Tensor) or context.ndim != 3 or not context.shape[1]:
            what = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {what}: pass features (B, S, {self.features}) of at least one frame")
        return self.propose(context), None

    def propose(self, y: Tensor) -> Tensor:
        if y.shape[-1] != self.features:
            raise ValueError(f"features of shape {tuple(y.shape)}: the last axis has {self.features} of them")
        return self.projection(y)
