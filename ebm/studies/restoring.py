"""How a finished run restores a picture: told its noise or not, and at noise beyond training's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ebm.runs.run import Run
from ebm.samplers import Monotone
from ebm.tasks.images.estimating import confirmed, estimate_noise
from ebm.tasks.images.whole import takes_any_size
from ebm.thinking import Thinker

BEYOND, HALVINGS = 8, 6  # steps at noise beyond training's, and how often one is halved, at most


def beyond_training(run: Run, candidates: int = 1) -> Thinker | None:
    """Makes what thinks about noise stronger than training's: until the recipe's `thinking.enough`.

    No step raises the energy. None where the recipe does not say what is enough.
    """
    enough = run.recipe.get("thinking", {}).get("enough")
    if enough is None:
        return None
    return Thinker(run.energy, Monotone(run.sampler, halvings=HALVINGS), steps=BEYOND, candidates=candidates, enough=enough)


def estimated(predictor: Any, image: Tensor, seen: Tensor | None = None) -> float:
    """Estimates the deviation of a picture's noise (C, H, W); an energy that is told it has the last word.

    Arguments:
        predictor: what is to restore the picture.
        image: the picture, with as many channels as it has shades.
        seen: the picture as the energy sees it, where it differs.
    """
    std = estimate_noise(image)
    if not isinstance(predictor, Thinker) or not takes_any_size(predictor):
        return std
    energy: Any = predictor.energy
    return std if getattr(energy, "blind", False) else confirmed(energy, image if seen is None else seen, std)
