"""Laws of `ebm denoise`: a photograph of any size and kind comes back clean and whole, and what cannot be done is one line."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from torch import nn

import ebm
from ebm import cli
from ebm.commands.denoise import denoise
from ebm.energies import GradientStepEBT, GradientStepUNet
from ebm.energies.ebt.bidirectional import ImageEBT
from ebm.interfaces import Prediction
from ebm.objectives import Reconstruction
from ebm.runs.run import Run
from ebm.samplers import GradientDescent, Monotone
from ebm.tasks import Points
from ebm.tasks.images.denoising import Denoising
from ebm.tasks.images.files import Picture, open_pictures, write_pictures
from tests.fake_plugins import REPOSITORY, quick_report
from tests.helpers import lent

TILE = 16


def sampler() -> GradientDescent:
    return GradientDescent(step_size=5.0, steps=2)


def image_ebt(channels: int = 3) -> ImageEBT:
    """An energy with weights that are all random, since some start at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        energy = ImageEBT(image_size=TILE, patch_size=4, channels=channels, dim=8, depth=1, heads=2)
        for parameter in energy.parameters():
            nn.init.normal_(parameter, std=0.3)
    return energy


@pytest.fixture(scope="module")
def task() -> Denoising:
    return Denoising(tile=TILE, stride=8, tiles=8, crop=32, noise_step=(50, 99))


@pytest.fixture
def run(task, tmp_path) -> Run:
    return Run(tmp_path / "run", {}, image_ebt(), sampler(), None, task, {})


@pytest.fixture
def photo(tmp_path) -> Path:
    return picture(tmp_path / "photo.png")


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def said(capsys, monkeypatch, run):
    def say(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("ebm.recipes.load_run", lambda path: run)
            try:
                cli.main(["denoise", *map(str, words)])
                status = 0
            except SystemExit as leaving:
                status = leaving.code or 0
        return status, *capsys.readouterr()

    return say


def picture(path: Path, height: int = 53, width: int = 71, mode: str = "RGB") -> Path:
    rows, columns = np.mgrid[:height, :width]
    colours = np.stack([rows * 3 % 256, columns * 3 % 256, (rows + columns) * 2 % 256], -1).astype("uint8")
    Image.fromarray(colours).convert(mode).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file).astype(int)


class Lazy(nn.Module):
    """A feed-forward denoiser that returns what it sees, and remembers it."""

    def predict(self, batch, start, *, generator=None):
        self.batch = batch
        return Prediction(start, None, 1)


# --------------------------------------------------------------------------------------------------------------- in Python


