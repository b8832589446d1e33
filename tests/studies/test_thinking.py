"""The thinking study of a model that takes passes: it is judged by those, and descends nothing."""

from __future__ import annotations

from ebm.interfaces import Prediction
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.studies.thinking import thinking
from ebm.tasks import Points


class Passing:
    """Predicts points the better, the more passes it takes."""

    def __init__(self, passes=1):
        self.passes = passes

    def __call__(self, y):
        raise AssertionError("its energy means nothing")

    def at(self, passes):
        return Passing(passes)

    def predict(self, batch, start, *, generator=None):
        return Prediction(batch.target + 1 / self.passes, None, float(self.passes))


class Judged(Points):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        batch = self.splits[split]
        found = predictor.predict(batch, None)
        return {"off": (found.y - batch.target).abs().mean().item(), "evaluations": found.evaluations}


def test_a_run_that_takes_passes_is_judged_by_them():
    run = Run(None, {"seed": 0}, Passing(), GradientDescent(step_size=1.0), None, Judged("moons", 60), {})
    found = thinking(run, steps=[1, 2], candidates=[1, 4], passes=[1, 4], splits=["test", "validation"])
    off = {(each.who, each.split, each.steps): round(each.value, 4) for each in found if each.name == "off"}
    assert off == {("run", "test", 1): 1.0, ("run", "test", 4): 0.25, ("run", "validation", 4): 0.25}
