"""What video prediction is compared with: copying, extrapolating, and a transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebm.energies.ebt.blocks import initialise
from ebm.energies.ebt.motion import Motion, MotionStream
from ebm.energies.ebt.sizes import size_of
from ebm.energies.ebt.streams import Code
from ebm.interfaces import Batch, Prediction, eval_mode


class CopyLast:
    """Predicts that nothing changes: the next frame is the last one.

    >>> context = torch.tensor([[[0.0], [1.0], [3.0]]])
    >>> CopyLast().predict(Batch(context, context)).y.flatten()
    tensor([0., 1., 3.])
    """

    def predict(self, batch: Batch, start: Any = None, *, generator: torch.Generator | None = None) -> Prediction:
        """Predicts the frame after each of the context (B, S, features)."""
        return Prediction(self.follow(batch.context), None, 0)

    def follow(self, frames: Tensor) -> Tensor:
        """Maps frames (B, S, features) to what follows each."""
        return frames


class Extrapolate(CopyLast):
    """Predicts that the last change happens once more: 2 x_i - x_{i-1}.

    >>> context = torch.tensor([[[0.0], [1.0], [3.0]]])
    >>> Extrapolate().predict(Batch(context, context)).y.flatten()
    tensor([0., 2., 5.])
    """

    def follow(self, frames: Tensor) -> Tensor:
        return frames + frames.diff(dim=1, prepend=frames[:, :1])


def copying(task: Any) -> CopyLast:
    """Predicts that nothing changes: the next frame is the last one."""
    _check_frames(task, "copy")
    return CopyLast()


def extrapolating(task: Any) -> Extrapolate:
    """Predicts that the last change happens once more: 2 x_i - x_{i-1}."""
    _check_frames(task, "linear")
    return Extrapolate()


def _check_frames(task: Any, name: str) -> None:
    if "features" not in getattr(task, "spec", {}):
        needed = "a task whose context is the frames before its targets, with spec['features'], as Frames has"
        raise ValueError(f"{type(task).__name__} has no frames: the rival {name!r} needs {needed}")


class FrameTransformer(MotionStream):
    """Predicts the next frame in one forward pass, by a causal transformer (Transformer++).

    As an energy it is |y - x̂|² / 2, whose one step of size 1 is the prediction from anywhere:
    an EBT's objective, sampler and task serve it. A `ResidualFrameEBT` has D parameters more.

    Arguments:
        features: numbers that a frame is encoded as.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.
        history: how many of the last changes a prediction may continue.
        appearance: whether frames themselves are embedded, and not their changes alone.

    Source: the Transformer++ of arXiv 2507.02092v1, section 4.2.

    >>> model = FrameTransformer(features=6, dim=8, depth=2, heads=2)
    >>> context = torch.randn(3, 5, 6)
    >>> torch.equal(model.predict(Batch(context, context)).y, context)    # at first
    True
    """

    def __init__(
        self,
        features: int,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        history: int = 3,
        appearance: bool = False,
    ) -> None:
        super().__init__(size_of(size, dim, depth, heads), hidden)
        self.features = features
        initialise(self)
        self.motion = Motion(features, self.dim, history, appearance)

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*more, B, T, features) to |y - x̂|² / 2 (*more, B, T)."""
        return self.distance(y, code)

    def follow_code(self, code: Code) -> Tensor:
        """Predicts the frame after each of a code's: (B, S, features)."""
        assert code.out is not None
        return self.motion.predict(code.out, code.observed)

    def predict(self, batch: Batch, start: Any = None, *, generator: torch.Generator | None = None) -> Prediction:
        """Predicts in one forward pass; there is nothing to start from, and nothing to draw."""
        with torch.no_grad(), eval_mode(self):
            return Prediction(self.follow_code(self.encode(batch.context)), None, 1)
