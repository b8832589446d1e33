"""What a report shows of denoising: photographs, what thinking buys, and what energies know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ebm.figures import DATA, GREY, INK, NOISE, OTHER, SAMPLES, figure_of, histogram
from ebm.interfaces import Batch, FeedForward, Paced, ScoresPatches, check_steps, eval_mode, landscapes
from ebm.interfaces.abilities import HoldsPhotographs, lacking
from ebm.randomness import stream
from ebm.registry import hookimpl
from ebm.reports.section import Section
from ebm.reports.views import View, psnr, restored, show, views_of
from ebm.runs.run import Run
from ebm.studies.thinking import read_findings
from ebm.tasks.images.corruptions import CORRUPTIONS
from ebm.tasks.images.tiling import patch_scores
from ebm.thinking import Thinker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST, PASSES = 8, 10  # thinking steps that are followed, and passes that a diffusion model takes at most
OF_NOISE = ("step-", "sigma-")  # how the splits of other noise begin
OTHER_STEP = 199  # the other noise that is shown where a recipe studies none
TICKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)

Found = Mapping[tuple[str, str, int, str], float]  # (who, split, steps, name) -> value, of one candidate


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    """Draws what a denoising run does: photographs, findings about thinking, and energies."""
    task: Any = run.task
    if lacking(task, HoldsPhotographs):
        return
    found = {(f.who, f.split, f.steps, f.name): f.value for f in read_findings(run.path) if f.candidates == 1}
    splits = list(dict.fromkeys(split for _, split, _, name in found if name == "psnr"))
    usual, other = (views_of(run, task, split) for split in ("test", _other_split(run, task)))
    yield _denoised_picture(run, task, usual, other[0], seed)
    yield from _findings_pictures(run, task, found, splits)
    if not isinstance(run.energy, FeedForward):
        yield _steps_picture(run, task, usual, other, seed)
        yield from _map_pictures(run, task, usual[0], seed)
        yield _energies_picture(run, task, usual, seed)


def _other_split(run: Run, task: Any) -> str:
    studied = run.recipe.get("thinking", {}).get("splits", ())
    return next((split for split in studied if split.startswith(OF_NOISE)), f"step-{min(OTHER_STEP, task.schedule.steps - 1)}")


def _batch(task: Any, views: Sequence[View], every: int = 1) -> Batch:
    """Cuts views into tiles that lie side by side, and takes one of `every`."""

    def tiles(image: Tensor) -> Tensor:
        height, width = (size // task.tile * task.tile for size in image.shape[1:])
        return rearrange(image[:, :height, :width], "c (h p) (w q) -> (h w) c p q", p=task.tile, q=task.tile)[::every]

    clean, noisy = torch.cat([tiles(view.clean) for view in views]), torch.cat([tiles(view.noisy) for view in views])
    return Batch(clean, task.schedule.seen(noisy, torch.full((len(noisy),), views[0].step, device=noisy.device)))


def _denoised_picture(run: Run, task: Any, usual: Sequence[View], other: View, seed: int) -> Section:
    """Draws photographs from noisy to clean, and one again at another noise."""
    baseline = run.baseline
    rows = [[("noisy", view.noisy), *_restored(run, baseline, task, view, seed), ("clean", view.clean)] for view in usual]
    rows.append([("noisy", other.noisy), *_restored(run, baseline, task, other, seed, adaptive=True), ("clean", other.clean)])
    with figure_of(9.6, 0.2 + len(rows) * (9.6 / len(rows[0]) + 0.25)) as (figure, png):
        views = [*usual, other]
        for number, (line, row, view) in enumerate(zip(figure.subplots(len(rows), len(rows[0])), rows, views, strict=True)):
            for axes, (title, image) in zip(line, row, strict=True):
                show(axes, image)
                axes.set_title(title if number in (0, len(usual)) else "")
                axes.set_xlabel("" if title == "clean" else f"{psnr(image, view.clean):.2f} dB")
            std = task.schedule.std[view.step].item()
            line[0].set_ylabel(f"{_known(task, std)} noise, std {std:.2f}")
    return Section(
        "Denoised photographs",
        "The middle of held-out photographs, and the first once more at another noise, where each "
        "tile thinks until its energy falls no further. Below each its peak signal-to-noise ratio "
        "(PSNR): 1 dB more is a fifth less error.",
        png.getvalue(),
        place=20,
    )


def _restored(
    run: Run, baseline: Run | None, task: Any, view: View, seed: int, adaptive: bool = False
) -> list[tuple[str, Tensor]]:
    """Restores a view in several ways: (what was done, picture)."""
    if isinstance(run.energy, FeedForward):
        return [("denoised", restored(task, _affordable(run.thinker), view, seed).image)]
    more, columns = max(2, check_steps(run.sampler.steps)[1]), []
    columns.append(("after 1 step", restored(task, Thinker(run.energy, run.sampler, steps=1), view, seed).image))
    if adaptive:
        how = run.recipe.get("thinking", {})
        stops = {"patience": how.get("patience") or 1, "tolerance": how.get("tolerance", 0.0), "familiar": how.get("familiar")}
        stopping = Thinker(run.energy, run.sampler, steps=max(more, *how.get("steps", ()), LONGEST), **stops)
        thought = restored(task, stopping, view, seed)
        columns.append((f"adaptive, {thought.steps:.1f} steps", thought.image))
    else:
        thinker = Thinker(run.energy, run.sampler, steps=more)
        columns.append((f"after {more} steps", restored(task, thinker, view, seed).image))
    if baseline is not None:
        found = restored(task, _affordable(baseline.thinker), view, seed)
        columns.append((f"baseline, {found.evaluations} pass{'es' * (found.evaluations > 1)}", found.image))
    return columns


def _affordable(predictor: Any) -> Any:
    return predictor.at(min(PASSES, getattr(predictor, "passes", PASSES))) if isinstance(predictor, Paced) else predictor


def _findings_pictures(run: Run, task: Any, found: Found, splits: Sequence[str]) -> list[Section]:
    gaussian = [split for split in splits if split == "test" or split.startswith(OF_NOISE)]
    if not any(_curve(found, "run", split) for split in gaussian):
        return []
    drawn = [_passes_picture(run, task, found, gaussian[:2])]
    corrupted = [split for split in splits if split in CORRUPTIONS]
    if len(gaussian) > 1 or corrupted:
        drawn.append(_levels_picture(run, task, found, gaussian, corrupted))
    return drawn


def _curve(found: Found, who: str, split: str, name: str = "psnr") -> dict[int, float]:
    return dict(sorted((steps, value) for (w, s, steps, n), value in found.items() if (w, s, n) == (who, split, name)))


def _last(found: Found, who: str, split: str, name: str = "psnr") -> float | None:
    return next(reversed(_curve(found, who, split, name).values()), None)


def _rivals(found: Found) -> list[str]:
    return list(dict.fromkeys(who for who, *_ in found if who not in ("run", "baseline")))


def _std(task: Any, split: str) -> float:
    kind, _, number = split.partition("-")
    if kind == "sigma":
        return float(number) / 127.5
    step = getattr(task, "judged_step", task.noise_step[1]) if split == "test" else int(number)
    return task.schedule.std[step].item()


def _known(task: Any, std: float) -> str:
    """Tells whether noise of a deviation was trained on."""
    low, high = (task.schedule.std[step].item() for step in task.noise_step)
    return "trained" if low <= std <= high else "other"


def _passes_picture(run: Run, task: Any, found: Found, splits: Sequence[str]) -> Section:
    own = check_steps(run.sampler.steps)[1]
    with figure_of(9.6, 3.2) as (figure, png):
        for axes, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
            names, most = [], 1.0
            for who, name, color in (("baseline", "baseline", DATA), ("run", "thinking", SAMPLES)):
                psnr, passes = _curve(found, who, split), _curve(found, who, split, "evaluations")
                points = [(passes[steps], value) for steps, value in psnr.items() if steps in passes]
                if points:
                    axes.plot(*zip(*points, strict=True), "o-", color=color, markersize=4, zorder=3)
                    names.append((points[-1][1], name, color))
                    most = max(most, *(count for count, _ in points))
                if who == "run" and own in psnr and own in passes:
                    axes.plot(passes[own], psnr[own], "o", color=color, markersize=10, fillstyle="none")
            for name in _rivals(found):
                if (value := _last(found, name, split)) is not None:
                    names.append((value, name, GREY))
                    axes.axhline(value, color=NOISE, linewidth=0.8)
            if (value := _last(found, "run", split, "noisy_psnr")) is not None:
                names.append((value, "noisy", GREY))
                axes.axhline(value, color=NOISE, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set(xscale="log", xlim=(0.8, 1.25 * most), xlabel="forward passes of a tile")
            axes.set_xticks([tick for tick in TICKS if tick <= most], [str(tick) for tick in TICKS if tick <= most])
            axes.set_xticks([], minor=True)
            std = _std(task, split)
            axes.set_title(
                f"PSNR (dB) at {'the' * (split == 'test')} {_known(task, std)} noise, std {std:.2f}".replace("  ", " ")
            )
            _name(axes, names)
    return Section(
        "What a forward pass buys",
        "How near restored photographs come to the clean ones (higher is better) by the work that "
        "a tile takes. Thinking takes a pass a step, which here also goes backwards, and one more "
        "to score the end; the ring has as many steps as training. Grey: denoisers without a "
        "model, told how strong the noise is, and the noisy photographs themselves.",
        png.getvalue(),
        place=33,
    )


def _levels_picture(run: Run, task: Any, found: Found, gaussian: Sequence[str], corrupted: Sequence[str]) -> Section:
    """Draws the quality by the noise's strength, and of other corruptions."""
    own, gaussian = check_steps(run.sampler.steps)[1], sorted(gaussian, key=lambda split: _std(task, split))
    splits = [*gaussian, *corrupted]
    best = {split: max(curve, key=curve.__getitem__) for split in splits if (curve := _curve(found, "run", split))}
    curves: dict[str, tuple[dict[str, float | None], dict[str, Any]]] = {}
    for who in _rivals(found):
        curves[who] = {split: _last(found, who, split) for split in splits}, {"color": NOISE, "linewidth": 0.8}
    noisy = {split: _last(found, "run", split, "noisy_psnr") for split in splits}
    curves["noisy"] = noisy, {"color": NOISE, "linewidth": 0.8, "linestyle": (0, (4, 3))}
    base = {split: _last(found, "baseline", split) for split in splits}
    curves["baseline"] = base, {"color": DATA, "marker": "o"}
    fixed = {split: found["run", split, steps, "psnr"] for split, steps in best.items()}
    curves["best fixed steps"] = {split: fixed.get(split) for split in splits}, {"color": OTHER, "marker": "o"}
    stopped = {split: _last(found, "run", split, "psnr_adaptive") for split in splits}
    curves["adaptive steps"] = stopped, {"color": INK, "marker": "o", "linestyle": (0, (1, 1))}
    usual = {split: found.get(("run", split, own, "psnr")) for split in splits}
    curves[f"{own} step{'s' * (own > 1)}, as trained"] = usual, {"color": SAMPLES, "marker": "o"}
    with figure_of(9.6, 3.6) as (figure, png):
        ratios = [3, 2] if corrupted else [1]
        left, *more = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
        names = []
        for name, (values, how) in curves.items():
            points = [(_std(task, split), value) for split in gaussian if (value := values[split]) is not None]
            if points:
                left.plot(*zip(*points, strict=True), markersize=4, **how)
                names.append((points[-1][1], name, GREY if how["color"] == NOISE else how["color"]))
        for split, steps in best.items():
            if split in gaussian:
                where = (_std(task, split), fixed[split])
                left.annotate(str(steps), where, (0, 5), textcoords="offset points", ha="center", color=OTHER, fontsize=8)
        low, high = (task.schedule.std[step].item() for step in task.noise_step)
        left.axvspan(low, high, color=NOISE, alpha=0.2, linewidth=0)
        left.axvline(high, color=NOISE, linewidth=0.8)
        left.set(title="PSNR (dB) by the noise", xlabel="standard deviation of the noise, pixels in [−1, 1]")
        _name(left, names)
        for axes in more:
            for name, (values, how) in curves.items():
                points = [(value, row) for row, split in enumerate(corrupted) if (value := values[split]) is not None]
                if points:
                    small = {"marker": "|", "markersize": 11} if name == "noisy" else {"marker": "o"}
                    axes.plot(*zip(*points, strict=True), linestyle="", **{"markersize": 5, **small}, color=how["color"])
            axes.set(yticks=range(len(corrupted)), yticklabels=corrupted, ylim=(len(corrupted) - 0.5, -0.5))
            axes.set(title="other corruptions", xlabel="PSNR (dB)")
            axes.grid(axis="y", color="#e6e9ec", linewidth=0.7)
    return Section(
        "From little noise to much",
        "The shaded range (or line) is the noise of training, all else is out of distribution. "
        "Numbers say how many steps are best there, which is known with hindsight alone; adaptive "
        "steps end where the energy falls no further. Right: noise of other kinds, in the same "
        "colours; the stroke is the noisy photograph.",
        png.getvalue(),
        place=34,
    )


