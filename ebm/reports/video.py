"""What a report shows of videos: predicted frames, errors by horizon, surprise, and energies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from ebm.decoding.rollout import horizons, lacks, rollout, surprise
from ebm.figures import DATA, GREY, INK, NOISE, OTHER, SAMPLES, figure_of
from ebm.interfaces import Batch
from ebm.interfaces.abilities import DecodesFrames, Films, HoldsClips, lacking
from ebm.judging.ranking import rank_correlation
from ebm.randomness import stream
from ebm.registry import component, hookimpl
from ebm.reports.section import Section
from ebm.runs.run import Run
from ebm.tasks.video.tracks import Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OBSERVED, PREDICTED = 5, 8  # frames that a rollout sees, and that it predicts at most
CLIPS, WINDOWS = 3, 128  # clips that are shown, and windows that are measured
SCENE = 60  # frames of a clip that are scored
THUMBNAILS = 13
COVERAGES = np.linspace(0.1, 1, 91)
DECADES = 20  # an axis is logarithmic where the largest value is as many times the smallest one
NEARLY_ZERO = 1e-5  # of the median
NAMED = {"copy": NOISE, "linear": OTHER, "baseline": DATA, "run": SAMPLES}


class Lengths(NamedTuple):
    """How many frames of a window are observed, and how many are predicted."""

    observed: int
    predicted: int


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    """Draws predictions of held-out videos, how far ahead they are right, and their energies."""
    task: Any = run.task
    if lacking(task, Films):
        return
    if not lacks(run.thinker):
        predictors = {name: component("rival", name).factory(task) for name in ("copy", "linear")}
        if run.baseline is not None and not lacks(run.baseline.thinker):
            predictors["baseline"] = run.baseline.thinker
        predictors["run"] = run.thinker
        observed = min(OBSERVED, (task.context_length + 1) // 2)
        lengths = Lengths(observed, min(PREDICTED, task.context_length + 1 - observed))
        clips = not lacking(task, HoldsClips)
        if clips and task.decodes:
            yield _predicted_picture(run, task, predictors, lengths, seed)
        yield _horizon_picture(run, task, predictors, lengths, seed)
        if clips and not lacking(run.energy, DecodesFrames):
            yield _surprise_picture(run, task)
    yield from _error_pictures(run, task, seed)


def _spread(count: int, most: int) -> list[int]:
    """Chooses at most so many of `count` things, evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _clips(task: Any) -> list[Track]:
    tracks = task.tracks("test")
    return [tracks[index] for index in _spread(len(tracks), CLIPS)]


def _windows(run: Run, task: Any) -> Batch:
    loader = task.loader("test", 1)
    chosen = Subset(loader.dataset, _spread(len(loader.dataset), WINDOWS))
    return loader.collate_fn(chosen.__getitems__([*range(len(chosen))])).to(run.device)


def _settings(run: Run, task: Any, seed: int, what: str) -> dict[str, Any]:
    generator = stream(seed, what, device=run.device)
    return {"window": task.context_length, "start": getattr(task, "starts_at", "last-frame"), "generator": generator}


def _logarithmic(values: np.ndarray | Tensor) -> bool:
    return bool(values.min() > 0 and values.max() > DECADES * values.min())


def _lifted(values: np.ndarray) -> np.ndarray:
    """Lifts what is nearly zero, as in still scenes, which no logarithmic axis has a place for."""
    return values.clip(NEARLY_ZERO * np.median(values)) if values.min() >= 0 else values


def _liveliest(task: Any, track: Track, count: int) -> Tensor:
    """Finds the frames of a clip that change the most within a scene: (count, features)."""
    features, changes = task.scaled(track.window(0, 0, len(track))), track.changes()
    moved = features.diff(dim=0).square().mean(1).unfold(0, count - 1, 1).mean(1)
    cut = torch.from_numpy(changes[1:] > task.cut).unfold(0, count - 1, 1).any(1)
    begin = int(moved.masked_fill(cut, -1).argmax())
    return features[begin : begin + count]


