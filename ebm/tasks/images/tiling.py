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


class Coding(NamedTuple):
    """How a picture is held, and what predictors see of it: a large one fits into memory as bytes."""

    decode: Callable[[Tensor], Tensor]  # tiles as they are held (tiles, *, tile, tile) -> (tiles, C, tile, tile), floating
    encode: Callable[[Tensor], Tensor]  # rows (C, rows, W), floating -> as they are held (*, rows, W)


class Restored(NamedTuple):
    """What restoring returns: the picture, and what its tiles had to say of it."""

    image: Tensor  # (C, H, W), or as the coding holds it
    energy: float | None  # mean over tiles; None for a feed-forward model
    evaluations: float  # forward passes each tile took, those of the longest batch
    steps: float | None  # mean over tiles of the steps that moved them, where the predictor counts them
    map: Tensor | None  # (H, W): the scores of patches, where they were asked for


MANY = 2**25  # numbers of a picture above which its states between steps are kept in half precision


def restore(
    predictor: Predictor,
    image: Tensor,
    *,
    tile: int,
    stride: int | None = None,
    patch: int = 1,
    step: int = 0,
    seen: Callable[[Tensor, Tensor], Any] = Noisy,
    batch_size: int = 64,
    start: Tensor | None = None,
    scores: Callable[[Batch, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    advance: Callable[[int], None] | None = None,
    coding: Coding | None = None,
) -> Restored:
    """Restores a picture of any size: predicts its overlapping tiles, and blends the results.

    Each tile is a chain of its own. But a thinker with patience takes its steps one at a time, all
    tiles together, and the whole picture stops once the mean of its tiles' energies fell no
    further: a tile alone tells noise from texture badly. Tiles are weighted by sin² of the position
    in them, so that none shows an edge. A picture smaller than a tile is reflected (or, where it is
    too small for that, repeated) at its lower and right edge.

    A model of patches leaves seams between them. Where all tiles begin at multiples of the patch,
    seams fall onto each other and show as a grid: with `patch`, tiles are moved by less than a
    patch so that neighbours' seams differ, and each place has its share of the tiles. The picture
    is reflected beyond its edges for that.

    Memory holds the picture, what comes of it, and the rows of tiles in work.

    Arguments:
        predictor: predicts a batch of tiles; all its `candidates` start at the tile.
        image: (C, H, W), on the device where tiles are predicted; with a coding as it is held.
        tile: the side of a tile.
        stride: pixels between neighbouring tiles, at most, and at most `tile`; half of it by
            default.
        patch: the side of the model's patches, whose seams are spread; 1 moves no tile.
        step: the noise step that the tiles' context says.
        seen: makes their context of tiles and their steps, as a schedule's `seen` does.
        batch_size: how many tiles are predicted together.
        start: a picture (C, H, W) that chains start from, where it is not the image itself.
        scores: maps a batch and its predicted tiles to patches' scores (tiles, rows, columns).
        generator: where a sampler's noise comes from.
        advance: called with the number of tiles that have just been done, as a progress bar is.
        coding: how the picture is held, of which the restored one is, too.

    Raises:
        ValueError: the picture, or the sizes, are impossible.

    >>> from ebm.samplers import GradientDescent
    >>> from ebm.thinking import Thinker
    >>> thinker = Thinker(lambda y: (y**2).mean((-3, -2, -1)), GradientDescent(step_size=1.0, steps=5))
    >>> found = restore(thinker, torch.ones(3, 20, 30), tile=8)
    >>> found.image.shape, found.evaluations, found.steps
    (torch.Size([3, 20, 30]), 6, 5.0)
    """
    if image.ndim != 3 or image.numel() == 0 or not (image.is_floating_point() or coding):
        raise ValueError(f"image has shape {tuple(image.shape)} and {image.dtype}: pass one floating picture (C, H, W)")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: predict at least one tile at a time")
    if start is not None and (start.shape[1:] != image.shape[1:] if coding else start.shape != image.shape):
        raise ValueError(f"start has shape {tuple(start.shape)}, the image {tuple(image.shape)}: they are one picture")
    coding = Coding(lambda tiles: tiles, lambda rows: rows) if coding is None else coding
    layout = _laid_out(image.shape[1], image.shape[2], tile, stride, patch)
    options: dict[str, Any] = {"tile": tile, "step": step, "seen": seen, "batch_size": batch_size, "generator": generator}
    options |= {"scores": scores, "advance": advance, "layout": layout}
    if isinstance(predictor, Thinker) and predictor.patience is not None:
        return _patiently(predictor, predictor.patience, image, start, coding, options)
    return _restored(predictor, image, start, coding, **options)


def _restored(
    predictor: Predictor,
    image: Tensor,
    start: Tensor | None,
    coding: Coding,
    *,
    tile: int,
    step: int,
    seen: Callable[[Tensor, Tensor], Any],
    batch_size: int,
    layout: Layout,
    scores: Callable[[Batch, Tensor], Tensor] | None,
    generator: torch.Generator | None,
    advance: Callable[[int], None] | None,
) -> Restored:
    """Predicts all tiles once, row by row; rows of the picture that no tile reaches any more are done."""
    cells, count = layout.cells, getattr(predictor, "candidates", 1)
    bump = (math.pi * (torch.arange(tile, dtype=torch.float64) + 0.5) / tile).sin().square()
    blend, done, mapped = None, None, None
    total, moved, evaluations = 0.0, 0.0, 0.0
    has_energy = has_steps = True
    with torch.no_grad():
        for first in range(0, len(cells), batch_size):
            batch_cells = cells[first : first + batch_size]
            tiles = coding.decode(torch.stack([layout.cut(image, *cell, tile) for cell in batch_cells]))
            starts = tiles if start is None else torch.stack([layout.cut(start, *cell, tile) for cell in batch_cells]).to(tiles)
            steps = torch.full((len(tiles),), step, dtype=torch.long, device=tiles.device)
            batch = Batch(tiles, seen(tiles, steps))
            starts = starts if count == 1 else starts.expand(count, *starts.shape)
            prediction = predictor.predict(batch, starts, generator=generator)
            evaluations = max(evaluations, prediction.evaluations)
            energy, taken = prediction.energy, getattr(prediction, "steps", None)
            has_energy, has_steps = has_energy and energy is not None, has_steps and taken is not None
            total += 0.0 if energy is None else float(energy.sum())
            moved += 0.0 if taken is None else float(taken.sum())
            found = prediction.y
            if scores is not None:  # one more channel
                patches = F.interpolate(scores(batch, found)[:, None], size=(tile, tile)).to(found)
                found = torch.cat([found, patches], 1)
            if blend is None:
                blend = _Blend(torch.outer(bump, bump).to(tiles), found.shape[1], layout.width)
            blend.add(found, batch_cells)
            rest = cells[first + batch_size : first + batch_size + 1]
            above, rows = blend.take(layout.row_of(rest[0]) if rest else None)
            begin, end = (min(max(line - layout.margin, 0), image.shape[1]) for line in (above, above + rows.shape[1]))
            if begin < end:
                rows = rows[:, begin + layout.margin - above : end + layout.margin - above]
                rows = rows[:, :, layout.margin : layout.margin + image.shape[2]]
                held = coding.encode(rows if scores is None else rows[:-1])
                done = emptied(held, image) if done is None else done
                done[:, begin:end] = held
                if scores is not None:
                    mapped = rows.new_empty(image.shape[1:]) if mapped is None else mapped
                    mapped[begin:end] = rows[-1]
            if advance is not None:
                advance(len(batch_cells))
    assert done is not None
    energies, paces = (total / len(cells) if has_energy else None), (moved / len(cells) if has_steps else None)
    return Restored(done, energies, evaluations, paces, mapped)


def emptied(held: Tensor, image: Tensor) -> Tensor:
    """Makes room for a picture of the image's size: (H, W, *) in memory, as files are written."""
    return held.new_empty(*image.shape[1:], len(held)).movedim(-1, 0)


class _Blend:
    """Sums of weighted tiles, of the rows that are in work."""

    def __init__(self, window: Tensor, channels: int, width: int) -> None:
        self.window, self.above = window, 0
        self.sums, self.weights = window.new_zeros(channels, 0, width), window.new_zeros(0, width)

    def add(self, tiles: Tensor, cells: list[tuple[int, int]]) -> None:
        """Adds tiles (tiles, C, tile, tile) at their places."""
        tile = len(self.window)
        if (missing := max(top for top, _ in cells) + tile - self.above - len(self.weights)) > 0:
            self.sums = F.pad(self.sums, (0, 0, 0, missing))
            self.weights = F.pad(self.weights, (0, 0, 0, missing))
        for pixels, (top, left) in zip(tiles, cells, strict=True):
            where = (slice(top - self.above, top - self.above + tile), slice(left, left + tile))
            self.sums[:, *where].addcmul_(pixels, self.window)
            self.weights[where].add_(self.window)

    def take(self, below: int | None) -> tuple[int, Tensor]:
        """Takes the rows above one, or all: the first one's number, and weighted means (C, rows, width)."""
        above, count = self.above, len(self.weights) if below is None else max(0, below - self.above)
        rows = self.sums[:, :count] / self.weights[:count]
        self.above, self.sums, self.weights = above + count, self.sums[:, count:], self.weights[count:]
        return above, rows


def _patiently(
    thinker: Thinker, patience: int, image: Tensor, start: Tensor | None, coding: Coding, options: dict[str, Any]
) -> Restored:
    """Restores step by step, until the tiles' mean energy fell no further for `patience` steps, or one step was due."""
    how: dict[str, Any] = {"candidates": thinker.candidates, "select": thinker.select}
    longest = check_steps(thinker.sampler.steps if thinker.steps is None else thinker.steps)[1]
    one, y = Thinker(thinker.energy, thinker.sampler, steps=min(1, longest), **how), start
    kept, best, taken, waited = None, float("inf"), 0, 0
    evaluations: float = 0
    between = coding._replace(encode=(lambda rows: rows.half()) if image.numel() > MANY else lambda rows: rows)
    if thinker.familiar is not None:
        still, quiet = Thinker(thinker.energy, thinker.sampler, steps=0, **how), {**options, "scores": None, "advance": None}
        before = _restored(still, image, y, between, **quiet)
        assert before.energy is not None
        evaluations = before.evaluations
        if before.energy <= thinker.familiar * len(image) * options["tile"] ** 2:
            longest = min(1, longest)
    for number in range(1, max(1, longest) + 1):
        found = _restored(one, image, y, between, **options)
        assert found.energy is not None
        y, evaluations = found.image, evaluations + found.evaluations
        waited += 1
        if kept is None or found.energy < best - thinker.tolerance * abs(best):
            kept, best, taken, waited = found, found.energy, number, 0
        if waited >= patience:
            break
    assert kept is not None
    found, y, done = kept, None, None
    for place in range(0, image.shape[1], options["tile"]):
        rows = kept.image[:, place : place + options["tile"]]
        held = coding.encode(rows.float() if rows.dtype == torch.half else rows)
        done = emptied(held, image) if done is None else done
        done[:, place : place + options["tile"]] = held
    assert done is not None
    return kept._replace(image=done, evaluations=evaluations, steps=float(min(taken, longest)))


class Layout(NamedTuple):
    """Where tiles lie, on a picture that is extended beyond its edges."""

    cells: list[tuple[int, int]]  # (top, left) of tiles, row by row of tiles
    lines: tuple[Tensor, Tensor]  # which row of the picture each row shows, and which column each column
    margin: int  # rows above the picture, and columns left of it

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.lines[1])

    def row_of(self, cell: tuple[int, int]) -> int:
        """Finds the row above which neither this tile nor any later one reaches."""
        return max(0, cell[0] - self.margin)  # tiles of a row are moved by no more

    def cut(self, image: Tensor, top: int, left: int, tile: int) -> Tensor:
        """Cuts a tile (C, tile, tile) out of a picture (C, H, W)."""
        y, x = top - self.margin, left - self.margin
        if y >= 0 and x >= 0 and y + tile <= image.shape[1] and x + tile <= image.shape[2]:
            return image[:, y : y + tile, x : x + tile]
        rows, columns = (line[place : place + tile].to(image.device) for line, place in zip(self.lines, (top, left), strict=True))
        return image[:, rows][:, :, columns]


def _laid_out(height: int, width: int, tile: int, stride: int | None, patch: int) -> Layout:
    """Lays tiles out: on a grid whose last ones end at the edges, or moved so that seams differ."""
    if not 1 <= patch <= max(tile, 1):
        raise ValueError(f"patch={patch} with tile={tile}: a patch has a side of 1 to {tile}")
    if patch == 1:
        cells = [(top, left) for top in _places(height, tile, stride) for left in _places(width, tile, stride)]
        return Layout(cells, (_shown(height, max(height, tile), 0), _shown(width, max(width, tile), 0)), 0)
    _places(height, tile, stride)  # says what is wrong
    apart = max(1, (max(1, tile // 2) if stride is None else stride) - patch + 1)
    margin = patch - 1
    rows, columns = (range(max(0, math.ceil((size + margin - tile) / apart)) + 1) for size in (height, width))
    cells = [
        # Seams lie at multiples of the patch, moved by i + 2 j and 2 i + j: neighbours' differ.
        (i * apart + (i + 2 * j - i * apart) % patch, j * apart + (2 * i + j - j * apart) % patch)
        for i in rows
        for j in columns
    ]
    lines = [(each[-1] * apart + tile + margin) for each in (rows, columns)]
    return Layout(cells, (_shown(height, lines[0], margin), _shown(width, lines[1], margin)), margin)


def _shown(size: int, lines: int, margin: int) -> Tensor:
    """Lists what each line of an extended axis shows: it is reflected, or where short repeated."""
    places = torch.arange(-margin, lines - margin)
    if max(margin, lines - margin - size) < size:
        return (size - 1) - ((size - 1) - places.abs()).abs()
    return places.clamp(0, size - 1)


def count_tiles(height: int, width: int, tile: int, stride: int | None = None, patch: int = 1) -> int:
    """Counts the tiles that cover a picture.

    >>> count_tiles(32, 48, tile=32), count_tiles(32, 49, tile=32), count_tiles(5, 5, tile=32)
    (2, 3, 1)
    """
    return len(_laid_out(height, width, tile, stride, patch).cells)


def patch_of(predictor: Any) -> int:
    """Finds the side of the patches of a predictor or its energy; 1 where it has none.

    >>> patch_of(None)
    1
    """
    return int(getattr(predictor, "patch_size", getattr(getattr(predictor, "energy", None), "patch_size", 1)))


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
