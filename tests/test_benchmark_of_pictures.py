"""The table of pictures: it measures what it says, names what is missing, and checks itself by BM3D."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from ebm.baselines.dit import Diffuser, DiT
from ebm.energies import GradientStepUNet
from ebm.interfaces import Prediction
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.tasks import Denoising
from ebm.tasks.images.photographs import read_photograph
from tests.helpers import benchmark


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return benchmark("bsd68")


@pytest.fixture
def data(tmp_path) -> Path:
    """Two sets of two smooth pictures each."""
    rows, columns = np.mgrid[:40, :56]
    for place, (part, name) in enumerate((part, name) for part in ("BSD68", "Set12") for name in ("01", "02")):
        (tmp_path / part).mkdir(exist_ok=True)
        grey = 128 + 80 * np.sin(rows / (7 + place)) * np.cos(columns / 9)
        Image.fromarray(grey.astype("uint8")).save(tmp_path / part / f"{name}.png")
    return tmp_path


def run(table, monkeypatch, capsys, *words: object) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["bsd68.py", *map(str, words)])
    status = table.main()
    return status, capsys.readouterr().out


class Still:
    def predict(self, batch, start, *, generator=None):
        return Prediction(start, None, 1)


def test_noise_is_what_it_says_and_numbers_are_means_over_pictures(table, monkeypatch, capsys, data):
    monkeypatch.setattr(table, "denoiser", lambda name, steps: lambda noisy, sigma: noisy)
    status, out = run(table, monkeypatch, capsys, "--data", data, "--model", "still", "--sigma", 15, 25, "--json")
    rows = json.loads(out)
    assert status == 0
    assert [(row["set"], row["sigma"]) for row in rows] == [("BSD68", 15), ("BSD68", 25), ("Set12", 15), ("Set12", 25)]
    for row in rows:
        assert row["psnr"] == pytest.approx(20 * math.log10(255 / row["sigma"]), abs=0.3)  # clipping takes some noise away
        assert row["psnr"] == pytest.approx(sum(one["psnr"] for one in row["pictures"].values()) / 2)
    again = json.loads(run(table, monkeypatch, capsys, "--data", data, "--model", "still", "--sigma", 25, "--json")[1])
    assert [row["psnr"] for row in again] == [row["psnr"] for row in rows if row["sigma"] == 25]


def test_methods_and_runs_are_told_the_noise_in_their_own_units(table, data):
    (_, clean), _ = table.pictures(data, "BSD68", None)
    noisy = clean + 25 / 127.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert (table.denoiser("total-variation", None)(noisy, 25.0) - clean).std() < 0.5 * (noisy - clean).std()
    for options, signal in (({"sigma": (0, 55)}, 1.0), ({"noise_step": 99}, (1 + (25 / 127.5) ** 2) ** -0.5)):
        seen = []

        class Watching(Still):
            def predict(self, batch, start, *, generator=None, seen=seen):
                seen.append(batch.context)
                return super().predict(batch, start)

        task = Denoising(channels=1, tile=32, **options)
        ready = type("Run", (), {"judge": lambda self, task=task: task, "predictor": lambda self, steps: Watching()})()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table.ebm, "load", lambda name, ready=ready: ready)
            found = table.denoiser("mine", None)(noisy, 25.0)
        torch.testing.assert_close(found, signal * noisy, atol=2e-3, rtol=2e-3)
        std, at = task.schedule.std[seen[0].step[0]].item(), task.schedule.signal[seen[0].step[0]].item()
        assert std / at == pytest.approx(25 / 127.5, rel=0.02)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 75.0, 200.0])
def test_runs_of_a_schedule_work_at_any_noise_and_take_the_passes_that_are_asked_for(table, data, monkeypatch, sigma):
    (_, clean), _ = table.pictures(data, "BSD68", None)
    dit = DiT(image_size=32, patch_size=4, channels=1, dim=8, depth=1, heads=2, passes=3)
    ready = Run(Path(), {}, dit, GradientDescent(1.0), None, Denoising(channels=1, tile=32, stride=32, noise_step=99), {})
    monkeypatch.setattr(table.ebm, "load", lambda name: ready)
    seen = []
    predict = Diffuser.predict
    monkeypatch.setattr(
        Diffuser,
        "predict",
        lambda self, batch, *how, **named: seen.append((self.passes, batch.context)) or predict(self, batch, *how, **named),
    )
    found = table.denoiser("mine", 2)(clean, sigma)
    assert found.shape == clean.shape
    passes, context = seen[0]
    std, signal = ready.task.level(int(context.step[0]))
    assert passes == 2
    assert std / signal == pytest.approx(sigma / 127.5, rel=0.02) or int(context.step[0]) == 0


def test_beyond_training_a_run_thinks_as_the_command_does(table, data, monkeypatch):
    energy, recipe = GradientStepUNet(1, (4, 4), (1, 1)), {"thinking": {"familiar": 1e-9}}
    ready = Run(Path(), recipe, energy, GradientDescent(1.0), None, Denoising(channels=1, tile=32, sigma=(0, 55)), {})
    monkeypatch.setattr(table.ebm, "load", lambda name: ready)
    seen, restore = [], table.restore_picture
    monkeypatch.setattr(
        table, "restore_picture", lambda task, who, *how, **named: seen.append(who) or restore(task, who, *how, **named)
    )
    noisy = torch.zeros(1, 40, 40)
    for steps, sigma in ((None, 55.0), (None, 55.2), (1, 75.0)):
        table.denoiser("mine", steps)(noisy, sigma)
    assert [type(who.sampler).__name__ for who in seen] == ["GradientDescent", "Monotone", "GradientDescent"]


def test_methods_have_the_settings_of_the_nearest_noise(table, monkeypatch):
    assert table._settings("total-variation", 20.0) == table._settings("total-variation", 16.0) == {"weight": 0.7}
    assert table._settings("total-variation", 200.0) == {"weight": 0.9}
    assert table._settings("bm3d", 25.0) == {}
    for name, known in table.TUNED.items():
        for sigma in known:
            table.Classical(name, **table._settings(name, sigma))


def test_the_harness_is_checked_by_bm3d(table, monkeypatch, capsys, data):
    def exact(dB):
        def denoise(noisy, sigma):
            clean = min(known, key=lambda picture: (picture - noisy).square().mean())
            return clean + 2 * 10 ** (-dB / 20) * torch.where(clean > 0, -1.0, 1.0)

        return denoise

    known = [read_photograph(file, 1) / 127.5 - 1 for file in sorted((data / "BSD68").glob("*.png"))]
    for dB, expected in ((28.57, 0), (28.4, 1)):
        monkeypatch.setattr(table, "denoiser", lambda name, steps, dB=dB: exact(dB))
        words = ("--data", data, "--model", "bm3d", "--set", "BSD68", "--sigma", 25)
        status, out = run(table, monkeypatch, capsys, *words)
        assert status == expected
        assert f"{dB:.2f} / " in out
        assert "BM3D (published)                     28.57" in out


def test_what_is_missing_is_named(table, monkeypatch, capsys, data, tmp_path):
    with pytest.raises(SystemExit, match=r"holds no .png: --data names the folder that holds BSD68 and Set12"):
        run(table, monkeypatch, capsys, "--data", tmp_path / "none", "--model", "total-variation")
    colours = type("Run", (), {"judge": lambda self: Denoising()})()
    monkeypatch.setattr(table.ebm, "load", lambda name: colours)
    with pytest.raises(SystemExit, match="mine was not trained on grey photographs"):
        run(table, monkeypatch, capsys, "--data", data, "--model", "mine")
