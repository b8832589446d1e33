"""The restricted Boltzmann machine, with its hidden units summed out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm.energies.analytic.base import LOG_2PI
from ebm.interfaces import Unconditional
from ebm.randomness import randn_like

MOST = 20  # units of a layer whose states are enumerated: a million of them
AT_ONCE = 2**14  # states


class RBM(Unconditional):
    """Scores visible units v by the free energy of a machine with binary hidden units h:

        E(v) = −log Σ_h exp(−E(v, h)) = A(v) − Σ_j softplus(c_j + vᵀW_j),   E(v, h) = A(v) − c·h − vᵀWh,

    with A(v) = −b·v for binary units, which are 0 and 1, and A(v) = |v − b|²/2 for gaussian ones.
    The energy itself takes any y. Given one layer the units of the other are independent, which
    `BlockGibbs` uses. Where a layer is small, log Z and samples are exact by enumeration.

    Source: Smolensky, 1986; Hinton, 2002 (Training products of experts by minimizing contrastive
    divergence); gaussian units: Welling et al., 2005 (Exponential family harmoniums).

    Arguments:
        visible: how many visible units, the length of y's last axis.
        hidden: how many hidden units.
        units: what visible units are: "binary", or "gaussian" with unit variance.

    Raises:
        ValueError: for sizes below 1, unknown units, and (at the call) a y of another length.

    >>> rbm = RBM(visible=6, hidden=3)
    >>> rbm(torch.zeros(5, 6)).shape, round(rbm.tempered(0.0).log_z.exp().item())    # 2^9 states alike
    (torch.Size([5]), 512)
    """

    def __init__(self, visible: int, hidden: int, units: Literal["binary", "gaussian"] = "binary") -> None:
        super().__init__()
        if min(visible, hidden) < 1 or units not in ("binary", "gaussian"):
            call = f"RBM(visible={visible}, hidden={hidden}, units={units!r})"
            raise ValueError(f"{call}: pass sizes of at least 1, and binary or gaussian")
        self.visible, self.hidden, self.units, self.beta = visible, hidden, units, 1.0
        self.weights = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    def tempered(self, beta: float) -> RBM:
        """Views this machine with W, b and c multiplied by β, sharing its parameters.

        At β = 0 units are independent. Gaussian units keep their unit variance. Landscapes
        `[rbm.tempered(k / K) for k in range(K + 1)]` lead from a known log Z to this machine's
        (Salakhutdinov and Murray, 2008).
        """
        if not isinstance(beta, int | float) or not 0 <= beta < math.inf:
            raise ValueError(f"tempered({beta}): pass a number of at least 0")
        view = copy.copy(self)
        view.beta = self.beta * beta
        return view

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        if y.shape[-1:] != (self.visible,):
            raise ValueError(f"y has shape {tuple(y.shape)}, but RBM(visible={self.visible}) scores (*chains, {self.visible})")
        hidden = _softplus(self._onto_hidden(y)).sum(-1)
        if self.units == "binary":
            return -self.beta * (y @ self.visible_bias) - hidden
        return (y - self.beta * self.visible_bias).square().sum(-1) / 2 - hidden

    def hidden_given(self, v: Tensor) -> Tensor:
        """Computes p(h_j = 1 | v), (*chains, hidden)."""
        return self._onto_hidden(v).sigmoid()

    def visible_given(self, h: Tensor) -> Tensor:
        """Computes E[v | h], (*chains, visible): probabilities of binary units, or gaussian means."""
        field = self._onto_visible(h)
        return field.sigmoid() if self.units == "binary" else field

    @torch.no_grad()
    def sample_hidden(self, v: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws hidden units given visible ones, (*chains, hidden)."""
        return _bernoulli(self.hidden_given(v), generator)

    @torch.no_grad()
    def sample_visible(self, h: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws visible units given hidden ones, (*chains, visible)."""
        expected = self.visible_given(h)
        return _bernoulli(expected, generator) if self.units == "binary" else expected + randn_like(expected, generator)

    @property
    def log_z(self) -> Tensor:
        """Computes log Z (), differentiably, by enumerating the states of a layer.

        That is the hidden layer for gaussian units, else the smaller one. At β = 0 units are
        independent, and log Z is known for any size.

        Raises:
            ValueError: for more than 20 units; see `ebm.judging.annealed_importance_sampling`.
        """
        if self.beta == 0:
            each = math.log(2) if self.units == "binary" else LOG_2PI / 2
            return self.weights.new_tensor(self.hidden * math.log(2) + self.visible * each)
        return torch.stack([log_weights.logsumexp(0) for _, log_weights in self._states()]).logsumexp(0)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws n independent samples (n, visible), exactly, by enumeration.

        Raises:
            ValueError: for a smaller layer of more than 20 units; see `BlockGibbs`.
        """
        states, log_weights = (torch.cat(column) for column in zip(*self._states(), strict=True))
        chance = log_weights.double().softmax(0).cumsum(0)
        draws = torch.rand(n, generator=generator, dtype=chance.dtype, device=chance.device)
        found = states[torch.searchsorted(chance, draws).clamp(max=len(chance) - 1)]
        return found if self._by_visible else self.sample_visible(found, generator=generator)

    def extra_repr(self) -> str:
        return f"visible={self.visible}, hidden={self.hidden}, units={self.units!r}, beta={self.beta:g}"

    def _onto_hidden(self, v: Tensor) -> Tensor:
        return self.beta * (v @ self.weights + self.hidden_bias)

    def _onto_visible(self, h: Tensor) -> Tensor:
        return self.beta * (h @ self.weights.T + self.visible_bias)

    @property
    def _by_visible(self) -> bool:
        return self.units == "binary" and self.visible < self.hidden

    def _states(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Goes through all states of a layer (states, units), with log Σ exp(−E) over the other."""
        units = self.visible if self._by_visible else self.hidden
        if units > MOST:
            most = f"log Z and exact samples are for layers of at most {MOST} units: use annealed importance sampling"
            raise ValueError(f"RBM({self.extra_repr()}) has 2^{units} states to enumerate, and {most}, and BlockGibbs")
        places = torch.arange(units, device=self.weights.device)
        for first in range(0, 2**units, AT_ONCE):
            numbers = torch.arange(first, min(first + AT_ONCE, 2**units), device=self.weights.device)
            states = ((numbers[:, None] >> places) & 1).to(self.weights)
            yield states, -self(states) if self._by_visible else self._of_hidden(states)

    def _of_hidden(self, h: Tensor) -> Tensor:
        """Computes log Σ_v exp(−E(v, h)), or its integral (states,)."""
        own = self.beta * (h @ self.hidden_bias)
        if self.units == "binary":
            return own + _softplus(self._onto_visible(h)).sum(-1)
        field, centre = self.beta * (h @ self.weights.T), self.beta * self.visible_bias
        return own + self.visible * LOG_2PI / 2 + (field * centre + field.square() / 2).sum(-1)


def _softplus(x: Tensor) -> Tensor:
    return functional.softplus(x, threshold=40.0)  # at the default of 20 float64 sees where it turns linear


def _bernoulli(chance: Tensor, generator: torch.Generator | None) -> Tensor:
    draws = torch.rand(chance.shape, generator=generator, dtype=chance.dtype, device=chance.device)
    return (draws < chance).to(chance.dtype)
