"""The benchmark of thinking at noise: it counts rises, stops by the energy, and fits the slope that is there."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ebm.interfaces import Energy, left
from tests.helpers import benchmark


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benchmark("thinking_noise")


class Bowl(Energy):
    """E = w |y − clean|² / 2: a step of size 1 leaves 1 − w of the noise, whatever it is told."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def encode(self, context=None, level=-1):
        return torch.as_tensor(context)

    def forward(self, y, code=None):
        return self.weight * y.square().sum((-3, -2, -1)) / 2

    def advance(self, y, code):
        return (1 - left(torch.as_tensor(self.weight), y)) * y, self.forward(y)


@pytest.fixture
def data(tmp_path) -> Path:
    """One grey picture of the level that is 0 to within half a grey level."""
    (tmp_path / "BSD68").mkdir()
    Image.fromarray(np.full((64, 48), 128, "uint8")).save(tmp_path / "BSD68" / "grey.png")
    return tmp_path


def measured(bench, monkeypatch, capsys, data, weight, *words) -> tuple[int, str]:
    thinks = {"familiar": 60**2 / 127.5**2 * weight / 2, "tolerance": 0.3}
    task = SimpleNamespace(noise_std=(0.0, 55 / 127.5))
    run = SimpleNamespace(energy=Bowl(weight), recipe={"thinking": thinks}, judge=lambda: task)
    monkeypatch.setattr(bench.ebm, "load", lambda name: run)
    monkeypatch.setattr("sys.argv", ["thinking_noise.py", "--data", str(data), "--energy", "a", *words])
    status = bench.main()
    return status, capsys.readouterr().out


def test_steps_gains_and_where_it_stops_are_those_of_a_bowl(bench, monkeypatch, capsys, data):
    """Every step of w = 0.5 takes off 6 dB; within training the energy takes one, beyond it takes all three."""
    words = ("--feed-forward", "a", "--steps", "3", "--sigma", "25", "50", "80", "105", "--json")
    status, out = measured(bench, monkeypatch, capsys, data, 0.5, *words)
    found = json.loads(out)
    assert status == 0
    for row in found["energy"][0]["rows"]:
        first, second, third = row["psnr"]
        assert second - first == pytest.approx(6.02, abs=0.4)
        assert (row["steps"], row["stopped"]) == ((1, first) if row["sigma"] <= 50 else (3, third))
    assert [row["psnr"] for row in found["feed-forward"][0]["rows"]] == [
        pytest.approx(row["psnr"], abs=1e-3) for row in found["energy"][0]["rows"]
    ]
    slope = bench.gain_slope(found["energy"][0], False)
    assert slope.value == pytest.approx(12.04 * 18 / 33, abs=0.4)  # 0, 0, 12 and 12 dB at 0, 0, 1 and 2 spans: 18/33 of 12


def test_a_step_that_raises_the_energy_is_an_exit_code(bench, monkeypatch, capsys, data):
    class Leap:
        def __init__(self, sampler, halvings=0):
            pass

        def trajectory(self, energy, y, steps):
            for _ in range(steps):
                y = -2 * y
                yield SimpleNamespace(y=y), SimpleNamespace(energy=energy(y))

    monkeypatch.setattr(bench, "Monotone", Leap)
    monkeypatch.setattr(bench, "think", lambda *a, **k: SimpleNamespace(y=a[3][0], steps=torch.tensor([1])))
    status, _ = measured(bench, monkeypatch, capsys, data, 0.5, "--sigma", "25", "80")
    assert status == 1


def test_a_table_is_printed_and_a_wrong_folder_is_named(bench, monkeypatch, capsys, data, tmp_path):
    status, out = measured(bench, monkeypatch, capsys, data, 0.5, "--steps", "2", "--sigma", "25", "80")
    assert status == 0
    assert "sigma    80:" in out
    assert "gain over one step, for 25 grey levels further" in out
    with pytest.raises(SystemExit, match="holds no .png: --data names the folder that holds BSD68"):
        measured(bench, monkeypatch, capsys, tmp_path / "elsewhere", 0.5)
