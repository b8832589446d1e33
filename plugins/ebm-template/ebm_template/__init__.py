"""ebm-template: an energy, a sampler, an objective, a task and a recipe. Replace them one by one; the laws say what breaks."""

from importlib.resources import files

import torch
from torch import nn

from ebm import Batch, Energy, Info, Loss, Objective, Sampler, State, energy_and_grad
from ebm.interfaces import bind, evaluate, left
from ebm.randomness import randn_like, stream, uniform
from ebm.registry import hookimpl
from ebm.tasks import RowTask, draw_splits

from ebm_template.runs import ebm_commands, ebm_rivals, ebm_sections, ebm_studies  # noqa: F401


class Bowl(Energy):
    """Scores vectors by how far they are from a centre, in units that it learns: E(y) = |(y − c) / s|² / 2.

    Arguments:
        dim: the length of y.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.centre, self.log_scale = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, y, code=None):
        return ((y - self.centre) / self.log_scale.exp()).square().sum(-1) / 2


class Metropolis(Sampler):
    """Samples p ∝ exp(−E) by a random walk whose steps are accepted with probability min(1, p(y') / p(y)), chain by chain.

    Arguments:
        scale: standard deviation of a proposed step.
        steps: how many steps to take.
    """

    differentiable = False  # no gradient passes through a decision

    def __init__(self, scale: float = 1.0, steps: int = 100) -> None:
        super().__init__()
        self.scale, self.steps = scale, steps

    def step(self, energy, state, *, create_graph=False, generator=None):
        proposal = state.y + self.scale * randn_like(state.y, generator)
        value, new = evaluate(energy, state.y), evaluate(energy, proposal)
        accepted = uniform(value, 0, 1, generator).log() < value - new
        return State(torch.where(left(accepted, proposal), proposal, state.y), state.t + 1), Info(value, accepted=accepted)


class ScoreMatching(Objective):
    """Trains by score matching without samples, L = E[Σᵢ (∂ᵢE)² / 2 − ∂ᵢ²E]. Source: Hyvärinen, 2005, theorem 1."""

    def forward(self, energy, batch, *, start=None, generator=None):
        y = batch.target.detach().requires_grad_()
        value, grad = energy_and_grad(bind(energy, batch.context), y, create_graph=True)
        flat = grad.reshape(*value.shape, -1)
        rows = [torch.autograd.grad(part.sum(), y, create_graph=True)[0].reshape(flat.shape) for part in flat.unbind(-1)]
        trace = sum(row[..., i] for i, row in enumerate(rows))
        return Loss(batch.mean(flat.square().sum(-1) / 2 - trace), {"curvature": batch.mean(trace.detach())})


class Cloud(RowTask):
    """Points of a plane around (1, −1), twice as wide as high.

    Arguments:
        n: how many points there are.
        seed: fixes them.
    """

    def __init__(self, n: int = 4000, seed: int = 0) -> None:
        noise = torch.randn(n, 2, generator=stream(seed, "cloud"))
        points = torch.tensor([1.0, -1.0]) + torch.tensor([1.0, 0.5]) * noise
        self.splits = {split: Batch(points[rows]) for split, rows in draw_splits(n, None, seed).items()}
        self.spec = {"dim": 2}  # what the data decide: a recipe passes it on to the energy

    def start(self, batch, *, generator=None):
        return randn_like(batch.target, generator)


ebm_energies = hookimpl(lambda: {"template": Bowl})
ebm_samplers = hookimpl(lambda: {"template": Metropolis})
ebm_objectives = hookimpl(lambda: {"template": ScoreMatching})
ebm_tasks = hookimpl(lambda: {"template": Cloud})
ebm_recipes = hookimpl(lambda: {"template": files(__name__) / "recipe.toml"})
