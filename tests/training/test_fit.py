"""Laws of training: `fit` is the plain loop, logs and saves what it says, and bad input gets an error and loses nothing."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import random
import re
import signal
import tomllib
import warnings

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

import ebm
from ebm import recipes
from ebm.energies import ConditionalMLP, Gaussian, MLPEnergy
from ebm.interfaces import Batch, Loss, Objective, Sampler
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching, Reconstruction
from ebm.randomness import stream, subseed
from ebm.runs import checkpoints
from ebm.runs.checkpoints import CheckpointError
from ebm.runs.folder import fresh_folder, open_folder
from ebm.runs.history import History, read_history
from ebm.runs.rollback import rollbacks
from ebm.runs.run import sampler_of
from ebm.samplers import GradientDescent, LangevinDynamics, ReplayAugmented
from ebm.studies.probe import read_probe
from ebm.studies.thinking import read_findings
from ebm.tasks import Points, Rows
from ebm.tasks.rows import RowsOf
from ebm.training.batches import Batches
from ebm.training.loop import Trainee, _rate, fit
from ebm.training.watch import lost_processes_are_named
from tests.fake_plugins import (
    Around,
    Bare,
    Dropped,
    Interrupted,
    Still,
    fail,
    installed,
    interrupting,
    langevin,
    mlp,
    parameters,
    quick_report,
    write_distribution,
)

LAW = settings(max_examples=50, deadline=None, derandomize=True)
ROWS = 60  # of which 42 are for training


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    monkeypatch.chdir(tmp_path)


def cd(**keywords):
    return ContrastiveDivergence(langevin(), **keywords)


def points(n=ROWS):
    return Points("moons", n=n)


def quick(out, energy=None, objective=None, task=None, **keywords):
    """Trains for a few steps, with whatever differs."""
    keywords = {"steps": 4, "batch_size": 8, "log_every": 1, **keywords}
    return fit(energy or mlp(), objective or cd(), points() if task is None else task, out=out, **keywords)


def table(run):
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------- the plain loop


def plain_loop(energy, objective, task, steps, batch_size, lr, seed=0, betas=(0.9, 0.999)):
    """What `fit` does, without anything around it."""
    optimizer = torch.optim.AdamW([*energy.parameters(), *objective.parameters()], lr=lr, betas=betas, weight_decay=0.0)
    generator, step, epoch = stream(seed, "train", 0), 0, 0
    while step < steps:
        for batch in task.loader("train", batch_size, seed=subseed(seed, "data", epoch)):
            if step == steps:
                break
            objective(energy, batch, generator=generator).value.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        epoch += 1
    return parameters(energy, objective)


@pytest.mark.parametrize("name", ["cd", "dsm", "reconstruction", "pcd"])
def test_fit_is_the_plain_loop(tmp_path, name):
    def parts():
        objective = {
            "cd": cd,
            "dsm": lambda: DenoisingScoreMatching(0.3),
            "reconstruction": lambda: Reconstruction(GradientDescent(0.1, steps=2, learnable=True), points()),
            "pcd": lambda: ContrastiveDivergence(ReplayAugmented(langevin(), capacity=11, fresh=0.3), start="noise"),
        }[name]()
        return mlp(), objective

    expected = plain_loop(*parts(), points(), steps=12, batch_size=8, lr=1e-2, seed=3)  # 5 batches an epoch: it crosses two
    energy, objective = parts()
    fit(energy, objective, points(), langevin(), steps=12, batch_size=8, lr=1e-2, seed=3, out=tmp_path / "x")
    assert all(torch.equal(a, b) for a, b in zip(parameters(energy, objective), expected, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(parameters(*parts()), expected, strict=True))


def test_every_row_is_seen_once_an_epoch_whatever_the_place_one_starts_from():
    """Rows of the last, short batch are left out by the task; the order differs from epoch to epoch."""
    task = Still(ROWS)
    stream_of = Batches(task, 8, 0, 0, (0, 0))
    first = [next(stream_of) for _ in range(15)]
    places = [place for place, _ in first]
    assert places == [(epoch, count) for epoch in range(3) for count in range(1, 6)]
    for start in (1, 4, 5, 9, 10):
        later = Batches(task, 8, 0, 0, places[start - 1])
        for place, batch in first[start:]:
            found, again = next(later)
            assert found == place
            assert torch.equal(again.target, batch.target)
    epochs = [torch.cat([batch.target for (e, _), batch in first if e == epoch]) for epoch in range(3)]
    assert not torch.equal(epochs[0], epochs[1])
    assert all(len(epoch.unique(dim=0)) == 40 for epoch in epochs)


def test_a_step_of_a_batch_per_epoch_and_a_batch_larger_than_the_data(tmp_path):
    run = quick(tmp_path / "x", batch_size=500)
    assert math.isfinite(run.metrics["mmd"])


def test_a_run_is_a_function_of_its_seed_and_leaves_every_global_generator_alone(tmp_path):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    runs = [quick(tmp_path / "a"), quick(tmp_path / "b"), quick(tmp_path / "c", seed=1)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    torch.rand(7)
    runs.append(quick(tmp_path / "d"))
    same = [all(torch.equal(a, b) for a, b in zip(*map(parameters, (runs[0].energy, r.energy)), strict=True)) for r in runs]
    assert same == [True, True, False, True]
    assert [run.metrics == runs[0].metrics for run in runs] == [True, True, False, True]


def test_global_draws_of_third_party_code_follow_the_seed_too(tmp_path):
    def run(out, seed):
        objective = Around(DenoisingScoreMatching(0.2), 0.5)
        return quick(tmp_path / out, energy=Dropped(2), objective=objective, sampler=langevin(), seed=seed)

    runs = [run("a", 0), run("b", 0), run("c", 1)]
    factors = [[row["value"] for row in table(run) if row["name"] == "factor"] for run in runs]
    assert factors[0] == factors[1]
    assert factors[0] != factors[2]
    assert len(set(factors[0])) == 4


def test_signal_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    quick(tmp_path / "x")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(ValueError, match="unknown split"):
        quick(tmp_path / "y", task=NoTest())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class NoTest(Points):
    def __init__(self):
        super().__init__("moons", n=ROWS)
        del self.splits["test"]


# ------------------------------------------------------------------------------------------------ schedules, clipping, EMA


@LAW
@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from([0.0, 0.1, 1.0]))
def test_the_learning_rate_rises_linearly_and_falls_to_its_end(steps, warmup, end):
    rates = [_rate(step, steps, warmup, "cosine", end) for step in range(1, steps + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[: min(warmup, steps)] == [step / warmup for step in range(1, min(warmup, steps) + 1)]
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    if falling:
        assert falling[-1] == pytest.approx(end)
    constant = [_rate(step, steps, warmup, "constant", end) for step in range(warmup + 1, steps + 1)]
    assert constant == [1.0] * max(0, steps - warmup)


def test_the_logged_learning_rate_is_the_schedules(tmp_path):
    run = quick(tmp_path / "x", steps=6, warmup=2, schedule="cosine", lr=1e-2, lr_end=0.3)
    logged = [float(row["value"]) for row in table(run) if row["name"] == "lr"]
    assert logged == pytest.approx([1e-2 * _rate(step, 6, 2, "cosine", 0.3) for step in range(1, 7)])


def test_the_objectives_learning_rate_is_its_own_and_may_be_zero(tmp_path):
    moved = {}
    for sampler_lr in (None, 0.0, 1e-1):
        objective = Reconstruction(GradientDescent(0.1, steps=2, learnable=True), points())
        quick(tmp_path / str(sampler_lr), objective=objective, sampler_lr=sampler_lr, lr=1e-3, steps=1)
        moved[sampler_lr] = abs(objective.sampler.step_size - torch.tensor(0.1)).item()
    assert moved[None] == pytest.approx(1e-3, rel=1e-3)  # Adam's first step is as long as its learning rate
    assert moved[1e-1] == pytest.approx(1e-1, rel=1e-3)
    assert moved[0.0] == 0


def test_gradients_are_clipped_together(tmp_path):
    class Steep(Objective):
        def forward(self, energy, batch, *, start=None, generator=None):
            return Loss(1e6 * energy(batch.target).mean() + 0 * self.parameter.sum(), {})

        def __init__(self):
            super().__init__()
            self.parameter = nn.Parameter(torch.ones(1))

    def norms(**keywords):
        run = quick(tmp_path / f"{len(list(tmp_path.iterdir()))}", objective=Steep(), sampler=langevin(), **keywords)
        state = checkpoints.read(checkpoints.latest(run.path / "checkpoints"), "shared")["optimizer"]["state"]
        first = [row for row in table(run) if row["name"] == "gradient_norm"]
        return float(first[0]["value"]), sum(s["exp_avg"].norm().item() for s in state.values())

    free, moment = norms(steps=1)
    logged, clipped = norms(steps=1, clip_norm=1.0)
    assert logged == free > 1e4  # what is logged is the norm before it is clipped
    assert moment > 1e3
    assert clipped < 1


def test_weight_decay_is_the_energys_alone(tmp_path):
    objective = Reconstruction(GradientDescent(0.1, steps=2, learnable=True), Still(ROWS))
    run = quick(tmp_path / "x", objective=objective, task=Still(ROWS), weight_decay=0.5, steps=1)
    groups = checkpoints.read(checkpoints.latest(run.path / "checkpoints"), "shared")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


def test_the_average_is_the_exponential_moving_average_of_the_weights(tmp_path):
    seen = []

    class Watching(ContrastiveDivergence):
        def forward(self, energy, batch, *, start=None, generator=None):
            seen.append(parameters(energy))
            return super().forward(energy, batch, start=start, generator=generator)

    energy = mlp()
    run = quick(tmp_path / "x", energy=energy, objective=Watching(langevin()), ema=0.75, steps=5, lr=1e-2)
    weights = [*seen[1:], parameters(energy)]
    average = weights[0]  # as torch's AveragedModel has it: the first weights it sees
    for later in weights[1:]:
        average = [0.75 * a + 0.25 * w for a, w in zip(average, later, strict=True)]
    for found in (run.energy, ebm.load(tmp_path / "x", energy=mlp(seed=5), objective=cd(), task=points()).energy):
        assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(parameters(found), average, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(parameters(found), parameters(energy), strict=True))


def test_what_is_counted_is_not_averaged(tmp_path):
    """Buffers (running statistics, counters) of the averaged energy are those of the trained one."""

    class Counting(MLPEnergy):
        def __init__(self):
            super().__init__(2, hidden=(8,))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, y, code=None):
            self.calls += self.training
            return super().forward(y, code)

    energy = Counting()
    run = quick(tmp_path / "x", energy=energy, ema=0.9, steps=3)
    assert run.energy is not energy
    assert run.energy.calls == energy.calls > 0


def test_float64_stays_float64(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        objective = ContrastiveDivergence(ReplayAugmented(langevin(), capacity=11), start="noise")
        run = quick(tmp_path / "x", energy=mlp(torch.float64), objective=objective, ema=0.5)
        assert {p.dtype for p in run.energy.parameters()} == {torch.float64}
        assert run.sample(3).dtype == torch.float64
        saved = checkpoints.latest(run.path / "checkpoints")
        shared, own = checkpoints.read(saved, "shared"), checkpoints.read(saved, "rank0")
        state = shared["optimizer"]["state"].values()
        tensors = [*shared["energy"].values(), *shared["average"].values(), *(part["exp_avg"] for part in state)]
        assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float64}
        buffer = own["objective"]["sampler._extra_state"]
        assert {t.dtype for key, t in buffer.items() if key.startswith("rows")} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_train_evaluate_save_and_load_or_are_refused(tmp_path, precision):
    recipe = recipes.resolve(tiny_recipe(), {"fit.precision": precision, "fit.ema": "0.5"})
    parts = recipes.assemble(recipe)
    try:
        run = fit(parts.energy, parts.objective, parts.task, **parts.fit, recipe=parts.recipe, out=tmp_path / "x")
    except ValueError as error:
        assert "precision" in str(error)  # noqa: PT017
        assert not (tmp_path / "x").exists()
        return
    loaded = ebm.load(tmp_path / "x")
    for one, two in zip(run.energy.state_dict().values(), loaded.energy.state_dict().values(), strict=True):
        assert one.dtype == two.dtype == (torch.float64 if precision == "64-true" else torch.float32)
        assert torch.equal(one, two)
    assert torch.equal(run.sample(4), loaded.sample(4))


# -------------------------------------------------------------------------------------------------- what a run folder holds


def tiny_recipe(**tables):
    return {
        "summary": "Tiny.",
        "task": {"use": "points", "n": ROWS},
        "energy": {"use": "mlp", "hidden": [8]},
        "objective": {"use": "contrastive-divergence", "sampler": {"use": "langevin", "step_size": 0.1, "steps": 2}},
        "fit": {"steps": 4, "batch_size": 8, "log_every": 1},
        **tables,
    }


def train_recipe(recipe, out, settings=None, **keywords):
    parts = recipes.assemble(recipes.resolve(recipe, settings))
    seed = parts.recipe["seed"]
    return fit(parts.energy, parts.objective, parts.task, **parts.fit, seed=seed, recipe=parts.recipe, out=out, **keywords)


def test_a_run_folder_holds_what_its_readers_need(tmp_path):
    run = train_recipe(tiny_recipe(), tmp_path / "x", {"fit.checkpoint_every": "2", "fit.evaluate_every": "2"})
    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert names >= {"recipe.toml", "run.json", "metrics.csv", "metrics.json", "report.html", "checkpoints"}
    assert not [name for name in names if name.startswith(".")]
    assert checkpoints.steps(tmp_path / "x" / "checkpoints") == [2, 4]
    assert json.loads((tmp_path / "x" / "metrics.json").read_text()) == run.metrics
    assert tomllib.loads((tmp_path / "x" / "recipe.toml").read_text())["fit"]["checkpoint_every"] == 2
    logged = {(row["split"], row["name"], int(row["step"])) for row in table(run)}
    assert {("train", name, step) for name in ("loss", "energy_gap", "gradient_norm", "lr") for step in (1, 2, 3, 4)} <= logged
    assert {("validation", "mmd", 2), ("test", "mmd", 4)} <= logged
    assert ("validation", "mmd", 4) not in logged  # the last step has the test split's
    history = read_history(tmp_path / "x")
    assert history["test", "mmd"] == ([4], [run.metrics["mmd"]])
    assert history["train", "loss"][0] == [1, 2, 3, 4]


LEARNED = {"objective.sampler.use": "gradient-descent", "objective.sampler.learnable": "true"}


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_run_is_loaded_as_it_was(tmp_path, ema):
    run = train_recipe(tiny_recipe(), tmp_path / "x", {**LEARNED, "fit.ema": str(ema), "fit.lr": "0.01"})
    before = torch.get_rng_state()
    loaded = ebm.load(tmp_path / "x")
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.metrics == run.metrics
    assert tomli_w.dumps(loaded.recipe) == tomli_w.dumps(run.recipe) == (tmp_path / "x" / "recipe.toml").read_text()
    for part in ("energy", "objective", "sampler"):
        one, two = getattr(run, part).state_dict(), getattr(loaded, part).state_dict()
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), part
    assert torch.equal(run.sample(5, seed=2), loaded.sample(5, seed=2))
    assert run.evaluate(seed=4) == loaded.evaluate(seed=4)


def test_a_samplers_own_step_size_is_evaluated_with_what_was_learned(tmp_path):
    run = train_recipe(tiny_recipe(), tmp_path / "x", LEARNED)
    assert run.sampler is run.objective.sampler
    loaded = ebm.load(tmp_path / "x")
    assert loaded.sampler is loaded.objective.sampler
    assert torch.equal(loaded.sampler.step_size, run.sampler.step_size)


def test_a_run_made_by_hand_needs_its_energy_to_be_loaded(tmp_path):
    run = quick(tmp_path / "x")
    with pytest.raises(ValueError, match=r"trained with an energy made by hand: pass it"):
        ebm.load(tmp_path / "x")
    loaded = ebm.load(tmp_path / "x", energy=mlp(seed=3), sampler=langevin())
    assert all(torch.equal(a, b) for a, b in zip(parameters(loaded.energy), parameters(run.energy), strict=True))
    with pytest.raises(ValueError, match="pass|task"):
        loaded.evaluate()
    with pytest.raises(CheckpointError, match=r"step-000000004.*does not fit"):
        ebm.load(tmp_path / "x", energy=MLPEnergy(3, hidden=(8,)))
    with pytest.raises(ValueError, match="holds no run with a checkpoint"):
        ebm.load(tmp_path / "nothing")


def test_a_plain_function_is_an_energy_of_which_only_the_objective_learns(tmp_path):
    objective = Reconstruction(GradientDescent(0.1, steps=2, learnable=True), points())

    def bowl(y):
        return y.square().sum(-1)

    run = quick(tmp_path / "x", energy=bowl, objective=objective, ema=0.5)
    assert run.energy is bowl
    assert objective.sampler.step_size.item() != pytest.approx(0.1)
    assert ebm.load(tmp_path / "x", energy=bowl, objective=objective, task=points()).sample(2).shape == (2, 2)
    with pytest.raises(ValueError, match="nothing to train"):
        quick(tmp_path / "y", energy=bowl)


def test_frozen_parameters_stay_and_a_shared_sampler_is_one(tmp_path):
    energy = mlp()
    energy.layers[0].weight.requires_grad_(False)
    before = energy.layers[0].weight.clone()
    quick(tmp_path / "x", energy=energy)
    assert torch.equal(energy.layers[0].weight, before)


def test_evaluation_uses_the_sampler_given_else_the_objectives(tmp_path):
    """A replay buffer is empty before the first batch, and an empty thing may be false: it is the sampler all the same."""
    replay = ReplayAugmented(langevin(), capacity=11)
    assert quick(tmp_path / "a", objective=ContrastiveDivergence(replay)).sampler is replay
    other = ReplayAugmented(langevin(steps=5), capacity=11)
    assert quick(tmp_path / "b", objective=cd(), sampler=other).sampler is other
    assert ebm.load(tmp_path / "b", energy=mlp(), objective=cd(), sampler=other).sampler is other
    with pytest.warns(UserWarning, match="has no sampler"):
        assert isinstance(quick(tmp_path / "c", objective=DenoisingScoreMatching(0.1)).sampler, LangevinDynamics)
    assert isinstance(sampler_of(ContrastiveDivergence(replay)), Sampler)


def test_evaluation_leaves_the_training_as_it_is(tmp_path):
    rows = []
    for evaluate_every in (0, 2):
        torch.manual_seed(0)
        energy, replay = Dropped(2), ReplayAugmented(langevin(), capacity=11)
        objective = Around(ContrastiveDivergence(replay, start="noise"), 0.1)
        run = quick(tmp_path / str(evaluate_every), energy, objective, steps=6, ema=0.5, evaluate_every=evaluate_every)
        rows.append([row for row in table(run) if row["split"] != "validation"])
    assert rows[0] == rows[1]


def test_a_buffer_of_one_process_is_saved_and_loaded(tmp_path):
    recipe = tiny_recipe()
    inner = recipe["objective"]["sampler"]
    recipe["objective"]["sampler"] = {"use": "replay", "capacity": 11, "sampler": inner}
    train_recipe(recipe, tmp_path / "x")
    assert len(ebm.load(tmp_path / "x").objective.sampler) == 11


def test_sampling_gives_as_many_as_asked_for(tmp_path):
    run = quick(tmp_path / "x")
    assert run.sample(1).shape == (1, 2)
    assert run.sample(40).shape == (40, 2)  # more than the test split's 12 rows
    assert not torch.equal(run.sample(40)[:12], run.sample(40)[12:24])
    assert torch.equal(run.sample(40, seed=1), run.sample(40, seed=1))
    assert not torch.equal(run.sample(4, seed=1), run.sample(4, seed=2))


def test_tensorboard_shows_what_the_table_shows(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = quick(tmp_path / "x", evaluate_every=2)
    board = accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    for (split, name), (steps, values) in read_history(run.path).items():
        events = board.Scalars(f"{split}/{name}")
        assert [event.step for event in events] == steps
        assert [event.value for event in events] == pytest.approx(values, rel=1e-6)


def test_a_run_without_tensorboard_is_a_run(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    run = quick(tmp_path / "x")
    assert not (run.path / "tensorboard").exists()


# --------------------------------------------------------------------------------------------------------- folders, again


def contents(folder):
    """Reads all files but TensorBoard's, which a thread writes when it likes to."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {path: file.read_bytes() for path, file in files.items() if "tensorboard" not in str(path)}


