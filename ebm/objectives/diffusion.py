"""Denoising diffusion: a network predicts the noise in a picture, and its variance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from ebm.baselines.diffusion_steps import bound
from ebm.interfaces import Batch, Loss, Objective, Task, check_configuration
from ebm.randomness import randn_like


class Diffusion(Objective):
    """Trains a `DiT` to predict the noise ε at uniform steps t, and the variance by the bound.

        L = E mean |ε − ε̂(x_t, t)|² + L_vlb,    x_t = √ā_t x + √(1 − ā_t) ε,

    where L_vlb, the variational bound, trains the variance alone. Targets are clean pictures in
    [−1, 1]. Source: Improved DDPM (arXiv 2102.09672), equation 16; the bound has weight 1, as in
    DiT. Terms: noise_error (mean squared), vlb (bits a number).

    Arguments:
        task: gives `steps` by default: from 0 to its strongest noise.
        steps: the lowest and the highest step drawn; the whole schedule without a task.
        vlb: whether the variance is learned.

    >>> from ebm.baselines import DiT
    >>> model = DiT(8, 4, dim=8, depth=1, heads=2)    # predicts no noise at first
    >>> loss = Diffusion(steps=(0, 99))(model, Batch(torch.zeros(4, 3, 8, 8)))
    >>> sorted(loss.terms), 0.5 < loss.terms["noise_error"] < 1.5
    (['noise_error', 'vlb'], tensor(True))
    """

    def __init__(self, task: Task | None = None, steps: tuple[int, int] | None = None, vlb: bool = True) -> None:
        super().__init__()
        if steps is None and task is not None and hasattr(task, "noise_step"):
            steps = (0, task.noise_step[1])
        if steps is not None and not (len(steps) == 2 and 0 <= steps[0] <= steps[1]):
            raise ValueError(f"steps={steps}: pass a pair (low, high) of steps, from 0 on")
        self.steps, self.vlb = steps, vlb

    def forward(self, energy: Any, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if hasattr(batch.context, "std"):
            raise ValueError("the task's noise is additive, diffusion's is its schedule's: leave the task's sigma out")
        if not hasattr(energy, "noise_and_variance"):
            raise ValueError(f"{type(energy).__name__} has no noise_and_variance(y, step): diffusion trains a DiT")
        if start is not None:
            raise ValueError("start is given, but diffusion noises the target itself: leave it out")
        schedule = energy.schedule
        low, high = (0, schedule.steps - 1) if self.steps is None else self.steps
        if high >= schedule.steps:
            raise ValueError(f"steps={self.steps}: the energy's schedule has steps 0 to {schedule.steps - 1}")
        check_configuration(batch.target, generator)
        # Weak noise and the bound need more digits than mixed precision leaves of a module's input.
        clean = batch.target.to(torch.promote_types(batch.target.dtype, torch.float32))
        step = torch.randint(low, high + 1, clean.shape[:1], generator=generator, device=clean.device)
        noise = randn_like(clean, generator)
        noisy = schedule.noised(clean, step, noise)
        predicted, share = energy.noise_and_variance(noisy, step)
        error = batch.mean((predicted - noise).square().flatten(1).mean(1))
        terms = {"noise_error": error.detach()}
        if not self.vlb:
            return Loss(error, terms)
        bits = batch.mean(bound(schedule, clean, noisy, step, predicted.detach(), share))
        return Loss(error + bits, {**terms, "vlb": bits.detach()})
