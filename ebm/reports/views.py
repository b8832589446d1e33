"""Views of held-out photographs: what reports restore of them, and how they show it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.tasks.images.tiling import Restored
from ebm.tasks.images.whole import restore_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN, PHOTOGRAPHS = 128, 3  # pixels a side of what is shown of a photograph, and how many are


class View(NamedTuple):
    """What is shown of a photograph: clean and noisy (C, h, w), and the noise's step."""

    clean: Tensor
    noisy: Tensor
    step: int


def views_of(run: Run, task: Any, split: str, limit: int = PHOTOGRAPHS) -> list[View]:
    """Cuts out the middles of at most `limit` held-out photographs of a split."""
    side, found = max(SHOWN, task.tile), []
    for _, clean, (seen, step, *_) in task.held_out(split, limit):
        top, left = ((size - min(size, side)) // 2 for size in clean.shape[1:])
        clean, noisy = (image[:, top : top + side, left : left + side].to(run.device) for image in (clean, seen[0]))
        found.append(View(clean, noisy, int(step)))
    return found


def restored(task: Any, predictor: Any, view: View, seed: int, **options: Any) -> Restored:
    """Restores a view; where more steps than in training diverge, the picture is NaN."""
    generator = stream(seed, "restored", device=view.noisy.device)
    where: dict[str, Any] = {"step": view.step, "stride": max(1, 3 * task.tile // 4)}
    try:
        return restore_picture(task, predictor, view.noisy, **where, generator=generator, **options)
    except FloatingPointError:
        blank = torch.full_like(view.noisy, math.nan)
        return Restored(blank, None, 0, math.nan, blank[0])


def psnr(image: Tensor, clean: Tensor) -> float:
    """Measures how near a picture comes to the clean one, in decibels, clamped to [-1, 1]."""
    return 10 * (4 / F.mse_loss(image.clamp(-1, 1), clean).clamp(min=1e-12)).log10().item()


def show(axes: Axes, image: Tensor) -> None:
    """Shows a picture (C, H, W) in [-1, 1], or a map (H, W) in colours."""
    if image.ndim == 2:
        image = image.cpu()
        axes.imshow(image.numpy(), cmap="magma", vmin=image.min().item(), vmax=image.flatten().quantile(0.995).item())
    else:
        pixels = ((image.cpu().nan_to_num(1) + 1) / 2).clamp(0, 1).movedim(0, -1).expand(-1, -1, 3)
        axes.imshow(pixels.numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
