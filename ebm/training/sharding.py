"""Sharded weights: each process holds its rows of every matrix, and gathers one whenever it is used.

Hooks of fully sharded modules (torch's `fully_shard`, block by block) gather a block's weights before
its forward and drop them after its backward. The backward of an energy's gradient uses them outside
both. Here the module's attribute is the gathered weight itself, a differentiable function of the
rows, whose derivative scatters: second and higher derivatives follow from the chain rule. What a
graph would save of a gathered weight is a note of which it was, and it is gathered again
where the graph asks for it: a process never holds more than the weights in use.

Processes must gather the same weights in the same order. `fingerprint` is what they compare.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer

from ebm.interfaces.agreement import agreeing
from ebm.runs.shards import Layout, own_rows

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ROWS = "_rows_of_whole"  # of a module: how many rows its sharded parameters have on all processes together
all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # newer and older torch's name
reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
order = [0]  # a checksum of what was gathered and scattered since the last step, and in which order


# ------------------------------------------------------------------------------------------------ gathering and scattering


class _Gather(torch.autograd.Function):
    """Makes whole tensors (rows, *rest) of all processes' rows; its transpose is `_Scatter`."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: int) -> Tensor:
        ctx.rows = rows
        return _gather(own, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(grad, ctx.rows), None


class _Scatter(torch.autograd.Function):
    """Sums whole tensors over processes, and leaves each its rows of the sum."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, rows: int) -> Tensor:
        ctx.rows = rows
        _note("scatter", whole.shape)
        ranks, mine = dist.get_world_size(), own_rows(rows, dist.get_rank(), dist.get_world_size())
        each = -(-rows // ranks)
        padded = _padded(whole, each * ranks)
        out = padded.new_empty((each, *whole.shape[1:]))
        reduce_scatter(out, padded)
        return out[: mine.stop - mine.start]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(grad, ctx.rows), None


def _gather(own: Tensor, rows: int) -> Tensor:
    _note("gather", (rows, *own.shape[1:]))
    ranks = dist.get_world_size()
    padded = _padded(own.detach(), -(-rows // ranks))
    whole = padded.new_empty((len(padded) * ranks, *own.shape[1:]))
    all_gather(whole, padded)
    return whole[:rows]


def _padded(rows: Tensor, count: int) -> Tensor:
    if len(rows) == count:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros((count - len(rows), *rows.shape[1:]))])


def _note(what: str, shape: Any) -> None:
    order[0] = zlib.crc32(f"{what}{tuple(shape)}".encode(), order[0])


def fingerprint() -> int:
    """Returns a checksum of what was gathered and scattered since it was last asked."""
    found, order[0] = order[0], 0
    return found


# ----------------------------------------------------------------------------------------------- what a graph keeps of it


class _Note(NamedTuple):
    """Stands in a graph for (a view of) a gathered weight."""

    own: nn.Parameter
    rows: int
    version: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Gathered(NamedTuple):
    """A gathered weight that is in use; the weak reference keeps its address from being used again."""

    storage: StorageWeakRef
    own: nn.Parameter
    rows: int
    version: int


_in_use: dict[int, _Gathered] = {}


def _remember(whole: Tensor, own: nn.Parameter, rows: int) -> Tensor:
    for key in [key for key, each in _in_use.items() if each.storage.expired()]:
        del _in_use[key]
    storage = StorageWeakRef(whole.untyped_storage())
    _in_use[storage.cdata] = _Gathered(storage, own, rows, own._version)
    return whole


def _pack(saved: Tensor) -> Any:
    found = _in_use.get(saved.untyped_storage()._cdata) if _in_use and saved.layout == torch.strided else None
    if found is None:
        return saved
    return _Note(*found[1:], saved.size(), saved.stride(), int(saved.storage_offset()))


def _unpack(kept: Any) -> Tensor:
    if not isinstance(kept, _Note):
        return kept
    if kept.own._version != kept.version:
        raise RuntimeError("a weight was changed between a forward and its backward pass: call backward before the next step")
    with torch.no_grad():
        whole = _remember(_gather(kept.own, kept.rows), kept.own, kept.rows)
        return whole.as_strided(kept.size, kept.stride, kept.offset)


@contextmanager
def gathered_anew(device: torch.device) -> Iterator[None]:
    """Lets graphs that are made inside keep no gathered weight, but gather it again.

    Processes gather together: numbers that decide how often are drawn by the first for all.
    """

    def of_first(number: int) -> int:
        told = torch.tensor(number, device=device)
        dist.broadcast(told, 0)
        return int(told)

    with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack), agreeing(of_first):
        yield


# ------------------------------------------------------------------------------------------------------ modules with shards


def shard(module: nn.Module, device: torch.device) -> None:
    """Leaves each process its rows of a module's matrices, in place; the first process's values count.

    Vectors and numbers stay whole. Parameters are the same objects as before, with other data.
    """
    seen: dict[int, int] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.to(device).contiguous()
        _share(tensor.data)
        if isinstance(tensor, nn.Parameter) and tensor.ndim >= 2 and len(tensor):
            seen[id(tensor)] = rows = len(tensor)
            tensor.data = tensor.data[own_rows(rows, dist.get_rank(), dist.get_world_size())].clone()
    for part in module.modules():
        if names := tuple(name for name, p in part._parameters.items() if p is not None and id(p) in seen):
            part.__dict__[ROWS] = {name: seen[id(part._parameters[name])] for name in names}
            cls: Any = type(part)
            part.__class__ = _with_gathered(cls, names)
    module.register_forward_pre_hook(_share_buffers)


def unshard(module: nn.Module) -> None:
    """Makes a module whole again on every process, in place."""
    done = set[int]()
    for part in module.modules():
        for name, rows in part.__dict__.pop(ROWS, {}).items():
            own = part._parameters[name]
            assert own is not None
            if id(own) not in done:
                own.grad, own.data = None, _gather(own, rows).clone()
            done.add(id(own))
            part.__class__ = getattr(type(part), "_whole_class", type(part))


def sharded_of(part: nn.Module) -> list[Any]:
    """Lists a module's own parameters, without its parts', that are sharded."""
    return [part._parameters[name] for name in part.__dict__.get(ROWS, {})]


def whole_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Lists a module's sharded parameters by all their names: (rows, *rest) on all processes together."""
    found = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for name, rows in part.__dict__.get(ROWS, {}).items():
            found[f"{prefix}.{name}".lstrip(".")] = (rows, *part._parameters[name].shape[1:])
    return found


@cache
def _with_gathered(cls: Any, names: tuple[str, ...]) -> Any:
    """Makes a class whose attributes of these names are the gathered weights."""
    body: dict[str, Any] = {name: property(partial(_gathered, name=name)) for name in names}
    body |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__, "_whole_class": cls}
    return type(cls)(cls.__name__, (cls,), body)


