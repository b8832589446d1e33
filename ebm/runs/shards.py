"""Tensors that several processes hold by rows: how they are cut, saved together, and read by any number.

A sharded tensor (rows, *rest) lies with R processes in equal runs of ceil(rows / R) rows; the last
may be shorter or empty. torch's distributed checkpoint writes each process's rows into a safetensors
file of its own; no file of it is a pickle, and reading one runs no code.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

FOLDER = "shards"  # in a checkpoint's folder


def own_rows(rows: int, rank: int, ranks: int) -> slice:
    """Says which rows of a whole tensor a process holds.

    >>> [own_rows(5, rank, 4) for rank in range(4)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None), slice(5, 5, None)]
    """
    each = -(-rows // ranks)
    return slice(min(rank * each, rows), min((rank + 1) * each, rows))


class Layout(NamedTuple):
    """What of a training's state is sharded, by its path in a checkpoint.

    Arguments:
        rank, ranks: which process this is, of how many.
        device: where its rows lie.
        shapes: whole shapes by path, as "energy/layers.0.weight".
        optimized: whole shapes by the parameter's place in the optimiser; None of unsharded ones.
    """

    rank: int
    ranks: int
    device: torch.device
    shapes: Mapping[str, Sequence[int]]
    optimized: Sequence[Sequence[int] | None]

    def shape_of(self, path: str) -> tuple[int, ...] | None:
        """Finds the whole shape of what lies at a path, if it may be sharded."""
        if path.startswith("optimizer/state/"):
            place = int(path.split("/")[2])
            found = self.optimized[place] if place < len(self.optimized) else None
        else:
            found = self.shapes.get(path)
        return None if found is None else tuple(found)

    def has_rows(self, path: str, tensor: Tensor) -> bool:
        """Tells whether a tensor is this process's rows of a whole one."""
        whole = self.shape_of(path)
        if whole is None:
            return False
        own = own_rows(whole[0], self.rank, self.ranks)
        return tuple(tensor.shape) == (own.stop - own.start, *whole[1:])

    def rows(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Makes room for this process's rows of a whole tensor."""
        own = own_rows(shape[0], self.rank, self.ranks)
        return torch.empty((own.stop - own.start, *shape[1:]), dtype=dtype, device=self.device)

    def cut(self, path: str, tensor: Tensor) -> Tensor:
        """Takes this process's rows of a whole tensor, if what lies at the path is sharded."""
        if tuple(tensor.shape) != self.shape_of(path):
            return tensor
        return tensor[own_rows(len(tensor), self.rank, self.ranks)].clone()


def write(folder: Path, tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, str]:
    """Writes all processes' rows below a checkpoint's folder; all processes call it together.

    Returns:
        The SHA-256 of the files that this process wrote, by their names.

    Raises:
        ImportError: this torch cannot write them.
    """
    engine = _engine()
    state = _distributed({path: (tensor.detach(), layout.shape_of(path)) for path, tensor in tensors.items()}, layout)
    with _quietly():
        engine.save(state, storage_writer=engine.HuggingFaceStorageWriter(str(folder / FOLDER), save_distributed=True))
    return {file.name: _digest(file) for file in sorted((folder / FOLDER).glob(f"shard-{layout.rank + 1:05d}-*"))}


def damaged(folder: Path, digests: Mapping[str, str]) -> Path | None:
    """Finds a file that is missing, or is not what `write` wrote."""
    files = [folder / FOLDER / name for name in digests]
    return next((file for file in files if not file.is_file() or _digest(file) != digests[file.name]), None)


def read(folder: Path, layout: Layout | None = None) -> dict[str, Tensor]:
    """Reads whole tensors by path, or with a layout this process's rows of them."""
    engine = _engine()
    reader = engine.HuggingFaceStorageReader(str(folder / FOLDER))
    held = {path: (each.size, each.properties.dtype) for path, each in reader.read_metadata().state_dict_metadata.items()}
    if layout is None:
        found = {path: torch.empty(size, dtype=dtype) for path, (size, dtype) in held.items()}
        state: dict[str, Any] = {**found}
    else:
        found = {path: layout.rows(size, dtype) for path, (size, dtype) in held.items()}
        state = _distributed({path: (tensor, held[path][0]) for path, tensor in found.items()}, layout)
    with _quietly():
        engine.load(state, storage_reader=reader, no_dist=True)
    return found


def paths(folder: Path) -> list[str]:
    """Lists what lies in a checkpoint's shards."""
    return [*_engine().HuggingFaceStorageReader(str(folder / FOLDER)).read_metadata().state_dict_metadata]


def _distributed(rows: Mapping[str, tuple[Tensor, Any]], layout: Layout) -> dict[str, Any]:
    """Tells the engine of which whole tensors a process holds rows."""
    from torch.distributed import GroupMember
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = DeviceMesh.from_group(GroupMember.WORLD, layout.device.type)  # type: ignore[arg-type]
    state = dict[str, Any]()
    for path, (tensor, shape) in sorted(rows.items()):
        stride = torch.empty(shape, device="meta").stride()
        how: dict[str, Any] = {"run_check": False, "shape": torch.Size(shape), "stride": stride}
        state[path] = DTensor.from_local(tensor, mesh, [Shard(0)], **how)
    return state


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that reading for oneself is meant, and that its parts are new
        yield


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _engine() -> Any:
    from torch.distributed import checkpoint  # lazy: only sharded runs need this second

    if not hasattr(checkpoint, "HuggingFaceStorageWriter"):
        raise ImportError(f"torch {torch.__version__} has no safetensors for sharded checkpoints: pip install 'torch>=2.9'")
    return checkpoint
