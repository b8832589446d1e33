"""`ebm restore MODEL PHOTO --task inpaint --mask m.png`: fill in, sharpen or enlarge a photograph."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.energies.restoration.operators import Blurred, Masked, gaussian
from ebm.files import check_outputs
from ebm.interfaces.abilities import Tiled, lacking
from ebm.runs.run import Run
from ebm.tasks.images.explaining import BALANCE, explain, filled
from ebm.tasks.images.files import Picture, format_of, lost, open_pictures, write_pictures
from ebm.tasks.images.noising import AdditiveNoise
from ebm.tasks.images.photographs import read_photograph
from ebm.tasks.images.shades import Shades

SHARP = 0.1  # the prior's balance where every second pixel was seen: it has less to say
ALIASING = 0.8  # pixels of blur before every second pixel is taken, as cameras and programs have


def restore(
    run: Run,
    photo: Path,
    /,
    *,
    task: Literal["inpaint", "deblur", "enlarge"] = "inpaint",
    out: Path | None = None,
    mask: Path | None = None,
    blur: float = 1.6,
    sigma: float = 0.5,
    steps: int = 30,
) -> dict[str, Any]:
    """Fill in, sharpen or enlarge a photograph: the run's energy is the prior, the photo what was seen.

    Args:
        run: the run folder, or a model's name: of additive noise and an energy of any size.
        photo: what was seen.
        task: "inpaint" fills in where the mask is white, "deblur" takes a Gaussian blur off, "enlarge"
            makes height and width twice as large.
        out: the picture to write; by default the photo's name with -restored, in this folder.
        mask: for inpaint, a picture of the photo's size, white where nothing was seen.
        blur: for deblur, the standard deviation of the blur, in pixels.
        sigma: the photo's noise, in grey levels of 255.
        steps: how many steps the prior takes.

    Returns:
        The file that was written.

    Raises:
        ValueError: the photo or the mask cannot be read, or the run or the arguments do not fit.
        FileNotFoundError: there is no such photo or mask.
    """
    judge: Any = run.judge()
    if lacking(judge, Tiled) or not isinstance(judge.schedule, AdditiveNoise) or not getattr(run.energy, "any_size", False):
        raise ValueError(f"{run.path} is no prior of photographs: name a run of additive noise, as ebm run restore trains")
    if (task == "inpaint") == (mask is None):
        raise ValueError(f"task={task!r}, mask={mask}: inpaint needs a mask, white where nothing was seen, and nothing else does")
    if not (blur > 0 and 0 <= sigma <= 255):
        raise ValueError(f"blur={blur}, sigma={sigma}: pass a positive blur in pixels, and noise of 0 to 255 grey levels")
    photo = Path(photo)
    out = Path(f"{photo.stem}-restored.png") if out is None else Path(out)
    format_of(out)
    check_outputs(out, photo=photo)
    file = open_pictures(photo)
    picture = file.first()
    shades = Shades(picture, judge.spec["channels"], run.device)
    more = [f"it has {file.count} pictures, of which the first is restored"] if file.count > 1 else []
    more += ["it has colours, and the run knows greys alone: it is written grey"] if shades.loses_colours else []
    for said in (*file.said, *more, *lost(file, out, picture)):
        warnings.warn(f"{photo}: {said}", stacklevel=2)
    image = shades.decode(torch.from_numpy(picture.visible()).movedim(-1, 0)[None])[0].clone()
    operator, start = _seen_by(task, image, mask, blur)
    balance = SHARP if task == "enlarge" else BALANCE
    found = explain(run.energy, operator, image, sigma / 127.5, start, steps=steps, balance=balance)  # type: ignore[arg-type]
    write_pictures(out, [_pictured(picture, shades.encode(found))], like=file if file.count == 1 else None)
    return {"picture": out}


def _pictured(picture: Picture, pixels: Tensor) -> Picture:
    """Gives pixels (C, H, W), of the picture's size or twice that, all that belongs to the picture."""
    made, alpha = pixels.movedim(0, -1).numpy(), picture.alpha
    if made.shape[:2] == picture.pixels.shape[:2]:
        return picture.with_visible(made)
    return replace(picture, pixels=made, alpha=None if alpha is None else alpha.repeat(2, 0).repeat(2, 1))


def _seen_by(task: str, image: Tensor, mask: Path | None, blur: float) -> tuple[Any, Tensor]:
    """Finds the operator that a photo was seen by, and a picture to start from."""
    if task == "deblur":
        return Blurred(gaussian(blur)).to(image.device), image.clone()
    if task == "enlarge":
        start = F.interpolate(image[None], scale_factor=2, mode="bicubic", align_corners=False)[0]
        return Blurred(gaussian(ALIASING), every=2).to(image.device), start
    hidden = read_photograph(mask, 1)[0].to(image.device) > 127  # type: ignore[arg-type]
    if hidden.shape != image.shape[1:]:
        sizes = f"{tuple(hidden.shape)} pixels, the photo {tuple(image.shape[1:])}"
        raise ValueError(f"mask={str(mask)!r} has {sizes}: pass one of the photo's size")
    if bool(hidden.all()):
        raise ValueError(f"mask={str(mask)!r} is white all over: nothing is left to restore from")
    kept = ~hidden
    image.mul_(kept)  # what is hidden was not seen
    return Masked(kept), filled(image, kept)
