"""Laws of one's own training: any optimiser and scheduler, a batch in pieces, callbacks and loggers, each resumed exactly."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from lightning_fabric.plugins import MixedPrecision
from torch import nn

import ebm
from ebm import recipes
from ebm.energies import ImageEBT
from ebm.interfaces import Batch, Loss
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching, Reconstruction
from ebm.offers.training import OPTIMIZERS as NAMED
from ebm.offers.training import SCHEDULERS
from ebm.randomness import stream, subseed
from ebm.registry import components
from ebm.runs import checkpoints
from ebm.runs.history import read_history
from ebm.samplers import GradientDescent
from ebm.tasks import Points, Rows
from ebm.training import EarlyStopping, fit
from ebm.training.accumulation import pieces, whole
from ebm.training.optimizers import Together
from tests.fake_plugins import (
    Interrupted,
    Still,
    assert_same,
    fail,
    interrupting,
    langevin,
    mlp,
    parameters,
    quick_report,
    written,
)
from tests.helpers import laws, normal

STEPS = 9
OPTIMIZERS = [*map(str.lower, NAMED), "muon"]
# The keywords that a scheduler cannot do without, and such that it does something in nine steps.
KEYWORDS = {
    "constant": {"total_iters": 3},
    "cosine-annealing": {"T_max": STEPS},
    "cosine-warm-restarts": {"T_0": 4},
    "cyclic": {"base_lr": 1e-3, "max_lr": 1e-2, "step_size_up": 3, "cycle_momentum": False},
    "exponential": {"gamma": 0.9},
    "linear": {"total_iters": 5},
    "multi-step": {"milestones": [3, 7]},
    "one-cycle": {"max_lr": 1e-2, "total_steps": STEPS},
    "polynomial": {"total_iters": STEPS, "power": 2.0},
    "step": {"step_size": 3},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    monkeypatch.chdir(tmp_path)


def points():
    return Points("moons", n=60)  # 42 rows are for training: five batches of 8 an epoch


def still(**keywords):
    """An objective that draws nothing, with a learnable step size."""
    task = Still(60, **keywords)
    return Reconstruction(GradientDescent(0.1, steps=2, learnable=True), task), task


def train(out, energy=None, objective=None, task=None, wrap=lambda objective: objective, **keywords):
    usual = {"steps": STEPS, "batch_size": 8, "log_every": 1, "checkpoint_every": 4, "sampler": langevin()}
    objective = ContrastiveDivergence(langevin()) if objective is None else objective
    return fit(energy or mlp(), wrap(objective), task or points(), out=out, **{**usual, **keywords})


def plain_loop(energy, objective, task, optimizer, scheduler=None):
    """What `fit` does, as one would write it: `optimizer` and `scheduler` are functions."""
    made = optimizer(energy, objective)
    pace = scheduler(made) if scheduler is not None else None
    generator, step, epoch = stream(0, "train", 0), 0, 0
    while step < STEPS:
        for batch in task.loader("train", 8, seed=subseed(0, "data", epoch)):
            if step == STEPS:
                break
            objective(energy, batch, generator=generator).value.backward()
            made.step()
            made.zero_grad()
            if pace is not None:
                pace.step()
            step += 1
        epoch += 1
    return parameters(energy, objective)


def stopped_and_gone_on_with(out, make, at=6):
    """Stops a run between its checkpoints, and goes on with parts made anew."""
    with pytest.raises(Interrupted):
        train(out, **make(), wrap=interrupting(at, fail))
    return train(out, **make())


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# ------------------------------------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("name", NAMED)
def test_a_named_optimiser_is_torchs_in_the_plain_loop(tmp_path, name):
    energy, (objective, task) = mlp(), still()
    train(tmp_path / "x", energy, objective, task, optimizer=name.lower(), lr=1e-2)
    other, (aim, _) = mlp(), still()

    def made(energy, objective):
        how = {} if name == "Rprop" else {"weight_decay": 0.0}
        return getattr(torch.optim, name)([*energy.parameters(), *objective.parameters()], lr=1e-2, **how)

    assert same(plain_loop(other, aim, task, made), parameters(energy, objective))
    assert not same(parameters(mlp()), parameters(energy))


def test_muon_steps_matrices_and_adamw_the_rest(tmp_path):
    energy, (objective, task) = mlp(), still()
    train(tmp_path / "x", energy, objective, task, optimizer="muon", lr=1e-2, weight_decay=0.1, betas=(0.8, 0.9))
    other, (aim, _) = mlp(), still()

    def made(energy, objective):
        held = [*energy.parameters()]
        how = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
        matrices = torch.optim.Muon([p for p in held if p.ndim == 2], **how)
        decayed = {"params": [p for p in held if p.ndim != 2], "weight_decay": 0.1}
        rest = torch.optim.AdamW([decayed, {"params": [*objective.parameters()], "weight_decay": 0.0}], lr=1e-2, betas=(0.8, 0.9))
        return Together([matrices, rest])

    assert same(plain_loop(other, aim, task, made), parameters(energy, objective))


def test_together_steps_as_each_alone():
    def weights():
        return [torch.nn.Parameter(normal(3, 2)), torch.nn.Parameter(normal(2))]

    def optimizers(held):
        return [torch.optim.SGD([held[0]], lr=0.1, momentum=0.9), torch.optim.Adam([held[1]], lr=0.01)]

    one, two = weights(), weights()
    apart, together = optimizers(one), Together(optimizers(two))
    for step in range(4):
        for held in (one, two):
            for p in held:
                p.grad = torch.full_like(p, 1.0 + step) * p.detach()
        for each in apart:
            each.step()
        together.step()
        if step == 1:  # a state of its own, loaded into another
            again = Together(optimizers(two))
            again.load_state_dict(together.state_dict())
            together = again
        together.param_groups[0]["lr"] = apart[0].param_groups[0]["lr"] = 0.05
    assert same(one, two)
    together.zero_grad()
    assert all(p.grad is None for p in two)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_with_any_named_optimiser_goes_on_exactly(tmp_path, name):
    def make():
        return {"optimizer": name, "ema": 0.5}

    whole = train(tmp_path / "whole", **make())
    assert_same(written(stopped_and_gone_on_with(tmp_path / "x", make).path, STEPS), written(whole.path, STEPS))


def test_functions_and_objects_are_optimisers(tmp_path):
    found = []
    for kind in range(3):
        energy = mlp()
        optimizer = {
            0: ebm.build("optimizer", "sgd", momentum=0.9),
            1: partial(torch.optim.SGD, lr=0.05, momentum=0.9),
            2: torch.optim.SGD(energy.parameters(), lr=0.05, momentum=0.9),
        }[kind]
        train(tmp_path / str(kind), energy, optimizer=optimizer, **({"lr": 0.05} if kind == 0 else {}))
        found.append(parameters(energy))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_what_an_optimiser_was_not_given_stays(tmp_path):
    energy = mlp()
    first, *others = energy.parameters()
    before = parameters(energy)
    train(tmp_path / "x", energy, optimizer=torch.optim.SGD(others, lr=0.1))
    assert torch.equal(first, before[0])
    assert not torch.equal(others[0], before[1])


WRONG_OPTIMIZERS = {
    "unknown": (lambda energy: {"optimizer": "adamm"}, "no optimizer is named 'adamm': did you mean 'adam"),
    "number": (lambda energy: {"optimizer": 5}, "optimizer=5: pass a name, a function of parameters"),
    "no optimiser": (lambda energy: {"optimizer": lambda groups: None}, "returned NoneType: return a torch"),
    "another's": (
        lambda energy: {"optimizer": torch.optim.SGD(mlp().parameters())},
        "3 of the optimiser's 3 parameters are none",
    ),
    "two learning rates": (
        lambda energy: {"optimizer": torch.optim.SGD(energy.parameters(), lr=0.1), "lr": 0.5},
        r"lr=0\.5 beside an optimiser of one's own",
    ),
    "a function's numbers": (lambda energy: {"optimizer": torch.optim.SGD, "weight_decay": 0.5}, r"weight_decay=0\.5 beside"),
    "no betas": (lambda energy: {"optimizer": "sgd", "betas": (0.5, 0.9)}, "SGD has no betas"),
    "no decay": (lambda energy: {"optimizer": "rprop", "weight_decay": 0.5}, "Rprop has no weight_decay"),
    "closure": (lambda energy: {"optimizer": torch.optim.LBFGS(energy.parameters())}, "LBFGS evaluates the loss several times"),
    "no matrices": (lambda energy: {"optimizer": torch.optim.Muon}, "2D"),
    "scheduler unknown": (lambda energy: {"scheduler": "cosine"}, "no scheduler is named 'cosine'"),
    "scheduler number": (lambda energy: {"scheduler": 3}, "scheduler=3: pass a name"),
    "scheduler lacks": (lambda energy: {"scheduler": "step"}, "needs step_size"),
    "two schedules": (lambda energy: {"scheduler": lambda optimizer: None, "warmup": 5}, "warmup=5 beside a scheduler"),
    "plateau": (lambda energy: {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "without a metric"),
    "another's scheduler": (
        lambda energy: {"scheduler": torch.optim.lr_scheduler.ExponentialLR(torch.optim.SGD(energy.parameters()), 0.9)},
        "belongs to another optimiser",
    ),
    "blocks": (lambda energy: {"activation_checkpointing": True}, "MLPEnergy has no blocks that are computed again"),
    "pieces": (lambda energy: {"accumulate": 3}, "batch_size=8 does not divide into accumulate=3 pieces"),
    "callback": (lambda energy: {"callbacks": [5]}, "5 is no function of"),
    "never stops": (lambda energy: {"callbacks": [EarlyStopping("validation/mmd")]}, "no evaluation would ever measure it"),
    "callback's state": (
        lambda energy: {"callbacks": [Remembering({"at": object()})]},
        "must fit into a checkpoint, but callbacks/0/at is object",
    ),
    "logger": (lambda energy: {"loggers": [5]}, "int has no log_metrics"),
    "logger unknown": (lambda energy: {"loggers": ["wandbb"]}, "no logger is named 'wandbb': did you mean 'wandb'"),
    "logger there already": (lambda energy: {"loggers": ["csv"]}, "every run writes metrics.csv"),
}


class Remembering:
    def __init__(self, state):
        self.state = state

    def __call__(self, step, row, run):
        return None

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


@pytest.mark.parametrize("name", WRONG_OPTIMIZERS)
def test_what_cannot_train_is_refused_before_anything_is_written(tmp_path, name):
    make, message = WRONG_OPTIMIZERS[name]
    energy = mlp()
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "x", energy, **make(energy))
    assert not (tmp_path / "x").exists()


def test_an_older_torch_without_muon_is_told(monkeypatch, tmp_path):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match=r"pip install 'torch>=2\.9'"):
        train(tmp_path / "x", optimizer="muon")


def test_a_stopped_run_does_not_go_on_with_another_optimiser(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path / "x", optimizer=partial(torch.optim.SGD, momentum=0.9), wrap=interrupting(6, fail))
    for other in (partial(torch.optim.SGD, momentum=0.8), partial(torch.optim.SGD, lr=0.5, momentum=0.9), torch.optim.Adagrad):
        with pytest.raises(ValueError, match=r"unfinished run with another parts\.optimizer"):
            train(tmp_path / "x", optimizer=other)
    train(tmp_path / "x", optimizer=partial(torch.optim.SGD, momentum=0.9))


# ------------------------------------------------------------------------------------------------------------- schedulers


def test_every_scheduler_has_an_example():
    assert sorted(KEYWORDS) == sorted(SCHEDULERS) == sorted(components("scheduler"))
    assert sorted(OPTIMIZERS) == sorted(components("optimizer"))


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_named_scheduler_is_torchs_in_the_plain_loop(tmp_path, name):
    energy, (objective, task) = mlp(), still()
    scheduler = ebm.build("scheduler", name, **KEYWORDS[name])
    run = train(tmp_path / "x", energy, objective, task, scheduler=scheduler, lr=1e-2)
    other, (aim, _) = mlp(), still()

    def made(energy, objective):
        return torch.optim.AdamW([*energy.parameters(), *objective.parameters()], lr=1e-2, weight_decay=0.0)

    rates = []

    def pace(optimizer):
        own = getattr(torch.optim.lr_scheduler, SCHEDULERS[name])(optimizer, **KEYWORDS[name])
        usual = own.step

        def step():
            rates.append(usual_rate[0])
            usual()
            usual_rate[0] = optimizer.param_groups[0]["lr"]

        usual_rate = [optimizer.param_groups[0]["lr"]]
        own.step = step
        return own

    assert same(plain_loop(other, aim, task, made, pace), parameters(energy, objective))
    assert read_history(run.path)["train", "lr"][1] == rates
    assert len(set(rates)) > 1  # it does something


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_run_with_any_named_scheduler_goes_on_exactly(tmp_path, name):
    def make():
        return {"scheduler": ebm.build("scheduler", name, **KEYWORDS[name]), "lr": 1e-2}

    whole = train(tmp_path / "whole", **make())
    assert_same(written(stopped_and_gone_on_with(tmp_path / "x", make).path, STEPS), written(whole.path, STEPS))


@pytest.mark.parametrize("kind", ["step", "sequential"])
def test_the_same_call_with_the_same_scheduler_goes_on_exactly(tmp_path, kind):
    def made():
        energy = mlp()
        optimizer = torch.optim.SGD(energy.parameters(), lr=1e-2)
        pace = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        if kind == "sequential":
            late = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            pace = torch.optim.lr_scheduler.SequentialLR(optimizer, [pace, late], [3])
        return {"energy": energy, "optimizer": optimizer, "scheduler": pace}

    whole = train(tmp_path / "whole", **made())
    again = made()
    with pytest.raises(Interrupted):
        train(tmp_path / "x", **again, wrap=interrupting(6, fail))
    assert_same(written(train(tmp_path / "x", **again).path, STEPS), written(whole.path, STEPS))


def test_a_scheduler_of_muon_reaches_both_optimisers_also_when_resumed(tmp_path):
    def make():
        return {"optimizer": "muon", "scheduler": ebm.build("scheduler", "exponential", gamma=0.5), "lr": 1e-2}

    run = stopped_and_gone_on_with(tmp_path / "x", make)
    state = checkpoints.read(checkpoints.latest(run.path / "checkpoints"), "shared")["optimizer"]["optimizers"]
    assert [group["lr"] for one in state for group in one["param_groups"]] == pytest.approx([1e-2 * 0.5**STEPS] * 2)


def test_recipes_name_optimiser_scheduler_and_callbacks_with_their_keywords(tmp_path):
    recipe = {
        "task": {"use": "points", "n": 60},
        "energy": {"use": "mlp", "hidden": [8]},
        "objective": {"use": "contrastive-divergence", "sampler": {"use": "langevin", "step_size": 0.1, "steps": 2}},
        "fit": {
            **{"steps": 6, "batch_size": 8, "log_every": 1, "lr": 0.05, "evaluate_every": 2},
            "optimizer": {"use": "sgd", "momentum": 0.9},
            "scheduler": {"use": "step", "step_size": 2, "gamma": 0.5},
            "callbacks": [{"use": "early-stopping", "metric": "validation/mmd", "min_delta": 9.0, "patience": 1}],
        },
    }
    run = ebm.run(recipe, {"seed": 1}, out=tmp_path / "x")
    assert read_history(run.path)["train", "lr"] == ([1, 2, 3, 4], [0.05, 0.05, 0.025, 0.025])
    assert run.recipe["fit"]["optimizer"]["momentum"] == 0.9
    assert run.recipe["fit"]["optimizer"]["nesterov"] is False  # defaults are written out
    again = ebm.run(tmp_path / "x" / "recipe.toml", out=tmp_path / "y")
    assert (tmp_path / "y" / "metrics.csv").read_bytes() == (tmp_path / "x" / "metrics.csv").read_bytes()
    assert again.metrics == ebm.load(tmp_path / "x").metrics
    named = recipes.resolve(
        recipe, {"fit.optimizer": "rmsprop", "fit.scheduler.use": "exponential", "fit.scheduler.gamma": "0.9"}
    )
    assert named["fit"]["optimizer"] == {"use": "rmsprop"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit.optimizer.use": "sdg"}, "no optimizer is named 'sdg': did you mean 'sgd'"),
        ({"fit.optimizer.use": "sgd", "fit.optimizer.momentun": "0.9"}, "did you mean 'momentum'"),
        ({"fit.optimizer.use": "sgd", "fit.optimizer.momentum": "much"}, "fit.optimizer.momentum = 'much'"),
        ({"fit.optimizer.use": "sgd", "fit.optimizer.lr": "0.1"}, "has no keyword 'lr'"),
        ({"fit.scheduler.use": "sgd"}, "no scheduler is named 'sgd'"),
    ],
)
def test_a_recipe_with_a_wrong_optimiser_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        recipes.resolve(recipes.load("density"), settings)


# --------------------------------------------------------------------------------------------------- a batch in pieces


@laws
@given(st.integers(1, 20), st.integers(1, 8), st.booleans(), st.integers(0, 99))
def test_pieces_are_the_batch_and_their_shares_its_mean(rows, count, weighted, seed):
    weight = normal(rows, seed=seed).relu() if weighted else None
    batch = Batch(normal(rows, 2, seed=seed), {"c": torch.arange(rows)}, weight)
    found = pieces(batch, count)
    assert len(found) <= count
    assert torch.equal(torch.cat([part.target for part, _ in found]), batch.target)
    assert torch.equal(torch.cat([part.context["c"] for part, _ in found]), batch.context["c"])
    values = batch.target.square().sum(-1)
    mean = sum(share * part.mean(part.target.square().sum(-1)) for part, share in found)
    torch.testing.assert_close(torch.as_tensor(mean), batch.mean(values))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole_batch(tmp_path, weighted):
    """Weights make the pieces count differently. In float64, with SGD, so that weights show gradients as they are."""

    def run(out, **keywords):
        energy, (objective, task) = mlp(torch.float64), still(weighted=weighted)
        task.splits = {name: Batch(rows.target.double(), None, rows.weight) for name, rows in task.splits.items()}
        objective.double()
        how = {"optimizer": partial(torch.optim.SGD, lr=0.1), "task": task, **keywords}
        run = train(tmp_path / out, energy, objective, **how)
        return parameters(energy, objective), read_history(run.path)

    one, history = run("one")
    for count in (2, 4, 8):
        cut, logged = run(str(count), accumulate=count)
        for a, b in zip(one, cut, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
        for name in ("loss", "last_step", "gradient_norm"):
            assert logged["train", name][1] == pytest.approx(history["train", name][1], rel=1e-5)
    assert not same(one, parameters(mlp(torch.float64), still()[0]))


def test_pieces_are_smaller_and_a_run_of_them_goes_on_exactly(tmp_path):
    sizes = []

    class Watching(DenoisingScoreMatching):
        def forward(self, energy, batch, *, start=None, generator=None):
            sizes.append(len(batch.target))
            return super().forward(energy, batch, start=start, generator=generator)

    def make():
        return {"objective": Watching(0.3), "accumulate": 2, "clip_norm": 0.1}

    whole = train(tmp_path / "whole", **make())
    assert set(sizes) == {4}
    assert len(sizes) == 2 * STEPS
    found = stopped_and_gone_on_with(tmp_path / "x", make, at=11)  # in the middle of step 6
    assert_same(written(found.path, STEPS), written(whole.path, STEPS))


@pytest.mark.parametrize("count", [1, 2])
def test_blocks_that_are_computed_again_train_the_same(tmp_path, count):
    """A block is computed once more for each derivative that is taken of it."""
    counts = []

    def run(out, **keywords):
        torch.manual_seed(0)
        energy, calls = ImageEBT(8, 4, 1, dim=8, depth=1, heads=2).double(), []
        nn.init.normal_(energy.head.weight)
        energy.mlps[0].register_forward_hook(lambda *_: calls.append(1))
        task = Rows(normal(40, 1, 8, 8))
        objective = Reconstruction(GradientDescent(1.0, steps=2), task)
        how = {"optimizer": partial(torch.optim.SGD, lr=0.1), "accumulate": count, **keywords}
        run = train(tmp_path / out, energy, objective, task, sampler=langevin(1), **how)
        counts.append(len(calls))
        assert not energy.recomputes
        return parameters(energy), read_history(run.path)

    (one, history), (two, logged) = run("kept"), run("again", activation_checkpointing=True)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert logged["train", "loss"][1] == pytest.approx(history["train", "loss"][1], rel=1e-9)
    assert counts[1] - counts[0] >= 2 * 2 * STEPS * count  # of two steps two derivatives


def test_a_whole_program_has_no_blocks_to_compute_again(tmp_path):
    energy = ImageEBT(8, 4, 1, dim=8, depth=1, heads=2)
    with pytest.raises(ValueError, match="activation_checkpointing=True\\) and compile=True: ImageEBT compiles as a whole"):
        train(tmp_path / "x", energy, activation_checkpointing=True, compile=True)
    assert not (tmp_path / "x").exists()


def test_terms_that_not_all_pieces_have_are_left_out():
    from ebm.interfaces import Loss

    one, two = (
        Loss(torch.tensor(1.0), {"a": torch.tensor(2.0), "b": torch.tensor(0.0)}),
        Loss(torch.tensor(3.0), {"a": torch.tensor(4.0)}),
    )
    found = whole([one, two], [0.25, 0.75])
    assert (found.value, found.terms) == (2.5, {"a": 3.5})


# ------------------------------------------------------------------------------------------- callbacks and early stopping


def test_callbacks_see_every_logged_row_and_the_run(tmp_path):
    seen = []
    run = train(
        tmp_path / "x", callbacks=[lambda step, row, run: seen.append((step, dict(row), run))], log_every=2, evaluate_every=3
    )
    history = read_history(run.path)
    assert [step for step, _, _ in seen] == [1, 2, 3, 4, 6, 8, 9]  # the last step is evaluated on the test split instead
    for step, row, handed in seen:
        assert handed is run
        for name, value in row.items():
            split, _, short = name.rpartition("/")
            steps, values = history[split or "train", short]
            assert values[steps.index(step)] == value
    assert {"validation/mmd"} <= seen[2][1].keys()
    assert "loss" not in seen[2][1]  # nothing but the evaluation is logged at step 3


@pytest.mark.parametrize("answer", [True, np.True_, torch.tensor(True)])
def test_training_ends_where_a_callback_returns_true_and_all_are_called(tmp_path, answer):
    seen = []
    callbacks = [lambda step, row, run: answer if step == 5 else None, lambda step, row, run: seen.append(step)]
    run = train(tmp_path / "x", callbacks=callbacks)
    assert seen == [1, 2, 3, 4, 5]
    assert checkpoints.steps(run.path / "checkpoints") == [4, 5]
    assert read_history(run.path)["test", "mmd"] == ([5], [run.metrics["mmd"]])
    five = train(tmp_path / "y", steps=5)
    assert same(parameters(run.energy), parameters(five.energy))


def test_what_is_not_true_ends_nothing(tmp_path):
    run = train(tmp_path / "x", callbacks=[lambda step, row, run: row, lambda step, row, run: 1])
    assert checkpoints.steps(run.path / "checkpoints")[-1] == STEPS


@laws
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 5), st.floats(0, 1), st.sampled_from(["min", "max"]))
def test_early_stopping_ends_after_patience_values_without_improvement(values, patience, min_delta, mode):
    stop, sign = EarlyStopping("loss", patience, min_delta, mode), 1 if mode == "min" else -1
    expected, best, since = None, np.inf, 0
    for place, value in enumerate(values):
        best, since = (sign * value, 0) if sign * value < best - min_delta else (best, since + 1)
        if since == patience:
            expected = place
            break
    answers = []
    for step, value in enumerate(values):
        answers.append(stop(step, {"loss": value}, None))
        again = EarlyStopping("loss", patience, min_delta, mode)  # its state is all that it remembers
        again.load_state_dict(stop.state_dict())
        stop = again
        if answers[-1]:
            break
    assert (len(answers) - 1 if answers[-1] else None) == expected


def test_early_stopping_reads_its_own_split_and_names_what_is_not_there():
    stop = EarlyStopping("validation/mmd", patience=1)
    assert not stop(1, {"loss": 1.0, "mmd": 3.0}, None)
    assert stop.waited == 0
    with pytest.raises(ValueError, match="no such number is logged: did you mean 'validation/mmdd'"):
        stop(2, {"validation/mmdd": 1.0}, None)
    for never in ("test/mmd", "valid/mmd"):
        assert not EarlyStopping(never)(2, {"validation/mmd": 1.0}, None)
        with pytest.raises(ValueError, match="no such number is logged"):
            EarlyStopping(never)(1, {"loss": 1.0}, None)
    with pytest.raises(ValueError, match="Known: loss"):
        EarlyStopping("los")(1, {"loss": 1.0}, None)
    for wrong in ({"patience": 0}, {"patience": 1.5}, {"min_delta": -1}, {"mode": "least"}):
        with pytest.raises(ValueError, match=str(*wrong)):
            EarlyStopping("loss", **wrong)


@pytest.mark.parametrize("at", [2, 5, 6])
def test_a_run_that_stops_early_goes_on_exactly_also_from_its_end(tmp_path, monkeypatch, at):
    """It ends after step 6, at which the second evaluation brings no improvement of 9."""

    def make():
        stop = EarlyStopping("validation/mmd", patience=1, min_delta=9.0)
        return {"callbacks": [stop], "evaluate_every": 3, "checkpoint_every": 2}

    whole = train(tmp_path / "whole", **make())
    assert checkpoints.steps(whole.path / "checkpoints") == [4, 6]
    found = stopped_and_gone_on_with(tmp_path / "x", make, at=at)
    assert_same(written(found.path, 6), written(whole.path, 6))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):  # stopped after the last step, before its metrics
        patch.setattr("ebm.training.loop.finish", lambda *args: fail())
        train(tmp_path / "y", **make())
    assert_same(written(train(tmp_path / "y", **make()).path, 6), written(whole.path, 6))


def test_other_callbacks_than_were_saved_are_refused(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path / "x", callbacks=[EarlyStopping("loss", 99)], wrap=interrupting(6, fail))
    with pytest.raises(ValueError, match="1 callbacks were saved, and 0 are passed"):
        train(tmp_path / "x")


# ---------------------------------------------------------------------------------------------------------------- float16


@pytest.fixture
def in_float16(monkeypatch):
    """Trains in float16 on a CPU, where Fabric would take bfloat16; the scale doubles every third step."""

    def scaled(scale):
        def made(**_):
            scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
            return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))

        monkeypatch.setattr("ebm.training.loop.fabric_of", made)

    return scaled


class NoGradient(ContrastiveDivergence):
    """Has a finite loss, and a gradient that is not a number."""

    def __init__(self, sampler):
        super().__init__(sampler)
        self.shift = nn.Parameter(torch.zeros(()))
        self.shift.register_hook(lambda grad: grad * torch.nan)

    def forward(self, energy, batch, *, start=None, generator=None):
        loss = super().forward(energy, batch, start=start, generator=generator)
        return Loss(loss.value + self.shift, loss.terms)


def test_a_scaled_gradient_that_overflows_skips_a_step_and_ends_nothing(tmp_path, in_float16):
    in_float16(2.0**24)
    run = train(tmp_path / "x", steps=20, precision="16-mixed")
    history = read_history(run.path)
    assert set(history["train", "loss"][0]) - set(history["train", "gradient_norm"][0])
    changes = history["train", "relative_update"][1]
    assert min(changes) == 0 < max(changes)
    in_float16(4.0)
    with pytest.raises(FloatingPointError, match="training step 4: gradient norm is not finite"):  # the scale was 4, 2, 1, 0.5
        train(tmp_path / "y", objective=NoGradient(langevin()), precision="16-mixed")


def test_a_run_in_float16_goes_on_exactly_by_the_scale_it_had(tmp_path, in_float16):
    in_float16(2.0**16)
    whole = train(tmp_path / "whole", precision="16-mixed")
    found = stopped_and_gone_on_with(tmp_path / "x", lambda: {"precision": "16-mixed"})
    assert_same(written(found.path, STEPS), written(whole.path, STEPS))


# ---------------------------------------------------------------------------------------------------------------- loggers


class Fake:
    """A logger as Fabric has them, that keeps what it is told."""

    def __init__(self):
        self.told = []

    def log_hyperparams(self, params):
        self.told.append(("hyperparams", params))

    def log_metrics(self, metrics, step=None):
        self.told += [(step, name, value) for name, value in metrics.items()]

    def finalize(self, status):
        self.told.append(("finalize", status))


def logged(run):
    return sorted(
        (step, f"{split}/{name}", value)
        for (split, name), found in read_history(run.path).items()
        for step, value in zip(*found, strict=True)
    )


def test_loggers_are_told_what_the_table_holds_and_how_it_ended(tmp_path):
    logger = Fake()
    run = train(tmp_path / "x", loggers=[logger], evaluate_every=4)
    (_, params), *rows, end = logger.told
    assert sorted(rows) == logged(run)
    assert end == ("finalize", "success")
    assert params["run"] == "x"
    assert params["steps"] == STEPS
    logger = Fake()
    with pytest.raises(Interrupted):
        train(tmp_path / "y", loggers=[logger], wrap=interrupting(3, fail))
    assert logger.told[-1] == ("finalize", "failed")


def test_a_run_with_a_logger_goes_on_exactly(tmp_path):
    whole = train(tmp_path / "whole", loggers=[Fake()])
    found = stopped_and_gone_on_with(tmp_path / "x", lambda: {"loggers": [Fake()]})
    assert_same(written(found.path, STEPS), written(whole.path, STEPS))


def test_fabrics_own_loggers_are_loggers(tmp_path):
    run = train(tmp_path / "x", loggers=[CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")], evaluate_every=4)
    (table,) = (tmp_path / "csv").rglob("metrics.csv")
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    losses = [float(row[header.index("train/loss")]) for row in rows if row[header.index("train/loss")]]
    assert losses == read_history(run.path)["train", "loss"][1]
    assert list((tmp_path / "board").rglob("events*"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_are_called_as_their_functions_are_written(tmp_path, monkeypatch, name):
    """Neither need be installed: a module of the same functions stands for each."""
    told = []
    package = SimpleNamespace(
        init=lambda *, project, name, config, resume: told.append(("init", project, name, config["steps"], resume)),
        log=lambda metrics, *, step: told.append((step, metrics)),
        finish=lambda: told.append("finish"),
    )
    monkeypatch.setitem(sys.modules, name, package)
    run = train(tmp_path / "x", loggers=[name])
    assert told[0] == ("init", "ebm", "x", STEPS, "allow")
    assert told[-1] == "finish"
    assert sorted((step, key, value) for step, row in told[1:-1] for key, value in row.items()) == logged(run)
    told.clear()
    train(tmp_path / "y", loggers=[ebm.build("logger", name, project="mine", name="one")])
    assert told[0][1:3] == ("mine", "one")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        train(tmp_path / "z", loggers=[name])
    assert not (tmp_path / "z").exists()


# --------------------------------------------------------------------------------------------------------------- settings

WRONG = {
    "steps": [1e22, 10**22, 1.5, 3.0, None, "9", True, np.float64(3), [3]],
    "batch_size": [None, 8.0, True],
    "seed": [0.5, "0", None, 1.0, True, np.nan],
    "lr": [None, "0.1", True, 1 + 1j, [0.1]],
    "betas": [0.9, (0.9,), (0.9, 0.9, 0.9), (0.9, "x"), None],
    "accumulate": [0, 1.0],
    "activation_checkpointing": ["full", 1, None],
    "evaluate_limit": [0.5],
    "workers": [0.5],
    "ema": [None, "much"],
    "clip_norm": ["1"],
    "schedule": [None, 3],
    "precision": [32],
    "num_nodes": [0],
    "compile": ["yes", 1, None],
    "overwrite": ["False", 1, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_setting_of_the_wrong_kind_is_refused_at_the_start(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"^fit\({name}=.*\): {name} is "):
        train(tmp_path / "x", **{name: value})
    assert not (tmp_path / "x").exists()


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    own = {
        "steps": np.int64(9),
        "batch_size": np.int32(8),
        "lr": np.float64(0.01),
        "seed": np.uint8(3),
        "clip_norm": torch.tensor(0.5),
    }
    one = train(tmp_path / "x", **own, betas=np.array([0.5, 0.75]))
    two = train(tmp_path / "y", steps=9, batch_size=8, lr=0.01, seed=3, clip_norm=0.5, betas=(0.5, 0.75))
    assert_same(written(one.path, STEPS), written(two.path, STEPS))