def test_a_finished_run_is_not_touched(tmp_path):
    quick(tmp_path / "x")
    before = contents(tmp_path / "x")
    with pytest.raises(ValueError, match=r"holds a finished run: choose another out, or pass overwrite=True"):
        quick(tmp_path / "x")
    with pytest.raises(ValueError, match="finished run"):
        quick(tmp_path / "x", seed=3)
    assert contents(tmp_path / "x") == before
    (tmp_path / "x" / "notes.txt").write_text("mine")
    quick(tmp_path / "x", seed=3, steps=2, overwrite=True)
    assert (tmp_path / "x" / "notes.txt").read_text() == "mine"
    assert checkpoints.steps(tmp_path / "x" / "checkpoints") == [2]
    assert read_history(tmp_path / "x")["train", "loss"][0] == [1, 2]


def stopping(at):
    """Makes an objective that stops a run at a step."""
    return interrupting(at, fail)(cd())


def test_an_unfinished_run_of_other_settings_is_not_touched(tmp_path):
    with pytest.raises(Interrupted):
        quick(tmp_path / "x", objective=stopping(4), checkpoint_every=2)
    before = contents(tmp_path / "x")
    with pytest.raises(ValueError, match=r"unfinished run with another settings\.lr, settings\.seed: choose another out"):
        quick(tmp_path / "x", checkpoint_every=2, lr=0.5, seed=4)
    assert contents(tmp_path / "x") == before
    assert checkpoints.steps(tmp_path / "x" / "checkpoints") == [2]


