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
from ebm.tasks.images.photographs import read_photograph
from ebm.tasks.images.tiling import count_tiles, patch_scores, restore


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
        steps: steps per landscape; by default the run's.
        candidates: starts that are tried for each tile, of which the energy chooses.
        patience: think until the energy fell no further for this many steps, --steps at most.
        tolerance: with --patience, the least fall that counts, as a share of the energy.
        stride: pixels between neighbouring tiles; by default the task's.
        noise_step: the schedule's step of the picture's noise; by default training's strongest.
        noise_std: instead, the standard deviation of its noise, for pixels of -1 to 1.
        add_noise: take the picture as clean, and add the noise of this step.
        map: write the map (of an energy that knows its patches' energies).
        batch_size: how many tiles are denoised together.
        seed: what every random draw is derived from.

    Returns:
        The files that were written, and means over tiles: energy, steps, and forward passes.

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
    step, signal = _strength(task, noise_step, noise_std, add_noise)
    predictor = run.predictor(steps, candidates, patience, tolerance)
    image = read_photograph(photo, task.spec["channels"]).to(run.device).to(torch.float32).div_(127.5).sub_(1)
    generator, written = stream(seed, "denoise", device=run.device), {}
    if add_noise is not None:
        noise = randn_like(image[None], generator)
        image = task.schedule.noised(image[None], torch.tensor([step], device=image.device), noise)[0]
        del noise
        written["noisy"] = sides["noisy"]
        _write(image, written["noisy"], "PNG")
    stride = task.stride if stride is None else stride
    total = count_tiles(image.shape[1], image.shape[2], task.tile, stride)
    if patience is not None:  # at most; tiles take their steps together
        total *= check_steps(run.sampler.steps if steps is None else steps)[1]
    with tqdm(total=total, unit="tile", disable=None, dynamic_ncols=True) as bar:  # on a terminal alone
        found = restore(
            predictor,
            image.mul_(signal),
            tile=task.tile,
            stride=stride,
            step=step,
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
    numbers = {"energy per tile": found.energy, "steps per tile": found.steps, "forward passes": found.evaluations}
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


def _strength(task: Tiled, noise_step: int | None, noise_std: float | None, add_noise: int | None) -> tuple[int, float]:
    """Finds the step of the picture's noise, and what the schedule multiplies pictures by."""
    given = {"noise_step": noise_step, "noise_std": noise_std, "add_noise": add_noise}
    if sum(value is not None for value in given.values()) > 1:
        shown = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
        raise ValueError(f"{shown}: each says how strong the noise is, so pass one of them")
    schedule = task.schedule
    if noise_std is not None:
        if not noise_std > 0:
            raise ValueError(f"noise_std={noise_std}: pass a positive number, in pixels of -1 to 1")
        step = schedule.step_of(noise_std / math.hypot(1, noise_std))  # signal² + std² = 1
        return step, schedule.signal[step].item()
    for name, value in (("noise_step", noise_step), ("add_noise", add_noise)):
        if value is not None and not 0 <= value < schedule.steps:
            raise ValueError(f"{name}={value}: the schedule's steps are 0 to {schedule.steps - 1}")
    return next(value for value in (noise_step, add_noise, task.noise_step[1]) if value is not None), 1.0


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