def _predicted_picture(run: Run, task: Any, predictors: dict[str, Any], lengths: Lengths, seed: int) -> Section:
    """Draws a few windows: true frames, and below them the predicted ones."""
    observed, count = lengths.observed, sum(lengths)
    windows = torch.stack([_liveliest(task, track, count) for track in _clips(task)]).to(run.device)
    true = Batch(windows[:, observed:])
    rows = []
    for name in ("run", "baseline"):
        if name in predictors:
            how = _settings(run, task, seed, "predicted")
            y = rollout(predictors[name], windows[:, :observed], lengths.predicted, **how).frames
            rows.append((name, _shown(task, y), task.distance(y, true).tolist()))
    frames = _shown(task, windows)
    frames[:, :observed] = 1 - (1 - frames[:, :observed]) * 0.45  # pale: they are no prediction
    left, pitch, top = 1.15, 1.24, 0.38
    each = 1.04 + pitch * len(rows) + 0.16
    cell = min(1.0, 9.6 / (left + count + 0.1))
    wide, high = 9.6 / cell, top + each * len(windows)
    with figure_of(9.6, high * cell) as (figure, png):
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))

        def show(image: np.ndarray, column: float, row: float) -> None:
            axes.imshow(image, extent=(column, column + 0.95, row + 0.95, row), interpolation="bicubic")

        for text, column, color in (("observed", 0, GREY), ("predicted", observed, SAMPLES)):
            axes.text(column, top - 0.12, text, color=color, weight="bold")
        for place, window in enumerate(frames):
            down = top + each * place
            axes.text(-0.1, down + 0.48, "true", ha="right", va="center", color=INK)
            for column, image in enumerate(window):
                show(image, column, down)
            for line, (name, predicted, errors) in enumerate(rows):
                down = top + each * place + 1.04 + pitch * line
                axes.text(observed - 0.1, down + 0.48, name, ha="right", va="center", color=NAMED[name], weight="bold")
                axes.text(observed - 0.1, down + 1.07, "error", ha="right", va="center", color=GREY, size=7)
                for column, (image, error) in enumerate(zip(predicted[place], errors[place], strict=True), observed):
                    show(image, column, down)
                    axes.text(column + 0.475, down + 1.07, f"{error:.2g}", ha="center", va="center", color=GREY, size=7)
        axes.set(xlim=(-left, wide - left), ylim=(high, 0), aspect="equal")
        axes.set_axis_off()
    return Section(
        "Predicted frames",
        "Of a few held-out clips the frames that change the most. The pale ones were observed; "
        "each other one is predicted from those before it, predicted ones included. Look for "
        "motion that goes on as it truly does, and for frames that blur or stand still. Below each "
        "the error of its features.",
        png.getvalue(),
        place=20,
    )


def _shown(task: Any, features: Tensor) -> np.ndarray:
    """Decodes features (…, features) to pictures (…, size, size, 3)."""
    return task.decode(features).movedim(-3, -1).numpy()


def _horizon_picture(run: Run, task: Any, predictors: dict[str, Any], lengths: Lengths, seed: int) -> Section:
    """Draws errors by how far ahead a frame is, and how many times that of a copy they are."""
    batch = _windows(run, task)
    windows = torch.cat([batch.context[:, :1], batch.target], 1)[:, : sum(lengths)]
    found: dict[str, Tensor] = {}
    for name, predictor in predictors.items():
        how = _settings(run, task, seed, "horizon")
        errors = horizons(predictor, windows, lengths.observed, **how, distance=lambda y, true: task.distance(y, Batch(true)))
        found[name] = errors.double().cpu()
    means, copied = {name: errors.mean(0) for name, errors in found.items()}, found["copy"]
    with figure_of(9.6, 3.2) as (figure, png):
        left, right = figure.subplots(1, 2)
        for name, errors in found.items():
            _band(left, means[name], errors, name)
            if name != "copy":
                ratio = means[name] / means["copy"].clamp(1e-12)
                # By linearisation: whether windows are hard or easy cancels in the ratio.
                _band(right, ratio, (errors - ratio * copied) / means["copy"].clamp(1e-12), name)
        right.axhline(1, color=NOISE, linewidth=0.8, linestyle=(0, (4, 3)))
        for axes, title in ((left, f"error ({len(windows)} held-out windows)"), (right, "error, relative to copying")):
            axes.set(xlabel="frames ahead", title=title, xticks=range(1, lengths.predicted + 1))
        if _logarithmic(torch.stack([*means.values()])):
            left.set_yscale("log")
        else:
            left.set_ylim(bottom=0)
        models = [(means[name] / means["copy"].clamp(1e-12)).max().item() for name in found if name in ("run", "baseline")]
        right.set_ylim(0, 1.3 * max(1.0, *models))  # a linear rival's curve may go beyond
        left.legend()
    return Section(
        "How far ahead",
        "The error of rollouts by how far ahead a frame is (shaded: a standard error), beside "
        "copying the last frame and repeating the last change. Right: below the line at 1 a "
        "prediction is better than a copy; a curve that is missing there lies far above.",
        png.getvalue(),
        place=33,
    )


def _band(axes: Axes, mean: Tensor, values: Tensor, name: str) -> None:
    """Draws a curve with the standard error of values (windows, horizons) around it."""
    ahead, error = range(1, len(mean) + 1), values.std(0, correction=0) / len(values) ** 0.5
    axes.fill_between(ahead, (mean - error).numpy(), (mean + error).numpy(), color=NAMED[name], alpha=0.12, linewidth=0)
    axes.plot(ahead, mean.numpy(), "o-", color=NAMED[name], markersize=4, label=name)


