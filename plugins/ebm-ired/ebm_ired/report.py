"""What a report shows of sudokus: boards as they are filled, landscape by landscape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebm.figures import DATA, GREY, INK, SAMPLES, figure_of
from ebm.interfaces import Batch, eval_mode, landscapes
from ebm.randomness import stream
from ebm.reports import Section
from ebm.runs.run import Run
from ebm.thinking import Thinker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["sections"]

BOARDS, MOMENTS = 2, 6  # boards that are followed, and how often each is drawn


def sections(run: Run, seed: int) -> Iterator[Section]:
    """Draws boards of the hard split on their way from noise to an answer."""
    box = getattr(run.task, "spec", {}).get("box")
    if box is None or not isinstance(run.thinker, Thinker):
        return
    batch = run.task.rows("hard").rows(slice(BOARDS)).to(run.device)
    moments, ways = _followed(run, batch, seed)
    true, given = batch.target.argmax(-1).cpu(), batch.context.amax(-1).cpu() > 0.5
    with figure_of(9.6, 1.9 * BOARDS + 0.2) as (figure, png):
        for line, board in zip(figure.subplots(BOARDS, len(moments), squeeze=False), range(BOARDS), strict=True):
            for axes, moment, way in zip(line, moments, ways, strict=True):
                digits = way[board].argmax(-1).cpu()
                _draw(axes, digits, true[board], given[board], box)
                wrong = int((digits != true[board]).sum())
                axes.set_title(f"step {moment}" if board == 0 else "")
                axes.set_xlabel(f"{wrong} wrong" if wrong else "solved", color=GREY)
    yield Section(
        "Boards as they are solved",
        "Two boards of the hard split, from a random start to the end of the last landscape. Black: "
        "clues. Blue: other cells that are right so far. Orange: cells that are wrong.",
        png.getvalue(),
        place=25,
    )


def _followed(run: Run, batch: Batch, seed: int) -> tuple[list[int], list[Tensor]]:
    """Follows boards on their way: the steps at which they are looked at, and how they stand there."""
    start = run.task.start(batch, generator=(generator := stream(seed, "boards", device=run.device)))
    functions = landscapes(run.energy, batch.context)
    with torch.no_grad(), eval_mode([run.energy, run.sampler]):
        walk = run.sampler.trajectory(functions, start, generator=generator)
        ways = [start, *(state.y for state, _ in walk)]
    moments = torch.linspace(0, len(ways) - 1, min(MOMENTS, len(ways))).round().long().tolist()
    return moments, [ways[moment] for moment in moments]


def _draw(axes: Axes, digits: Tensor, true: Tensor, given: Tensor, box: tuple[int, int]) -> None:
    """Draws a board (side, side) of digits that count from 0."""
    side = len(digits)
    for line in range(side + 1):
        axes.axhline(line, color=INK, linewidth=1.4 if line % box[0] == 0 else 0.3)
        axes.axvline(line, color=INK, linewidth=1.4 if line % box[1] == 0 else 0.3)
    for row in range(side):
        for column in range(side):
            right = digits[row, column] == true[row, column]
            color = SAMPLES if not right else INK if given[row, column] else DATA
            axes.text(column + 0.5, row + 0.5, str(int(digits[row, column]) + 1), color=color, ha="center", va="center")
    axes.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)
