"""The report of a run: one HTML file with a verdict, tables and pictures, a function of the run and its seed alone."""

from __future__ import annotations

import base64
import math
import warnings
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import tomli_w
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebm import probe, report_frames, report_images, report_tokens
from ebm.checkpoints import write_text
from ebm.doctor import Curve, History, Verdict, diagnose
from ebm.figures import DATA, INK, SAMPLES, Picture, figure_of, histogram
from ebm.history import read_history
from ebm.interfaces import Batch, check_steps, eval_mode, landscapes
from ebm.randomness import stream, subseed, uniform
from ebm.rollback import rollbacks
from ebm.tasks.denoising import Denoising

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ebm.runs import Run

__all__ = ["picture_of_samples", "write_report"]

POINTS, IMAGES = 500, 36  # chains that are run, for vectors and for images
TINY = 16  # pixels a side, up to which a picture is enlarged
WAYS, SNAPSHOTS = 5, 10  # chains whose way is shown, and how often
NO_MATPLOTLIB = "matplotlib is not installed, so there are no pictures: pip install 'ebm-toolkit[recipes]'"


def write_report(run: Run, seed: int, stopped: str = "") -> None:
    """Writes `report.html` into a run's folder; `stopped` says why training could not go on.

    Its bytes depend on the run's parts, `metrics.csv` and the seed: neither on the time nor on the folder's name.

    Raises:
        FileNotFoundError: where the folder holds no metrics.csv.
    """
    history, pictures, notes = read_history(run.path), [], []
    judged = diagnose(history, stopped)
    notes += [f"Training went back to step {back['to']}. {back['because']}" for back in rollbacks(run.path)]
    if find_spec("matplotlib") is None:
        notes.append(NO_MATPLOTLIB)
    else:
        try:
            pictures += _pictures_of_chains(run, seed)
            pictures += report_images.pictures(run, seed)
            pictures += report_frames.pictures(run, seed)
        except FloatingPointError as error:  # a landscape that chains fall out of deserves a report all the more
            notes.append(f"There are no pictures of samples, because chains ran away from the landscape. {error}")
            judged = judged if not judged.healthy else Verdict(False, "Training diverged: chains run away from the landscape.")
        pictures += report_tokens.pictures(run)
        pictures += _pictures_of_curves(history)
    parts = [(kind, getattr(run, kind)) for kind in ("energy", "objective", "task", "sampler")]
    facts = [f"{kind} {getattr(part, '__name__', type(part).__name__)}" for kind, part in parts if part is not None]
    parameters = sum(p.numel() for p in run.energy.parameters()) if isinstance(run.energy, nn.Module) else 0
    steps = max((steps[-1] for (split, _), (steps, _) in history.items() if split == "train"), default=0)
    compared = run.baseline.metrics if run.baseline is not None else {}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("ebm").joinpath("report.html").read_text(encoding="utf-8")
    )
    page = template.render(
        title=run.recipe.get("summary") or " · ".join(fact.split()[1] for fact in facts),
        facts=[*facts, f"{parameters:,} parameters", f"{steps:,} training steps", f"seed {seed}"],
        verdict=judged,
        notes=notes,
        metrics=[(name, f"{value:.5g}", _number(compared.get(name))) for name, value in run.metrics.items()],
        compared=bool(compared),
        step_sizes=_step_sizes(run),
        probe_columns=probe.COLUMNS,
        probed=probe.lines(probe.read_probe(run.path)),
        adaptive=report_tokens.adaptive(run),
        strips=[] if stopped else report_tokens.strips(run, seed),
        continuations=[] if stopped else report_tokens.continuations(run, seed),
        pictures=[(kind, base64.b64encode(png).decode(), of) for kind, png, of in pictures],
        recipe=tomli_w.dumps(run.recipe) if run.recipe else "",
    )
    write_text(run.path / "report.html", page + "\n")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def picture_of_samples(run: Run, samples: Tensor) -> bytes | None:
    """Draws samples as a PNG: points over their landscape, a grid of images; None for other data, or without matplotlib."""
    spec, samples = getattr(run.task, "spec", {}), samples.detach().cpu()
    if find_spec("matplotlib") is None:
        warnings.warn(NO_MATPLOTLIB, stacklevel=2)
    elif isinstance(run.task, Denoising):
        return _picture_of_denoised(run.task, samples)
    elif _kind(spec, samples) == "images":
        with figure_of(5, 5) as (figure, png):
            _grid(figure.subplots(), samples, samples.min().item(), samples.max().item())
        return png.getvalue()
    elif _kind(spec, samples) == "points":
        batch = next(iter(run.task.loader("test", POINTS)))  # type: ignore[union-attr]  # it has a spec
        with figure_of(5.6, 5) as (figure, png):
            axes = figure.subplots()
            if batch.context is None:
                _landscape(figure, axes, run, batch.target)
            _scatter(axes, samples, SAMPLES, batch.target, "samples")
        return png.getvalue()
    return None


