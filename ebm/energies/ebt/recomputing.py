"""Activation checkpointing, twice differentiable: a block keeps its inputs, and is computed again in each backward pass.

torch's own `checkpoint` computes a block again when its gradient is taken, and the graph of that
gradient then holds what the block computes after all: where the gradient is differentiated once
more, as by an EBT, next to nothing is saved. Here a piece x ↦ f(x) and its gradient x̄ = J(x)ᵀ ȳ are
both functions that keep inputs alone, x and ȳ. The gradient computes f again, and its own derivative
computes f and x̄ again. A third derivative is an error.

Source: gradient checkpointing, Chen et al. (arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from ebm.energies.ebt.kernels import Grads, Kernel, is_wanted, last_derivative

Tensors = tuple[Tensor, ...]
THIRD = "a third derivative with activation_checkpointing: blocks are computed again up to the second"


class Blockwise(nn.Module):
    """A network of blocks, each of which is computed again in the backward pass where it `recomputes`."""

    recomputes = False

    def through(self, parts: Sequence[nn.Module], piece: Callable[..., Any], *inputs: Tensor | None) -> Any:
        """Computes piece(*inputs): a tensor, or a tuple of them.

        Whatever of it has a gradient must be among the inputs, or a parameter of `parts`.
        """
        if not (self.recomputes and torch.is_grad_enabled()):
            return piece(*inputs)
        return recomputed(parts, piece, *inputs)


def recomputed(parts: Sequence[nn.Module], piece: Callable[..., Any], *inputs: Tensor | None) -> Any:
    """Computes piece(*inputs) and keeps nothing but inputs for its first and second derivatives.

    Arguments:
        parts: modules whose parameters the piece uses.
        piece: returns a tensor, or a tuple of them.
        inputs: all tensors beside those parameters that have a gradient; or None.

    Raises:
        RuntimeError: a third derivative is taken.

    >>> layer, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    >>> y = recomputed([layer], lambda x: layer(x).tanh(), x)
    >>> torch.equal(y, layer(x).tanh())
    True
    """
    made = _Piece(parts, piece, inputs)
    found = _Value.apply(made, *(x for x in inputs if x is not None), *made.parameters())
    return found if made.several else found[0]


class _Piece:
    """A function of a flat list of tensors, under the autocast and with the random numbers of its first call."""

    def __init__(self, parts: Sequence[nn.Module], piece: Callable[..., Any], inputs: Sequence[Tensor | None]) -> None:
        modules = [module for part in parts for module in part.modules()]
        self.places = [(module, name) for module in modules for name, p in module._parameters.items() if p is not None]
        self.piece, self.there, self.several = piece, [x is not None for x in inputs], False
        self.kind = next(x.device.type for x in inputs if x is not None)
        self.autocast = torch.is_autocast_enabled(self.kind), torch.get_autocast_dtype(self.kind)
        self.drawn = torch.get_rng_state(), *get_device_states(*inputs)

    def parameters(self) -> list[Tensor]:
        return [module._parameters[name] for module, name in self.places]  # type: ignore[misc]

    def __call__(self, tensors: Sequence[Tensor]) -> Tensors:
        count = sum(self.there)
        given = iter(tensors[:count])
        with self._with(tensors[count:]):
            found = self.piece(*(next(given) if there else None for there in self.there))
        self.several = isinstance(found, tuple)
        return found if isinstance(found, tuple) else (found,)

    def again(self, tensors: Sequence[Tensor]) -> Tensors:
        """Computes it once more, as it was computed first."""
        state, devices, states = self.drawn
        enabled, dtype = self.autocast
        with torch.random.fork_rng(devices, device_type=self.kind if devices else "cuda"), torch.enable_grad():
            torch.set_rng_state(state)
            if devices:
                set_device_states(devices, states, device_type=self.kind)
            with torch.autocast(self.kind, dtype, enabled, cache_enabled=False):
                return self(tensors)

    @contextmanager
    def _with(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Lets the parts use other tensors as their parameters."""
        own = self.parameters()
        try:
            for (module, name), tensor in zip(self.places, parameters, strict=True):
                module._parameters[name] = tensor  # type: ignore[assignment]
            yield
        finally:
            for (module, name), tensor in zip(self.places, own, strict=True):
                module._parameters[name] = tensor  # type: ignore[assignment]


def _leaves(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [x.detach().requires_grad_(asked) for x, asked in zip(tensors, wanted, strict=True)]


def _chosen(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [x for x, asked in zip(tensors, wanted, strict=True) if asked]


class _Value(Kernel):
    @staticmethod
    def forward(piece: _Piece, *tensors: Tensor) -> Tensors:
        return piece(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.piece = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        tensors = ctx.saved_tensors
        wanted = tuple(map(is_wanted, tensors))  # a sampler asks for the gradient of y alone
        if not any(wanted):
            return None, *(None for _ in wanted)
        made = iter(_Gradient.apply(ctx.piece, wanted, *grads, *tensors))
        return None, *(next(made) if asked else None for asked in wanted)


class _Gradient(Kernel):
    @staticmethod
    def forward(piece: _Piece, wanted: tuple[bool, ...], *tensors: Tensor) -> Tensors:
        grads, leaves = tensors[: -len(wanted)], _leaves(tensors[-len(wanted) :], wanted)
        outputs = piece.again(leaves)
        return torch.autograd.grad(outputs, _chosen(leaves, wanted), grads, materialize_grads=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.piece, ctx.wanted = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    @partial(last_derivative, message=THIRD)
    def backward(ctx: Any, *directions: Tensor) -> Grads:
        tensors, asked = ctx.saved_tensors, ctx.needs_input_grad[2:]
        wanted = (*(False,) * (len(tensors) - len(ctx.wanted)), *ctx.wanted)
        leaves = _leaves(tensors, [a or b for a, b in zip(asked, wanted, strict=True)])
        grads, inputs = leaves[: -len(ctx.wanted)], leaves[-len(ctx.wanted) :]
        with torch.enable_grad():
            how: dict[str, Any] = {"create_graph": True, "materialize_grads": True}
            firsts = torch.autograd.grad(ctx.piece.again(inputs), _chosen(inputs, ctx.wanted), grads, **how)
            moved = [(first, way) for first, way in zip(firsts, directions, strict=True) if first.requires_grad]
            if not moved:  # the gradient is the same everywhere
                return None, None, *(None for _ in asked)
            some, ways = zip(*moved, strict=True)
            made = iter(torch.autograd.grad(some, _chosen(leaves, asked), ways, materialize_grads=True))
        return None, None, *(next(made) if a else None for a in asked)
