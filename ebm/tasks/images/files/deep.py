"""Pixels of more than 8 bits a colour, which Pillow cuts: which files have them, and PNG by FFmpeg (PyAV)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from ebm.optional import installed

LAYOUTS = {1: "gray16be", 2: "ya16be", 3: "rgb48be", 4: "rgba64be"}  # channels -> what FFmpeg calls 16 bits of them
# Where a file says how many bits a colour has. PNG: IHDR; PPM: the largest value; AVIF: its pixi box; JPEG 2000: SIZ.
WHERE = {
    "PNG": rb"\A.{24}(.)",
    "PPM": rb"\AP6\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+(\d+)",
    "AVIF": rb"pixi.{5}(.)",
    "JPEG2000": rb"\xff\x4f\xff\x51.{38}(.)",
}
PIXELS = (b"IHDR", b"IDAT", b"IEND")  # chunks of a PNG file that say no more than its pixels


def bits_of(image: Any, head: bytes) -> int:
    """Tells how many bits a colour has in a file that Pillow has opened, whatever Pillow makes of them.

    Arguments:
        image: Pillow's.
        head: how the file begins.
    """
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))
    if image.format == "HEIF":
        return image.info.get("bit_depth", 8)
    found = re.search(WHERE.get(image.format, b"(?!)"), head, re.DOTALL)
    if found is None:
        return 8
    if image.format == "PPM":
        return int(found[1]).bit_length()
    return found[1][0] if image.format != "JPEG2000" else 1 + found[1][0] % 128  # above 128 with a sign


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
    channels = {name[:-2]: channels for channels, name in LAYOUTS.items()}.get(frame.format.name[:-2])
    if channels is None:
        raise ValueError(f"its pixels are {frame.format.name}, and read are 16 bits of greys or colours, with alpha or without")
    plane = frame.planes[0]  # whose lines may be longer than the picture is wide
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : 2 * channels * frame.width]
    pixels = lines.copy().view(">u2" if frame.format.name.endswith("be") else "<u2")
    return pixels.reshape(frame.height, frame.width, channels).astype(np.uint16)


def encoded_png(pixels: np.ndarray, like: bytes = b"") -> bytes:
    """Encodes uint16 pixels (H, W, C) of 1 to 4 channels as a PNG file, the last of 2 or 4 is alpha.

    Arguments:
        pixels: the pixels.
        like: another PNG file, which has all that belongs to the picture.
    """
    installed("av")
    import av

    height, width, channels = pixels.shape
    context: Any = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, LAYOUTS[channels], Fraction(1)
    frame = av.VideoFrame(width, height, LAYOUTS[channels])
    lines = np.zeros((height, frame.planes[0].line_size), np.uint8)
    lines[:, : 2 * channels * width] = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    frame.planes[0].update(lines.tobytes())
    file = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    head, *body = (chunk for kind, chunk in _chunks(file) if kind in PIXELS)  # without what FFmpeg guesses of resolution
    return b"".join([file[:8], head, *(chunk for kind, chunk in _chunks(like) if kind not in PIXELS), *body])


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Iterates over a PNG file's chunks: their kinds, and all of each."""
    place = 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        yield png[place + 4 : place + 8], png[place:end]
        place = end
