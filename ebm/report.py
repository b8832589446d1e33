"""The report of a run: a verdict, tables and pictures in one HTML file that needs nothing else, a function of run and seed."""

from __future__ import annotations

import base64
import io
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np
import tomli_w
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebm.checkpoints import write_text
from ebm.history import read_history
from ebm.interfaces import Batch, check_steps, eval_mode, landscapes
from ebm.randomness import stream, subseed, uniform

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ebm.runs import Run

__all__ = ["Verdict", "picture_of_samples", "verdict", "write_report"]

History = Mapping[tuple[str, str], tuple[list[int], list[float]]]  # {(split, name): (steps, values)}

POINTS, IMAGES, PATHS = 500, 64, 8  # samples drawn of 2-D or tabular data, and of images; chains whose way is shown
DATA, SAMPLES, NOISE, OTHER, INK = "#1f5f8b", "#d2603a", "#9aa3ad", "#c9a227", "#22272e"
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK, "xtick.color": "#57606a", "ytick.color": "#57606a", "axes.titlelocation": "left",
    "legend.frameon": False, "axes.axisbelow": True, "grid.color": "#e6e9ec", "grid.linewidth": 0.7,
}  # fmt: skip
NO_MATPLOTLIB = "matplotlib is not installed, so there are no pictures: pip install 'ebm-toolkit[recipes]'"


class Picture(NamedTuple):
    """A picture with its title and a sentence on what to look for."""

    title: str
    png: bytes
    caption: str

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:
        return int.from_bytes(self.png[16:20], "big") // 2  # pixels by its header, at two to one of the page's


class Table(NamedTuple):
    """Names and values."""

    title: str
    rows: list[tuple[str, str]]
    caption: str = ""


def write_report(run: Run, seed: int) -> None:
    """Writes `report.html` into a run's folder.

    Its bytes depend on the run's parts, `metrics.csv` and the seed alone: neither on the time nor on the folder's name.

    Raises:
        FileNotFoundError: where the folder holds no metrics.csv.
    """
    history = read_history(run.path)
    pictures, notes = [], []
    if find_spec("matplotlib") is None:
        notes.append(NO_MATPLOTLIB)
    else:
        with _own_randomness(seed):
            try:
                pictures += _pictures_of_chains(run, stream(seed, "report", device=_device(run)))
            except FloatingPointError as error:  # a landscape that chains fall out of is worth a report all the more
                notes.append(f"There are no pictures of samples, because the chains ran away. {error}")
            pictures += _curves(history)
    parts = [("energy", run.energy), ("objective", run.objective), ("task", run.task), ("sampler", run.sampler)]
    parameters = sum(p.numel() for p in run.energy.parameters()) if isinstance(run.energy, nn.Module) else 0
    steps = max((steps[-1] for (split, _), (steps, _) in history.items() if split == "train"), default=0)
    facts = [f"{kind} {_name(part)}" for kind, part in parts if part is not None]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.from_string(files("ebm").joinpath("report.html").read_text(encoding="utf-8")).render(
        title=run.recipe.get("summary") or f"{_name(run.energy)} trained on {_name(run.task)}",
        facts=[*facts, f"{parameters:,} parameters", f"{steps:,} training steps", f"seed {seed}"],
        verdict=verdict(history),
        notes=notes,
        tables=[table for table in (_metrics(run), _learned(run)) if table.rows],
        pictures=pictures,
        recipe=tomli_w.dumps(run.recipe) if run.recipe else "",
    )
    write_text(run.path / "report.html", page + "\n")


def picture_of_samples(run: Run, samples: Tensor) -> bytes | None:
    """Draws samples as a PNG: points over their landscape, a grid of images; None for what is neither, or no matplotlib."""
    spec, samples = getattr(run.task, "spec", {}), samples.detach().cpu()
    if find_spec("matplotlib") is None:
        warnings.warn(NO_MATPLOTLIB, stacklevel=2)
        return None
    if _is_image(spec, samples):
        with _figure(5, 5 * math.ceil(len(samples) / _columns(len(samples))) / _columns(len(samples))) as (figure, png):
            _grid(figure.subplots(), samples, samples.min().item(), samples.max().item())
        return png.getvalue()
    if spec.get("dim") == 2 and samples.ndim == 2:
        with _own_randomness(0):
            batch = next(iter(run.task.loader("test", POINTS)))  # type: ignore[union-attr]  # it has a spec
        with _figure(5.6, 5) as (figure, png):
            axes = figure.subplots()
            if batch.context is None:
                _landscape(figure, axes, run, _box(batch.target))
            _scatter(axes, samples, SAMPLES, _box(batch.target))
        return png.getvalue()
    return None


