"""What a machine can do, and what a step takes of it: the rate of its matrix products, time, arithmetic, peak memory.

It runs on whatever there is: the accelerator that torch finds, or the CPU.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from memory import peak_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # private, but what torch's documentation tells to derive from
from torch.utils.flop_counter import flop_registry

Take = Callable[[], Any]
SIDES = {"cpu": 1024}  # of the matrices whose product is the machine's peak; 8192 on an accelerator
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device_of(name: str = "auto") -> torch.device:
    """Finds the device that is named, or by "auto" the accelerator, if there is one."""
    if name != "auto":
        return torch.device(name)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def name_of(device: torch.device) -> str:
    """Names a device as its maker does, where torch knows."""
    told = getattr(torch.get_device_module(device), "get_device_name", None)
    return f"{told()} ({device.type})" if told and device.type != "cpu" else f"{device.type}, {torch.get_num_threads()} thread(s)"


def wait(device: torch.device) -> None:
    """Waits until the device has done what was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds(take: Take, device: torch.device, rounds: int, repeat: int = 1) -> float:
    """Times a step: the median of rounds of so many steps, between which alone the host waits for the device.

    One thread of a CPU is timed by the processor time it used, which leaves its neighbours out.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    found = []
    for _ in range(rounds):
        wait(device)
        begun = clock()
        for _ in range(repeat):
            take()
        wait(device)
        found.append((clock() - begun) / repeat)
    return statistics.median(found)


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int | None = None, rounds: int = 5) -> float:
    """Measures the rate (FLOP/s) of a product of two square matrices: the best of some rounds."""
    side = side or SIDES.get(device.type, 8192)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(seconds(lambda: a @ b, device, 1) for _ in range(rounds))


# ---------------------------------------------------------------------------------------------------------- arithmetic


def _linear(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel() * len(b)  # (n, k) and (m, k)


def _batched(_: Tensor, a: Tensor, b: Tensor, **__: Any) -> int:
    return 2 * a.numel() * b.shape[-1]  # (B, n, k) and (B, k, m)


# Products that torch's counter does not know: oneDNN's on a CPU, and sums of products in place.
FORMULAS: Any = flop_registry | {torch.ops.mkldnn._linear_pointwise: _linear, torch.ops.aten.baddbmm_: _batched}


class Arithmetic(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products and convolutions, by torch's formulas.

    torch's own `FlopCounterMode` puts hooks on modules, which a gradient within a step does not bear.
    """

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
        return made


def flops_of(take: Take) -> int:
    """Counts the arithmetic of a step."""
    with Arithmetic() as counted:
        take()
    return counted.flops


# -------------------------------------------------------------------------------------------------------------- memory


def peak(take: Take, device: torch.device) -> float | None:
    """Measures by how many MB memory grows, at its highest, while a step is taken twice; None where the device tells nothing.

    On a CPU it is the process that grows, as the system counts it.
    """
    gc.collect()
    if device.type == "cpu":
        with suppress(OSError, AttributeError):  # glibc keeps what was freed: the process would not grow by what it has
            ctypes.CDLL(None).malloc_trim(0)
        return peak_of(take)
    memory = torch.get_device_module(device)
    if not hasattr(memory, "max_memory_allocated"):
        return None
    wait(device)
    memory.empty_cache()
    memory.reset_peak_memory_stats()
    before = memory.memory_allocated()
    for _ in range(2):
        take()
    wait(device)
    return (memory.max_memory_allocated() - before) / 2**20


def out_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that memory ran out: the accelerator's, or the system's."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
