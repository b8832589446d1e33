"""Checkpoints: tensors in safetensors, all else in JSON, with the digests of both.

Reading one never runs code, and what was changed on the disk, by a bit or more, is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ebm.files import discard, draft_of
from ebm.runs import shards
from ebm.runs.shards import Layout

PREFIX = "step-"
DAMAGED = "damaged-"  # before the name of a checkpoint that was set aside


class CheckpointError(ValueError):
    """A checkpoint cannot be read: truncated, foreign, or of other shapes."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turns errors while loading a checkpoint's contents into one that names the checkpoint."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit this run's energy, objective or optimiser: {error}") from error


def flatten(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Splits nested dictionaries and lists into tensors by path, and JSON that holds the paths.

    >>> flatten({"a": [torch.ones(1), 2]})
    ({'a/0': tensor([1.])}, {'dict': [['a', [{'tensor': 'a/0'}, 2]]]})
    """
    tensors: dict[str, Tensor] = {}

    def split(part: Any, path: str) -> Any:
        if isinstance(part, Tensor):
            name = path if path not in tensors else f"{path}#{len(tensors)}"  # as of {0: x, "0": y}
            tensors[name] = part.detach()
            return {"tensor": name}
        if isinstance(part, Mapping):
            return {"dict": [[key, split(value, f"{path}/{key}".lstrip("/"))] for key, value in part.items()]}
        if isinstance(part, list | tuple):
            return [split(value, f"{path}/{index}".lstrip("/")) for index, value in enumerate(part)]
        if part is None or isinstance(part, bool | int | float | str):
            return part
        raise TypeError(f"{path} is {type(part).__name__}: a checkpoint holds tensors, numbers, strings, lists and dictionaries")

    return tensors, split(tree, "")


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Restores what `flatten` split."""
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: unflatten(part, tensors) for key, part in value["dict"]}
    return [unflatten(part, tensors) for part in value] if isinstance(value, list) else value


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Computes the SHA-256 of tensors on the CPU: their names, dtypes, shapes and bytes.

    >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.zeros(2, dtype=torch.int32)})
    False
    """
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write(folder: Path, name: str, tree: Any, apart: Collection[str] = ()) -> None:
    """Writes `folder/name.safetensors` and `folder/name.json`; raises OSError for a full disk.

    Tensors at the paths `apart` are left to `shards.write`.
    """
    tensors, value = flatten(tree)
    tensors = {path: tensor for path, tensor in tensors.items() if path not in apart}
    # Tensors may share memory, as an average that starts as the weights: each is copied.
    own = {path: tensor.cpu().contiguous().clone() for path, tensor in tensors.items()}
    holds = json.dumps(value)
    digests = {"tensors": digest_of(own), "holds": hashlib.sha256(holds.encode()).hexdigest()}
    try:
        save_file(own, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(f'{{"sha256": {json.dumps(digests)}, "holds": {holds}}}', encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise OSError(f"{folder / name} could not be written, and earlier checkpoints stay as they are: {error}") from error


def read(
    folder: Path,
    name: str,
    device: torch.device | str = "cpu",
    *,
    verified: bool = False,
    layout: Layout | None = None,
    whole: bool = True,
) -> Any:
    """Reads what `write` wrote; raises CheckpointError that names a missing or damaged file.

    Digests are compared, unless the files were `verified` before; older checkpoints have none.

    Arguments:
        folder, name: the checkpoint, and what of it.
        device: where tensors go.
        verified: whether `newest_whole` has read all of it.
        layout: cuts what is sharded to this process's rows; without one it is read whole.
        whole: False leaves out what lies in shards: None stands in its place.
    """
    path = folder / f"{name}.safetensors"
    try:
        tensors = load_file(path, device=str(device) if verified else "cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint's tensors: {error}") from error
    path = path.with_suffix(".json")
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if isinstance(value, dict) and "sha256" in value:
            if not verified:
                _verify(folder / name, tensors, json.dumps(value["holds"]), value["sha256"])
            value = value["holds"]
        found: dict[str, Any] = {}
        while tensors:  # one by one: what is cut is not kept whole
            key, tensor = tensors.popitem()
            found[key] = (tensor if layout is None else layout.cut(key, tensor)).to(device)
        if name == "shared" and (folder / shards.FOLDER).is_dir():
            path = folder / shards.FOLDER
            apart = shards.read(folder, layout) if whole else dict.fromkeys(shards.paths(folder))
            found |= {key: tensor if tensor is None else tensor.to(device) for key, tensor in apart.items()}
        return unflatten(value, found)
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint's contents: {error!r}") from error


def _verify(path: Path, tensors: Mapping[str, Tensor], holds: str, digests: Mapping[str, str]) -> None:
    found = {"tensors": digest_of(tensors), "holds": hashlib.sha256(holds.encode()).hexdigest()}
    for part, suffix in (("holds", ".json"), ("tensors", ".safetensors")):
        if digests[part] != found[part]:
            file = path.with_name(path.name + suffix)
            raise CheckpointError(f"{file} is damaged: it is not what was written, by its SHA-256")


def newest_whole(
    folder: Path, check: Callable[[Path, Any], None] = lambda path, shared: None, *, aside: bool = False
) -> Path | None:
    """Finds the newest checkpoint that is whole, reading all of it, and warns where newer ones are not.

    Arguments:
        folder: the folder of checkpoints.
        check: raises CheckpointError for shared contents that no run can use.
        aside: renames damaged ones to damaged-…, since training will write others of their names.

    Raises:
        CheckpointError: there are checkpoints, but none is whole; it names the newest's fault.
    """
    first: CheckpointError | None = None
    damaged: list[Path] = []
    for step in reversed(steps(folder)):
        path = at(folder, step)
        try:
            check(path, read(path, "shared", whole=False))
            for name in sorted({"rank0", *(file.stem for file in path.glob("rank*.json"))}):
                own = read(path, name)
                if bad := shards.damaged(path, own.get("shards", {}) if isinstance(own, dict) else {}):
                    raise CheckpointError(f"{bad} is damaged: it is not what was written, by its SHA-256")
        except CheckpointError as error:
            first = first or error
            damaged.append(path)
            continue
        if first is not None:
            warnings.warn(f"{first}; the checkpoint before it, {path}, is whole, and is used instead", stacklevel=3)
        for bad in damaged if aside else []:
            discard(kept := bad.with_name(f"{DAMAGED}{bad.name}"))
            bad.rename(kept)
        return path
    if first is not None:
        raise first
    return None


def steps(folder: Path) -> list[int]:
    """Lists the steps of the whole checkpoints in a folder, the oldest first."""
    found = (path.name.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*") if path.is_dir())
    return sorted(int(step) for step in found if step.isdecimal())


def at(folder: Path, step: int) -> Path:
    """Names the checkpoint of a step."""
    return folder / f"{PREFIX}{step:09d}"


def latest(folder: Path) -> Path | None:
    """Finds the newest whole checkpoint."""
    return at(folder, steps(folder)[-1]) if folder.is_dir() and steps(folder) else None


def prune(folder: Path, keep: int) -> None:
    """Removes drafts of killed runs, and all but the newest checkpoints."""
    for draft in folder.glob(f".{PREFIX}*.draft"):
        discard(draft)
    for step in steps(folder)[:-keep]:
        remove(at(folder, step))


def clear(folder: Path) -> None:
    """Removes all checkpoints in a folder, and nothing else that is in it."""
    for step in steps(folder):
        draft = draft_of(at(folder, step))
        discard(draft)
        shutil.rmtree(at(folder, step).rename(draft))
    for left in (*folder.glob(f".{PREFIX}*.draft"), *folder.glob(f"{DAMAGED}{PREFIX}*")):
        discard(left)


def remove(path: Path) -> None:
    """Removes a checkpoint: first renames it atomically, so that no half-removed one remains."""
    discard(draft_of(path))
    discard(path.rename(draft_of(path)))
