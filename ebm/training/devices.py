"""What an accelerator is done right by: the host runs ahead of it, and waits for nothing that it need not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ebm.interfaces import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FAST = ("cuda", "xpu")  # accelerators that copy from pinned memory while they compute, and have torch's fused AdamW


def runs_ahead(device: torch.device) -> bool:
    """Tells whether the host only asks for work, and has to wait where it reads a result."""
    return device.type != "cpu"


def fuses(device: torch.device, precision: str) -> bool:
    """Tells whether AdamW steps in one kernel there; Fabric does not clip the gradients of a fused one in float16."""
    return device.type in FAST and precision != "16-mixed"


def onto(fabric: Fabric, batch: Any) -> Any:
    """Moves a batch to the process's device; an accelerator copies it while the host goes on.

    Only from pinned memory does it copy without the host.
    """
    device = fabric.device
    if not runs_ahead(device) or not isinstance(batch, Batch):
        return fabric.to_device(batch)
    return (batch.pinned() if device.type in FAST else batch).to(device, non_blocking=True)
