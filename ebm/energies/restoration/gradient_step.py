"""The gradient-step energy of a convolutional denoiser: a picture's energy is how noisy it looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.restoration.unet import UNet
from ebm.interfaces import Energy, left

# Axes of colour along which photographs vary independently, nearly: brightness, red to blue, and green to purple.
AXES = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)),
)


class GradientStep(Energy):
    """Scores pictures by the noise R that a network sees in them; write `seen` and the network.

    Arguments are those of `GradientStepUNet`.
    """

    patch_size = 4  # pixels a side of what `patch_energies` sums over
    natural_step = 1  # the step size at which one gradient step denoises
    blind = False
    sides: tuple[int, int] | None = None  # (H, W), where pictures must have these

    def __init__(
        self, channels: int, strongest: float | None, levels: int, decay: float, colours: Literal["together", "apart"]
    ) -> None:
        super().__init__()
        if not 0 < decay <= 1 or levels < 1 or (strongest is not None and not 0 < strongest < math.inf):
            raise ValueError(
                f"levels={levels}, decay={decay}, strongest={strongest}: pass at least 1 landscape, a decay in (0, 1] and a "
                f"positive deviation, or None"
            )
        if colours not in ("together", "apart") or (colours == "apart" and channels != 3):
            raise ValueError(f"colours={colours!r}, channels={channels}: choose together, or with 3 channels apart")
        self.channels, self.strongest, self.levels, self.decay = channels, strongest, levels, decay
        self.takes_greys = colours == "apart"
        self.seen_at_once = 1 if self.takes_greys else channels  # of the network

    def encode(self, context: Any = None, level: int = -1) -> Any:
        """Reads the deviation (B,) or () that a landscape is told; None where the energy is blind."""
        if self.blind:
            return None
        parameter = next(self.parameters())
        std = getattr(context, "std", context) if not isinstance(context, Tensor) else context
        if std is None or isinstance(std, tuple):
            what = f"the context is {type(context).__name__}, which says no deviation of additive noise"
            raise ValueError(f"{what}: pass σ in units of y, as in energy.given(0.1), or train on a task with sigma = (0, 55)")
        told = torch.as_tensor(std, dtype=torch.promote_types(parameter.dtype, torch.float32), device=parameter.device)
        told = told if self.strongest is None else told.clamp(max=self.strongest)
        return told * self.decay ** (level % self.levels)

    def extend(self, code: Any, context: Any) -> Any:
        """Returns the code as it is: all that is known of the noise is known at once."""
        return code

    def noise(self, y: Tensor, code: Any) -> Tensor:
        """Computes R (*chains, C, H, W), the noise that is seen in pictures y of that shape.

        Raises:
            ValueError: y has another shape, or nothing is known of its noise.
        """
        if y.ndim < 3 or y.shape[-3] not in (self.channels, self.seen_at_once) or self.sides not in (None, (*y.shape[-2:],)):
            name, (height, width) = type(self).__name__, self.sides or ("H", "W")
            shapes = f"(*chains, {self.channels}, {height}, {width})"
            raise ValueError(f"y has shape {tuple(y.shape)}, but this {name} scores {shapes}")
        if code is None and not self.blind:
            raise ValueError(f"{type(self).__name__} scores pictures of known noise: bind it, as in energy.given(0.1)(y)")
        if y.shape[-3] == self.seen_at_once:
            return self.seen(y, code)
        found = self.seen(self.along_axes(y), code).squeeze(-3)
        return torch.einsum("kc,k...hw->...chw", y.new_tensor(AXES), found)

    def along_axes(self, y: Tensor) -> Tensor:
        """Takes pictures y (*chains, C, H, W) as the network sees them: (axes, *chains, seen_at_once, H, W)."""
        if y.shape[-3] == self.seen_at_once:
            return y.unsqueeze(0)
        return torch.einsum("kc,...chw->k...hw", y.new_tensor(AXES), y).unsqueeze(-3)

    def seen(self, y: Tensor, code: Any) -> Tensor:
        """Computes what the network sees of noise in y (*chains, seen_at_once, H, W), of that shape."""
        raise NotImplementedError(f"{type(self).__name__} must define seen(y, code)")

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, C, H, W) to energies (*chains,)."""
        return self.noise(y, code).square().sum((-3, -2, -1)) / 2

    def advance(self, y: Tensor, code: Any) -> tuple[Tensor, Tensor]:
        """Takes the feed-forward step y − R from y (*chains, C, H, W), beside the energies (*chains,) of y."""
        noise = self.noise(y, code)
        return y - noise, noise.square().sum((-3, -2, -1)) / 2

    def patch_energies(self, y: Tensor, code: Any = None) -> Tensor:
        """Sums y's energy over patches (*chains, rows, columns), the last of which may be smaller."""
        values = self.noise(y, code).square().sum(-3) / 2
        rest = [-size % self.patch_size for size in values.shape[-2:]]
        whole = F.pad(values, (0, rest[1], 0, rest[0]))
        return whole.unflatten(-1, (-1, self.patch_size)).unflatten(-3, (-1, self.patch_size)).sum((-3, -1))


