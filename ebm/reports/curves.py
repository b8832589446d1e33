"""What a report shows of training: everything that was logged, as curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ebm.figures import DATA, INK, SAMPLES, figure_of
from ebm.registry import hookimpl
from ebm.reports.section import Section
from ebm.runs.doctor import Curve
from ebm.runs.history import read_history
from ebm.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@hookimpl
def ebm_sections(run: Run) -> Iterator[Section]:
    """Draws what was logged: energies of data and samples, other terms, and validation."""
    history = read_history(run.path)
    train, validation, test = ({n: c for (s, n), c in history.items() if s == split} for split in ("train", "validation", "test"))
    for group in [name.removesuffix("energy_samples") for name in train if name.rpartition(".")[2] == "energy_samples"]:
        if {f"{group}energy_data", f"{group}energy_gap"} <= train.keys():
            with figure_of(9, 2.9) as (figure, png):
                left, right = figure.subplots(1, 2)
                for name, color in (("data", DATA), ("samples", SAMPLES)):
                    _curve(left, train.pop(f"{group}energy_{name}"), color, name)
                _curve(right, train.pop(f"{group}energy_gap"), INK)
                right.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
                left.set(title="mean energy", xlabel="training step")
                right.set(title="gap: data − samples", xlabel="training step")
                left.legend()
            yield Section(
                "Energy gap between data and samples" + (f" (objective {group.rstrip('.')})" if group else ""),
                "Left: both energies may drift together, since only their difference means something. "
                "Right: the gap hovers around zero while samples look like data to the energy. Far below "
                "zero the sampler lags behind the landscape; a gap that keeps growing is divergence.",
                png.getvalue(),
                place=90,
            )
    if len(set(train.get("lr", ([], []))[1])) == 1:
        del train["lr"]
    if train:
        yield Section(
            "Learning curves",
            "Pale: as logged, batch by batch. Dark: a running mean. An axis is logarithmic where its curve spans decades.",
            _panels(train),
            place=91,
        )
    if validation:
        yield Section(
            "Validation",
            "Measured on held-out data during training; the ring is the final value, on the test split.",
            _panels(validation, test),
            place=92,
        )


def _panels(curves: Mapping[str, Curve], final: Mapping[str, Curve] | None = None) -> bytes:
    rows = math.ceil(len(curves) / 3)
    with figure_of(9, 0.3 + 1.75 * rows) as (figure, png):
        for number, (name, curve) in enumerate(curves.items(), 1):
            axes = figure.add_subplot(rows, 3, number)
            _curve(axes, curve, DATA)
            axes.set(title=name, xlabel="training step" if number > len(curves) - 3 else "")
            if min(curve[1]) > 0 and max(curve[1]) > 100 * min(curve[1]):
                axes.set_yscale("log")
            if final and name in final:
                axes.plot(*final[name], "o", color=SAMPLES, fillstyle="none")
    return png.getvalue()


def _curve(axes: Axes, curve: Curve, color: str, label: str | None = None) -> None:
    """Draws a curve as logged, and its mean over a window of a fifteenth of it."""
    steps, values = curve
    window = np.ones(max(1, len(values) // 15))
    mean = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    axes.grid(axis="y", color="#e6e9ec", linewidth=0.7)
    axes.plot(steps, values, "o-" if len(values) < 15 else "-", color=color, alpha=0.3, linewidth=0.8, markersize=3)
    axes.plot(steps, mean, color=color, label=label)
    if max(map(abs, values)) > 1e3:  # an explosion: show when it began
        axes.set_yscale("symlog", linthresh=1)
        axes.locator_params(axis="y", numticks=6)
