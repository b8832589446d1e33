"""Whole pictures: an energy of any size sees them at once, a large one in windows, others in tiles."""

from __future__ import annotations

import pytest
import torch

from ebm.energies import GradientStepUNet, ImageEBT
from ebm.energies.restoration import windowed
from ebm.samplers import FixedPoint, GradientDescent, Monotone
from ebm.tasks import Denoising
from ebm.tasks.images import together
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
    assert found.energy == pytest.approx(once.energy, rel=1e-4)


STEEP = {"halvings": 3}  # a step of 40 is too long for this energy, and is halved


@pytest.mark.parametrize(
    ("sampler", "how"),
    [
        (GradientDescent(1.0, steps=3, momentum=0.5), {}),
        (GradientDescent(1.0, steps=4, retraction="clamp"), {}),
        (GradientDescent(lambda t: 1 / (1 + t), steps=3), {}),
        (FixedPoint(steps=3), {}),
        (GradientDescent(1.0, steps=6), {"residual": 0.08}),
        (Monotone(GradientDescent(1.0)), {}),
        (Monotone(GradientDescent(40.0, momentum=0.5), **STEEP), {"steps": 4}),
        (Monotone(GradientDescent(40.0), **STEEP), {"steps": 8, "patience": 1, "tolerance": 0.02}),
        (Monotone(GradientDescent(1e4, momentum=0.5), **STEEP), {"steps": 3}),  # no step is taken
        (GradientDescent(4.0), {"steps": 9, "patience": 2, "tolerance": 0.01}),
        (GradientDescent(1.0), {"steps": 9, "patience": 1, "tolerance": 1 - 1e-9}),
        (GradientDescent(1.0), {"steps": 9, "familiar": 1e3}),
        (GradientDescent(1.0), {"steps": 3, "familiar": 1e-9}),
        (GradientDescent(1.0), {"steps": 0}),
        (GradientDescent(1.0), {"steps": 2, "candidates": 2}),
    ],
)
@pytest.mark.parametrize("levels", [1, 2])
def test_windows_decide_together_as_the_whole_picture_would(task, monkeypatch, sampler, how, levels):
    """The left is much noisier than the right: by itself, a window there would go on for longer."""
    torch.manual_seed(1)
    energy = GradientStepUNet(1, (4, 6), (1, 1), levels=levels)
    image, thinker = torch.linspace(2, 0, 211) * torch.randn(1, 150, 211), Thinker(energy, sampler, **how)
    scores = patch_scores(energy)
    once = restore_picture(task, thinker, image, 250, scores=scores)
    monkeypatch.setattr(windowed, "SIDE", 64)
    advanced: list[int] = []
    found = restore_picture(task, thinker, image, 250, scores=scores, advance=advanced.append)
    torch.testing.assert_close(found.image, once.image, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.map, once.map, rtol=1e-3, atol=1e-5)
    assert (found.energy, found.steps) == (pytest.approx(once.energy, rel=1e-3), once.steps)
    assert sum(advanced) <= count_parts(task, thinker, 150, 211)
    assert found.evaluations <= once.evaluations + (0 if isinstance(sampler, Monotone) else 1 + found.steps)


def test_what_windows_cannot_decide_together_is_refused(task, energy, monkeypatch):
    monkeypatch.setattr(windowed, "SIDE", 64)
    image = torch.randn(1, 150, 211)
    with pytest.raises(ValueError, match="select='max': a picture of several windows keeps the candidate of lowest energy"):
        restore_picture(task, Thinker(energy, GradientDescent(1.0), candidates=2, select="max"), image, 250)
    with pytest.raises(ValueError, match="patience"):
        restore_picture(task, Thinker(energy, GradientDescent(1.0), patience=0), image, 250)
    with pytest.raises(FloatingPointError, match="after step 5"):
        restore_picture(task, Thinker(energy, GradientDescent(1e30, steps=5)), image, 250)


def test_a_large_picture_is_thought_about_in_half_precision(task, energy, monkeypatch):
    """Its states between steps: what comes out differs by that alone; a single step does not."""
    image = torch.randn(1, 150, 211)
    monkeypatch.setattr(windowed, "SIDE", 64)
    for steps, atol in ((1, 0), (3, 4e-3)):
        thinker = Thinker(energy, Monotone(GradientDescent(1.0)), steps=steps)
        once = restore_picture(task, thinker, image, 250)
        monkeypatch.setattr(together, "MANY", 100)
        found = restore_picture(task, thinker, image, 250)
        torch.testing.assert_close(found.image, once.image, rtol=0, atol=atol)
        assert torch.equal(found.image, once.image) == (steps == 1)
        monkeypatch.undo()
        monkeypatch.setattr(windowed, "SIDE", 64)


def test_other_energies_get_their_tiles(task):
    torch.manual_seed(0)
    thinker = Thinker(ImageEBT(32, 8, 1, dim=8, depth=1, heads=2), GradientDescent(0.1))
    advanced: list[int] = []
    restore_picture(task, thinker, torch.randn(1, 40, 40), 250, advance=advanced.append)
    assert sum(advanced) == count_parts(task, thinker, 40, 40) == 9  # two a side, and one more for seams that are spread
