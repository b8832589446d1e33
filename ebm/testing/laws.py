"""What a law is: a function of a case that calls `broken` where it does not hold. Its docstring
says what it demands."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebm.randomness import own_randomness, random_states

__all__ = ["LawBroken", "broken", "obey"]


class LawBroken(AssertionError):
    """A component breaks a law of its kind.

    Attributes:
        law: the law's name, in words.
        counterexample: what was seen.
        cause: the likely mistake, and the way out.
    """

    def __init__(self, law: str, demand: str, counterexample: str, cause: str) -> None:
        super().__init__(f"{law}\n  law: {demand}\n  counterexample: {counterexample}\n  likely cause: {cause}")
        self.law, self.counterexample, self.cause = law, counterexample, cause


class _Broken(Exception):
    """Carries a counterexample and a cause out of a law, which `obey` adds the law's name to."""


def broken(counterexample: str, cause: str) -> NoReturn:
    """Says, within a law, that it does not hold."""
    raise _Broken(counterexample, cause)


def obey(
    subject: str, laws: Sequence[Callable[[Any], None]], case: Callable[[], Any], seed: int, dtype: torch.dtype | None = None
) -> None:
    """Holds a case to laws, in order; with another default dtype, where tensors are made that
    follow no input.

    Raises:
        LawBroken: at the first that does not hold, or that cannot be looked at because the
        component raises.
    """
    with own_randomness(seed), _default_dtype(dtype):
        torch.rand(7), np.random.rand(), random.random()  # away from the seed, which shows seeding anew
        built: Any = None
        for law in (None, *laws):
            try:
                with torch.enable_grad():  # whatever a component leaves behind
                    if law is None:
                        built = case()
                    else:
                        law(built)
            except _Broken as found:
                raise LawBroken(_named(subject, law), _demand(law), *found.args) from found.__context__
            except Exception as error:  # its author sees what a component raises, with the law beside it
                seen = f"{type(error).__name__}: {error}"
                cause = "the component raises where the law calls it; the traceback above says where"
                raise LawBroken(_named(subject, law), _demand(law), seen, cause) from error


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype or usual)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _named(subject: str, law: Callable[[Any], None] | None) -> str:
    return f"{subject}: {'it can be built' if law is None else law.__name__.replace('_', ' ')}"


def _demand(law: Callable[[Any], None] | None) -> str:
    return "The factory takes no arguments and returns the component." if law is None else " ".join((law.__doc__ or "").split())


# ------------------------------------------------------------------------------------------------------------------ trees


