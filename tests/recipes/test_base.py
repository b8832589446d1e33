"""Runs that build on a base: the recipe names it, the run holds it, and whole texts are chosen by its energy."""

import json
import shutil

import pytest
import torch

import ebm
from ebm.cli import main, parse_settings
from ebm.recipes.recipe import resolve
from ebm.studies.findings import conduct
from ebm.studies.rerank import rerank

SMALL = {"task.length": 12, "task.depth": [1, 2], "task.deep": [3, 4]}
SMALL |= {"task.n": 150, "fit.steps": 3, "fit.batch_size": 8, "fit.warmup": 1, "fit.evaluate_limit": 8}
CHOSEN = {**SMALL, "energy.base.dim": 8, "energy.base.depth": 1, "objective.prompt": [2, 4]}
CHOSEN |= {"rerank.limit": 8, "rerank.n": 2, "rerank.prompt": 3}


def alone():
    """The bundled recipe without a baseline of its own."""
    return {key: value for key, value in ebm.recipes.load("dyck-rerank").items() if key not in ("baseline", "pace")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the bundled recipe, its own baseline the base."""
    return ebm.run("dyck-rerank", CHOSEN, out=tmp_path_factory.mktemp("rerank") / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of brackets without an energy of whole strings."""
    energy = {"use": "transformer", "dim": 8, "depth": 1, "heads": 2}
    recipe = {**ebm.recipes.load("text-transformer"), "task": {"use": "dyck"}, "energy": energy}
    return ebm.run(recipe, SMALL, out=tmp_path_factory.mktemp("plain") / "plain")


def main_quietly(arguments):
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_base_is_the_baseline_s_weights(trained):
    assert (trained.path / "rerank.csv").exists()
    assert same(trained.baseline.energy, trained.objective.base)
    assert trained.metrics["loss"] == pytest.approx(trained.baseline.metrics["loss"])


def test_a_run_can_be_used_without_what_it_was_built_on(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "moved", ignore=shutil.ignore_patterns("baseline"))
    found = ebm.load(tmp_path / "moved")
    assert same(trained.objective.base, found.objective.base)
    how = {"rerank": 4, "seed": 3, "temperature": 1.0}
    assert found.generate(["(("], **how) == trained.generate(["(("], **how)
    exported = ebm.load(trained.export(tmp_path / "given"))
    assert exported.generate(["(("], **how) == trained.generate(["(("], **how)


def test_a_run_is_named_as_the_base(plain, tmp_path):
    recipe = alone()
    run = ebm.run(recipe, {**CHOSEN, "base": str(plain.path)}, out=tmp_path / "run")
    assert same(plain.energy, run.objective.base)
    assert run.recipe["base"]["model"] == str(plain.path)
    again = ebm.run(tmp_path / "run" / "recipe.toml", out=tmp_path / "again")
    assert same(run.energy, again.energy)
    other = {**run.recipe, "base": {**run.recipe["base"], "weights": "0" * 16}}
    with pytest.raises(ValueError, match="not the model that this recipe was built on"):
        ebm.run(other, out=tmp_path / "other")


def test_a_stopped_run_goes_on_to_the_same_weights(plain, tmp_path, monkeypatch):
    """The draws that were kept go with it."""
    recipe = alone()
    settings = {**CHOSEN, "base": str(plain.path), "fit.steps": 6, "fit.checkpoint_every": 3}
    whole = ebm.run(recipe, settings, out=tmp_path / "whole")
    from ebm.objectives import SequenceNCE

    forward, calls = SequenceNCE.forward, []

    def stops(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return forward(self, *arguments, **keywords)

    monkeypatch.setattr(SequenceNCE, "forward", stops)
    with pytest.raises(KeyboardInterrupt):
        ebm.run(recipe, settings, out=tmp_path / "stopped")
    monkeypatch.undo()
    assert same(whole.energy, ebm.run(recipe, settings, out=tmp_path / "stopped").energy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": None}, r'builds on a trained model: name its run, as in base = "runs/x"'),
        ({"base": 3}, "write a run's folder"),
        ({"baseline": None, "pace": None}, "the recipe has no baseline"),
        ({"base": "no-such-run"}, "no-such-run"),
        ({"objective": {"use": "reconstruction", "sampler": {"use": "gradient-descent", "step_size": 1.0}}}, "builds on no base"),
        ({"objective": {"use": "sequence-nce", "base": "runs/x"}}, "in front of all tables"),
        ({"base": None, "objective": {"use": "sequence-nce", "base": {"use": "transformer"}}}, "would not be trained"),
    ],
)
def test_a_base_that_is_not_one_is_refused_before_anything_is_made(changes, words, tmp_path):
    recipe = {**ebm.recipes.load("dyck-rerank"), **changes}
    with pytest.raises(ValueError, match=words):
        ebm.run({key: value for key, value in recipe.items() if value is not None}, SMALL, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_of_another_vocabulary_is_refused(plain, tmp_path):
    recipe = alone()
    with pytest.raises(ValueError, match="do not fit this recipe's base"):
        ebm.run(recipe, {**CHOSEN, "task.kinds": 3, "base": str(plain.path)}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_energy_that_is_built_on_the_base_has_its_shape_and_starts_as_it(plain, tmp_path):
    run = ebm.run(alone(), {**CHOSEN, "base": str(plain.path)}, out=tmp_path / "run")
    assert same(plain.energy, run.energy.base)
    assert not same(plain.energy, run.energy.model)
    with pytest.raises(ValueError, match=r"energy.base says \{'dim': 16\}, but the base that the run builds on has \{'dim': 8\}"):
        ebm.run(alone(), {**CHOSEN, "base": str(plain.path), "energy.base.dim": 16}, out=tmp_path / "other")


def test_the_command_line_names_a_base():
    settings = parse_settings(["--base", "runs/x", "--steps", "5"])
    assert settings == {"base": "runs/x", "fit.steps": "5"}
    assert resolve(ebm.recipes.load("dyck-rerank"), settings)["base"] == "runs/x"


# ------------------------------------------------------------------------------------------------------------- whole texts


def test_the_command_shows_the_text_of_the_lowest_energy(trained, capsys):
    how = ["generate", str(trained.path), "--prompt", "((", "--rerank", "5", "--temperature", "1.0"]
    assert main_quietly([*how, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["energy"] == min(line["energies"])
    assert len(line["energies"]) == 5
    assert main_quietly(how) == 0
    said = capsys.readouterr()
    assert said.out == f"(({line['text']}\n"
    assert f"energy {line['energy']:.4g}, among 5" in said.err


def test_a_text_does_not_depend_on_those_beside_it(trained):
    how = {"rerank": 3, "temperature": 1.0, "resample": True}
    together = trained.generate(["((", "[", "(("], n=2, **how)
    assert together[2:4] == trained.generate("[", n=2, **how)
    assert trained.generate("[", rerank=3, max_new_tokens=1, temperature=1.0)[0] in ("", *"()[]")


def test_choosing_is_refused_where_it_means_nothing(trained, plain):
    for keywords, words in (
        ({}, "scores whole texts, and writes none"),
        ({"resample": True}, "pass rerank=N"),
        ({"rerank": 0}, "rerank=0"),
        ({"rerank": 2, "candidates": 4}, "does not think"),
        ({"rerank": 2, "temperature": -1.0}, "temperature=-1.0"),
        ({"rerank": 2, "max_new_tokens": 0}, "max_new_tokens=0"),
    ):
        with pytest.raises(ValueError, match=words):
            trained.generate("((", **keywords)
    with pytest.raises(ValueError, match="has no energy of whole texts to choose by"):
        plain.generate("((", rerank=4)


# ----------------------------------------------------------------------------------------------------------------- the study


def test_the_study_counts_what_each_way_of_choosing_solves(trained):
    rows = conduct(trained, "rerank", {"splits": ["test", "deep"], "n": 4, "limit": 12, "prompt": 3})
    for split in ("test", "deep"):
        solved = {row["choice"]: row["value"] for row in rows if (row["split"], row["name"]) == (split, "solved")}
        assert [*solved] == ["single", "likelihood", "energy", "joint", "resampled", "any"]
        assert max(solved.values()) == solved["any"]
        numbers = {row["name"]: row["value"] for row in rows if row["split"] == split}
        assert numbers["nats_at_least"] <= numbers["nats_at_most"]
        assert numbers["nats_gain"] == pytest.approx(numbers["nats_base"] - numbers["nats_resampled"])


def test_a_perfect_energy_recovers_all_that_any_draw_solves(trained, monkeypatch):
    """Of an energy that is the verifier itself, the choice is right wherever one of the draws is."""
    task = trained.task

    def verifies(energy, prompt, ids, vocab_size):
        return -task.is_right(torch.cat([prompt.expand(len(ids), -1, -1), ids], -1)).float()

    monkeypatch.setattr("ebm.studies.rerank.score", verifies)
    found = {(each.name, each.choice): each.value for each in rerank(trained, n=16, limit=40, prompt=3)}
    assert 0 < found["solved", "single"] < found["solved", "any"] == found["solved", "energy"]
    assert found["recovered", ""] > 0


def test_the_study_refuses_what_has_no_base(plain, trained):
    with pytest.raises(ValueError, match="no energy of whole sequences"):
        rerank(plain)
    with pytest.raises(ValueError, match="n=1"):
        rerank(trained, n=1)
    with pytest.raises(ValueError, match="no text of more than prompt=14"):
        rerank(trained, prompt=14)
