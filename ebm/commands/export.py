"""`ebm export RUN FOLDER`: write a model that can be given away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ebm.runs.card import size_of
from ebm.runs.exported import UNKNOWN, DType
from ebm.runs.finding import find
from ebm.runs.index import CARD
from ebm.runs.run import Run


def export(
    run: Run,
    folder: Path,
    /,
    *,
    also: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    dtype: DType | None = None,
    licence: str = UNKNOWN,
    name: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export a run as a model to give away: weights, recipe, what was learned, numbers, a card.

    The folder needs no data, holds no code and no path of this machine, and every command takes it.

    Args:
        run: the run folder.
        folder: the folder to write, new or empty.
        also: runs of the same recipe and other seeds: the card tells means and deviations.
        dtype: stores the weights so; loading turns them back.
        licence: the model's, as in mit.
        name: what the card calls the model; by default the folder's name.
        overwrite: replace an exported model in that folder.
    """
    places = [find(other) for other in also or []]
    written = run.export(folder, also=places, dtype=dtype, licence=licence, name=name, overwrite=overwrite)
    return {"model": written, "card": written / CARD, "size": size_of(written)}