def _name(axes: Axes, names: Sequence[tuple[float, str, str]]) -> None:
    """Writes (height, name, colour) beside an axis, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, places = 0.07, [(value - low) / (high - low) for value, _, _ in sorted(names)]
    for _ in range(100):
        for i in range(len(places) - 1):
            overlap = max(0.0, gap - places[i + 1] + places[i]) / 2
            places[i], places[i + 1] = places[i] - overlap, places[i + 1] + overlap
    for place, (_, name, color) in zip(places, sorted(names), strict=True):
        axes.text(1.02, place, name, transform=axes.transAxes, color=color, va="center", fontsize=8)


def _scores(run: Run, batch: Batch, y: Tensor) -> Tensor:
    """Scores tiles' patches (tiles, rows, columns), or whole tiles where an energy knows none."""
    if not isinstance(run.energy, ScoresPatches):
        return run.thinker.score(batch, y)[:, None, None]
    return patch_scores(run.energy)(batch, y)


def _ways(run: Run, batch: Batch, seed: int) -> list[Tensor]:
    """Follows tiles on their way, for as many steps as they stay finite."""
    functions, steps = landscapes(run.energy, batch.context), max(LONGEST, check_steps(run.sampler.steps)[1])
    generator, ways = stream(seed, "ways", device=run.device), [batch.context.image]
    with torch.no_grad(), eval_mode(run.sampler), eval_mode(run.energy):
        try:
            for state, _ in run.sampler.trajectory(functions, ways[0], steps=steps, generator=generator):
                ways.append(state.y)
        except FloatingPointError:  # more steps than it trained with are a trial, and no verdict
            pass
        return [run.sampler.point(y) for y in ways]


