"""How pictures look: colours, a style that ignores the caller's, and figures that become PNGs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DATA", "INK", "NOISE", "OTHER", "SAMPLES", "Picture", "figure_of"]

Picture = tuple[str, bytes, str]  # kind (the template has a title and a caption for each), PNG, objective of a weighted sum

DATA, SAMPLES, OTHER, NOISE, INK, GREY = "#1f5f8b", "#d2603a", "#c9a227", "#9aa3ad", "#22272e", "#57606a"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": GREY,
    "legend.frameon": False,
}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY}


@contextmanager
def figure_of(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Gives a figure of so many inches, and a buffer that holds its PNG afterwards, whatever style the caller has set."""
    import matplotlib
    from matplotlib.figure import Figure

    png = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, png
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
