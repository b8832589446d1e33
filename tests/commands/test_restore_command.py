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
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks import Denoising
from ebm.tasks.images.explaining import explain


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
        ({"task": "deblur", "mask": Path("m.png")}, "inpaint needs a mask, white where nothing was seen, and nothing else does"),
        ({"task": "deblur", "blur": 0}, "blur=0, sigma=0.5: pass a positive blur"),
        ({"task": "deblur", "steps": 0}, "steps=0"),
        ({"task": "deblur", "out": Path("x.nonesuch")}, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(run, photo, keywords, message):
    with pytest.raises(ValueError, match=message):
        restore(run, photo, **keywords)
    assert not list(Path().iterdir())


def test_masks_must_fit_and_leave_something(run, photo, tmp_path):
    for name, size, message in (("s", (8, 8), "pass one of the photo's size"), ("w", (40, 56), "white all over")):
        Image.fromarray(np.full(size, 255, dtype="uint8")).save(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=message):
            restore(run, photo, mask=tmp_path / f"{name}.png")


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


def test_explaining_is_proximal_steps_at_falling_noise():
    torch.manual_seed(0)
    energy, seen = GradientStepUNet(1, (4, 4), (1, 1)), torch.randn(1, 8, 8) / 3
    found = explain(energy, lambda x: x, seen, 0.05, seen, steps=2, first=0.2)
    y = seen[None]
    for std in (0.2, 0.05):
        y = GradientDescent(1.0).sample(energy.given(std), y)
        weight = std**2 / (0.23 * 0.05**2)
        y = (y + weight * seen) / (1 + weight)
    torch.testing.assert_close(found, y[0], atol=1e-4, rtol=1e-3)