def _picture_of_denoised(task: Denoising, samples: Tensor) -> bytes:
    """Draws predictions for the first tiles of the test split between what they are made of and what they should be."""
    batch = next(iter(task.loader("test", len(samples))))
    rows = torch.arange(len(samples)) % len(batch.target)
    kinds = {"noisy": batch.context.image[rows], "denoised": samples, "clean": batch.target[rows]}
    with figure_of(9.6, 3.5) as (figure, png):
        for axes, (title, images) in zip(figure.subplots(1, len(kinds)), kinds.items(), strict=True):
            _grid(axes, images, -1, 1)
            axes.set_title(title)
    return png.getvalue()


def _step_sizes(run: Run) -> list[tuple[str, str]]:
    """Lists the step sizes that were learned, one or several to a sampler."""
    modules = [part for part in (run.sampler, run.objective) if isinstance(part, nn.Module)]
    learned = {id(p): (name, p) for part in reversed(modules) for name, p in part.named_parameters() if "step_size" in name}
    return [(name, ", ".join(f"{value:.5g}" for value in p.detach().flatten().tolist())) for name, p in learned.values()]


# ---------------------------------------------------------------------------------------------------------------- curves


def _pictures_of_curves(history: History) -> list[Picture]:
    """Draws what was logged: the energies of data and samples, every other term, and validation metrics."""
    train, validation, test = ({n: c for (s, n), c in history.items() if s == split} for split in ("train", "validation", "test"))
    pictures = []
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
            pictures.append(("gap", png.getvalue(), group.rstrip(".")))
    if len(set(train.get("lr", ([], []))[1])) == 1:
        del train["lr"]
    return [*pictures, *_panels("train", train), *_panels("validation", validation, test)]


def _panels(kind: str, curves: Mapping[str, Curve], final: Mapping[str, Curve] | None = None) -> list[Picture]:
    """Draws small multiples, three a row."""
    if not curves:
        return []
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
    return [(kind, png.getvalue(), "")]


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


# ---------------------------------------------------------------------------------------------------------------- chains


def _pictures_of_chains(run: Run, seed: int) -> list[Picture]:
    """Draws data, samples, the way there and their energies, for data that can be looked at: vectors and images."""
    spec, generator = getattr(run.task, "spec", {}), stream(seed, "report", device=run.device)
    if run.task is None or not ("image_size" in spec or "dim" in spec) or isinstance(run.task, Denoising):
        return []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subseed(seed, "report", "global"))  # for a third party's part that draws from it
        batch = next(iter(run.task.loader("test", IMAGES if "image_size" in spec else POINTS)))
        batch = pytree.tree_map(lambda leaf: leaf.to(generator.device) if isinstance(leaf, Tensor) else leaf, batch)
        start = run.task.start(batch, generator=generator)
        if not isinstance(batch.target, Tensor) or batch.target.shape != start.shape:
            return []  # what is moved is not of the data's own kind
        samples, ways, steps = _run_chains(run, batch, start, generator)
        kinds = {"held-out data": batch.target, "samples": samples}
        if _kind(spec, start) == "images":
            flat, low, high = batch.target.flatten(1), batch.target.min().item(), batch.target.max().item()
            order = uniform(flat, 0.0, 1.0, generator).argsort(1)
            kinds["shuffled pixels"] = flat.gather(1, order).reshape(start.shape)
            kinds["uniform noise"] = uniform(start, low, high, generator)
        else:
            kinds["where chains start"] = run.sampler.point(start)
        energies = {name: run.thinker.score(batch, y).double().flatten().cpu().numpy() for name, y in kinds.items()}
    of_energies = ("histogram", histogram(energies), "")
    if _kind(spec, start) == "images":
        return [*_image_pictures(batch.target.cpu(), samples.cpu(), ways.cpu(), steps), of_energies]
    if _kind(spec, start) == "points":
        return [_plane_picture(run, batch, samples.cpu(), ways.cpu()), of_energies]
    return [of_energies]


def _run_chains(run: Run, batch: Batch, start: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, list[int]]:
    """Runs one chain a row in eval mode: (ends, snapshots of the first few at steps of about equal ratios, those steps)."""
    functions, point = landscapes(run.energy, batch.context), run.sampler.point
    total = check_steps(run.sampler.steps)[1] * len(run.sampler.route(functions))
    wanted = {round(total ** (i / (SNAPSHOTS - 2))) for i in range(SNAPSHOTS - 1)}
    y, ways, steps = start, [point(start[:WAYS])], [0]
    with torch.no_grad(), eval_mode(run.sampler):
        for taken, (state, _) in enumerate(run.sampler.trajectory(functions, start, generator=generator), 1):
            y = state.y
            if taken in wanted:
                ways.append(point(y[:WAYS]))
                steps.append(taken)
        return point(y), torch.stack(ways), steps


def _kind(spec: Mapping[str, Any], y: Tensor) -> str | None:
    """Tells images (n, C, H, W) and points of a plane (n, 2) from what cannot be looked at."""
    if "image_size" in spec and y.ndim == 4 and y.shape[1] in (1, 3):
        return "images"
    return "points" if spec.get("dim") == 2 and y.ndim == 2 else None