def test_an_unfinished_run_of_other_parts_is_not_continued(tmp_path):
    """The settings are the same, and so are the shapes of the weights: only the parts' names tell the runs apart."""
    with pytest.raises(Interrupted):
        quick(tmp_path / "x", objective=stopping(4), checkpoint_every=2)
    before = contents(tmp_path / "x")
    for change in ({"objective": DenoisingScoreMatching(0.1), "sampler": langevin()}, {"task": Bare()}):
        with pytest.raises(ValueError, match="unfinished run with another .*(objective|task)"):
            quick(tmp_path / "x", checkpoint_every=2, **change)
    assert contents(tmp_path / "x") == before


def test_what_failed_before_its_first_checkpoint_may_be_mended_and_started_again(tmp_path):
    """Nothing was trained, so there is nothing to lose: a wrong argument must not lock its folder."""
    with pytest.raises(ValueError, match="step_size|sigma|noise levels"):
        quick(tmp_path / "x", objective=DenoisingScoreMatching([0.1, 0.2]), sampler=langevin(), energy=TwoLevels(), lr=0.1)
    quick(tmp_path / "x", objective=DenoisingScoreMatching([0.1, 0.2]), sampler=langevin(), lr=0.2)


class TwoLevels(MLPEnergy):
    levels = 3

    def __init__(self):
        super().__init__(2, hidden=(8,))


