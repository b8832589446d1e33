"""Where a denoising run helps and where it harms: what it does to held-out photographs, by their noise."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any, NamedTuple

from ebm.figures import DATA, GREY, NOISE, OTHER, SAMPLES, figure_of
from ebm.interfaces import Paced
from ebm.interfaces.abilities import HoldsPhotographs, lacking
from ebm.registry import hookimpl
from ebm.reports.section import Section, html_table
from ebm.reports.views import View, psnr, restored, views_of
from ebm.runs.run import Run
from ebm.studies.restoring import Untouched, beyond_training, estimated
from ebm.tasks.images.noising import AdditiveNoise
from ebm.thinking import Thinker

PICTURES = 8  # held-out photographs that are restored at each noise, at most
SIGMAS = (1, 3, 5, 10, 15, 25, 50, 75, 100)  # additive noise that they get, in grey levels of 255
OF_SCHEDULES = (3, 10, 25, 50, 100)  # the same, of a schedule: the steps that are nearest
FELT = 0.05  # decibels that a picture gains or loses at least where it counts as helped or harmed
TOLD, ESTIMATED, BASELINE = "told the noise", "estimating it", "baseline, told"
COLORS = {TOLD: SAMPLES, ESTIMATED: OTHER, BASELINE: DATA}


class Outcome(NamedTuple):
    """What becomes of photographs with one noise."""

    sigma: float  # the noise's deviation, in grey levels of 255, beside a picture as bright as it is
    noisy: float  # the noisy photographs' mean PSNR, in decibels
    gains: Mapping[str, Sequence[float]]  # by who restores: each photograph's gain in decibels; NaN where it ran away


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    """Says and draws by how much a denoising run makes photographs better or worse at each noise."""
    task: Any = run.task
    if lacking(task, HoldsPhotographs):
        return
    found = outcomes(run, seed)
    low, high = (_sigma(task, step) for step in task.noise_step)
    sentences = " ".join(in_words(found, who) for who in found[0].gains)
    picture = base64.b64encode(_drawn(found, low, high)).decode()
    body = f'<p>{escape(sentences)}</p>\n<img alt="gain by noise" src="data:image/png;base64,{picture}">\n'
    count = len(found[0].gains[TOLD])
    yield Section(
        "Where it helps and where it harms",
        f"What the run does to the middles of {count} held-out photograph{'s' * (count > 1)}, by the noise that "
        "they got, in grey levels of 255: decibels that a photograph gains (PSNR), mean and worst, and "
        f"how many photographs lose at least {FELT} dB. Shaded: the noise of training."
        + (" The baseline takes as many steps." if BASELINE in found[0].gains else ""),
        body + _table(found),
        place=12,
    )


def outcomes(run: Run, seed: int, pictures: int = PICTURES) -> list[Outcome]:
    """Restores held-out photographs at each noise, as `ebm denoise` does, and by the baseline as often."""
    task: Any = run.task
    additive, found = isinstance(task.schedule, AdditiveNoise), []
    for step in _steps(task):
        split = f"sigma-{_sigma(task, step):g}" if additive else f"step-{step}"
        gains: dict[str, list[float]] = {}
        before = []
        for view in views_of(run, task, split, pictures):
            noisy = psnr(view.noisy / task.schedule.signal[step].item(), view.clean)
            before.append(noisy)
            reached, taken = _by_run(run, task, view, step, seed)
            gains.setdefault(TOLD, []).append(reached - noisy)
            if additive and task.noise_step[0] < task.noise_step[1]:
                std = min(estimated(run.thinker, view.noisy), task.schedule.std[-1].item())
                gains.setdefault(ESTIMATED, []).append(_believing(run, task, view, std, seed) - noisy)
            if run.baseline is not None:
                gains.setdefault(BASELINE, []).append(_psnr(task, _as_often(run.baseline, taken), view, step, seed)[0] - noisy)
        found.append(Outcome(_sigma(task, step), fmean(before), gains))
    return found


def in_words(found: Sequence[Outcome], who: str) -> str:
    """Says in a sentence where somebody helps and where they harm.

    >>> told = [(1.0, [-0.2, 0.1]), (3.0, [0.5, 1.0]), (5.0, [2.0, 2.5]), (10.0, [0.0, 0.0])]
    >>> in_words([Outcome(sigma, 30.0, {"told": gains}) for sigma, gains in told], "told")
    'Told, it helps at σ 3 and 5; at σ 1 it harms 1 of 2 photographs, by 0.2 dB at most; at σ 10 it changes little.'
    """
    helped, little, harmed = list[str](), list[str](), list[str]()
    for outcome in found:
        gains, level = outcome.gains[who], f"{outcome.sigma:.3g}"
        lost = [-gain for gain in gains if not gain > -FELT]
        if lost:
            most = "and runs away" if any(map(math.isnan, lost)) else f"by {max(lost):.1f} dB at most"
            harmed.append(f"at σ {level} it harms {len(lost)} of {len(gains)} photograph{'s' * (len(gains) > 1)}, {most}")
        else:
            (helped if fmean(gains) >= FELT else little).append(level)
    said = [f"it helps at σ {_listed(helped, found)}"] if helped else ["it helps nowhere"]
    said += [*harmed, *([f"at σ {_listed(little, found)} it changes little"] if little else [])]
    return f"{who.capitalize()}, {'; '.join(said)}."


def _listed(levels: Sequence[str], found: Sequence[Outcome]) -> str:
    """Lists levels, and those that follow one another as a range."""
    order = [f"{outcome.sigma:.3g}" for outcome in found]
    spans: list[list[str]] = []
    for level in levels:
        if spans and order.index(level) == order.index(spans[-1][-1]) + 1:
            spans[-1].append(level)
        else:
            spans.append([level])
    parts = [part for span in spans for part in ([f"{span[0]} to {span[-1]}"] if len(span) > 2 else span)]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _steps(task: Any) -> list[int]:
    """Lists the steps of the noise that photographs get."""
    schedule = task.schedule
    if isinstance(schedule, AdditiveNoise):
        return [schedule.step_of(sigma / 127.5) for sigma in SIGMAS]
    stds = (sigma / 127.5 / math.hypot(1, sigma / 127.5) for sigma in OF_SCHEDULES)  # signal² + std² = 1
    low, high = schedule.std[0].item(), schedule.std[-1].item()
    return list(dict.fromkeys(schedule.step_of(min(max(std, low), high)) for std in stds))


def _sigma(task: Any, step: int) -> float:
    """Returns the deviation of a step's noise in grey levels, beside a signal of 1."""
    return 127.5 * task.schedule.std[step].item() / task.schedule.signal[step].item()


