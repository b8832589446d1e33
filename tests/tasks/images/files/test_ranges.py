"""Laws of ranges: which number stands for white is seen and said, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from ebm.tasks.images.files import open_pictures
from tests.tasks.images.files.samples import COLOURS, SCENE, only


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("top", "white"), [(32767, 32767), (20_000, 32767), (4000, 4095)])
def test_numbers_with_a_sign_are_taken_as_one_bit_less_and_that_is_said(tmp_path, channels, top, white):
    ramp = np.repeat(np.linspace(0, top, 60).astype(np.int16).reshape(6, 10, 1), channels, -1).squeeze()
    tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="rgb" if channels == 3 else "minisblack")
    file = open_pictures(tmp_path / "a.tif")
    assert (file.white, file.first().pixels.dtype) == (white, np.uint16)
    assert f"its signed 16 bits have numbers of up to {top:g} alone" in file.said[0]
    assert "without a sign" in file.said[0]
    tifffile.imwrite(tmp_path / "b.tif", ramp - np.int16(5), photometric="rgb" if channels == 3 else "minisblack")
    with pytest.raises(ValueError, match="its numbers are -5 to"):
        open_pictures(tmp_path / "b.tif")


def test_bytes_with_a_sign_are_refused_and_32_bits_are_said(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 4), -3, np.int8))
    with pytest.raises(ValueError, match=r"a\.tif .*its bytes have a sign"):
        open_pictures(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.full((4, 4), 60_000, np.uint32))
    file = open_pictures(tmp_path / "b.tif")
    assert (file.white, len(file.said)) == (65535, 1)
    assert "its 32 bits have numbers of up to 60000 alone, so they are taken as 16 bits" in file.said[0]
