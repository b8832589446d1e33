"""Laws of the section that says where a denoising run helps: its numbers are known in closed form, and nothing is left unsaid."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ebm.baselines.dit import DiT
from ebm.energies import GradientStepUNet
from ebm.interfaces import Prediction
from ebm.reports import helping
from ebm.reports.helping import BASELINE, ESTIMATED, TOLD, Outcome, in_words, outcomes
from ebm.reports.page import write_report
from ebm.reports.views import restored, views_of
from ebm.runs.run import Run
from ebm.samplers import FixedPoint, GradientDescent
from ebm.tasks import Denoising, Digits
from ebm.thinking import Thinker
from tests.helpers import lent

TILE, GREY, OFF = 16, 100, 0.01  # OFF: how far the predictor below is from the truth
REACHED = 20 * math.log10(2 / OFF)
ADDITIVE = {"sigma": (0, 55)}


class Nearly:
    """Predicts the grey that all photographs have, but for a small error."""

    any_size = True

    def predict(self, batch, start, *, generator=None):
        return Prediction(torch.full_like(start, GREY / 127.5 - 1 + OFF), None, 1)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """Photographs that are one grey all over."""
    folder = tmp_path_factory.mktemp("grey")
    for number in range(40):
        Image.fromarray(np.full((48, 64), GREY, dtype="uint8")).save(folder / f"{number}.png")
    return str(folder)


def run_of(folder, source, energy=None, recipe=None, baseline=None, **noise):
    task = Denoising(source, tile=TILE, channels=1, crop=32, tiles=8, **noise)
    compared = {"": baseline} if baseline else {}
    return Run(folder / "run", recipe or {}, energy or Nearly(), GradientDescent(1.0), None, task, {}, compared)


def network():
    torch.manual_seed(0)
    return GradientStepUNet(1, (4, 4), (1, 1))


def test_gains_are_what_they_are_in_closed_form(grey, tmp_path):
    found = outcomes(run_of(tmp_path, grey, **ADDITIVE), 0, pictures=3)
    assert [outcome.sigma for outcome in found] == pytest.approx(list(helping.SIGMAS))
    for outcome in found:
        assert len(outcome.gains[TOLD]) == 3
        if outcome.sigma < 50:  # stronger noise is clipped
            assert outcome.noisy == pytest.approx(20 * math.log10(255 / outcome.sigma), abs=0.3)
        assert np.mean(outcome.gains[TOLD]) == pytest.approx(REACHED - outcome.noisy, abs=1e-3)
    said = r"Told the noise, it helps at σ 3 to 100; at σ 1 it harms 3 of 3 photographs, by 2\.[0-3] dB at most\."
    assert re.fullmatch(said, in_words(found, TOLD))


def test_a_schedule_s_noise_is_that_of_a_picture_as_bright_as_it_is(grey, tmp_path, monkeypatch):
    run = run_of(tmp_path, grey, noise_step=99)
    found = outcomes(run, 0, pictures=2)
    assert [outcome.sigma for outcome in found] == pytest.approx(helping.OF_SCHEDULES, rel=0.1)
    for outcome in found[:3]:
        assert outcome.noisy == pytest.approx(20 * math.log10(255 / outcome.sigma), abs=0.5)
    assert list(found[0].gains) == [TOLD]  # whose noise is no question of grey levels
    few = outcomes(run_of(tmp_path, grey, noise_step=9, schedule_steps=30), 0, pictures=1)
    assert [outcome.sigma for outcome in few] == sorted({outcome.sigma for outcome in few})
    dimmed = lambda *how: [v._replace(noisy=run.task.schedule.signal[v.step].item() * v.clean) for v in views_of(*how)]  # noqa: E731
    monkeypatch.setattr(helping, "views_of", dimmed)
    assert all(outcome.noisy > 100 for outcome in outcomes(run, 0, pictures=1))


@pytest.mark.parametrize("believed", [0.0, 12.0, 70.0])
def test_where_nobody_says_the_noise_the_estimate_is_believed(grey, tmp_path, monkeypatch, believed):
    told = []
    monkeypatch.setattr(helping, "estimated", lambda predictor, image: believed / 127.5)
    monkeypatch.setattr(
        helping, "restored", lambda task, who, view, *how: told.append(view.step) or restored(task, who, view, *how)
    )
    found = outcomes(run_of(tmp_path, grey, **ADDITIVE), 0, pictures=1)
    assert told[::2] == [10 * sigma for sigma in helping.SIGMAS]
    assert set(told[1::2]) == {10 * believed}
    assert all(len(outcome.gains[ESTIMATED]) == 1 for outcome in found)
    assert ESTIMATED not in outcomes(run_of(tmp_path, grey, sigma=25), 0, pictures=1)[0].gains  # there is one noise alone


def test_thinking_is_what_the_command_does_and_the_baseline_takes_as_many_steps(grey, tmp_path, monkeypatch):
    seen = []

    def watched(task, who, view, *how):
        found = restored(task, who, view, *how)
        seen.append((view.step, type(who.sampler).__name__, found.steps))
        return found

    monkeypatch.setattr(helping, "restored", watched)
    baseline = Run(tmp_path / "base", {}, network(), FixedPoint(1), None, None, {})
    recipe = {"thinking": {"familiar": 1e-9}}  # any fall counts
    run = run_of(tmp_path, grey, network(), recipe, baseline, sigma=(25, 25.5))
    monkeypatch.setattr(helping, "SIGMAS", (10, 75))
    monkeypatch.setattr(helping, "estimated", lambda predictor, image: 10 / 127.5)
    found = outcomes(run, 0, pictures=1)
    own, beyond = ("GradientDescent", 1.0), ("Monotone", 8.0)
    assert seen[:3] == [(100, *own), (100, *own), (100, "FixedPoint", 1.0)]
    assert seen[3][:2] == (750, "Monotone")
    assert seen[3][2] > 1
    assert seen[4:] == [(100, *own), (750, "FixedPoint", max(1.0, seen[3][2]))]
    assert seen[3][2] <= beyond[1]
    assert set(found[0].gains) == {TOLD, ESTIMATED, BASELINE}
    assert isinstance(run.baseline.thinker, Thinker)


def test_a_diffusion_model_takes_one_pass(grey, tmp_path, monkeypatch):
    passes = []
    at = DiT.at
    monkeypatch.setattr(DiT, "at", lambda self, count: passes.append(count) or at(self, count))
    dit = DiT(image_size=TILE, patch_size=4, channels=1, dim=16, depth=1, heads=2, passes=3)
    passes.clear()
    other = Run(tmp_path / "base", {}, dit, GradientDescent(1.0), None, None, {})
    run = run_of(tmp_path, grey, dit, baseline=other, noise_step=99)
    outcomes(run, 0, pictures=1)
    assert set(passes) == {1}


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([(1, [1.0]), (3, [1.0])], "Told, it helps at σ 1 and 3."),
        ([(1, [1.0]), (3, [1.0]), (5, [1.0])], "Told, it helps at σ 1 to 5."),
        ([(1, [1.0]), (3, [0.0]), (5, [1.0])], "Told, it helps at σ 1 and 5; at σ 3 it changes little."),
        ([(1, [0.0, 0.04])], "Told, it helps nowhere; at σ 1 it changes little."),
        ([(1, [9.0, -0.06])], "Told, it helps nowhere; at σ 1 it harms 1 of 2 photographs, by 0.1 dB at most."),
        ([(1, [-2.0])], "Told, it helps nowhere; at σ 1 it harms 1 of 1 photograph, by 2.0 dB at most."),
        ([(9.96, [1.0, math.nan])], "Told, it helps nowhere; at σ 9.96 it harms 1 of 2 photographs, and runs away."),
    ],
)
def test_every_noise_is_in_the_sentence(gains, said):
    assert in_words([Outcome(sigma, 30.0, {"told": found}) for sigma, found in gains], "told") == said


def test_chains_that_run_away_are_said_to(grey, tmp_path):
    energy = lambda y: y.square().sum((-3, -2, -1)) * -1e30  # noqa: E731
    run = run_of(tmp_path, grey, energy, **ADDITIVE)
    run.sampler = GradientDescent(1.0, steps=3)
    (section,) = helping.ebm_sections(run, 0)
    assert "Told the noise, it helps nowhere; at σ 1 it harms" in section.body
    assert section.body.count("and runs away") == 2 * len(helping.SIGMAS) - 1  # none is found at σ 1, and nothing done
    assert "ran away" in section.body


def test_the_section_has_words_picture_and_table_and_depends_on_run_and_seed_alone(grey, tmp_path):
    run = run_of(tmp_path, grey, **ADDITIVE)
    (section,) = helping.ebm_sections(run, 0)
    assert section.title == "Where it helps and where it harms"
    assert section.body.startswith("<p>Told the noise, it helps at σ 3 to 100; ")
    assert 'src="data:image/png;base64,' in section.body
    assert re.search(r"<tr><th>1</th><td>48\.\d</td><td>-2\.\d</td><td>-2\.\d</td><td>(\d) of \1</td>", section.body)
    assert "baseline" not in section.body + section.caption
    state = torch.get_rng_state()
    run.task = lent(run.task)  # of another class, with the same abilities
    assert next(iter(helping.ebm_sections(run, 0))) == section
    assert torch.equal(torch.get_rng_state(), state)
    run.path.mkdir()
    (run.path / "metrics.csv").write_text("step,split,name,value\n1,train,loss,1.0\n")
    run.task = Denoising(grey, tile=TILE, channels=1, crop=32, tiles=8, **ADDITIVE)
    write_report(run, 0)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles.index("Where it helps and where it harms") < titles.index("Denoised photographs")


def test_other_tasks_have_no_such_section(tmp_path):
    assert list(helping.ebm_sections(Run(tmp_path, {}, Nearly(), GradientDescent(1.0), None, Digits(size=8), {}), 0)) == []
