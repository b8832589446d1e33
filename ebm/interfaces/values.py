"""The values that pass between components: batches, losses, states, infos and predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map  # private, but what torch.func itself maps trees by

Kind = TypeVar("Kind", bound=type)


def savable(kind: Kind) -> Kind:
    """Decorates a State, so that torch.load(…, weights_only=True) reads what torch.save wrote."""
    torch.serialization.add_safe_globals([kind])
    return kind


class Batch(NamedTuple):
    """One batch of data: rows of targets, their contexts, and each chain's weight."""

    target: Any
    context: Any = None
    weight: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Averages values (*chains,) by weight: sum(w d) / sum(w), or 0 if all w are 0.

        >>> Batch(None, weight=torch.tensor([1.0, 1.0, 0.0])).mean(torch.tensor([1.0, 3.0, 100.0]))
        tensor(2.)
        """
        if self.weight is None:
            return values.mean()
        if self.weight.shape != values.shape:
            raise ValueError(f"weight shape {tuple(self.weight.shape)} differs from the chains' {tuple(values.shape)}")
        total = self.weight.sum()
        # Values of weight 0 do not count, even where not finite; no weight at all gives 0.
        counted = torch.where(self.weight > 0, values, torch.zeros_like(values))
        return (self.weight * counted).sum() / torch.where(total > 0, total, torch.ones_like(total))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Moves every tensor to a device; with `non_blocking`, from pinned memory, without waiting for it.

        >>> Batch(torch.ones(2, 3), context=(torch.zeros(2), "label")).to("cpu").context
        (tensor([0., 0.]), 'label')
        """
        return self._map(lambda leaf: leaf.to(device, non_blocking=non_blocking))

    def pinned(self) -> Batch:
        """Copies every tensor of the CPU to pinned memory, from which an accelerator copies by itself."""
        return self._map(lambda leaf: leaf.pin_memory() if leaf.is_cpu else leaf)

    def rows(self, index: Any) -> Batch:
        """Takes rows of every tensor, by a slice, a list or a tensor of indices.

        >>> Batch(torch.arange(4), weight=torch.ones(4)).rows(slice(1, 3)).target
        tensor([1, 2])
        """
        return self._map(lambda leaf: leaf[index])

    def flaw(self) -> str:
        """Says which of target, context and weight is NaN, or infinite, and in which rows; or "".

        >>> Batch(torch.tensor([[1.0], [torch.nan]])).flaw()
        "the batch's target is NaN in 1 of 2 rows (row 1 first): mend the data, or leave such rows out"
        """
        for name, part in self._asdict().items():
            for leaf in tree_leaves(part):
                if isinstance(leaf, Tensor) and leaf.ndim and not bool(leaf.isfinite().all()):
                    bad = (~leaf.isfinite()).reshape(len(leaf), -1).any(1).nonzero().flatten().tolist()
                    what = f"the batch's {name} is {'NaN' if bool(leaf.isnan().any()) else 'infinite'}"
                    where = f"in {len(bad)} of {len(leaf)} rows (row {bad[0]} first)"
                    return f"{what} {where}: mend the data, or leave such rows out"
        return ""

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Changes every tensor, also in tuples, lists and dictionaries; the rest stays as it is."""
        return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, self)


def as_batch(data: Any) -> Batch:
    """Makes a batch of what a loader gives: y, [y], or (y, context), as tensors or arrays.

    A `Batch`, or what has a `target` as one, stays as it is; floats of NumPy become torch's default
    floats.

    Raises:
        ValueError: for anything else, and for two vectors, which may be rows or y with a context.

    >>> as_batch([torch.ones(4, 2), torch.arange(4)]).context
    tensor([0, 1, 2, 3])
    """
    if hasattr(data, "target"):
        return data
    parts = [*data] if isinstance(data, tuple | list) else [data]
    fits = len(parts) in (1, 2) and all(isinstance(part, Tensor) or hasattr(part, "__array__") for part in parts)
    tensors = [_tensor(part) for part in parts] if fits else []
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if not fits or not all(shapes) or len({shape[0] for shape in shapes}) > 1 or [*map(len, shapes)] == [1, 1]:
        shown = f"of shapes {', '.join(map(str, shapes))}" if fits else f"of {', '.join(type(part).__name__ for part in parts)}"
        what = type(data).__name__ + (f" {shown}" if isinstance(data, tuple | list) or fits else "")
        raise ValueError(f"the batch is a {what}: pass y (rows, *event), a pair (y, context), or ebm.Batch(target=y, context=…)")
    return Batch(*tensors)


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise ValueError(f"the batch holds values of type {found.dtype}: pass numbers")
    tensor = torch.from_numpy(np.array(found))
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


class Loss(NamedTuple):
    """What an objective returns: the scalar to differentiate, and detached scalars to log."""

    value: Tensor
    terms: dict[str, Tensor]


@savable
class State(NamedTuple):
    """What a sampler's next step needs; samplers that remember more have a NamedTuple of their own.

    That has `y`, too, and is `savable`. Other fields may be None until the first step: only energies show which axes
    are chains.
    """

    y: Tensor
    t: int = 0  # steps taken so far, for schedules
    scale: Tensor | None = None  # (*chains,): this trajectory's draw of the step-size scale
    gain: float = 1.0  # the present landscape's multiplier of the step size


class Info(NamedTuple):
    """What a step reports: the energies (*chains,) at its start, their gradient, and acceptance."""

    energy: Tensor
    grad: Tensor | None = None
    accepted: Tensor | None = None

    @property
    def grad_norm(self) -> Tensor | None:
        """Computes each chain's gradient norm (*chains,), only when asked."""
        return None if self.grad is None else self.grad.detach().reshape(*self.energy.shape, -1).norm(dim=-1)


class Prediction(NamedTuple):
    """What a predictor returns: y, its energy (None without one), and forward passes per chain."""

    y: Tensor
    energy: Tensor | None
    evaluations: float  # on average, where some chains stop early


class Predictor(Protocol):
    """What a task judges: a `Thinker(energy, sampler)` or a feed-forward baseline.

    A predictor with several `candidates` gets as many starts, as the leading axis of `start`. One
    that scores given configurations, too, is a `Scorer`.
    """

    def predict(self, batch: Batch, start: Tensor, *, generator: Generator | None = None) -> Prediction: ...