def _surprise_picture(run: Run, task: Any) -> Section:
    """Draws the energies of true frames, clip by clip, above how much each frame changed."""
    scenes, cuts = list[Tensor](), list[int]()
    for track in _clips(task):
        first = sum(map(len, scenes))
        scene = task.scaled(track.window(0, 0, min(SCENE, len(track))))
        inside = np.flatnonzero(track.changes()[: len(scene)] > task.cut)
        cuts += [first + place for place in sorted({0, *inside.tolist()}) if first + place]
        scenes.append(scene)
    features = torch.cat(scenes)
    times = range(1, len(features))
    curves = {
        "energy": (surprise(run.energy, features.to(run.device), task.context_length), SAMPLES),
        "change": (features.diff(dim=0).square().mean(1), DATA),
    }
    decodes = task.decodes
    with figure_of(9.6, 3.6 + 0.7 * decodes) as (figure, png):
        *above, upper, lower = figure.subplots(2 + decodes, 1, sharex=True, height_ratios=[0.7] * decodes + [1.9, 1.3])
        for axes in above:
            _thumbnails(axes, task, features)
        for axes, (name, (found, color)) in zip((upper, lower), curves.items(), strict=True):
            values = _lifted(found.double().cpu().numpy())
            axes.plot(times, values, color=color)
            for place in cuts:
                axes.axvline(place, color=NOISE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
            axes.set_ylabel(name)
            if _logarithmic(values):
                axes.set_yscale("log")
        upper.set_title("energy of each true frame, given those before")
        lower.set_title("how much the frame differs from the last one (mean square)")
        lower.set(xlabel="frame", xlim=(0, len(features)))
    return Section(
        "Surprise",
        "Held-out clips one after the other: the energy of each true frame, given those before it. "
        "It should leap where a dashed line marks a change of scene, or something new comes in, "
        "and fall once that has been seen. An energy that follows the lower curve everywhere knows "
        "no more than how much has changed.",
        png.getvalue(),
        place=35,
    )


def _thumbnails(axes: Axes, task: Any, features: Tensor) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    width = len(features) / THUMBNAILS
    for place in range(THUMBNAILS):
        middle = (place + 0.5) * width
        image = _shown(task, features[int(middle)])
        box = OffsetImage(image, zoom=45 / len(image), interpolation="bicubic")
        axes.add_artist(AnnotationBbox(box, (middle, 0.5), xycoords=("data", "axes fraction"), frameon=False, pad=0))
    axes.set_axis_off()


def _error_pictures(run: Run, task: Any, seed: int) -> Iterator[Section]:
    """Draws energies over errors, and the error that is left where high energies are rejected."""
    batch = _windows(run, task)
    generator = stream(seed, "errors", device=run.device)
    with torch.no_grad():
        start = task.starts(run.thinker, batch, generator=generator)
        y, energy, *_ = run.thinker.predict(batch, start, generator=generator)
    if energy is None:
        return
    energy, error = energy.double().cpu(), task.distance(y, batch).double().cpu()
    value, low, high = rank_correlation(energy, error, seed=getattr(task, "seed", 0))
    x, values = error.flatten().numpy(), energy.flatten().numpy()
    with figure_of(9.6, 3.4) as (figure, png):
        left, right = figure.subplots(1, 2)
        first = np.arange(len(x)) % error.shape[1] == 0
        shown, height = _lifted(x), _lifted(values)
        left.scatter(shown[~first], height[~first], s=6, color=INK, alpha=0.3, linewidths=0)
        left.scatter(shown[first], height[first], s=10, facecolors="none", edgecolors=NOISE, linewidths=0.8)
        left.set(title=f"rank correlation {value:.2f} [{low:.2f}, {high:.2f}]", xlabel="error", ylabel="energy")
        for scale, of in ((left.set_xscale, shown), (left.set_yscale, height)):
            if _logarithmic(of):
                scale("log")
        for name, order, color in (("lowest energies", values, SAMPLES), ("lowest errors (ideal)", x, NOISE)):
            right.plot(100 * COVERAGES, _risk(x, order), color=color, label=name)
        right.axhline(x.mean(), color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="any (random)")
        right.set(title="mean error of the frames that are kept", xlabel="share of frames kept (%)", xlim=(8, 102))
        right.set_ylim(bottom=0)
        right.legend(title="kept", alignment="left")
    yield Section(
        "Does the energy know?",
        "Left: each dot is a predicted frame; rings are the first of their windows, of which a "
        "single frame was seen; what is nearly zero is drawn at the edge. The higher the rank "
        "correlation (in brackets its 95 % interval), the better an energy tells how wrong a "
        "prediction is. Right: the error of what is left where predictions of high energy are "
        "rejected. It should fall to the left, from the dashed line (rejected at random) "
        "towards the grey one (rejected by true error).",
        png.getvalue(),
        place=36,
    )


def _risk(errors: np.ndarray, order: np.ndarray) -> Sequence[float]:
    """Computes the mean error of the first frames in an order, for each coverage."""
    means = errors[np.argsort(order, kind="stable")].cumsum() / np.arange(1, len(errors) + 1)
    return means[np.ceil(COVERAGES * len(errors)).astype(int).clip(1, len(errors)) - 1].tolist()
