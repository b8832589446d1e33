"""The multilayer perceptron as an energy of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from ebm.interfaces import Unconditional

Activation: TypeAlias = Literal["silu", "softplus", "gelu", "tanh"]

# Smooth only: samplers follow the gradient, and training differentiates it once more, where a
# ReLU's is zero.
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "softplus": nn.Softplus, "gelu": nn.GELU, "tanh": nn.Tanh}
assert set(ACTIVATIONS) == set(get_args(Activation))


class MLPEnergy(Unconditional):
    """Scores vectors with a multilayer perceptron: E(y) = wᵀ h(y), h with smooth activations.

    The last layer has no bias: it would only add a constant, which no gradient reaches.

    Arguments:
        dim: the length of y's last axis.
        hidden: widths of the hidden layers.
        activation: silu, softplus, gelu or tanh.

    Raises:
        ValueError: for sizes below 1, an unknown activation, and (at the call) a y whose last axis
            is not `dim`.

    >>> import torch
    >>> MLPEnergy(dim=2, hidden=(16,))(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (128, 128), activation: Activation = "silu") -> None:
        super().__init__()
        if min(dim, *hidden, 1) < 1 or not hidden:
            raise ValueError(f"MLPEnergy(dim={dim}, hidden={tuple(hidden)}): pass sizes of at least 1, and a hidden layer")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is unknown: choose one of {', '.join(ACTIVATIONS)}")
        self.dim = dim
        layers: list[nn.Module] = []
        for before, after in zip((dim, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1, bias=False))

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        """Maps y (*chains, dim) to energies (*chains,)."""
        if y.shape[-1:] != (self.dim,):
            raise ValueError(f"y has shape {tuple(y.shape)}, but MLPEnergy(dim={self.dim}) scores (*chains, {self.dim})")
        return self.layers(y).squeeze(-1)
