"""Laws of picture files: what is read and written again is the same, with all that belongs to it."""

from __future__ import annotations

import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, features

from ebm.tasks.images.deep_pixels import encoded_png
from ebm.tasks.images.picture_files import Picture, format_of, lost, open_pictures, write_pictures
from tests.helpers import laws

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


# ------------------------------------------------------------------------------------------------------------------ pixels


@st.composite
def pictures(draw):
    """Pixels of any size and depth, with alpha or without."""
    height, width, channels = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.sampled_from([1, 3]))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    numbers, full = np.random.default_rng(draw(st.integers(0, 99))), 1 if dtype is np.float32 else np.iinfo(dtype).max
    pixels = (numbers.random((height, width, channels)) * full).astype(dtype)
    pixels[0, 0] = full  # so that the range is seen
    alpha = (numbers.random((height, width)) * full).astype(dtype) if draw(st.booleans()) else None
    return Picture(pixels, float(full), alpha, icc=draw(st.sampled_from([b"", PROFILE])), dpi=(300.0, 150.0))


@given(pictures(), st.sampled_from([".png", ".tif"]))
@laws
def test_pixels_alpha_profile_and_resolution_come_back(tmp_path_factory, picture, kind):
    out = tmp_path_factory.mktemp("pictures") / f"a{kind}"
    write_pictures(out, [picture])
    found = only(out)
    if picture.pixels.dtype == np.float32 and kind == ".png":
        assert found.pixels.dtype == np.uint16
        assert np.abs(found.pixels / 65535 - picture.pixels).max() < 1e-5
    else:
        assert found.pixels.dtype == picture.pixels.dtype
        assert np.array_equal(found.pixels, picture.pixels)
        assert found.white == picture.white
        assert picture.alpha is None or np.array_equal(found.alpha, picture.alpha)
    assert (found.alpha is None) == (picture.alpha is None)
    assert found.icc == picture.icc
    assert found.dpi == pytest.approx(picture.dpi, rel=1e-3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_is_read_as_the_picture_it_shows(tmp_path, mode):
    grey = Image.fromarray(SCENE[..., 0])
    image = grey.convert("L" if mode.startswith(("I", "F")) else mode)
    if mode.startswith("I"):
        image = Image.fromarray(SCENE[..., 0].astype(np.uint16) * 257 if mode == "I;16" else SCENE[..., 0].astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(SCENE[..., 0].astype(np.float32) / 255)
    image.save(tmp_path / "a.tif")
    found = only(tmp_path / "a.tif")
    off = np.abs(found.pixels.mean(-1) / found.white * 255 - SCENE[..., 0])
    assert off.mean() < 2 if mode != "1" else abs(found.pixels.mean() - SCENE[..., 0].mean()) < 2
    assert found.pixels.shape[-1] == (1 if mode in ("1", "L", "LA", "I;16", "I", "F") else 3)
    assert (found.alpha is not None) == (mode in ("LA", "RGBA"))


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


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_a_png_keep_the_last_one(channels):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    found = only(encoded_png(deep))
    whole = found.pixels if found.alpha is None else np.concatenate([found.pixels, found.alpha[..., None]], -1)
    assert np.array_equal(whole, deep)


def test_one_colour_may_be_see_through(tmp_path):
    palette = Image.fromarray(COLOURS).quantize(8)
    palette.save(tmp_path / "p.png", transparency=3)
    assert np.array_equal(only(tmp_path / "p.png").alpha == 0, np.asarray(palette) == 3)
    Image.fromarray(COLOURS).save(tmp_path / "c.png", transparency=(0, 0, 255))
    assert np.array_equal(only(tmp_path / "c.png").alpha == 0, (COLOURS == (0, 0, 255)).all(-1))
    Image.fromarray(SCENE[..., 0]).save(tmp_path / "g.png", transparency=6)
    assert np.array_equal(only(tmp_path / "g.png").alpha == 0, SCENE[..., 0] == 6)


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


def test_an_icon_keeps_its_size(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    assert again(tmp_path / "a.png", tmp_path / "b.ico").pixels.shape == COLOURS.shape


# ------------------------------------------------------------------------------------------------------------------ ranges


def test_a_range_that_is_not_full_is_seen_and_said(tmp_path):
    for bits in (8, 10, 12, 14, 16):
        file = tmp_path / f"{bits}.tif"
        top = 2**bits - 1
        tifffile.imwrite(file, (SCENE[..., 0] / 234 * top).round().astype(np.uint16))
        opened = open_pictures(file)
        assert only(file).white == top
        assert ([f"taken as {bits} bits, {top} for white" in said for said in opened.said] == [True]) == (bits < 16)
        assert only(file, white=65535).white == 65535
        assert open_pictures(file, white=65535).said == ()


@pytest.mark.parametrize(("top", "white"), [(1.0, 1.0), (0.4, 1.0), (254.0, 255.0)])
def test_floats_say_what_is_taken_as_white(tmp_path, top, white):
    tifffile.imwrite(tmp_path / "f.tif", (COLOURS / 255 * top).astype(np.float32), photometric="rgb")
    file = open_pictures(tmp_path / "f.tif")
    assert (file.white, len(file.said)) == (white, 1)
    assert f"{white:g} is taken as white" in file.said[0]


@pytest.mark.parametrize(("low", "high"), [(0, 1.5), (-0.5, 1), (0, 4000), (-3, -1)])
def test_floats_of_another_range_are_refused_and_it_is_named(tmp_path, low, high):
    tifffile.imwrite(tmp_path / "f.tif", np.linspace(low, high, 100, dtype=np.float32).reshape(10, 10))
    with pytest.raises(ValueError, match=rf"f\.tif .*its numbers are {low:.4g} to {high:.4g}.*--white NUMBER"):
        open_pictures(tmp_path / "f.tif")
    assert only(tmp_path / "f.tif", white=2.5).white == 2.5


def test_numbers_that_are_none_are_counted(tmp_path):
    values = np.full((4, 4), 0.5, np.float32)
    values[0, :3] = np.nan
    tifffile.imwrite(tmp_path / "n.tif", values)
    with pytest.raises(ValueError, match=r"n\.tif .*3 of its numbers are not finite"):
        open_pictures(tmp_path / "n.tif")


def test_all_pages_have_one_range(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", np.stack([np.full((6, 6), 100), np.full((6, 6), 4000)]).astype(np.uint16))
    file = open_pictures(tmp_path / "s.tif")
    assert [(picture.white, picture.pixels.max()) for picture in file] == [(4095, 100), (4095, 4000)]


@pytest.mark.parametrize("white", [0, -1, float("nan"), float("inf")])
def test_a_white_that_is_none_says_so(white):
    with pytest.raises(ValueError, match="white="):
        open_pictures(b"", white)


# -------------------------------------------------------------------------------------------------------- what belongs to it


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


def test_quality_is_a_choice(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    for kind in (".jpg", ".webp", *((".avif",) if features.check("avif") else ())):
        sizes = []
        for quality in (30, None, 100):
            again(tmp_path / "a.png", tmp_path / f"b{kind}", quality=quality)
            sizes.append((tmp_path / f"b{kind}").stat().st_size)
        assert sizes == sorted(set(sizes))


def test_a_lossless_webp_stays_so(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(again(tmp_path / "a.webp", tmp_path / "b.webp").pixels, COLOURS)


def test_inks_become_colours_and_that_is_said(tmp_path):
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    file = open_pictures(tmp_path / "a.jpg")
    assert "CMYK" in file.said[0]
    assert np.abs(only(tmp_path / "a.jpg").pixels.astype(int) - COLOURS).mean() < 8


# ------------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("kind", [".gif", ".webp", ".png", *((".avif",) if features.check("avif") else ())])
def test_all_frames_and_their_times_stay(tmp_path, kind):
    shown = [Image.fromarray(np.roll(COLOURS, 7 * index, 1)) for index in range(4)]
    how = {"lossless": True} if kind == ".webp" else {}
    shown[0].save(tmp_path / f"a{kind}", save_all=True, append_images=shown[1:], duration=[100, 50, 100, 300], loop=3, **how)
    file = open_pictures(tmp_path / f"a{kind}")
    assert file.count == 4
    write_pictures(tmp_path / f"b{kind}", file, like=file)
    found = open_pictures(tmp_path / f"b{kind}")
    assert [picture.duration for picture in found] == [100, 50, 100, 300]
    for picture, original in zip(found, file, strict=True):
        assert np.abs(picture.pixels.astype(int) - original.pixels).mean() < (12 if kind in (".gif", ".avif") else 2)
    if kind != ".avif":
        assert found.how["loop"] == file.how["loop"]


def test_a_picture_for_those_that_show_no_animation_stays_one(tmp_path):
    shown = [Image.fromarray(np.roll(COLOURS, 7 * index, 1)) for index in range(3)]
    shown[0].save(tmp_path / "a.png", save_all=True, append_images=shown[1:], default_image=True, duration=[70, 90])
    file = open_pictures(tmp_path / "a.png")
    write_pictures(tmp_path / "b.png", file, like=file)
    found = open_pictures(tmp_path / "b.png")
    assert [picture.duration for picture in found] == [picture.duration for picture in file] == [None, 70, 90]
    assert found.how["default_image"]


def test_frames_are_what_is_shown_and_not_what_is_stored(tmp_path):
    """A GIF stores what changes; a frame that is taken away shows what was below."""
    first = Image.fromarray(COLOURS)
    patches = []
    for index in range(3):
        patch = Image.new("RGBA", first.size)
        patch.paste((255, 0, 0, 255), (10 * index, 5, 10 * index + 8, 13))
        patches.append(patch)
    first.convert("RGBA").save(tmp_path / "a.gif", save_all=True, append_images=patches, disposal=[1, 3, 3, 3], duration=40)
    file = open_pictures(tmp_path / "a.gif")
    write_pictures(tmp_path / "b.gif", file, like=file)
    for number, (picture, other) in enumerate(zip(file, open_pictures(tmp_path / "b.gif"), strict=True)):
        if number:
            assert (picture.pixels[5:13, 10 * number - 10 : 10 * number - 2] == (255, 0, 0)).all()
        assert np.abs(picture.pixels.astype(int) - other.pixels).mean() < 12
        assert picture.alpha is None or picture.alpha.all()


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


def test_frames_that_do_not_fit_are_refused(tmp_path):
    shown = [Image.fromarray(np.roll(COLOURS, 7 * index, 1)) for index in range(3)]
    shown[0].save(tmp_path / "a.gif", save_all=True, append_images=shown[1:])
    file = open_pictures(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"b\.jpg.*3 frames or pages.*\.tif, \.png"):
        lost(file, tmp_path / "b.jpg", file.first())
    assert lost(file, tmp_path / "b.png", file.first()) == []


def test_the_second_picture_of_a_telephones_file_is_told(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(COLOURS[:8, :8])])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    file = open_pictures(tmp_path / "a.jpg")
    assert (file.count, file.format) == (1, "JPEG")
    assert "2 pictures, of which the first is read" in file.said[0]
    assert again(tmp_path / "a.jpg", tmp_path / "b.jpg").pixels.shape == (30, 40, 3)


# ------------------------------------------------------------------------------------------------------------- what is lost


def test_what_a_kind_cannot_hold_is_told_and_nothing_hidden_appears(tmp_path):
    deep = Picture(COLOURS.astype(np.uint16) * 257, 65535.0, alpha=np.zeros((30, 40), np.uint16))
    write_pictures(tmp_path / "a.tif", [deep])
    file = open_pictures(tmp_path / "a.tif")
    said = lost(file, tmp_path / "b.jpg", deep)
    assert [word in " ".join(said) for word in ("8 bits", "alpha")] == [True, True]
    write_pictures(tmp_path / "b.jpg", file, like=file)
    assert only(tmp_path / "b.jpg").pixels.min() > 250
    assert lost(file, tmp_path / "b.png", deep) == []


def test_pixels_that_nobody_sees_have_their_neighbours_colour():
    alpha = np.full((20, 30), 255, np.uint8)
    alpha[:, 10:20] = 0
    pixels = np.zeros((20, 30, 1), np.uint8)
    pixels[:, :10], pixels[:, 10:20], pixels[:, 20:] = 50, 255, 90
    seen = Picture(pixels, alpha=alpha).visible()
    assert (seen[:, 11:14] == 50).all()
    assert (seen[:, 16:19] == 90).all()
    assert (pixels[:, 10:20] == 255).all()
    kept = Picture(pixels, alpha=alpha).with_visible(np.full_like(pixels, 7)).pixels
    assert set(kept[:, 10:20].flatten()) == {255}
    assert set(kept[:, :10].flatten()) == {7}
    assert (Picture(pixels, alpha=0 * alpha).visible() == 127).all()  # nothing is seen at all


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"")
    for call in (open_pictures, format_of):
        with pytest.raises(ImportError, match=r"a\.heic .*pillow-heif, which is not installed: pip install"):
            call(tmp_path / "a.heic")
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((4, 4, 3), np.float32), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"tifffile is not installed: pip install 'ebm-toolkit\[recipes\]'"):
        open_pictures(tmp_path / "f.tif")


def test_files_are_read_by_what_is_in_them(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    for name in ("a.jpg", "A.PNG", "no suffix", "ünï ✓.jpeg"):
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
        assert np.array_equal(only(tmp_path / name).pixels, COLOURS)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert np.array_equal(only(tmp_path / "link.png").pixels, COLOURS)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif", ".webp", ".gif"])
def test_what_is_cut_off_is_named_and_nothing_is_made_up(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    noise.save(tmp_path / f"a{kind}")
    content = (tmp_path / f"a{kind}").read_bytes()
    for part in (content[: len(content) * 2 // 3], content[:20], b"", b"<html>not found</html>"):
        (tmp_path / f"b{kind}").write_bytes(part)
        with pytest.raises(ValueError, match=rf"b\{kind} cannot be read as a picture"):
            list(open_pictures(tmp_path / f"b{kind}"))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none"):
        open_pictures(tmp_path / f"none{kind}")


def test_a_bomb_is_refused_and_a_hundred_megapixels_are_none(tmp_path):
    def claimed(width: int, height: int) -> bytes:
        file = BytesIO()
        Image.new("1", (1, 1)).save(file, "PNG")
        content = bytearray(file.getvalue())
        content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        import zlib

        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        return bytes(content)

    with pytest.raises(ValueError, match="cannot be read as a picture .*bomb"):
        open_pictures(claimed(20_000, 20_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_pictures(claimed(10_000, 10_000)).count == 1
