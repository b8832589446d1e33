"""Pixels of more than 8 bits a colour, which Pillow cannot hold: PNG by PyAV, TIFF by tifffile."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ebm.optional import installed

PNG_FORMATS = {1: "gray16be", 2: "ya16be", 3: "rgb48be", 4: "rgba64be"}  # channels -> what FFmpeg calls 16 bits of them
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such a file begins; the last two of more than 4 GB


def decoded(content: bytes, codec: str) -> np.ndarray:
    """Decodes one picture by FFmpeg: uint16 (H, W, C) of 1 to 4 channels, the last of 2 or 4 is alpha.

    Arguments:
        content: what is in the file.
        codec: "png", "ppm" or "tiff".

    Raises:
        ImportError: PyAV is not installed.
        ValueError: it has other pixels.
    """
    installed("av")
    import av

    context: Any = av.CodecContext.create(codec, "r")
    frame = [*context.decode(av.Packet(content)), *context.decode(None)][0]
    channels = {name[:-2]: channels for channels, name in PNG_FORMATS.items()}.get(frame.format.name[:-2])
    if channels is None:
        raise ValueError(f"its pixels are {frame.format.name}, and read are 16 bits of greys or colours, with alpha or without")
    order = ">u2" if frame.format.name.endswith("be") else "<u2"
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8, frame.height * plane.line_size).reshape(frame.height, plane.line_size)
    pixels = lines[:, : 2 * channels * frame.width].copy().view(order)
    return pixels.reshape(frame.height, frame.width, channels).astype(np.uint16)


def encoded_png(pixels: np.ndarray) -> bytes:
    """Encodes uint16 pixels (H, W, C) of 1 to 4 channels as a PNG file, without anything beside them."""
    installed("av")
    import av

    height, width, channels = pixels.shape
    context: Any = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, PNG_FORMATS[channels], Fraction(1)
    frame = av.VideoFrame(width, height, PNG_FORMATS[channels])
    lines = np.zeros((height, frame.planes[0].line_size), np.uint8)
    lines[:, : 2 * channels * width] = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    frame.planes[0].update(lines.tobytes())
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def tiff_pages(source: str | Path | BinaryIO) -> list[tuple[np.ndarray, bool, dict[int, Any]]]:
    """Reads a TIFF file's pages: pixels (H, W, C), whether the last channel is alpha, and tags.

    Raises:
        ImportError: tifffile is not installed.
        ValueError: it has a compression that tifffile cannot read, or pages of other shapes.
    """
    installed("tifffile")
    import tifffile

    found = []
    with tifffile.TiffFile(source) as file:
        for page in file.pages:
            keyframe: Any = page.aspage()
            pixels = keyframe.asarray()
            if keyframe.planarconfig == 2 and pixels.ndim == 3:  # planes side by side
                pixels = np.moveaxis(pixels, 0, -1)
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            if pixels.ndim != 3 or keyframe.photometric not in (0, 1, 2):
                raise ValueError(f"a page of it has shape {pixels.shape} and is {keyframe.photometric.name.lower()}")
            alpha = pixels.shape[-1] in (2, 4) and any(int(each) in (1, 2) for each in keyframe.extrasamples)
            if alpha and 1 in map(int, keyframe.extrasamples):  # colours were multiplied by it
                full = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
                cover = np.maximum(pixels[..., -1:].astype(np.float64), full / 65536)
                colours = (pixels[..., :-1] * (full / cover)).clip(0, full)
                colours = colours if pixels.dtype.kind == "f" else colours.round()
                pixels = np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], -1)
            if keyframe.photometric == 0 and pixels.dtype.kind == "u":  # 0 is white
                pixels = np.iinfo(pixels.dtype).max - pixels
            found.append(
                (pixels, alpha, {tag.code: tag.value for tag in keyframe.tags.values() if tag.code in (282, 283, 296, 34675)})
            )
    return found


def write_tiff(path: Path, pages: Iterable[tuple[np.ndarray, bool, dict[str, Any]]]) -> None:
    """Writes pages as a TIFF file: pixels (H, W, C), whether the last channel is alpha, and what belongs to them.

    The latter has `dpi`, a pair; `icc`, bytes; `compressed`; `tags`, the plain ones by their numbers;
    and `exif`, a sub-directory as bytes of a TIFF directory at a given offset, or None.
    """
    installed("tifffile")
    import tifffile

    directories = []
    with tifffile.TiffWriter(path, byteorder="<") as file:
        for pixels, alpha, belongings in pages:
            options: dict[str, Any] = {"extrasamples": ["unassalpha"]} if alpha else {}
            if belongings["dpi"]:
                options |= {"resolution": belongings["dpi"], "resolutionunit": "INCH"}
            tags = [(number, *kind, value, True) for number, (kind, value) in belongings["tags"].items()]
            directories.append(belongings["exif"])
            file.write(
                pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
                photometric="rgb" if pixels.shape[-1] > 2 else "minisblack",
                planarconfig="contig" if pixels.shape[-1] > 1 else None,
                iccprofile=belongings["icc"] or None,
                compression="zlib" if belongings["compressed"] else None,
                extratags=[*tags, *([(STAND_IN, "I", 1, 1, True)] if directories[-1] else [])],
                metadata=None,
                software=False,
                contiguous=False,
                **options,
            )
    for number, directory in enumerate(directories):  # whose offsets are known once they are written
        if directory is not None:
            with path.open("r+b") as raw:
                place = raw.seek(0, 2) + raw.tell() % 2
                raw.seek(place)
                raw.write(directory(place))
            with tifffile.TiffFile(path, mode="r+") as file:
                tag = file.pages[number].aspage().tags[STAND_IN]
                tag.overwrite(place)
                file.filehandle.seek(tag.offset)
                file.filehandle.write(EXIF.to_bytes(2, "little"))


EXIF = 0x8769  # the tag of a sub-directory, which tifffile does not write
STAND_IN = EXIF - 1  # so that tags stay in their order