def _plane_picture(run: Run, batch: Batch, samples: Tensor, ways: Tensor) -> Picture:
    """Draws data, samples and some chains' ways side by side, these over the landscape where all rows share one."""
    with figure_of(9.6, 3.1) as (figure, png):
        left, middle, right = figure.subplots(1, 3)
        if batch.context is None:
            _landscape(figure, right, run, batch.target)
        _scatter(left, batch.target.cpu(), DATA, batch.target, "held-out data")
        _scatter(middle, samples, SAMPLES, batch.target, "samples")
        _scatter(right, samples, SAMPLES, batch.target, "landscape" if batch.context is None else "chains on their way", 3)
        for way in ways.unbind(1):
            right.plot(*way.T, color=INK, linewidth=0.7)
            right.plot(*way[:1].T, "o", color=INK, markersize=4.5, markerfacecolor="white")
            right.plot(*way[-1:].T, "o", color=INK, markersize=4.5)
    return "plane" if batch.context is None else "rows", png.getvalue(), ""


def _scatter(axes: Axes, y: Tensor, color: str, data: Tensor, title: str, size: float = 5) -> None:
    left, right, bottom, top = _box(data)
    inside = (y[:, 0] >= left) & (y[:, 0] <= right) & (y[:, 1] >= bottom) & (y[:, 1] <= top)
    axes.scatter(y[inside, 0], y[inside, 1], s=size, color=color, alpha=0.7, linewidths=0)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="$y_1$", ylabel="$y_2$", aspect="equal", title=title)
    if title == "samples" and not inside.all():
        axes.set_title(f"samples ({int((~inside).sum())} of {len(y)} lie outside)")


def _landscape(figure: Figure, axes: Axes, run: Run, data: Tensor) -> None:
    """Fills a plane with its energies, counted from the lowest one."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    left, right, bottom, top = _box(data)
    across, up = torch.linspace(left, right, 160), torch.linspace(bottom, top, 160)
    y = torch.cartesian_prod(up, across).flip(1).to(run.device)
    energy = run.thinker.score(Batch(y), y).cpu().double().reshape(160, 160)
    finite = energy[energy.isfinite()]  # a prior may put walls up
    lowest = finite.min().item()
    usual = run.thinker.score(Batch(data.to(y)), data.to(y)).cpu().double().quantile(0.99).item()
    # Far from the data energies may rise without end: colours are for where data are, and as much again above that.
    ceiling = max(min(finite.quantile(0.8).item() - lowest, 2 * (usual - lowest)), 1e-6)
    colors = LinearSegmentedColormap.from_list("blue to white", ["#2f73a3", "#7fb0d0", "#c9dfec", "#ffffff"])
    levels = MaxNLocator(14).tick_values(0, ceiling)
    filled = axes.contourf(across.numpy(), up.numpy(), (energy - lowest).numpy(), levels=levels, cmap=colors, extend="max")
    figure.colorbar(filled, ax=axes, label="energy above the lowest", shrink=0.9).outline.set_visible(False)


def _box(data: Tensor) -> tuple[float, float, float, float]:
    """Finds the part of the plane to draw, the data's own and a quarter more on each side: left, right, bottom, top."""
    (left, bottom), (right, top) = data.amin(0).tolist(), data.amax(0).tolist()
    x, y = (right - left) / 4, (top - bottom) / 4
    return left - x, right + x, bottom - y, top + y


def _image_pictures(data: Tensor, samples: Tensor, ways: Tensor, steps: list[int]) -> Iterator[Picture]:
    """Draws grids of data and of samples, and chains on their way."""
    low, high = data.min().item(), data.max().item()
    with figure_of(9, 4.7) as (figure, png):
        for axes, images, title in zip(figure.subplots(1, 2), (data, samples), ("held-out data", "samples"), strict=True):
            _grid(axes, images, low, high)
            axes.set_title(title)
    yield "images", png.getvalue(), ""
    with figure_of(9, 0.4 + ways.shape[1] * min(0.9, 9 / len(steps))) as (figure, png):
        axes = figure.subplots()
        _grid(axes, ways.transpose(0, 1).flatten(0, 1), low, high, columns=len(steps))
        width = (data.shape[-1] + 1) * _enlarged(data)
        axes.set_xticks([width * (i + 0.5) - 1 for i in range(len(steps))], list(map(str, steps)))
        axes.set_xlabel("sampling steps taken")
    yield "ways", png.getvalue(), ""


def _enlarged(images: Tensor) -> int:
    """Says by what factor images are drawn: tiny ones are enlarged, as squares are hard to read."""
    return 6 if max(images.shape[-2:]) <= TINY else 1


def _grid(axes: Axes, images: Tensor, low: float, high: float, columns: int | None = None) -> None:
    """Lays images (n, C, H, W) out in a grid, a pixel apart; tiny ones are enlarged smoothly."""
    if (gap := _enlarged(images)) > 1:
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
