"""DiT: the diffusion transformer that Energy-Based Transformers of images are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ebm.baselines.diffusion_steps import ddim_step, ddpm_step, log_variance, predicted_clean, route
from ebm.energies.ebt.patches import PatchStream
from ebm.energies.ebt.sizes import size_of
from ebm.interfaces import Batch, Prediction, bind, eval_mode, evaluate
from ebm.randomness import randn_like
from ebm.tasks.images.noising import NoiseSchedule, Noisy

Sampling = Literal["ddim", "ddpm"]
WAVES = 256  # sines and cosines of a step that its embedding is made of


class DiT(PatchStream):
    """Predicts the noise ε of a picture and its variance, and removes it step by step (adaLN-zero).

    As an energy it is the bowl around the clean picture x that one pass predicts, E(y | context) =
    mean |y − x|² / 2, whose one step of size `natural_step` is that prediction. `Diffusion` trains
    it. The context is `Noisy`. An unconditional EBT lacks adaLN's 6 D² parameters a block.

    Arguments:
        image_size: the side of a square image, or (height, width).
        patch_size: the side of a patch, which divides them.
        channels: C.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a patch's token, divisible by 4.
        depth: how many blocks there are.
        heads: attention heads in a block.
        mlp_ratio: the hidden width of a block's MLP, over dim (the paper's is 4).
        passes: forward passes of a prediction; fewer where the picture's step is lower.
        sampling: "ddim", without noise, or "ddpm", ancestral.
        schedule_steps: how many steps the noise schedule has, as the task's.

    Raises:
        ValueError: sizes that cannot work; at the call, another shape, or a context without steps.

    Source: DiT (Peebles and Xie, 2023); predicted clean pictures are clipped to [−1, 1] on the way.

    >>> model = DiT(image_size=8, patch_size=4, channels=3, dim=8, depth=1, heads=2, passes=10)
    >>> noisy = torch.ones(2, 3, 8, 8) / 4
    >>> context = Noisy(noisy, torch.tensor([99, 4]))
    >>> model.predict(Batch(noisy, context)).evaluations, model.given(context)(torch.zeros(2, 3, 8, 8)).shape
    (10, torch.Size([2]))
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
        passes: int = 100,
        sampling: Sampling = "ddim",
        schedule_steps: int = 1000,
    ) -> None:
        if sampling not in ("ddim", "ddpm"):
            raise ValueError(f"sampling={sampling!r}: choose ddim or ddpm")
        super().__init__(image_size, patch_size, channels, size_of(size, dim, depth, heads), mlp_ratio, "embedding", WAVES)
        self.at(passes)  # checks the number
        self.passes, self.sampling, self.schedule = passes, sampling, NoiseSchedule(schedule_steps)
        self.condition = nn.Sequential(nn.Linear(WAVES, self.dim), nn.SiLU(), nn.Linear(self.dim, self.dim))
        self.head = nn.Linear(self.dim, 2 * channels * patch_size**2)
        self.initialise()
        nn.init.zeros_(self.head.weight)
        for layer in (self.condition[0], self.condition[2]):
            nn.init.normal_(layer.weight, std=0.02)

    @property
    def natural_step(self) -> int:
        """Counts a picture's numbers: the step size at which one gradient step is one pass."""
        return math.prod(self.event)

    def noise_and_variance(self, y: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts the noise in pictures (B, C, H, W) of steps (B,), and its variance's share."""
        waves = _waves(step).to(self.positions)
        found = self.head(self.consider(y, super().encode(waves))).to(y.dtype)
        rows, side = self.grid[0], self.patch_size
        noise, share = rearrange(found, "... (h w) (two c p q) -> two ... c (h p) (w q)", two=2, h=rows, p=side, q=side)
        return noise, share

    def representations(self, images: Tensor, code: Any = None) -> list[Tensor]:
        """Averages the tokens of images (n, C, H, W), as pictures of step 0, over each quarter."""
        waves = _waves(torch.zeros(1, device=images.device)).to(self.positions)
        return super().representations(images, super().encode(waves) if code is None else code)

    def encode(self, context: Any = None, level: int = -1) -> Any:
        """Predicts the clean pictures (B, C, H, W) of a `Noisy` in one pass, not clipped."""
        image, step = self.checked(context)
        return predicted_clean(self.schedule, image, step, self.noise_and_variance(image, step)[0])

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        """Maps y (*more, B, C, H, W) to half its mean squared distance (*more, B) from the code."""
        if code is None or y.shape[-3:] != self.event:
            found = f"y has shape {tuple(y.shape)}, the code is {type(code).__name__}"
            needed = f"images (*chains, {self.event}) beside the code of a noisy picture"
            raise ValueError(f"{found}: this DiT scores {needed}, as in energy.given(Noisy(image, step))(y)")
        return (y - code).square().mean((-3, -2, -1)) / 2

    def predict(self, batch: Batch, start: Tensor | None = None, *, generator: torch.Generator | None = None) -> Prediction:
        """Denoises as `Diffuser.predict`."""
        return self.at(self.passes).predict(batch, start, generator=generator)

    def at(self, passes: int) -> Diffuser:
        """Makes the predictor of the same weights that takes another number of passes."""
        return Diffuser(self, passes)

    def score(self, batch: Batch, y: Tensor) -> Tensor:
        """Computes the energies (*chains,) of pictures y."""
        with torch.no_grad(), eval_mode(self):
            return evaluate(bind(self, batch.context), y)

    def checked(self, context: Any) -> Noisy:
        """Reads a context, or raises ValueError where it is no `Noisy` of the schedule's steps."""
        if not isinstance(context, Noisy):
            raise ValueError(f"the context is {type(context).__name__}: pass Noisy(image, step)")
        low, high = (int(step) for step in context.step.aminmax())
        if low < 0 or high >= self.schedule.steps:
            raise ValueError(f"steps {low} to {high}: those of the schedule are 0 to {self.schedule.steps - 1}")
        return context


@dataclass(frozen=True)
class Diffuser:
    """Predicts by a DiT in so many passes (at least 1), or fewer where a picture's step is lower.

    One pass predicts the clean picture at once. Rows are independent, but for the noise of "ddpm".
    """

    model: DiT
    passes: int

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes={self.passes}: pass a number of at least 1")

    def predict(self, batch: Batch, start: Tensor | None = None, *, generator: torch.Generator | None = None) -> Prediction:
        """Denoises `start`, by default the batch's noisy pictures; rows of one step go together."""
        image, steps = self.model.checked(batch.context)
        y, longest = (image if start is None else start).clone(), 0
        with torch.no_grad(), eval_mode(self.model):
            for first in steps.unique().tolist():
                rows, path = steps == first, route(first, self.passes)
                for step, earlier in pairwise([*path, -1]):
                    y[rows] = self._step(y[rows], step, earlier, generator)
                longest = max(longest, len(path))
        return Prediction(y, None, longest)

    def _step(self, y: Tensor, step: int, earlier: int, generator: torch.Generator | None) -> Tensor:
        schedule, (here, there) = self.model.schedule, (torch.full((len(y),), n, device=y.device) for n in (step, earlier))
        noise, share = self.model.noise_and_variance(y, here)
        clean = predicted_clean(schedule, y, here, noise).clamp(-1, 1)
        if self.model.sampling == "ddim":
            return ddim_step(schedule, y, here, there, clean)
        spread = log_variance(schedule, here, there, share)
        return ddpm_step(schedule, y, here, there, clean, spread, randn_like(y, generator))


def _waves(step: Tensor) -> Tensor:
    """Computes cosines and sines (B, WAVES) of steps (B,), at wavelengths of 2π to 20,000π."""
    frequencies = 10_000.0 ** (-torch.arange(WAVES // 2, dtype=torch.float64, device=step.device) / (WAVES // 2))
    angles = step[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
