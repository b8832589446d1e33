"""Laws of Denoising: where tiles come from, how they are noised, and how restored photographs are judged."""

import inspect
import math
from io import BytesIO
from pathlib import Path

import docstring_parser
import pydantic
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ebm.baselines import DiT
from ebm.interfaces import Batch, Prediction
from ebm.objectives import Diffusion
from ebm.registry import component
from ebm.tasks import Denoising
from ebm.tasks.images.corruptions import CORRUPTIONS, jpeg, salt_and_pepper, speckle
from ebm.tasks.images.noising import Noisy
from ebm.thinking import Considered
from tests.helpers import laws, seeded, seeds

HELD_OUT = ["validation", "test", "step-199", *CORRUPTIONS]


@pytest.fixture(scope="module")
def task():
    return Denoising(tiles=64)


@pytest.fixture
def marked(tmp_path):
    """A folder of photographs of one grey each: train 10, 20, validation 100, test 200; 40x48 pixels."""
    for split, grey in (("train", 10), ("train", 20), ("validation", 100), ("test", 200)):
        (tmp_path / split).mkdir(exist_ok=True)
        Image.new("RGB", (48, 40), (grey, grey, grey)).save(tmp_path / split / f"{grey}.png")
    return str(tmp_path)


class Still:
    """Predicts the noisy tile."""

    def predict(self, batch, start, *, generator=None):
        return Prediction(start, None, 1)


class Knowing:
    """Predicts clean tiles, which it finds by their noisy ones."""

    def __init__(self, task, split):
        self.pictures = [(clean, seen.image[0]) for _, clean, seen in task.held_out(split)]
        self.tile = task.tile

    def predict(self, batch, start, *, generator=None):
        y = torch.empty_like(start)
        for row, tile in enumerate(start):
            for clean, noisy in self.pictures:
                found = (noisy[0].unfold(0, self.tile, 1).unfold(1, self.tile, 1)[..., 0, :2] == tile[0, 0, :2]).all(-1).nonzero()
                for top, left in found.tolist():
                    window = (slice(None), slice(top, top + self.tile), slice(left, left + self.tile))
                    if torch.equal(noisy[window], tile):
                        y[row] = clean[window]
        return Prediction(y, None, 1)


def everything(loader):
    batches = list(loader)
    fields = [(batch.target, batch.context.image, batch.context.step) for batch in batches]
    return [torch.cat(field) for field in zip(*fields, strict=True)]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# -------------------------------------------------------------------------------------------------------- training tiles


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_clean_and_noisy_tiles(channels):
    task = Denoising(tile=16, channels=channels, tiles=40, source="bundled")
    batches = list(task.loader("train", 16))
    assert [len(batch.target) for batch in batches] == [16, 16]
    assert task.spec == {"image_size": 16, "channels": channels}
    for batch in batches:
        assert isinstance(batch.context, Noisy)
        assert batch.weight is None
        assert batch.target.shape == batch.context.image.shape == (16, channels, 16, 16)
        assert batch.target.dtype == batch.context.image.dtype == torch.float32
        assert batch.context.step.tolist() == [99] * 16
        assert batch.target.abs().max() <= 1