def test_a_folder_that_is_a_file_or_cannot_be_written_to_is_a_value_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"the run folder .*file cannot be written to"):
        quick(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ValueError, match="cannot be written to"):
        quick(tmp_path / "file" / "below")

    def denied(*args, **keywords):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr("ebm.runs.folder.write_text", denied)
        with pytest.raises(ValueError, match="cannot be written to: .*Permission denied"):
            quick(tmp_path / "denied")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_value_error(tmp_path):
    (tmp_path / "x").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot be written to"):
        quick(tmp_path / "x" / "y")


def test_a_damaged_description_is_a_value_error(tmp_path):
    with pytest.raises(Interrupted):
        quick(tmp_path / "x", objective=stopping(2))
    (tmp_path / "x" / "run.json").write_text('{"settings"')
    with pytest.raises(ValueError, match=r"run\.json is no run's description"):
        quick(tmp_path / "x")


def test_runs_get_a_folder_of_their_own(tmp_path):
    assert fresh_folder(tmp_path / "x") == tmp_path / "x"
    quick(tmp_path / "x")
    assert fresh_folder(tmp_path / "x") == tmp_path / "x-2"
    runs = [quick(None), quick(None)]
    assert [run.path.resolve() for run in runs] == [(tmp_path / "runs" / name).resolve() for name in ("run", "run-2")]
    assert open_folder(tmp_path / "new", {}, None, overwrite=True) == tmp_path / "new"


