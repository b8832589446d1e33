"""Side pictures: what a command writes beside a picture, and may write anew."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from ebm.files import atomic

OURS = {"pnginfo": {"Software": "ebm denoise"}}  # what a side picture says of itself


def is_ours(side: Path) -> bool:
    """Tells whether a side picture was written by a command of this toolkit, and may be written anew."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(side) as file:  # however large it is
            return file.info.get("Software") == OURS["pnginfo"]["Software"]
    except OSError:
        return False


def check_unnamed(target: Path, out: Path | None, photo: Path, overwrite: bool) -> None:
    """Raises ValueError where a picture has the name of a file that nobody named, and that may be a person's.

    Arguments:
        target: the picture to write.
        out: what was named: a file, the folder of the picture, or nothing.
        photo: what is read; that it is not replaced is said elsewhere.
        overwrite: whether it may be replaced.
    """
    named = out is not None and not Path(out).is_dir()
    if named or overwrite or not target.exists() or (photo.exists() and target.samefile(photo)):
        return
    raise ValueError(f"{target.name} is in {out or 'this folder'} already: --overwrite replaces it, and --out names another file")


def write_map(values: Tensor, path: Path) -> None:
    """Writes a map (H, W) in colours from its lowest value to its highest, dark to bright."""
    from matplotlib import colormaps
    from PIL import Image, PngImagePlugin

    low, high = values.aminmax()
    levels = values.sub_(low).mul_(255 / (high - low).clamp(min=1e-12)).to("cpu", torch.uint8).numpy()
    image, said = Image.fromarray(levels), PngImagePlugin.PngInfo()
    image.putpalette(colormaps["magma"](range(256), bytes=True)[:, :3].tobytes())
    said.add_text("Software", OURS["pnginfo"]["Software"])
    with atomic(path) as draft:
        image.save(draft, format="PNG", pnginfo=said)