def test_tiles_are_a_function_of_the_seed_alone(task):
    torch.manual_seed(0)
    first, before = everything(task.loader("train", 8, seed=3)), torch.get_rng_state()
    torch.manual_seed(1)
    assert same(everything(task.loader("train", 8, seed=3)), first)
    assert same(everything(task.loader("train", 32, seed=3)), first)
    assert same(everything(task.loader("train", 8, seed=3, workers=2)), first)
    assert not same(everything(task.loader("train", 8, seed=4)), first)
    torch.manual_seed(0)
    list(task.loader("train", 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first[0].flatten(1).unique(dim=0)) == 64


def test_a_tile_is_a_function_of_its_index(task):
    rows = task.loader("train", 8, seed=5).dataset
    together = rows[[3, 7, 11]]
    for place, index in enumerate((3, 7, 11)):
        alone = rows[[index]]
        assert torch.equal(together.target[place], alone.target[0])
        assert torch.equal(together.context.image[place], alone.context.image[0])


def test_tiles_come_from_their_splits_photographs(marked):
    task = Denoising(marked, tile=16, crop=32, tiles=200)
    for split, greys in (("train", [10, 20]), ("validation", [100]), ("test", [200])):
        clean, *_ = everything(task.loader(split, 50))
        assert (((clean + 1) * 127.5).round().unique()).tolist() == greys


def test_every_place_and_turn_is_drawn(tmp_path):
    """On a picture that says where each of its pixels lies."""
    where = torch.arange(6 * 7, dtype=torch.uint8).reshape(6, 7)
    for split in ("train", "validation", "test"):
        (tmp_path / split).mkdir()
        Image.fromarray(F.pad(where, (0, 9, 0, 10)).numpy() * 4).save(tmp_path / split / "a.png")
    task = Denoising(str(tmp_path), tile=15, crop=15, stride=15, channels=1, tiles=400)
    image = task.photographs["train"][0].pixels
    possible = set()
    for top in range(2):
        for left in range(2):
            tile = image[0, top : top + 15, left : left + 15]
            for turned in (tile, tile.T):
                for flips in ([], [0], [1], [0, 1]):
                    possible.add(tuple(turned.flip(flips).flatten().tolist()))
    clean, *_ = everything(task.loader("train", 400))
    drawn = {tuple(tile) for tile in ((clean + 1) * 127.5).round().flatten(1).int().tolist()}
    assert len(possible) == 2 * 2 * 8
    assert drawn == possible


def test_large_photographs_are_drawn_by_the_root_of_their_area(tmp_path):
    for split, grey, side in (("train", 0, 32), ("train", 255, 96), ("validation", 0, 32), ("test", 0, 32)):
        (tmp_path / split).mkdir(exist_ok=True)
        Image.new("L", (side, side), grey).save(tmp_path / split / f"{grey}.png")
    task = Denoising(str(tmp_path), channels=1, tiles=2000)
    clean, *_ = everything(task.loader("train", 500))
    assert (clean[:, 0, 0, 0] > 0).float().mean().item() == pytest.approx(0.75, abs=0.03)


@laws
@given(st.integers(0, 998), st.integers(0, 500), seeds)
def test_noise_is_the_schedules(low, more, seed):
    task = Denoising(noise_step=(low, min(low + more, 999)), tiles=32)
    batch = next(iter(task.loader("train", 32, seed=seed)))
    steps = batch.context.step
    assert low <= steps.min() <= steps.max() <= task.noise_step[1]
    std, signal = (table[steps].float()[:, None, None, None] for table in (task.schedule.std, task.schedule.signal))
    noise = (batch.context.image - signal * batch.target) / std
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)


def test_a_range_of_steps_is_drawn_whole():
    steps = everything(Denoising(noise_step=(3, 6), tiles=400).loader("train", 100))[2]
    assert steps.bincount().tolist()[3:] == pytest.approx([100] * 4, abs=35)
    assert steps.min() == 3


def test_noise_is_chosen_by_its_strength():
    assert Denoising(noise_std=0.3209).noise_step == (99, 99)
    assert Denoising(noise_std=0.5).noise_std[0] == pytest.approx(0.5, abs=2e-3)
    low, high = Denoising(noise_step=(99, 199)).noise_std
    assert (low, high) == (pytest.approx(0.3209, abs=1e-4), pytest.approx(0.584, abs=1e-3))


# -------------------------------------------------------------------------------------------------------- held-out tiles


@pytest.mark.parametrize("split", HELD_OUT)
def test_held_out_tiles_are_fixed_and_whole(task, split):
    first = everything(task.loader(split, 50, seed=1))
    assert same(first, everything(Denoising().loader(split, 7, seed=2)))
    listed = task.held_out(split)
    assert len(first[0]) == 64 * len(listed) == 64 * (1 if split == "validation" else 3)
    for which in (0, 1):
        tiles = first[which][:64].reshape(8, 8, 3, 32, 32).permute(2, 0, 3, 1, 4).reshape(3, 256, 256)
        assert torch.equal(tiles, (listed[0][1], listed[0][2].image[0])[which])
    assert (first[2] == (199 if split == "step-199" else 99)).all()


