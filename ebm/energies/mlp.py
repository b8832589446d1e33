"""The multilayer perceptron as an energy of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from torch import Tensor, nn

from ebm.interfaces import Unconditional

Activation: TypeAlias = Literal["silu", "softplus", "gelu", "tanh"]

# Smooth ones only: samplers follow the gradient, and training differentiates it, where a ReLU's
# second derivative is zero.
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "softplus": nn.Softplus, "gelu": nn.GELU, "tanh": nn.Tanh}


def perceptron(widths: Sequence[int], activation: str) -> list[nn.Module]:
    """Makes hidden layers of these widths, and a head without bias: no gradient reaches a constant."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is unknown: choose one of {', '.join(ACTIVATIONS)}")
    hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), ACTIVATIONS[activation]())]
    return [*hidden, nn.Linear(widths[-1], 1, bias=False)]


class MLPEnergy(Unconditional):
    """Scores vectors with a multilayer perceptron: E(y) = wᵀ h(y), h with smooth activations.

    Arguments:
        dim: the length of y's last axis.
        hidden: widths of the hidden layers.
        activation: silu, softplus, gelu or tanh.

    Raises:
        ValueError: for sizes below 1, an unknown activation, and (at the call) another length.

    >>> MLPEnergy(dim=2, hidden=(16,))(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (128, 128), activation: Activation = "silu") -> None:
        super().__init__()
        if min(dim, *hidden, 1) < 1 or not hidden:
            raise ValueError(f"MLPEnergy(dim={dim}, hidden={tuple(hidden)}): pass sizes of at least 1, and a hidden layer")
        self.dim = dim
        self.layers = nn.Sequential(*perceptron((dim, *hidden), activation))

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        if y.shape[-1:] != (self.dim,):
            raise ValueError(f"y has shape {tuple(y.shape)}, but MLPEnergy(dim={self.dim}) scores (*chains, {self.dim})")
        return self.layers(y).squeeze(-1)