class GradientStepUNet(GradientStep):
    """Scores pictures by the noise R that a U-Net U sees in them, at noise of a known deviation σ:

        E(y | σ) = |R(y, σ)|² / 2,    R(y, σ) = σ U(y, σ).

    A gradient step of size 1 goes to y − Jᵀ R, J = ∂R/∂y: where R is the noise itself, to the clean
    picture. `advance` takes the feed-forward step y − R of the same network, which costs half and
    is no gradient: `FixedPoint` repeats it, to train first and to compare with. Pictures may have
    any size.

    The context is σ, in units of y: a number, a tensor (B,), or what has it as `.std`, as the
    `AdditivelyNoisy` of a task. Landscape k is told σ decay^k: what is left after k steps.

    With `colours` "apart", U has one channel and sees three uncorrelated axes of colour one by one,
    all by the same weights: R(y) = Qᵀ (R(q₁ y), R(q₂ y), R(q₃ y)), with Q = (q₁, q₂, q₃) orthonormal, so
    that noise stays white and E(y) is the sum of the axes' energies. What greys have taught such a
    network holds for colours: their state_dicts are alike. It also scores pictures of one channel.

    Arguments:
        channels: C.
        widths: channels at each scale of the U-Net, from the finest, which has half the picture's
            sides.
        blocks: residual blocks at each scale.
        blind: whether σ is neither asked for nor told; then R is U itself.
        strongest: the largest σ that U is told: stronger noise counts as this. A task of additive
            noise says what its strongest is.
        levels: how many landscapes there are.
        decay: what each further landscape multiplies σ by.
        colours: whether U sees three channels "together" or "apart".

    Source: Gradient step denoiser for convergent plug-and-play (Hurault, Leclaire and Papadakis,
    2022), equation 5; the U-Net is smaller than theirs.

    Raises:
        ValueError: sizes that cannot work; at the call, another shape or a context without σ.

    >>> energy = GradientStepUNet(channels=1, widths=(8, 16), blocks=(1, 1))
    >>> energy.given(0.2)(torch.zeros(5, 1, 11, 30)).shape
    torch.Size([5])
    """

    any_size = True  # pictures need no tiles

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 128),
        blocks: Sequence[int] = (1, 2),
        blind: bool = False,
        strongest: float | None = None,
        levels: int = 1,
        decay: float = 0.3,
        colours: Literal["together", "apart"] = "together",
    ) -> None:
        if len(widths) != len(blocks) or min(channels, *widths, *blocks) < 1 or len(widths) < 1:
            raise ValueError(
                f"channels={channels}, widths={widths}, blocks={blocks}: pass numbers of at least 1, and as many blocks as widths"
            )
        super().__init__(channels, strongest, levels, decay, colours)
        self.blind = blind
        self.network = UNet(self.seen_at_once, widths, blocks, told=not blind)

    def seen(self, y: Tensor, code: Tensor | None) -> Tensor:
        """Computes what the network sees of noise in y (*chains, seen_at_once, H, W), of that shape."""
        if code is None:
            return self.network(y.reshape(-1, *y.shape[-3:]), None).reshape(y.shape)
        std = code.to(y.dtype).expand(y.shape[:-3])
        return left(std, y) * self.network(y.reshape(-1, *y.shape[-3:]), std.reshape(-1)).reshape(y.shape)
