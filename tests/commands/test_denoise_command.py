"""Laws of `ebm denoise`: a photograph of any size and kind comes back clean and whole, and what cannot be done is one line."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ebm
from ebm import cli
from ebm.commands.denoise import denoise
from ebm.energies import GradientStepUNet
from ebm.energies.ebt.bidirectional import ImageEBT
from ebm.interfaces import Prediction
from ebm.objectives import Reconstruction
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks import Points
from ebm.tasks.images.denoising import Denoising
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
    assert pixels(done["picture"]).shape == (height, width, 3)
    assert pixels(done["map"]).shape[:2] == (height, width)
    assert done["steps per tile"] == 2.0
    assert "noisy" not in done
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["out-energy.png", "out.png", "photo.png"]


def test_the_map_is_of_the_energies_that_chose(run, photo, monkeypatch):
    maps = []
    monkeypatch.setattr("ebm.commands.denoise._write_map", lambda values, path: maps.append(values))
    energy = denoise(run, photo)["energy per tile"]
    assert maps[0].min() < maps[0].max()
    assert maps[0].mean().item() == pytest.approx(energy, rel=0.5)


def test_greys_stay_grey_for_a_model_of_greys(run, photo, monkeypatch):
    monkeypatch.setattr(run.task, "spec", {**run.task.spec, "channels": 1})
    run.energy = image_ebt(channels=1)
    assert pixels(denoise(run, photo)["picture"]).shape == (53, 71)


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
    usual, longer = denoise(run, photo), denoise(run, photo, steps=5, candidates=2, batch_size=3)
    assert (usual["steps per tile"], longer["steps per tile"]) == (2.0, 5.0)
    assert longer["forward passes"] == 2 * 6
    assert longer["energy per tile"] < usual["energy per tile"]
    assert denoise(run, photo, steps=50, patience=1, stride=TILE)["steps per tile"] <= 50


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
    denoise(run, photo, noise_step=7)
    assert run.energy.batch.context.step.unique().tolist() == [7]


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


@pytest.mark.slow
def test_twelve_megapixels_need_less_than_two_gigabytes(tmp_path):
    photo, out = picture(tmp_path / "photo.png", 3000, 4000), tmp_path / "out.png"
    command = [sys.executable, "-c", TWELVE_MEGAPIXELS, str(photo), str(out)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    peak, page = 0, os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        held = Path(f"/proc/{process.pid}/statm").read_text().split()
        peak = max(peak, int(held[1]) * page)
        time.sleep(0.01)
    assert process.returncode == 0
    assert 200e6 < peak < 2e9, peak
    assert pixels(out).shape == (3000, 4000, 3)
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
def test_noise_beyond_training_s_is_thought_about_until_enough_is_taken_off(telling, tmp_path, monkeypatch, sigma, steps):
    run, _ = telling
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run.energy, run.sampler = GradientStepUNet(1, (4, 4), (1, 1)), GradientDescent(1.0)
    run.recipe = {"thinking": {"enough": 1e-9}}  # never enough
    found = denoise(run, noisy(tmp_path / "noisy.png", sigma), sigma=sigma)
    assert found["steps per tile"] == steps
    run.recipe = {"thinking": {"enough": 1e9}}
    assert denoise(run, tmp_path / "noisy.png", sigma=sigma)["steps per tile"] == 1
    assert denoise(run, tmp_path / "noisy.png", sigma=sigma, steps=3)["steps per tile"] == 3
