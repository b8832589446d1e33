"""Laws of run folders: a person's files are never touched, asked or unasked, and only one command writes at a time."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading

import pytest

import ebm
from ebm.files import hold, holding
from ebm.runs import checkpoints
from ebm.training import fit
from tests.fake_plugins import Interrupted, fail, interrupting, quick_report
from tests.training.test_fit import cd, contents, points, quick

TINY = {"fit.steps": 3, "fit.evaluate_limit": 20, "fit.checkpoint_every": 1, "energy.hidden": [8], "task.n": 200}


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    monkeypatch.chdir(tmp_path)


PERSONS = {
    "checkpoints/step-000000001/model.pt": "weights",
    "tensorboard/notes.txt": "mine",
    "report.html": "<h1>mine</h1>",
    "recipe.toml": "title = 'soup'",
    "metrics.csv": "a,b",
    "metrics.json": "{}",
    "thinking.csv": "thoughts",
    "run.json": '{"distance": "10 km"}',
}


@pytest.mark.parametrize("name", PERSONS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_persons_files_are_never_touched(tmp_path, name, overwrite):
    file = tmp_path / "p" / name
    file.parent.mkdir(parents=True)
    file.write_text(PERSONS[name])
    (tmp_path / "p" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "p")
    for train in (lambda: quick("p", overwrite=overwrite), lambda: ebm.run("density", TINY, out="p", overwrite=overwrite)):
        with pytest.raises(ValueError, match=rf"p holds .*{name.partition('/')[0]}.* which no run of this toolkit wrote"):
            train()
    assert contents(tmp_path / "p") == before


def test_overwriting_removes_what_the_run_wrote_and_nothing_beside_it(tmp_path):
    quick("p", steps=9, checkpoint_every=1)
    mine = ("checkpoints/notes.txt", "checkpoints/step-x/a.txt", "tensorboard/notes.txt", "notes.txt", "samples.png")
    for name in mine:
        (tmp_path / "p" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_text("mine")
    quick("p", steps=2, seed=1, overwrite=True)
    assert all((tmp_path / "p" / name).read_text() == "mine" for name in mine)
    assert checkpoints.steps(tmp_path / "p" / "checkpoints") == [2]
    assert json.loads((tmp_path / "p" / "run.json").read_text())["settings"]["seed"] == 1


@pytest.mark.parametrize(
    "how", [{"steps": 0}, {"batch_size": 7.5}, {"devices": "none"}, {"task": "empty"}, {"evaluate_limit": 1}]
)
def test_a_call_that_is_refused_has_removed_nothing(tmp_path, how):
    quick("p")
    before = contents(tmp_path / "p")
    if how == {"task": "empty"}:
        how = {"task": (task := points())}
        task.splits["train"] = task.splits["train"].rows(slice(0))
    with pytest.raises(ValueError, match=r"."):
        quick("p", overwrite=True, **how)
    assert contents(tmp_path / "p") == before


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "metrics.csv", "report.html"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_through_a_link(tmp_path, monkeypatch, name, overwrite):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # whose thread writes when it likes to
    with pytest.raises(Interrupted):
        quick("p", objective=interrupting(4, fail)(cd()), checkpoint_every=2)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    place = tmp_path / "p" / name
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True) if not place.is_dir() else None
    place.symlink_to(theirs if "." not in name else theirs / "notes.txt")
    with pytest.raises(ValueError, match=f"symbolic link {name}"):
        quick("p", checkpoint_every=2, overwrite=overwrite)
    assert contents(theirs) == {(theirs / "notes.txt").relative_to(theirs): b"mine"}


def test_a_draft_of_a_checkpoint_that_is_a_link_is_not_followed(tmp_path):
    with pytest.raises(Interrupted):
        quick("p", objective=interrupting(3, fail)(cd()), checkpoint_every=2)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "shared.json").write_text("mine")
    (tmp_path / "p" / "checkpoints" / ".step-000000004.draft").symlink_to(theirs)
    quick("p", checkpoint_every=2)
    assert [path.read_text() for path in theirs.iterdir()] == ["mine"]
    assert checkpoints.steps(tmp_path / "p" / "checkpoints") == [2, 4]


def test_two_commands_in_one_folder_are_one_line(tmp_path):
    (tmp_path / "p").mkdir()
    inside, over = threading.Event(), threading.Event()

    def other() -> None:
        with holding():
            hold(tmp_path / "p")
            inside.set()
            over.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(30)
    try:
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="^another command is writing to p: wait for its end, or choose another out$"):
                quick("p", overwrite=overwrite)
        assert list((tmp_path / "p").iterdir()) == []
    finally:
        over.set()
        thread.join()
    quick("p")
    quick("p", overwrite=True)  # a run that has ended holds nothing


# ------------------------------------------------------------------------------------------------------------- baselines


@pytest.fixture
def recipe(tmp_path):
    tiny = {
        "task": {"use": "points", "n": 200},
        "energy": {"use": "mlp", "hidden": [8]},
        "objective": {"use": "contrastive-divergence", "sampler": {"use": "langevin", "step_size": 0.1, "steps": 2}},
        "fit": {"steps": 3, "evaluate_limit": 20, "batch_size": 16},
    }
    return {"summary": "Compared.", **tiny, "baseline": "density"}


SMALL = {"fit.sampler": {"use": "langevin", "step_size": 0.1, "steps": 2}}


def unfinished(recipe, settings, monkeypatch):
    """Leaves a run whose baseline is finished, and itself is not."""
    usual, calls = fit.__wrapped__, []

    def stopping(*args, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted
        return usual(*args, **keywords)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("ebm.recipes.runs.fit", stopping)
        ebm.run(recipe, settings, out="p")


def test_a_finished_baseline_is_used_again_only_where_it_is_this_runs(recipe, tmp_path, monkeypatch):
    unfinished(recipe, SMALL, monkeypatch)
    before = contents(tmp_path / "p" / "baseline")
    for change, said in (
        ({"fit.steps": 4}, "fit.steps"),
        ({"seed": 1}, "seed"),
        ({"task.n": 300}, "task.n"),
        ({"energy.hidden": [9]}, "energy.hidden"),
    ):
        with pytest.raises(ValueError, match=f"not this run's baseline .another {said}"):
            ebm.run(recipe, {**SMALL, **change}, out="p")
        assert contents(tmp_path / "p" / "baseline") == before
    run = ebm.run(recipe, SMALL, out="p")
    assert contents(tmp_path / "p" / "baseline") == before
    assert run.baseline.metrics == json.loads((tmp_path / "p" / "baseline" / "metrics.json").read_text())


def test_overwriting_trains_the_baseline_anew(recipe, tmp_path):
    ebm.run(recipe, SMALL, out="p")
    before = contents(tmp_path / "p" / "baseline")
    run = ebm.run(recipe, {**SMALL, "seed": 1}, out="p", overwrite=True)
    assert contents(tmp_path / "p" / "baseline") != before
    assert run.baseline.recipe["seed"] == 1
    assert [run.recipe["seed"], ebm.load("p").baseline.recipe["seed"]] == [1, 1]


def test_a_baseline_of_another_limit_is_judged_anew_and_not_trained(recipe, tmp_path, monkeypatch):
    unfinished(recipe, SMALL, monkeypatch)
    trained = (tmp_path / "p/baseline/checkpoints/step-000000003/shared.safetensors").stat().st_mtime_ns
    run = ebm.run(recipe, {**SMALL, "fit.evaluate_limit": 10}, out="p")
    assert (tmp_path / "p/baseline/checkpoints/step-000000003/shared.safetensors").stat().st_mtime_ns == trained
    assert run.baseline.metrics == pytest.approx(ebm.load("p/baseline").evaluate(limit=10))
    assert ebm.load("p/baseline").recipe["fit"]["evaluate_limit"] == 10


def test_a_baseline_through_a_link_is_refused(recipe, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "theirs").mkdir()
    os.symlink(tmp_path / "theirs", tmp_path / "p" / "baseline")
    with pytest.raises(ValueError, match="baseline is a symbolic link"):
        ebm.run(recipe, SMALL, out="p")
    assert list((tmp_path / "theirs").iterdir()) == []


# ------------------------------------------------------------------------------------------ judged again, and not trained


def test_a_trained_run_whose_evaluation_failed_is_judged_by_another_limit_without_training(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("ebm.tasks.Points.evaluate", lambda *args, **keywords: fail())
        quick("p", evaluate_limit=9)
    with pytest.raises(ValueError, match=r"another settings\.lr"):
        quick("p", evaluate_limit=4, lr=0.5)
    untouched = interrupting(1, fail)(cd())  # it would fail at the first step
    run = quick("p", objective=untouched, evaluate_limit=4)
    assert json.loads((tmp_path / "p" / "run.json").read_text())["settings"]["evaluate_limit"] == 4
    assert run.metrics == quick("q", evaluate_limit=4).metrics


def test_an_untrained_run_goes_on_with_its_own_limit_only(tmp_path):
    with pytest.raises(Interrupted):
        quick("p", objective=interrupting(4, fail)(cd()), checkpoint_every=2, evaluate_limit=9)
    with pytest.raises(ValueError, match=r"another settings\.evaluate_limit"):
        quick("p", checkpoint_every=2, evaluate_limit=4)
