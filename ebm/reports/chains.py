"""What a report shows of chains: samples, the way there, and their energies."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ebm.figures import DATA, INK, SAMPLES, enlarged, figure_of, grid, histogram
from ebm.interfaces import Batch, Scorer, check_steps, eval_mode, landscapes
from ebm.interfaces.abilities import DrawsSamples
from ebm.optional import installed
from ebm.randomness import stream, uniform
from ebm.registry import hookimpl
from ebm.reports.section import Section
from ebm.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS, IMAGES = 500, 36  # chains that are run, for vectors and for images
WAYS, SNAPSHOTS = 5, 10  # chains whose way is shown, and how often


def picture_of_samples(run: Run, samples: Tensor) -> bytes | None:
    """Draws samples as a PNG: as the task does, as points or images. None where it cannot."""
    try:
        installed("matplotlib")
    except ImportError as error:
        warnings.warn(str(error), stacklevel=2)
        return None
    spec, samples = getattr(run.task, "spec", {}), samples.detach().cpu()
    if isinstance(run.task, DrawsSamples):
        return run.task.draw_samples(samples)
    if _kind(spec, samples) == "images":
        with figure_of(5, 5) as (figure, png):
            grid(figure.subplots(), samples, samples.min().item(), samples.max().item())
        return png.getvalue()
    if _kind(spec, samples) == "points":
        batch = _held_out(run.task, samples)
        with figure_of(5.6, 5) as (figure, png):
            axes = figure.subplots()
            if batch.context is None:
                _landscape(figure, axes, run, batch.target)
            _scatter(axes, samples, SAMPLES, batch.target, "samples")
        return png.getvalue()
    return None


def _held_out(task: Any, samples: Tensor) -> Batch:
    """Reads test rows to frame a picture by, or takes the samples where the data are not here."""
    try:
        return next(iter(task.loader("test", POINTS)))
    except (OSError, ValueError) as error:
        if (blank := task.blank(len(samples))) is None:
            raise
        warnings.warn(f"the picture is framed by the samples, since the data are not here: {error}", stacklevel=3)
        return blank._replace(target=samples)


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    """Draws data, samples, the way there and their energies, of vectors and images."""
    spec, generator = getattr(run.task, "spec", {}), stream(seed, "report", device=run.device)
    if run.task is None or not ("image_size" in spec or "dim" in spec):
        return
    batch = next(iter(run.task.loader("test", IMAGES if "image_size" in spec else POINTS))).to(generator.device)
    if not isinstance(batch.context, Tensor | None):
        return  # more is given than a label or a row: such a task has sections of its own
    start = run.task.start(batch, generator=generator)
    if not isinstance(batch.target, Tensor) or batch.target.shape != start.shape:
        return  # what is moved is not of the data's own kind
    samples, ways, steps = _run_chains(run, batch, start, generator)
    kinds = {"held-out data": batch.target, "samples": samples}
    if _kind(spec, start) == "images":
        flat, low, high = batch.target.flatten(1), batch.target.min().item(), batch.target.max().item()
        order = uniform(flat, 0.0, 1.0, generator).argsort(1)
        kinds["shuffled pixels"] = flat.gather(1, order).reshape(start.shape)
        kinds["uniform noise"] = uniform(start, low, high, generator)
    else:
        kinds["where chains start"] = run.sampler.point(start)
    if _kind(spec, start) == "images":
        yield from _image_pictures(batch.target.cpu(), samples.cpu(), ways.cpu(), steps)
    elif _kind(spec, start) == "points":
        yield _plane_picture(run, batch, samples.cpu(), ways.cpu())
    if isinstance(run.thinker, Scorer):
        energies = {name: run.thinker.score(batch, y).double().flatten().cpu().numpy() for name, y in kinds.items()}
        yield Section(
            "Energies",
            "Samples should have the energies of held-out data, and what is no data should have higher "
            "ones. What lies beyond the axis is counted in the outermost bars.",
            histogram(energies),
            place=22,
        )


def _run_chains(run: Run, batch: Batch, start: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, list[int]]:
    """Runs a chain for each row: (ends, snapshots of the first few, the snapshots' steps)."""
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


def _plane_picture(run: Run, batch: Batch, samples: Tensor, ways: Tensor) -> Section:
    """Draws data, samples and some chains side by side; the landscape where all rows share it."""
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
    where = "the landscape should be blue (low) where data are and nowhere else"
    none = "Every row has a context, hence a landscape, of its own: none is drawn"
    return Section(
        "Data, samples and landscape" if batch.context is None else "Data, samples and chains",
        "Samples should cover the data's shape and nothing else. Lines are single chains on their way, "
        "at steps of equal ratios: from the ring to the dot. " + (f"And {where}." if batch.context is None else f"{none}."),
        png.getvalue(),
        place=20,
    )


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
    # Far from the data energies may rise without end: colours cover where the data are.
    ceiling = max(min(finite.quantile(0.8).item() - lowest, 2 * (usual - lowest)), 1e-6)
    colors = LinearSegmentedColormap.from_list("blue to white", ["#2f73a3", "#7fb0d0", "#c9dfec", "#ffffff"])
    levels = MaxNLocator(14).tick_values(0, ceiling)
    filled = axes.contourf(across.numpy(), up.numpy(), (energy - lowest).numpy(), levels=levels, cmap=colors, extend="max")
    figure.colorbar(filled, ax=axes, label="energy above the lowest", shrink=0.9).outline.set_visible(False)


def _box(data: Tensor) -> tuple[float, float, float, float]:
    """Finds the part of the plane to draw: left, right, bottom, top."""
    (left, bottom), (right, top) = data.amin(0).tolist(), data.amax(0).tolist()
    x, y = (right - left) / 4, (top - bottom) / 4
    return left - x, right + x, bottom - y, top + y


def _image_pictures(data: Tensor, samples: Tensor, ways: Tensor, steps: list[int]) -> Iterator[Section]:
    """Draws grids of data and of samples, and chains on their way."""
    low, high = data.min().item(), data.max().item()
    with figure_of(9, 4.7) as (figure, png):
        for axes, images, title in zip(figure.subplots(1, 2), (data, samples), ("held-out data", "samples"), strict=True):
            grid(axes, images, low, high)
            axes.set_title(title)
    yield Section(
        "Data and samples",
        "Samples should be as sharp and as varied as data. Look for noise, and for one image again and again.",
        png.getvalue(),
        place=20,
    )
    with figure_of(9, 0.4 + ways.shape[1] * min(0.9, 9 / len(steps))) as (figure, png):
        axes = figure.subplots()
        grid(axes, ways.transpose(0, 1).flatten(0, 1), low, high, columns=len(steps))
        width = (data.shape[-1] + 1) * enlarged(data)
        axes.set_xticks([width * (i + 0.5) - 1 for i in range(len(steps))], list(map(str, steps)))
        axes.set_xlabel("sampling steps taken")
    yield Section(
        "Chains on their way",
        "Each row is one chain, each column a number of steps taken. Noise should turn into an "
        "image within these steps, and the image should stay one.",
        png.getvalue(),
        place=21,
    )
