"""The multilayer perceptron as an energy of vectors beside a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ebm.energies.mlp import ACTIVATIONS, Activation, perceptron
from ebm.interfaces import Energy


class ConditionalMLP(Energy):
    """Scores vectors beside a context c: E(y | c) = wᵀ h([y, c]), h a multilayer perceptron.

    The first layer's part for c is the code: it is computed once for all steps and candidates.

    Arguments:
        dim: the length of y's last axis.
        context_dim: the length of the context's last axis.
        hidden: widths of the hidden layers.
        activation: silu, softplus, gelu or tanh.

    Raises:
        ValueError: for sizes below 1, an unknown activation, and (at the call) no context, or a y
            or a context of another shape.

    >>> energy = ConditionalMLP(dim=2, context_dim=3, hidden=(16,))
    >>> energy.given(torch.zeros(5, 3))(torch.zeros(7, 5, 2)).shape    # 7 candidates
    torch.Size([7, 5])
    """

    def __init__(self, dim: int, context_dim: int, hidden: Sequence[int] = (128, 128), activation: Activation = "silu") -> None:
        super().__init__()
        if min(dim, context_dim, *hidden, 1) < 1 or not hidden:
            sizes = f"dim={dim}, context_dim={context_dim}, hidden={tuple(hidden)}"
            raise ValueError(f"ConditionalMLP({sizes}): pass sizes of at least 1, and a hidden layer")
        self.dim, self.context_dim = dim, context_dim
        # Drawn as one layer of [y, c], and held in two parts.
        whole = nn.Linear(dim + context_dim, hidden[0])
        self.of_y, self.of_context = nn.Linear(dim, hidden[0]), nn.Linear(context_dim, hidden[0], bias=False)
        parts = whole.weight.data.split((dim, context_dim), 1)
        self.of_y.weight.data, self.of_context.weight.data = (part.clone() for part in parts)
        self.of_y.bias.data = whole.bias.data
        layers = perceptron(hidden, activation)
        self.layers = nn.Sequential(ACTIVATIONS[activation](), *layers)

    def encode(self, context: Any = None, level: int = -1) -> Tensor:
        """Computes the context's part of the first layer: (*rows, hidden[0])."""
        if not isinstance(context, Tensor) or context.shape[-1:] != (self.context_dim,):
            kind = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
            wanted = f"ConditionalMLP(context_dim={self.context_dim}) takes (*rows, {self.context_dim})"
            raise ValueError(f"the context is {kind}: {wanted}")
        return self.of_context(context)

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        """Maps y (*chains, dim) to energies (*chains,); contexts may lack leading axes of y."""
        if code is None:
            raise ValueError("ConditionalMLP scores y beside a context: bind one with given(context)")
        if y.shape[-1:] != (self.dim,):
            raise ValueError(f"y has shape {tuple(y.shape)}, but ConditionalMLP(dim={self.dim}) scores (*chains, {self.dim})")
        rows, chains = code.shape[:-1], y.shape[:-1]
        if rows != chains[len(chains) - len(rows) :]:
            raise ValueError(f"contexts of rows {tuple(rows)} for chains {tuple(chains)}: pass one for every row")
        return self.layers(self.of_y(y) + code).squeeze(-1)
