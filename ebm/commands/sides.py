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
