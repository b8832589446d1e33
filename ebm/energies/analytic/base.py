"""What analytic energies share: the base class, and constants that are data or learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ebm.interfaces import Unconditional

LOG_2PI = math.log(2 * math.pi)

Number: TypeAlias = float | Tensor
Vector: TypeAlias = Sequence[float] | Tensor
Matrix: TypeAlias = Sequence[Sequence[float]] | Tensor


class Held(Unconditional):
    """Scores vectors y (*chains, dim) by means of constants, which it holds and checks."""

    dim: int

    def hold(self, **values: Any) -> None:
        """Holds constants: an nn.Parameter stays a parameter, anything else becomes a buffer.

        Numbers and lists take the dtype and device of the tensors among the values, or torch's
        defaults.

        Raises:
            ValueError: for a value that is not finite.
        """
        tensors = [value for value in values.values() if isinstance(value, Tensor)]
        dtypes = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
        dtype = reduce(torch.promote_types, dtypes) if dtypes else torch.get_default_dtype()
        device = tensors[0].device if tensors else None
        for name, value in values.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, torch.as_tensor(value, dtype=dtype, device=device).detach().clone())
            self.require(name, bool(torch.isfinite(getattr(self, name)).all()), "pass finite numbers")

    def require(self, name: str, holds: bool, remedy: str) -> None:
        """Raises ValueError, restating the argument, where a condition on it does not hold."""
        if not holds:
            value = getattr(self, name)
            shown = value.tolist() if isinstance(value, Tensor) and value.numel() <= 8 else f"<{tuple(value.shape)}>"
            raise ValueError(f"{type(self).__name__}({name}={shown}): {remedy}")

    def require_positive_number(self, *names: str) -> None:
        """Raises ValueError where an argument is not one positive number."""
        for name in names:
            value = getattr(self, name)
            self.require(name, value.ndim == 0 and bool(value > 0), "pass a positive number")

    def check(self, y: Tensor) -> None:
        """Raises ValueError where y's last axis is not `dim` long: broadcasting would hide it."""
        if y.shape[-1:] != (self.dim,):
            wanted = f"{type(self).__name__} is over {self.dim} coordinates: pass y (*chains, {self.dim})"
            raise ValueError(f"y has shape {tuple(y.shape)}, but {wanted}")

    def extra_repr(self) -> str:
        held = [*self.named_parameters(), *self.named_buffers()]
        return ", ".join([f"dim={self.dim}", *(f"{name}={value.item():g}" for name, value in held if not value.ndim)])


class Analytic(Held):
    """Is an energy over y (*chains, dim) whose moments, score and log Z are known.

    Attributes:
        dim: the number of coordinates.
        mean: E[y], (dim,).
        variance: Var[y] per coordinate, (dim,).
        log_z: log of the integral of exp(-E(y)) over y, ().
    """

    def score(self, y: Tensor) -> Tensor:
        """Computes -dE/dy (*chains, dim) in closed form, without autograd."""
        raise NotImplementedError(f"{type(self).__name__} must define score(y)")

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws n independent samples (n, dim) of p(y) = exp(-E(y)) / Z."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(n, *, generator=None)")
