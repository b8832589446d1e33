"""`ebm denoise RUN PHOTO`: restore a photograph, and draw a map of its energy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ebm.files import atomic, check_outputs
from ebm.interfaces import check_steps
from ebm.interfaces.abilities import ScoresPatches, Tiled, lacking
from ebm.optional import installed
from ebm.randomness import randn_like, stream
from ebm.runs.run import Run
from ebm.samplers import Monotone
from ebm.tasks.images.estimating import confirmed, estimate_noise
from ebm.tasks.images.noising import AdditiveNoise
from ebm.tasks.images.photographs import read_photograph
from ebm.tasks.images.tiling import patch_scores
from ebm.tasks.images.whole import count_parts, restore_picture, takes_any_size
from ebm.thinking import Thinker

BEYOND, HALVINGS = 8, 6  # steps at noise beyond training's, and how often one is halved, at most


def denoise(
    run: Run,
    photo: Path,
    /,
    *,
    out: Path | None = None,
    steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    tolerance: float = 0.15,
    stride: int | None = None,
    noise_step: int | None = None,
    noise_std: float | None = None,
    sigma: float | None = None,
    strength: float = 1.0,
    add_noise: int | None = None,
    map: bool = True,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Denoise a photograph of any size by a run: writes the clean picture, and a map of its energy.

    OUT-energy.png is bright where the energy is high; --add-noise also writes OUT-noisy.png.

    Args:
        run: the run folder.
        photo: the picture, as noisy as it is.
        out: the picture to write; by default the photo's name with -clean, in this folder.
        steps: steps per landscape; by default the run's. Where the noise is stronger than training's,
            as many as its recipe's `thinking.enough` asks for, none of which raises the energy.
        candidates: starts that are tried for each tile, of which the energy chooses.
        patience: think until the energy fell no further for this many steps, --steps at most.
        tolerance: with --patience, the least fall that counts, as a share of the energy.
        stride: pixels between neighbouring tiles; by default the task's.
        noise_step: the schedule's step of the picture's noise. By default the noise is estimated, by a
            run that was trained on additive noise of many strengths, or else training's strongest.
        noise_std: instead, the standard deviation of its noise, for pixels of -1 to 1.
        sigma: instead, the standard deviation of its noise in grey levels of 255.
        strength: what the noise's deviation is multiplied by: below 1, more detail and more noise stay.
        add_noise: take the picture as clean, and add the noise of this step.
        map: write the map (of an energy that knows its patches' energies).
        batch_size: how many tiles are denoised together.
        seed: what every random draw is derived from.

    Returns:
        The files that were written; of additive noise, how much was taken off (in grey levels, and
        whether it was estimated); and means over tiles: energy, steps, and forward passes.

    Raises:
        ValueError: the photo cannot be read, or the run or the arguments do not fit.
        FileNotFoundError: there is no such photo, or no folder to write to.
    """
    task: Any = run.judge()
    if missing := lacking(task, Tiled):
        raise ValueError(
            f"{run.path} was not trained to denoise: its task {type(task).__name__} has no {' and no '.join(missing)}, "
            f"as the task denoising has"
        )
    photo = Path(photo)
    out = Path(f"{photo.stem}-clean{photo.suffix}") if out is None else Path(out)
    kind = _kind(out)
    sides = {"noisy": out.with_name(f"{out.stem}-noisy.png"), "map": out.with_name(f"{out.stem}-energy.png")}
    draws = map and isinstance(run.energy, ScoresPatches)
    wanted = [side for name, side in sides.items() if (draws if name == "map" else add_noise is not None)]
    check_outputs(out, *wanted, photo=photo)
    enough = run.recipe.get("thinking", {}).get("enough")
    said = _said(task, {"noise_step": noise_step, "noise_std": noise_std, "sigma": sigma, "add_noise": add_noise}, strength)
    predictor = run.predictor(steps, candidates, patience, tolerance)
    image = read_photograph(photo, task.spec["channels"]).to(run.device).to(torch.float32).div_(127.5).sub_(1)
    generator, written = stream(seed, "denoise", device=run.device), {}
    if add_noise is not None:
        noise = randn_like(image[None], generator)
        image = task.schedule.noised(image[None], torch.tensor([add_noise], device=image.device), noise)[0]
        del noise
        written["noisy"] = sides["noisy"]
        _write(image, written["noisy"], "PNG")
    std, signal = (_estimated(run.energy, predictor, image), 1.0) if said is None else said
    std *= strength
    step, factor = _step(task, std, signal)
    if (steps, patience) == (None, None) and enough is not None and step > task.noise_step[1]:
        steady = Monotone(run.sampler, halvings=HALVINGS)
        predictor = Thinker(run.energy, steady, steps=BEYOND, candidates=candidates, enough=enough)
    total = count_parts(task, predictor, image.shape[1], image.shape[2], stride)
    if patience is not None:  # at most; tiles take their steps together
        total *= check_steps(run.sampler.steps if steps is None else steps)[1]
    with tqdm(total=total, unit="tile", disable=None, dynamic_ncols=True) as bar:  # on a terminal alone
        found = restore_picture(
            task,
            predictor,
            image.mul_(factor),
            step,
            stride=stride,
            batch_size=batch_size,
            scores=patch_scores(run.energy) if draws else None,
            generator=generator,
            advance=bar.update,
        )
    del image
    written["picture"] = out
    _write(found.image.clamp_(-1, 1), out, kind)
    if found.map is not None:
        written["map"] = sides["map"]
        _write_map(found.map, written["map"])
    numbers: dict[str, Any] = {}
    if isinstance(task.schedule, AdditiveNoise):
        numbers["noise"] = f"{127.5 * task.schedule.std[step].item():.1f} of 255" + (", estimated" if said is None else "")
    numbers |= {"energy per tile": found.energy, "steps per tile": found.steps, "forward passes": found.evaluations}
    return written | {name: value for name, value in numbers.items() if value is not None}


