"""The picture of a study: what was measured along the axis, and the estimates, with 95 % intervals."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ebm.figures import DATA, GREY, INK, NOISE, OTHER, SAMPLES, figure_of
from ebm.grids.readings import Compared, Reading
from ebm.grids.table import Table
from ebm.judging.seeds import over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MOST = 1e30  # what a curve shows at most, such as the perplexity of a model that knows nothing
THOUSAND = 1e3
FAR = 1e3  # how many times as much a ratio is drawn at, at most
COLORS = (SAMPLES, DATA, OTHER, INK, "#5a8f4e", "#8b5a9f", NOISE, GREY)


def picture(table: Table, reading: Reading) -> bytes:
    """Draws a table as a PNG: a panel for each metric, means over seeds with intervals; below one for each kind of estimate."""
    metrics = list(dict.fromkeys(row.metric for row in table.rows))
    whats = list(dict.fromkeys(each.what for each in reading.found))
    with figure_of(4.2 * max(len(metrics), len(whats)), 3.8 + 2.4 * bool(whats)) as (figure, png):
        places = figure.add_gridspec(2, 1, height_ratios=[3.8, 2.4]) if whats else figure.add_gridspec(1, 1)
        for axes, metric in zip(
            figure.add_subfigure(places[0]).subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
        ):
            _curves(axes, table, metric)
        if whats:
            for axes, what in zip(figure.add_subfigure(places[1]).subplots(1, len(whats), squeeze=False)[0], whats, strict=True):
                _estimates(axes, table, [each for each in reading.found if each.what == what])
    return png.getvalue()


def _estimates(axes: Axes, table: Table, found: Sequence[Compared]) -> None:
    for place, each in enumerate(reversed(found)):
        value, low, high = each.estimate[:3]
        if each.nothing > 0:  # of an exponent of next to nothing a ratio is off any page
            value, low, high = (min(max(end, 1 / FAR), FAR) for end in (value, low, high))
        if math.isfinite(each.estimate.high):
            axes.plot([low, high], [place, place], color=GREY)
        axes.plot([value], [place], "o", color=_color(table, each.arm), markersize=5)
    axes.axvline(found[0].nothing, color=NOISE, linewidth=0.8)
    axes.set_yticks(range(len(found)), [_named(each) for each in reversed(found)], fontsize=7)
    axes.set(title=_literal(found[0].what.rstrip(",")), ylim=(-0.6, len(found) - 0.4))
    if found[0].nothing > 0:  # ratios
        axes.set_xscale("log")
        _plain(axes.xaxis)


def _plain(axis: Axis) -> None:
    """Writes the numbers of a logarithmic axis as numbers, not as powers of ten, and as many as there is room for."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    few = MaxNLocator(6, steps=[1, 2, 5, 10])
    axis.set_major_locator(few if decades < 1 else LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep="") if low >= THOUSAND else "{x:g}")  # 20k, 3M
    axis.set_tick_params(labelsize=7)


def _color(table: Table, arm: str) -> str:
    return COLORS[[*table.grid.arms].index(arm) % len(COLORS)]


def _named(each: Compared) -> str:
    lines = [f"{each.arm}{f', {each.point}' if each.point else ''}", *([f"against {each.against}"] if each.against else [])]
    return _literal("\n".join(lines))


def _literal(text: str) -> str:
    """Has a person's words written as they are, and not read as mathematics."""
    return text.replace("$", r"\$")


def _curves(axes: Axes, table: Table, metric: str) -> None:
    grid = table.grid
    arms = [arm for arm in grid.arms if any(row.arm == arm and row.metric == metric for row in table.rows)]
    for number, arm in enumerate(arms):
        color = _color(table, arm)
        found = {p: v for p in table.points(arm) if (v := [min(value, MOST) for value in table.values(arm, p).values()])}
        x = [table.place(arm, p) + (0 if grid.axis else number) for p in found]
        ends = [over_seeds(values) for values in found.values()]
        for place, values, end in zip(x, found.values(), ends, strict=True):
            axes.plot([place] * len(values), values, ".", color=color, alpha=0.4, markersize=3)
            if math.isfinite(end.low):
                axes.plot([place, place], [end.low, end.high], color=color, linewidth=1)
        means = [end.value for end in ends]
        drawn = "--" if len({*means}) == 1 < len(means) else "o-"  # what does not change along the axis is beside it
        axes.plot(x, means, drawn, color=color, markersize=4, label=_literal(arm))
    axes.set(title=_literal(metric), xlabel=_literal(textwrap.fill(grid.axis.label, 48)) if grid.axis is not None else "")
    if grid.axis is None:
        axes.set_xticks([])
    else:
        places = {table.place(arm, point): point for arm in arms for point in table.points(arm)}
        if grid.axis.scale == "log":
            axes.set_xscale("log")
        if not isinstance(grid.axis.x, str) or not grid.axis.x:  # points are where they say
            axes.set_xticks([*places], [*map(_literal, places.values())], fontsize=7)
            axes.set_xticks([], minor=True)
        elif grid.axis.scale == "log":
            _plain(axes.xaxis)
    if grid.test.use == "power-law":
        axes.set_yscale("log")
        _plain(axes.yaxis)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
