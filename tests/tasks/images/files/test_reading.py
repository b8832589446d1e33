"""Laws of reading: any file is read as the picture it shows, or refused by name."""

from __future__ import annotations

import sys
import warnings
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from ebm.tasks.images.files import format_of, open_pictures
from tests.tasks.images.files.samples import COLOURS, SCENE, again, only


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


def test_one_colour_may_be_see_through(tmp_path):
    palette = Image.fromarray(COLOURS).quantize(8)
    palette.save(tmp_path / "p.png", transparency=3)
    assert np.array_equal(only(tmp_path / "p.png").alpha == 0, np.asarray(palette) == 3)
    Image.fromarray(COLOURS).save(tmp_path / "c.png", transparency=(0, 0, 255))
    assert np.array_equal(only(tmp_path / "c.png").alpha == 0, (COLOURS == (0, 0, 255)).all(-1))
    Image.fromarray(SCENE[..., 0]).save(tmp_path / "g.png", transparency=6)
    assert np.array_equal(only(tmp_path / "g.png").alpha == 0, SCENE[..., 0] == 6)


def test_inks_become_colours_and_that_is_said(tmp_path):
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    file = open_pictures(tmp_path / "a.jpg")
    assert "CMYK" in file.said[0]
    assert np.abs(only(tmp_path / "a.jpg").pixels.astype(int) - COLOURS).mean() < 8


def test_the_second_picture_of_a_telephones_file_is_told(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(COLOURS[:8, :8])])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    file = open_pictures(tmp_path / "a.jpg")
    assert (file.count, file.format) == (1, "JPEG")
    assert "2 pictures, of which the first is read" in file.said[0]
    assert again(tmp_path / "a.jpg", tmp_path / "b.jpg").pixels.shape == (30, 40, 3)


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