@pytest.mark.parametrize(("height", "width"), [(53, 71), (16, 16), (5, 40), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_any_picture_comes_back_in_its_size(run, tmp_path, height, width, mode):
    photo = picture(tmp_path / "photo.png", height, width, mode)
    done = denoise(run, photo, out=tmp_path / "out.png")
    assert pixels(done["picture"]).shape == (height, width, *{"L": (), "RGBA": (4,)}.get(mode, (3,)))
    assert pixels(done["map"]).shape[:2] == (height, width)
    assert done["steps per tile"] == 2.0
    assert "noisy" not in done
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["out-energy.png", "out.png", "photo.png"]


def test_the_map_is_of_the_energies_that_chose(run, photo, monkeypatch):
    maps = []
    monkeypatch.setattr("ebm.commands.denoise.write_map", lambda values, path: maps.append(values))
    energy = denoise(run, photo)["energy per tile"]
    assert maps[0].min() < maps[0].max()
    assert maps[0].mean().item() == pytest.approx(energy, rel=0.5)


def test_greys_stay_grey_for_a_model_of_greys(run, photo, monkeypatch):
    monkeypatch.setattr(run.task, "spec", {**run.task.spec, "channels": 1})
    run.energy = image_ebt(channels=1)
    assert pixels(denoise(run, photo)["picture"]).shape == (53, 71)


def test_colours_through_a_run_of_greys_become_grey_and_that_is_said_once(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(run.task, "spec", {**run.task.spec, "channels": 1})
    run.energy = Lazy()
    frames = [Image.fromarray(np.full((20, 24, 3), (9, 9 + 50 * index, 9), np.uint8)) for index in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    for file in (photo, tmp_path / "a.tif"):  # whose first page is grey
        with pytest.warns(
            UserWarning, match=f"{file.name}: it has colours, and the run knows greys alone: it is written grey"
        ) as said:
            denoise(run, file)
        assert len(said) == 1
    with warnings.catch_warnings(action="error"):
        denoise(run, picture(tmp_path / "grey.png", mode="L"))


@pytest.mark.parametrize("name", ["out.png", "out.tif", "out.bmp"])
def test_a_model_that_changes_nothing_writes_the_picture_itself(run, photo, name):
    run.energy = Lazy()
    done = denoise(run, photo, out=name)
    assert np.array_equal(pixels(done["picture"]), pixels(photo))
    assert done == {"picture": Path(name), "forward passes": 1}
    assert run.energy.batch.context.step.unique().tolist() == [99]


def test_the_file_is_named_after_the_photo_and_lies_here(run, photo):
    assert denoise(run, photo, map=False)["picture"] == Path("photo-clean.png")
    assert os.listdir() == ["photo-clean.png"]


def test_thinking_is_as_it_is_told(run, photo):
    usual, longer = denoise(run, photo), denoise(run, photo, out="b.png", steps=5, candidates=2, batch_size=3)
    assert (usual["steps per tile"], longer["steps per tile"]) == (2.0, 5.0)
    assert longer["forward passes"] == 2 * 6
    assert longer["energy per tile"] < usual["energy per tile"]
    assert denoise(run, photo, out="c.png", steps=50, patience=1, stride=TILE)["steps per tile"] <= 50


def test_noise_is_added_as_the_schedule_says_and_by_the_seed(run, photo):
    run.energy = Lazy()
    found = [denoise(run, photo, out=f"{i}.png", add_noise=400, seed=seed) for i, seed in enumerate((0, 0, 1))]
    first, same, other = (pixels(done["noisy"]) for done in found)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    schedule, clean = run.task.schedule, torch.from_numpy(pixels(photo)).movedim(-1, 0) / 127.5 - 1
    seen = run.energy.batch.context
    spread = (seen.image[0] - schedule.signal[400].item() * clean[:, -TILE:, -TILE:]).abs()
    assert spread.median() == pytest.approx(0.67 * schedule.std[400].item(), rel=0.2)
    assert run.energy.batch.context.step.unique().tolist() == [400]


def test_a_picture_of_known_noise_is_scaled_as_the_schedule_has_it(run, photo):
    run.energy = Lazy()
    done, schedule = denoise(run, photo, noise_std=0.5), run.task.schedule
    (step,) = run.energy.batch.context.step.unique().tolist()
    assert schedule.std[step] / schedule.signal[step] == pytest.approx(0.5, rel=0.02)
    clean = torch.from_numpy(pixels(photo)).movedim(-1, 0) / 127.5 - 1
    shown = torch.from_numpy(pixels(done["picture"])).movedim(-1, 0) / 127.5 - 1
    torch.testing.assert_close(shown, clean * schedule.signal[step].item(), atol=1 / 127, rtol=0)
    denoise(run, photo, noise_step=7, overwrite=True)
    assert run.energy.batch.context.step.unique().tolist() == [7]


def test_a_file_that_nobody_named_is_replaced_on_request_alone(run, photo):
    """A photo-clean.png may be the clean photograph that the noisy one was made of."""
    Path("photo-clean.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"photo-clean\.png is in this folder already: --overwrite replaces it, and --out"):
        denoise(run, photo)
    assert (Path("photo-clean.png").read_bytes(), os.listdir()) == (b"mine", ["photo-clean.png"])
    denoise(run, photo, out="photo-clean.png")  # named
    Path("photo-clean.png").write_bytes(b"mine")
    assert pixels(denoise(run, photo, overwrite=True)["picture"]).shape == pixels(photo).shape


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tolerance": 0.3}, "tolerance=0.3, patience=None: it counts while thinking is patient, so pass --patience"),
        ({"batch_size": 0}, "batch_size=0: denoise at least one tile"),
        ({"stride": -4}, "stride=-4 with tile=16: a stride of 1 to 16"),
        ({"sigma": math.inf}, "sigma=inf: pass a positive number"),
        ({"noise_std": math.nan}, "noise_std=nan: pass a positive number"),
        ({"out": "new"}, "out='new': pictures of that kind cannot be written, .* or if it is a folder, make it first"),
    ],
)
def test_what_an_energy_of_any_size_does_not_look_at_is_checked_all_the_same(telling, photo, keywords, message):
    with pytest.raises(ValueError, match=message):
        denoise(telling[0], photo, **keywords)
    assert not os.listdir()


def test_an_old_picture_stays_when_writing_fails(run, photo, monkeypatch):
    Path("out.png").write_bytes(b"old")

    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr("ebm.files.commit", fail)
    with pytest.raises(OSError, match="full"):
        denoise(run, photo, out="out.png")
    assert Path("out.png").read_bytes() == b"old"
    assert os.listdir() == ["out.png"]


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"out": "nowhere/out.png"}, r"there is no folder nowhere"),
        ({"out": "out.docx"}, r"ends in \.png"),
        ({"out": "out"}, r"ends in \.png"),
        ({"noise_step": 1, "add_noise": 2}, "noise_step=1, add_noise=2: .* one of them"),
        ({"noise_step": 1000}, "noise_step=1000: .* 0 to 999"),
        ({"add_noise": -1}, "add_noise=-1"),
        ({"noise_std": 0.0}, r"noise_std=0\.0"),
        ({"stride": 17}, "stride=17 with tile=16"),
        ({"candidates": 0}, "candidates=0"),
    ],
)
def test_what_cannot_be_done_says_so_and_writes_nothing(run, photo, keywords, reason):
    with pytest.raises((ValueError, OSError), match=reason):
        denoise(run, photo, **{"out": "out.png", **keywords})
    with pytest.raises(FileNotFoundError, match=r"there is no file nothing\.png"):
        denoise(run, "nothing.png")
    assert os.listdir() == []


