"""Energies against losses: a model that knows its errors has a correlation of one, whatever else it predicts."""

from __future__ import annotations

import pytest
import torch

from ebm.interfaces import Batch, Prediction, Task
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.studies.uncertainty import uncertainty


class Told(Task):
    """Sequences whose predictions are logits, and whose energies are what `told` makes of losses."""

    def __init__(self, told, weight=None):
        self.spec, self.told, self.weight = {"vocab_size": 3}, told, weight
        generator = torch.Generator().manual_seed(0)
        self.target = torch.randint(3, (20, 8), generator=generator)
        self.logits = torch.randn(20, 8, 3, generator=generator)

    def loader(self, split, batch_size, **_):
        return [Batch(self.target, weight=self.weight)]

    def start(self, batch, *, generator=None):
        return torch.zeros(20, 8, 3)

    def distance(self, y, batch):
        return torch.nn.functional.cross_entropy(y.movedim(-1, 1), batch.target, reduction="none")


class Knows:
    """Predicts, as an energy of its own does that is feed-forward."""

    def __init__(self, task):
        self.task = task

    def __call__(self, y):
        raise NotImplementedError

    def predict(self, batch, start, *, generator=None):
        loss = self.task.distance(self.task.logits, batch)
        return Prediction(self.task.logits, self.task.told(loss), 1.0)


def asked(told, weight=None):
    task = Told(told, weight)
    run = Run(None, {"seed": 0}, Knows(task), GradientDescent(step_size=1.0), None, task, {})
    return {found.name: found.value for found in uncertainty(run, limit=None)}


def test_energies_that_rank_losses_have_a_correlation_of_one():
    found = asked(lambda loss: loss**3 - 7)
    assert found["correlation"] == pytest.approx(1.0)
    assert asked(lambda loss: -loss)["correlation"] == pytest.approx(-1.0)
    entropies = asked(lambda loss: loss)["entropy_correlation"]
    assert -1 < entropies < 1


def test_energies_that_fall_along_a_sequence_do_so_in_deviations():
    found = asked(lambda loss: torch.arange(8.0, 0, -1).expand(20, 8))
    assert (found["early_energy"], found["late_energy"]) == (7.5, 1.5)
    deviation = torch.arange(8.0).expand(20, 8).double().std().item()
    assert found["energy_fall"] == pytest.approx(6 / deviation)


def test_what_does_not_count_is_left_out():
    weight = torch.zeros(20, 8)
    weight[:, ::2] = 1.0
    found = asked(lambda loss: torch.where(weight > 0, loss, 1e6 - loss), weight)
    assert found["correlation"] == pytest.approx(1.0)


def test_a_model_without_energies_is_told_so():
    with pytest.raises(ValueError, match="Knows predicts without energies"):
        asked(lambda loss: None)