def _kind(out: Path) -> str:
    """Finds the format to write, before any work is done for nothing."""
    installed("PIL")
    from PIL import Image

    extensions = Image.registered_extensions()
    kind = extensions.get(out.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"out={str(out)!r}: pictures of that kind cannot be written, choose a name that ends in .png")
    return kind


def _said(task: Tiled, given: dict[str, Any], strength: float) -> tuple[float, float] | None:
    """Finds the deviation of the picture's noise beside a signal of 1, in pixels of -1 to 1, and the
    picture's own signal; None where the noise is to be estimated."""
    known = {name: value for name, value in given.items() if value is not None}
    if len(known) > 1:
        shown = ", ".join(f"{name}={value}" for name, value in known.items())
        raise ValueError(f"{shown}: each says how strong the noise is, so pass one of them")
    if not 0 < strength < math.inf:
        raise ValueError(f"strength={strength}: pass a positive number, 1 for the noise as it is")
    if not known and isinstance(task.schedule, AdditiveNoise) and task.noise_step[0] < task.noise_step[1]:
        return None
    name, value = next(iter(known.items()), ("noise_step", task.noise_step[1]))
    if name in ("noise_step", "add_noise"):
        if not 0 <= value < task.schedule.steps:
            raise ValueError(f"{name}={value}: the schedule's steps are 0 to {task.schedule.steps - 1}")
        signal = task.schedule.signal[value].item()
        return task.schedule.std[value].item() / signal, signal
    if not value > 0:
        raise ValueError(
            f"{name}={value}: pass a positive number, in {'grey levels' if name == 'sigma' else 'pixels of -1 to 1'}"
        )
    return (value / 127.5 if name == "sigma" else value), 1.0


def _estimated(energy: Any, predictor: Any, image: Tensor) -> float:
    """Estimates the deviation of a picture's noise; an energy that is told it has the last word."""
    std = estimate_noise(image)
    told = isinstance(predictor, Thinker) and takes_any_size(predictor) and not getattr(energy, "blind", False)
    return confirmed(energy, image, std) if told else std


def _step(task: Tiled, std: float, signal: float) -> tuple[int, float]:
    """Finds the step of noise of a deviation, and what a picture of that signal is multiplied by."""
    schedule = task.schedule
    if isinstance(schedule, AdditiveNoise):
        return schedule.step_of(min(std, schedule.std[-1].item())), 1.0
    step = schedule.step_of(std / math.hypot(1, std))  # signal² + std² = 1
    return step, schedule.signal[step].item() / signal


def _write(image: Tensor, path: Path, kind: str) -> None:
    """Writes a picture (C, H, W) in [-1, 1]; what lies outside is cut off."""
    from PIL import Image

    pixels = image.add(1).mul_(127.5).round_().clamp_(0, 255).to("cpu", torch.uint8).movedim(0, -1).numpy()
    with atomic(path) as draft:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(draft, format=kind, quality=95)


def _write_map(values: Tensor, path: Path) -> None:
    """Writes a map (H, W) in colours from its lowest value to its highest, dark to bright."""
    from matplotlib import colormaps
    from PIL import Image

    low, high = values.aminmax()
    levels = values.sub(low).mul_(255 / (high - low).clamp(min=1e-12)).to("cpu", torch.uint8).numpy()
    with atomic(path) as draft:
        Image.fromarray(colormaps["magma"](levels, bytes=True)[..., :3].copy()).save(draft, format="PNG")
