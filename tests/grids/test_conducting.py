"""A study from its file to its finding: run by run, killed and resumed, cut by a budget, with runs that diverge."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from ebm.cli import main
from ebm.grids import workers
from ebm.grids.conducting import conduct
from ebm.grids.findings import read_finding
from ebm.grids.plan import jobs
from ebm.grids.table import Table
from ebm.grids.work import FAILED, LOGS, OUTCOMES, RUNS, Outcome, start_of, write_outcome
from ebm.grids.workers import Clock
from ebm.recipes import load_run as load
from ebm.studies.findings import conduct as ask
from tests.fake_plugins import environment, offering, quick_report, write_distribution
from tests.fake_plugins import installed as plugged
from tests.grids.grids import Done, Here, table, tiny


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    quick_report(monkeypatch)
    monkeypatch.setattr(workers, "POLL", 0.0)


def rows(folder):
    with (folder / "table.csv").open() as file:
        return [*csv.DictReader(file)]


def go(grid, folder, here=None, **how):
    return conduct(grid, folder, here or Here(), name="tiny", **how)


# ------------------------------------------------------------------------------------------------------------- from end to end


def test_a_study_ends_with_a_table_a_picture_and_a_sentence(tmp_path):
    here = Here()
    found = go(tiny(tmp_path), tmp_path / "s", here, command="ebm study tiny")
    assert len(here.started) == 8
    listed = rows(tmp_path / "s")
    assert [(r["arm"], r["point"], r["seed"]) for r in listed] == [
        (arm, point, seed) for arm in ("slow", "fast") for point in ("2", "4") for seed in ("0", "1")
    ]
    for row in listed:  # each is an ordinary run, and its number is that of the run's end
        run = tmp_path / "s" / RUNS / row["run"]
        assert float(row["value"]) == json.loads((run / "metrics.json").read_text())["energy"]
        assert (run / "report.html").exists()
    by = {(r["arm"], r["point"], r["seed"]): float(r["value"]) for r in listed}
    gains = [by["slow", "4", seed] - by["fast", "4", seed] for seed in "01"]
    assert found.estimates[0]["value"] == pytest.approx(sum(gains) / 2)
    assert (tmp_path / "s" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert f"energy better by {sum(gains) / 2:.3g} [" in found.finding
    assert "means over 2 seeds" in found.finding.lower()
    assert read_finding(tmp_path / "s") == found
    assert (found.seeds, found.runs, found.left_out, found.command) == ([0, 1], 8, [], "ebm study tiny")


def test_the_same_call_runs_nothing_twice_and_more_seeds_go_on(tmp_path):
    go(tiny(tmp_path), tmp_path / "s")
    before, again = (tmp_path / "s" / "table.csv").read_bytes(), Here()
    go(tiny(tmp_path), tmp_path / "s", again)
    assert again.started == []
    assert (tmp_path / "s" / "table.csv").read_bytes() == before
    go(tiny(tmp_path, seeds=3), tmp_path / "s", again)
    assert sorted(again.started) == ["fast.2.seed-2", "fast.4.seed-2", "slow.2.seed-2", "slow.4.seed-2"]
    assert len(rows(tmp_path / "s")) == 12


@pytest.mark.parametrize("at", [1, 6, 9, 17])
def test_one_that_is_interrupted_in_the_middle_of_a_run_ends_with_the_same_table(tmp_path, monkeypatch, at):
    """At call 17 a point's second run is in its third step, which has a checkpoint behind it."""
    from ebm.objectives import DenoisingScoreMatching

    go(tiny(tmp_path), tmp_path / "whole")
    usual, calls = DenoisingScoreMatching.forward, []

    def forward(self, *args, **keywords):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return usual(self, *args, **keywords)

    monkeypatch.setattr(DenoisingScoreMatching, "forward", forward)
    with pytest.raises(KeyboardInterrupt):
        go(tiny(tmp_path), tmp_path / "s")
    go(tiny(tmp_path), tmp_path / "s")
    assert (tmp_path / "s" / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes()


def test_one_that_is_killed_between_a_run_and_its_outcome_takes_the_run_as_it_is(tmp_path):
    go(tiny(tmp_path), tmp_path / "s")
    before = (tmp_path / "s" / "table.csv").read_bytes()
    (tmp_path / "s" / OUTCOMES / "fast.4.seed-1.json").unlink()
    weights = tmp_path / "s" / RUNS / "fast.4.seed-1" / "checkpoints" / "step-000000004"
    written, again = weights.stat().st_mtime_ns, Here()
    go(tiny(tmp_path), tmp_path / "s", again)
    assert again.started == ["fast.4.seed-1"]
    assert weights.stat().st_mtime_ns == written
    assert (tmp_path / "s" / "table.csv").read_bytes() == before


def test_what_killed_starts_of_a_run_took_is_counted(tmp_path):
    """The budget expects of other runs what one took, and the finding says what all took."""
    file, run = tmp_path / "starts.json", tmp_path / "run"
    assert start_of(file, run) == 0.0
    run.mkdir()
    (run / "weights").touch()
    file.write_text(json.dumps([100.0, time.time() - 60]))
    os.utime(run / "weights", (time.time() - 20, time.time() - 20))
    assert start_of(file, run) == pytest.approx(140, abs=5)  # what is between its last file and now did not train
    assert start_of(file, run) == pytest.approx(140, abs=5)  # a start that wrote nothing
    go(tiny(tmp_path, seeds=1), tmp_path / "s")
    (tmp_path / "s" / OUTCOMES / "slow.2.seed-0.json").unlink()
    (tmp_path / "s" / LOGS / "slow.2.seed-0.starts.json").write_text(json.dumps([6000.0, time.time()]))
    found = go(tiny(tmp_path, seeds=1), tmp_path / "s")
    assert found.machine_minutes >= 100


def test_arms_that_differ_in_what_is_looked_at_share_their_runs(tmp_path):
    arms = table(tmp_path)["arms"]
    arms["same"] = {"like": "fast", "against": "fast", "measure": {"metric": "mmd"}}
    here = Here()
    go(tiny(tmp_path, arms=arms), tmp_path / "s", here)
    assert len(here.started) == 8
    shared = {(r["arm"], r["run"]) for r in rows(tmp_path / "s") if r["point"] == "2" and r["seed"] == "0"}
    assert {("fast", "fast.2.seed-0"), ("same", "fast.2.seed-0")} <= shared


def test_runs_lie_where_they_are_measured_and_serve_a_study_along_another_measure(tmp_path):
    """As those of scaling-parameters serve scaling-flops."""

    def along(measure):
        return tiny(tmp_path, axis={**table(tmp_path)["axis"], "x": measure})

    go(along("parameters"), tmp_path / "s")
    go(along("flops"), tmp_path / "t", clock=Clock(-1.0))  # begun
    for each in (RUNS, OUTCOMES):
        shutil.copytree(tmp_path / "s" / each, tmp_path / "t" / each, dirs_exist_ok=True)
    here = Here()
    go(along("flops"), tmp_path / "t", here)
    assert here.started == []
    by_parameters, by_flops = rows(tmp_path / "s"), rows(tmp_path / "t")
    assert [row["value"] for row in by_parameters] == [row["value"] for row in by_flops]
    assert len({row["x"] for row in by_parameters}) == 1  # of two lengths of training
    at = {row["point"]: float(row["x"]) for row in by_flops}
    assert at["4"] == 2 * at["2"]


def test_without_an_axis_there_is_one_point_and_a_study_may_be_asked_of_each_run(tmp_path):
    class Asked:
        @staticmethod
        def asked(run, *, splits=("test",), shift=0.0):
            """Tells the energy of splits.

            Arguments:
                splits: which.
                shift: is added.
            """
            return [{"split": each, "name": "cost", "value": run.evaluate(each)["energy"] + shift} for each in splits]

    write_distribution(tmp_path / "site", "fake-study", offering("ebm_studies", "asked", "None"))
    from ebm.registry import hookimpl, register, registry

    class Plugin:
        @hookimpl
        def ebm_studies(self):
            return {"asked": Asked.asked}

    registry.cache_clear()
    try:
        register(Plugin())
        measure = {"metric": "cost", "study": "asked", "keywords": {"splits": ["test", "validation"]}}
        axis = {"label": "split", "column": "split", "values": ["test", "validation"], "x": [0.0, 1.0]}
        grid = tiny(tmp_path, axis=axis, measure=measure)
        go(grid, tmp_path / "s")
        listed = rows(tmp_path / "s")
        assert [(r["arm"], r["point"], r["x"], r["seed"]) for r in listed][:3] == [
            ("slow", "test", "0.0", "0"),
            ("slow", "test", "0.0", "1"),
            ("slow", "validation", "1.0", "0"),
        ]
        run = tmp_path / "s" / RUNS / "slow.seed-0"
        assert float(listed[0]["value"]) == json.loads((run / "metrics.json").read_text())["energy"]
        assert "slow.seed-1" in {r["run"] for r in listed}
        before = (tmp_path / "s" / "table.csv").read_bytes()
        ask(load(run), "asked", {"splits": ["test"], "shift": 5.0})  # of one of its runs, by hand
        go(grid, tmp_path / "s")
        assert (tmp_path / "s" / "table.csv").read_bytes() == before
        with pytest.raises(ValueError, match="no row of the study asked has a value with split = tset"):
            go(tiny(tmp_path, axis={**axis, "values": ["tset", "validation"]}, measure=measure), tmp_path / "s2")
    finally:
        registry.cache_clear()


# --------------------------------------------------------------------------------------------------------- what can go wrong


def test_a_run_that_diverges_is_a_row_with_its_verdict(tmp_path):
    arms = table(tmp_path)["arms"]
    arms["wild"] = {"recipe": arms["fast"]["recipe"], "settings": {"fit.lr": 1e30}}
    found = go(tiny(tmp_path, arms=arms), tmp_path / "s")
    wild = [row for row in rows(tmp_path / "s") if row["arm"] == "wild"]
    assert len(wild) == 4
    lost = [row for row in wild if not row["value"]]
    assert lost
    assert all(row["verdict"] not in ("", "healthy") for row in lost)
    assert "without a number left out (wild." in found.finding
    assert "fast against slow at 4: energy better by" in found.finding
    again = Here()
    go(tiny(tmp_path, arms=arms), tmp_path / "s", again)
    assert again.started == []  # it would diverge again


def test_what_fails_otherwise_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    from ebm import recipes

    usual, broken = recipes.run, [True]

    def run(recipe, *args, out, **how):
        if broken and "fast.4.seed-1" in str(out):
            raise OSError("no space left")
        return usual(recipe, *args, out=out, **how)

    monkeypatch.setattr(recipes, "run", run)
    go(tiny(tmp_path), tmp_path / "s")
    assert [row["verdict"] for row in rows(tmp_path / "s") if row["run"] == "fast.4.seed-1"] == ["OSError: no space left"]
    broken.clear()
    again = Here()
    go(tiny(tmp_path), tmp_path / "s", again)
    assert again.started == ["fast.4.seed-1"]
    assert all(row["value"] for row in rows(tmp_path / "s"))


def test_a_run_whose_process_dies_is_tried_once_more(tmp_path):
    started = []

    def dying(folder):
        inner = Here()(folder)

        def launch(job):
            started.append(job.name)
            if job.name == "slow.2.seed-0" or (job.name == "fast.2.seed-0" and started.count(job.name) == 1):
                return Done()  # it ends, and leaves no outcome
            return inner(job)

        return launch

    conduct(tiny(tmp_path), tmp_path / "s", dying, name="tiny")
    assert started.count("slow.2.seed-0") == started.count("fast.2.seed-0") == 2
    verdicts = {row["run"]: row["verdict"] for row in rows(tmp_path / "s")}
    assert "killed" in verdicts["slow.2.seed-0"]
    assert "killed" not in verdicts["fast.2.seed-0"]


def test_a_reading_that_fails_leaves_the_table(tmp_path, monkeypatch):
    from ebm.grids.readings import READINGS

    def fails(table, *, against=""):
        raise ValueError("nothing can be read")

    monkeypatch.setitem(READINGS, "gain", fails)
    with pytest.raises(ValueError, match="nothing can be read"):
        go(tiny(tmp_path), tmp_path / "s")
    assert len(rows(tmp_path / "s")) == 8


def test_a_number_that_no_run_has_is_missed_after_the_first(tmp_path):
    here = Here()
    with pytest.raises(ValueError, match=r"arm 'slow': measure.metric = 'enregy': did you mean 'energy'"):
        go(tiny(tmp_path, measure={"metric": "enregy"}), tmp_path / "s", here)
    assert len(here.started) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arms": {"slow": {"recipe": "dense"}, "fast": {"recipe": "density"}}},
            "arm 'slow', recipe dense: no recipe is named 'dense'",
        ),
        ({"settings": {"fit.stepz": 3}}, "arm 'slow'.*has no keyword 'stepz': did you mean 'steps'"),
        ({"test": {"use": "gain", "against": "slow", "floor": 1.0}}, "test 'gain' has no keyword 'floor'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        go(tiny(tmp_path, **changes), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_folder_of_other_things_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files, and is no study's folder"):
        go(tiny(tmp_path), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    go(tiny(tmp_path), tmp_path / "s")
    with pytest.raises(ValueError, match=r"holds another study \(another settings.fit.batch_size\)"):
        go(tiny(tmp_path, settings={"fit.batch_size": 4}), tmp_path / "s")


def test_runs_of_a_recipe_that_has_changed_are_not_mixed_in(tmp_path):
    go(tiny(tmp_path), tmp_path / "s")
    recipe = tmp_path / "tiny-recipe.toml"
    grid = tiny(tmp_path)
    recipe.write_text(recipe.read_text().replace("sigma = 0.5", "sigma = 0.4"))
    with pytest.raises(ValueError, match="holds the run slow.2.seed-0 of another recipe"):
        go(grid, tmp_path / "s")


# ------------------------------------------------------------------------------------------------------------------- tuning


def test_each_arm_is_tuned_with_equal_effort_on_validation_data(tmp_path):
    arms = {
        "slow": {"recipe": table(tmp_path)["arms"]["slow"]["recipe"], "tune": [1e-4, 1e-3]},
        "fast": {"recipe": table(tmp_path)["arms"]["slow"]["recipe"], "tune": [1e-2, 1e30], "settings": {"energy.hidden": [5]}},
    }
    here = Here()
    found = go(tiny(tmp_path, arms=arms, tune={}), tmp_path / "s", here)
    assert here.started[:4] == ["tune.slow.0.0001", "tune.slow.0.001", "tune.fast.0.01", "tune.fast.1e+30"]
    assert len(here.started) == 12
    assert found.tuned["fast"]["value"] == 1e-2  # the other diverged
    assert math.isnan(found.tuned["fast"]["tried"]["1e+30"])
    scores = found.tuned["slow"]["tried"]
    assert found.tuned["slow"]["value"] == float(min(scores, key=lambda value: scores[value]))
    outcome = json.loads((tmp_path / "s" / OUTCOMES / "tune.slow.0.0001.json").read_text())
    assert scores["0.0001"] == outcome["validation"]["energy"]
    recipe = (tmp_path / "s" / RUNS / "slow.4.seed-0" / "recipe.toml").read_text()
    assert f"lr = {found.tuned['slow']['value']}" in recipe
    assert "seed = 1000" in (tmp_path / "s" / RUNS / "tune.slow.0.0001" / "recipe.toml").read_text()
    assert "The best fit.lr lies at the end of what was tried" in found.finding


def test_a_time_that_ends_while_something_is_tuned_names_what(tmp_path):
    recipe = table(tmp_path)["arms"]["slow"]["recipe"]
    arms = {"slow": {"recipe": recipe, "tune": [0.1]}, "fast": {"recipe": recipe, "tune": [0.2]}}
    found = go(tiny(tmp_path, arms=arms, tune={"setting": "objective.sigma"}), tmp_path / "s", clock=Clock(-1.0))
    assert found.finding.startswith("The time ended while objective.sigma was tuned.")


# ------------------------------------------------------------------------------------------------------------------- budgets


class Slow:
    """Starts runs that take as long as their steps, by a clock that they turn; they end where the time does."""

    def __init__(self, folder_seconds=1.0):
        self.time, self.each, self.stopped = 0.0, folder_seconds, []

    def __call__(self, folder):
        def launch(job):
            took = job.recipe["fit"]["steps"] * self.each
            self.time += took
            outcome = Outcome("finished", "healthy", job.digest, took, {"energy": 1.0 + job.seed + job.point})
            write_outcome(folder, job, outcome)
            return Done()

        return launch


@pytest.mark.parametrize(
    ("seconds", "points", "seeds"),
    [(1e9, 3, 5), (300, 3, 5), (270, 3, 4), (200, 3, 3), (80, 2, 3), (30, 1, 3), (20, 1, 2), (9, 1, 1)],
)
def test_a_budget_leaves_a_balanced_table_and_says_what_is_left_out(tmp_path, seconds, points, seeds):
    """Points cost 8, 16 and 32 seconds of two arms: a seed of all 56, and five 280."""
    grid = tiny(tmp_path, seeds=5, axis={"label": "steps", "settings": {"fit.steps": [2, 4, 8]}})
    slow = Slow(2.0)
    clock = Clock(seconds, now=lambda: slow.time)
    found = conduct(grid, tmp_path / "s", slow, name="tiny", clock=clock)
    listed = rows(tmp_path / "s")
    have = {(r["arm"], r["point"], int(r["seed"])) for r in listed}
    kept_points, kept_seeds = ["2", "4", "8"][:points], range(seeds)
    assert have == {(arm, point, seed) for arm in ("slow", "fast") for point in kept_points for seed in kept_seeds}
    left = [f"point {point}" for point in ["2", "4", "8"][points:]] + [f"seed {seed}" for seed in range(seeds, 5)]
    assert found.left_out == left
    assert slow.time <= max(seconds, 8)
    assert ("Left out, for the time was over" in found.finding) == bool(left)
    conduct(grid, tmp_path / "s", slow, name="tiny")  # without a budget it goes on with the rest
    assert len(rows(tmp_path / "s")) == 30


def test_when_the_time_is_over_what_is_running_is_stopped_and_no_outcome_is_made_up(tmp_path):
    stopped = []

    class Endless(Done):
        def __init__(self, name):
            self.name, self.ended = name, False

        def done(self):
            return self.ended

        def stop(self):
            self.ended = True
            stopped.append(self.name)

    ticks = iter(range(1000))
    clock = Clock(20, now=lambda: float(next(ticks)))
    found = conduct(
        tiny(tmp_path), tmp_path / "s", lambda folder: lambda job: Endless(job.name), name="tiny", clock=clock, at_once=2
    )
    assert sorted({*stopped}) == ["fast.2.seed-0", "slow.2.seed-0"]
    assert rows(tmp_path / "s") == []
    assert found.verdict == "undecided"
    assert list((tmp_path / "s" / OUTCOMES).iterdir()) == []


# ----------------------------------------------------------------------------------------------------- commands and processes


def said(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def here_by_command(monkeypatch):
    from ebm.grids import command

    monkeypatch.setattr(command, "launcher", lambda folder, cluster, options, threads: Here()(folder))


def test_the_command_conducts_a_file_and_says_what_was_found(tmp_path, capsys, monkeypatch, here_by_command):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(tomli_w.dumps(table(tmp_path)))
    status, out, err = said(capsys, "study", "mine.toml", "--fit.batch-size", "4", "--seeds", "[3, 5]", "--jobs", 1)
    assert status == 0, err
    assert "finding, " in out
    assert "fast against slow at 4: energy better by" in out
    assert "run 8 of 8" in err
    assert {r["seed"] for r in rows(Path("studies/mine"))} == {"3", "5"}
    assert "batch_size = 4" in Path("studies/mine/runs/slow.2.seed-3/recipe.toml").read_text()
    finding = read_finding(Path("studies/mine"))
    assert finding.command == "ebm study mine.toml --seeds '[3, 5]' --fit.batch_size 4"
    status, out, _ = said(capsys, "study", "mine.toml", "--fit.batch-size", "4", "--seeds", "[3, 5]", "--json")
    assert json.loads(out)["verdict"] == finding.verdict
    status, out, _ = said(capsys, "show", "mine.toml")
    assert status == 0
    assert "8 runs: 24 training steps" in out


def test_of_no_run_there_is_no_picture_and_none_is_named(tmp_path, capsys, monkeypatch, here_by_command):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(tomli_w.dumps(table(tmp_path)))
    assert "picture: studies/mine/picture.png" in said(capsys, "study", "mine.toml", "--seeds", 1)[1]
    status, out, _ = said(capsys, "study", "mine.toml", "--seeds", "[7]", "--budget", "0s")
    assert (status, "No run is complete" in out, "picture" in out) == (0, True, False)
    assert not Path("studies/mine/picture.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nonesuch",), "no study is named 'nonesuch'"),
        (("probe-x",), "did you mean 'probe'"),
        (("scaling-dat",), "did you mean 'scaling-data'"),
        (("mine.toml", "--fit.lr", "1"), "--fit.lr: arm fast of this study says it"),
        (("mine.toml", "--fit.steps", "1"), "--fit.steps: the axis of this study says it"),
        (("dashed.toml", "--fit.batch-size", "1"), "--fit.batch_size: arm fast of this study says it"),
        (("mine.toml", "--seed", "1"), "--seed: --seeds of this study says it"),
        (("mine.toml", "--budget", "soon"), "--budget 'soon': write a time"),
        (("mine.toml", "--seeds", "0"), "seeds = 0"),
        (("mine.toml", "--seeds", "many"), "seeds"),
        (("mine.toml", "--jobs", "0"), "--jobs 0"),
        (("mine.toml", "--cluster", "slrum"), "did you mean 'slurm'"),
        (("mine.toml", "--cluster.timeout-min", "3"), "--cluster.timeout_min is for a cluster"),
        (("gone.toml",), "study gone.toml: No such file"),
        (("broken.toml",), "study broken.toml is not TOML"),
        (("thinking", "runs/none"), "holds no run"),
        (("studies/x",), "studies/x is the folder of a study: go on with it by ebm study studies/x/study.toml --out studies/x"),
    ],
)
def test_what_the_command_refuses(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(tomli_w.dumps(table(tmp_path)))
    Path("broken.toml").write_text("claim = ")
    Path("studies/x").mkdir(parents=True)
    Path("studies/x/study.toml").write_text("")
    Path("dashed.toml").write_text(Path("mine.toml").read_text().replace("fit.lr", "fit.batch-size"))
    status, _, err = said(capsys, "study", *words)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_study_that_is_asked_of_a_run_needs_one(capsys, monkeypatch):
    from ebm.registry import hookimpl, register, registry

    class Plugin:
        @hookimpl
        def ebm_studies(self):
            return {"alone": lambda run: None}

    registry.cache_clear()
    try:
        register(Plugin())
        status, _, err = said(capsys, "study", "alone")
        assert status == 2
        assert "this study is asked of a run: name its folder, as in ebm study alone runs/text" in err
    finally:
        registry.cache_clear()


def test_with_a_run_every_word_is_the_study_s(tmp_path, capsys, monkeypatch):
    """`seeds` is a keyword of the linear probe, too."""
    import ebm
    from ebm.studies import probe as module  # noqa: F401
    from tests.studies.test_probe import TINY

    ebm.run(TINY, out=tmp_path / "run")
    status, _, err = said(capsys, "study", "probe", tmp_path / "run", "--data", "digits-8", "--seeds", "[4]", "--limit", "40")
    assert status == 0, err
    with (tmp_path / "run" / "probe.csv").open() as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"4"}
    status, _, err = said(capsys, "study", "probe", tmp_path / "run", "--budget", "3m")
    assert status == 2
    assert "has no keyword 'budget'" in err