@pytest.mark.parametrize("side", ["noisy", "energy"])
def test_a_file_written_beside_the_picture_never_replaces_the_photograph(run, photo, side):
    named = photo.rename(f"cat-{side}.png")
    before = named.read_bytes()
    for out in ("cat.png", "./cat.png", named.resolve().parent / "cat.png"):
        with pytest.raises(ValueError, match=rf"cat-{side}\.png' is the photo itself"):
            denoise(run, named, out=out, add_noise=99)
    assert os.listdir() == [named.name]
    assert named.read_bytes() == before
    if side == "energy":
        assert "picture" in denoise(run, named, out="cat.png", map=False)
    else:
        assert "picture" in denoise(run, named, out="cat.png")


def test_models_and_tasks_that_do_not_fit_say_so(run, photo):
    with pytest.raises(ValueError, match="is the photo itself"):
        denoise(run, photo, out=photo)
    run.energy = Lazy()
    with pytest.raises(ValueError, match="steps=3, .* Lazy is feed-forward"):
        denoise(run, photo, steps=3)
    task = run.task
    run.task = lent(task, "held_out")  # of another class, with all that is needed
    assert denoise(run, photo)["forward passes"] == 1
    run.task = lent(task, "schedule")
    with pytest.raises(ValueError, match="its task SimpleNamespace has no schedule, as the task denoising has"):
        denoise(run, photo)
    os.remove("photo-clean.png")
    run.task = Points("moons", n=60)
    with pytest.raises(ValueError, match="not trained to denoise: its task Points has no tile and no stride and no schedule"):
        denoise(run, photo)


# ------------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_and_prints(said, run, photo):
    status, out, err = said(run.path, photo, "-o", "x.png", "--add-noise", 60, "--steps", 3, "--seed", 1)
    assert (status, err) == (0, "")
    lines = dict(line.split("\t") for line in out.splitlines())
    assert lines.pop("energy per tile")
    files = {"noisy": "x-noisy.png", "picture": "x.png", "map": "x-energy.png"}
    assert lines == {**files, "steps per tile": "3", "forward passes": "4"}
    assert said(run.path, photo, "--no-map")[0] == 0
    assert sorted(os.listdir()) == ["photo-clean.png", "x-energy.png", "x-noisy.png", "x.png"]


def test_the_command_fails_in_one_line(said, run, photo, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:60])
    for words, reason in (
        ((run.path, broken), "cannot be read as a picture"),
        ((run.path, tmp_path / "none.png"), "there is no file"),
        ((run.path, photo, "-o", "no/x.png"), "there is no folder no"),
        ((run.path, photo, "--noise-std", 0.001), "std="),
    ):
        status, _, err = said(*words)
        assert status == 2
        assert reason in err
        assert err.count("\n") == 1


def test_a_trained_run_is_loaded_and_denoises(task, photo, tmp_path, monkeypatch, capsys):
    quick_report(monkeypatch)
    objective = Reconstruction(sampler(), start=task.start, distance=task.distance)
    ebm.fit(image_ebt(), objective, task, steps=2, batch_size=4, evaluate_limit=1, out=tmp_path / "run")
    loaded = ebm.load(tmp_path / "run", energy=image_ebt(), objective=objective, task=task)
    assert math.isfinite(denoise(loaded, photo)["energy per tile"])
    with pytest.raises(SystemExit):
        cli.main(["denoise", str(tmp_path / "nowhere"), str(photo)])
    assert "holds no run" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- files as people have them


class Lifts(Lazy):
    """Adds a fortieth of the way from black to white, and colours: what it changes is known."""

    def predict(self, batch, start, *, generator=None):
        prediction = super().predict(batch, start)
        shift = torch.tensor([0.04, 0.05, 0.06]).reshape(3, 1, 1)
        return Prediction(prediction.y + shift, None, 1)


def opened(path) -> list:
    return [*open_pictures(path)]


def test_greys_stay_grey_in_a_run_of_colours(run, tmp_path):
    run.energy = Lifts()
    photo = picture(tmp_path / "grey.png", mode="L")
    done = denoise(run, photo, add_noise=50)
    before, after = pixels(photo), pixels(done["picture"])
    assert after.shape == before.shape
    assert pixels(done["noisy"]).shape == before.shape
    seen = run.energy.batch.context.image
    assert torch.equal(seen[:, 0], seen[:, 1])
    assert torch.equal(seen[:, 0], seen[:, 2])
    lifted = pixels(denoise(run, photo, overwrite=True)["picture"])
    assert np.abs(lifted - np.minimum(before + 0.05 * 127.5, 255)).max() <= 0.51
    coloured = picture(tmp_path / "grey-as-colours.png", mode="L")
    Image.open(coloured).convert("RGB").save(coloured)  # as many files of greys are
    found = pixels(denoise(run, coloured)["picture"])
    assert found.shape == (*before.shape, 3)
    assert np.array_equal(found, np.stack([lifted] * 3, -1))


