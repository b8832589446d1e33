"""Trees: a dict, tuple or list of tensors (they may nest) as one flat vector per chain, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

# Private, but what torch.func itself maps trees by.
from torch.utils._pytree import TreeSpec, tree_flatten_with_path, tree_unflatten

from ebm.interfaces.composed import Modified
from ebm.interfaces.energy import EnergyFn


@dataclass(frozen=True)
class Packing:
    """How a tree of tensors (*chains, *event) becomes one tensor (*chains, d), and back.

    `Packing.of(tree)` reads it off an example.

    Attributes:
        names: each tensor's path, such as "scale" or "layers.0".
        shapes: each tensor's event.
        chains: how many leading axes of the example's tensors are chains.

    >>> tree = {"scale": torch.ones(5), "weights": torch.zeros(5, 2, 3)}
    >>> packing = Packing.of(tree)
    >>> packing.pack(tree).shape, packing.names, packing.labels()[:3]
    (torch.Size([5, 7]), ('scale', 'weights'), ['scale', 'weights[0, 0]', 'weights[0, 1]'])
    >>> flat = packing.energy(lambda tree: tree["weights"].sum((-2, -1)) * tree["scale"])
    >>> flat(torch.ones(5, 7))
    tensor([6., 6., 6., 6., 6.])
    """

    spec: TreeSpec
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    chains: int = 1

    @classmethod
    def of(cls, tree: Any, chains: int = 1) -> Packing:
        """Reads names and shapes off an example; ValueError where its tensors do not fit together."""
        paths, spec = tree_flatten_with_path(tree)
        if not paths:
            raise ValueError(f"y is {type(tree).__name__}, with no tensor in it: pass a tensor, or a dict or tuple of tensors")
        named = {".".join(map(_key, path)): leaf for path, leaf in paths}
        for name, leaf in named.items():
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                what = f"{leaf.dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__
                way_out = "what moves are floating tensors; let the energy hold the rest"
                raise ValueError(f"y is {type(tree).__name__} whose {name or 'entry'} is {what}: {way_out}")
        (first, like), *others = named.items()
        for name, leaf in others:
            if (leaf.dtype, leaf.device) != (like.dtype, like.device):
                there = f"{name} is {leaf.dtype} on {leaf.device}"
                raise ValueError(f"{first} is {like.dtype} on {like.device}, but {there}: move them to one")
        if any(leaf.ndim < chains or leaf.shape[:chains] != like.shape[:chains] for leaf in named.values()):
            shapes = ", ".join(f"{name or 'y'} {tuple(leaf.shape)}" for name, leaf in named.items())
            raise ValueError(f"{shapes}: the first {chains} axes are the chains, and must be the same (chains={chains})")
        return cls(spec, tuple(named), tuple(leaf.shape[chains:] for leaf in named.values()), chains)

    def pack(self, tree: Any) -> Tensor:
        """Concatenates the events of a tree of this kind: (*chains, d); more leading axes may be there."""
        expected = ", ".join(f"{name} {tuple(shape)}" for name, shape in zip(self.names, self.shapes, strict=True))
        try:
            leaves = self.spec.flatten_up_to(tree)  # by key, whatever the order
        except ValueError as error:
            raise ValueError(f"the tree is not of the kind that was packed, {expected}: {error}") from None
        shapes = [tuple(leaf.shape[leaf.ndim - len(shape) :]) for leaf, shape in zip(leaves, self.shapes, strict=True)]
        if shapes != [*map(tuple, self.shapes)]:
            raise ValueError(f"a tree with events {shapes} is not of the kind that was packed: {expected}")
        flat = (leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], -1) for leaf, shape in zip(leaves, self.shapes, strict=True))
        return torch.cat([*flat], -1)

    def unpack(self, flat: Tensor) -> Any:
        """Makes the tree of a tensor (*chains, d), without copying it."""
        parts = flat.split([*map(prod, self.shapes)], -1)
        lead = flat.shape[:-1]
        return tree_unflatten([part.reshape((*lead, *shape)) for part, shape in zip(parts, self.shapes, strict=True)], self.spec)

    def energy(self, energy: EnergyFn) -> Packed:
        """Makes the energy of flat tensors of an energy of trees: E(flat) = E(tree)."""
        return Packed(energy, self)

    def labels(self) -> list[str]:
        """Names every coordinate of the flat tensor, for tables of chains."""
        named = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            places = torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist() if shape else [None]
            named += [name if place is None else f"{name}{place}" for place in places]
        return named


class Packed(Modified):
    """Scores flat tensors (*chains, d) by an energy of trees; contexts and landscapes are its own.

    Arguments:
        energy: an energy, or a function, of trees.
        packing: how trees are flattened.
    """

    def __init__(self, energy: EnergyFn, packing: Packing) -> None:
        super().__init__(energy)
        self.packing = packing

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        value = self.energy(self.packing.unpack(y), code)
        if isinstance(value, Tensor) and value.shape != y.shape[:-1]:
            chains = f"the chains are {tuple(y.shape[:-1])} (chains={self.packing.chains})"
            raise ValueError(f"the energy of a tree has shape {tuple(value.shape)}, but {chains}: one energy for each is needed")
        return value

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={tuple(shape)}" for name, shape in zip(self.packing.names, self.packing.shapes, strict=True))


def _key(entry: Any) -> str:
    """Reads one step of a path: a key of a dict, an index, or a field's name."""
    found: Callable[[str], Any] = lambda name: getattr(entry, name, None)  # noqa: E731
    return str(next(value for value in map(found, ("key", "idx", "name")) if value is not None))
