"""The doctor names what was planted, in histories and in trainings, and nothing in healthy ones."""

from __future__ import annotations

import math
import signal

import pytest
import torch

from ebm.energies import MLPEnergy
from ebm.interfaces import Loss
from ebm.objectives import ContrastiveDivergence, WeightedSum
from ebm.runs import checkpoints
from ebm.runs.doctor import Diverged, diagnose
from ebm.runs.history import read_history
from ebm.runs.rollback import MOST, roll_back, rollbacks
from ebm.samplers import MALA, LangevinDynamics, ReplayAugmented
from ebm.tasks import Points
from ebm.training import fit
from ebm.training.watch import relative_change
from tests.helpers import normal

# ------------------------------------------------------------------------------------------------------------- histories


def history(**terms):
    """A training history of functions of time, 0 … 1; "a__b" stands for the name a.b."""
    times = [i / 100 for i in range(1, 101)]
    return {
        ("train", name.removeprefix("_").replace("__", ".")): ([*range(1, 101)], [float(f(t)) for t in times])
        for name, f in terms.items()
    }


def wave(t):
    return math.sin(50 * t)


def gap(f):
    return {"energy_gap": f, "energy_samples": wave, "energy_data": wave, "loss": f}


def before(t, first, then):
    """`first` until time t, and then `then`."""
    return lambda now: first if now < t else then


HEALTHY = {
    "hovering": gap(wave) | {"displacement": lambda t: 0.8, "grad_norm": lambda t: 2.0, "gradient_norm": lambda t: 0.3},
    "images with a transient": gap(lambda t: -80 * math.exp(-((t - 0.2) ** 2) * 200) - 5),
    "tiny at first": gap(lambda t: -4 * t if t > 0.1 else 1e-6),
    "a spike at the end": gap(lambda t: -5e4 if t == 0.98 else wave(t)),
    "a drift of both energies": gap(wave) | {"energy_samples": lambda t: 1e6 * t, "energy_data": lambda t: 1e6 * t},
    "reconstruction": {"loss": lambda t: math.exp(-30 * t), "gradient_norm": lambda t: math.exp(-30 * t), "energy_gap": math.exp},
    "reconstruction with a steep energy": {"loss": lambda t: 1 - 0.9 * t, "energy_gap": lambda t: 1e6 * t},
    "learned before the first row": {"loss": lambda t: 1e-9, "gradient_norm": lambda t: 1e-9},
    "small steps": gap(wave) | {"displacement": lambda t: 0.01},
    "chains at rest in a valley": gap(lambda t: 2.0) | {"grad_norm": lambda t: 1e-7},
    "score matching": {"loss": lambda t: 1 - 0.1 * t, "grad_norm": lambda t: 3.0, "energy_data": lambda t: -1e5 * t},
    "a negative loss": {"loss": lambda t: -500 * t},
    "a black border": gap(wave) | {"clamped": lambda t: 0.9, "displacement": lambda t: 3.0, "frozen": lambda t: 0.0},
    "few proposals accepted": gap(wave) | {"acceptance": lambda t: 0.05, "displacement": lambda t: 0.3},
    "large steps at first": gap(wave) | {"relative_update": lambda t: 0.2 * math.exp(-9 * t)},
    "nothing logged": {},
}  # fmt: skip