@pytest.mark.parametrize("under", [0, 255])
def test_alpha_stays_and_what_it_hides_neither_changes_nor_shows(run, tmp_path, under):
    """What lies under alpha 0 makes no difference to what is seen, and is itself as it was."""
    shown, alpha = pixels(picture(tmp_path / "a.png")), np.full((53, 71), 255, np.uint8)
    alpha[10:30, 20:50], alpha[40:, :9] = 0, 100
    hidden = alpha == 0
    found = []
    for name, colour in (("b", under), ("c", 128)):
        each = shown.copy()
        each[hidden] = colour
        Image.fromarray(np.dstack([each, alpha]).astype(np.uint8)).save(tmp_path / f"{name}.png")
        found.append(pixels(denoise(run, tmp_path / f"{name}.png", steps=3)["picture"]))
    assert np.array_equal(found[0][..., 3], alpha)
    assert np.array_equal(found[0][~hidden], found[1][~hidden])
    assert (found[0][hidden][:, :3] == under).all()
    assert not np.array_equal(found[0][~hidden][:, :3], shown[~hidden])


@pytest.mark.parametrize("kind", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_go_in_and_come_out(run, tmp_path, kind, channels):
    """A sixteenth of a byte's step is seen by the model, and written."""
    fine = (np.arange(40 * 48).reshape(40, 48, 1) * 34 + np.zeros(channels)).astype(np.uint16)
    write_pictures(tmp_path / f"a{kind}", [Picture(fine, 65535.0)])
    run.energy = Lazy()
    (found,) = opened(denoise(run, tmp_path / f"a{kind}")["picture"])
    assert found.pixels.dtype == np.uint16
    assert np.abs(found.pixels.astype(int) - fine).max() <= 1
    assert run.energy.batch.context.image.flatten().unique().numel() > 200


def test_a_range_that_is_not_full_is_denoised_as_the_picture_it_shows(run, tmp_path):
    """Greys of 8 bits, 12 bits in 16, and floats of 0 to 1: one picture, three files."""
    grey = pixels(picture(tmp_path / "a.png", mode="L"))
    tifffile.imwrite(tmp_path / "b.tif", (grey / 255 * 4095).round().astype(np.uint16))
    tifffile.imwrite(tmp_path / "c.tif", (grey / 255).astype(np.float32))
    plain = pixels(denoise(run, tmp_path / "a.png")["picture"]) / 255
    for name, words, white in (
        ("b.tif", r"b\.tif: its 16 bits .* 12 bits, 4095 for white", 4095),
        ("c.tif", "1 is taken as white", 1),
    ):
        with pytest.warns(UserWarning, match=words):
            done = denoise(run, tmp_path / name)
        found = tifffile.imread(done["picture"])
        assert found.dtype == tifffile.imread(tmp_path / name).dtype
        assert np.abs(found / white - plain).max() < 1 / 200
    full = denoise(run, tmp_path / "b.tif", white=65535, out="dark.tif")
    assert not np.allclose(tifffile.imread(full["picture"]) / 4095, plain, atol=0.05)
    tifffile.imwrite(tmp_path / "d.tif", (grey * 3.0 - 9).astype(np.float32))
    with pytest.raises(ValueError, match=r"d\.tif .* -9 to 585, .*--white NUMBER"):
        denoise(run, tmp_path / "d.tif")
    with pytest.raises(ValueError, match=r"white=100: it has numbers up to 3180"):
        denoise(run, tmp_path / "b.tif", white=100, out="e.tif")


def test_what_belongs_to_a_photograph_stays(run, tmp_path):
    said = Image.Exif()
    said[0x0112], said[0x010F] = 5, "Maker"  # mirrored and turned
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    upright = Image.open(picture(tmp_path / "a.png"))
    upright.transpose(Image.Transpose.TRANSPOSE).save(
        tmp_path / "a.jpg", exif=said, dpi=(240, 240), icc_profile=profile, quality=100, subsampling=0
    )
    run.energy = Lazy()
    with Image.open(denoise(run, tmp_path / "a.jpg", quality=100)["picture"]) as found:
        assert found.size == upright.size
        assert found.info["dpi"] == (240, 240)
        assert found.info["icc_profile"] == profile
        assert dict(found.getexif()) == {0x010F: "Maker"}
        assert np.abs(np.asarray(found).astype(int) - np.asarray(upright)).mean() < 3
    small, large = (denoise(run, tmp_path / "a.jpg", out=f"{q}.jpg", quality=q)["picture"].stat().st_size for q in (20, 100))
    assert small < large / 2
    with pytest.raises(ValueError, match="quality=101"):
        denoise(run, tmp_path / "a.jpg", quality=101)


def test_all_frames_are_denoised(run, tmp_path):
    shown = [Image.fromarray(np.full((20, 24, 3), 40 * number, np.uint8)) for number in range(1, 5)]
    shown[0].save(tmp_path / "a.webp", save_all=True, append_images=shown[1:], duration=[50, 60, 70, 80], lossless=True)
    run.energy = Lifts()
    done = denoise(run, tmp_path / "a.webp", add_noise=9)
    found = opened(done["picture"])
    assert [frame.duration for frame in found] == [50, 60, 70, 80]
    assert [frame.pixels.mean() for frame in found] == pytest.approx([46, 86, 126, 166], abs=8)
    assert done["forward passes"] == 1
    assert [done[f"noisy-{number}"] for number in range(1, 5)] == [Path(f"a-clean-noisy-{number}.png") for number in range(1, 5)]
    assert len(os.listdir()) == 5
    with pytest.raises(ValueError, match=r"b\.jpg.*4 frames or pages"):
        denoise(run, tmp_path / "a.webp", out="b.jpg")


def test_pages_of_different_sizes_have_maps_of_their_own_on_request(run, tmp_path):
    pages = [Image.fromarray(np.full((20, width), 99, np.uint8)) for width in (24, 30)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert "map-1" not in denoise(run, tmp_path / "a.tif")
    done = denoise(run, tmp_path / "a.tif", map=True, overwrite=True)
    assert [pixels(done[f"map-{number}"]).shape[:2] for number in (1, 2)] == [(20, 24), (20, 30)]
    assert [frame.pixels.shape for frame in opened(done["picture"])] == [(20, 24, 1), (20, 30, 1)]


def test_what_the_file_to_write_cannot_hold_is_said(run, tmp_path):
    write_pictures(tmp_path / "a.png", [Picture(np.full((9, 9, 3), 9, np.uint16), 65535.0, np.full((9, 9), 9, np.uint16))])
    with pytest.warns(UserWarning, match=r"a\.png: its|a\.png: it holds") as caught:
        denoise(run, tmp_path / "a.png", out="a.jpg", white=65535)
    assert sum("8 bits" in str(each.message) or "no alpha" in str(each.message) for each in caught) == 2


@pytest.mark.parametrize("name", ["nosuffix", "photo.xyz", "photo.psd"])
def test_a_photo_of_a_kind_that_cannot_be_written_becomes_a_png(run, photo, tmp_path, name):
    photo.rename(tmp_path / name)
    assert denoise(run, tmp_path / name)["picture"] == Path(f"{Path(name).stem}-clean.png")


def test_a_side_file_never_replaces_a_picture_of_somebodys(run, photo):
    mine = picture(Path("x-energy.png"))
    before = mine.read_bytes()
    with pytest.raises(ValueError, match=r"'x-energy\.png' is there, and was not written by this command"):
        denoise(run, photo, out="x.png")
    assert mine.read_bytes() == before
    assert os.listdir() == ["x-energy.png"]
    denoise(run, photo, out="y.png", add_noise=3)
    assert "map" in denoise(run, photo, out="y.png", add_noise=4)  # its own are written anew


# ------------------------------------------------------------------------------------------------------------ several at once


@pytest.fixture
def album(tmp_path) -> Path:
    folder = tmp_path / "album"
    (folder / "below").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.JPG", "below/a.tif")):
        picture(folder / name, 20 + index, 24)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_is_denoised_picture_by_picture(run, album, tmp_path):
    extra = picture(tmp_path / "z.bmp", 19, 18)
    done = denoise(run, album, extra, out="new")
    names = ["a.png", "b.JPG", "below/a.tif", "z.bmp"]
    assert [*done.values()] == [Path("new") / name for name in names]
    assert [*done] == [str(album / name) for name in names[:3]] + [str(extra)]
    assert sorted(str(path.relative_to("new")) for path in Path("new").rglob("*") if path.is_file()) == sorted(names)
    assert [pixels(Path("new") / name).shape[0] for name in names] == [20, 21, 22, 19]


def test_one_broken_picture_is_named_and_the_others_are_denoised(said, run, album):
    (album / "aa.png").write_bytes((album / "a.png").read_bytes()[:60])
    (album / "ab.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot be read as a picture") as caught:
        status, _, err = said(run.path, album, "-o", "new")
    assert status == 2
    assert [name in str(each.message) for name, each in zip(("aa.png", "ab.jpg"), caught, strict=True)] == [True, True]
    assert "2 of 5 pictures could not be denoised, the other 3 are written: " in err
    assert sorted(path.name for path in Path("new").rglob("*.*")) == ["a.png", "a.tif", "b.JPG"]


def test_several_are_printed_as_they_are_written(said, run, album):
    status, out, err = said(run.path, album / "a.png", album / "b.JPG", "--map")
    assert (status, err) == (0, "")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines == [[str(album / "a.png"), "a-clean.png"], [str(album / "b.JPG"), "b-clean.JPG"]]
    assert sorted(os.listdir()) == ["a-clean-energy.png", "a-clean.png", "b-clean-energy.png", "b-clean.JPG"]


def test_side_files_of_one_stem_have_the_whole_name(run, album):
    (album / "a.jpg").write_bytes((album / "b.JPG").read_bytes())
    denoise(run, album / "a.png", album / "a.jpg", out="new", map=True)
    assert sorted(os.listdir("new")) == ["a.jpg", "a.jpg-energy.png", "a.png", "a.png-energy.png"]


def test_a_side_file_replaces_no_other_photos_picture(said, run, album):
    for named in ("a-energy.png", "a-noisy.png"):
        (album / named).write_bytes((album / "a.png").read_bytes())
    for words, named in ((("--map",), "a-energy.png"), (("--no-map", "--add-noise", 4), "a-noisy.png")):
        status, _, err = said(run.path, album, "-o", "new", "--overwrite", *words)
        assert status == 2
        assert f"'new/{named}' is where another photo is written, and would be replaced: denoise {album}/a.png alone" in err
        assert pixels(Path("new") / named).shape == pixels(album / named).shape
    assert said(run.path, album / "a.png", "-o", "alone.png", "--map")[0] == 0


def test_nothing_is_replaced_unasked(run, album, tmp_path):
    before = {path: path.read_bytes() for path in album.rglob("*.*")}
    for out in (album, album / ".", album.parent / "here" / ".." / "album"):
        with pytest.raises(ValueError, match=r"a\.png' is the photo .*a\.png itself"):
            denoise(run, album, out=out, overwrite=True)
    denoise(run, album, out="new")
    with pytest.raises(ValueError, match=r"3 of 3 pictures are in new already, such as a\.png: --overwrite"):
        denoise(run, album, out="new")
    assert len(denoise(run, album, out="new", overwrite=True)) == 3
    assert len(denoise(run, album, out=album / "clean")) == 3
    assert len(denoise(run, album, out=album / "clean", overwrite=True)) == 3  # what was written is no input
    with pytest.raises(ValueError, match=r"a\.png and .*a\.png would both be written to new/a\.png"):
        denoise(run, album / "a.png", picture(tmp_path / "a.png"), out="new", overwrite=True)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("names", "keywords", "reason"),
    [
        ((), {}, "no picture: name one"),
        (("album",), {"out": "x.png"}, r"out='x\.png' is no folder"),
        (("album",), {"out": "no/where"}, "there is no folder no"),
        (("empty",), {}, "empty holds no picture"),
    ],
)
def test_several_that_cannot_be_denoised_say_so(run, album, tmp_path, names, keywords, reason):
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, OSError), match=reason):
        denoise(run, *(tmp_path / name for name in names), **keywords)
    assert os.listdir() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_refused_at_the_start(run, album):
    os.mkdir("closed", 0o500)
    with pytest.raises(PermissionError, match="closed cannot be written to"):
        denoise(run, album, out="closed")


