"""Tiling: predicts pictures of any size from small tiles that overlap and are blended."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.interfaces import Batch, Predictor, check_steps, eval_mode
from ebm.tasks.images.noising import Noisy
from ebm.thinking import Thinker


class Restored(NamedTuple):
    """What restoring returns: the picture, and what its tiles had to say of it."""

    image: Tensor  # (C, H, W)
    energy: float | None  # mean over tiles; None for a feed-forward model
    evaluations: float  # forward passes each tile took, those of the longest batch
    steps: float | None  # mean over tiles of the steps that moved them, where the predictor counts them
    map: Tensor | None  # (H, W): the scores of patches, where they were asked for


def restore(
    predictor: Predictor,
    image: Tensor,
    *,
    tile: int,
    stride: int | None = None,
    step: int = 0,
    seen: Callable[[Tensor, Tensor], Any] = Noisy,
    batch_size: int = 64,
    start: Tensor | None = None,
    scores: Callable[[Batch, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] | None = None,
) -> Restored:
    """Restores a picture of any size: predicts its overlapping tiles, and blends the results.

    Each tile is a chain of its own. But a thinker with patience takes its steps one at a time, all
    tiles together, and the whole picture stops once the mean of its tiles' energies fell no
    further: a tile alone tells noise from texture badly. Tiles are weighted by sin² of the position
    in them, so that none shows an edge. A picture smaller than a tile is reflected (or, where it is
    too small for that, repeated) at its lower and right edge.

    Arguments:
        predictor: predicts a batch of tiles; all its `candidates` start at the tile.
        image: (C, H, W), on the device where tiles are predicted.
        tile: the side of a tile.
        stride: pixels between neighbouring tiles, at most `tile`; half of it by default.
        step: the noise step that the tiles' context says.
        seen: makes their context of tiles and their steps, as a schedule's `seen` does.
        batch_size: how many tiles are predicted together.
        start: a picture that chains start from, where it is not the image itself.
        scores: maps a batch and its predicted tiles to patches' scores (tiles, rows, columns).
        generator: where a sampler's noise comes from.
        advance: called with the number of tiles that have just been done, as a progress bar is.

    >>> from ebm.samplers import GradientDescent
    >>> from ebm.thinking import Thinker
    >>> thinker = Thinker(lambda y: (y**2).mean((-3, -2, -1)), GradientDescent(step_size=1.0, steps=5))
    >>> found = restore(thinker, torch.ones(3, 20, 30), tile=8)
    >>> found.image.shape, found.evaluations, found.steps
    (torch.Size([3, 20, 30]), 6, 5.0)
    """
    if image.ndim != 3 or image.numel() == 0 or not image.is_floating_point():
        raise ValueError(f"image has shape {tuple(image.shape)} and {image.dtype}: pass one floating picture (C, H, W)")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: predict at least one tile at a time")
    if start is not None and start.shape != image.shape:
        raise ValueError(f"start has shape {tuple(start.shape)}, the image {tuple(image.shape)}: they are one picture")
    if isinstance(predictor, Thinker) and predictor.patience is not None:
        options: dict[str, Any] = {"tile": tile, "stride": stride, "step": step, "seen": seen, "batch_size": batch_size}
        options["generator"] = generator
        return _patiently(predictor, predictor.patience, image, start, scores=scores, advance=advance, **options)
    (height, width), count = image.shape[1:], getattr(predictor, "candidates", 1)
    y_weights, x_weights = _weights(height, tile, stride, image), _weights(width, tile, stride, image)
    y_places, x_places = _places(height, tile, stride), _places(width, tile, stride)
    padded = _padded(_padded(image, tile, axis=-2), tile, axis=-1)
    begun = padded if start is None else _padded(_padded(start, tile, axis=-2), tile, axis=-1)
    blend = torch.zeros_like(padded)
    scored = None if scores is None else torch.zeros_like(padded[0])
    total, moved = 0.0, 0.0
    evaluations: float = 0
    has_energy = has_steps = True
    numbers = len(y_places) * len(x_places)
    with torch.no_grad():
        for first in range(0, numbers, batch_size):
            cells = [divmod(number, len(x_places)) for number in range(first, min(first + batch_size, numbers))]
            tiles, starts = (
                torch.stack([_window(picture, y_places[i], x_places[j], tile) for i, j in cells]) for picture in (padded, begun)
            )
            steps = torch.full((len(tiles),), step, dtype=torch.long, device=image.device)
            batch = Batch(tiles, seen(tiles, steps))
            starts = starts if count == 1 else starts.expand(count, *starts.shape)
            prediction = predictor.predict(batch, starts, generator=generator)
            evaluations = max(evaluations, prediction.evaluations)
            energy, taken = prediction.energy, getattr(prediction, "steps", None)
            has_energy, has_steps = has_energy and energy is not None, has_steps and taken is not None
            total += 0.0 if energy is None else float(energy.sum())
            moved += 0.0 if taken is None else float(taken.sum())
            patches = None if scores is None else F.interpolate(scores(batch, prediction.y)[:, None], size=(tile, tile))[:, 0]
            for k, (i, j) in enumerate(cells):
                weight = torch.outer(y_weights[i], x_weights[j])
                _window(blend, y_places[i], x_places[j], tile).addcmul_(prediction.y[k], weight)
                if scored is not None and patches is not None:
                    _window(scored, y_places[i], x_places[j], tile).addcmul_(patches[k], weight)
            if advance is not None:
                advance(len(cells))
    return Restored(
        blend[:, :height, :width],
        total / numbers if has_energy else None,
        evaluations,
        moved / numbers if has_steps else None,
        None if scored is None else scored[:height, :width],
    )


def _patiently(thinker: Thinker, patience: int, image: Tensor, start: Tensor | None, **options: Any) -> Restored:
    """Restores step by step, until the tiles' mean energy fell no further for `patience` steps."""
    how: dict[str, Any] = {"candidates": thinker.candidates, "select": thinker.select}
    longest = check_steps(thinker.sampler.steps if thinker.steps is None else thinker.steps)[1]
    one, y = Thinker(thinker.energy, thinker.sampler, steps=min(1, longest), **how), start
    kept, best, taken, waited = None, float("inf"), 0, 0
    evaluations: float = 0
    for number in range(1, max(1, longest) + 1):
        found = restore(one, image, start=y, **options)
        assert found.energy is not None
        y, evaluations = found.image, evaluations + found.evaluations
        waited += 1
        if kept is None or found.energy < best - thinker.tolerance * abs(best):
            kept, best, taken, waited = found, found.energy, number, 0
        if waited >= patience:
            break
    assert kept is not None
    return kept._replace(evaluations=evaluations, steps=float(min(taken, longest)))