DIVERGED = {
    "gap, exponentially": (gap(lambda t: -math.exp(20 * t)), "exploding energies", "the energy gap"),
    "gap, upwards": (gap(lambda t: math.exp(20 * t)), "exploding energies", "the energy gap"),
    "gap, from the first row": (gap(lambda t: -1e12 * (1 + t)), "exploding energies", "the energy gap"),
    "gap, by orders of magnitude": (gap(lambda t: -400 * t**4), "exploding energies", "the energy gap"),
    "gap, to and fro": (gap(lambda t: 1e5 * t * wave(t)), "exploding energies", "the energy gap"),
    "gap, infinite": (gap(lambda t: -math.inf if t > 0.9 else 0.0), "exploding energies", "the energy gap"),
    "gap, not a number": (gap(lambda t: math.nan if t > 0.9 else 0.0), "exploding energies", "the energy gap"),
    "gap of a part": (
        {"_1__energy_gap": lambda t: 1e9 * t, "_1__energy_samples": wave, "loss": wave}, "exploding energies", "the energy gap",
    ),
    "frozen": (gap(wave) | {"displacement": lambda t: 1e-5}, "stuck chains", "frozen"),
    "rejected": (gap(wave) | {"acceptance": before(0.5, 0.9, 0.0), "displacement": lambda t: 0.1}, "stuck chains", "accepted"),
    "most frozen": (gap(wave) | {"frozen": lambda t: 1.0, "displacement": lambda t: 0.1}, "stuck chains", "end where"),
    "clamped": (gap(wave) | {"clamped": lambda t: 1.0}, "stuck chains", "clamped"),
    "frozen, which let the energies explode": (
        gap(lambda t: -math.exp(20 * t)) | {"displacement": before(0.8, 0.0, 9.0)}, "stuck chains", "then the energy gap",
    ),
    "exploded, which froze the chains": (
        gap(lambda t: -math.exp(20 * t)) | {"acceptance": before(0.9, 0.9, 0.0)}, "exploding energies", "then the chains",
    ),
    "flat": (gap(lambda t: 0.0) | {"grad_norm": lambda t: math.exp(-30 * t)}, "vanishing gradients", "slope"),
    "dead parameters": (gap(lambda t: 0.1) | {"gradient_norm": lambda t: 0.0}, "vanishing gradients", "parameters"),
    "dead reconstruction": (
        {"loss": lambda t: 1.0, "gradient_norm": lambda t: 1e-12}, "vanishing gradients", "parameters",
    ),
    "loss": ({"loss": lambda t: math.exp(20 * t)}, "exploding loss", "the loss exploded"),
    "a leap": (gap(wave) | {"relative_update": before(0.02, 0.8, 0.05)}, "learning rate", "0.8 times their size"),
    "a leap, which killed the network": (
        {"loss": lambda t: 1.0, "gradient_norm": before(0.1, 1.0, 0.0), "relative_update": before(0.05, 2.0, 0.0)},
        "learning rate", "then the gradients vanish",
    ),
    "a leap after the energies had exploded": (
        gap(lambda t: -math.exp(20 * t)) | {"relative_update": before(0.9, 0.01, 0.8)}, "exploding energies", "then a step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_histories_raise_no_alarm(name):
    judged = diagnose(history(**HEALTHY[name]))
    assert judged.healthy, judged.line
    assert judged.cause is None
    assert judged.line.startswith("Healthy")


@pytest.mark.parametrize("name", DIVERGED)
def test_planted_causes_are_named_with_reason_and_remedy(name):
    terms, cause, reason = DIVERGED[name]
    judged = diagnose(history(**terms))
    assert not judged.healthy
    assert judged.cause == cause
    assert judged.line.startswith(f"Training diverged: {cause}, for ")
    assert reason in judged.line
    assert "usually" in judged.line


def test_what_stopped_a_run_is_told_and_explained_by_what_came_before():
    calm = history(**HEALTHY["hovering"])
    assert diagnose(calm, "step 3: the loss is not finite").line == "Training stopped: step 3: the loss is not finite"
    leapt = diagnose(calm | history(relative_update=lambda t: 0.9), "step 3: the loss is not finite")
    assert leapt.cause == "learning rate"
    assert "; then step 3: the loss is not finite" in leapt.line


def test_short_histories_are_judged_too():
    assert diagnose({("train", "loss"): ([1], [1.0])}).healthy
    assert diagnose({("train", "displacement"): ([10, 20], [0.9, 0.0])}).cause == "stuck chains"


# -------------------------------------------------------------------------------------------------------------- trainings


def test_a_relative_change_is_that_of_the_vector_of_all_weights():
    old, new = [normal(3, 5, seed=1), 9 * normal(2, 4, seed=2)], [normal(3, 5, seed=3), 9 * normal(2, 4, seed=4)]
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (old, new)]
    assert math.isclose(relative_change(old, new), ((flat[1] - flat[0]).norm() / flat[0].norm()).item())


def train(folder, seed=0, step_size=0.01, energy_l2=0.0, steps=60, scale=1.0, sampler=None, **settings):
    """Sixty steps of persistent or short-run contrastive divergence on two moons."""
    torch.manual_seed(seed)
    task = Points("moons", n=2000)
    sampler = LangevinDynamics(step_size=step_size, steps=10) if sampler is None else sampler
    part = ContrastiveDivergence(sampler, start="noise", task=task, energy_l2=energy_l2)
    energy = scale * MLPEnergy(2, hidden=(32, 32)) if scale != 1 else MLPEnergy(2, hidden=(32, 32))
    settings = {"batch_size": 64, "log_every": 2, "evaluate_limit": 50, "accelerator": "cpu"} | settings
    return fit(energy, WeightedSum([part]), task, steps=steps, seed=seed, out=folder, **settings)


def verdict_of(folder, seed, **plant):
    stopped = ""
    try:
        train(folder, seed, **plant)
    except FloatingPointError as error:
        stopped = str(error)
    return diagnose(read_history(folder), stopped)


PLANTS = {
    None: lambda: {"lr": 1e-3},
    "learning rate": lambda: {"lr": 30 * 3e-3},
    "stuck chains": lambda: {"sampler": ReplayAugmented(MALA(step_size=1e4, steps=5), capacity=500)},
    "exploding energies": lambda: {"lr": 3e-3, "scale": 100.0, "step_size": 1.0},
}


@pytest.mark.parametrize("cause", PLANTS)
@pytest.mark.parametrize("seed", range(2))
def test_planted_divergences_get_their_verdict(tmp_path, cause, seed):
    judged = verdict_of(tmp_path / "x", seed, **PLANTS[cause]())
    assert judged.cause == cause, judged.line


@pytest.mark.slow
@pytest.mark.parametrize("cause", PLANTS)
def test_planted_divergences_get_their_verdict_twenty_times_of_twenty(tmp_path, cause):
    judged = [verdict_of(tmp_path / str(seed), seed, **PLANTS[cause]()) for seed in range(20)]
    assert [one.cause for one in judged] == [cause] * 20


STUCK = {"step_size": 1e-10, "log_every": 1, "checkpoint_every": 20, "steps": 60}


def test_the_doctor_stops_a_run_at_a_checkpoint_and_saves_nothing_bad(tmp_path):
    with pytest.raises(Diverged, match=r"training step 20: Training diverged: stuck chains, .* no checkpoint"):
        train(tmp_path / "x", **STUCK)
    assert checkpoints.latest(tmp_path / "x" / "checkpoints") is None
    assert "stuck chains" in (tmp_path / "x" / "report.html").read_text(encoding="utf-8")


def test_a_run_that_the_doctor_stopped_may_go_on_without_it(tmp_path):
    settings = {**STUCK, "step_size": 1e-2}
    run = train(tmp_path / "x", **settings)
    with pytest.raises(ValueError, match="holds a finished run"):
        train(tmp_path / "x", **settings, on_divergence="ignore")
    assert train(tmp_path / "y", **STUCK, on_divergence="ignore").metrics.keys() == run.metrics.keys()


class Unlucky(ContrastiveDivergence):
    """Breaks where a draw is unlucky."""

    def __init__(self, bad_luck):
        super().__init__(LangevinDynamics(step_size=0.01, steps=2))
        self.bad_luck = bad_luck

    def forward(self, energy, batch, *, start=None, generator=None):
        loss = super().forward(energy, batch, start=start, generator=generator)
        unlucky = torch.rand((), generator=generator) < self.bad_luck
        return Loss(torch.where(unlucky, torch.nan, 1.0) * loss.value, loss.terms)


def gamble(folder, bad_luck, **keywords):
    torch.manual_seed(0)
    settings = {"steps": 40, "batch_size": 16, "log_every": 1, "checkpoint_every": 8, "evaluate_limit": 20, "accelerator": "cpu"}
    task = Points("moons", n=400)
    settings |= {"on_divergence": "rollback"} | keywords
    return fit(MLPEnergy(2, hidden=(8,)), Unlucky(bad_luck), task, out=folder, **settings)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.energy.parameters()])


