"""What a report shows of thinking: the headline metric by steps, candidates and splits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ebm.figures import DATA, GREY, INK, NOISE, OTHER, SAMPLES, figure_of
from ebm.interfaces import check_steps
from ebm.registry import hookimpl
from ebm.reports.section import Section
from ebm.runs.run import Run
from ebm.studies.findings import Finding
from ebm.studies.thinking import headline_of, read_findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@hookimpl
def ebm_sections(run: Run) -> Iterator[Section]:
    """Draws the headline by steps and candidates beside the baseline's, and on every split."""
    found = read_findings(run.path)
    headline = headline_of(run, found)
    main = [finding for finding in found if finding.name == headline]
    splits = list(dict.fromkeys(finding.split for finding in main if finding.who == "run"))
    if not splits or any(finding.choice for finding in found):
        return  # nothing was asked, or answers are right or wrong, which reports/answers.py shows
    yield _thinking_picture(run, headline, main, [f for f in found if f.name == "energy" and f.who == "run"], splits[0])
    if len(splits) > 1:
        yield _splits_picture(headline, main, splits)


def _thinking_picture(run: Run, headline: str, main: Sequence[Finding], energy: Sequence[Finding], split: str) -> Section:
    flat = [f.value for f in main if f.who == "baseline" and f.split == split]
    rivals = {f.who: f.value for f in main if f.who not in ("run", "baseline") and f.split == split}
    with figure_of(9.6, 3.0) as (figure, png):
        several = any(f.candidates > 1 for f in main)
        left, *more = figure.subplots(1, 1 + several + bool(energy), squeeze=False)[0]
        steps = {f.steps: f.value for f in main if f.who == "run" and f.split == split and f.candidates == 1}
        own = check_steps(run.sampler.steps)[1]
        starts = {1: steps[own]} | {f.candidates: f.value for f in main if f.who == "run" and f.candidates > 1}
        curves = [(left, steps, "thinking steps per landscape"), *((axes, starts, "candidates") for axes in more[:several])]
        for axes, curve, label in curves:
            axes.plot(list(curve), list(curve.values()), "o-", color=SAMPLES, label="thinking", markersize=4)
            for rival, value in rivals.items():
                axes.axhline(value, color=NOISE, linewidth=0.8)
                axes.annotate(rival, (0, value), xycoords=("axes fraction", "data"), color=GREY, fontsize=7, va="bottom")
            if flat:
                axes.axhline(flat[-1], color=DATA, linestyle=(0, (4, 3)), label="baseline")
            axes.set(xlabel=label, xticks=list(curve), title=headline if axes is left else "")
            axes.ticklabel_format(axis="y", useOffset=False)
        left.axvline(own, color=NOISE, linewidth=0.8)
        left.legend()
        if energy:
            by_step = {f.steps: f.value for f in energy if f.split == split and f.candidates == 1}
            more[-1].plot(list(by_step), list(by_step.values()), "o-", color=INK, markersize=4)
            more[-1].set(xlabel="thinking steps per landscape", title="mean energy where thinking ends", xticks=list(by_step))
    return Section(
        "What thinking buys",
        f"Left: the {headline} after so many steps; the thin line marks the steps that training took, and "
        "beyond it thinking should not make things worse. In the middle, where candidates were "
        "tried: of several random starts the end of lowest energy is kept. The dashed line is the "
        "feed-forward baseline, trained on the same data; grey lines are methods without training. "
        "Right: thinking should lower the energy." + adaptive(headline, run),
        png.getvalue(),
        place=30,
    )


def _splits_picture(headline: str, main: Sequence[Finding], splits: Sequence[str]) -> Section:
    """Draws how far each split's headline is from one step's value, and from the baseline's."""
    with figure_of(9.6, 2.8) as (figure, png):
        left, right = figure.subplots(1, 2)
        for axes, against in ((left, "one step"), (right, "the baseline")):
            if any(f.who == "baseline" for f in main) or against == "one step":
                _gains(axes, headline, main, splits, against)
    return Section(
        "In and out of distribution",
        "How much lower the loss is than after one step (left), and than the baseline's (right), "
        "on held-out data and on data of other kinds. The paper finds that thinking helps more "
        "where data are less familiar.",
        png.getvalue(),
        place=31,
    )


def _gains(axes: Axes, headline: str, main: Sequence[Finding], splits: Sequence[str], against: str) -> None:
    for split, color in zip(splits, (DATA, SAMPLES, INK, OTHER, NOISE), strict=False):
        curve = {f.steps: f.value for f in main if (f.who, f.split, f.candidates) == ("run", split, 1)}
        flat = [f.value for f in main if (f.who, f.split) == ("baseline", split)]
        base = (flat or [math.nan])[-1] if against == "the baseline" else curve[min(curve)]
        gain = {step: 100 * (value - base) / abs(base) if base else math.nan for step, value in sorted(curve.items())}
        axes.plot(list(gain), list(gain.values()), "o-", color=color, label=split, markersize=4)
    axes.axhline(0, color=NOISE, linewidth=0.8)
    axes.set(xlabel="thinking steps per landscape", title=f"{headline}, relative to {against} (%)", xticks=list(gain))
    axes.legend()


def adaptive(headline: str, run: Run) -> str:
    """Says what adaptive stopping found, where it was studied."""
    # reversed, so that the first split, in distribution, is what remains
    found = {f.name: f for f in reversed(read_findings(run.path)) if f.name.endswith("_adaptive")}
    if f"{headline}_adaptive" not in found or "steps_adaptive" not in found:
        return ""
    best, steps = found[f"{headline}_adaptive"], found["steps_adaptive"]
    return (
        f" Stopping each chain once its energy falls no further, at most {steps.steps} steps per landscape: "
        f"{steps.value:.2f} steps on average, and a {headline} of {best.value:.4f}."
    )
