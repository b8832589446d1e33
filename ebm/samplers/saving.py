"""Chains as named tensors, as safetensors keeps them, and back: they go on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils import _pytree as pytree  # private, but what torch.func itself maps trees by

from ebm.interfaces.precision import Fine

GENERATOR = "generator"


def to_tensors(state: Any, generator: Generator | None = None) -> dict[str, Tensor]:
    """Turns a sampler's State, and the generator it draws from, into named tensors.

    Names are the fields', with dots between nested ones ("inner.y"); numbers become tensors without
    axes, and fields that are None are left out. torch's global generator is `torch.default_generator`.

    Raises:
        ValueError: the state is no NamedTuple, or holds what is no tensor or number.

    >>> from ebm.samplers import MALA
    >>> g, bowl = torch.Generator().manual_seed(0), lambda y: (y**2).sum(-1) / 2
    >>> *_, (state, _) = MALA(0.5).trajectory(bowl, torch.zeros(3, 2), steps=4, generator=g)
    >>> saved = to_tensors(state, g)    # safetensors.torch.save_file(saved, "chains.safetensors")
    >>> sorted(saved)
    ['energy', 'gain', 'generator', 'grad', 't', 'y']
    >>> other = torch.Generator()
    >>> again = from_tensors(saved, MALA(0.5).init(bowl, torch.zeros(3, 2)), other)
    >>> ends = [MALA(0.5).sample(bowl, s, steps=4, generator=r) for s, r in ((state, g), (again, other))]
    >>> torch.equal(*ends)
    True
    """
    if not hasattr(state, "_fields"):
        raise ValueError(f"{type(state).__name__} is no sampler's State: pass what a trajectory yields, a NamedTuple")
    found: dict[str, Tensor] = {}
    for name, leaf in _named(state):
        if isinstance(leaf, Tensor):
            found[name] = leaf.detach().clone(memory_format=torch.contiguous_format)
        elif isinstance(leaf, bool | int | float):
            found[name] = torch.tensor(leaf, dtype=torch.float64 if isinstance(leaf, float) else None)
        elif leaf is not None and not callable(leaf):  # a landscape is code, which is passed again
            raise ValueError(f"{type(state).__name__}.{name} is {type(leaf).__name__}: only tensors and numbers can be saved")
    return found if generator is None else {**found, GENERATOR: generator.get_state()}


def from_tensors(tensors: Mapping[str, Tensor], like: Any, generator: Generator | None = None) -> Any:
    """Makes the State of `to_tensors` again, and sets the generator to where it was.

    Arguments:
        tensors: what `to_tensors` gave.
        like: a fresh state of the same sampler, sampler.init(energy, y), for y of any values.
        generator: what the chains draw from on; it is set.

    Raises:
        ValueError: the tensors are those of another sampler's state, or a generator is missing.
    """
    left = dict(tensors)
    if "one" in left and not isinstance(like, Fine):  # of a walk in half precision
        like = Fine(like, left["one"])
    seed = left.pop(GENERATOR, None)
    if (seed is None) != (generator is None):
        one, other = ("hold none", "leave it out") if seed is None else ("hold its state", "pass generator= of the same device")
        raise ValueError(f"from_tensors(generator={generator}), but the tensors {one}: {other}")
    leaves = [_restored(name, leaf, left, like.y.device) for name, leaf in _named(like)]
    if left:
        raise ValueError(f"the tensors hold {sorted(left)}, and {type(like).__name__} does not: they are another sampler's")
    if generator is not None and seed is not None:
        generator.set_state(seed.cpu())
    return pytree.tree_unflatten(leaves, pytree.tree_structure(like))


def _named(state: Any) -> list[tuple[str, Any]]:
    return [(pytree.keystr(path).lstrip("."), leaf) for path, leaf in pytree.tree_flatten_with_path(state)[0]]


def _restored(name: str, leaf: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    """Takes a leaf's value out of the tensors; `leaf` says what kind it is."""
    value = tensors.pop(name, None)
    if value is None:
        if leaf is None or callable(leaf):
            return leaf
        raise ValueError(f"the tensors lack {name!r}, which the state has: they are another sampler's")
    return type(leaf)(value.item()) if isinstance(leaf, bool | int | float) else value.to(device)
