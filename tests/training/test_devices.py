"""What training does on an accelerator, tried on a CPU that it takes for one: it waits where it must, and nowhere else."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ebm import build
from ebm.interfaces import Batch, Loss, Objective
from ebm.objectives import DenoisingScoreMatching
from ebm.runs import checkpoints
from ebm.tasks import Points
from ebm.training import devices, loop, watch
from ebm.training.devices import fuses, onto
from ebm.training.loop import fit
from ebm.training.optimizers import described_as, optimizer_of
from tests.fake_plugins import langevin, mlp, quick_report


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ahead(monkeypatch) -> None:
    """Lets the CPU pass for a device that the host runs ahead of."""
    for module in (devices, watch):
        monkeypatch.setattr(module, "runs_ahead", lambda device: True)


class Reads(TorchDispatchMode):
    """Counts how often the host reads a number of a tensor, for which it would wait on an accelerator."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


class Spied(Objective):
    """Score matching that notes at each step how much was read before; from step `bad` on its loss is infinite."""

    def __init__(self, bad: int = 10**9) -> None:
        super().__init__()
        self.inner, self.bad, self.noted, self.reads = DenoisingScoreMatching(0.3), bad, [], Reads()

    def forward(self, energy, batch, *, start=None, generator=None):
        self.noted.append(self.reads.count)
        loss = self.inner(energy, batch, generator=generator)
        return Loss(loss.value / (len(self.noted) < self.bad), loss.terms)


def train(out, objective, **keywords):
    how = {"steps": 12, "batch_size": 8, "log_every": 5, "optimizer": "sgd", "lr": 1e-3, "sampler": langevin(), **keywords}
    with objective.reads:
        return fit(mlp(), objective, Points("moons", n=400), out=out, **how)


def test_between_logged_rows_the_host_reads_nothing(tmp_path, ahead):
    objective = Spied()
    train(tmp_path / "run", objective, clip_norm=1.0)  # a moving average reads its count, which stays on the CPU
    spent = [after - before for before, after in zip(objective.noted, objective.noted[1:], strict=False)]
    assert {step for step, count in enumerate(spent, start=1) if count} == {1, 5, 10}  # and 12, the last


def test_a_cpu_is_asked_at_every_step(tmp_path):
    objective = Spied()
    train(tmp_path / "run", objective)
    spent = [after - before for before, after in zip(objective.noted, objective.noted[1:], strict=False)]
    assert [count for step, count in enumerate(spent, start=1) if step not in (1, 5, 10)] == [1] * 8


def test_an_accelerators_run_is_a_cpus(tmp_path, ahead, monkeypatch):
    one = train(tmp_path / "one", Spied(), optimizer="adamw").energy.state_dict()
    monkeypatch.undo()
    quick_report(monkeypatch)
    two = train(tmp_path / "two", Spied(), optimizer="adamw").energy.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("bad", "seen"), [(3, 5), (5, 5), (11, 12)])
def test_what_is_not_finite_stops_the_run_and_names_its_step(tmp_path, ahead, bad, seen):
    with pytest.raises(FloatingPointError, match=f"training step {bad}: ") as caught:
        train(tmp_path / "run", Spied(bad), checkpoint_every=100)
    assert (f"as was seen at step {seen}" in str(caught.value)) == (bad != seen)
    assert not checkpoints.steps(tmp_path / "run" / "checkpoints")


def test_nothing_that_is_not_finite_is_saved_or_judged(tmp_path, ahead):
    for name, keywords in {"saved": {"checkpoint_every": 4}, "judged": {"evaluate_every": 4, "evaluate_limit": 8}}.items():
        with pytest.raises(FloatingPointError, match="training step 3: .* as was seen at step 4"):
            train(tmp_path / name, Spied(3), **keywords)
        assert not checkpoints.steps(tmp_path / name / "checkpoints")


def test_a_batch_is_pinned_and_copied_without_waiting(monkeypatch, ahead):
    moved = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: moved.append("pinned") or self)
    monkeypatch.setattr(devices, "FAST", ("meta",))
    fabric = SimpleNamespace(device=torch.device("meta"), to_device=lambda batch: "Fabric's")
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: moved.append(k["non_blocking"]) or to(self, *a, **k))
    batch = onto(fabric, Batch(torch.ones(2, 3), context=(torch.zeros(2), "label")))
    assert batch.target.is_meta
    assert (batch.context[0].is_meta, batch.context[1]) == (True, "label")
    assert moved == ["pinned", "pinned", True, True]
    assert onto(fabric, {"target": torch.ones(2)}) == "Fabric's"


def test_a_cpus_batch_stays_as_it_is():
    fabric = SimpleNamespace(device=torch.device("cpu"), to_device=lambda batch: batch)
    batch = Batch(torch.ones(2))
    assert onto(fabric, batch) is batch


def test_one_kernel_steps_where_it_can_and_nobody_said_how():
    weights = [torch.nn.Parameter(torch.ones(3))]
    numbers = {"lr": 1e-3, "sampler_lr": None, "betas": (0.9, 0.999), "weight_decay": 0.0}

    def made(optimizer, weights=weights, fused=True):
        return optimizer_of(optimizer, weights, [], **numbers, fused=fused)

    assert made("adamw").defaults["fused"] is True
    assert made("adam").defaults["fused"] is True
    assert made("adamw", fused=False).defaults["fused"] is None
    assert made("sgd").defaults["fused"] is None
    for told in ("foreach", "capturable"):
        assert made(build("optimizer", "adamw", **{told: True})).defaults["fused"] is None
    assert described_as(made("adamw")) == described_as(made("adamw", fused=False))  # a run goes on elsewhere
    assert [fuses(torch.device(name), "32-true") for name in ("cpu", "cuda", "mps")] == [False, True, False]
    assert not fuses(torch.device("cuda"), "16-mixed")


class Interrupting(Spied):
    """Is stopped by a signal in the middle of a step, which is finished and saved."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, energy, batch, *, start=None, generator=None):
        loss = super().forward(energy, batch, generator=generator)
        if len(self.noted) == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return loss


def test_a_run_goes_on_where_adamw_is_fused_and_where_it_is_not(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", Spied(), optimizer="adamw", steps=8).energy.state_dict()
    for began in (False, True):
        monkeypatch.setattr(loop, "fuses", lambda device, precision, fused=began: fused)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / str(began), Interrupting(5), optimizer="adamw", steps=8)
        monkeypatch.setattr(loop, "fuses", lambda device, precision, fused=not began: fused)
        run = train(tmp_path / str(began), Interrupting(0), optimizer="adamw", steps=8)
        for key, value in run.energy.state_dict().items():
            torch.testing.assert_close(value, whole[key], rtol=0, atol=1e-6)
