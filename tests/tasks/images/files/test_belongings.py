"""Laws of what belongs to a picture: it is turned once, and all that its file says of it stays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ebm.tasks.images.files import Picture, write_pictures
from tests.tasks.images.files.samples import COLOURS, PROFILE, again, exif, only


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif", ".webp"])
def test_a_picture_is_turned_once(tmp_path, orientation, kind):
    """However often it is read and written again; an oracle turns the corners by the definition."""
    file, out = tmp_path / f"a{kind}", tmp_path / f"b{kind}"
    how = {"quality": 100, "subsampling": 0} if kind == ".jpg" else {"lossless": True} if kind == ".webp" else {}
    Image.fromarray(COLOURS).save(file, exif=exif(orientation).tobytes(), **how)
    # Where the stored picture's first row and first column are, by the standard.
    rows, columns = np.mgrid[:30, :40]
    height, width = (40, 30) if orientation > 4 else (30, 40)
    y, x = (columns, rows) if orientation > 4 else (rows, columns)
    y = height - 1 - y if orientation in (3, 4, 7, 8) else y
    x = width - 1 - x if orientation in (2, 3, 6, 7) else x
    expected = np.zeros((height, width, 3), np.uint8)
    expected[y, x] = COLOURS
    for found in (only(file), again(file, out), again(out, tmp_path / f"c{kind}")):
        assert np.abs(found.pixels.astype(int) - expected).max() < 12
    with Image.open(tmp_path / f"c{kind}") as image:
        held = image.getexif()
        assert held.get(0x0112, 1) == 1
        assert held[0x010F] == "Maker"
        inner = held.get_ifd(0x8769)
        assert float(inner[0x829A]) == 0.25
        assert (inner[0xA002], inner[0xA003]) == (width, height)


def test_sixteen_bits_are_turned_and_keep_what_belongs_to_them(tmp_path):
    deep = COLOURS.astype(np.uint16) * 256 + 7
    write_pictures(tmp_path / "a.png", [Picture(deep, 65535.0, exif=exif(6).tobytes(), icc=PROFILE, dpi=(300.0, 300.0))])
    for kind in (".png", ".tif"):
        found = again(tmp_path / "a.png", tmp_path / f"b{kind}")
        assert np.array_equal(found.pixels, np.rot90(deep, -1))
        assert found.icc == PROFILE
        assert found.dpi == pytest.approx((300, 300), rel=1e-3)
        held = Image.Exif()
        held.load(found.exif)
        assert held.get(0x0112, 1) == 1
        assert held[0x010F] == "Maker"
        assert float(held.get_ifd(0x8769)[0x829A]) == 0.25


@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif"])
def test_resolution_profile_and_texts_stay(tmp_path, kind):
    file, how = tmp_path / f"a{kind}", {}
    if kind == ".png":
        how["pnginfo"] = PngImagePlugin.PngInfo()
        how["pnginfo"].add_text("Title", "a slope")
        how["pnginfo"].add_itxt("Ort", "Köln")
    elif kind == ".jpg":
        how = {"comment": b"a slope", "xmp": b"<x:xmpmeta/>"}
    Image.fromarray(COLOURS).save(file, dpi=(72, 144), icc_profile=PROFILE, **how)
    again(file, tmp_path / f"b{kind}")
    with Image.open(tmp_path / f"b{kind}") as image:
        image.load()
        assert tuple(map(float, image.info["dpi"])) == pytest.approx((72, 144), abs=0.1)
        assert image.info["icc_profile"] == PROFILE
        if kind == ".png":
            assert image.text == {"Title": "a slope", "Ort": "Köln"}
        elif kind == ".jpg":
            assert (image.info["comment"], image.info["xmp"]) == (b"a slope", b"<x:xmpmeta/>")


def test_a_huge_profile_and_a_progressive_file_stay(tmp_path):
    profile = PROFILE + bytes(200_000)
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", icc_profile=profile, progressive=True, subsampling=1)
    again(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["icc_profile"] == profile
        assert image.info["progressive"]
        assert image.layer[0][1:3] == (2, 1)  # halved across alone, as before


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("kind", [".tif", ".png", ".jpg", ".webp"])
def test_places_and_a_makers_notes_stay(tmp_path, dtype, kind):
    said = exif()
    said[0x8825] = {1: "N", 2: (50.0, 30.0, 1.5)}
    said[0x8769] = {0x829A: 0.25, 0x927C: b"\x01notes\0" * 9, 0xA005: {1: "R98"}}
    full = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    picture = Picture((COLOURS / 255 * full).astype(dtype), full, exif=said.tobytes())
    write_pictures(tmp_path / "a.tif", [picture])
    found = again(tmp_path / "a.tif", tmp_path / f"b{kind}")
    held = Image.Exif()
    held.load(found.exif)
    assert held[0x010F] == "Maker"
    assert [*map(float, held.get_ifd(0x8825)[2])] == [50.0, 30.0, 1.5]
    assert held.get_ifd(0x8769)[0x927C] == b"\x01notes\0" * 9
    assert held.get_ifd(0xA005) == {1: "R98"}


@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif", ".webp"])
def test_xmp_stays_and_turns_nothing_twice(tmp_path, kind):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="%d"/>'
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif(6).tobytes(), xmp=xmp % 6, quality=100, subsampling=0)
    for file, out in ((tmp_path / "a.jpg", tmp_path / f"b{kind}"), (tmp_path / f"b{kind}", tmp_path / f"c{kind}")):
        found = again(file, out)
        assert found.texts["xmp"] == xmp % 1
        assert np.abs(found.pixels.astype(int) - np.rot90(COLOURS, -1)).max() < 12
