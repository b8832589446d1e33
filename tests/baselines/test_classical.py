"""Laws of classical denoisers: each makes a noisy picture better, and tuning finds what makes it best."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from ebm.baselines import Classical, classical, tuned
from ebm.baselines.classical import GRIDS, METHODS
from tests.helpers import seeded

SIGNAL, STD = 0.9, 0.3


def pictures(channels: int = 3, size: int = 48, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth picture with edges, and what noise makes of it."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    plane = 0.4 * rows + 0.3 * columns + 0.5 * ((rows.square() + columns.square() < 0.4).float() - 0.5)
    clean = torch.stack([plane * scale for scale in (1.0, -0.7, 0.5)])[:channels]
    return clean, SIGNAL * clean + STD * torch.randn(clean.shape, generator=seeded(seed))


def psnr(y: Tensor, clean: Tensor) -> float:
    return float(10 * torch.log10(4 / (y - clean).square().mean()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_noisy_picture_better(method, channels):
    if method == "bm3d":
        pytest.importorskip("bm3d")
    clean, noisy = pictures(channels)
    before = noisy.clone()
    found = Classical(method).denoise(noisy, STD, SIGNAL)
    assert psnr(found, clean) > psnr((noisy / SIGNAL).clamp(-1, 1), clean) + 2
    assert (found.shape, found.dtype) == (noisy.shape, noisy.dtype)
    assert found.abs().max() <= 1
    assert torch.equal(noisy, before)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "bm3d"])
def test_what_it_is_told_of_the_noise_matters(method):
    clean, noisy = pictures()
    told, mistold = (Classical(method).denoise(noisy, std, SIGNAL) for std in (STD, STD / 5))
    assert psnr(told, clean) > psnr(mistold, clean)


def test_pictures_need_not_be_square_or_lie_in_the_range():
    _, noisy = pictures()
    for method in ("total-variation", "wavelet", "bilateral", "non-local-means"):
        found = Classical(method).denoise(3 * noisy[:, :31, :45].double(), 3 * STD, SIGNAL)
        assert (found.shape, found.dtype) == ((3, 31, 45), torch.float64)
        assert found.abs().max() <= 1


def test_a_constant_picture_stays_what_it_is():
    for method in ("total-variation", "wavelet", "bilateral", "non-local-means"):
        found = Classical(method).denoise(torch.full((3, 16, 16), 0.25), 0.1)
        torch.testing.assert_close(found, torch.full((3, 16, 16), 0.25), rtol=0, atol=1e-3)


def test_tuning_picks_what_is_best(monkeypatch):
    monkeypatch.setitem(GRIDS, "total-variation", {"weight": (0.01, 1.0, 30.0)})
    found = tuned("total-variation", [pictures(seed=1), pictures(seed=2)], STD, SIGNAL)
    assert found == Classical("total-variation", weight=1.0)
    monkeypatch.setitem(GRIDS, "wavelet", {"sigma": (0.01, 1.0), "clip": (False, True)})
    assert tuned("wavelet", [pictures(1)], STD, SIGNAL).settings["sigma"] == 1.0


def test_grids_hold_settings_that_there_are():
    for method, grid in GRIDS.items():
        Classical(method, **{name: values[0] for name, values in grid.items()})
    assert set(GRIDS) == set(METHODS)


def test_what_is_wrong_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown method 'wavelets': did you mean 'wavelet'\? Known: total-variation, "):
        Classical("wavelets")
    with pytest.raises(ValueError, match=r"method 'wavelet' has no keyword 'sigm': did you mean 'sigma'"):
        Classical("wavelet", sigm=1.0)
    with pytest.raises(ValueError, match="has no keyword 'std'"):
        Classical("wavelet", std=1.0)
    with pytest.raises(ValueError, match="unknown method 'tv'"):
        tuned("tv", [pictures()], STD)
    with pytest.raises(ValueError, match="at least one"):
        tuned("wavelet", [], STD)
    with pytest.raises(ValueError, match=r"shape \(8, 8\)"):
        Classical("wavelet").denoise(torch.zeros(8, 8), STD)
    with pytest.raises(ValueError, match=r"std=0\.0"):
        Classical("wavelet").denoise(torch.zeros(1, 8, 8), 0.0)
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(ImportError, match="pip install bm3d"):
        Classical("bm3d").denoise(torch.zeros(1, 8, 8), STD)


def test_no_package_is_imported_before_it_is_needed():
    assert not {"skimage", "bm3d", "restoration"} & vars(classical).keys()
