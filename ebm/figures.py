"""How pictures look: colours, a style that ignores the caller's, and figures that become PNGs."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ebm.optional import installed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA, SAMPLES, OTHER, NOISE, INK, GREY = "#1f5f8b", "#d2603a", "#c9a227", "#9aa3ad", "#22272e", "#57606a"
TINY = 16  # pixels a side, up to which a picture is enlarged
DPI = 200
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
    installed("matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    png = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, png
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})


def histogram(energies: Mapping[str, np.ndarray]) -> bytes:
    """Draws the energies of several kinds of configurations, data and samples first."""
    finite = {name: energy[np.isfinite(energy)] for name, energy in energies.items()}
    everything, near = np.concatenate(list(finite.values())), np.concatenate(list(finite.values())[:2])
    # Noise may lie so far away that data and samples fall into one bar: then the axis ends at three times their spread.
    spread = max(float(np.ptp(near)), 1e-6)
    low, high = max(everything.min(), near.min() - 3 * spread), min(everything.max(), near.max() + 3 * spread)
    bins = np.linspace(low, max(high, low + spread), 61).tolist()
    with figure_of(9, 2.9) as (figure, png):
        axes = figure.subplots()
        for (name, energy), color in zip(finite.items(), (DATA, SAMPLES, OTHER, NOISE), strict=False):
            share = np.full(len(energy), 1 / len(energies[name]))
            axes.hist(energy.clip(low, high), bins, weights=share, histtype="stepfilled", color=color, alpha=0.2)
            axes.hist(energy.clip(low, high), bins, weights=share, histtype="step", color=color, label=name)
        axes.set(xlabel="energy (low is compatible)", ylabel="share")
        axes.legend()
    return png.getvalue()


def enlarged(images: Tensor) -> int:
    """Says by what factor images are drawn: tiny ones are enlarged, as squares are hard to read."""
    return 6 if max(images.shape[-2:]) <= TINY else 1


def grid(axes: Axes, images: Tensor, low: float, high: float, columns: int | None = None) -> None:
    """Lays images (n, C, H, W) out in a grid, a pixel apart; tiny ones are enlarged smoothly."""
    if (gap := enlarged(images)) > 1:
        images = nn.functional.interpolate(images, scale_factor=gap, mode="bicubic")
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    sheet = torch.ones(math.ceil(n / columns) * columns, channels, height + gap, width + gap)
    sheet[:n, :, :height, :width] = ((images - low) / max(high - low, 1e-12)).clamp(0, 1)
    sheet = sheet.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    axes.imshow(sheet[:-gap, :-gap].expand(-1, -1, 3).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
