"""How sure a model is: energies that know what is right are calibrated to it, and answers are judged whole."""

import pytest
import torch

from ebm.interfaces import Batch, Prediction
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.studies.confidence import calibrated, confidence
from ebm.studies.uncertainty import uncertainty
from ebm.tasks import Arithmetic
from tests.studies.test_uncertainty import Knows, Told


def run_of(predictor, task):
    return Run(None, {"seed": 0}, predictor, GradientDescent(step_size=1.0), None, task, {})


def test_energies_that_know_make_no_error_where_a_softmax_does():
    """Energies are 0 of right tokens and 1 of wrong ones."""
    task = Told(lambda loss: loss)
    wrong = (task.logits.argmax(-1) != task.target).double()
    task.told = lambda loss: wrong
    found = calibrated(run_of(Knows(task), task))
    assert found["energy"].error == pytest.approx(0.0, abs=1e-6)
    assert found["softmax"].error > 0.05
    names = {each.name: each.value for each in uncertainty(run_of(Knows(task), task), limit=None)}
    assert names["calibration_error"] == pytest.approx(0.0, abs=1e-6)
    assert names["softmax_calibration_error"] == pytest.approx(found["softmax"].error)
    assert names["brier"] == pytest.approx(0.0, abs=1e-6)
    share = 1 - wrong.mean().item()
    assert names["blind_brier"] == pytest.approx(share * (1 - share))


def test_what_has_no_weight_is_not_counted():
    weight = torch.zeros(20, 8)
    weight[:, :3] = 1.0
    task = Told(lambda loss: loss, weight)
    found = confidence(run_of(Knows(task), task), "test")
    assert found.right.shape == found.energy.shape == found.softmax.shape == (60,)
    assert torch.equal(found.right, (task.logits.argmax(-1) == task.target)[:, :3].flatten())


class Answered:
    """Says the right sums, but for the first of a batch, each symbol with probability 0.9."""

    def __call__(self, y):
        raise NotImplementedError

    def predict(self, batch: Batch, start, *, generator=None):
        answer = batch.target.clone()
        answer[0, 0] = (answer[0, 0] + 1) % 10
        chances = torch.full((*answer.shape, 10), 0.1 / 9).scatter_(-1, answer[..., None], 0.9)
        return Prediction(chances.log(), torch.arange(len(answer), dtype=torch.float32), 1)


def test_answers_are_judged_whole():
    task = Arithmetic(width=(2, 2), n=8)
    found = confidence(run_of(Answered(), task), "test")
    assert found.right.tolist() == [False] + [True] * 7
    torch.testing.assert_close(found.softmax, torch.full((8,), 0.9**3, dtype=torch.float64))


def test_what_has_no_energy_is_left_out():
    task = Told(lambda loss: None)
    assert confidence(run_of(Knows(task), task), "test") is None
    assert calibrated(run_of(Knows(task), task)) == {}
