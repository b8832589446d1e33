"""Laws of writing: what is written is read again as it was, and what a file cannot hold is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from ebm.tasks.images.files import Picture, lost, open_pictures, write_pictures
from tests.helpers import laws
from tests.tasks.images.files.samples import COLOURS, PROFILE, again, exif, only


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


def test_an_icon_keeps_its_size(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    assert again(tmp_path / "a.png", tmp_path / "b.ico").pixels.shape == COLOURS.shape


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


def test_frames_that_do_not_fit_are_refused(tmp_path):
    shown = [Image.fromarray(np.roll(COLOURS, 7 * index, 1)) for index in range(3)]
    shown[0].save(tmp_path / "a.gif", save_all=True, append_images=shown[1:])
    file = open_pictures(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"b\.jpg.*3 frames or pages.*\.tif, \.png"):
        lost(file, tmp_path / "b.jpg", file.first())
    assert lost(file, tmp_path / "b.png", file.first()) == []


def test_what_a_kind_cannot_hold_is_told_and_nothing_hidden_appears(tmp_path):
    deep = Picture(COLOURS.astype(np.uint16) * 257, 65535.0, alpha=np.zeros((30, 40), np.uint16))
    write_pictures(tmp_path / "a.tif", [deep])
    file = open_pictures(tmp_path / "a.tif")
    said = lost(file, tmp_path / "b.jpg", deep)
    assert [word in " ".join(said) for word in ("8 bits", "alpha")] == [True, True]
    write_pictures(tmp_path / "b.jpg", file, like=file)
    assert only(tmp_path / "b.jpg").pixels.min() > 250
    assert lost(file, tmp_path / "b.png", deep) == []


def test_what_belongs_to_a_picture_and_is_lost_is_told(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif(), icc_profile=PROFILE, dpi=(72, 72), comment=b"a slope")
    file = open_pictures(tmp_path / "a.jpg")
    (said,) = lost(file, tmp_path / "b.gif", file.first())
    assert said == "it holds no EXIF and no colour profile and no resolution, left out (GIF)"
    assert lost(file, tmp_path / "b.png", file.first()) == ["it holds no comment, left out (PNG)"]
    assert lost(file, tmp_path / "b.jpg", file.first()) == []
