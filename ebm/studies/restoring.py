"""How a finished run restores a picture: told its noise or not, and at noise beyond training's."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from ebm.interfaces import Batch, Prediction
from ebm.runs.run import Run
from ebm.samplers import Monotone
from ebm.tasks.images.estimating import GRAIN, confirmed, estimate_noise
from ebm.tasks.images.whole import takes_any_size
from ebm.thinking import Considered, Thinker

BEYOND, HALVINGS = 8, 6  # steps at noise beyond training's, and how often one is halved, at most


def beyond_training(run: Run, candidates: int = 1) -> Thinker | None:
    """Makes what thinks about noise stronger than training's, as long as the energy falls.

    A fall of at most the recipe's `thinking.tolerance` counts for none, no step raises the energy, and
    one step is enough where it is at most `thinking.familiar` for each number of the picture. None
    where the recipe does not say that.
    """
    thinks = run.recipe.get("thinking", {})
    if "familiar" not in thinks:
        return None
    steady = Monotone(run.sampler, halvings=HALVINGS)
    how: dict[str, Any] = {"tolerance": thinks.get("tolerance", 0.0), "familiar": thinks["familiar"]}
    return Thinker(run.energy, steady, steps=BEYOND, candidates=candidates, patience=1, **how)


class Untouched:
    """Predicts each picture as it is, and asks no energy: what restores one in which no noise is found."""

    any_size = True

    def predict(self, batch: Batch, start: Tensor, *, generator: Generator | None = None) -> Prediction:
        """Returns the pictures (B, C, H, W) that are seen."""
        found = Considered(batch.context.image, None, 0)
        found.steps = start.new_zeros(len(batch.context.image))
        return found

    def scores(self, batch: Batch, y: Tensor) -> Tensor:
        """Maps pictures (B, C, H, W) to the energies (B, H, W) of their pixels when no noise is known: none."""
        return y.new_zeros(len(y), *y.shape[-2:])


def estimated(predictor: Any, image: Tensor, seen: Tensor | None = None) -> float:
    """Estimates the deviation of a picture's noise (C, H, W); an energy that is told it has the last word.

    Less than 2.5 grey levels are 0: as much grain is in many a clean photograph.

    Arguments:
        predictor: what is to restore the picture.
        image: the picture, with as many channels as it has shades.
        seen: the picture as the energy sees it, where it differs.
    """
    std = estimate_noise(image)
    if isinstance(predictor, Thinker) and takes_any_size(predictor):
        energy: Any = predictor.energy
        std = std if getattr(energy, "blind", False) else confirmed(energy, image if seen is None else seen, std, GRAIN)
    return std if std >= GRAIN else 0.0
