"""Regions: what lies between a block's matrix products, compiled once with both its derivatives.

A region is a pure function of rows. torch.compile refuses to differentiate its programs twice, so a
region has a program for each derivative that training takes: y = f(x), its gradient x̄ = J(x)ᵀ ȳ, and
the gradient of ⟨x̄, ẋ⟩. Nothing but inputs is kept between them, since what a region computes costs
less than reading it. Weights are inputs, and how many rows there are is open: all blocks, streams,
landscapes and batches share the programs. Products, rotations and attention stay as they are; there
a compiler has nothing to gain (docs/experiments.md, 2026-11-30).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.energies.ebt.kernels import Kernel, gated, is_wanted, last_derivative, rms_norm

EPSILON = 1e-5  # as in Llama; it matters, for candidates start small
Tensors = tuple[Tensor, ...]
Mask = tuple[bool, ...]
SMALL, LARGE = 2**15, 2**20  # numbers in rows, on CPUs and elsewhere: with fewer, a call costs more than passes over them
LIMIT = 64  # versions of a program: dtypes, one row or many, rows as wide as many


class Region:
    """Applies f: rows (*, D) and vectors (D,) -> rows, which a compiler makes programs of.

    Rows all have one shape but for their last axis. Programs are made when they are first asked
    for, by torch.compile's options. A third derivative is an error.

    >>> double = Region(lambda x: (2 * x,), backend="eager")
    >>> double(torch.ones(2, 3, 1))[0].shape
    torch.Size([2, 3, 1])
    """

    def __init__(self, function: Callable[..., Tensors], **options: Any) -> None:
        self.function, self.options = function, options
        self.programs: dict[tuple[int, Mask], Callable[..., Any]] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensors:
        """Computes f; arguments that it may do without, at the end, may be None."""
        return _Value.apply(self, *(x for x in inputs if x is not None))

    def run(self, order: int, wanted: Mask, *given: Tensors) -> Tensors:
        """Runs the program of a derivative; results have the leading axes that rows have."""
        like = given[-1][0]
        program = self.programs.get((order, wanted)) or self._compiled(order, wanted)
        flat = [tuple([_rows(x) for x in tensors]) for tensors in given]
        if torch.is_autocast_enabled(like.device.type):  # types are decided outside
            with torch.autocast(like.device.type, enabled=False):
                made = program(*flat)
        else:
            made = program(*flat)
        leading = like.shape[:-1]
        return tuple([x.view(*leading, x.shape[-1]) if x.ndim == 2 else x for x in made])

    def _compiled(self, order: int, wanted: Mask) -> Callable[..., Any]:
        more: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": LIMIT}  # which older versions of torch lack
        more = {key: value for key, value in more.items() if key in inspect.signature(torch.compile).parameters}
        options = {"dynamic": True, "fullgraph": True, **more, **self.options}
        made = torch.compile((_value, _gradient, _curvature)[order](self.function, wanted), **options)
        return self.programs.setdefault((order, wanted), made)


def _rows(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1]).contiguous() if x.ndim > 1 else x.detach()


def _value(function: Callable[..., Tensors], _: Mask) -> Callable[..., Tensors]:
    return lambda inputs: function(*inputs)


def _gradient(function: Callable[..., Tensors], wanted: Mask) -> Callable[..., Tensors]:
    """Makes (ȳ, x) -> x̄, of the inputs wanted alone."""

    def gradient(grads: Tensors, inputs: Tensors) -> Tensors:
        def moved(*some: Tensor) -> Tensors:
            left = iter(some)
            return function(*(next(left) if asked else x for x, asked in zip(inputs, wanted, strict=True)))

        back = torch.func.vjp(moved, *(x for x, asked in zip(inputs, wanted, strict=True) if asked))[1]
        return back(grads)

    return gradient


def _curvature(function: Callable[..., Tensors], wanted: Mask) -> Callable[..., Tensors]:
    """Makes (ẋ, ȳ, x) -> the gradients of ⟨x̄, ẋ⟩ with respect to ȳ and x."""

    def curvature(directions: Tensors, grads: Tensors, inputs: Tensors) -> Tensors:
        back = torch.func.vjp(_gradient(function, wanted), grads, inputs)[1]
        to_grads, to_inputs = back(directions)
        return (*to_grads, *to_inputs)

    return curvature


class _Value(Kernel):
    @staticmethod
    def forward(region: Region, *inputs: Tensor) -> Tensors:
        return region.run(0, (), inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.region = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        wanted = tuple(map(is_wanted, inputs))  # a sampler asks for the gradient of y alone
        made = iter(_Gradient.apply(ctx.region, wanted, *grads, *inputs))
        return None, *(next(made) if asked else None for asked in wanted)


class _Gradient(Kernel):
    @staticmethod
    def forward(region: Region, wanted: Mask, *tensors: Tensor) -> Tensors:
        return region.run(1, wanted, tensors[: -len(wanted)], tensors[-len(wanted) :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.region, ctx.wanted = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    @last_derivative
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.wanted)
        return None, None, *ctx.region.run(2, ctx.wanted, directions, ctx.saved_tensors[:-count], ctx.saved_tensors[-count:])


class Regions(NamedTuple):
    """What a block's regions are; each is told in plain formulas, which a compiler fuses."""

    enter: Region  # (x, weight[, shift]) -> its norm
    join: Region  # (x, branch, weight[, gate, shift]) -> x with the branch, and its norm
    middle: Region  # (gate beside up) -> silu(gate) up

    def __reduce__(self) -> Any:  # a model's copies share its programs, and programs are not saved
        return _again, (self.enter.options,)

    def suit(self, x: Tensor) -> bool:
        """Tells whether x is worth a program, and not itself part of one."""
        return x.numel() >= (SMALL if x.is_cpu else LARGE) and not torch.compiler.is_compiling()


def enter(x: Tensor, weight: Tensor, shift: Tensor | None = None) -> tuple[Tensor]:
    normed = rms_norm(x, weight, EPSILON)
    return (normed if shift is None else normed + shift,)


def join(
    x: Tensor, branch: Tensor, weight: Tensor, gate: Tensor | None = None, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    x = x + branch if gate is None else torch.addcmul(x, gate, branch)
    return x, *enter(x, weight, shift)


def middle(both: Tensor) -> tuple[Tensor]:
    return (gated(both),)


_made: dict[str, Regions] = {}


def regions(**options: Any) -> Regions:
    """Makes the regions of a block, compiled by these options of torch.compile; once in a process."""
    key = repr(sorted(options.items()))
    if key not in _made:
        _made[key] = Regions(*(Region(function, **options) for function in (enter, join, middle)))
    return _made[key]


def _again(options: dict[str, Any]) -> Regions:
    return regions(**options)
