"""Laws of tiling: every pixel is covered, no seam shows, and how a picture is cut changes nothing but what tiles see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ebm.interfaces import Batch, Prediction
from ebm.samplers import GradientDescent
from ebm.tasks.images.tiling import Coding, count_tiles, restore
from ebm.thinking import Thinker
from tests.helpers import laws, seeded


class Moves:
    """A feed-forward predictor: the tiles after a function, remembering what it was given."""

    def __init__(self, function=lambda tiles: tiles):
        self.function, self.batches = function, []

    def predict(self, batch, start, *, generator=None):
        self.batches.append(batch)
        return Prediction(self.function(start), None, 1)


def drawn(channels: int, height: int, width: int) -> Tensor:
    return torch.rand(channels, height, width, generator=seeded()) * 2 - 1


def blur(tiles: Tensor) -> Tensor:
    """Something that the edges of a tile show in."""
    return torch.nn.functional.avg_pool2d(tiles, 3, stride=1, padding=1)


@st.composite
def cuts(draw):
    tile = draw(st.integers(1, 12))
    stride = draw(st.one_of(st.none(), st.integers(1, tile)))
    sizes = st.integers(1, 30)
    return draw(sizes), draw(sizes), tile, stride


@given(cuts(), st.sampled_from([1, 3]))
@laws
def test_tiles_that_stay_as_they_are_give_the_picture_back(cut, channels):
    height, width, tile, stride = cut
    image = drawn(channels, height, width)
    found = restore(Moves(), image, tile=tile, stride=stride)
    torch.testing.assert_close(found.image, image, rtol=0, atol=1e-6)
    assert (found.energy, found.evaluations, found.steps, found.map) == (None, 1, None, None)


@given(cuts())
@laws
def test_a_shift_of_every_tile_is_a_shift_of_the_picture(cut):
    height, width, tile, stride = cut
    image = drawn(3, height, width)
    found = restore(Moves(lambda tiles: tiles + 0.25), image, tile=tile, stride=stride).image
    torch.testing.assert_close(found, image + 0.25, rtol=0, atol=1e-6)


@given(cuts())
@laws
def test_every_pixel_is_in_a_tile_and_tiles_are_counted(cut):
    height, width, tile, stride = cut
    numbers = torch.arange(height * width, dtype=torch.float32).reshape(1, height, width)
    model, done = Moves(), []
    restore(model, numbers, tile=tile, stride=stride, batch_size=5, step=7, advance=done.append)
    seen = torch.cat([batch.target for batch in model.batches])
    assert set(seen.flatten().tolist()) == set(range(height * width))
    assert sum(done) == len(seen) == count_tiles(height, width, tile, stride)
    assert all(torch.equal(batch.context.image, batch.target) for batch in model.batches)
    assert all(batch.context.step.tolist() == [7] * len(batch.target) for batch in model.batches)


def plainly(function, image: Tensor, tile: int, stride: int) -> Tensor:
    """Restores tile after tile in float64, with sums of weights: the definition, without padding."""
    rows, columns = (sorted({*range(0, size - tile, stride), size - tile}) for size in image.shape[1:])
    bump = torch.tensor([math.sin(math.pi * (i + 0.5) / tile) ** 2 for i in range(tile)], dtype=torch.float64)
    window = bump[:, None] * bump
    top, bottom = torch.zeros_like(image).double(), torch.zeros_like(image).double()
    for row in rows:
        for column in columns:
            part = (slice(None), slice(row, row + tile), slice(column, column + tile))
            top[part] += window * function(image[part][None])[0].double()
            bottom[part] += window
    return top / bottom


@given(cuts())
@laws
def test_it_is_what_a_plain_loop_over_tiles_makes(cut):
    height, width, tile, stride = cut
    image = drawn(3, max(height, tile), max(width, tile))
    found = restore(Moves(blur), image, tile=tile, stride=stride, batch_size=3).image
    expected = plainly(blur, image, tile, max(1, tile // 2) if stride is None else stride)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(5, 9), (9, 5), (2, 20), (1, 1)])
def test_a_picture_smaller_than_a_tile_is_mirrored_or_else_repeated(height, width):
    image, model = drawn(1, height, width), Moves()
    assert restore(model, image, tile=8).image.shape == image.shape
    tile = model.batches[0].target[0, 0]
    for axis, size in enumerate((height, width)):
        if size < 8:
            line = tile.movedim(axis, 0)
            assert torch.equal(line[size], line[size - 2] if 8 - size < size else line[size - 1])


def slope(y: Tensor) -> Tensor:
    """An energy whose descent differs from picture to picture: neighbours are to be alike."""
    return y.diff(dim=-1).square().sum((-3, -2, -1)) + y.diff(dim=-2).square().sum((-3, -2, -1))


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("patience", [None, 2])
def test_how_tiles_are_batched_changes_nothing(candidates, patience):
    image = drawn(3, 21, 17)
    thinker = Thinker(slope, GradientDescent(step_size=0.13, steps=6), candidates=candidates, patience=patience)
    found = [restore(thinker, image, tile=8, stride=5, batch_size=size) for size in (1, 4, 64)]
    for other in found[1:]:
        torch.testing.assert_close(other.image, found[0].image)
        assert other.energy == pytest.approx(found[0].energy)
        assert other.steps == pytest.approx(found[0].steps)
    assert found[0].evaluations >= 7 * candidates
    assert slope(found[0].image) < slope(image)


def test_energies_and_steps_are_means_over_tiles():
    class Counts(Moves):
        def predict(self, batch, start, *, generator=None):
            class Considered(Prediction):
                pass

            prediction = Considered(start, start.mean((1, 2, 3)), len(start))
            prediction.steps = torch.full((len(start),), len(start))
            return prediction

    image = torch.cat([torch.zeros(1, 4, 8), torch.ones(1, 4, 4)], 2)
    found = restore(Counts(), image, tile=4, stride=4, batch_size=2)
    assert (found.energy, found.evaluations, found.steps) == (pytest.approx(1 / 3), 2, pytest.approx(5 / 3))


def test_a_map_holds_the_scores_where_their_patches_are():
    def scores(batch: Batch, y: Tensor) -> Tensor:
        assert y.shape == batch.target.shape
        return torch.nn.functional.avg_pool2d(y, 2)[:, 0]

    image = drawn(1, 7, 8).repeat_interleave(2, -1).repeat_interleave(2, -2)
    found = restore(Moves(), image, tile=8, stride=2, scores=scores)
    torch.testing.assert_close(found.map, image[0])  # patches and places are both on the grid of blocks
    assert restore(Moves(), image[:, :3, :5], tile=8, scores=scores).map.shape == (3, 5)


def test_no_gradients_are_kept_and_the_picture_stays_as_it_is():
    image = drawn(3, 12, 12).requires_grad_()
    before = image.detach().clone()
    assert not restore(Moves(lambda tiles: tiles * 2), image, tile=8).image.requires_grad
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"tile": 0}, "tile=0"),
        ({"tile": 8, "stride": 9}, "stride=9 with tile=8"),
        ({"tile": 8, "stride": 0}, "stride=0"),
        ({"tile": 8, "batch_size": 0}, "batch_size=0"),
        ({"tile": 8, "image": torch.zeros(8, 8)}, r"shape \(8, 8\)"),
        ({"tile": 8, "image": torch.zeros(1, 3, 8, 8)}, r"shape \(1, 3, 8, 8\)"),
        ({"tile": 8, "image": torch.zeros(3, 0, 8)}, r"shape \(3, 0, 8\)"),
        ({"tile": 8, "image": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "uint8"),
    ],
)
def test_what_cannot_be_tiled_says_so(keywords, reason):
    with pytest.raises(ValueError, match=reason):
        restore(Moves(), **{"image": torch.zeros(3, 8, 8), **keywords})


@laws
@given(seed=st.integers(0, 999), tolerance=st.sampled_from([0, 0.1, 0.6]), patience=st.integers(1, 3), longest=st.integers(1, 6))
def test_a_patient_picture_stops_as_the_loop_over_its_steps_does(seed, tolerance, patience, longest):
    def energy(y):
        return (y.square() / 2 + 0.3 * (6 * y).cos()).mean((-3, -2, -1)) * 48

    image, sampler = torch.randn(3, 9, 13, generator=torch.Generator().manual_seed(seed)), GradientDescent(0.4)
    thinker = Thinker(energy, sampler, steps=longest, patience=patience, tolerance=tolerance)
    found = restore(thinker, image, tile=4, stride=3)
    y, kept, waited = image, None, 0
    for number in range(1, longest + 1):
        one = restore(Thinker(energy, sampler, steps=1), y, tile=4, stride=3)
        y = one.image
        if kept is None or one.energy < kept[0] - tolerance * abs(kept[0]):
            kept, waited = (one.energy, one.image, number), 0
        else:
            waited += 1
        if waited == patience:
            break
    assert (found.energy, found.steps) == (kept[0], kept[2])
    assert torch.equal(found.image, kept[1])


@pytest.mark.parametrize(("familiar", "steps"), [(None, 6), (0.4, 6), (0.6, 1)])
def test_a_picture_that_starts_as_training_s_do_takes_one_step(familiar, steps):
    """Its energy is half a square of each number, 1/2 at the start."""
    thinker = Thinker(
        lambda y: (y**2).sum((-3, -2, -1)) / 2, GradientDescent(0.5), steps=6, patience=1, tolerance=0.1, familiar=familiar
    )
    found = restore(thinker, torch.ones(3, 9, 13), tile=4, stride=3)
    assert found.steps == steps
    torch.testing.assert_close(found.image, torch.full((3, 9, 13), 0.5**steps))


def test_chains_may_start_at_another_picture():
    image, start = torch.zeros(1, 6, 6), torch.ones(1, 6, 6)
    thinker = Thinker(lambda y: (y**2).sum((-3, -2, -1)) / 2, GradientDescent(0.5), steps=1)
    torch.testing.assert_close(restore(thinker, image, tile=4, start=start).image, start / 2)
    with pytest.raises(ValueError, match=r"start has shape \(1, 5, 6\)"):
        restore(thinker, image, tile=4, start=torch.ones(1, 5, 6))


# ------------------------------------------------------------------------------------------------------- seams of patches


@st.composite
def patched(draw):
    """A cut, and a patch that divides its tile."""
    patch = draw(st.integers(2, 4))
    tile = patch * draw(st.integers(1, 4))
    sizes = st.integers(1, 40)
    return draw(sizes), draw(sizes), tile, draw(st.one_of(st.none(), st.integers(1, tile))), patch


@given(patched(), st.integers(1, 7))
@laws
def test_moved_tiles_cover_each_pixel_and_give_the_picture_back(cut, batch_size):
    height, width, tile, stride, patch = cut
    numbers = torch.arange(height * width, dtype=torch.float64).reshape(1, height, width)
    model, done = Moves(), []
    options = {"tile": tile, "stride": stride, "patch": patch, "batch_size": batch_size, "advance": done.append}
    found = restore(model, numbers, **options, scores=lambda batch, y: y[:, 0]).image
    torch.testing.assert_close(found, numbers)
    seen = torch.cat([batch.target for batch in model.batches])
    assert set(seen.flatten().tolist()) == set(range(height * width))
    assert sum(done) == len(seen) == count_tiles(height, width, tile, stride, patch)


def seamed(tiles: Tensor) -> Tensor:
    """What a model of patches of four leaves: each patch is off by an error of its own."""
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(len(tiles), 1, tiles.shape[-2] // 4, tiles.shape[-1] // 4, generator=generator)
    return tiles + errors.repeat_interleave(4, -1).repeat_interleave(4, -2)


def phases(image: Tensor, axis: int) -> Tensor:
    """Averages differences of neighbours along an axis, by phase modulo four."""
    each = image.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
    return torch.stack([each[phase::4].mean() for phase in range(4)])


@pytest.mark.parametrize("stride", [16, 21, 22, 23, 24, 13, None])
@pytest.mark.parametrize("size", [(192, 256), (259, 301)])
def test_seams_of_patches_are_no_grid(stride, size):
    image = torch.zeros(1, *size)
    found = restore(Moves(seamed), image, tile=32, stride=stride, patch=4).image
    plain = restore(Moves(seamed), image, tile=32, stride=24).image
    for axis in (1, 2):
        spread, before = phases(found, axis), phases(plain, axis)
        assert spread.max() / spread.min() < 1.35  # of differences that are seams alone
        assert before.max() / before.min() > 10


def test_a_patch_that_no_tile_holds_says_so():
    with pytest.raises(ValueError, match="patch=9 with tile=8"):
        restore(Moves(), torch.zeros(1, 8, 8), tile=8, patch=9)


# --------------------------------------------------------------------------------------------------------- how it is held


@given(cuts(), st.integers(0, 99))
@laws
def test_a_picture_held_as_bytes_is_restored_as_its_numbers(cut, seed):
    height, width, tile, stride = cut
    held = torch.randint(0, 256, (1, height, width), generator=seeded(seed), dtype=torch.uint8)
    coding = Coding(lambda tiles: (tiles / 255).expand(-1, 3, -1, -1), lambda rows: (rows.mean(0, True) * 255).round().byte())
    for patience in (None, 1):
        thinker = Thinker(slope, GradientDescent(step_size=0.05, steps=3), patience=patience)
        found = restore(thinker, held, tile=tile, stride=stride, batch_size=3, coding=coding)
        plain = restore(thinker, (held / 255).expand(3, -1, -1), tile=tile, stride=stride)
        assert found.image.dtype == torch.uint8
        assert (found.image[0].float() - plain.image.mean(0) * 255).abs().max() < 0.51
        assert (found.energy, found.steps) == (pytest.approx(plain.energy), plain.steps)
    same = restore(Moves(), held, tile=tile, stride=stride, coding=coding).image
    assert torch.equal(same, held)


def test_states_between_steps_of_a_large_picture_are_kept_in_half(monkeypatch):
    image = drawn(1, 20, 20)
    thinker = Thinker(slope, GradientDescent(step_size=0.05, steps=3), patience=1)
    whole = restore(thinker, image, tile=8).image
    monkeypatch.setattr("ebm.tasks.images.tiling.MANY", 10)
    halved = restore(thinker, image, tile=8).image
    assert halved.dtype == image.dtype
    assert 0 < (halved - whole).abs().max() < 2e-3
