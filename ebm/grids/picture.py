"""The picture of a study: what was measured along the axis, and the estimates, with 95 % intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ebm.figures import DATA, GREY, INK, NOISE, OTHER, SAMPLES, figure_of
from ebm.grids.readings import Compared, Reading
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
        last.set_yticks(range(len(shown)), [_named(each) for each in reversed(shown)], fontsize=7)
        last.set(
            title="estimates, 95 %", xlabel=", ".join(dict.fromkeys(each.what for each in shown)), ylim=(-0.6, len(shown) - 0.4)
        )
        if shown and shown[0].nothing > 0:  # ratios
            last.set_xscale("log")
    return png.getvalue()


def _named(each: Compared) -> str:
    return "\n".join(
        [f"{each.arm}{f', {each.point}' if each.point else ''}", *([f"against {each.against}"] if each.against else [])]
    )


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
    else:
        places = {table.place(arm, point): point for arm in arms for point in table.points(arm)}
        if grid.axis.scale == "log":
            axes.set_xscale("log")
        if not isinstance(grid.axis.x, str) or not grid.axis.x:  # points are where they say
            axes.set_xticks([*places], [*places.values()], fontsize=7)
            axes.set_xticks([], minor=True)
    if grid.test["use"] == "power-law":
        axes.set_yscale("log")
    axes.legend(fontsize=7)