def test_a_folder_without_permission_is_found_before_any_work(run, album, monkeypatch):
    def refuse(folder):
        raise PermissionError(f"{folder} cannot be written to")

    monkeypatch.setattr("ebm.commands.denoise.check_writable", refuse)
    with pytest.raises(PermissionError, match="new cannot be written to"):
        denoise(run, album, out="new")


def test_a_single_picture_may_go_to_a_folder(run, photo):
    os.mkdir("new")
    assert denoise(run, photo, out="new")["picture"] == Path("new/photo.png")
    with pytest.raises(ValueError, match=r"photo\.png is in new already: --overwrite"):
        denoise(run, photo, out="new")
    with pytest.raises(ValueError, match="is the photo itself"):
        denoise(run, photo, out=photo.parent, overwrite=True)
    assert denoise(run, photo, out="new", overwrite=True)["picture"] == Path("new/photo.png")


def test_a_picture_that_is_not_finite_is_never_written(run, photo):
    class Explodes(Lazy):
        def predict(self, batch, start, *, generator=None):
            return Prediction(start * torch.inf, None, 1)

    run.energy = Explodes()
    with pytest.raises(FloatingPointError, match="not finite"):
        denoise(run, photo)
    assert os.listdir() == []


# ---------------------------------------------------------------------------------------------------------------- at length

