"""The stem of models that predict frames by their motion: what changed last goes on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm.energies.ebt.blocks import initialise
from ebm.energies.ebt.products import Linear
from ebm.energies.ebt.streams import CausalStream, Code

STILL = 1e-3  # the strength of a change below which frames count as still, for features of unit variance


class Seen(NamedTuple):
    """What was observed: frames x_i, their last changes d_i, d_{i-1} …, and their strength."""

    frames: Tensor  # (B, S, features)
    changes: Tensor  # (B, S, history, features): d_i = x_i - x_{i-1}, the newest first, 0 before the first frame
    scale: Tensor  # (B, S, 1): s_i, the root mean square of the changes that there are

    def last(self, count: int) -> Seen:
        """Keeps the last positions."""
        return Seen(*(part[:, part.shape[1] - count :] for part in self))

    def then(self, more: Seen) -> Seen:
        """Joins what was seen next."""
        return Seen(*(torch.cat(parts, 1) for parts in zip(self, more, strict=True)))


class Motion(nn.Module):
    """Embeds changes relative to their strength, and reads a prediction out of a hidden state h:

        x̂_{i+1} = x_i + Σ_k γ_k(h) d_{i-k} + s_i U h,

    with γ (one number for each of the last changes) and U linear and 0 at first: the prediction
    starts as a copy of the last frame. Scaling all changes of a clip scales the predicted change,
    but for log s_i, which is embedded, too. So a model learns from slow and fast clips alike, and
    what it learned of a few scenes holds for others.

    Source: reversible instance normalisation (Kim et al., 2022), here causal and of changes.

    Arguments:
        features: numbers that a frame is encoded as.
        dim: the width of a token.
        history: how many of the last changes are looked at.
        appearance: whether frames themselves are embedded, too. It takes many scenes not to learn
            these by heart.
    """

    def __init__(self, features: int, dim: int, history: int, appearance: bool) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features={features}: a frame has at least one")
        if history < 1:
            raise ValueError(f"history={history}: look at one change at least")
        self.features, self.history, self.appearance = features, history, appearance
        self.projection = Linear((2 if appearance else 1) * features + 1, dim)
        self.continuation = nn.Linear(dim, history, bias=False)
        self.output = Linear(dim, features, bias=False)
        initialise(self)
        nn.init.zeros_(self.continuation.weight)
        nn.init.zeros_(self.output.weight)

    def see(self, frames: Tensor, past: Seen | None = None) -> Seen:
        """Computes the changes of frames (B, S, features), which follow those seen before.

        Raises:
            ValueError: the frames have another shape.
        """
        if not isinstance(frames, Tensor) or frames.ndim != 3 or not frames.shape[1] or frames.shape[-1] != self.features:
            what = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
            raise ValueError(f"the context is {what}: pass features (B, S, {self.features}) of at least one frame")
        if past is not None and len(past.frames) != len(frames):
            raise ValueError(f"{len(frames)} rows extend a code of {len(past.frames)}: pass as many")
        first, history = 0 if past is None else past.frames.shape[1], self.history
        before = frames[:, :1] if past is None else past.frames[:, -history - 1 :]
        whole = torch.cat([before, frames], 1)
        changes = F.pad(whole.diff(dim=1), (0, 0, history, 0))
        windows = changes.unfold(1, history, 1).flip(-1).movedim(-1, 2)[:, -frames.shape[1] :]
        there = torch.arange(first, first + frames.shape[1], device=frames.device).clamp(1, history)
        scale = (windows.square().mean(-1).sum(-1) / there + STILL**2).sqrt()
        return Seen(frames, windows, scale[..., None])

    def embed(self, frames: Tensor, change: Tensor, scale: Tensor) -> Tensor:
        """Embeds frames (..., features) and their changes, over a scale (..., 1): (..., dim)."""
        parts = [change / scale, scale.log().expand(*change.shape[:-1], 1), *([frames] if self.appearance else [])]
        return self.projection(torch.cat(parts, -1))

    def observe(self, seen: Seen) -> Tensor:
        """Embeds what was seen: (B, S, dim)."""
        return self.embed(seen.frames, seen.changes[:, :, 0], seen.scale)

    def check(self, y: Tensor) -> None:
        """Raises ValueError where candidates y (…, features) have other features."""
        if y.shape[-1] != self.features:
            raise ValueError(f"features of shape {tuple(y.shape)}: the last axis has {self.features} of them")

    def propose(self, y: Tensor, seen: Seen) -> Tensor:
        """Embeds candidates y (*more, B, S, features) as if observed: (*more, B, S, dim)."""
        self.check(y)
        return self.embed(y, y - seen.frames, seen.scale)

    def predict(self, hidden: Tensor, seen: Seen) -> Tensor:
        """Reads the next frame out of hidden states (*more, B, S, dim): (*more, B, S, features)."""
        continued = (self.continuation(hidden)[..., None] * seen.changes).sum(-2)
        return seen.frames + continued + seen.scale * self.output(hidden)


class MotionStream(CausalStream):
    """Encodes frames through a `Motion`, which a subclass sets; the code keeps what was seen."""

    motion: Motion

    def observe(self, context: Any) -> tuple[Tensor, Tensor | None]:
        return self.motion.observe(context), None

    def read_out(self, hidden: Tensor) -> Tensor:
        return hidden

    def encode(self, context: Any = None, level: int = -1) -> Code:
        seen = self.motion.see(context)
        return super().encode(seen, level)._replace(observed=seen)

    def extend(self, code: Code, context: Any) -> Code:
        seen = self.motion.see(context, code.observed)
        return super().extend(code, seen)._replace(observed=code.observed.then(seen))

    def distance(self, y: Tensor, code: Code | None, refined: Tensor | float = 0.0) -> Tensor:
        """Computes |y - x̂|² / 2 (*more, B, T), x̂ read out of the refined last T hidden states."""
        self.motion.check(y)
        code = self.check(y.shape[:-1], code)
        assert code.out is not None
        count = y.shape[-2]
        predicted = self.motion.predict(code.out[:, code.length - count :] + refined, code.observed.last(count))
        return (y - predicted).square().sum(-1) / 2
