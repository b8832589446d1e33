"""Laws of `ebm restore`: what was seen stays, what cannot be done is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ebm.commands.restore import restore
from ebm.energies import GradientStepUNet
from ebm.energies.restoration.operators import Masked
from ebm.interfaces import Unconditional
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks import Denoising
from ebm.tasks.images.explaining import Turned, draws, explain


@pytest.fixture
def run(tmp_path) -> Run:
    torch.manual_seed(0)
    energy = GradientStepUNet(1, (4, 4), (1, 1))
    return Run(tmp_path / "run", {}, energy, GradientDescent(1.0), None, Denoising(channels=1, sigma=(0, 55)), {})


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def photo(tmp_path) -> Path:
    rows, columns = np.mgrid[:40, :56]
    Image.fromarray((128 + 90 * np.sin(rows / 9) * np.cos(columns / 7)).astype("uint8")).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels(path) -> np.ndarray:
    return np.array(Image.open(path), dtype=float)


def test_what_is_hidden_is_filled_in_and_what_was_seen_stays(run, photo, tmp_path):
    hidden = np.zeros((40, 56), dtype="uint8")
    hidden[10:20, 12:25] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    found = pixels(restore(run, photo, mask=tmp_path / "mask.png", steps=3)["picture"])
    assert np.abs(found - pixels(photo))[hidden == 0].max() <= 2
    other = pixels(photo)
    other[hidden > 0] = 7  # what is below the mask is not looked at
    Image.fromarray(other.astype("uint8")).save(tmp_path / "other.png")
    again = pixels(restore(run, tmp_path / "other.png", mask=tmp_path / "mask.png", steps=3)["picture"])
    assert np.array_equal(again, found)


def test_what_was_blurred_or_made_small_is_explained(run, photo):
    assert pixels(restore(run, photo, task="deblur", out=Path("a.png"), steps=2)["picture"]).shape == (40, 56)
    large = pixels(restore(run, photo, task="enlarge", out=Path("b.png"), steps=2)["picture"])
    assert large.shape == (80, 112)
    assert np.abs(large[::2, ::2] - pixels(photo)).mean() < 12


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "task='inpaint', mask=None: inpaint needs a mask"),
        ({"task": "deblur", "mask": Path("m.png")}, "task='deblur', mask='m.png': mask is of inpaint, so leave it out"),
        ({"task": "enlarge", "blur": 2.0}, "blur is of deblur, so leave it out"),
        ({"task": "jpeg", "samples": 4}, "samples is of inpaint, deblur, enlarge, so leave it out"),
        ({"task": "jpeg", "sigma": 4}, "sigma is of inpaint, deblur, enlarge, so leave it out"),
        ({"task": "deblur", "quality": 40}, "quality is of jpeg, so leave it out"),
        ({"task": "sharpen"}, "task='sharpen': pass one of inpaint, deblur, enlarge, jpeg"),
        ({"task": "deblur", "blur": 0}, "blur=0: pass a positive deviation"),
        ({"task": "deblur", "blur": 12.0}, "reaches beyond pictures of .* pass a smaller blur"),
        ({"task": "deblur", "sigma": -1}, "sigma=-1: pass the noise's deviation"),
        ({"task": "deblur", "samples": 1}, "samples=1: pass at least 2"),
        ({"task": "deblur", "steps": 0}, "steps=0"),
        ({"task": "deblur", "out": Path("x.nonesuch")}, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(run, photo, keywords, message):
    with pytest.raises(ValueError, match=message):
        restore(run, photo, **keywords)
    assert not list(Path().iterdir())


def test_masks_must_fit_and_leave_something(run, photo, tmp_path):
    for name, size, message in (
        ("s", (8, 8), "has 8 x 8 pixels, the photo 56 x 40, both upright: pass one of the photo's size"),
        ("w", (40, 56), "white all over"),
        ("b", (40, 56), "white nowhere, its brightest pixel is 0 of 255"),
    ):
        Image.fromarray(np.full(size, 0 if name == "b" else 255, dtype="uint8")).save(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=message):
            restore(run, photo, mask=tmp_path / f"{name}.png")


def test_what_is_transparent_in_a_mask_is_not_white(run, photo, tmp_path):
    """As painted on a layer of its own: whatever lies under alpha 0, and beside it."""
    hidden = np.zeros((40, 56), dtype="uint8")
    hidden[10:20, 12:25] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    expected = pixels(restore(run, photo, mask=tmp_path / "mask.png", steps=2)["picture"])
    for under in (0, 255):
        colours = np.where(hidden[..., None] > 0, 255, under).repeat(3, -1).astype("uint8")
        Image.fromarray(np.dstack([colours, hidden])).save(tmp_path / "layer.png")
        found = restore(run, photo, mask=tmp_path / "layer.png", steps=2, out=Path(f"{under}.png"))
        assert np.array_equal(pixels(found["picture"]), expected)


def test_a_photo_that_its_file_turns_takes_an_upright_mask_and_says_so(run, photo, tmp_path):
    upright, exif = Image.open(photo), Image.Exif()
    exif[274] = 3  # upside down, so that the sizes say nothing
    upright.rotate(180).save(tmp_path / "turned.png", exif=exif)
    hidden = np.zeros((40, 56), dtype="uint8")
    hidden[10:20, 12:25] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    how = {"mask": tmp_path / "mask.png", "steps": 2}
    expected = pixels(restore(run, photo, **how)["picture"])
    with pytest.warns(UserWarning, match=r"turned\.png: it is turned upright, as its EXIF says, and the mask is laid on it so"):
        found = restore(run, tmp_path / "turned.png", **how)
    assert np.array_equal(pixels(found["picture"]), expected)


def test_a_picture_goes_into_a_folder_and_replaces_what_nobody_named_on_request_alone(run, photo, tmp_path):
    how = {"task": "deblur", "steps": 1}
    (tmp_path / "out").mkdir()
    assert restore(run, photo, out=tmp_path / "out", **how)["picture"] == tmp_path / "out" / "photo.png"
    with pytest.raises(ValueError, match=r"photo\.png is in .*out already: --overwrite replaces it"):
        restore(run, photo, out=tmp_path / "out", **how)
    Path("photo-restored.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="photo-restored.png is in this folder already"):
        restore(run, photo, **how)
    assert Path("photo-restored.png").read_bytes() == b"mine"
    assert pixels(restore(run, photo, overwrite=True, **how)["picture"]).shape == (40, 56)
    with pytest.raises(ValueError, match="is a folder: name a picture, one at a time"):
        restore(run, tmp_path / "out", **how)


def test_what_belongs_to_a_picture_stays_with_it(run, tmp_path):
    rows, columns = np.mgrid[:40, :56]
    grey = 32000 + 20000 * np.sin(rows / 9) * np.cos(columns / 7)
    Image.fromarray(grey.astype("uint16")).save(tmp_path / "deep.png", dpi=(300, 300))
    with Image.open(restore(run, tmp_path / "deep.png", task="deblur", out=Path("deep.png"), steps=1)["picture"]) as found:
        assert found.mode.startswith("I;16")
        assert round(found.info["dpi"][0]) == 300
    alpha = np.where(rows < 20, 255, 0).astype("uint8")
    Image.merge("LA", [Image.fromarray(band) for band in ((grey / 257).astype("uint8"), alpha)]).save(tmp_path / "la.png")
    with Image.open(restore(run, tmp_path / "la.png", task="enlarge", out=Path("la.png"), steps=1)["picture"]) as found:
        assert np.array_equal(np.array(found.getchannel("A")), alpha.repeat(2, 0).repeat(2, 1))


def test_colours_that_the_run_does_not_know_are_said(run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype="uint8")
    Image.fromarray(noise).save(tmp_path / "colours.png")
    with pytest.warns(UserWarning, match=r"colours.png: it has colours, and the run knows greys alone"):
        restore(run, tmp_path / "colours.png", task="deblur", steps=1)


def test_a_prior_must_know_additive_noise(run, photo):
    run.energy = nn.Identity()
    with pytest.raises(ValueError, match="is no prior of photographs"):
        restore(run, photo, task="deblur")


def test_a_prior_must_be_told_the_noise(run, photo):
    run.energy.blind = True
    with pytest.raises(ValueError, match="is blind, and must be told how much is wrong"):
        restore(run, photo, task="deblur")


def test_samples_are_written_as_a_map_of_their_spread(run, photo, tmp_path):
    hidden = np.zeros((40, 56), dtype="uint8")
    hidden[10:20, 12:25] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    how = {"mask": tmp_path / "mask.png", "samples": 3, "steps": 4}
    found = restore(run, photo, out=Path("a.png"), **how)
    assert found["spread"] == Path("a-spread.png")
    assert float(found["largest"].split()[0]) >= float(found["mean deviation"].split()[0])
    colours = np.array(Image.open("a-spread.png").convert("L"), dtype=float)
    assert colours.shape == (40, 56)
    assert colours[hidden > 0].mean() > colours[hidden == 0].mean()  # what was not seen is less sure
    again = restore(run, photo, out=Path("a.png"), **how)  # its own side file may be replaced
    assert np.array_equal(pixels(again["spread"]), pixels(restore(run, photo, out=Path("b.png"), **how)["spread"]))
    assert not np.array_equal(pixels("a-spread.png"), pixels(restore(run, photo, out=Path("c.png"), seed=1, **how)["spread"]))
    plain = restore(run, photo, out=Path("e.png"), mask=tmp_path / "mask.png", steps=4)
    assert "spread" not in plain
    assert np.array_equal(pixels(plain["picture"]), pixels("a.png"))
    Image.new("L", (2, 2)).save("d-spread.png")
    with pytest.raises(ValueError, match=r"d-spread.png' is there, and was not written by this command"):
        restore(run, photo, out=Path("d.png"), **how)
    with pytest.raises(ValueError, match="the mask itself, and would be replaced"):
        restore(run, photo, out=tmp_path / "mask.png", **how)


def saved_jpeg(path, colours=False, quality=20, **how) -> Path:
    rows, columns = np.mgrid[:40, :56]
    bands = [128 + 90 * np.sin(rows / 9 + shift) * np.cos(columns / 7) for shift in ((0, 1, 2) if colours else (0,))]
    noise = np.random.default_rng(0).normal(0, 6, (40, 56))
    image = Image.fromarray(np.stack([band + noise for band in bands], -1).astype("uint8").squeeze())
    image.save(path, "JPEG", quality=quality, **how)
    return path


def test_a_jpeg_is_restored_to_what_jpeg_makes_the_same_file_of(run, tmp_path):
    photo = saved_jpeg(tmp_path / "grey.jpg")
    found = restore(run, photo, task="jpeg", out=Path("a.png"), steps=2)["picture"]
    assert not np.array_equal(pixels(found), pixels(photo))
    Image.open(found).save("again.jpg", quality=20)
    assert (pixels("again.jpg") == pixels(photo)).mean() > 0.9  # but for what rounding to 8 bits moves across a cell's edge
    Image.open(photo).save("decoded.png")
    by_quality = restore(run, Path("decoded.png"), task="jpeg", quality=20, out=Path("b.png"), steps=2)["picture"]
    assert np.array_equal(pixels(by_quality), pixels(found))


def test_a_jpeg_keeps_its_colours_and_is_turned_upright(run, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for name, how in (("plain", {}), ("turned", {"exif": exif})):
        photo = saved_jpeg(tmp_path / f"{name}.jpg", colours=True, **how)
        with pytest.warns(UserWarning, match="its brightness is restored, its colours are kept"):
            restore(run, photo, task="jpeg", out=Path(f"{name}.png"), steps=2)
    plain, turned = pixels("plain.png"), pixels("turned.png")
    assert np.array_equal(turned, np.rot90(plain, -1))
    before, after = (np.array(Image.open(p).convert("YCbCr"), dtype=float) for p in (tmp_path / "plain.jpg", "plain.png"))
    assert np.abs(after - before)[..., 1:].mean() < 1 < np.abs(after - before)[..., 0].max()


def test_what_is_no_jpeg_needs_a_quality(run, photo, tmp_path):
    with pytest.raises(ValueError, match=r"photo.png is PNG, no JPEG, and says no tables: pass --quality"):
        restore(run, photo, task="jpeg")
    with pytest.raises(ValueError, match=r"quality=20: .*grey.jpg is a JPEG and says its own tables, so leave --quality out"):
        restore(run, saved_jpeg(tmp_path / "grey.jpg"), task="jpeg", quality=20)
    with pytest.raises(ValueError, match="quality=0: it is 1 to 100"):
        restore(run, photo, task="jpeg", quality=0)
    Image.new("CMYK", (16, 16)).save(tmp_path / "inks.jpg")
    with pytest.raises(ValueError, match=r"inks.jpg stores CMYK, no brightness apart from colours"):
        restore(run, tmp_path / "inks.jpg", task="jpeg")
    run.task.spec["channels"] = 3
    with pytest.raises(ValueError, match="knows colours: for jpeg name a run of greys"):
        restore(run, saved_jpeg(tmp_path / "grey.jpg"), task="jpeg")


def test_a_mask_that_may_be_meant_otherwise_is_said(run, photo, tmp_path):
    levels = np.full((40, 56), 255, dtype="uint8")
    levels[5:15, 5:15], levels[5:9, 20:40] = 0, 100
    Image.fromarray(levels).save(tmp_path / "mask.png")
    with pytest.warns(UserWarning, match="its mask has greys") as said:
        restore(run, photo, mask=tmp_path / "mask.png", steps=1)
    told = " ".join(str(each.message) for each in said)
    assert "its mask hides 92%: white is what was not seen, so turn it around" in told


def test_no_noise_is_as_little_as_counts(run, photo):
    found = [restore(run, photo, task="deblur", sigma=sigma, out=Path(f"{sigma}.png"), steps=2)["picture"] for sigma in (0, 2.5)]
    assert np.array_equal(*map(pixels, found))


def test_explaining_is_proximal_steps_at_falling_noise():
    torch.manual_seed(0)
    energy, seen = GradientStepUNet(1, (4, 4), (1, 1)), torch.randn(1, 8, 8) / 3
    found = explain(energy, lambda x: x, seen, 0.05, seen, steps=2, first=0.2)
    y = seen[None]
    for std in (0.2, 0.05):  # the second step sees it mirrored
        y = y if std == 0.2 else y.flip(-1)
        y = GradientDescent(1.0).sample(energy.given(std), y)
        y = y if std == 0.2 else y.flip(-1)
        weight = std**2 / (0.23 * 0.05**2)
        y = (y + weight * seen) / (1 + weight)
    torch.testing.assert_close(found, y[0], atol=1e-4, rtol=1e-3)


def test_eight_ways_are_all_different_and_turn_a_picture_alone():
    y, seen = torch.arange(6.0).reshape(1, 1, 2, 3), []
    for way in range(8):
        Turned(lambda x: seen.append(x) or x.sum((-3, -2, -1)), way)(y)
    assert len({(x.shape, *x.flatten().tolist()) for x in seen}) == 8
    assert all(sorted(x.flatten().tolist()) == [*range(6)] for x in seen)


class Normal(Unconditional):
    """The energy of the perfect denoiser of pixels that are N(0, 1): y − ∇E(y | σ) = y / (1 + σ²)."""

    def encode(self, context=None, level=-1):
        return context

    def forward(self, y, code=None):
        return code**2 / (1 + code**2) * y.square().sum((-3, -2, -1)) / 2


@pytest.mark.parametrize("steps", [20, 40])
def test_what_is_drawn_is_the_posterior_where_that_is_known(steps):
    """Pixels N(0, 1), half of them seen with noise s: N(b / (1 + s²), s² / (1 + s²)) there, N(0, 1) elsewhere."""
    g = torch.Generator().manual_seed(0)
    kept = torch.rand(24, 24, generator=g) < 0.5
    std = 0.5
    seen = (torch.randn(1, 24, 24, generator=g) + std * torch.randn(1, 24, 24, generator=g)) * kept
    how = {"steps": steps, "first": 8.0, "last": 0.01, "generator": g}
    drawn = draws(Normal(), Masked(kept), seen, std, torch.zeros(1, 24, 24), 300, **how)
    means, variances = drawn.mean(0)[0], drawn.var(0)[0]
    assert (means[kept] - seen[0][kept] / (1 + std**2)).abs().mean() < 0.04  # of a mean of 300: 0.021
    assert means[~kept].abs().mean() < 0.08  # 0.046
    torch.testing.assert_close(variances[kept].mean().item(), std**2 / (1 + std**2), rtol=0.06, atol=0)
    torch.testing.assert_close(variances[~kept].mean().item(), 1.0, rtol=0.06, atol=0)
    with pytest.raises(ValueError, match="count=0"):
        draws(Normal(), Masked(kept), seen, std, torch.zeros(1, 24, 24), 0)
