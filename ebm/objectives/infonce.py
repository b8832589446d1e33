"""InfoNCE: finding the truth among proposals."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from ebm.interfaces import Batch, Energy, EnergyFn, Loss, Objective, bind, check_configuration, evaluate
from ebm.objectives.nce import Noise


class InfoNCE(Objective):
    """Trains an energy to find the truth y_0 among itself and K proposals.

        L = −E log r_0 / mean_k r_k,  r_k = exp(−E(y_k | c)) / q(y_k),  k = 0 … K,  y_1 … y_K ~ q,

    which is the cross-entropy of naming the truth, less log(K + 1), that of a guess. Proposals are
    noise of density q, or the batch's other rows with this row's context. For rows, q is left out:
    the energy learns −log p(y | c)/p(y), −L bounds the information between y and c (nats) from
    below, and n rows make n² energies. Only the last of several landscapes is trained.
    Source: other rows: van den Oord et al., 2018 (arXiv 1807.03748); noise: Ma and Collins, 2018
    (arXiv 1809.01812). Terms: energy_data, accuracy (how often the truth comes first).

    Arguments:
        source: the noise's standard deviation, an energy to draw from, or "batch" (other rows).
        proposals: K for noise; "batch" takes all other rows that have weight.

    >>> batch = Batch(torch.randn(5, 2))
    >>> loss = InfoNCE()(lambda y: (y**2).sum(-1) / 2, batch)    # the noise itself: a guess
    >>> abs(loss.value.item()) < 1e-5
    True
    """

    def __init__(self, source: Energy | float | Literal["batch"] = 1.0, proposals: int = 16) -> None:
        super().__init__()
        if proposals < 1:
            raise ValueError(f"proposals={proposals}: pass a whole number of at least 1")
        if isinstance(source, str) and source != "batch":
            raise ValueError(f"source={source!r}: choose batch, or pass a standard deviation or an energy to draw noise from")
        self.noise = None if isinstance(source, str) else Noise(source)
        self.proposals = proposals

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if start is not None:
            raise ValueError("start is given, but InfoNCE moves no chains: leave it out")
        check_configuration(batch.target, generator)
        function = bind(energy, batch.context)
        if self.noise is None:
            logits, truth, at_data, among = self._of_rows(function, batch)
        else:
            logits, truth, at_data, among = self._of_noise(self.noise, function, batch, generator)
        loss = logits.logsumexp(0) - truth - among.log()
        first = ((logits >= truth).sum(0) == 1).to(loss.dtype)
        terms = {"energy_data": at_data.detach(), "accuracy": first}
        return Loss(batch.mean(loss), {name: batch.mean(term) for name, term in terms.items()})

    def _of_rows(self, function: EnergyFn, batch: Batch) -> tuple[Tensor, ...]:
        """Scores rows with contexts: (logits (rows, *chains), the truth's, its energies, count)."""
        if batch.context is None:
            raise ValueError("source='batch' tells rows apart by their context, and there is none: pass a standard deviation")
        rows = len(batch.target)
        logits = -evaluate(function, batch.target[:, None].expand(rows, *batch.target.shape))
        truth = logits.diagonal().movedim(-1, 0)
        if batch.weight is None:
            return logits, truth, -truth, torch.full_like(truth, rows)
        own = torch.eye(rows, dtype=torch.bool, device=logits.device).reshape(rows, rows, *(1,) * (logits.ndim - 2))
        proposed = own | (batch.weight > 0)[:, None]  # padding is no proposal
        return torch.where(proposed, logits, -math.inf), truth, -truth, proposed.sum(0).to(truth.dtype)

    def _of_noise(self, noise: Noise, function: EnergyFn, batch: Batch, generator: Generator | None) -> tuple[Tensor, ...]:
        """Scores targets and noise: (logits (1 + K, *chains), the truth's, its energies, count)."""
        at_data = evaluate(function, batch.target)
        y = noise.draw(self.proposals, batch.target, at_data.shape, generator)
        at_noise = evaluate(function, y)
        truth = -at_data - noise.log_density(batch.target, at_data.shape)
        others = -at_noise - noise.log_density(y, at_noise.shape)
        return torch.cat([truth[None], others]), truth, at_data, torch.full_like(truth, 1 + self.proposals)
