"""What belongs to a picture beside its pixels: EXIF, resolution, profile and texts, as Pillow reads and writes them."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

from ebm.tasks.images.files.formats import BELONGINGS
from ebm.tasks.images.files.picture import Picture

ORIENTATION, XMP, ICC, EXIF, GPS, INTEROP = 0x0112, 700, 34675, 0x8769, 0x8825, 0xA005
WIDTH, HEIGHT = 0xA002, 0xA003  # what EXIF says of them
# The tags of a TIFF file that say how its pixels lie, and not what they show, or that are read apart.
LAYOUT = {*range(254, 260), 262, 263, 264, 265, 266, 273, ORIENTATION, *range(277, 285), *range(288, 294), 296, 301, 317}
LAYOUT |= {*range(318, 326), 330, *range(332, 348), *range(512, 533), XMP, ICC}


def belongings(image: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Reads what belongs to a picture that Pillow has opened, as the fields of a `Picture`.

    Arguments:
        image: Pillow's, at its frame or page.
        size: width and height of the picture once it is upright.
    """
    if image.format == "TIFF":
        return of_tags(image.getexif(), size)
    info = image.info
    plain = getattr(image, "text", {}) if image.format == "PNG" else {}
    plain = {key: text for key, text in plain.items() if not key.startswith(("Raw profile", "XML:"))}
    found = {"xmp": _xmp_of(info.get("xmp")), "comment": info.get("comment"), "pnginfo": plain}
    return {
        "exif": _exif_of(image.getexif(), size),
        "icc": info.get("icc_profile") or b"",
        "dpi": _dpi_of(info.get("dpi")),
        "duration": float(info["duration"]) if info.get("duration") else None,
        "texts": {name: value for name, value in found.items() if value},
    }


def of_tags(tags: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Reads what a page of a TIFF file says of its picture, from its tags (`PIL.Image.Exif`)."""
    inch = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))  # of inches, of centimetres; others are no lengths
    dpi = [float(tags[tag]) * inch for tag in (282, 283)] if inch and 282 in tags and 283 in tags else None
    xmp = _xmp_of(tags.get(XMP))
    return {
        "exif": _exif_of(tags, size),
        "icc": bytes(tags.get(ICC, b"")),
        "dpi": _dpi_of(dpi),
        "texts": {"xmp": xmp} if xmp else {},
    }


def _dpi_of(dpi: Any) -> tuple[float, float] | None:
    """Leaves out a resolution that says nothing."""
    if not dpi or tuple(dpi) == (1, 1) or not all(math.isfinite(each) and each > 0 for each in map(float, dpi)):
        return None
    return float(dpi[0]), float(dpi[1])


def _xmp_of(xmp: Any) -> bytes:
    """Says in XMP, too, that the picture is upright."""
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>))[1-8]", rb"\g<1>1", bytes(xmp or b""))


def _exif_of(held: Any, size: tuple[int, int]) -> bytes:
    """Writes a picture's EXIF anew, without its orientation and the layout of a file."""
    from PIL import Image

    try:
        kept, held.bigtiff = Image.Exif(), False  # a directory of a file of more than 4 GB is small, too
        kept.load(held.tobytes())
        for tag in LAYOUT & kept.keys():
            del kept[tag]
        inner = kept.get_ifd(EXIF) if EXIF in kept else {}
        inner.update({tag: side for tag, side in zip((WIDTH, HEIGHT), size, strict=True) if tag in inner})
        return kept.tobytes() if len(kept) else b""
    except Exception as error:  # a camera's own, which no library can read
        warnings.warn(f"its EXIF cannot be read, and is left out ({error})", stacklevel=2)
        return b""


def named(picture: Picture) -> dict[str, Any]:
    """Names what belongs to a picture by the keywords of Pillow that write it."""
    found = {"exif": picture.exif, "icc_profile": picture.icc, "dpi": picture.dpi, **picture.texts}
    return {name: value for name, value in found.items() if value}


def options(picture: Picture, format: str) -> dict[str, Any]:
    """Returns what Pillow's `save` is called with; what a format does not hold is left out."""
    from PIL import PngImagePlugin

    found = {name: value for name, value in named(picture).items() if format in BELONGINGS[name][1]}
    if format == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, text in found.pop("pnginfo", {}).items():
            chunks.add_itxt(key, text) if isinstance(text, PngImagePlugin.iTXt) else chunks.add_text(key, text)
        if xmp := found.pop("xmp", b""):
            chunks.add_itxt("XML:com.adobe.xmp", xmp.decode(errors="replace"))
        found["pnginfo"] = chunks
    return found


def tags(picture: Picture) -> dict[int, Any]:
    """Lists the tags of a TIFF file that say what belongs to a picture, with sub-directories as dictionaries."""
    from PIL import Image

    held = Image.Exif()
    held.load(picture.exif)
    found = {tag: dict(held.get_ifd(tag)) if tag in (EXIF, GPS) else value for tag, value in held.items()}
    if INTEROP in found.get(EXIF, {}):
        found[EXIF][INTEROP] = dict(held.get_ifd(INTEROP))
    if picture.dpi:
        found |= {282: picture.dpi[0], 283: picture.dpi[1], 296: 2}
    others = {ICC: picture.icc, XMP: picture.texts.get("xmp")}
    return found | {tag: value for tag, value in others.items() if value}