def count_tiles(height: int, width: int, tile: int, stride: int | None = None) -> int:
    """Counts the tiles that cover a picture.

    >>> count_tiles(32, 48, tile=32), count_tiles(32, 49, tile=32), count_tiles(5, 5, tile=32)
    (2, 3, 1)
    """
    return len(_places(height, tile, stride)) * len(_places(width, tile, stride))


def patch_scores(energy: Any) -> Callable[[Batch, Tensor], Tensor]:
    """Makes a function that scores tiles patch by patch (tiles, rows, columns)."""

    def scores(batch: Batch, y: Tensor) -> Tensor:
        with torch.no_grad(), eval_mode(energy):
            return energy.patch_energies(y, energy.encode(batch.context, level=-1))

    return scores


def _places(size: int, tile: int, stride: int | None) -> list[int]:
    """Lists where tiles begin along an axis; the last one ends at the edge."""
    if tile < 1:
        raise ValueError(f"tile={tile}: pass the side of a tile, at least 1")
    apart = max(1, tile // 2) if stride is None else stride
    if not 1 <= apart <= tile:
        raise ValueError(f"stride={stride} with tile={tile}: a stride of 1 to {tile} leaves no gaps between tiles")
    last = max(size - tile, 0)
    return [*range(0, last, apart), last]


def _weights(size: int, tile: int, stride: int | None, like: Tensor) -> Tensor:
    """Computes each tile's weights along an axis (places, tile): they add up to 1 everywhere."""
    places = _places(size, tile, stride)
    bump = (math.pi * (torch.arange(tile, dtype=torch.float64) + 0.5) / tile).sin().square()
    total = torch.zeros(max(size, tile), dtype=torch.float64)
    for place in places:
        total[place : place + tile] += bump
    return torch.stack([bump / total[place : place + tile] for place in places]).to(like)


def _padded(image: Tensor, tile: int, axis: int) -> Tensor:
    """Extends an axis that is shorter than a tile to its length."""
    missing = tile - image.shape[axis]
    if missing <= 0:
        return image
    padding = (0, missing) if axis == -1 else (0, 0, 0, missing)
    return F.pad(image, padding, mode="reflect" if missing < image.shape[axis] else "replicate")


def _window(image: Tensor, top: int, left: int, tile: int) -> Tensor:
    """Views the tile of a picture, or of a map, that begins at (top, left)."""
    return image[..., top : top + tile, left : left + tile]
