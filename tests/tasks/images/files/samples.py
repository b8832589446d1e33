"""Pictures that tests of picture files write and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from ebm.tasks.images.files import Picture, open_pictures, write_pictures

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SCENE = np.stack(np.meshgrid(np.arange(40) * 6, np.arange(30) * 8, indexing="xy"), -1).astype(np.uint8)
COLOURS = np.concatenate([SCENE, 255 - SCENE[..., :1]], -1)  # (30, 40, 3), no two corners alike


def exif(orientation: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x010F], found[0x0132] = orientation, "Maker", "2021:02:03 04:05:06"
    found[0x8769] = {0x829A: 0.25, 0xA002: 99, 0xA003: 98}  # seconds of exposure, a width and a height
    return found


def only(source, white=None) -> Picture:
    (found,) = open_pictures(source, white)
    return found


def again(path: Path, out: Path, **options) -> Picture:
    """Reads a file, writes it as another, and reads that."""
    file = open_pictures(path)
    write_pictures(out, file, like=file, **options)
    return only(out)