def _steps_picture(run: Run, task: Any, usual: Sequence[View], other: Sequence[View], seed: int) -> Section:
    """Draws energy and error step by step at two noises, and patches' energies by their errors."""
    batch = _batch(task, usual, every=2)
    end = run.sampler.point(_predicted(run, batch, seed))
    own = check_steps(run.sampler.steps)[1]
    with figure_of(9.6, 5.6) as (figure, png):
        (above, first), (below, second) = figure.subplots(2, 2)
        for views, color, name in ((usual, SAMPLES, "trained noise"), (other, DATA, "other noise")):
            tiles = _batch(task, views, every=2)
            ways = _ways(run, tiles, seed)
            energies = [_scores(run, tiles, y).mean().item() for y in ways]
            errors = [F.mse_loss(y, tiles.target).item() for y in ways]
            label = f"{name}, std {task.schedule.std[views[0].step].item():.2f}"
            above.plot(energies, "o-", color=color, markersize=4, label=label)
            below.plot(errors, "o-", color=color, markersize=4)
        for axes, title in ((above, "mean energy of a patch"), (below, "mean squared error of a pixel")):
            axes.axvline(own, color=NOISE, linewidth=0.8)
            axes.set(title=title, xlabel="thinking steps" if axes is below else "")
            axes.grid(axis="y", color="#e6e9ec", linewidth=0.7)
        above.legend()
        for axes, y, name in ((first, batch.context.image, "noisy"), (second, end, f"after {own} step{'s' * (own > 1)}")):
            _scatter(axes, _scores(run, batch, y), (y - batch.target).square().mean(1), name)
        second.set_xlabel("mean squared error of a patch")
    return Section(
        "Does the energy know?",
        "Left: held-out tiles think on; the line marks the steps of training. Where the energy "
        "falls and the error rises, thinking goes astray. Right: each dot is a patch. The higher "
        "the correlations, the better a patch's energy tells how wrong the patch is.",
        png.getvalue(),
        place=35,
    )


