"""The picture of a study: what was measured along the axis, and the estimates, with 95 % intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ebm.figures import DATA, GREY, INK, NOISE, OTHER, SAMPLES, figure_of
from ebm.grids.readings import Reading
from ebm.grids.table import Table
from ebm.judging.seeds import over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (SAMPLES, DATA, OTHER, INK, "#5a8f4e", "#8b5a9f", NOISE, GREY)


def picture(table: Table, reading: Reading) -> bytes:
    """Draws a table as a PNG: a panel for each metric, means over seeds with intervals; then the estimates."""
    grid = table.grid
    metrics = list(dict.fromkeys(row.metric for row in table.rows))
    with figure_of(3.4 * (len(metrics) + 1) + 0.8, 3.2) as (figure, png):
        *panels, last = figure.subplots(1, len(metrics) + 1, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _curves(axes, table, metric)
        shown = [each for each in reading.found if math.isfinite(each.estimate.value)]
        for place, each in enumerate(reversed(shown)):
            value, low, high = each.estimate[:3]
            if math.isfinite(low):
                last.plot([low, high], [place, place], color=GREY)
            last.plot([value], [place], "o", color=COLORS[[*grid.arms].index(each.arm) % len(COLORS)], markersize=5)
        if shown:
            last.axvline(shown[0].nothing, color=NOISE, linewidth=0.8)
        last.set_yticks(range(len(shown)), [f"{e.arm}{f', {e.point}' if e.point else ''}" for e in reversed(shown)], fontsize=7)
        last.set(title="against another arm, 95 %" if any(e.against for e in shown) else "estimates, 95 %")
    return png.getvalue()


def _curves(axes: Axes, table: Table, metric: str) -> None:
    grid = table.grid
    arms = [arm for arm in grid.arms if any(row.arm == arm and row.metric == metric for row in table.rows)]
    for number, arm in enumerate(arms):
        color = COLORS[[*grid.arms].index(arm) % len(COLORS)]
        found = {p: v for p in table.points(arm) if (v := [*table.values(arm, p).values()])}
        x = [table.place(arm, p) + (0 if grid.axis else number) for p in found]
        ends = [over_seeds(values) for values in found.values()]
        for place, values, end in zip(x, found.values(), ends, strict=True):
            axes.plot([place] * len(values), values, ".", color=color, alpha=0.4, markersize=3)
            if math.isfinite(end.low):
                axes.plot([place, place], [end.low, end.high], color=color, linewidth=1)
        axes.plot(x, [end.value for end in ends], "o-", color=color, markersize=4, label=arm)
    axes.set(title=metric, xlabel=grid.axis.label if grid.axis is not None else "")
    if grid.axis is None:
        axes.set_xticks([])
    elif grid.axis.scale == "log":
        axes.set_xscale("log")
    if grid.test["use"] == "power-law":
        axes.set_yscale("log")
    axes.legend(fontsize=7)