# --------------------------------------------------------------------------------------------------------------- verdict

# Thresholds. They are far from what healthy runs show: a verdict that cries wolf is not read.
RECENT = 20  # the last 1/20 of the logged rows (at least 5) says how training ended; a median of them forgives a spike
GAP_LIMIT = 1e3  # nats: at temperature 1 nothing that a chain could still mix over; healthy gaps hover within a few
GAP_GROWTH, GAP_FLOOR = 30.0, 10.0  # or 30 times the largest gap of the first tenth, where that is more than 10 nats
LOSS_GROWTH = 100.0  # how far above its first tenth a loss that measures a distance has run away
STILL = 1e-3  # displacement, in units of data scaled to about 1: one Langevin step of size 1e-6 moves further than this
FLAT = 1e-5  # |∇E|: a thousand steps of size 0.1 along such a slope move a chain by 1e-3
STOPPED = 1e-7  # norm of the parameters' gradient: AdamW divides by √v + 1e-8, so below this its steps shrink to nothing


class Verdict(NamedTuple):
    """Whether training went well, and a line that says so."""

    healthy: bool
    line: str


def verdict(history: History) -> Verdict:
    """Judges a training history: did the energy gap explode, did chains freeze, did gradients vanish?

    Terms are found by their names, those of a weighted sum ("0.energy_gap") included; absent ones are not judged.

    >>> gap = [0.1, -0.2, 0.1, -0.1, 0.2, 0.0, -0.1, 0.1, -0.2, 0.1]
    >>> steps = list(range(10))
    >>> calm = {("train", "energy_gap"): (steps, gap), ("train", "energy_samples"): (steps, gap)}
    >>> verdict(calm).line
    'Healthy: nothing exploded, froze or vanished. The energy gap ended at 0.1.'
    >>> verdict({**calm, ("train", "energy_gap"): (steps, [-(10.0**step) for step in steps])}).healthy
    False
    """
    terms = {name: values for (split, name), (_, values) in history.items() if split == "train"}
    groups = sorted({name.rpartition(".")[0] for name in terms})
    found = [line for group in groups for line in _symptoms(terms, f"{group}." if group else "")]
    if found:
        return Verdict(False, f"Training diverged: {' '.join(found)}")
    ends = [("The energy gap ended at", "energy_gap"), ("Chains moved by", "displacement"), ("The loss ended at", "loss")]
    known = [f"{text} {_late(terms[name]):.3g}." for text, name in ends if name in terms]
    return Verdict(True, " ".join(["Healthy: nothing exploded, froze or vanished.", *known[:2]]))


