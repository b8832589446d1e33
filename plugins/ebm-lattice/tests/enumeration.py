"""Small models with every configuration listed: the oracle of all tests."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import chisquare

from ebm_lattice import Ising, Potts

DOUBLE = torch.float64


class Model(NamedTuple):
    """An energy, how its sites are written, and all of its configurations (count, *event)."""

    energy: object
    states: str
    all: torch.Tensor

    @property
    def p(self):
        return (-self.energy(self.all)).softmax(0).detach()

    def sample(self, n, generator):
        return self.all[self.p.multinomial(n, replacement=True, generator=generator)]

    def chi_square(self, y):
        """The p-value of "these rows are independent draws of the model"; rare configurations are
        one class."""
        codes = 1.0 + torch.arange(self.all[0].numel(), dtype=DOUBLE)
        weights = codes.sin()  # no two configurations have one code
        known, order = (self.all.flatten(1) @ weights).sort()
        found = y.flatten(1) @ weights
        index = order[torch.searchsorted(known, found - 1e-9).clamp(max=len(known) - 1)]
        assert torch.equal(self.all[index], y)
        counts, expected = np.bincount(index.numpy(), minlength=len(self.all)), self.p.numpy() * len(y)
        rare = expected < 5
        counts, expected = ([*values[~rare], values[rare].sum()] for values in (counts, expected))
        if expected[-1] < 5:  # too rare even together: one more with the commonest
            counts, expected = ([values[0] + values[-1], *values[1:-1]] for values in (counts, expected))
        return chisquare(counts, expected).pvalue


def spins(*shape):
    rows = [*itertools.product([-1.0, 1.0], repeat=int(np.prod(shape)))]
    return torch.tensor(rows, dtype=DOUBLE).reshape(-1, *shape)


def one_hot(*shape):
    *lattice, values = shape
    rows = torch.tensor([*itertools.product(range(values), repeat=int(np.prod(lattice)))])
    return torch.nn.functional.one_hot(rows, values).to(DOUBLE).reshape(-1, *shape)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def spin_glass():
    j, h = drawn(0, 6, 6).triu(1) / 3, drawn(1, 6) / 2
    return Model(lambda y: -((y @ j) * y).sum(-1) - y @ h, "spins", spins(6))


def value_glass():
    w, h = drawn(2, 3, 3, 3, 3) / 2, drawn(3, 3, 3) / 2
    w = w * (torch.arange(3)[:, None] < torch.arange(3))[:, None, :, None]
    return Model(lambda y: torch.einsum("...ia,iajb,...jb->...", y, w, y) - (h * y).sum((-2, -1)), "one-hot", one_hot(3, 3))


def network(states):
    every = spins(5) if states == "spins" else one_hot(3, 3)
    event = tuple(every.shape[1:])
    w, v = drawn(4, every[0].numel(), 8), 2 * drawn(5, 8)
    return Model(lambda y: (y.reshape(*y.shape[: y.ndim - len(event)], -1) @ w).tanh() @ v, states, every)


def ising(*shape, **keywords):
    energy = Ising(shape, **keywords).double()
    return Model(energy, "spins", spins(*shape))


def potts(*shape, values, **keywords):
    energy = Potts(shape, values, **keywords).double()
    return Model(energy, "one-hot", one_hot(*shape, values))


PAIRS = {
    "ising": ising(2, 3, coupling=0.4, field=[[0.3, -0.2, 0.0], [0.1, 0.0, 0.0]], periodic=False),
    "antiferromagnet on odd rings": ising(3, 3, coupling=-0.4),
    "spin glass": spin_glass(),
    "potts": potts(2, 2, values=3, coupling=0.9, field=[0.3, 0.0, -0.2], periodic=False),
    "unlike neighbours": potts(3, values=4, coupling=-1.0),
    "value glass": value_glass(),
}
OTHERS = {"network of spins": network("spins"), "network of values": network("one-hot")}