def test_a_plugin_offers_a_study_by_the_hook(tmp_path, capsys, monkeypatch, here_by_command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.toml").write_text(tomli_w.dumps(table(tmp_path)))
    (tmp_path / "wrong.toml").write_text("claim = 3\n")
    source = f"{{'theirs': {str(tmp_path / 'theirs.toml')!r}, 'wrong': {str(tmp_path / 'wrong.toml')!r}, 'gone': 'gone.toml'}}"
    write_distribution(
        tmp_path, "cook", f"from ebm.registry import hookimpl\n\n@hookimpl\ndef ebm_grids():\n    return {source}\n"
    )
    with plugged(tmp_path):
        status, out, _ = said(capsys, "list", "grid")
        assert "theirs\tcook\tA higher learning rate lowers the energy." in out
        assert "grid 'wrong'\tValueError: claim is 3: write a string" in out
        assert "grid 'gone'" in out
        assert "cook" in said(capsys, "show", "theirs")[1]
        status, out, err = said(capsys, "study", "theirs", "--jobs", 1)
        assert status == 0, err
        assert len(rows(Path("studies/theirs"))) == 8


def start(folder, out, *words, **variables):
    """Starts `ebm study` in a process group of its own."""
    call = [sys.executable, "-m", "ebm", "study", "mine.toml", "--out", out, "--jobs", "2", *words]
    how = {
        "cwd": folder,
        "env": environment(folder, **variables),
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    return subprocess.Popen(call, start_new_session=True, **how)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["study", "everything"])
def test_sigkill_in_the_middle_of_a_run_and_the_same_table_in_the_end(tmp_path, whom):
    write_distribution(tmp_path, "fake", entry="tests.fake_plugins")
    made = table(tmp_path)
    recipe = tmp_path / "tiny-recipe.toml"
    recipe.write_text(recipe.read_text().replace("[objective]\n", '[objective]\nuse = "waiting"\n[objective.objective]\n'))
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(made))
    whole = start(tmp_path, "whole")
    assert whole.wait() == 0, whole.stderr.read()
    broken = start(tmp_path, "broken", EBM_TEST_WAIT_AT="4", EBM_TEST_GO=str(tmp_path / "go"))
    logs = tmp_path / "broken" / "logs"
    while not any("waiting" in log.read_text() for log in logs.glob("*.log")):
        assert broken.poll() is None, broken.stderr.read()
        time.sleep(0.05)
    done = {path.name: path.read_bytes() for path in (tmp_path / "broken" / OUTCOMES).glob("*.json")}
    assert len(done) < 8
    if whom == "study":
        broken.kill()  # its processes save their step and end
    else:
        os.killpg(broken.pid, signal.SIGKILL)
    broken.wait()
    (tmp_path / "go").touch()
    again = start(tmp_path, "broken")
    assert again.wait() == 0, again.stderr.read()
    assert (tmp_path / "broken" / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes()
    for name, before in done.items():  # what was done was not done again
        assert (tmp_path / "broken" / OUTCOMES / name).read_bytes() == before


@pytest.mark.slow
def test_submitit_does_the_runs_in_its_own_processes(tmp_path):
    where = Path(pytest.importorskip("submitit").__file__).parents[1]
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(table(tmp_path, seeds=1)))
    call = [sys.executable, "-m", "ebm", "study", "mine.toml", "--out", "s", "--cluster", "local", "--jobs", "2"]
    done = subprocess.run(call, cwd=tmp_path, env=environment(tmp_path, where), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(row["value"] for row in rows(tmp_path / "s"))
    assert list((tmp_path / "s" / "logs").glob("*_log.out"))


def test_a_cluster_without_submitit_names_the_extra(tmp_path, capsys, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    from ebm.grids.launching import launcher

    with pytest.raises(ImportError, match=r"submitit is not installed: pip install 'ebm-toolkit\[cluster\]'"):
        launcher(tmp_path, "slurm", {}, 1)


def test_tables_know_their_grid(tmp_path):
    grid = tiny(tmp_path)
    assert {job.name for job in jobs(grid).values()} == {
        f"{a}.{p}.seed-{s}" for a in ("slow", "fast") for p in (2, 4) for s in (0, 1)
    }
    assert Table(grid, []).points("slow") == []
    assert Outcome(FAILED, "x", "y").final is False
