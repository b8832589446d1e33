"""The gradient-step energy of a transformer: patches that see each other say how noisy a picture is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.patches import Code, PatchStream
from ebm.energies.ebt.products import linear
from ebm.energies.ebt.sizes import Size, size_of
from ebm.energies.restoration.gradient_step import GradientStep
from ebm.energies.restoration.unet import BRIGHT, LOUD, Convolution, Residual
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
    diffusion schedule, too, where it knows the steps' deviations. U is a diffusion
    transformer's blocks, which σ modulates (adaLN-zero). Its patches overlap: residual convolutions
    at half of the sides lead from the picture to them, and back.

    Arguments:
        image_size: the side of a square picture, or (height, width).
        patch_size: pixels a side of a patch, an even divisor of them.
        channels: C.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a patch's token, divisible by 4.
        depth: how many blocks there are.
        heads: attention heads in a block.
        mlp_ratio: the hidden width of a block's MLP, over dim.
        width: channels of the convolutions.
        strongest: the largest σ that U is told: stronger noise counts as this. A task of noise of many
            strengths says what its strongest is.
        deviations: the deviation of each step of a schedule, whose number contexts give as `.step`. A
            task of noise of many steps says them.
        levels: how many landscapes there are.
        decay: what each further landscape multiplies σ by.

    Source: Gradient step denoiser for convergent plug-and-play (Hurault, Leclaire and Papadakis,
    2022), equation 5, with the blocks of DiT (Peebles and Xie, 2023).

    Raises:
        ValueError: sizes that cannot work; at the call, another shape or a context without σ.

    >>> energy = GradientStepEBT(image_size=8, channels=3, dim=8, depth=1, heads=2, width=4)
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
        width: int = 64,
        strongest: float | None = None,
        deviations: Sequence[float] | None = None,
        levels: int = 1,
        decay: float = 0.3,
    ) -> None:
        height, broad = (image_size, image_size) if isinstance(image_size, int) else image_size
        if (
            min(height, broad, channels, width) < 1
            or patch_size < 2
            or patch_size % 2
            or height % patch_size
            or broad % patch_size
        ):
            raise ValueError(
                f"image_size={image_size}, patch_size={patch_size}, channels={channels}, width={width}: patches of an even side "
                f"tile the picture, and numbers are at least 1"
            )
        super().__init__(channels, strongest, levels, decay)
        self.deviations: Tensor | None
        self.register_buffer("deviations", None if deviations is None else torch.tensor(deviations), persistent=False)
        self.event, self.patch_size = (channels, height, broad), patch_size
        self.enter = Convolution(4 * channels + 1, width, bias=True)
        self.down, self.up = Residual(width), Residual(width)
        self.tail = Convolution(width, 4 * channels, gain=0.3)
        self.stream = _Blocks((height // 2, broad // 2), patch_size // 2, width, size_of(size, dim, depth, heads), mlp_ratio)

    def encode(self, context: Any = None, level: int = -1) -> Told:
        """Reads the deviation (B,) or () that a landscape is told, and modulates the blocks by it."""
        step = getattr(context, "step", None)
        if self.deviations is not None and step is not None and not hasattr(context, "std"):
            context = self.deviations[step]
        std = super().encode(context, level)
        return Told(std, self.stream.encode(std))

    def noise(self, y: Tensor, code: Told | None) -> Tensor:
        """Computes R (*chains, C, H, W), the noise that is seen in pictures y of that shape.

        Raises:
            ValueError: y has another shape, or nothing is known of its noise.
        """
        if code is None:
            raise ValueError(f"{type(self).__name__} scores pictures of known noise: bind it, as in energy.given(0.1)(y)")
        x, std, tokens = self._entered(y, code)
        back = linear(self.stream.consider(tokens, code.modulations), self.stream.head.weight).to(x.dtype)
        side, rows = self.stream.patch_size, self.stream.grid[0]
        x = x + rearrange(back, "... (h w) (c p q) -> (...) c (h p) (w q)", h=rows, p=side, q=side)
        found = self.tail(self.up(x.contiguous(memory_format=torch.channels_last))).to(y.dtype)
        return left(std, y) * rearrange(found, "b (c p q) h w -> b c (h p) (w q)", p=2, q=2).reshape(y.shape)

    def representations(self, images: Tensor, code: Told | None = None) -> list[Tensor]:
        """Averages the tokens of images (n, C, H, W), by default as clean ones, over each quarter."""
        code = self.encode(torch.zeros(len(images))) if code is None else code
        return self.stream.representations(self._entered(images, code)[2], code.modulations)

    def _entered(self, y: Tensor, code: Told) -> tuple[Tensor, Tensor, Tensor]:
        """Convolves pictures: (features (n, width, H/2, W/2), deviations (*chains), features by chain)."""
        if y.shape[-3:] != self.event:
            name = type(self).__name__
            raise ValueError(f"y has shape {tuple(y.shape)}, but this {name} scores pictures (*chains, {self.event})")
        std = code.std.to(y.dtype).expand(y.shape[:-3])
        pixels = rearrange(y, "... c (h p) (w q) -> (...) (c p q) h w", p=2, q=2) * BRIGHT
        told = (std * LOUD).reshape(-1, 1, 1, 1).expand(-1, 1, *pixels.shape[-2:])
        kind = y.device.type
        x = torch.cat([pixels, told], 1).to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else y.dtype)
        x = self.down(self.enter(x.contiguous(memory_format=torch.channels_last)))
        return x, std, x.reshape(*y.shape[:-3], *x.shape[-3:])


class _Blocks(PatchStream):
    """A diffusion transformer's blocks over maps of features, with a head that gives features back."""

    def __init__(self, image_size: tuple[int, int], patch_size: int, channels: int, shape: Size, mlp_ratio: float) -> None:
        super().__init__(image_size, patch_size, channels, shape, mlp_ratio, "embedding", WAVES)
        self.condition = nn.Sequential(nn.Linear(WAVES, self.dim), nn.SiLU(), nn.Linear(self.dim, self.dim))
        self.head = nn.Linear(self.dim, channels * patch_size**2, bias=False)
        self.initialise()
        with torch.no_grad():
            self.head.weight.mul_(0.3)

    def encode(self, context: Any = None, level: int = -1) -> Code:
        """Computes the blocks' modulations from deviations (B,) or ()."""
        frequencies = LONGEST ** (-torch.arange(WAVES // 2, device=context.device) / (WAVES // 2))
        angles = LONGEST * context[..., None] * frequencies
        return super().encode(torch.cat([angles.cos(), angles.sin()], -1).to(self.positions))
