"""What ebm-template does with a finished run: a rival, a study, a command and a section of the report."""

import torch

from ebm import Prediction, energy_and_grad
from ebm.figures import DATA, SAMPLES, figure_of
from ebm.registry import hookimpl
from ebm.reports import Section


class Middle:
    """Predicts the middle of the training data for every row: a rival, which needs no training."""

    def __init__(self, task):
        self.middle = task.rows("train").target.mean(0)

    def predict(self, batch, start, *, generator=None):
        return Prediction(self.middle.expand_as(batch.target), None, 0)


def slopes(run, *, rows: int = 500):
    """Measures how far the energy's slopes are from the cloud's own, which are known here.

    Arguments:
        rows: how many held-out points are looked at.
    """
    y = run.task.rows("test").target[:rows]
    true = (y - torch.tensor([1.0, -1.0])) / torch.tensor([1.0, 0.5]).square()
    return {"slope_error": (energy_and_grad(run.energy, y)[1] - true).square().mean()}


def centre(run, *, digits: int = 3):
    """Print the centre that a run's bowl has learned.

    Arguments:
        digits: how many decimals are printed.
    """
    return {f"c{axis}": round(value, digits) for axis, value in enumerate(run.energy.centre.tolist())}


@hookimpl
def ebm_sections(run, seed):
    """Draws the bowl along both axes; every run is asked, so what is no bowl gets nothing."""
    if hasattr(run.energy, "centre"):
        line = torch.linspace(-3, 3, 100)
        with figure_of(9, 2.6) as (figure, png):
            for axis, (axes, color) in enumerate(zip(figure.subplots(1, 2), (DATA, SAMPLES), strict=True)):
                y = run.energy.centre.detach().repeat(100, 1)
                y[:, axis] = line
                axes.plot(line, run.energy(y).detach(), color=color)
                axes.set(xlabel=f"y{axis}", title=f"energy along axis {axis}")
        yield Section("The bowl", "Its floor should lie where the data do.", png.getvalue())


ebm_rivals = hookimpl(lambda: {"template": Middle})
ebm_studies = hookimpl(lambda: {"template": slopes})  # runs where a recipe has a table of this name
ebm_commands = hookimpl(lambda: {"template": centre})  # ebm template RUN