def _symptoms(terms: Mapping[str, list[float]], prefix: str) -> Iterator[str]:
    """Lists what is wrong with the terms of one objective, each with the usual remedy."""
    gap, loss = terms.get(f"{prefix}energy_gap"), terms.get(f"{prefix}loss")
    slope, moved, gradient = (terms.get(prefix + name) for name in ("grad_norm", "displacement", "gradient_norm"))
    contrastive = f"{prefix}energy_samples" in terms  # otherwise a gap is no distance between data and samples
    if gap and contrastive:
        late, early = _late(gap), max(map(abs, _early(gap)))
        if not abs(late) <= GAP_LIMIT or (len(gap) >= 10 and abs(late) > max(GAP_FLOOR, GAP_GROWTH * early)):
            where = "above" if late > 0 else "below"
            yield (
                f"the energy gap exploded, data end {abs(late):.3g} {where} samples (it should hover around zero). A lower lr or "
                f"step_size, clip_norm, more sampling steps, or an energy_l2 of about 0.1 to 1 usually holds it."
            )
    elif loss and len(loss) >= 10 and not _late(loss) <= LOSS_GROWTH * max(map(abs, _early(loss))):
        yield (
            f"the loss exploded, it ended at {_late(loss):.3g} and began at {_early(loss)[0]:.3g}. "
            f"A lower lr, warmup, clip_norm, or a smaller step_size usually holds it."
        )
    if moved and _late(moved) < STILL:
        yield (
            f"the chains are frozen, a trajectory moves them by {_late(moved):.1g} only. A larger step_size, or more of the "
            f"samplers' noise, usually frees them; where steps are accepted or rejected, a smaller step_size does."
        )
    # Chains that rest at the bottom of a real valley lie below the data: only without a gap is the landscape flat.
    if slope and _late(slope) < FLAT and not (gap and abs(_late(gap)) > 100 * FLAT):
        yield (
            f"the gradients are vanishing, the energy's slope where chains end is {_late(slope):.1g}. "
            f"Less energy_l2 or weight_decay, or another initialisation, usually brings the landscape back."
        )
    # A loss that has fallen, or is next to nothing, has a small gradient because it is learned; a contrastive loss measures
    # nothing, so its gradient should never vanish.
    learned = bool(loss) and not any(name.endswith("energy_samples") for name in terms) and (
        abs(_late(loss)) < 1e-6 or _late(loss) < 0.9 * statistics.median(_early(loss))
    )  # fmt: skip
    if gradient and _late(gradient) < STOPPED and not learned:
        yield (
            f"the gradients are vanishing, that of the parameters has norm {_late(gradient):.1g}. A higher lr, less weight_decay, "
            f"or an energy whose activations do not saturate usually helps."
        )


