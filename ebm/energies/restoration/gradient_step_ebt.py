"""The gradient-step energy of a transformer: patches that see each other say how noisy a picture is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm.energies.ebt.patches import Code, PatchStream
from ebm.energies.ebt.products import linear
from ebm.energies.ebt.sizes import Size, size_of
from ebm.energies.restoration.gradient_step import GradientStep
from ebm.interfaces import left

WAVES, LONGEST = 256, 1000.0  # cosines and sines of a deviation, and the ratio of the longest to the shortest


class Told(NamedTuple):
    """What an energy is told of the noise: its deviation (B,) or (), and what that makes of the blocks."""

    std: Tensor
    modulations: Code


class GradientStepEBT(GradientStep):
    """Scores pictures by the noise R that a transformer U sees in them, at noise of a known deviation σ:

        E(y | σ) = |R(y, σ)|² / 2,    R(y, σ) = σ U(y, σ).

    So weak noise is a small correction, and a gradient step of size 1 denoises, as that of a
    `GradientStepUNet`, whose contexts, landscapes and `advance` these are; it is told a step of a
    diffusion schedule, too, where it knows the steps' deviations. U is a diffusion transformer's
    blocks, which σ modulates (adaLN-zero). A token reads its patch and what is around, and the noise
    that it sees there is added to its neighbours': windows overlap, so that patches leave less of a
    seam.

    Arguments:
        image_size: the side of a square picture, or (height, width).
        patch_size: the side of a patch, which divides them.
        channels: C.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a patch's token, divisible by 4.
        depth: how many blocks there are.
        heads: attention heads in a block.
        mlp_ratio: the hidden width of a block's MLP, over dim.
        overlap: pixels around its patch that a token sees and predicts, too.
        strongest: the largest σ that U is told: stronger noise counts as this. A task of noise of many
            strengths says what its strongest is.
        deviations: the deviation of each step of a schedule, whose number contexts give as `.step`. A
            task of noise of many steps says them.
        levels: how many landscapes there are.
        decay: what each further landscape multiplies σ by.
        colours: whether U sees three channels "together" or "apart", as there.

    Source: Gradient step denoiser for convergent plug-and-play (Hurault, Leclaire and Papadakis,
    2022), equation 5, with the blocks of DiT (Peebles and Xie, 2023).

    Raises:
        ValueError: sizes that cannot work; at the call, another shape or a context without σ.

    >>> energy = GradientStepEBT(image_size=8, channels=3, dim=8, depth=1, heads=2)
    >>> energy.given(0.2)(torch.zeros(5, 3, 8, 8)).shape, energy.natural_step
    (torch.Size([5]), 1)
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 32,
        patch_size: int = 4,
        channels: int = 3,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 1.0,
        overlap: int = 2,
        strongest: float | None = None,
        deviations: Sequence[float] | None = None,
        levels: int = 1,
        decay: float = 0.3,
        colours: Literal["together", "apart"] = "together",
    ) -> None:
        if overlap < 0:
            raise ValueError(f"overlap={overlap}: pass how many pixels around its patch a token sees, at least 0")
        super().__init__(channels, strongest, levels, decay, colours)
        shape = size_of(size, dim, depth, heads)
        self.stream = _Stream(image_size, patch_size, self.seen_at_once, shape, mlp_ratio, overlap)
        self.sides, self.patch_size = self.stream.event[1:], patch_size
        self.event = channels, *self.sides
        self.deviations: Tensor | None
        self.register_buffer("deviations", None if deviations is None else torch.tensor(deviations), persistent=False)

    def encode(self, context: Any = None, level: int = -1) -> Told:
        """Reads the deviation (B,) or () that a landscape is told, and modulates the blocks by it."""
        step = getattr(context, "step", None)
        if self.deviations is not None and step is not None and not hasattr(context, "std"):
            context = self.deviations[step]
        std = super().encode(context, level)
        return Told(std, self.stream.encode(std))

    def seen(self, y: Tensor, code: Told) -> Tensor:
        """Computes what the transformer sees of noise in y (*chains, seen_at_once, H, W), of that shape."""
        std = code.std.to(y.dtype).expand(y.shape[:-3])
        return left(std, y) * self.stream.pictured(self.stream.consider(y, code.modulations)).to(y.dtype)

    def representations(self, images: Tensor, code: Told | None = None) -> list[Tensor]:
        """Averages the tokens of images (n, C, H, W), by default as clean ones, over each quarter.

        Where it sees colours apart, each axis has its own features, one after another.
        """
        code = self.encode(images.new_zeros(())) if code is None else code
        each = [self.stream.representations(axis, code.modulations) for axis in self.along_axes(images)]
        return [torch.cat(depth, -1) for depth in zip(*each, strict=True)]


class _Stream(PatchStream):
    """A diffusion transformer's blocks, whose tokens read windows of the picture and give them back."""

    def __init__(
        self, image_size: int | tuple[int, int], patch_size: int, channels: int, shape: Size, mlp_ratio: float, overlap: int
    ) -> None:
        super().__init__(image_size, patch_size, channels, shape, mlp_ratio, "embedding", WAVES)
        self.condition = nn.Sequential(nn.Linear(WAVES, self.dim), nn.SiLU(), nn.Linear(self.dim, self.dim))
        windows = _Windows(patch_size, overlap, channels, self.dim)
        self.patches, self.overlap, self.window = windows, overlap, windows.window  # type: ignore[assignment]
        self.head = nn.Linear(self.dim, channels * self.window**2, bias=False)
        self.initialise()
        for layer in (self.condition[0], self.condition[2]):
            nn.init.normal_(layer.weight, std=0.02)

    def encode(self, context: Any = None, level: int = -1) -> Code:
        """Computes the blocks' modulations from deviations (B,) or ()."""
        frequencies = LONGEST ** (-torch.arange(WAVES // 2, device=context.device) / (WAVES // 2))
        angles = LONGEST * context[..., None] * frequencies
        return super().encode(torch.cat([angles.cos(), angles.sin()], -1).to(self.positions))

    def pictured(self, tokens: Tensor) -> Tensor:
        """Adds up the windows that tokens (*chains, T, D) predict: pictures (*chains, C, H, W)."""
        windows, overlap = linear(tokens, self.head.weight), self.overlap
        whole = self.event[1] + 2 * overlap, self.event[2] + 2 * overlap
        found = F.fold(windows.reshape(-1, *windows.shape[-2:]).mT, whole, self.window, stride=self.patch_size)
        inner = found[..., overlap : overlap + self.event[1], overlap : overlap + self.event[2]]
        return inner.reshape(*tokens.shape[:-2], *self.event)


class _Windows(nn.Module):
    """Embeds windows around the patches of images (B, C, H, W), row by row: (B, T, D); beyond the edge are zeros."""

    def __init__(self, side: int, overlap: int, channels: int, dim: int) -> None:
        super().__init__()
        self.side, self.overlap, self.window = side, overlap, side + 2 * overlap
        self.proj = nn.Linear(channels * self.window**2, dim)

    def forward(self, images: Tensor) -> Tensor:
        windows = F.unfold(images, self.window, padding=self.overlap, stride=self.side).mT
        return linear(windows, self.proj.weight, self.proj.bias)