def _gathered(module: nn.Module, name: str) -> Tensor:
    own, rows = module._parameters[name], module.__dict__[ROWS][name]
    assert own is not None
    return _remember(_Gather.apply(own, rows), own, rows)


def _share_buffers(module: nn.Module, _: Any) -> None:
    if module.training:
        for buffer in module.buffers():
            _share(buffer.data)


def _share(values: Tensor) -> None:
    """Gives all processes the first one's values."""
    dist.broadcast(values.view(torch.uint8) if values.dtype == torch.bool else values, 0)


def layout_of(fabric: Fabric, parts: Mapping[str, Any], optimizer: Optimizer) -> Layout:
    """Describes which tensors of a checkpoint are sharded.

    Arguments:
        fabric: the process.
        parts: what is saved, by its name there.
        optimizer: whose state has the rows of its parameters.
    """
    shapes = {
        f"{kind}/{name}": shape
        for kind, part in parts.items()
        if isinstance(part, nn.Module)
        for name, shape in whole_shapes(part).items()
    }
    known = dict[int, tuple[int, ...]]()
    for part in parts.values():
        if isinstance(part, nn.Module):
            named = dict(part.named_parameters(remove_duplicate=False))
            known |= {id(named[name]): shape for name, shape in whole_shapes(part).items()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return Layout(fabric.global_rank, fabric.world_size, fabric.device, shapes, [known.get(id(p)) for p in held])
