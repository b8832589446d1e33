"""Laws of rivals: each fits the tasks whose data it can read, and says what it needs to any other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ebm.baselines.classical import GRIDS, METHODS, Classical
from ebm.interfaces import Batch
from ebm.registry import component, components
from ebm.tasks import Denoising, Points
from tests.helpers import close, normal

VIDEO = {"copy", "linear"}


def rival(name, task):
    return component("rival", name).factory(task)


def test_every_rival_is_registered():
    assert set(components("rival")) >= VIDEO | set(METHODS)
    assert all(each.summary for each in components("rival").values())


@pytest.mark.parametrize("name", sorted([*VIDEO, *METHODS]))
def test_a_task_that_does_not_fit_is_told_why(name):
    with pytest.raises(ValueError, match=f"Points has no (frames|noisy pictures): the rival '{name}' needs a task"):
        rival(name, Points(n=10))


def test_frames_are_copied_or_extrapolated():
    task, frames = SimpleNamespace(spec={"features": 3}), normal(2, 5, 3)
    batch = Batch(frames[:, 1:], frames[:, :-1])
    close(rival("copy", task).predict(batch, None).y, batch.context)
    close(rival("linear", task).predict(batch, None).y[:, 1:], 2 * batch.context[:, 1:] - batch.context[:, :-1])


def test_denoisers_are_tuned_on_training_pictures_and_told_the_noise(monkeypatch):
    monkeypatch.setitem(GRIDS, "total-variation", {"weight": (0.01, 0.9)})
    task = Denoising(crop=48)
    found = rival("total-variation", task)
    assert found.classical == Classical("total-variation", weight=0.9)
    for split in ("test", "step-199", "speckle"):  # whole photographs, of which no tile is asked for
        result = task.evaluate(found, split=split)
        assert result["evaluations"] == 0
        assert split == "speckle" or result["psnr"] > result["noisy_psnr"] + 2
    batch = next(iter(task.loader("step-199", 2)))
    image, step = batch.context.image[0], int(batch.context.step[0])
    close(found.predict(batch, None).y[0], found.classical.denoise(image, *task.level(step)))


def test_a_task_of_ones_own_has_what_a_denoiser_needs():
    """Two methods are all that is asked for, not a class of the core."""

    class Squares:
        def level(self, step):
            return 0.1 * step, 1.0

        def examples(self):
            clean = torch.zeros(1, 16, 16)
            clean[:, 4:12, 4:12] = 1
            return [(clean, SimpleNamespace(image=(clean + 0.2 * torch.randn(1, 1, 16, 16)), step=torch.tensor([2])))]

    assert rival("wavelet", Squares()).level(3) == (pytest.approx(0.3), 1.0)
