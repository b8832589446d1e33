"""The benchmark of throughput: its steps are those of `fit`, and what it tells adds up."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ebm
from ebm.interfaces import Batch
from ebm.randomness import own_randomness, subseed
from ebm.recipes.recipe import load, resolve
from tests.fake_plugins import quick_report, run_python

FOLDER = Path(__file__).parents[1] / "benchmarks"
DENSITY = {"energy.hidden": [8], "task.n": 200, "fit.batch_size": 16, "fit.schedule": "constant", "fit.evaluate_every": 0}
DYCK = ("--energy.dim", "16", "--energy.depth", "1", "--energy.heads", "2", "--batch-size", "8", "--threads", "1")


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("throughput")
    sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("more", [{}, {"fit.accumulate": 2, "fit.clip_norm": 0.1, "fit.optimizer": "sgd"}])
def test_its_steps_are_those_of_fit(bench, tmp_path, monkeypatch, more):
    quick_report(monkeypatch)
    settings = {**DENSITY, **more, "fit.steps": 3, "fit.evaluate_limit": 20}
    run = ebm.run("density", settings, out=tmp_path / "run")
    steps = bench.Steps(resolve(load("density"), settings))
    with own_randomness(subseed(0, "global", 0)):
        for _ in range(3):
            steps.take()
    expected = run.energy.state_dict()
    for name, value in steps.average.module.state_dict().items():
        assert torch.equal(value, expected[name])


def test_what_it_tells_adds_up(bench: ModuleType, tmp_path, capsys):
    path = tmp_path / "found.json"
    threads = torch.get_num_threads()
    assert bench.main(["--recipe", "dyck", *DYCK, "--rounds", "2", "--warm-up", "2", "--json", str(path)]) == 0
    torch.set_num_threads(threads)
    found = json.loads(path.read_text())
    tokens = found["rate"] * found["ms"] / 1e3
    assert found["unit"] == "tokens"
    assert tokens == pytest.approx(round(tokens))
    assert round(tokens) > 8
    assert round(tokens) % 8 == 0  # rows of a batch
    assert found["share"] == pytest.approx(found["flops"] / (found["ms"] / 1e3) / found["matmul"]["float32"])
    assert set(found["parts"]) == set(bench.PARTS)
    assert all(took > 0 for took in found["parts"].values())
    assert found["flops"] > 0
    assert found["host_reads"] > 0
    out = capsys.readouterr().out
    assert "tokens a second" in out
    assert "inner gradient" in out
    assert max(map(len, out.splitlines())) <= 100
    with pytest.raises(SystemExit, match="none is replaced"):
        bench.main(["--recipe", "dyck", "--json", str(path)])


def test_wrong_settings_are_named_as_ebm_run_names_them(bench):
    with pytest.raises(SystemExit, match="batch_sise"):
        bench.main(["--recipe", "dyck", "--batch-sise", "8"])
    with pytest.raises(SystemExit, match="fit\\(batch_size"):
        bench.main(["--recipe", "dyck", "--batch-size", "0"])


def test_a_parts_time_is_without_that_of_the_parts_within_it(bench):
    clock = bench.Clock(torch.device("cpu"), now=iter([0.0, 1.0, 3.0, 7.0, 8.0, 8.5]).__next__)
    with clock("outer"), clock("inner"):
        pass
    with clock("inner"):
        pass
    assert clock.spent == {"outer": 5.0, "inner": 2.5}
    with pytest.raises(ZeroDivisionError), bench.inner_gradients(lambda part: 1 / 0):
        torch.autograd.grad(torch.ones((), requires_grad=True), [])
    x = torch.ones((), requires_grad=True)
    assert torch.autograd.grad(x * 2, x)[0] == 2  # as it was


def test_elements_are_tokens_boards_pictures_or_rows(bench):
    four = Batch(torch.zeros(4, 16))
    for spec, expected in (
        ({"vocab_size": 9, "relations": {}}, ("boards", 4)),
        ({"vocab_size": 9}, ("tokens", 64)),
        ({"image_size": 4}, ("pictures", 4)),
        ({"dim": 16}, ("rows", 4)),
    ):
        assert bench.counted(four, spec) == expected


@pytest.mark.slow
def test_several_processes_are_measured_together(tmp_path):
    path = tmp_path / "found.json"
    how = ["--recipe", "dyck", *DYCK, "--rounds", "2", "--warm-up", "2", "--devices", "2", "--accelerator", "cpu"]
    done = run_python(str(FOLDER / "throughput.py"), *how, "--json", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text())["processes"] == 2
