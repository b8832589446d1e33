"""Counting what operations compute and move, as they are called."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

ASKS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.allclose.default)
STILL = ("device", "detach", "promote_types", "_unsafe_view", "_reshape_alias", "empty")  # in names of what moves nothing


if torch.backends.mkldnn.is_available():  # which torch does not know how to count, so that it would count nothing

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _product(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        """Counts oneDNN's x Wᵀ by the shapes of x (rows, k) and W (m, k)."""
        return 2 * math.prod(x) * weight[0]


@cache
def _known_of(func: Any) -> tuple[Callable[..., int] | None, bool, bool]:
    """Looks up how an operation's FLOPs are counted, and whether it makes tensors, and moves numbers."""
    makes, still = not func.is_view, any(word in func.name() for word in STILL)
    return flop_registry.get(func._overloadpacket), makes, makes and not still


class Counter(TorchDispatchMode):
    """Counts the operations under it: what their matrix products compute, and what all of them move.

    FLOPs are by torch's own `flop_registry`, as `FlopCounterMode` counts, whose hooks on modules
    forbid a gradient inside the loss. Of first and second derivatives it sees the products that are
    computed, whoever wrote them. Bytes are what each operation reads and writes, as if nothing stayed
    in a cache or was fused.

    A tensor without numbers (`FakeTensor`) may be asked for one, as by a check that all is finite:
    it is told that all is well (True, or 0), so a loop that waits for its chains takes all its turns.

    Attributes:
        flops: floating-point operations of products and convolutions, a multiplication and an addition
            being two.
        bytes: read and written.
        peak: the most bytes that tensors made here held at a time.

    >>> with Counter() as counter:
    ...     y = torch.ones(2, 3) @ torch.ones(3, 5)
    >>> counter.flops
    60
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.held = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in ASKS and isinstance(args[0], FakeTensor):
            kind = args[0].dtype if func is ASKS[0] else torch.bool
            return True if kind is torch.bool else 0.0 if kind.is_floating_point else 0
        found = func(*args, **kwargs)
        formula, makes, moves = _known_of(func)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=found)
        if moves:
            self.bytes += sum(map(moved, (*tensors((args, kwargs)), *tensors(found))))
        if makes:
            for tensor in tensors(found):
                self._hold(tensor)
        return found

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage not in self._known:
            self._known[storage] = None
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.held -= size


def tensors(tree: Any) -> Iterator[Tensor]:
    """Lists the tensors in a tree."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def moved(tensor: Tensor) -> int:
    """Counts a tensor's bytes; of one that is expanded, those that there are."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
