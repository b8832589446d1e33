"""Fully sharded data parallelism: the strategy that `fit(strategy="fsdp")` trains by."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from ebm.training.sharding import fingerprint, shard, sharded_of

M_MMAP_THRESHOLD = -3  # glibc's number of the option


class Sharded(ModelParallelStrategy):
    """Shards weights, their gradients and the optimiser's state by rows (`ebm.training.sharding`)."""

    def __init__(self) -> None:
        super().__init__(parallelize_fn=self._sharded)

    def _sharded(self, module: nn.Module, mesh: Any) -> nn.Module:
        shard(module, self.root_device)
        return module

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()
        if self.root_device.type == "cpu":
            _give_back_at_once()

    def clip_gradients_norm(
        self, module: nn.Module, optimizer: Optimizer, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = True
    ) -> Tensor:
        """Averages gradients over processes, clips them by the norm of all of them, and returns it.

        Raises:
            RuntimeError: on a CPU, where processes gathered different weights; on an accelerator the
                norm is then not a number, which stops the run where it is next looked at.
        """
        rows = {id(p) for part in module.modules() for p in sharded_of(part)}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        agreed = _agree(fingerprint(), [p.grad is None for p in held], self.root_device)
        whole = [p.grad for p in held if p.grad is not None and id(p) not in rows]
        cut = [p.grad for p in held if p.grad is not None and id(p) in rows]
        for grad in cut:  # scattering summed them
            grad.div_(self.world_size)
        for dtype in sorted({grad.dtype for grad in whole}, key=str):
            some = [grad for grad in whole if grad.dtype == dtype]
            flat = torch.cat([grad.flatten() for grad in some])
            dist.all_reduce(flat)
            for grad, mean in zip(some, (flat / self.world_size).split([grad.numel() for grad in some]), strict=True):
                grad.copy_(mean.view_as(grad))
        squares = _squares(cut, self.root_device)
        dist.all_reduce(squares)
        norm = (squares + _squares(whole, self.root_device)).sqrt()
        norm = torch.where(agreed, norm, torch.full_like(norm, math.nan))
        if not math.isinf(max_norm):
            scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
            for grad in (*cut, *whole):
                grad.mul_(scale.to(grad))
        return norm


def _give_back_at_once() -> None:
    """Lets the C library give memory of gathered weights back to the system as soon as they are dropped.

    glibc learns from the first large tensor that is freed to keep such memory, in pieces that later
    ones do not fit: a process of four then took more than one process with all weights.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 2**18)


def _squares(grads: Sequence[Tensor], device: torch.device) -> Tensor:
    wide = torch.float64 if device.type == "cpu" else torch.float32
    zero = torch.zeros((), dtype=wide, device=device)
    return torch.stack([zero, *(torch.linalg.vector_norm(grad).to(zero).square() for grad in grads)]).sum()


def _agree(order: int, unused: Sequence[bool], device: torch.device) -> Tensor:
    """Tells whether all processes gathered the same weights in the same order, and used the same."""
    own = order * 2**20 + hash(tuple(unused)) % 2**20
    ends = torch.tensor([own, -own], device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    agreed = ends[0] == -ends[1]
    if device.type == "cpu" and not bool(agreed):
        raise RuntimeError(
            "strategy='fsdp': the processes of this training used different weights in this step, or in another order, as where "
            "an objective or a sampler decides by its draws what to compute: train it by strategy='ddp'"
        )
    return agreed