def test_failed_overwriting_does_not_continue_the_old_run(tmp_path, monkeypatch):
    quick(tmp_path / "x")

    def denied(path, ignore_errors=False, **keywords):
        if not ignore_errors:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("shutil.rmtree", denied)
    with pytest.raises(ValueError, match="cannot be written to"):
        quick(tmp_path / "x", seed=1, overwrite=True)


# --------------------------------------------------------------------------------------------------------------- bad input

ARGUMENTS = {
    "steps": [0, -1, 1.5, 2.0, 10**22, 1e22, None, True, "3", [3]],
    "batch_size": [0, -8, None, 8.0, 10**22],
    "lr": [0.0, -1.0, float("nan"), float("inf"), None, "1e-3", [1e-3], 1j],
    "sampler_lr": [-1.0, float("nan")],
    "betas": [(1.0, 0.9), (-0.1, 0.9), 0.9, None, (0.9,), ("a", "b")],
    "weight_decay": [-1.0, float("nan")],
    "warmup": [-1, 0.5],
    "schedule": ["cosin", ""],
    "clip_norm": [0.0, -1.0, float("nan")],
    "lr_end": [-0.1, 1.1, float("nan")],
    "ema": [-0.1, 1.0, float("nan")],
    "log_every": [0, -1],
    "evaluate_every": [-1],
    "evaluate_limit": [0, -1, 1, 2.5, "all"],  # the metric of points needs two
    "checkpoint_every": [0, -1],
    "workers": [-1],
    "accelerator": ["abacus"],
    "strategy": ["luck"],
    "devices": [0, "none"],
    "precision": ["31-true"],
    "seed": [-1, 1.5, 1.0, "1", None, True],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ARGUMENTS.items() for value in values])
def test_a_wrong_argument_is_a_value_error_before_anything_is_written(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}|{re.escape(str(value))}"):
        quick(tmp_path / "x", **{name: value})
    assert not (tmp_path / "x").exists()


def test_numbers_of_numpy_and_tensors_are_numbers(tmp_path):
    plain = quick(tmp_path / "x", steps=3, seed=2, lr=0.01, evaluate_limit=5)
    numbers = {"steps": np.int64(3), "seed": torch.tensor(2), "batch_size": np.array(8), "lr": np.float64(0.01)}
    run = quick(tmp_path / "y", **numbers, evaluate_limit=np.int32(5))
    assert contents(run.path) == contents(plain.path)


@pytest.mark.parametrize("rows", [3, 9])
def test_a_split_too_small_for_its_metric_is_found_before_training(tmp_path, rows):
    untouched = interrupting(1, fail)(cd())
    with pytest.raises(ValueError, match=r"(0|1|2) rows in split 'test': MMD needs halves|split 'test' is empty"):
        quick(tmp_path / "x", objective=untouched, task=points(rows), batch_size=1)
    assert not (tmp_path / "x").exists()


def test_a_validation_split_too_small_is_found_where_it_is_used(tmp_path):
    with pytest.raises(ValueError, match="split 'validation'"):
        quick(tmp_path / "x", objective=interrupting(1, fail)(cd()), task=points(30), evaluate_every=2)
    quick(tmp_path / "y", task=points(30))


class Poisoned(Still):
    """Data of which one row is not finite."""

    def __init__(self, value):
        super().__init__(ROWS)
        self.splits["train"].target[13, 1] = value


def test_what_is_wrong_with_the_data_is_not_blamed_on_the_learning_rate(tmp_path):
    """Whether the loss notices, or a sampler before it."""

    class Careless(Objective):
        def forward(self, energy, batch, *, start=None, generator=None):
            return Loss(energy(batch.target.nan_to_num()).mean() + batch.target.sum(), {})

    for name, objective in (("a", Careless()), ("b", cd()), ("c", Reconstruction(GradientDescent(0.1), points()))):
        for value, word in ((math.nan, "NaN"), (math.inf, "infinite")):
            with pytest.raises(FloatingPointError, match=rf"training step \d+: the batch's target is {word} in 1 of") as found:
                quick(tmp_path / f"{name}{word}", objective=objective, task=Poisoned(value), sampler=langevin(), steps=20)
            assert "lr" not in str(found.value)
            assert "step_size" not in str(found.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["cd", "dsm", "reconstruction"])
def test_data_that_are_not_finite_stop_the_run_and_reach_no_checkpoint(tmp_path, value, name):
    energy, task = mlp(), Poisoned(value)
    objective = {
        "cd": cd,
        "dsm": lambda: DenoisingScoreMatching(0.1),
        "reconstruction": lambda: Reconstruction(GradientDescent(0.1), task),
    }[name]()
    with pytest.raises(FloatingPointError, match=r"step [1-5]"):
        quick(tmp_path / "x", energy, objective, task, sampler=langevin(), steps=20, checkpoint_every=1)
    assert all(torch.isfinite(p).all() for p in parameters(energy, objective))
    saved = checkpoints.latest(tmp_path / "x" / "checkpoints")
    if saved is not None:
        assert all(torch.isfinite(t).all() for t in checkpoints.read(saved, "shared")["energy"].values())
    assert not (tmp_path / "x" / "metrics.json").exists()


def test_weights_that_are_not_finite_stop_the_run(tmp_path):
    energy = mlp()
    with torch.no_grad():
        energy.layers[0].weight[0, 0] = float("nan")
    for name, objective in (("a", cd()), ("b", DenoisingScoreMatching(0.1))):
        with pytest.raises(FloatingPointError, match=r"step 1.*(loss|energy|gradient)"):
            quick(tmp_path / name, energy=energy, objective=objective, sampler=langevin())
        assert checkpoints.latest(tmp_path / name / "checkpoints") is None


def test_an_update_that_leaves_the_numbers_behind_reaches_no_checkpoint(tmp_path):
    """Loss and gradient are finite at both steps; only the second update overflows."""

    class Linear(Objective):
        def forward(self, energy, batch, *, start=None, generator=None):
            return Loss(1e-3 * sum(p.sum() for p in energy.parameters()), {})

    with pytest.raises(FloatingPointError, match=r"step 2"):
        quick(tmp_path / "x", objective=Linear(), sampler=langevin(), lr=3e38, betas=(0.0, 0.0), steps=2, checkpoint_every=1)
    assert checkpoints.steps(tmp_path / "x" / "checkpoints") == [1]