def test_held_out_photographs_are_middles(task):
    (name, clean, seen), *rest = task.held_out("test")
    whole = task.photographs["test"][0].pixels
    assert [name, *(other for other, *_ in rest)] == ["astronaut.png", "coffee.png", "flower.jpg"]
    torch.testing.assert_close(clean, whole[:, 128:384, 128:384] / 127.5 - 1)
    assert seen.image.shape == (1, 3, 256, 256)
    assert seen.step.tolist() == [99]
    assert len(task.held_out("test", 2)) == 2
    assert Denoising(crop=400).held_out("validation")[0][1].shape == (3, 300, 400)
    assert task.held_out("train")[0][0] == "rocket.jpg"


def test_noise_of_a_photograph_depends_on_seed_split_and_name_alone(task):
    image = task.held_out("test")[1][2].image
    other = Denoising(tile=16, loss="smooth-l1", tiles=3)
    other.photographs["test"].reverse()
    assert torch.equal(other.held_out("test")[1][2].image, image)
    assert not torch.equal(Denoising(seed=1).held_out("test")[1][2].image, image)
    assert not torch.equal(task.held_out("step-99")[1][2].image, image)
    noises = [seen.image[0] - task.schedule.signal[99] * clean for _, clean, seen in task.held_out("test")]
    assert (noises[0] - noises[1]).abs().max() > 0.1
    assert torch.stack(noises).std().item() == pytest.approx(task.noise_std[0], rel=0.01)


