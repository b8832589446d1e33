"""`ebm restore MODEL PHOTO --task inpaint --mask m.png`: fill in, sharpen, enlarge, or undo JPEG's losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ebm.commands.sides import check_unnamed, is_ours, write_map
from ebm.energies.restoration.operators import Blurred, Masked, Shrunk, gaussian
from ebm.energies.restoration.quantized import Quantized
from ebm.files import check_outputs
from ebm.interfaces.abilities import Tiled, lacking
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.tasks.images.explaining import BALANCE, deviation, draws, explain, filled, unquantized
from ebm.tasks.images.files import Picture, format_of, lost, open_pictures, write_pictures
from ebm.tasks.images.files.picture import as_bytes
from ebm.tasks.images.jpeg import read_jpeg
from ebm.tasks.images.noising import AdditiveNoise
from ebm.tasks.images.shades import Shades
from ebm.tasks.images.whole import takes_greys


class Way(NamedTuple):
    """How a task is solved: steps, σ_0 in grey levels, the prior's balance. Found on validation pictures."""

    steps: int
    first: float
    balance: float = BALANCE


WAYS = {"inpaint": Way(30, 55), "deblur": Way(16, 55), "enlarge": Way(16, 25, 0.03), "jpeg": Way(6, 10)}
DRAWN = 16  # steps of a sample, as its spread was calibrated with
TURNED = "it is turned upright, as its EXIF says, and the mask is laid on it so"
MOST = 0.5  # the share of hidden pixels beyond which a mask may be meant the other way round