def test_a_loss_that_stops_being_finite_names_step_and_term_and_keeps_the_last_good_weights(tmp_path):
    class Breaking(ContrastiveDivergence):
        def forward(self, energy, batch, *, start=None, generator=None):
            loss = super().forward(energy, batch, start=start, generator=generator)
            Breaking.calls += 1
            factor = float("nan") if Breaking.calls == 5 else 1.0
            return Loss(loss.value * factor, {**loss.terms, "broken": loss.value.detach() * factor})

    Breaking.calls = 0
    with pytest.raises(FloatingPointError, match=r"training step 5: loss, broken, gradient norm is not finite.*step-000000004"):
        quick(tmp_path / "x", objective=Breaking(langevin()), steps=9, checkpoint_every=2)
    assert checkpoints.steps(tmp_path / "x" / "checkpoints") == [2, 4]
    before = (tmp_path / "x" / "metrics.csv").read_text()
    assert "nan" not in before
    quick(tmp_path / "x", objective=Breaking(langevin()), steps=9, checkpoint_every=2)  # mended, it goes on
    assert read_history(tmp_path / "x")["train", "loss"][0] == list(range(1, 10))


def test_a_run_that_diverged_leaves_a_report_and_its_own_error(tmp_path, monkeypatch):
    class Broken(ContrastiveDivergence):
        def forward(self, energy, batch, *, start=None, generator=None):
            loss = super().forward(energy, batch, start=start, generator=generator)
            return Loss(loss.value / 0, loss.terms)

    with pytest.raises(FloatingPointError, match="training step 1"):
        quick(tmp_path / "x", objective=Broken(langevin()))
    assert "training step 1" in (tmp_path / "x" / "report.html").read_text()
    assert not (tmp_path / "x" / "metrics.json").exists()

    def full(*args, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ebm.training.finish.write_report", full)
    with pytest.raises(FloatingPointError, match="training step 1"):
        quick(tmp_path / "y", objective=Broken(langevin()))


class Killed(Still):
    """Data whose loader's processes are killed."""

    def loader(self, split, batch_size, *, seed=0, workers=0):
        found = super().loader(split, batch_size, seed=seed, workers=workers)
        if split == "train" and workers:
            found.dataset.__class__ = Killing
        return found


class Killing(RowsOf):
    def __getitems__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line(tmp_path):
    with pytest.raises(
        ChildProcessError, match=r"a process that loads data was killed.*fewer workers.*out=.*starts anew"
    ) as found:
        quick(tmp_path / "x", task=Killed(), workers=1)
    assert "\n" not in str(found.value)


def test_a_lost_rank_is_one_line_and_other_errors_stay_as_they_are(tmp_path):
    told = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"
    with pytest.raises(ChildProcessError, match="another process of this training"), lost_processes_are_named(tmp_path, 2):
        raise RuntimeError(told)
    for error, processes in ((told, 1), ("mat1 and mat2 shapes cannot be multiplied", 2)):
        with pytest.raises(RuntimeError, match=re.escape(error)), lost_processes_are_named(tmp_path, processes):
            raise RuntimeError(error)


def test_the_history_is_not_read_at_every_checkpoint(tmp_path, monkeypatch):
    def read(path):
        raise AssertionError("metrics.csv was read")

    with monkeypatch.context() as patch:
        patch.setattr("ebm.runs.history.read_csv", read)
        run = quick(tmp_path / "x", steps=14, checkpoint_every=1, evaluate_every=4)
    with pytest.raises(Interrupted):
        quick(tmp_path / "y", steps=14, objective=stopping(9), checkpoint_every=4, evaluate_every=4)
    calls, usual = [], History.__init__
    monkeypatch.setattr(History, "__init__", lambda self, *args: (usual(self, *args), calls.append(self))[0])
    quick(tmp_path / "y", steps=14, checkpoint_every=4, evaluate_every=4)
    assert calls[0].curves == read_history(tmp_path / "y") == read_history(run.path)


@pytest.mark.parametrize("content", ["step,split\n1,train\n", "step,split,name,value\n1,train,loss\n", "\xff"])
def test_damaged_tables_are_named(tmp_path, content):
    for name, read in (("metrics.csv", read_history), ("thinking.csv", read_findings), ("probe.csv", read_probe)):
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            read(tmp_path)
    for content in ("\0", "step,split,nam", "step,split,name,valve\n"):
        (tmp_path / "metrics.csv").write_text(content)
        with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
            read_history(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,split,name,value\n1,train,loss,0.5\n2,train,loss,o.5\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged: row 2"):
        read_history(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "rollbacks.json"])
def test_damaged_json_is_named(tmp_path, name):
    quick(tmp_path / "x", sampler=langevin())
    (tmp_path / "x" / name).write_text('{"loss": 0.')
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is damaged"):
        ebm.load(tmp_path / "x", energy=mlp(), sampler=langevin()) if name == "metrics.json" else rollbacks(tmp_path / "x")


def test_a_full_disk_while_saving_loses_nothing(tmp_path, monkeypatch):
    save, calls = checkpoints.save_file, []

    def full(*args):
        calls.append(args)
        if len(calls) > 2:  # the second checkpoint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            quick(tmp_path / "x", steps=6, checkpoint_every=2)
    folder = tmp_path / "x" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-000000002"]
    run = quick(tmp_path / "x", steps=6, checkpoint_every=2)
    quick(tmp_path / "y", steps=6, checkpoint_every=2)
    assert contents(run.path / "checkpoints") == contents(tmp_path / "y" / "checkpoints")
    assert (run.path / "metrics.csv").read_bytes() == (tmp_path / "y" / "metrics.csv").read_bytes()


@pytest.mark.parametrize(
    "where", ["ebm.runs.history.History.add", "ebm.training.finish.write_report", "ebm.training.finish.write_text"]
)
def test_a_full_disk_elsewhere_loses_nothing(tmp_path, monkeypatch, where):
    with monkeypatch.context() as patch, pytest.raises((OSError, ValueError), match="No space left"):

        def full(*args, **keywords):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(where, full)
        quick(tmp_path / "x")
    run = quick(tmp_path / "x")
    assert read_history(run.path)["train", "loss"][0] == [1, 2, 3, 4]


def flip(file, at=-3, bit=2):
    """Flips a bit of a file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(bytes(content))


def without_digest(file):
    """Makes a checkpoint's part what older versions wrote."""
    file = file.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text())["holds"]))