def test_corruptions_do_what_they_are_called(task):
    clean = task.held_out("test")[0][1]
    salted = salt_and_pepper(clean, seeded())
    changed = (salted != clean).any(0)
    assert changed.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert salted[:, changed].abs().unique().tolist() == [1]
    assert (salted[:, changed] == 1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    bright, spoiled = (clean + 1) / 2, (speckle(clean, seeded()) + 1) / 2
    factors = (spoiled / bright)[bright > 0.01]
    assert factors.mean().item() == pytest.approx(1, abs=0.01)
    assert factors.std().item() == pytest.approx(0.3, abs=0.01)
    assert 0.02 < F.mse_loss(jpeg(clean), clean).sqrt() < 0.2
    assert F.mse_loss(jpeg(clean, quality=95), clean) < F.mse_loss(jpeg(clean), clean) / 4
    assert jpeg(clean[:1]).shape == (1, 256, 256)
    assert jpeg(clean.double()).dtype == torch.float64
    for corrupt in CORRUPTIONS.values():
        assert torch.equal(corrupt(clean, seeded()), corrupt(clean, seeded()))


def test_no_photograph_is_in_two_splits(tmp_path):
    for number in range(12):
        Image.effect_noise((40, 40), 50 + number).save(tmp_path / f"{number}.png")
    for seed in range(4):
        held = Denoising(str(tmp_path), crop=32, seed=seed).photographs
        names = [photo.name for photos in held.values() for photo in photos]
        assert len(names) == len(set(names)) == 12
        assert all(held.values())


# ------------------------------------------------------------------------------------------------------- start, distance


def test_chains_start_at_what_is_seen(task):
    batch, before = next(iter(task.loader("train", 4))), torch.get_rng_state()
    assert torch.equal(task.start(batch), batch.context.image)
    several = Still()
    several.candidates = 3
    assert task.starts(several, batch).shape == (3, 4, 3, 32, 32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loss", ["squared", "smooth-l1"])
def test_distance_is_a_mean_over_pixels(loss):
    task, batch = Denoising(loss=loss), Batch(torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    y = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64).reshape(3, 1, 1, 1, 1).expand(3, *batch.target.shape).contiguous()
    expected = [0.0, 0.25, 9.0] if loss == "squared" else [0.0, 0.125, 2.5]
    assert task.distance(y, batch).tolist() == [[value] * 2 for value in expected]
    assert task.distance(y[1], batch).tolist() == [expected[1]] * 2
    drawn = torch.randn(2, 2, 3, 4, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: task.distance(y, batch), drawn)
    with pytest.raises(ValueError, match=r"y has shape \(3, 3, 4, 4\), the target \(2, 3, 4, 4\)"):
        task.distance(torch.zeros(3, 3, 4, 4), batch)


# -------------------------------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("split", ["train", *HELD_OUT])
def test_what_is_seen_scores_as_what_is_seen(task, split):
    before = torch.get_rng_state()
    result = task.evaluate(Still(), split=split, limit=2)
    assert list(result) == ["psnr", "ssim", "mse", "noisy_psnr", "evaluations"]
    assert all(type(value) is float for value in result.values())
    assert result["psnr"] == pytest.approx(result["noisy_psnr"], abs=1e-3)
    assert result["evaluations"] == 1
    expected = []
    for _, clean, seen in task.held_out(split, 2):
        expected.append(10 * math.log10(4 / F.mse_loss(seen.image[0].clamp(-1, 1), clean).item()))
    assert result["noisy_psnr"] == pytest.approx(sum(expected) / len(expected), abs=1e-3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("split", ["test", "speckle"])
def test_the_truth_scores_best(split):
    task = Denoising(crop=48)
    result = task.evaluate(Knowing(task, split), split=split)
    assert result["psnr"] > 100
    assert result["ssim"] == pytest.approx(1, abs=1e-4)
    assert result["mse"] < 1e-10
    assert result["noisy_psnr"] < 25


def test_predictors_are_asked_for_overlapping_tiles_at_the_splits_step(task):
    asked, steps = [], set()

    class Curious(Still):
        def predict(self, batch, start, *, generator=None):
            assert not torch.is_grad_enabled()
            assert torch.equal(batch.context.image, start)
            asked.append(len(start))
            steps.update(batch.context.step.tolist())
            prediction = Considered(start, start.flatten(1).mean(1) * 0 + 2, 5)
            prediction.steps = torch.full((len(start),), 4)
            return prediction

    result = task.evaluate(Curious(), split="step-7", limit=1)
    assert sum(asked) == 15 * 15
    assert steps == {7}
    assert (result["energy"], result["evaluations"], result["steps"]) == (pytest.approx(2), 5, 4)


@pytest.mark.parametrize("what", ["image", "energy"])
def test_what_is_not_finite_stops(task, what):
    class Broken(Still):
        def predict(self, batch, start, *, generator=None):
            energy = torch.zeros(len(start))
            if what == "energy":
                energy[0] = math.inf
                return Prediction(start, energy, 1)
            y = start.clone()
            y[0, 0, 5, 5] = math.nan
            return Prediction(y, energy, 1)

    with pytest.raises(FloatingPointError, match=r"'astronaut.png' of split 'test': the restored photograph or its energy"):
        task.evaluate(Broken())


@pytest.mark.parametrize("channels", [1, 3])
def test_perceptual_distance_needs_weights_that_are_there(monkeypatch, tmp_path, channels):
    import torchmetrics.functional.image.lpips as lpips
    from torchvision.models import AlexNet_Weights

    def refuse(*_, **__):
        raise AssertionError("download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    task = Denoising(channels=channels, crop=64)
    assert "lpips" not in task.evaluate(Still(), limit=1)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name).touch()
    features = lpips._get_tv_model_features("alexnet")
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda *_, **__: features)
    assert task.evaluate(Still(), limit=1)["lpips"] > 0
    perfect = task.evaluate(Knowing(task, "test"), limit=1)
    assert perfect["lpips"] == pytest.approx(0, abs=1e-5)


def test_a_picture_of_samples_is_drawn(task):
    png = task.draw_samples(torch.zeros(5, 3, 32, 32))
    with Image.open(BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > 2 * picture.size[1]  # noisy, denoised and clean tiles side by side


def test_more_photographs_can_be_judged_than_trained_on():
    pytest.importorskip("foolbox")
    task = Denoising("foolbox", crop=64)
    assert len(task.held_out("test")) == 20
    with pytest.raises(
        ValueError, match=r"split 'train' is empty, the photographs are \{'train': 0, 'validation': 0, 'test': 20\}"
    ):
        task.loader("train", 8)


# ---------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tile": 0}, "tile=0: it must be at least 1"),
        ({"tiles": 0}, "tiles=0"),
        ({"channels": 2}, "channels=2: choose 3"),
        ({"crop": 31}, "crop=31: with tile=32 a side of at least 32 is needed"),
        ({"tile": 8, "stride": 8, "crop": 10}, "a side of at least 11"),
        ({"stride": 33}, "stride=33 with tile=32"),
        ({"stride": 0}, "stride=0 with tile=32"),
        ({"loss": "huber"}, "loss='huber': choose squared or smooth-l1"),
        ({"noise_step": 1000}, "noise_step=1000: pass a step from 0 to 999"),
        ({"noise_step": (9, 3)}, r"noise_step=\(9, 3\)"),
        ({"noise_step": (1, 2, 3)}, r"noise_step=\(1, 2, 3\)"),
        ({"noise_std": 1.5}, "std=1.5: the noise of this schedule"),
        ({"schedule_steps": 5}, "steps=5"),
        ({"source": "/missing"}, "there is no folder /missing"),
    ],
)
def test_errors_restate_the_call(keywords, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Denoising(**keywords)


def test_unknown_splits_are_named(task):
    known = "Known: train, validation, test, salt-and-pepper, speckle, jpeg, step-N"
    for call in (lambda split: task.loader(split, 8), task.held_out, lambda split: task.evaluate(Still(), split=split)):
        with pytest.raises(ValueError, match=rf"unknown split 'tset': did you mean 'test'\? {known}"):
            call("tset")
        with pytest.raises(ValueError, match="unknown split 'step-one'"):
            call("step-one")
        with pytest.raises(ValueError, match="split 'step-1000': the schedule has step-0 to step-999"):
            call("step-1000")
    with pytest.raises(ValueError, match="batch_size=0"):
        task.loader("train", 0)
    with pytest.raises(ValueError, match="limit=0"):
        task.evaluate(Still(), limit=0)


def test_bad_files_are_skipped_or_stop(marked):
    file = BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG")
    (Path(marked) / "train" / "small.png").write_bytes(file.getvalue())
    with pytest.warns(UserWarning, match=r"1 of 5 photographs are left out: train/small.png: 20x20 pixels are fewer than 32"):
        assert len(Denoising(marked).photographs["train"]) == 2
    with pytest.raises(ValueError, match="train/small.png"):
        Denoising(marked, strict=True)


# ------------------------------------------------------------------------------------------------- what recipes rely on


def test_parameters_are_documented():
    parsed = docstring_parser.parse(Denoising.__doc__, style=docstring_parser.DocstringStyle.GOOGLE)
    names = list(inspect.signature(Denoising).parameters)
    assert {p.arg_name: bool(p.description) for p in parsed.params} == dict.fromkeys(names, True)


def test_toml_builds_the_task():
    task, build = Denoising.__new__(Denoising), pydantic.validate_call(Denoising.__init__)
    build(task, noise_step=[5, 9])
    assert task.noise_step == (5, 9)
    for keywords in ({"noise_step": "many"}, {"loss": "huber"}, {"tile": 1.5}):
        with pytest.raises(pydantic.ValidationError):
            build(task, **keywords)
    assert component("task", "denoising").factory is Denoising


# -------------------------------------------------------------------------------------------------------- additive noise


def test_additive_noise_is_drawn_over_its_range_and_judged_at_one_strength(marked):
    task = Denoising(marked, channels=1, sigma=(5, 55), judged_sigma=25, tiles=256)
    assert task.spec == {"image_size": 32, "channels": 1, "strongest": 55 / 127.5}
    batch = next(iter(task.loader("train", 256)))
    seen = batch.context
    assert 50 <= seen.step.min() < 80
    assert 520 < seen.step.max() <= 550
    torch.testing.assert_close(seen.std, seen.step / 1275)
    noise = (seen.image - batch.target).flatten(1)  # the tiles are of one grey
    assert (noise.mean(1).abs() < 4 * seen.std / 32).all()
    assert (noise.std(1) / seen.std - 1).abs().max() < 0.12
    for split, sigma in (("test", 25), ("validation", 25), ("sigma-15", 15), ("sigma-0.5", 0.5), ("step-30", 3)):
        ((_, clean, held),) = task.held_out(split)
        assert held.std.item() == pytest.approx(sigma / 127.5)
        assert (held.image[0] - clean).std().item() == pytest.approx(sigma / 127.5, rel=0.1)
    held = next(iter(task.loader("validation", 1)))
    assert held.context.std.shape == (1,)


def test_a_logarithm_of_the_error_counts_weak_noise_as_much_as_strong(marked):
    task, batch = Denoising(marked, channels=1, sigma=10, loss="log-squared"), Batch(torch.zeros(2, 1, 4, 4), None)
    y = torch.full((3, 2, 1, 4, 4), 0.1)
    y[:, 1] = 0.01
    found = task.distance(y, batch)
    assert found.shape == (3, 2)
    torch.testing.assert_close(found[0], torch.tensor([0.01 + 6e-6, 0.0001 + 6e-6]).log())


def test_an_error_is_weighted_by_its_noise_and_a_range_of_steps_says_their_deviations(marked):
    task = Denoising(marked, channels=1, noise_step=(0, 99), loss="noise-weighted")
    batch = next(iter(task.loader("train", 4)))
    y = batch.context.image.expand(3, -1, -1, -1, -1)
    error = (y - batch.target).square().mean((-3, -2, -1))
    torch.testing.assert_close(task.distance(y, batch), error / task.schedule.std[batch.context.step].float())
    assert task.spec["deviations"] == tuple(task.schedule.std.tolist())
    assert task.spec["strongest"] == pytest.approx(task.schedule.std[99].item())
    assert Denoising(marked, channels=1).spec == {"image_size": 32, "channels": 1}
    additive = Denoising(marked, channels=1, sigma=(5, 55), loss="noise-weighted")
    batch = next(iter(additive.loader("train", 4)))
    error = (batch.context.image - batch.target).square().mean((-3, -2, -1))
    torch.testing.assert_close(additive.distance(batch.context.image, batch), error / batch.context.std)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sigma": (0, 55), "loss": "noise-weighted"}, "divided by the noise's deviation, so let it be above 0"),
        ({"sigma": (55, 0)}, r"sigma=\(55, 0\): pass grey levels from 0 to 255"),
        ({"sigma": 300}, "sigma=300: pass grey levels"),
        ({"sigma": 0.25}, "sigma=0.25: pass grey levels from 0 to 255, to a tenth"),
        ({"sigma": 25, "noise_std": 0.3}, "sigma=25, noise_step=99, noise_std=0.3: each says the noise"),
        ({"judged_sigma": 25}, "judged_sigma=25: it is additive noise, so pass sigma, too"),
    ],
)
def test_additive_noise_that_cannot_be_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        Denoising(**keywords)


def test_split_of_sigma_needs_additive_noise(task):
    with pytest.raises(ValueError, match="unknown split 'sigma-25'"):
        task.held_out("sigma-25")


def test_diffusion_is_not_trained_on_additive_noise(marked):
    model = DiT(32, 8, 1, dim=8, depth=1, heads=2)
    batch = next(iter(Denoising(marked, channels=1, sigma=25, tiles=4).loader("train", 2)))
    with pytest.raises(ValueError, match="the task's noise is additive"):
        Diffusion()(model, batch)
    with pytest.raises(ValueError, match="AdditivelyNoisy: pass Noisy"):
        model.predict(batch)
