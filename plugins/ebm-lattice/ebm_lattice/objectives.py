"""Objectives that need no samples: they look at what each site would be, given all others."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, bind, energy_and_grad, evaluate
from ebm_lattice.states import Differences, States, check_lattice, check_words, evaluated_table, read, table

__all__ = ["PseudoLikelihood", "RatioMatching"]


class Conditional(Objective):
    """Averages a score of every site's conditional, −log p or (1 − p)², summed over sites; terms:
    energy_data, accuracy.

    Conditionals come from one gradient, which is exact for energies that are linear in each site;
    for others from evaluations of every alternative. There are no chains, so that a `start` is not
    looked at.
    """

    def __init__(self, states: States = "spins", differences: Differences = "gradient") -> None:
        super().__init__()
        check_words(self, states, differences)
        self.states, self.differences = states, differences

    def score(self, log_p: Tensor, data: Tensor) -> Tensor:
        """Scores conditionals log p (*chains, sites, values) by the numbers of the data's values
        (*chains, sites, 1)."""
        raise NotImplementedError

    def forward(
        self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Loss:
        check_lattice(self, batch.target, self.states)
        function, y = bind(energy, batch.context), batch.target
        if self.differences == "gradient":
            value, grad = energy_and_grad(function, y, create_graph=torch.is_grad_enabled())
            costs = table(y, grad, value.ndim, self.states)
        else:
            value = evaluate(function, y)
            costs = evaluated_table(function, y, value.ndim, self.states)
        data = read(y, value.ndim, self.states)[..., None]
        log_p = costs.neg().log_softmax(-1)
        right = (costs.detach().argmin(-1, keepdim=True) == data).to(value)
        terms = {"energy_data": batch.mean(value.detach()), "accuracy": batch.mean(right.mean((-2, -1)))}
        return Loss(batch.mean(self.score(log_p, data).sum(-1)), terms)


class PseudoLikelihood(Conditional):
    """Trains by pseudo-likelihood, L = −E Σᵢ log p(yᵢ | all others): as many classifications as
    there are sites.

    Consistent, like maximum likelihood, where the energy can represent the data.

    Source: Besag, 1975.

    Arguments:
        states: how y is written: "spins" (−1 and 1), or "one-hot" (the last axis).
        differences: where conditionals come from: one "gradient" (exact where E is linear in each
            site), or "evaluations".

    Terms: energy_data, accuracy (the share of sites whose value is the likeliest given the others).

    >>> y = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> round(PseudoLikelihood()(lambda y: -y.prod(-1), Batch(y)).value.item(), 4)                # 2 log(1 + exp(-2))
    0.2539
    """

    def score(self, log_p: Tensor, data: Tensor) -> Tensor:
        return -log_p.gather(-1, data).squeeze(-1)


class RatioMatching(Conditional):
    """Trains by ratio matching, L = E Σᵢ (1 − p(yᵢ | all others))² for spins: the Brier score of
    all conditionals.

        L = ½ E Σᵢ Σᵥ (p(yᵢ = v | all others) − [yᵢ = v])²,

    which for two values is the square of σ(E(y) − E(y with yᵢ flipped)). Bounded, so that no single
    outlier has much say.

    Source: Hyvärinen, 2007, "Some extensions of score matching", for two values.

    Arguments:
        states: how y is written: "spins" (−1 and 1), or "one-hot" (the last axis).
        differences: where conditionals come from: one "gradient" (exact where E is linear in each
            site), or "evaluations".

    Terms: energy_data, accuracy (the share of sites whose value is the likeliest given the others).

    >>> y = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> round(RatioMatching()(lambda y: -y.prod(-1), Batch(y)).value.item(), 4)                   # 2 / (1 + exp(2))²
    0.0284
    """

    def score(self, log_p: Tensor, data: Tensor) -> Tensor:
        p = log_p.exp()
        return (p - torch.zeros_like(p).scatter(-1, data, 1.0)).square().sum(-1) / 2