def _predicted(run: Run, batch: Batch, seed: int) -> Tensor:
    return run.thinker.predict(batch, batch.context.image, generator=stream(seed, "predicted", device=run.device)).y


def _scatter(axes: Axes, energies: Tensor, errors: Tensor, name: str) -> None:
    """Draws energies (tiles, rows, columns) over squared errors (tiles, H, W)."""
    rows, columns = energies.shape[1:]
    pairs = torch.stack([F.adaptive_avg_pool2d(errors, (rows, columns)), energies]).double().flatten(1).cpu()
    linear, ranked = (torch.corrcoef(of)[0, 1].item() for of in (pairs, pairs.argsort(stable=True).argsort().double()))
    error, energy = pairs
    axes.scatter(error.numpy(), energy.numpy(), s=4, color=INK, alpha=0.25, linewidths=0)
    axes.set(title=f"patches, {name}: correlation {linear:.2f}, of ranks {ranked:.2f}", ylabel="energy")
    for scale, values in ((axes.set_xscale, error), (axes.set_yscale, energy)):
        if values.min() > 0 and values.max() > 20 * values.min():
            scale("log")


def _map_pictures(run: Run, task: Any, view: View, seed: int) -> list[Section]:
    """Draws where the energy of a restored photograph is high, beside where it is wrong."""
    energy = run.energy
    if not isinstance(energy, ScoresPatches):
        return []
    found = restored(task, run.thinker, view, seed, scores=patch_scores(energy))
    assert found.map is not None  # it was asked for
    image = found.image.clamp(-1, 1)
    error = F.avg_pool2d((image - view.clean).square().mean(0, keepdim=True), energy.patch_size)[0]
    shown = {"noisy": view.noisy, "restored": image, "energy of patches": found.map, "squared error of patches": error}
    with figure_of(9.6, 2.7) as (figure, png):
        for axes, (title, what) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
            show(axes, what)
            axes.set_title(title)
    return [
        Section(
            "Where the energy is high",
            "The brighter, the higher, each map on a scale of its own. Where both maps are bright, "
            "the energy finds what thinking could not restore.",
            png.getvalue(),
            place=36,
        )
    ]


def _energies_picture(run: Run, task: Any, views: Sequence[View], seed: int) -> Section:
    batch = _batch(task, views)
    kinds = {"clean tiles": batch.target, "denoised": _predicted(run, batch, seed), "noisy": batch.context.image}
    energies = {name: run.thinker.score(batch, y).double().flatten().cpu().numpy() for name, y in kinds.items()}
    return Section(
        "Energies",
        "Clean tiles should have the lowest energies, and noisy ones the highest; denoised ones "
        "may lie below clean ones, as they are smoother. What lies beyond the axis is counted in "
        "the outermost bars.",
        histogram(energies),
        place=37,
    )
