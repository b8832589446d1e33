"""Whole pictures: an energy of any size sees them at once, a large one in windows, others in tiles."""

from __future__ import annotations

import pytest
import torch

from ebm.energies import GradientStepUNet, ImageEBT
from ebm.energies.restoration import windowed
from ebm.samplers import FixedPoint, GradientDescent
from ebm.tasks import Denoising
from ebm.tasks.images.tiling import patch_scores
from ebm.tasks.images.whole import count_parts, restore_picture
from ebm.thinking import Thinker


@pytest.fixture(scope="module")
def task():
    return Denoising(channels=1, tile=32, sigma=(0, 55))


@pytest.fixture(scope="module")
def energy():
    torch.manual_seed(0)
    return GradientStepUNet(1, (4, 6), (1, 1))


@pytest.mark.parametrize("sampler", [GradientDescent(1.0), FixedPoint()])
def test_a_whole_picture_is_one_chain(task, energy, sampler):
    image, advanced = torch.randn(1, 37, 50), []
    found = restore_picture(
        task, Thinker(energy, sampler), image, 250, scores=patch_scores(energy), advance=advanced.append, batch_size=3
    )
    bound = energy.given(25 / 127.5)
    torch.testing.assert_close(found.image[None], sampler.sample(bound, image[None]))
    assert found.energy == pytest.approx(bound(found.image[None]).item(), rel=1e-4)
    assert (found.steps, found.evaluations, advanced) == (1.0, 2, [1])
    assert found.map.shape == (37, 50)


def test_candidates_start_at_the_picture(task, energy):
    image = torch.randn(1, 16, 16)
    one, several = (restore_picture(task, Thinker(energy, GradientDescent(1.0), candidates=n), image, 100) for n in (1, 2))
    torch.testing.assert_close(one.image, several.image)


def test_a_large_picture_is_restored_in_windows_as_it_would_be_whole(task, energy, monkeypatch):
    image, thinker = torch.randn(1, 150, 211), Thinker(energy, GradientDescent(1.0))
    how = {"scores": patch_scores(energy)}
    assert count_parts(task, thinker, 150, 211) == 1
    once = restore_picture(task, thinker, image, 250, **how)
    monkeypatch.setattr(windowed, "SIDE", 64)
    advanced: list[int] = []
    found = restore_picture(task, thinker, image, 250, advance=advanced.append, **how)
    assert sum(advanced) == count_parts(task, thinker, 150, 211) == 6
    torch.testing.assert_close(found.image, once.image)
    torch.testing.assert_close(found.map, once.map)
    assert found.energy == pytest.approx(once.energy, rel=0.1)


def test_other_energies_get_their_tiles(task):
    torch.manual_seed(0)
    thinker = Thinker(ImageEBT(32, 8, 1, dim=8, depth=1, heads=2), GradientDescent(0.1))
    advanced: list[int] = []
    restore_picture(task, thinker, torch.randn(1, 40, 40), 250, advance=advanced.append)
    assert sum(advanced) == count_parts(task, thinker, 40, 40) == 9  # two a side, and one more for seams that are spread