TWELVE_MEGAPIXELS = """
import sys
from pathlib import Path
from ebm.energies import GradientStepUNet
from ebm.energies.ebt.bidirectional import ImageEBT
from ebm.commands.denoise import denoise
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks.images.denoising import Denoising

task = Denoising(tile=64, stride=56, crop=64)
energy = ImageEBT(image_size=64, patch_size=8, dim=16, depth=1, heads=2)
run = Run(Path("run"), {}, energy, GradientDescent(step_size=1.0, steps=2), None, task, {})
denoise(run, sys.argv[1], out=sys.argv[2], add_noise=99)
"""


HUNDRED_MEGAPIXELS = """
import sys
from pathlib import Path
from torch import nn
from ebm.commands.denoise import denoise
from ebm.interfaces import Prediction
from ebm.runs.run import Run
from ebm.tasks.images.denoising import Denoising

class Cheap(nn.Module):
    patch_size = 64

    def encode(self, context=None, level=-1):
        return None

    def patch_energies(self, y, code):
        return nn.functional.avg_pool2d(y, 64).mean(1)

    def predict(self, batch, start, *, generator=None):
        return Prediction(start, None, 1)

denoise(Run(Path("run"), {}, Cheap(), None, None, Denoising(tile=128, stride=128, crop=128), {}), sys.argv[1], out=sys.argv[2])
"""


