"""Energy diffusion: the gradient says where the noise is, and the answer lies lower than what is
nearly an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from ebm.interfaces import Batch, Energy, EnergyFn, Loss, Objective, Task, bind, check_configuration, energy_and_grad
from ebm.randomness import randn_like
from ebm_ired.levels import Level, levels

__all__ = ["EnergyDiffusion"]


class EnergyDiffusion(Objective):
    """Trains an energy of K landscapes by denoising its gradient and by contrast with corrupted
    answers.

        L = E mean |∇E_k(a_k y* + s_k ε) − ε|² + contrast · E log(1 + exp(E_k(a_k y* + s_k ε) −
        E_k(a_k y⁻ + s_k ε))),

    where ε ~ N(0, I), and y⁻ is the answer y* corrupted, under the same noise: the second term is
    the cross-entropy of telling the two apart by softmax(−E). The rows of a batch are spread evenly
    over some of the landscapes, drawn anew. No sampler runs.

    Source: arXiv 2406.11179, section 3 and algorithm 1; the authors' code draws noise of its own
    for the second term.

    Arguments:
        contrast: weight of the second term.
        visited: landscapes of a batch at most; each is a pass of its own, since an energy is bound
            to one level at a time.
        corruption: standard deviation of the noise that makes y⁻ of y* where there is no `corrupt`.
        task: gives `corrupt` where that is not passed, if it has it.
        corrupt: corrupt(batch, generator=) -> y⁻, of the target's shape.

    Raises:
        ValueError: contrast is negative, corruption or visited not positive, or (at the call) a
            start is given.

    Terms: denoising (mean squared error of a number of ε), contrast, ranked (the share of rows
    whose answer lies lower), energy_data.

    >>> a, s = levels(1)[0]
    >>> exact = lambda y: (y - a).square().sum(-1) / (2 * s)     # the energy of a single answer, 1
    >>> loss = EnergyDiffusion(contrast=0.0)(exact, Batch(torch.ones(3, 2)))
    >>> round(loss.value.item(), 6), loss.terms["ranked"].item() > 0
    (0.0, True)
    """

    def __init__(
        self,
        contrast: float = 0.5,
        visited: int = 4,
        corruption: float = 3.0,
        task: Task | None = None,
        corrupt: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not contrast >= 0 or not corruption > 0 or visited < 1:
            raise ValueError(
                f"contrast={contrast}, corruption={corruption}, visited={visited}: pass a weight of at least 0, a positive "
                f"standard deviation, and a count of at least 1"
            )
        self.contrast, self.corruption, self.visited = contrast, corruption, visited
        self.corrupt = corrupt or getattr(task, "corrupt", None) or self._noised

    def forward(
        self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Loss:
        """Computes the loss of one batch; all that is drawn comes from the generator."""
        if start is not None:
            raise ValueError("start is given, but energy diffusion noises the answer itself: leave it out")
        check_configuration(batch.target, generator)
        ladder = levels(energy.levels if isinstance(energy, Energy) else 1)
        noise, wrong = randn_like(batch.target, generator), self.corrupt(batch, generator=generator)
        groups = self._spread(len(noise), len(ladder), noise.device, generator)
        parts = []
        for level, rows in groups.items():
            function = bind(energy, _take(batch.context, rows), level if len(ladder) > 1 else -1)
            parts.append(self._at(function, ladder[level], batch.target[rows], wrong[rows], noise[rows]))
        error, margin, value = (torch.cat(column) for column in zip(*parts, strict=True))
        arranged = Batch(None, weight=_take(batch.weight, torch.cat([*groups.values()])))
        denoising, contrast = arranged.mean(error), arranged.mean(F.softplus(-margin))
        terms = {
            "denoising": denoising,
            "contrast": contrast,
            "ranked": arranged.mean((margin > 0).to(margin)),
            "energy_data": arranged.mean(value),
        }
        return Loss(denoising + self.contrast * contrast, {name: term.detach() for name, term in terms.items()})

    def _at(
        self, function: EnergyFn, level: Level, answer: Tensor, wrong: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the gradient's mean squared error, how much higher the wrong answer lies, and
        the energy, each (*chains,)."""
        noised = level.signal * answer + level.noise * noise
        value, grad = energy_and_grad(function, noised, create_graph=torch.is_grad_enabled())
        margin = function(level.signal * wrong + level.noise * noise) - value
        return (grad - noise).square().reshape(*value.shape, -1).mean(-1), margin, value

    def _spread(self, rows: int, count: int, device: torch.device, generator: torch.Generator | None) -> dict[int, Tensor]:
        """Deals rows out at random to levels that are drawn, as evenly as they allow: level -> its
        rows, at least one."""
        order = torch.randperm(rows, generator=generator, device=device)
        drawn = torch.randperm(count, generator=generator, device=device)[: min(self.visited, rows)].tolist()
        return {level: order[place :: len(drawn)] for place, level in enumerate(drawn)}

    def _noised(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        return batch.target + self.corruption * randn_like(batch.target, generator)


def _take(tree: Any, rows: Tensor) -> Any:
    """Takes rows of every tensor of a context."""
    return pytree.tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, tree)