def with_weights(file, value):
    """Changes the saved weights, and leaves no digest that could tell."""
    held = checkpoints.read(file.parent, "shared")
    checkpoints.write(file.parent, "shared", {**held, "energy": {k: value(v) for k, v in held["energy"].items()}})
    without_digest(file)


DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "foreign": lambda file: file.write_bytes(b"PK\x03\x04" * 99),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "bit": flip,
    "bit of json": lambda file: file.with_suffix(".json").write_text(
        file.with_suffix(".json").read_text().replace("place", "plack")
    ),
    "bit of a rank": lambda file: flip(file.with_name("rank0.safetensors")),
    "not finite": lambda file: with_weights(file, lambda v: v.index_fill(0, torch.tensor([0]), math.nan)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_falls_back_to_the_whole_one_and_says_so(tmp_path, damage):
    with pytest.raises(Interrupted):
        quick(tmp_path / "x", steps=6, objective=stopping(6), checkpoint_every=2)
    folder = tmp_path / "x" / "checkpoints"
    assert checkpoints.steps(folder) == [2, 4]
    older = checkpoints.read(folder / "step-000000002", "shared")["energy"]
    DAMAGES[damage](folder / "step-000000004" / "shared.safetensors")
    before = contents(tmp_path / "x")
    said = r"step-000000004/(shared|rank0)\.(json|safetensors) .*step-000000002, is whole, and is used instead"
    with pytest.warns(UserWarning, match=said):
        run = ebm.load(tmp_path / "x", energy=mlp(), sampler=langevin())
    assert all(torch.equal(value, older[name]) for name, value in run.energy.state_dict().items())
    assert contents(tmp_path / "x") == before  # reading mends nothing
    with pytest.warns(UserWarning, match=said):
        quick(tmp_path / "x", steps=6, checkpoint_every=2)
    quick(tmp_path / "y", steps=6, checkpoint_every=2)
    found = contents(folder)
    assert {p.parts[0] for p in found} == {"step-000000004", "step-000000006", "damaged-step-000000004"}
    expected = contents(tmp_path / "y" / "checkpoints")
    assert {p: content for p, content in found.items() if not p.parts[0].startswith("damaged")} == expected
    assert (tmp_path / "x" / "metrics.csv").read_bytes() == (tmp_path / "y" / "metrics.csv").read_bytes()
    quick(tmp_path / "x", steps=2, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["step-000000002"]


@pytest.mark.parametrize("damage", ["bit", "not finite", "missing"])
def test_where_no_checkpoint_is_whole_the_newest_is_named_and_nothing_is_lost(tmp_path, damage):
    with pytest.raises(Interrupted):
        quick(tmp_path / "x", steps=6, objective=stopping(6), checkpoint_every=2)
    for step in (2, 4):
        DAMAGES[damage](checkpoints.at(tmp_path / "x" / "checkpoints", step) / "shared.safetensors")
    before = contents(tmp_path / "x")
    for read in (lambda: quick(tmp_path / "x", steps=6, checkpoint_every=2), lambda: ebm.load(tmp_path / "x", energy=mlp())):
        with pytest.raises(CheckpointError, match=r"step-000000004/shared\.safetensors"):
            read()
    assert contents(tmp_path / "x") == before


def test_weights_of_other_shapes_or_dtypes_are_named(tmp_path):
    run = quick(tmp_path / "x", sampler=langevin())
    file = checkpoints.latest(run.path / "checkpoints") / "shared.safetensors"
    whole = contents(run.path)
    for change, said in (
        (lambda v: torch.zeros(3), "does not fit"),
        (lambda v: v.double(), r"shared\.safetensors holds energy\.\S+ as torch\.float64, and here it is torch\.float32"),
        (lambda v: v.half(), r"as torch\.float16"),
        (lambda v: v.to(torch.int32), r"as torch\.int32"),
    ):
        with_weights(file, change)
        energy = mlp()
        with pytest.raises(CheckpointError, match=said):
            ebm.load(run.path, energy=energy, sampler=langevin())
        if said != "does not fit":
            assert all(torch.equal(a, b) for a, b in zip(energy.parameters(), mlp().parameters(), strict=True))
    for path, content in whole.items():
        (run.path / path).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"energy\.to\(torch\.float32\)"):
        ebm.load(run.path, energy=mlp(torch.float64), sampler=langevin())


def test_a_run_without_digests_loads(tmp_path):
    run = quick(tmp_path / "x", sampler=langevin())
    for name in ("shared", "rank0"):
        without_digest(checkpoints.latest(run.path / "checkpoints") / f"{name}.safetensors")
    again = ebm.load(run.path, energy=mlp(), sampler=langevin())
    assert all(torch.equal(a, b) for a, b in zip(again.energy.parameters(), run.energy.parameters(), strict=True))


class Masked(MLPEnergy):
    """An energy with a mask that is infinite, as of attention."""

    def __init__(self):
        super().__init__(2, hidden=(8,))
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))


def test_a_buffer_may_be_infinite(tmp_path):
    run = quick(tmp_path / "x", energy=Masked(), sampler=langevin())
    assert ebm.load(run.path, energy=Masked(), sampler=langevin()).energy.mask.tolist() == [0.0, -math.inf]