def restore(
    run: Run,
    photo: Path,
    /,
    *,
    task: Literal["inpaint", "deblur", "enlarge", "jpeg"] = "inpaint",
    out: Path | None = None,
    mask: Path | None = None,
    blur: float | None = None,
    sigma: float | None = None,
    quality: int | None = None,
    steps: int | None = None,
    samples: int | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Fill in, sharpen or enlarge a photograph, or undo JPEG's losses: the run's energy is the prior.

    With --samples, several pictures are drawn that are likely and explain the photo, and OUT-spread.png
    is bright where they differ, so where the picture is not to be relied on.

    Args:
        run: the run folder, or a model's name: of additive noise and an energy of any size.
        photo: what was seen.
        task: "inpaint" fills in where the mask is white, "deblur" takes a Gaussian blur off, "enlarge"
            makes height and width twice as large, "jpeg" finds the likeliest picture of which JPEG
            would have made this file.
        out: the picture to write, or a folder for it, where it keeps its name; by default the photo's
            name with -restored, in this folder.
        mask: for inpaint, a picture of the photo's size (upright), white where nothing was seen; what is
            transparent is not white.
        blur: for deblur, the standard deviation of the blur, in pixels; by default 1.6.
        sigma: the photo's noise, in grey levels of 255; by default 0.5. Less than 2.5 counts as 2.5.
        quality: for jpeg, of a photo that is no JPEG file any more: what it was written with.
        steps: how many steps the prior takes; by default what the task needs.
        samples: how many pictures are drawn, at least 2 (for all tasks but jpeg).
        overwrite: replace a picture that is there already, where `out` does not name it.
        seed: what every draw is derived from.

    Returns:
        The file that was written; with samples, also the map, and the mean and the largest standard
        deviation of pixels, in grey levels: about nine of ten pixels are within 1.645 of them.

    Raises:
        ValueError: the photo or the mask cannot be read, or the run or the arguments do not fit.
        FileNotFoundError: there is no such photo or mask.
    """
    judge: Any = run.judge()
    energy: Any = run.energy
    if lacking(judge, Tiled) or not isinstance(judge.schedule, AdditiveNoise) or not getattr(energy, "any_size", False):
        raise ValueError(f"{run.path} is no prior of photographs: name a run of additive noise, as ebm run restore trains")
    if getattr(energy, "blind", False):
        raise ValueError(f"{run.path} is blind, and must be told how much is wrong: train with energy.blind = false")
    _check(task, mask=mask, blur=blur, sigma=sigma, quality=quality, samples=samples)
    way, photo = WAYS[task], Path(photo)
    steps = way.steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps={steps}: pass a number of at least 1")
    if photo.is_dir():
        raise ValueError(f"{photo} is a folder: name a picture, one at a time")
    named, out = out, _target(photo, out)
    format_of(out)
    check_unnamed(out, named, photo, overwrite)
    sides = [] if samples is None else [out.with_name(f"{out.stem}-spread.png")]
    check_outputs(out, *sides, photo=photo, **({} if mask is None else {"mask": Path(mask)}))
    for side in sides:
        if side.exists() and not is_ours(side):
            raise ValueError(f"{str(side)!r} is there, and was not written by this command: choose another name for out")
    file = open_pictures(photo)
    picture = file.first()
    total = steps if samples is None else steps + DRAWN
    with tqdm(total=total, unit="step", desc=photo.name, disable=None, dynamic_ncols=True) as bar:  # on a terminal alone
        if task == "jpeg":
            said, made = _of_jpeg(run, photo, picture, quality, steps, way, bar.update)
            found, spread = replace(picture, pixels=made) if picture.alpha is None else picture.with_visible(made), None
        else:
            shades = Shades(picture, judge.spec["channels"], run.device, takes_greys(energy))
            image = shades.decode(torch.from_numpy(picture.visible()).movedim(-1, 0)[None])[0].clone()
            operator, start, said = _seen_by(task, image, mask, 1.6 if blur is None else blur)
            said += [TURNED] if task == "inpaint" and _turned(photo) else []
            said += ["it has colours, and the run knows greys alone: it is written grey"] if shades.loses_colours else []
            std, first, spread = (0.5 if sigma is None else sigma) / 127.5, way.first / 127.5, None
            likely = explain(
                energy, operator, image, std, start, steps=steps, first=first, balance=way.balance, advance=bar.update
            )
            if samples is not None:
                draw = stream(seed, "restore", device=run.device)
                drawn = draws(energy, operator, image, std, start, samples, steps=DRAWN, generator=draw, advance=bar.update)
                spread = deviation(drawn).square().mean(0).sqrt()
            found = _pictured(picture, shades.encode(likely))
    more = [f"it has {file.count} pictures, of which the first is restored"] if file.count > 1 else []
    for each in (*file.said, *more, *said, *lost(file, out, picture)):
        warnings.warn(f"{photo}: {each}", stacklevel=2)
    write_pictures(out, [found], like=file if file.count == 1 else None)
    if spread is None:
        return {"picture": out}
    numbers = {
        "mean deviation": f"{127.5 * float(spread.mean()):.1f} of 255",
        "largest": f"{127.5 * float(spread.max()):.1f} of 255",
    }
    write_map(spread, sides[0])
    return {"picture": out, "spread": sides[0], **numbers}


def _target(photo: Path, out: Path | None) -> Path:
    """Finds the name of a photo's picture."""
    if out is None:
        return Path(f"{photo.stem}-restored.png")
    return Path(out) / photo.name if Path(out).is_dir() else Path(out)


def _check(task: str, **given: Any) -> None:
    """Raises ValueError where arguments do not fit the task, or their numbers cannot be."""
    belongs: dict[str, tuple[str, ...]] = {"mask": ("inpaint",), "blur": ("deblur",), "quality": ("jpeg",)}
    belongs |= {"sigma": ("inpaint", "deblur", "enlarge"), "samples": ("inpaint", "deblur", "enlarge")}
    if task not in WAYS:
        raise ValueError(f"task={task!r}: pass one of {', '.join(WAYS)}")
    if task == "inpaint" and given["mask"] is None:
        raise ValueError("task='inpaint', mask=None: inpaint needs a mask, a picture that is white where nothing was seen")
    for name, value in given.items():
        if value is not None and task not in belongs[name]:
            raise ValueError(f"task={task!r}, {name}={str(value)!r}: {name} is of {', '.join(belongs[name])}, so leave it out")
    blur, sigma, samples = given["blur"], given["sigma"], given["samples"]
    if blur is not None and not 0 < blur < float("inf"):
        raise ValueError(f"blur={blur}: pass a positive deviation, in pixels")
    if sigma is not None and not 0 <= sigma <= 255:
        raise ValueError(f"sigma={sigma}: pass the noise's deviation, 0 to 255 grey levels")
    if samples is not None and samples < 2:
        raise ValueError(f"samples={samples}: pass at least 2, so that they have a spread")


def _of_jpeg(
    run: Run, photo: Path, picture: Picture, quality: int | None, steps: int, way: Way, advance: Callable[[int], object]
) -> tuple[list[str], np.ndarray]:
    """Restores what JPEG lost of a photo's brightness: what is to be said, and its pixels."""
    if run.judge().spec["channels"] != 1:
        raise ValueError(f"{run.path} knows colours: for jpeg name a run of greys, which restores brightness and keeps colours")
    jpeg = read_jpeg(photo, quality)
    start = (jpeg.brightness.float() / 127.5 - 1)[None].to(run.device)
    data = Quantized(jpeg.brightness, jpeg.table).to(run.device)
    found = unquantized(run.energy, data, start, steps=steps, first=way.first / 127.5, advance=advance)  # type: ignore[arg-type]
    said = (
        []
        if jpeg.colours is None or (jpeg.colours == 128).all()
        else ["its brightness is restored, its colours are kept as they are"]
    )
    return said, jpeg.with_brightness(found[0])


def _pictured(picture: Picture, pixels: Tensor) -> Picture:
    """Gives pixels (C, H, W), of the picture's size or twice that, all that belongs to the picture."""
    made, alpha = pixels.movedim(0, -1).numpy(), picture.alpha
    if made.shape[:2] == picture.pixels.shape[:2]:
        return picture.with_visible(made)
    return replace(picture, pixels=made, alpha=None if alpha is None else alpha.repeat(2, 0).repeat(2, 1))


def _seen_by(task: str, image: Tensor, mask: Path | None, blur: float) -> tuple[Any, Tensor, list[str]]:
    """Finds the operator that a photo was seen by, a picture to start from, and what is to be said."""
    if task == "deblur":
        operator = Blurred(gaussian(blur)).to(image.device)
        operator(image[None])  # a blur that is too wide is said before any work is done
        return operator, image.clone(), []
    if task == "enlarge":
        start = F.interpolate(image[None], scale_factor=2, mode="bicubic", align_corners=False)[0]
        return Shrunk(2), start, []
    levels = _levels(mask).to(image.device)  # type: ignore[arg-type]
    hidden, share = levels > 127, float((levels > 127).float().mean())
    if hidden.shape != image.shape[1:]:
        sizes = f"{hidden.shape[1]} x {hidden.shape[0]} pixels, the photo {image.shape[2]} x {image.shape[1]}"
        raise ValueError(f"mask={str(mask)!r} has {sizes}, both upright: pass one of the photo's size")
    if share == 1:
        raise ValueError(f"mask={str(mask)!r} is white all over: nothing is left to restore from")
    if share == 0:
        most = f"its brightest pixel is {int(levels.max())} of 255, transparent ones counting as 0"
        raise ValueError(f"mask={str(mask)!r} is white nowhere, {most}: nothing is to be filled in, white is what was not seen")
    said = (
        [f"its mask hides {share:.0%}: white is what was not seen, so turn it around if the rest was meant"]
        if share > MOST
        else []
    )
    if float(((levels > 25) & (levels < 230)).float().mean()) > 0.02:
        said.append("its mask has greys: those above the middle count as white, the others as black")
    kept = ~hidden
    image.mul_(kept)  # what is hidden was not seen
    return Masked(kept), filled(image, kept), said


def _levels(mask: Path) -> Tensor:
    """Reads how white a mask is (H, W), 0 to 255: what is transparent is not."""
    file = open_pictures(mask)
    picture, more = file.first(), [f"it has {file.count} frames or pages, of which the first is read"] if file.count > 1 else []
    for said in (*file.said, *more):
        warnings.warn(f"{mask}: {said}", stacklevel=4)
    levels = torch.from_numpy(as_bytes(replace(picture, alpha=None), 1)[..., 0].copy())
    if picture.alpha is None:
        return levels
    return (levels * (torch.from_numpy(picture.alpha.astype("float32")) / picture.full)).round().to(torch.uint8)


def _turned(photo: Path) -> bool:
    """Tells whether a file's EXIF turns or mirrors its picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(photo) as file:
            return file.getexif().get(274, 1) != 1  # the tag of the orientation
    except OSError:  # of a kind that Pillow does not read
        return False