def peak_of(code: str, photo: Path, out: Path) -> int:
    """Runs a script, and returns the most memory that it held, in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(photo), str(out)], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    peak, page = 0, os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        held = Path(f"/proc/{process.pid}/statm").read_text().split()
        peak = max(peak, int(held[1]) * page)
        time.sleep(0.01)
    assert process.returncode == 0
    return peak


@pytest.mark.slow
def test_twelve_megapixels_need_less_than_two_gigabytes(tmp_path):
    photo, out = picture(tmp_path / "photo.png", 3000, 4000), tmp_path / "out.png"
    peak = peak_of(TWELVE_MEGAPIXELS, photo, out)
    assert 200e6 < peak < 2e9, peak
    assert pixels(out).shape == (3000, 4000, 3)
    assert out.with_name("out-energy.png").exists()


@pytest.mark.slow
def test_a_hundred_megapixels_need_less_than_four_gigabytes(tmp_path):
    photo, out = tmp_path / "photo.png", tmp_path / "out.jpg"
    Image.effect_noise((1000, 1000), 50).convert("RGB").resize((10_000, 10_000), Image.Resampling.NEAREST).save(
        photo, compress_level=1
    )
    peak = peak_of(HUNDRED_MEGAPIXELS, photo, out)
    assert 200e6 < peak < 4e9, peak
    assert open_pictures(out).first().pixels.shape == (10_000, 10_000, 3)
    assert out.with_name("out-energy.png").exists()


# -------------------------------------------------------------------------------------------------------- additive noise


class Telling:
    """Predicts what it sees, and notes which noise it was told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def predict(self, batch, start, *, generator=None):
        self.told.append(batch.context.std.item() * 127.5)
        return Prediction(start, None, 1)


@pytest.fixture
def telling(monkeypatch, tmp_path) -> tuple[Run, Telling]:
    told = Telling()
    monkeypatch.setattr(Telling, "any_size", True, raising=False)
    monkeypatch.setattr(Run, "predictor", lambda self, *how: told)
    task = Denoising(channels=1, tile=TILE, tiles=8, crop=32, sigma=(0, 55))
    return Run(tmp_path / "run", {}, nn.Identity(), sampler(), None, task, {}), told


def noisy(path: Path, sigma: float) -> Path:
    rows, columns = np.mgrid[:120, :160]
    grey = 128 + 30 * np.sin(rows / 20) * np.cos(columns / 30) + sigma * np.random.default_rng(0).normal(size=rows.shape)
    Image.fromarray(grey.round().clip(0, 255).astype("uint8")).save(path)
    return path


@pytest.mark.parametrize("sigma", [6, 15, 40])
def test_noise_that_nobody_says_is_estimated_and_said(telling, tmp_path, sigma):
    run, told = telling
    found = denoise(run, noisy(tmp_path / "noisy.png", sigma))
    assert told.told[0] == pytest.approx(sigma, rel=0.15)
    assert found["noise"] == f"{told.told[0]:.1f} of 255, estimated"


def test_greys_are_seen_as_such_by_a_model_that_takes_colours_apart(telling, tmp_path, monkeypatch):
    """A grey picture comes out as from the grey network, also where its file has three channels."""
    run, _ = telling
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    grey, apart = GradientStepUNet(1, (4, 4), (1, 1)), GradientStepUNet(3, (4, 4), (1, 1), colours="apart")
    apart.load_state_dict(grey.state_dict())
    photo = noisy(tmp_path / "noisy.png", 20)
    Image.open(photo).convert("RGB").save(tmp_path / "rgb.png")
    run.energy, run.sampler = grey, GradientDescent(1.0)
    expected = np.array(Image.open(denoise(run, photo, sigma=20)["picture"]))
    run.energy = apart
    monkeypatch.setitem(run.task.spec, "channels", 3)
    assert np.array_equal(np.array(Image.open(denoise(run, photo, out="a.png", sigma=20)["picture"])), expected)
    found = np.array(Image.open(denoise(run, tmp_path / "rgb.png", out="b.png", sigma=20)["picture"]))
    assert np.array_equal(found, np.repeat(expected[..., None], 3, -1))


@pytest.mark.parametrize("sigma", [0.5, 1, 2])
def test_noise_as_weak_as_many_a_photograph_s_grain_is_left_unless_it_is_said(telling, tmp_path, sigma):
    run, told = telling
    assert denoise(run, noisy(tmp_path / "noisy.png", sigma))["noise"] == "none taken off, as less than 2.5 of 255, estimated"
    assert np.array_equal(pixels(Path("noisy-clean.png")), pixels(tmp_path / "noisy.png"))
    denoise(run, tmp_path / "noisy.png", sigma=sigma, overwrite=True)
    assert told.told == [pytest.approx(sigma, abs=0.05)]


class Asked(GradientStepUNet):
    """Counts how often it is asked what noise it sees."""

    def __init__(self) -> None:
        super().__init__(1, (4, 4), (1, 1))
        self.passes = 0

    def noise(self, y, code):
        self.passes += 1
        return super().noise(y, code)


