"""Laws of a denoising run's report: it draws what there is, and says nothing of what there is not."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ebm.baselines.dit import DiT
from ebm.commands.console import print_run
from ebm.energies import ConvEnergy
from ebm.energies.ebt.bidirectional import ImageEBT, ResidualImageEBT
from ebm.objectives import Reconstruction
from ebm.reports import images as report_images
from ebm.reports.chains import picture_of_samples
from ebm.reports.page import write_report
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.studies.findings import Finding, write_rows
from ebm.tasks.images.denoising import Denoising
from ebm.training import fit
from tests.helpers import lent

TILE = 16
TINY = {"image_size": TILE, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2}
STUDIED = ("test", "step-199", "step-20", "salt-and-pepper", "jpeg")
FINDINGS = [
    Finding(who, split, steps, 1, name + suffix, 20.0 + steps / (1 + place) + place)
    for place, split in enumerate(STUDIED)
    for who, steps, suffix in [("run", 1, ""), ("run", 3, ""), ("run", 3, "_adaptive"), ("baseline", 10, ""), ("wavelet", 0, "")]
    for name in ("psnr", "noisy_psnr", "evaluations")
]


def denoising(source="bundled", channels=3, **options):
    return Denoising(source, tile=TILE, channels=channels, crop=32, tiles=8, **options)


def trained(folder, task, energy=None, **options):
    torch.manual_seed(0)
    energy = energy or ResidualImageEBT(channels=task.channels, **TINY)
    sampler = GradientDescent(step_size=float(getattr(energy, "natural_step", 1)), steps=1)
    settings = {"steps": 2, "batch_size": 2, "log_every": 1, "evaluate_limit": 1, "accelerator": "cpu", "seed": 0}
    return fit(energy, Reconstruction(sampler, task), task, out=folder, **settings, **options)


@pytest.fixture(scope="module")
def task():
    return denoising()


@pytest.fixture(scope="module")
def module_run(task, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "run", task)


@pytest.fixture
def run(module_run, tmp_path):
    """The trained run, in a folder that has only a history."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_bytes((module_run.path / "metrics.csv").read_bytes())
    recipe = {"thinking": {"splits": list(STUDIED), "steps": [1, 3], "patience": 1, "tolerance": 0.0}}
    return Run(tmp_path / "run", recipe, module_run.energy, module_run.sampler, None, module_run.task, module_run.metrics)


def kinds(run, seed=0):
    drawn = list(report_images.ebm_sections(run, seed))
    assert all(section.body.startswith(b"\x89PNG") for section in drawn)
    return [section.title for section in drawn]


def titles(run, seed=0):
    write_report(run, seed)
    return re.findall("<h2>(.*?)</h2>", (run.path / "report.html").read_text(encoding="utf-8"))


DENOISED, PASSES, LEVELS = "Denoised photographs", "What a forward pass buys", "From little noise to much"
STEPS, MAP, ENERGIES = "Does the energy know?", "Where the energy is high", "Energies"
UNSTUDIED = [DENOISED, STEPS, MAP, ENERGIES]


def test_without_a_study_there_are_photographs_and_energies(run):
    assert kinds(run) == UNSTUDIED


def test_a_study_adds_what_it_found(run, monkeypatch, task):
    write_rows(run.path / "thinking.csv", [f._asdict() for f in FINDINGS])
    assert kinds(run) == [DENOISED, PASSES, LEVELS, STEPS, MAP, ENERGIES]
    run.baseline = Run(run.path, {}, DiT(**TINY), run.sampler, None, task, {})
    seen = []
    monkeypatch.setattr(DiT, "at", lambda self, passes: seen.append(passes) or run.thinker)
    assert DENOISED in kinds(run)
    assert set(seen) == {report_images.PASSES}


@pytest.mark.parametrize("kept", ["test", "step-199", "jpeg"])
def test_a_study_of_one_split_is_drawn(run, kept):
    write_rows(run.path / "thinking.csv", [f._asdict() for f in [finding for finding in FINDINGS if finding.split == kept]])
    found = kinds(run)
    assert (PASSES in found) == (kept != "jpeg")
    assert LEVELS not in found


def test_pictures_depend_on_the_run_and_the_seed_alone(run):
    write_rows(run.path / "thinking.csv", [f._asdict() for f in FINDINGS])
    run.sampler = GradientDescent(step_size=16.0, steps=1, noise_std=0.1)
    state = torch.get_rng_state()
    drawn = list(report_images.ebm_sections(run, 0))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert list(report_images.ebm_sections(run, 0)) == drawn
    assert next(report_images.ebm_sections(run, 1)) != drawn[0]


def test_a_task_of_another_class_with_the_same_abilities_is_drawn(run):
    drawn, task = list(report_images.ebm_sections(run, 0)), run.task
    run.task = lent(task)
    assert list(report_images.ebm_sections(run, 0)) == drawn
    run.task = lent(task, "held_out")
    assert kinds(run) == []


def test_a_report_has_a_title_for_each_and_no_chains(run):
    write_rows(run.path / "thinking.csv", [f._asdict() for f in FINDINGS])
    found = titles(run)
    for title in ("Denoised photographs", "What thinking buys", "From little noise to much", "Does the energy know?", "Energies"):
        assert found.count(title) == 1
    assert "Chains on their way" not in found
    assert "Data and samples" not in found


def test_without_matplotlib_there_is_a_report(run, monkeypatch):
    def missing(package):
        raise ImportError(f"{package} is not installed")

    monkeypatch.setattr("ebm.figures.installed", missing)
    assert DENOISED not in titles(run)


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        (ImageEBT(**TINY), UNSTUDIED),
        (ConvEnergy(3, TILE, width=4), [DENOISED, STEPS, ENERGIES]),
        (DiT(**TINY, passes=3), [DENOISED]),
    ],
    ids=["image-ebt", "no-patches", "dit"],
)
def test_other_energies_are_drawn_as_far_as_they_go(run, energy, expected):
    run.energy = energy
    assert kinds(run) == expected
    assert DENOISED in titles(run)
    assert picture_of_samples(run, run.sample(4)).startswith(b"\x89PNG")


def test_more_steps_than_stay_finite_are_no_divergence(run):
    run.sampler = GradientDescent(step_size=1.0, steps=1)
    run.energy = lambda y: y.square().sum((-3, -2, -1)) * -1e5
    assert kinds(run) == [DENOISED, STEPS, ENERGIES]
    write_report(run, 0)
    assert "Training diverged" not in (run.path / "report.html").read_text(encoding="utf-8")


def test_greys_of_a_folder_smaller_than_what_is_shown(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (19 + number, 40), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    run = trained(tmp_path / "run", denoising(str(folder), channels=1, noise_step=(20, 60)))
    assert kinds(run) == UNSTUDIED


def test_energies_without_weights_for_patches_do_not_fail(run):
    nn.init.zeros_(run.energy.head.weight)
    assert kinds(run) == UNSTUDIED


def test_samples_are_shown_between_noisy_and_clean(run):
    png = picture_of_samples(run, run.sample(30))
    assert png == picture_of_samples(run, run.sample(30))
    assert png.startswith(b"\x89PNG")


def test_the_command_line_prints_how_near_thinking_comes(run, capsys):
    write_rows(run.path / "thinking.csv", [f._asdict() for f in FINDINGS])
    print_run(run)
    printed = capsys.readouterr().out
    assert "psnr" in printed
    assert "≤ 3" in printed