def mapped(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Applies a function to every tensor of a nested structure."""
    return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def leaves(tree: Any) -> list[Tensor]:
    """Lists the tensors of a nested structure."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def double(tree: Any) -> Any:
    """Turns floating tensors into float64, so that rounding explains nothing."""
    return floating(mapped(lambda leaf: leaf.detach(), tree), torch.float64)


def floating(tree: Any, dtype: torch.dtype) -> Any:
    """Turns floating tensors into a dtype; whole numbers stay."""
    return mapped(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def cloned(tree: Any) -> Any:
    return mapped(lambda leaf: leaf.detach().clone(), tree)


def same(one: Any, other: Any) -> bool:
    """Tells whether two structures hold the same tensors, entry by entry."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def rows(tree: Any, index: Tensor, count: int) -> Any:
    """Takes rows of every tensor whose first axis has `count` rows; others are shared by all rows."""
    return mapped(lambda leaf: leaf[index] if leaf.ndim and len(leaf) == count else leaf, tree)


# -------------------------------------------------------------------------------------------------------------- comparing


def close(one: Tensor, other: Tensor, rtol: float = 1e-6) -> bool:
    """Compares float64 results, relative to the largest of them."""
    if one.shape != other.shape:
        return False
    one, other = one.detach(), other.detach()
    scale = max(float(one.abs().max()), float(other.abs().max())) if one.numel() else 0.0
    return not one.numel() or float((one - other).abs().max()) <= rtol * scale + 1e-12


def worst(one: Tensor, other: Tensor) -> tuple[tuple[int, ...], float, float]:
    """Finds where two tensors of one shape differ most: (index, a, b)."""
    gap = (one.detach() - other.detach()).abs().nan_to_num(math.inf)
    place = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
    return place, float(one[place]), float(other[place])


def shown(value: float) -> str:
    return f"{value:.6g}"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------- what is left alone


def touched(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names the global generators whose state differs between two `random_states`."""
    names = {"torch": "torch's", "cuda": "CUDA's", "python": "Python's", "numpy": "NumPy's"}
    return [names[key] for key in names if not _same_state(before[key], after[key])]


def _same_state(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list) and one and isinstance(one[0], Tensor):
        return all(map(torch.equal, one, other))
    return bool(one == other)


@contextmanager
def draws_nothing_global(what: str) -> Iterator[None]:
    """Breaks the law where the block draws from a global generator."""
    torch.rand(1)  # so that seeding the generator anew shows
    before = random_states()
    yield
    if used := touched(before, random_states()):
        broken(
            f"{what} moved {' and '.join(used)} global generator",
            "it draws without the generator that it was given: pass generator= to every draw (torch.randn(…, generator=g), "
            "tensor.normal_(generator=generator), ebm.randomness.randn_like(y, generator)), and to whatever draws for it",
        )


def stir(seed: int) -> None:
    """Puts the global generators into another state."""
    for seeded in (torch.manual_seed, random.seed, np.random.seed):
        seeded(seed + 12345)


def snapshot(module: Any, buffers: bool = True) -> dict[str, Any]:
    """Copies what a module holds: parameters, buffers, modes, gradients, and which parameters require them."""
    if not isinstance(module, nn.Module):
        return {}
    held: dict[str, Any] = {}
    for name, parameter in module.named_parameters():
        held[f"parameter {name}"] = parameter.detach().clone()
        held[f"the gradient of parameter {name}"] = None if parameter.grad is None else parameter.grad.clone()
        held[f"requires_grad of parameter {name}"] = parameter.requires_grad
    if buffers:
        held |= {f"buffer {name}": buffer.clone() for name, buffer in module.named_buffers()}
    held |= {f"the mode (training) of {name or 'the module'}": part.training for name, part in module.named_modules()}
    return held


def changed(module: Any, before: dict[str, Any], buffers: bool = True) -> str | None:
    """Names the first thing that differs from a snapshot."""
    after = snapshot(module, buffers)
    for name in (*before, *(name for name in after if name not in before)):
        one, other = before.get(name), after.get(name)
        tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
        if not (same(one, other) if tensors else one is other):  # others are True, False or None
            return name
    return None


# -------------------------------------------------------------------------------------------------------------- modules


def built(factory: Callable[[], Any], kind: type | None, what: str, seed: int = 0) -> Any:
    """Calls a factory, whose random draws (of initial weights) are those of a seed."""
    if not callable(factory) or isinstance(factory, nn.Module):
        broken(f"the factory is {factory!r}", f"pass what makes {what}, as in lambda: Mine(dim=2), not {what} itself")
    with own_randomness(seed):
        made = factory()
    if kind is not None and not isinstance(made, kind):
        broken(
            f"the factory returned a {type(made).__name__}", f"subclass ebm's {kind.__name__}, which gives what the toolkit calls"
        )
    return made


def copied(module: Any) -> Any:
    """Copies a module; anything else stays as it is."""
    if not isinstance(module, nn.Module):
        return module
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        broken(
            f"it cannot be copied: {error}",
            "a tensor with a graph is kept on it, as one computed once from parameters: compute it in forward or encode, or its "
            "graph is gone after the first backward and its value is stale after the first training step",
        )


def in_double(module: Any) -> Any:
    """Copies a module to float64; anything else stays as it is."""
    module = copied(module)
    return module.double() if isinstance(module, nn.Module) else module


def calm_dropout(module: Any) -> Any:
    """Puts dropout in eval mode, so that train mode is a function, too."""
    if isinstance(module, nn.Module):
        for part in module.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.eval()
    return module


def batch_norms(module: Any) -> list[str]:
    """Names the layers of a module that take statistics over the batch."""
    if not isinstance(module, nn.Module):
        return []
    return [name for name, part in module.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
