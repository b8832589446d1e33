"""Pictures of any size by a predictor that needs no tiles, or by one that does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.restoration.windowed import windows
from ebm.interfaces import Batch, Predictor
from ebm.interfaces.abilities import Tiled
from ebm.tasks.images.tiling import Coding, Restored, count_tiles, emptied, patch_of, restore
from ebm.tasks.images.together import most_steps, think_together
from ebm.thinking import Thinker


def takes_any_size(predictor: Any) -> bool:
    """Tells whether a predictor, or the energy that it descends, needs no tiles."""
    return bool(getattr(getattr(predictor, "energy", predictor), "any_size", False))


def takes_greys(predictor: Any) -> bool:
    """Tells whether a predictor of colours, or the energy that it descends, takes one channel of greys, too."""
    return bool(getattr(getattr(predictor, "energy", predictor), "takes_greys", False))


def count_parts(task: Tiled, predictor: Any, height: int, width: int, stride: int | None = None) -> int:
    """Counts the tiles or windows of which `restore_picture` tells, at most: each as often as it is thought about."""
    thinker = predictor if isinstance(predictor, Thinker) else None
    if not takes_any_size(predictor):
        count = count_tiles(height, width, task.tile, task.stride if stride is None else stride, patch_of(predictor))
        return count if thinker is None or thinker.patience is None else count * max(1, most_steps(thinker))
    count = len(windows(height, width))
    if thinker is None or count == 1:
        return count
    return count * most_steps(thinker) * getattr(thinker.energy, "levels", 1) * thinker.candidates


def restore_picture(
    task: Tiled,
    predictor: Predictor,
    image: Tensor,
    step: int,
    *,
    stride: int | None = None,
    coding: Coding | None = None,
    **how: Any,
) -> Restored:
    """Restores a picture (C, H, W), or what a coding holds of one, whose noise has a step of the task's.

    An energy of any size sees it whole, or window by window with what lies around; windows think
    together, so that the picture is the same (`think_together`). Others get the task's tiles. `how` is
    `restore`'s: batch_size, scores, generator, advance.
    """
    if not takes_any_size(predictor):
        own: dict[str, Any] = {"tile": task.tile, "stride": task.stride if stride is None else stride, "step": step}
        return restore(predictor, image, **own, patch=patch_of(predictor), seen=task.schedule.seen, coding=coding, **how)
    how.pop("batch_size", None)
    coding = Coding(lambda tiles: tiles, lambda rows: rows) if coding is None else coding

    def seen(part: Tensor) -> Any:
        return task.schedule.seen(part, torch.tensor([step], device=part.device))

    if isinstance(predictor, Thinker) and len(windows(*image.shape[1:])) > 1:
        return _together(predictor, image, coding, seen, **how)
    return _apart(predictor, image, coding, seen, **how)


def _together(
    thinker: Thinker,
    image: Tensor,
    coding: Coding,
    seen: Callable[[Tensor], Any],
    *,
    scores: Callable[[Batch, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] | None = None,
) -> Restored:
    """Thinks about a picture of several windows as one chain."""
    y, energy, passes, steps = think_together(thinker, image, coding, seen, generator=generator, advance=advance)
    done, scored = None, None
    for window in windows(*image.shape[1:]):
        part = coding.decode(image[None, :, *window.seen])
        found = part if y is None else y[None, :, *window.seen].float()
        held = coding.encode(found[0, :, *window.inner])
        done = emptied(held, image) if done is None else done
        done[:, *window.place] = held
        if scores is not None:
            with torch.no_grad():
                patches = _spread(scores(Batch(part, seen(part)), found), found)
            scored = part.new_empty(image.shape[1:]) if scored is None else scored
            scored[window.place] = patches[window.inner]
    assert done is not None
    return Restored(done, energy, passes, float(steps), scored)


def _apart(predictor: Predictor, image: Tensor, coding: Coding, seen: Callable[[Tensor], Any], **how: Any) -> Restored:
    """Predicts the windows of a picture one after the other, each by itself: by what decides nothing, or of one window."""
    found, (height, width) = list[Restored](), image.shape[1:]
    whole, scored = None, None
    for window in windows(height, width):
        part = coding.decode(image[None, :, *window.seen])[0]
        predicted = _predict(predictor, part, seen(part[None]), **how)
        kept = coding.encode(predicted.image[:, *window.inner])
        whole = emptied(kept, image) if whole is None else whole
        whole[:, *window.place] = kept
        if predicted.map is not None:
            scored = part.new_empty(height, width) if scored is None else scored
            scored[window.place] = predicted.map[window.inner]
        share = kept[0].numel() / part[0].numel()
        found.append(predicted._replace(energy=None if predicted.energy is None else predicted.energy * share))
    assert whole is not None
    energies, moved = [each.energy for each in found], [each.steps for each in found]
    return Restored(
        whole,
        None if None in energies else sum(energy or 0.0 for energy in energies),
        max(each.evaluations for each in found),
        None if None in moved else sum(count or 0.0 for count in moved) / len(moved),
        scored,
    )


def _predict(
    predictor: Predictor,
    image: Tensor,
    context: Any,
    *,
    scores: Callable[[Batch, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] | None = None,
) -> Restored:
    """Predicts a picture as one chain."""
    count, batch = getattr(predictor, "candidates", 1), Batch(image[None], context)
    start = image[None] if count == 1 else image.expand(count, 1, *image.shape)
    with torch.no_grad():
        found = predictor.predict(batch, start, generator=generator)
        patches = None if scores is None else scores(batch, found.y)
    energy, steps = found.energy, getattr(found, "steps", None)
    if advance is not None:
        advance(1)
    return Restored(
        found.y[0],
        None if energy is None else float(energy),
        found.evaluations,
        None if steps is None else float(steps),
        None if patches is None else _spread(patches, image),
    )


def _spread(patches: Tensor, image: Tensor) -> Tensor:
    """Spreads the scores of a picture's patches (1, rows, columns) over its pixels (H, W)."""
    return F.interpolate(patches[:, None], size=image.shape[-2:])[0, 0]