def test_rollback_goes_on_from_the_last_good_checkpoint_with_other_draws(tmp_path):
    run = gamble(tmp_path / "x", 0.05)
    went = rollbacks(run.path)
    assert 1 <= len(went) <= MOST
    assert all(back["to"] % 8 == 0 for back in went)
    assert "is not finite" in went[0]["because"]
    assert read_history(run.path)["train", "loss"][0] == [*range(1, 41)]
    assert "Training went back to step" in (run.path / "report.html").read_text(encoding="utf-8")
    assert torch.equal(weights(run), weights(gamble(tmp_path / "y", 0.05)))


def test_a_signal_in_a_step_that_diverges_is_heeded(tmp_path, monkeypatch):
    usual = Unlucky.forward

    def forward(self, *args, **keywords):
        signal.raise_signal(signal.SIGINT)
        return usual(self, *args, **keywords)

    monkeypatch.setattr(Unlucky, "forward", forward)
    with pytest.raises(KeyboardInterrupt):
        gamble(tmp_path / "x", 1.0)
    assert len(rollbacks(tmp_path / "x")) == 1


def test_a_run_that_goes_well_is_the_one_without_rollback(tmp_path):
    run = gamble(tmp_path / "x", 0.0)
    assert not rollbacks(run.path)
    assert torch.equal(weights(run), weights(gamble(tmp_path / "y", 0.0, on_divergence="stop")))