def test_a_history_that_was_cut_or_lost_is_an_error_not_a_file_of_zeros(tmp_path):
    with pytest.raises(Interrupted):
        quick(tmp_path / "x", objective=stopping(4), checkpoint_every=2)
    whole = (tmp_path / "x" / "metrics.csv").read_bytes()
    for content in (whole[:10], None):
        (tmp_path / "x" / "metrics.csv").unlink()
        if content is not None:
            (tmp_path / "x" / "metrics.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"metrics\.csv"):
            quick(tmp_path / "x", checkpoint_every=2)


def test_an_objective_that_breaks_the_contract_is_told_so(tmp_path):
    class Wrong(Objective):
        def forward(self, energy, batch, *, start=None, generator=None):
            return energy(batch.target)  # one per chain, and no Loss

    with pytest.raises(ValueError, match="Loss"):
        quick(tmp_path / "x", objective=Wrong(), sampler=langevin())


def test_an_empty_training_split_is_a_value_error(tmp_path):
    task = points()
    task.splits["train"] = Batch(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="empty"):
        quick(tmp_path / "x", task=task)


def test_a_third_partys_task_and_an_analytic_energy_train(tmp_path):
    run = quick(tmp_path / "x", task=Bare(), objective=cd())
    assert set(run.metrics) == {"energy", "draw"}
    with pytest.raises(ValueError, match="nothing to train"):
        quick(tmp_path / "y", energy=Gaussian(torch.zeros(2), torch.ones(2)))


# ----------------------------------------------------------------------------------------------------------------- pieces


def test_a_history_continues_where_it_was_to_the_byte(tmp_path):
    one = History(tmp_path)
    one.add(1, "train", {"a": 0.1, "b": float(np.float32(0.1))})
    size = one.size()
    one.add(2, "train", {"a": 5.0})
    one.close()
    whole = (tmp_path / "metrics.csv").read_bytes()
    assert size < len(whole)
    two = History(tmp_path, size, 1)
    assert two.size() == size
    two.add(2, "train", {"a": 5.0})
    two.close()
    assert (tmp_path / "metrics.csv").read_bytes() == whole
    assert read_history(tmp_path)["train", "b"] == ([1], [float(np.float32(0.1))])  # to the last bit


def test_the_trainee_is_one_module():
    energy, objective = mlp(), Reconstruction(GradientDescent(0.1, learnable=True), points())
    assert len(list(Trainee(energy, objective).parameters())) == len(parameters(energy, objective))
    assert len(list(Trainee(lambda y: y.sum(-1), objective).parameters())) == 1


@pytest.mark.parametrize("seed", [1.5, 2.0, "1", None, True, float("nan")])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="a seed is a whole number"):
        subseed(seed, "a")
    assert subseed(np.int64(3), "a") == subseed(3, "a") == subseed(torch.tensor(3), "a")


def test_streams_differ_by_purpose_rank_and_seed():
    names = [(0, "train", 0), (0, "train", 1), (1, "train", 0), (0, "evaluate", 0), (0, "train", "0/0"), (0, "trai", "n/0")]
    assert len({subseed(*name) for name in names}) == len(names)


def test_a_plugins_recipe_trains(tmp_path):
    write_distribution(tmp_path, "fake", entry="tests.fake_plugins")
    with installed(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = tiny_recipe(task={"use": "still"}, energy={"use": "quadric"})
        run = train_recipe(recipe, tmp_path / "run", {"energy.curvature": "3"})
        assert run.energy.curvature.item() != 3
        assert ebm.load(tmp_path / "run").energy.curvature.item() == run.energy.curvature.item()


# ------------------------------------------------------------------------------------------------------- data of one's own


@pytest.mark.parametrize("name", ["array", "tensor", "dataset", "splits"])
def test_data_of_ones_own_train_as_the_task_that_they_are(tmp_path, name):
    rows = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    splits = {split: part.target for split, part in Rows(rows).splits.items()}
    data = {"array": rows.numpy(), "tensor": rows, "dataset": TensorDataset(rows), "splits": splits}[name]
    one, two = quick(tmp_path / "x", task=data), quick(tmp_path / "y", task=Rows(rows))
    assert all(torch.equal(a, b) for a, b in zip(parameters(one.energy), parameters(two.energy), strict=True))
    assert one.metrics == two.metrics
    again = ebm.load(tmp_path / "x", energy=mlp(seed=3), objective=cd(), sampler=cd().sampler, task=data)
    assert again.evaluate(seed=0) == one.evaluate(seed=0)


def test_a_conditional_energy_sees_the_contexts_of_ones_own_rows(tmp_path):
    seen = []

    class Watching(DenoisingScoreMatching):
        def forward(self, energy, batch, *, start=None, generator=None):
            seen.append(batch)
            return super().forward(energy, batch, start=start, generator=generator)

    rows = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    quick(tmp_path / "x", ConditionalMLP(dim=2, context_dim=2), Watching(0.1), (rows, 2 * rows), sampler=langevin())
    assert seen
    assert all(torch.equal(batch.context, 2 * batch.target) for batch in seen)


@pytest.mark.parametrize("splits", [{"test"}, {"validation"}, {"test", "validation"}])
def test_a_split_that_is_needed_and_absent_is_refused_at_the_start(tmp_path, splits):
    rows = torch.randn(30, 2)
    data = {"train": rows, **{split: rows for split in {"test", "validation"} - splits}}
    with pytest.raises(ValueError, match="unknown split"):
        quick(tmp_path / "x", task=data, evaluate_every=2)
    assert not (tmp_path / "x").exists()
    if "test" not in splits:
        quick(tmp_path / "x", task=data)  # which needs no validation split


def test_a_split_that_is_too_small_for_its_metric_is_refused_at_the_start(tmp_path):
    for keywords in ({"task": points(10)}, {"evaluate_limit": 1}):
        with pytest.raises(ValueError, match="MMD needs halves of at least two rows"):
            quick(tmp_path / "x", **keywords)
    assert not (tmp_path / "x").exists()


def test_a_stopped_run_does_not_go_on_with_other_data(tmp_path):
    rows = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Interrupted):
        quick(tmp_path / "x", task=rows, objective=stopping(4), checkpoint_every=2)
    with pytest.raises(ValueError, match="unfinished run with another data"):
        quick(tmp_path / "x", task=rows + 1, checkpoint_every=2)
    quick(tmp_path / "x", task=rows.numpy(), checkpoint_every=2)


@pytest.mark.parametrize("name", ["cd", "dsm"])
def test_nan_in_data_is_called_nan_in_data(tmp_path, name):
    objective = {"cd": cd, "dsm": lambda: DenoisingScoreMatching(0.1)}[name]()
    with pytest.raises(FloatingPointError, match=r"the batch's target is NaN in 1 of 8 rows") as caught:
        quick(tmp_path / "x", mlp(), objective, Poisoned(float("nan")), sampler=langevin(), steps=20)
    if name == "dsm":
        assert "lower lr" not in str(caught.value)
