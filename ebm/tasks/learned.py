"""Reads what a run keeps for its task: tensors that were taken from the data."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_tensors(path: Path, *names: str, way_out: str = "") -> dict[str, Tensor]:
    """Reads a safetensors file that has all of these names, of finite numbers.

    Raises:
        ValueError: naming a file that is damaged, with the way out.
    """
    try:
        found = load_file(path)
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"it has no {', '.join(missing)}")
        if bad := [name for name, tensor in found.items() if not bool(tensor.isfinite().all())]:
            raise ValueError(f"{', '.join(bad)} is not finite")
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})" + (way_out and f": {way_out}")) from error
    return found