@pytest.mark.parametrize(("sigma", "passes"), [(0, 0), (4, 1), (40, 2)])
def test_a_picture_without_noise_costs_what_it_takes_to_know_that(telling, tmp_path, monkeypatch, sigma, passes):
    """This energy has learned nothing and takes off little, until what is left of the estimate counts as none."""
    run, _ = telling
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run.energy, run.sampler = Asked(), Monotone(GradientDescent(1.0), halvings=6)
    photo = noisy(tmp_path / "noisy.png", sigma)
    found = denoise(run, photo, out=tmp_path / "out.png")
    assert (run.energy.passes, found["forward passes"], found["steps per tile"]) == (passes, 0, 0)
    assert found["noise"] == "none taken off, as less than 2.5 of 255, estimated"
    assert np.array_equal(pixels(found["picture"]), pixels(photo))
    assert pixels(found["map"]).max() == 0


@pytest.mark.parametrize(
    ("said", "sigma"),
    [
        ({"sigma": 12.5}, 12.5),
        ({"sigma": 20, "strength": 0.5}, 10),
        ({"noise_std": 0.2}, 25.5),
        ({"noise_step": 70}, 7),
        ({"add_noise": 250}, 25),
        ({"sigma": 200, "strength": 3.0}, 255),
    ],
)
def test_noise_that_is_said_counts(telling, tmp_path, said, sigma):
    run, told = telling
    found = denoise(run, noisy(tmp_path / "noisy.png", 5), **said)
    assert told.told == [pytest.approx(sigma, abs=0.05)]
    assert "estimated" not in found["noise"]
    if "add_noise" in said:
        seen = np.array(Image.open(found["noisy"]), dtype=float) - np.array(Image.open(tmp_path / "noisy.png"), dtype=float)
        assert seen.std() == pytest.approx(25, rel=0.05)


def test_sigma_and_strength_reach_a_diffusion_s_schedule_too(run, photo):
    by_std, by_sigma = (denoise(run, photo, out=f"{n}.png", **how) for n, how in enumerate(({"noise_std": 0.4}, {"sigma": 51})))
    assert by_std["picture"].read_bytes() == by_sigma["picture"].read_bytes()
    halved = denoise(run, photo, out="2.png", sigma=102, strength=0.5)
    assert halved["picture"].read_bytes() == by_sigma["picture"].read_bytes()
    with pytest.raises(ValueError, match="strength=0: pass a positive number"):
        denoise(run, photo, out="3.png", strength=0)
    with pytest.raises(ValueError, match=r"noise_std=0.3, sigma=5: each says how strong"):
        denoise(run, photo, out="3.png", sigma=5, noise_std=0.3)
    with pytest.raises(ValueError, match="sigma=-1: pass a positive number, in grey levels"):
        denoise(run, photo, out="3.png", sigma=-1)


@pytest.mark.parametrize(("sigma", "steps"), [(30, 1), (55, 1), (80, 8)])
def test_noise_beyond_training_s_is_thought_about_as_long_as_the_energy_falls(telling, tmp_path, monkeypatch, sigma, steps):
    run, _ = telling
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run.energy, run.sampler = GradientStepUNet(1, (4, 4), (1, 1)), GradientDescent(1.0)
    run.recipe = {"thinking": {"familiar": 1e-9}}  # any fall counts
    found = denoise(run, noisy(tmp_path / "noisy.png", sigma), sigma=sigma)
    assert found["steps per tile"] == steps
    run.recipe = {"thinking": {"familiar": 1e9}}  # one step is enough
    assert denoise(run, tmp_path / "noisy.png", sigma=sigma, out="a.png")["steps per tile"] == 1
    run.recipe = {"thinking": {"familiar": 1e-9, "tolerance": 1 - 1e-9}}  # none does
    assert denoise(run, tmp_path / "noisy.png", sigma=sigma, out="b.png")["steps per tile"] == 1
    assert denoise(run, tmp_path / "noisy.png", sigma=sigma, out="c.png", steps=3)["steps per tile"] == 3


def test_an_energy_that_is_told_a_step_gets_the_estimated_one(tmp_path):
    torch.manual_seed(0)
    task = Denoising(tile=TILE, stride=8, tiles=8, crop=32, noise_step=(0, 99))
    sizes = {"image_size": TILE, "dim": 8, "depth": 1, "heads": 2}
    energy = GradientStepEBT(**sizes, deviations=task.spec["deviations"], strongest=task.spec["strongest"])
    run = Run(tmp_path / "run", {}, energy, GradientDescent(1.0), None, task, {})
    grey = noisy(tmp_path / "noisy.png", 20)
    found = denoise(run, grey, out=tmp_path / "estimated.png")
    value, unit = found["noise"].split(" of ")
    assert float(value) == pytest.approx(20, rel=0.1)
    assert unit == "255, estimated"
    assert "noise" not in denoise(run, grey, out=tmp_path / "said.png", sigma=20)
    flat = denoise(run, noisy(tmp_path / "flat.png", 0), out=tmp_path / "clean.png")
    assert float(flat["noise"].split()[0]) == pytest.approx(127.5 * task.schedule.std[0].item(), rel=0.1)
