"""Going on: a finished run takes more steps as if it had never ended, and a recipe starts from a model's weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import ebm
from ebm.cli import main
from ebm.runs import checkpoints
from ebm.runs.history import History
from tests.fake_plugins import Interrupted, quick_report
from tests.helpers import close
from tests.runs.test_learned import SOFT, documents

TINY = {"fit.steps": 3, "fit.evaluate_limit": 20, "fit.checkpoint_every": 2, "fit.log_every": 1, "task.n": 200}
TINY |= {
    "fit.schedule": "constant",
    "fit.lr_end": 0.1,
    "energy.hidden": [8],
    "objective.sampler.sampler.steps": 2,
    "fit.sampler.steps": 5,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    monkeypatch.chdir(tmp_path)


def weights(run) -> list[torch.Tensor]:
    return [*run.energy.state_dict().values()]


def same(got, expected) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def interrupting(patch, at: int) -> None:
    """Kills a run as it logs a step."""
    add = History.add

    def killed(self, step, split, values):
        if step == at:
            raise Interrupted
        add(self, step, split, values)

    patch.setattr(History, "add", killed)


def logged(folder) -> list[dict[str, str]]:
    with open(f"{folder}/metrics.csv") as file:
        return [*csv.DictReader(file)]


def rates(folder) -> list[float]:
    return [float(row["value"]) for row in logged(folder) if row["name"] == "lr"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_extended_run_is_as_if_it_had_never_ended(optimizer):
    small = {**TINY, "fit.optimizer": {"use": optimizer}}
    whole = ebm.run("density", {**small, "fit.steps": 6}, out="whole")
    ebm.run("density", small, out="parts")
    extended = ebm.run("parts", {"fit.steps": 6}, extend=True)
    assert same(weights(extended), weights(whole))
    assert same(weights(ebm.load("parts")), weights(whole))
    assert extended.metrics == whole.metrics
    assert logged("parts") == logged("whole")


@pytest.mark.parametrize(
    "schedule",
    [
        {"fit.schedule": "cosine", "fit.warmup": 2},
        {"fit.scheduler": {"use": "one-cycle", "max_lr": 0.01, "total_steps": 20}},
        {"fit.scheduler": {"use": "step", "step_size": 2}},
    ],
)
def test_an_extension_goes_on_by_the_new_schedule(schedule, capsys):
    more = {**schedule, "fit.steps": 8, "fit.lr": 0.05}
    ebm.run("density", TINY, out="parts")
    old = rates("parts")
    ebm.run("parts", more, extend=True)
    ebm.run("density", {**TINY, **more}, out="whole")
    assert rates("parts") == [*old, *rates("whole")[3:]]
    assert "parts is trained on from step 3 to 8" in capsys.readouterr().err


def test_an_extension_that_was_stopped_goes_on(monkeypatch):
    more = {"fit.steps": 9, "fit.schedule": "cosine"}
    ebm.run("density", TINY, out="whole")
    whole = ebm.run("whole", more, extend=True)
    ebm.run("density", TINY, out="parts")
    for at in (4, 7):  # before a checkpoint of the extension, and after one
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupting(patch, at)
            ebm.run("parts", more, extend=True)
    assert json_of("parts", "metrics.json") is None
    parts = ebm.run("parts", more, extend=True)
    assert same(weights(parts), weights(whole))
    assert parts.metrics == whole.metrics
    assert json_of("parts", "extended.json") == json_of("whole", "extended.json")


def json_of(folder, name):
    try:
        with open(f"{folder}/{name}") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def test_an_extension_keeps_the_metrics_that_were():
    before = ebm.run("density", TINY, out="run").metrics
    ebm.run("run", {"fit.steps": 5}, extend=True)
    ebm.run("run", {"fit.steps": 7, "fit.lr": 1e-4}, extend=True)
    noted = json_of("run", "extended.json")
    assert [each["step"] for each in noted] == [3, 5]
    assert noted[0]["metrics"] == before
    assert checkpoints.steps(ebm.load("run").path / "checkpoints")[-1] == 7


def test_what_an_extension_may_not_change_is_refused():
    ebm.run("density", TINY, out="run")
    before = {path: path.read_bytes() for path in ebm.load("run").path.rglob("*") if path.is_file()}
    for settings, message in {
        "energy.hidden": ({"fit.steps": 9, "energy.hidden": [9]}, "another recipe.energy.hidden"),
        "batch": ({"fit.steps": 9, "fit.batch_size": 7}, "another .*batch_size"),
        "optimizer": ({"fit.steps": 9, "fit.optimizer": "sgd"}, "another .*optimizer"),
        "steps": ({"fit.steps": 3}, "has taken 3: ask for more steps"),
        "fewer": ({"fit.steps": 1}, "has taken 3: ask for more steps"),
    }.values():
        with pytest.raises(ValueError, match=message):
            ebm.run("run", settings, extend=True)
    with pytest.raises(ValueError, match="nowhere is no run's folder"):
        ebm.run("density", TINY, out="nowhere", extend=True)
    with pytest.raises(ValueError, match=r"holds a finished run: .* or extend=True and more steps"):
        ebm.run("density", {**TINY, "fit.steps": 9}, out="run")
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_a_callback_ended_can_be_extended():
    energy, task = ebm.build("energy", "mlp", dim=2, hidden=[8]), ebm.build("task", "points", n=200)
    objective = ebm.build("objective", "denoising-score-matching", sigma=0.1)
    how = {"evaluate_limit": 20, "log_every": 1, "out": "run", "sampler": ebm.build("sampler", "langevin", steps=2)}
    ebm.fit(energy, objective, task, steps=9, callbacks=[lambda step, row, run: step == 4], **how)
    assert checkpoints.steps(ebm.load("run", energy=energy).path / "checkpoints")[-1] == 4
    ebm.fit(energy, objective, task, steps=12, extend=True, **how)
    assert checkpoints.steps(ebm.load("run", energy=energy).path / "checkpoints")[-1] == 12


def test_what_a_callback_ended_is_trained_on_by_the_same_callback():
    energy, task = ebm.build("energy", "mlp", dim=2, hidden=[8]), ebm.build("task", "points", n=200)
    objective = ebm.build("objective", "denoising-score-matching", sigma=0.1)
    how = {"evaluate_limit": 20, "log_every": 1, "out": "run", "sampler": ebm.build("sampler", "langevin", steps=2)}
    how |= {"steps": 9, "callbacks": [lambda step, row, run: step in (4, 7)]}
    ebm.fit(energy, objective, task, **how)
    with pytest.raises(ValueError, match="overwrite=True removes the run .* choose one of them"):
        ebm.fit(energy, objective, task, overwrite=True, extend=True, **how)
    for step in (7, 9):
        ebm.fit(energy, objective, task, extend=True, **how)
        assert checkpoints.steps(Path("run/checkpoints"))[-1] == step


def text(source: str = "corpus.jsonl", **task) -> dict:
    energy = {"use": "residual-text-ebt", "dim": 8, "depth": 1, "heads": 1}
    fit = {"steps": 2, "batch_size": 4, "evaluate_limit": 3}
    task = {"use": "text", "source": source, "context": 8, **task}
    return {"task": task, "energy": energy, "objective": {"use": "reconstruction", "sampler": SOFT}, "fit": fit}


@pytest.fixture
def model():
    with open("corpus.jsonl", "w") as file:
        file.write(documents())
    with open("other.jsonl", "w") as file:
        file.writelines(json.dumps({"text": f"ZZZ {i} QQQ " * 9}) + "\n" for i in range(60))
    return ebm.run(text(tokenizer="bpe", vocab_size=290), out="model")


def test_a_baseline_is_extended_with_its_run(model):
    recipe = text() | {"baseline": "text-transformer", "pace": 2}
    ebm.run(recipe, out="run")
    run = ebm.run("run", {"fit.steps": 4}, extend=True)
    assert run.baseline.recipe["fit"]["steps"] == 8
    assert checkpoints.steps(run.baseline.path / "checkpoints")[-1] == 8


def test_a_recipe_starts_from_a_model(model):
    still = {"fit.steps": 1, "fit.lr": 1e-12, "fit.weight_decay": 0.0}
    run = ebm.run({**text("other.jsonl"), "energy": {"use": "residual-text-ebt", "dim": 4}}, still, out="run", from_model="model")
    close(weights(run), weights(model), atol=1e-9)
    assert run.task.tokenizer.encode("ZZZ the cat") == model.task.tokenizer.encode("ZZZ the cat")
    assert run.recipe["energy"] == model.recipe["energy"]
    loaded = ebm.load("run")
    assert loaded.task.spec == model.task.spec
    close(weights(loaded), weights(model), atol=1e-9)
    assert loaded.task.reads.startswith("60 documents of ")
    again = ebm.run("run/recipe.toml", out="again")
    assert same(weights(again), weights(run))
    ebm.run(text(tokenizer="bpe", vocab_size=290), {"seed": 1}, out="model", overwrite=True)
    with pytest.raises(ValueError, match="is not the model that this recipe began from"):
        ebm.run("run/recipe.toml", out="third")


def test_what_the_model_says_cannot_be_said_otherwise(model):
    with pytest.raises(ValueError, match=r"task.tokenizer: .*model says it"):
        ebm.run(text("other.jsonl"), {"task.tokenizer": "bytes"}, out="run", from_model="model")
    with pytest.raises(ValueError, match=r"the weights of .*model do not fit the recipe's energy"):
        ebm.run(text("other.jsonl"), {"energy.dim": 16}, out="run", from_model="model")
    with pytest.raises(ValueError, match="nowhere"):
        ebm.run(text("other.jsonl"), out="run", from_model="nowhere")


def test_the_command_line_goes_on(model, capsys):
    small = ["--steps", "3", "--evaluate-limit", "3"]
    for arguments in (
        ["run", "model", "--extend", *small],
        ["run", "model/recipe.toml", "--from", "model", "--out", "run", *small],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0, capsys.readouterr().err
    assert ebm.load("run").recipe["from"]["model"].endswith("model")


def test_scales_and_encoders_are_inherited():
    from tests.runs.test_learned import AUTOENCODER, frames

    model = ebm.run(frames(AUTOENCODER), out="model")
    recipe = ebm.load("model").recipe | {"seed": 1}
    recipe["task"] = {**recipe["task"], "encoder": {"use": "pixels", "size": 8}, "limit_frames": 6}
    run = ebm.run(recipe, out="run", from_model="model")
    assert same([*run.task.encoder.state_dict().values()], [*model.task.encoder.state_dict().values()])
    close(run.task._scale(), model.task._scale(), rtol=1e-6)
