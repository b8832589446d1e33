"""Noising: the schedule by which clean pictures become noise, and what a denoiser sees of one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebm.interfaces import left

TENTHS = 10  # steps of additive noise to a grey level of 255


class Noisy(NamedTuple):
    """The context of a denoising batch: what is seen, and how strong its noise is."""

    image: Tensor  # (B, C, H, W)
    step: Tensor  # (B,) int64: the noise's step on the schedule


class AdditivelyNoisy(NamedTuple):
    """The context of a batch with additive noise: what is seen, and how strong its noise is."""

    image: Tensor  # (B, C, H, W)
    step: Tensor  # (B,) int64: the noise's step of `AdditiveNoise`
    std: Tensor  # (B,): its deviation, in pixels of -1 to 1


class NoiseSchedule:
    """The forward process of denoising diffusion, with linearly growing betas.

    At a step the clean picture, of pixels in [-1, 1], is scaled by `signal` and Gaussian noise of
    standard deviation `std` is added. `betas`, `signal` and `std` are (steps,), in float64.

    Arguments:
        steps: how many lead from the picture to noise, above 20: betas go from 0.1 / steps to
            20 / steps.

    Source: arXiv 2006.11239, section 4.

    >>> schedule = NoiseSchedule()
    >>> round(schedule.std[99].item(), 4), schedule.step_of(0.3)
    (0.3209, 92)
    """

    def __init__(self, steps: int = 1000) -> None:
        if steps <= 20:
            raise ValueError(f"steps={steps}: a schedule needs more than 20, or its last betas would be 1 and above")
        self.steps = steps
        self.betas = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
        kept = (1 - self.betas).cumprod(0)
        self.signal, self.std = kept.sqrt(), (1 - kept).sqrt()

    def noised(self, clean: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Noises pictures (B, C, H, W), each at its step (B,), with standard normal noise."""
        signal, std = (left(table.to(clean)[step], clean) for table in (self.signal, self.std))
        return signal * clean + std * noise

    def seen(self, image: Tensor, step: Tensor) -> Noisy | AdditivelyNoisy:
        """Makes the context of noisy pictures (B, C, H, W) whose noise has steps (B,)."""
        return Noisy(image, step)

    def step_of(self, std: float) -> int:
        """Finds the step whose noise has the nearest standard deviation, or raises ValueError."""
        low, high = self.std[0].item(), self.std[-1].item()
        if not low <= std <= high:
            raise ValueError(f"std={std}: the noise of this schedule has {low:.4g} to {high:.4g}, in pixels of -1 to 1")
        return int((self.std - std).abs().argmin())


class AdditiveNoise(NoiseSchedule):
    """Adds Gaussian noise and leaves the picture as it is; a step is a tenth of a grey level of 255.

    >>> noise = AdditiveNoise()
    >>> noise.std[250].item() == 25 / 127.5, noise.signal[250].item(), noise.step_of(25 / 127.5)
    (True, 1.0, 250)
    """

    def __init__(self) -> None:
        self.steps = 255 * TENTHS + 1
        self.std = torch.arange(self.steps, dtype=torch.float64) / TENTHS / 127.5
        self.signal = torch.ones_like(self.std)

    def seen(self, image: Tensor, step: Tensor) -> AdditivelyNoisy:
        """Makes the context of noisy pictures (B, C, H, W), which says their deviation, too."""
        return AdditivelyNoisy(image, step, self.std.to(image)[step])
