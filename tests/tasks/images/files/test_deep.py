"""Laws of pixels of more than 8 bits, which Pillow would cut."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image, features

from ebm.tasks.images.files import open_pictures
from ebm.tasks.images.files.deep import bits_of, encoded_png
from tests.tasks.images.files.samples import COLOURS, only


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_a_png_keep_the_last_one(channels):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    found = only(encoded_png(deep))
    whole = found.pixels if found.alpha is None else np.concatenate([found.pixels, found.alpha[..., None]], -1)
    assert np.array_equal(whole, deep)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def animated(png: bytes) -> bytes:
    """Makes an animation of a PNG file's picture, shown twice (APNG 1.0)."""
    head, idat = png[:33], png.index(b"IDAT")
    pixels = png[idat + 4 : idat + 4 + int.from_bytes(png[idat - 4 : idat], "big")]
    frames = [struct.pack(">IIIIIHHBB", number, 7, 5, 0, 0, 1, 10, 0, 0) for number in (0, 1)]
    parts = [(b"acTL", struct.pack(">II", 2, 0)), (b"fcTL", frames[0]), (b"IDAT", pixels)]
    parts += [(b"fcTL", frames[1]), (b"fdAT", struct.pack(">I", 2) + pixels), (b"IEND", b"")]
    return head + b"".join(chunk(*part) for part in parts)


def jpeg2000(pixels: np.ndarray) -> bytes:
    context = av.CodecContext.create("jpeg2000", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 7, 5, "rgb48le", 1
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


@pytest.mark.parametrize("kind", ["png", "ppm"])
def test_one_picture_of_16_bits_is_read_whole_and_nothing_is_said(kind):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    content = encoded_png(deep) if kind == "png" else b"P6\n# by hand\n7 5\n65535\n" + deep.astype(">u2").tobytes()
    assert np.array_equal(only(content).pixels, deep)
    assert open_pictures(content).said == ()


@pytest.mark.parametrize("kind", ["animation", "jpeg2000"])
def test_what_is_read_as_8_bits_is_said(kind):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    file = open_pictures(animated(encoded_png(deep)) if kind == "animation" else jpeg2000(deep))
    assert "its 16 bits a colour are read as 8" in file.said[0]
    assert np.abs(file.first().pixels - deep / 257).mean() < (2 if kind == "animation" else 30)
    eight = BytesIO()
    Image.fromarray((deep // 257).astype(np.uint8)).save(eight, "JPEG2000")
    assert open_pictures(eight.getvalue()).said == ()


@pytest.mark.skipif(not features.check("avif"), reason="Pillow has no AVIF here")
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_bits_of_avif_are_those_of_its_pixi_box(bits):
    file = BytesIO()
    Image.fromarray(COLOURS).save(file, "AVIF")
    head = file.getvalue()
    place = head.index(b"pixi") + 9  # its version, its flags and its number of channels lie between
    head = head[:place] + bytes([bits] * 3) + head[place + 3 :]
    assert bits_of(SimpleNamespace(format="AVIF"), head) == bits
    assert bits_of(SimpleNamespace(format="HEIF", info={"bit_depth": bits}), b"") == bits