def _early(values: Sequence[float]) -> Sequence[float]:
    return values[: max(1, len(values) // 10)]


def _late(values: Sequence[float]) -> float:
    return statistics.median(values[-max(5, len(values) // RECENT) :])


# ---------------------------------------------------------------------------------------------------------------- tables


def _metrics(run: Run) -> Table:
    rows = [(name, f"{value:.5g}") for name, value in run.metrics.items()]
    return Table("Final metrics", rows, "On held-out data (the test split), at the last step.")


def _learned(run: Run) -> Table:
    """Lists what samplers learned, step sizes above all."""
    rows, seen = [], set()
    for part in (run.sampler, run.objective):
        for name, p in part.named_parameters() if isinstance(part, nn.Module) else ():
            if id(p) not in seen and name.rpartition(".")[2] == "step_size":
                seen.add(id(p))
                values = p.detach().flatten().tolist()
                rows.append((name, ", ".join(f"{value:.5g}" for value in values[:16]) + (", …" if len(values) > 16 else "")))
    return Table("Learned step sizes", rows, "They trained with the energy: how far a chain moves for a slope of one.")


def _name(part: Any) -> str:
    return part.__name__ if hasattr(part, "__name__") else type(part).__name__


# ---------------------------------------------------------------------------------------------------------------- curves


def _curves(history: History) -> list[Picture]:
    """Draws what was logged: energies of data and samples, every other term, and validation metrics."""
    train = {name: curve for (split, name), curve in history.items() if split == "train"}
    groups = [name.removesuffix("energy_samples") for name in train if name.rpartition(".")[2] == "energy_samples"]
    pictures = []
    for group in (g for g in groups if {f"{g}energy_data", f"{g}energy_gap"} <= train.keys()):
        data, samples, gap = (train.pop(f"{group}energy_{name}") for name in ("data", "samples", "gap"))
        with _figure(9, 2.9) as (figure, png):
            left, right = figure.subplots(1, 2)
            _curve(left, data, DATA, "data")
            _curve(left, samples, SAMPLES, "samples")
            left.set(title="mean energy", xlabel="training step")
            left.legend()
            right.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            _curve(right, gap, INK)
            right.set(title="gap: data − samples", xlabel="training step")
        caption = (
            "Left: both energies may drift together, only their difference means something. Right: the gap hovers around zero "
            "when samples look like data to the energy; far below zero the sampler lags behind, and a gap that keeps growing is divergence."
        )
        pictures.append(Picture(f"Energy gap between data and samples {group.rstrip('.')}".rstrip(), png.getvalue(), caption))
    train = {name: curve for name, curve in train.items() if name != "lr" or len(set(curve[1])) > 1}
    caption = "Pale: as logged; dark: running mean. Every panel is a number of the training batches; a log axis where it spans decades."
    pictures += _panels("Learning curves", train, caption)
    validation = {name: curve for (split, name), curve in history.items() if split == "validation"}
    final = {name: curve for (split, name), curve in history.items() if split == "test"}
    caption = "Measured on held-out data while training; the ring is the final value on the test split."
    return pictures + _panels("Validation", validation, caption, final)


def _panels(title: str, curves: History | Any, caption: str, final: Mapping[str, Any] | None = None) -> list[Picture]:
    """Draws small multiples, three a row."""
    if not curves:
        return []
    rows = math.ceil(len(curves) / 3)
    with _figure(9, 0.3 + 1.75 * rows) as (figure, png):
        grid = figure.subplots(rows, 3, squeeze=False).flat
        for axes, (name, curve) in zip(grid, curves.items(), strict=False):
            _curve(axes, curve, DATA)
            if final and name in final:
                axes.plot(*final[name], "o", color=SAMPLES, fillstyle="none")
            if min(curve[1]) > 0 and max(curve[1]) > 100 * min(curve[1]):
                axes.set_yscale("log")
            axes.set_title(name)
        for axes in list(grid)[len(curves) :]:
            axes.remove()
        figure.supxlabel("training step", fontsize=9)
    return [Picture(title, png.getvalue(), caption)]


def _curve(axes: Axes, curve: tuple[list[int], list[float]], color: str, label: str | None = None) -> None:
    """Draws a curve as logged, and smoothed where it is long enough: means over a window of a fifteenth of it."""
    steps, values = curve
    width = len(values) // 15
    axes.grid(axis="y")
    if width < 2:
        axes.plot(steps, values, "o-", markersize=3, color=color, label=label)
        return
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    window = np.ones(width)
    mean = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    axes.plot(steps, mean, color=color, linewidth=1.5, label=label)


# ---------------------------------------------------------------------------------------------------------------- chains


class Chains(NamedTuple):
    """Held-out rows, the ends of as many chains, and some of the chains' way there."""

    batch: Batch
    samples: Tensor  # (rows, *event), where the energy is taken
    ways: Tensor  # (snapshots, PATHS, *event)
    steps: list[int]  # steps taken before each snapshot


def _pictures_of_chains(run: Run, generator: torch.Generator) -> list[Picture]:
    """Draws data, samples and the way there, for tasks whose data can be looked at."""
    spec = getattr(run.task, "spec", {})
    if run.task is None or not ("image_size" in spec or "dim" in spec):
        return []
    batch = next(iter(run.task.loader("test", IMAGES if "image_size" in spec else POINTS)))
    batch = pytree.tree_map(lambda leaf: leaf.to(generator.device) if isinstance(leaf, Tensor) else leaf, batch)
    start = run.task.start(batch, generator=generator)
    if not isinstance(batch.target, Tensor) or batch.target.shape != start.shape:
        return []  # what is scored is no configuration of the data's own kind
    image = _is_image(spec, start)
    chains = _run_chains(run, batch, start, generator, snapshots=10 if image else None)
    pictures = _image_pictures(chains) if image else []
    if spec.get("dim") == 2 and start.ndim == 2:
        pictures = [_plane_picture(run, chains)]
    energies = {"held-out data": batch.target, "samples": chains.samples}
    if image:
        flat = batch.target.flatten(1)
        order = uniform(flat, 0.0, 1.0, generator).argsort(1)
        low, high = batch.target.min().item(), batch.target.max().item()
        energies |= {"shuffled pixels": flat.gather(1, order).reshape(start.shape)}
        energies |= {"uniform noise": uniform(start, low, high, generator)}
    else:
        energies |= {"where chains start": run.sampler.point(start)}
    scores = {name: run.thinker.score(batch, y).double().flatten().cpu().numpy() for name, y in energies.items()}
    return [*pictures, _histogram(scores)]


def _run_chains(run: Run, batch: Batch, start: Tensor, generator: torch.Generator, snapshots: int | None) -> Chains:
    """Runs one chain a row in eval mode, and keeps the first few chains' states: all, or at steps of equal ratios."""
    functions = landscapes(run.energy, batch.context)
    total = check_steps(run.sampler.steps)[1] * len(run.sampler.route(functions))
    wanted = set(range(total + 1))
    if snapshots is not None and total > snapshots:
        wanted = {0, *(round(total ** (i / (snapshots - 2))) for i in range(snapshots - 1))}
    y, ways, steps = start, [run.sampler.point(start[:PATHS])], [0]
    with torch.no_grad(), eval_mode(run.sampler):
        for taken, (state, _) in enumerate(run.sampler.trajectory(functions, start, generator=generator), 1):
            y = state.y
            if taken in wanted:
                ways.append(run.sampler.point(y[:PATHS]))
                steps.append(taken)
        return Chains(batch, run.sampler.point(y).cpu(), torch.stack(ways).cpu(), steps)


def _plane_picture(run: Run, chains: Chains) -> Picture:
    """Draws data, samples and landscape side by side, with some chains' ways."""
    data, box = chains.batch.target.cpu(), _box(chains.batch.target)
    known = chains.batch.context is None  # with a context there are as many landscapes as rows
    with _figure(9.6, 3.2 if known else 4.2) as (figure, png):
        panels = figure.subplots(1, 3 if known else 2, sharex=True, sharey=True)
        _scatter(panels[0], data, DATA, box)
        _scatter(panels[1], chains.samples, SAMPLES, box)
        panels[0].set_title("held-out data")
        panels[1].set_title("samples")
        if known:
            _landscape(figure, panels[2], run, box)
            _scatter(panels[2], chains.samples, SAMPLES, box, size=2, alpha=0.5)
            for way in chains.ways.unbind(1):
                panels[2].plot(*way.T, color=INK, linewidth=0.7, alpha=0.7)
                panels[2].plot(*way[0], "o", color=INK, markersize=4, markerfacecolor="white")
                panels[2].plot(*way[-1], "o", color=INK, markersize=4)
            panels[2].set_title("energy landscape")
    caption = "The samples should cover the data's shape and nothing else."
    if known:
        caption += (
            f" The landscape should be dark (low) where data are and nowhere else; lines are {chains.ways.shape[1]} chains, each from "
            f"its start (ring) to its end (dot)."
        )
    return Picture("Data, samples and landscape", png.getvalue(), caption)


def _landscape(figure: Figure, axes: Axes, run: Run, box: tuple[float, float, float, float]) -> None:
    """Fills a plane with its energies, counted from the lowest one."""
    left, right, bottom, top = box
    y = torch.cartesian_prod(torch.linspace(bottom, top, 160), torch.linspace(left, right, 160)).flip(1).to(_device(run))
    energy = run.thinker.score(Batch(y), y).cpu().reshape(160, 160)
    energy = energy - energy.min()
    # Far from the data energies may rise without end: what lies above most of the plane has one colour.
    ceiling = max(energy.quantile(0.8).item(), 1e-6)
    filled = axes.contourf(
        *(np.linspace(left, right, 160), np.linspace(bottom, top, 160), energy.numpy()),
        levels=np.linspace(0, ceiling, 16), cmap="YlGnBu_r", extend="max",
    )  # fmt: skip
    bar = figure.colorbar(filled, ax=axes, label="energy above the lowest", format="%.3g", shrink=0.9)
    bar.outline.set_visible(False)


def _scatter(axes: Axes, y: Tensor, color: str, box: tuple[float, float, float, float], size: float = 5, alpha: float = 0.7) -> None:
    left, right, bottom, top = box
    axes.scatter(*y.T, s=size, color=color, alpha=alpha, linewidths=0)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="$y_1$", ylabel="$y_2$", aspect="equal")


def _box(data: Tensor) -> tuple[float, float, float, float]:
    """Finds the part of the plane to draw, the data's own and a quarter more on each side: left, right, bottom, top."""
    (left, bottom), (right, top) = data.amin(0).tolist(), data.amax(0).tolist()
    x, y = (right - left) / 4, (top - bottom) / 4
    return left - x, right + x, bottom - y, top + y


def _image_pictures(chains: Chains) -> list[Picture]:
    """Draws grids of data and samples, and the way of some chains."""
    data = chains.batch.target.cpu()
    low, high = data.min().item(), data.max().item()
    with _figure(9, 4.7) as (figure, png):
        left, right = figure.subplots(1, 2)
        _grid(left, data, low, high)
        _grid(right, chains.samples, low, high)
        left.set_title("held-out data")
        right.set_title("samples")
    caption = "Samples should be as sharp and as varied as data: look for the same image again and again, and for noise."
    pictures = [Picture("Data and samples", png.getvalue(), caption)]
    count, kept = len(chains.steps), chains.ways.shape[1]
    with _figure(9, 0.4 + 9 * kept / count) as (figure, png):
        axes = figure.subplots()
        _grid(axes, chains.ways.transpose(0, 1).flatten(0, 1), low, high, columns=count)
        width = chains.ways.shape[-1] + 1
        axes.set_xticks([width * (i + 0.5) for i in range(count)], list(map(str, chains.steps)))
        axes.set_xlabel("sampling steps taken")
    caption = "Each row is one chain. It should turn into an image within the steps given, and not fade or freeze on the way."
    return [*pictures, Picture("Chains on their way", png.getvalue(), caption)]


def _grid(axes: Axes, images: Tensor, low: float, high: float, columns: int | None = None) -> None:
    """Lays images (n, C, H, W) out in a grid, one pixel apart."""
    columns = columns or _columns(len(images))
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    pixels = ((images - low) / max(high - low, 1e-12)).clamp(0, 1)
    sheet = torch.ones(rows * columns, channels, height + 1, width + 1)
    sheet[:n, :, :height, :width] = pixels
    sheet = sheet.reshape(rows, columns, channels, height + 1, width + 1).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    picture = sheet[:-1, :-1].expand(-1, -1, 3).numpy()
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _columns(n: int) -> int:
    return max(1, math.ceil(math.sqrt(n)))


def _is_image(spec: Mapping[str, Any], y: Tensor) -> bool:
    return "image_size" in spec and y.ndim == 4 and y.shape[1] in (1, 3)


def _histogram(scores: Mapping[str, np.ndarray]) -> Picture:
    """Draws the energies of several kinds of configurations."""
    near = np.concatenate(list(scores.values())[:2])
    low, high = (min(s.min() for s in scores.values()), max(s.max() for s in scores.values()))
    # Noise may lie so far away that data and samples fall into one bar: then the axis ends at three times their spread.
    spread = max(float(np.ptp(near)), 1e-6)
    low, high = max(low, near.min() - 3 * spread), min(high, near.max() + 3 * spread)
    bins = np.linspace(low, max(high, low + 1e-6), 61)
    with _figure(9, 2.9) as (figure, png):
        axes = figure.subplots()
        for (name, energy), color in zip(scores.items(), (DATA, SAMPLES, OTHER, NOISE), strict=False):
            weights = np.full(len(energy), 1 / len(energy))
            axes.hist(energy.clip(low, high), bins, weights=weights, histtype="stepfilled", color=color, alpha=0.25)
            axes.hist(energy.clip(low, high), bins, weights=weights, histtype="step", color=color, label=name)
        axes.set(xlabel="energy (low is compatible)", ylabel="share")
        axes.legend()
    caption = (
        "Samples should have the energies of held-out data, and what is no data higher ones. "
        "What lies beyond the axis is counted in the outermost bars."
    )
    return Picture("Energies", png.getvalue(), caption)


# --------------------------------------------------------------------------------------------------------------- drawing


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Gives a figure of so many inches, and a buffer that holds its PNG afterwards, whatever style the caller has set."""
    import matplotlib
    from matplotlib.figure import Figure

    png = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, png
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seeds torch's global generator for a third party's parts that draw from it, and gives the caller's state back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subseed(seed, "report", "global"))
        yield


def _device(run: Run) -> torch.device:
    parameters = run.energy.parameters() if isinstance(run.energy, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))
