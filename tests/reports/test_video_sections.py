"""Laws of a video run's report: it draws what there is, and says nothing of what there is not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import ebm
from ebm import recipes
from ebm.commands.console import print_run
from ebm.encoders import Encoder
from ebm.reports import video as report_frames
from ebm.reports.page import write_report
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.studies.findings import Finding, write_rows
from ebm.tasks import Points
from ebm.tasks.video.frames import Frames
from tests.fake_plugins import quick_report
from tests.helpers import lent
from tests.tasks.video.test_decoding import write

pytest.importorskip("av")
SIZE, CONTEXT = 8, 4
ALL = ["Predicted frames", "How far ahead", "Surprise", "Does the energy know?"]
FINDINGS = [
    Finding(who, "test", steps, 1, name + suffix, value + steps)
    for who, steps, suffix in [("copy", 0, ""), ("baseline", 0, ""), ("run", 1, ""), ("run", 2, ""), ("run", 2, "_adaptive")]
    for name, value in (("loss", 0.25), ("psnr", 30.0), ("energy", 1.0))
]


class Blind(Encoder):
    """Sees colours, and cannot decode."""

    def __init__(self) -> None:
        super().__init__(SIZE, 3 * SIZE**2)

    def _encode(self, pixels):
        return pixels.flatten(1)


def moving(count: int, first: int = 0) -> list[np.ndarray]:
    """Makes pictures of a slope of colours that moves, and halfway becomes another scene."""
    rows, columns = np.mgrid[:24, :32]
    return [
        np.stack([(rows * 6 + t * 4) % 256, (columns * 6 + t * 2) % 256, (rows + columns) * 4], -1).astype(np.uint8)
        // (1 if t < first + count / 2 else 4)
        for t in range(first, first + count)
    ]


def trained(folder: Path, energy: str) -> Run:
    """Trains two steps."""
    recipe = {
        "summary": "Tiny.",
        "seed": 0,
        "task": {
            "use": "frames",
            "source": str(folder / "clips"),
            "encoder": {"use": "pixels", "size": SIZE},
            "context": CONTEXT,
            "start": "last-frame",
            "cache": str(folder / "cache"),
        },
        "energy": {"use": energy, "dim": 8, "depth": 1, "heads": 2},
        "objective": {"use": "reconstruction", "sampler": {"use": "gradient-descent", "step_size": 1.0, "steps": 2}},
        "fit": {"steps": 2, "batch_size": 4, "lr": 0.01, "evaluate_limit": 2},
    }
    parts = recipes.assemble(recipes.resolve(recipe))
    with pytest.MonkeyPatch.context() as patch:
        quick_report(patch)
        ebm.fit(parts.energy, parts.objective, parts.task, **parts.fit, out=folder / energy, recipe=parts.recipe)
    return ebm.load(folder / energy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "clips").mkdir()
    for index in range(10):
        write(folder / "clips" / f"{index}.mkv", moving(16, 5 * index))
    return folder


@pytest.fixture(scope="module")
def trained_run(folder) -> Run:
    return trained(folder, "residual-frame-ebt")


@pytest.fixture(scope="module")
def feed_forward(folder) -> Run:
    return trained(folder, "frame-transformer")


@pytest.fixture
def run(trained_run, tmp_path) -> Run:
    """The trained run, in a folder that has only a history."""
    (tmp_path / "metrics.csv").write_bytes((trained_run.path / "metrics.csv").read_bytes())
    return Run(**{**vars(trained_run), "path": tmp_path})


def kinds(run, seed=0):
    drawn = list(report_frames.ebm_sections(run, seed))
    assert all(section.body.startswith(b"\x89PNG") for section in drawn)
    return [section.title for section in drawn]


def titles(run):
    write_report(run, 0)
    return re.findall("<h2>(.*?)</h2>", (run.path / "report.html").read_text(encoding="utf-8"))


def test_without_a_baseline_there_is_each_picture(run):
    assert kinds(run) == ALL


def test_a_baseline_is_drawn_beside_the_run(run, feed_forward):
    alone = list(report_frames.ebm_sections(run, 0))
    run.baseline = feed_forward
    both = list(report_frames.ebm_sections(run, 0))
    assert [a != b for a, b in zip(alone, both, strict=True)] == [True, True, False, False]


def test_a_run_that_does_not_think_has_no_energies_of_predictions(feed_forward):
    assert kinds(feed_forward) == ALL[:-1]


def test_what_cannot_be_decoded_is_not_shown(run, folder):
    run.task = Frames(str(folder / "clips"), Blind(), CONTEXT, cache=str(folder / "cache"))
    assert kinds(run) == ALL[1:]


def test_energies_that_cannot_be_rolled_out_are_compared_with_errors(run):
    run.energy = lambda y: y.square().mean(-1)
    assert kinds(run) == ALL[-1:]


def test_a_task_of_another_class_with_the_same_abilities_is_drawn(run):
    drawn, task = list(report_frames.ebm_sections(run, 0)), run.task
    run.task = lent(task)
    assert list(report_frames.ebm_sections(run, 0)) == drawn
    run.task = lent(task, "tracks")
    assert kinds(run) == [ALL[1], ALL[3]]
    run.task = lent(task, "decode")
    assert kinds(run) == []


def test_windows_of_two_frames_are_enough(run, folder):
    run.task = Frames(str(folder / "clips"), run.task.encoder, 1, cache=str(folder / "cache"))
    assert kinds(run) == ALL


def test_pictures_depend_on_the_run_and_the_seed_alone(run):
    run.sampler = GradientDescent(step_size=1.0, steps=2, noise_std=0.1)
    state = torch.get_rng_state()
    drawn = list(report_frames.ebm_sections(run, 0))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert list(report_frames.ebm_sections(run, 0)) == drawn
    assert next(report_frames.ebm_sections(run, 1)) != drawn[0]


def test_other_tasks_have_no_pictures_of_frames(run):
    run.task = Points("moons", n=60)
    assert kinds(run) == []


def test_a_report_has_a_title_for_each(run):
    write_rows(run.path / "thinking.csv", [f._asdict() for f in FINDINGS])
    found = titles(run)
    for title in (*ALL, "What thinking buys"):
        assert found.count(title) == 1


def test_the_command_line_prints_the_headline_by_steps(run, capsys):
    write_rows(run.path / "thinking.csv", [f._asdict() for f in FINDINGS])
    print_run(run)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    table = [line for line in lines if line[:1] in (["split"], ["test"])]
    assert table == [
        ["split", "who", "steps", "candidates", "loss"],
        ["test", "copy", "", "1", "0.2500"],
        ["test", "baseline", "", "1", "0.2500"],
        ["test", "run", "1", "1", "1.2500"],
        ["test", "run", "2", "1", "2.2500"],
        ["test", "run", "≤ 2", "1", "2.2500"],
    ]