def _by_run(run: Run, task: Any, view: View, step: int, seed: int) -> tuple[float, int]:
    """Restores a view by the run, which believes that its noise has a step: the PSNR, and steps taken."""
    beyond = beyond_training(run) if step > task.noise_step[1] else None
    return _psnr(task, beyond or _one_pass(run.thinker), view, step, seed)


def _believing(run: Run, task: Any, view: View, std: float, seed: int) -> float:
    """Restores a view by the run, which believes that its noise has a deviation: the PSNR."""
    step = task.schedule.step_of(std)
    if task.schedule.std[step] == 0:
        return _psnr(task, Untouched(), view, step, seed)[0]
    return _by_run(run, task, view, step, seed)[0]


def _psnr(task: Any, predictor: Any, view: View, step: int, seed: int) -> tuple[float, int]:
    """Restores a view whose noise is said to have a step: its PSNR (NaN where it ran away), and steps taken."""
    found = restored(task, predictor, view._replace(step=step), seed)
    taken = 1 if found.steps is None or math.isnan(found.steps) else max(1, round(found.steps))
    return psnr(found.image, view.clean), taken


def _one_pass(predictor: Any) -> Any:
    """A diffusion model predicts best in one pass, which is also what it has beside an energy's step."""
    return predictor.at(1) if isinstance(predictor, Paced) else predictor


def _as_often(baseline: Run, steps: int) -> Any:
    """Makes the predictor of a baseline that is applied so many times."""
    predictor = baseline.thinker
    if isinstance(predictor, Paced):
        return predictor.at(steps)
    return Thinker(baseline.energy, baseline.sampler, steps=steps) if isinstance(predictor, Thinker) else predictor


def _table(found: Sequence[Outcome]) -> str:
    columns = ["σ", "noisy, dB"]
    for who in found[0].gains:
        columns += [f"{who}: gain", "worst", "harmed"]
    rows = []
    for outcome in found:
        row = [f"{outcome.sigma:.3g}", f"{outcome.noisy:.1f}"]
        for gains in outcome.gains.values():
            harmed = sum(not gain > -FELT for gain in gains)
            ran = any(map(math.isnan, gains))
            numbers = ["ran away"] * 2 if ran else [f"{fmean(gains):+.1f}", f"{min(gains):+.1f}"]
            row += [*numbers, f"{harmed} of {len(gains)}"]
        rows.append(row)
    return html_table(columns, rows)


def _drawn(found: Sequence[Outcome], low: float, high: float) -> bytes:
    """Draws each photograph's gain over the noise, and the means; noise of training lies from low to high."""
    with figure_of(9.6, 2.8) as (figure, png):
        axes = figure.subplots()
        places = range(len(found))
        inside = [place for place, outcome in zip(places, found, strict=True) if low - 0.5 <= outcome.sigma <= high + 0.5]
        if inside:
            axes.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color=NOISE, alpha=0.2, linewidth=0)
        axes.axhline(0, color=GREY, linewidth=0.8)
        shifts = {who: 0.16 * (number - (len(found[0].gains) - 1) / 2) for number, who in enumerate(found[0].gains)}
        for who, shift in shifts.items():
            points = [(place + shift, gain) for place, outcome in zip(places, found, strict=True) for gain in outcome.gains[who]]
            axes.plot(*zip(*points, strict=True), "o", color=COLORS[who], markersize=2.5, alpha=0.5, markeredgewidth=0)
            means = [fmean(outcome.gains[who]) for outcome in found]
            axes.plot([place + shift for place in places], means, "_", color=COLORS[who], markersize=11, label=who)
        axes.set_xticks(list(places), [f"{outcome.sigma:.3g}" for outcome in found])
        axes.set(xlabel="standard deviation of the noise, grey levels of 255", title="gain over the noisy photograph, dB")
        axes.legend(loc="upper left", ncols=len(shifts))
    return png.getvalue()