def test_a_run_that_was_stopped_after_a_rollback_ends_as_the_undisturbed_one(tmp_path, monkeypatch):
    run = gamble(tmp_path / "x", 0.05)
    monkeypatch.setattr("ebm.runs.rollback.tqdm.write", lambda line: (_ for _ in ()).throw(KeyboardInterrupt))
    stops = 0
    while not (tmp_path / "y" / "metrics.json").exists():
        try:
            gamble(tmp_path / "y", 0.05)
        except KeyboardInterrupt:
            stops += 1
    assert stops == len(rollbacks(run.path)) > 0
    assert (tmp_path / "y" / "metrics.csv").read_bytes() == (run.path / "metrics.csv").read_bytes()


def test_what_diverges_again_and_again_stops(tmp_path):
    with pytest.raises(FloatingPointError, match="training step 1"):
        gamble(tmp_path / "x", 1.0)
    assert len(rollbacks(tmp_path / "x")) == MOST
    assert not (tmp_path / "x" / "metrics.json").exists()


def test_a_checkpoint_that_led_to_divergence_twice_is_given_up(tmp_path):
    for step in (8, 16):
        checkpoints.at(tmp_path / "checkpoints", step).mkdir(parents=True)
    went = [roll_back(tmp_path, f"trouble {number}") for number in range(MOST + 1)]
    assert [back["to"] for back in rollbacks(tmp_path)] == [16, 8, 8, 8, 8]
    assert went[-1] is None
    assert str(went[0]) == f"rollback 1 of {MOST}, to step 16: trouble 0"


def test_rollback_is_for_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_fabric.Fabric.world_size", 2)
    with pytest.raises(ValueError, match=r"on_divergence='rollback' is for one process, and here are 2"):
        gamble(tmp_path / "x", 0.0)
