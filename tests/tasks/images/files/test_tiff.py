"""Laws of TIFF files: pixels of any depth, however they lie, and pages of their own."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from ebm.tasks.images.files import Picture, open_pictures, tiff, write_pictures
from ebm.tasks.images.files.picture import picture_of
from tests.tasks.images.files.samples import COLOURS, PROFILE, SCENE, again, exif, only


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bits_a_colour_are_read_however_they_lie(tmp_path, order, planar, compression):
    deep = COLOURS.astype(np.uint16) * 256 + 7
    tifffile.imwrite(
        tmp_path / "a.tif", deep, photometric="rgb", byteorder=order, planarconfig=planar, compression=compression
    ) if (planar == "contig") else tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(deep, -1, 0), photometric="rgb", byteorder=order, planarconfig=planar
    )
    assert np.array_equal(only(tmp_path / "a.tif").pixels, deep)


def test_a_compression_that_tifffile_leaves_to_others_is_read(tmp_path):
    av = pytest.importorskip("av")
    deep = COLOURS.astype(np.uint16) * 256 + 7
    context = av.CodecContext.create("tiff", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 40, 30, "rgb48le", 1
    context.options = {"compression_algo": "lzw"}
    packets = [*context.encode(av.VideoFrame.from_ndarray(deep, format="rgb48le")), *context.encode(None)]
    (tmp_path / "a.tif").write_bytes(b"".join(map(bytes, packets)))
    assert np.array_equal(only(tmp_path / "a.tif").pixels, deep)


def test_colours_that_were_multiplied_by_alpha_are_divided_again(tmp_path):
    """So that they may be written beside an alpha that multiplies nothing."""
    alpha = np.full((30, 40, 1), 30000, np.uint16)
    colours = (COLOURS.astype(np.uint16) * 257).astype(np.float64)
    for kind, stored in (("assocalpha", colours * (30000 / 65535)), ("unassalpha", colours)):
        whole = np.concatenate([stored.round().astype(np.uint16), alpha], -1)
        tifffile.imwrite(tmp_path / "a.tif", whole, photometric="rgb", extrasamples=[kind])
        for found in (only(tmp_path / "a.tif"), again(tmp_path / "a.tif", tmp_path / "b.tif")):
            assert np.abs(found.pixels - colours).max() <= 2
            assert (found.alpha == 30000).all()


def test_pages_of_different_sizes_and_kinds_stay(tmp_path):
    pages = [Image.fromarray(COLOURS), Image.fromarray(SCENE[:7, :9, 0]), Image.fromarray(COLOURS[:, :5])]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    file = open_pictures(tmp_path / "a.tif")
    write_pictures(tmp_path / "b.tif", file, like=file)
    assert [picture.pixels.shape for picture in open_pictures(tmp_path / "b.tif")] == [(30, 40, 3), (7, 9, 1), (30, 5, 3)]
    for picture, page in zip(open_pictures(tmp_path / "b.tif"), pages, strict=True):
        assert np.array_equal(picture.pixels.squeeze(), np.asarray(page))
    pages = [
        Picture(COLOURS, exif=exif().tobytes(), icc=PROFILE, dpi=(300.0, 300.0)),
        Picture(COLOURS),
        Picture(COLOURS, dpi=(50.0, 50.0)),
    ]
    write_pictures(tmp_path / "d.tif", pages, like=file)
    found = [*open_pictures(tmp_path / "d.tif")]
    assert [len(picture.exif) > 9 for picture in found] == [True, False, False]
    assert [picture.icc for picture in found] == [PROFILE, b"", b""]
    assert [picture.dpi for picture in found] == [(300, 300), None, (50, 50)]
    deep = [np.full((4, 5, 3), 65535, np.uint16), np.full((3, 2, 3), 9, np.uint16)]
    write_pictures(tmp_path / "c.tif", [Picture(each, 65535.0) for each in deep], like=file)
    found = open_pictures(tmp_path / "c.tif")
    assert [np.array_equal(picture.pixels, each) for picture, each in zip(found, deep, strict=True)] == [True, True]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_depth_is_turned_and_keeps_its_tags(tmp_path, big, dtype):
    pixels = (COLOURS / (255 if dtype is np.float32 else 1)).astype(dtype)
    how = {
        "resolution": (40, 20),
        "resolutionunit": "CENTIMETER",
        "extratags": [(274, "H", 1, 6, True), (271, "s", 0, "Maker", True)],
    }
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", bigtiff=big, **how)
    for found in (only(tmp_path / "a.tif"), again(tmp_path / "a.tif", tmp_path / "b.tif")):
        assert np.array_equal(found.pixels, np.rot90(pixels, -1))
        assert found.dpi == pytest.approx((101.6, 50.8))
        held = Image.Exif()
        held.load(found.exif)
        assert held[271] == "Maker"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_other_programs_read_the_pages_as_they_were(tmp_path, monkeypatch, compressed, dtype):
    """Of several strips, with alpha and without, of sizes that are odd."""
    monkeypatch.setattr(tiff, "STRIP", 100)
    numbers = np.random.default_rng(0)
    pages = [(numbers.random(shape) * 99).astype(dtype) for shape in ((5, 7, 3), (1, 1, 1), (9, 3, 4), (4, 5, 2))]
    pictures = [picture_of(page, page.shape[-1] % 2 == 0) for page in pages]
    tiff.write(tmp_path / "a.tif", pictures, compressed=compressed)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for page, found in zip(pages, file.pages, strict=True):
            assert found.compression == (8 if compressed else 1)
            assert found.offset % 2 == 0  # as the standard asks for
            assert np.array_equal(found.asarray(), page.squeeze(-1) if page.shape[-1] == 1 else page)
    for page, found in zip(pictures, tiff.pictures(tmp_path / "a.tif"), strict=True):
        assert np.array_equal(found.channels(), page.channels())
    if dtype is np.uint8:
        with Image.open(tmp_path / "a.tif") as image:
            for number, page in enumerate(pages):
                image.seek(number)
                assert np.array_equal(np.asarray(image), page[..., 0] if page.shape[-1] == 1 else page)


def test_a_file_that_tiff_cannot_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"at most 4 GB"):
        write_pictures(tmp_path / "a.tif", [Picture(COLOURS)])
    assert [*tmp_path.iterdir()] == []
