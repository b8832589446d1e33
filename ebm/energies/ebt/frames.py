"""The Energy-Based Transformers of frames: candidates are the next frame's features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ebm.energies.ebt.blocks import initialise
from ebm.energies.ebt.motion import Motion, MotionStream
from ebm.energies.ebt.products import Linear
from ebm.energies.ebt.sizes import size_of
from ebm.energies.ebt.streams import CausalEBT, Code, Conditioning


class FrameEBT(CausalEBT):
    """Scores next frames: E_i = E(f_i | x_0 … x_i), for feature vectors of frames.

    The context is features (B, S, features), y is (*more, B, T, features), energies are (*more, B,
    T). Observed and candidate frames are embedded by the same projection.

    Arguments:
        features: numbers that a frame is encoded as.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.
        conditioning: how landscapes are told apart: "none", "time", "adaln" or "adaln-zero".
        levels: how many landscapes there are.

    Source: arXiv 2507.02092v1, section 4.2.

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
        self.projection = Linear(features, self.dim)
        initialise(self)
        self.reset_adaln()

    def observe(self, context: Any) -> tuple[Tensor, Tensor | None]:
        if not isinstance(context, Tensor) or context.ndim != 3 or not context.shape[1]:
            what = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {what}: pass features (B, S, {self.features}) of at least one frame")
        return self.project(context), None

    def propose(self, y: Tensor, code: Code | None) -> Tensor:
        return self.project(y)

    def project(self, frames: Tensor) -> Tensor:
        if frames.shape[-1] != self.features:
            raise ValueError(f"features of shape {tuple(frames.shape)}: the last axis has {self.features} of them")
        return self.projection(frames)


class ResidualFrameEBT(MotionStream, CausalEBT):
    """Scores next frames by their distance from the prediction of a transformer that looks at them:

        E(y | context) = |y - x̂(h(context) + w ⊙ z(y, context))|² / 2,

    for h the observed stream's last hidden state, z the prediction stream's, and x̂ as `Motion`
    reads it out. w (D,) starts at zero: at first, a step of size 1 leads from anywhere to what the
    feed-forward `FrameTransformer` predicts. So thinking starts where that ends, and learns to
    correct a prediction by looking at it in its context. This form is ours: it is not in arXiv
    2507.02092. Shapes are a `FrameEBT`'s.

    Arguments:
        features: numbers that a frame is encoded as.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.
        conditioning: how landscapes are told apart: "none", "time", "adaln" or "adaln-zero".
        levels: how many landscapes there are.
        history: how many of the last changes a prediction may continue.
        appearance: whether frames themselves are embedded, and not their changes alone. It takes
            many scenes.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) features of another shape.

    >>> import torch
    >>> energy, context = ResidualFrameEBT(features=6, dim=8, depth=2, heads=2), torch.randn(3, 5, 6)
    >>> energy.given(context)(torch.randn(4, 3, 5, 6)).shape    # four candidates
    torch.Size([4, 3, 5])
    >>> energy.given(context)(context).max()    # at first the last frame is the best guess
    tensor(0., grad_fn=<MaxBackward1>)
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
        history: int = 3,
        appearance: bool = False,
    ) -> None:
        super().__init__(size_of(size, dim, depth, heads), hidden, conditioning, levels)
        self.features = features
        initialise(self)
        self.motion = Motion(features, self.dim, history, appearance)
        self.reset_adaln()
        nn.init.zeros_(self.head.weight)

    def propose(self, y: Tensor, code: Code | None) -> Tensor:
        assert code is not None
        return self.motion.propose(y, code.observed.last(y.shape[-2]))

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*more, B, T, features), for the last T positions, to energies (*more, B, T)."""
        refined = self.consider(y, code) * self.head.weight[0]
        return self.distance(y, code, refined)
