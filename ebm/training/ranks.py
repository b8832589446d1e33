"""Ranks: which rows each gets, and how means over shards become the mean over the batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from ebm.interfaces import Batch, Task
from ebm.interfaces.sharing import sharing

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check(processes: int, batch_size: int, accumulate: int, on_divergence: str) -> None:
    """Raises ValueError for what so many processes cannot do together, or where they would train alone."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > processes:
        raise ValueError(
            f"{started} processes were started, but each would train alone in the same folder: "
            f"pass strategy='ddp', devices={started} (--strategy ddp --devices {started})"
        )
    if batch_size % processes:
        raise ValueError(f"batch_size={batch_size} does not divide over {processes} processes")
    if batch_size % (processes * accumulate):
        over = f" of each of {processes} processes" if processes > 1 else ""
        raise ValueError(f"batch_size={batch_size} does not divide into accumulate={accumulate} pieces{over}")
    if on_divergence == "rollback" and processes > 1:
        raise ValueError(f"on_divergence='rollback' is for one process, and here are {processes}: choose stop or ignore")


def broadcast_from_first(fabric: Fabric, ask: Callable[[], str]) -> str:
    """Asks in the first process only: all return its answer, or raise its error."""
    answer: str | ValueError | OSError = ""
    if fabric.global_rank == 0:
        try:
            answer = ask()
        except (ValueError, OSError) as error:  # such as of a folder that is held, or a full disk
            answer = error
    answer = fabric.broadcast(answer)
    if isinstance(answer, ValueError | OSError):
        raise answer
    return answer


def anywhere(fabric: Fabric, flags: Sequence[bool]) -> list[bool]:
    """Tells of each flag whether it is set in any process; all hear the same."""
    if fabric.world_size == 1:
        return list(flags)
    counted = fabric.all_reduce(torch.tensor(flags, dtype=torch.int32, device=fabric.device), reduce_op="sum")
    assert isinstance(counted, Tensor)
    return [count > 0 for count in counted.tolist()]


def told_of_change(folder: Path, step: int, before: int, now: int) -> str:
    """Says what stays and what does not where other processes go on than began.

    >>> print(told_of_change(Path("runs/x"), 30, 4, 1))
    runs/x: 4 processes trained it for 30 steps, and 1 goes on: on the same batches, with other random draws
    """
    began = f"{before} processes" if before > 1 else "1 process"
    on = f"{now} go on" if now > 1 else "1 goes on"
    return f"{folder}: {began} trained it for {step} steps, and {on}: on the same batches, with other random draws"


def shard(fabric: Any, batch: Batch) -> Batch:
    """Takes this process's rows of a whole batch."""

    def rows(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if len(leaf) % fabric.world_size:
            raise ValueError(f"a batch of {len(leaf)} rows does not divide over {fabric.world_size} processes")
        return leaf.chunk(fabric.world_size)[fabric.global_rank]

    return batch if fabric.world_size == 1 else pytree.tree_map(rows, batch)


def share_judging(fabric: Fabric, task: Any) -> bool:
    """Tells whether processes judge a task together: where it is judged as every `Task` is."""
    return fabric.world_size > 1 and isinstance(task, Task) and type(task).evaluate is Task.evaluate


def sharing_with_all(fabric: Fabric) -> AbstractContextManager[None]:
    """Lets all processes share the evaluations inside."""

    def gather(own: Any) -> list[Any]:
        every: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(every, own)
        return every

    return sharing(fabric.global_rank, fabric.world_size, gather)


def weight_of_rank(fabric: Fabric, batch: Batch) -> Tensor | float:
    """Computes how much this rank's weighted mean counts, times the number of ranks."""
    if fabric.world_size == 1 or batch.weight is None:
        return 1.0
    own = batch.weight.sum()
    total = fabric.all_reduce(own.clone(), reduce_op="sum")
    assert isinstance(total, Tensor)
    return fabric.world_size * own / torch.where(total > 0, total, torch.ones_like(total))


def mean(fabric: Fabric, values: Mapping[str, Tensor], weight: Tensor | float) -> dict[str, float]:
    """Averages scalars over the processes, each counting by its weight."""
    stacked = torch.stack([value.detach().to(torch.float64) for value in values.values()]) * weight
    if fabric.world_size > 1:
        reduced = fabric.all_reduce(stacked, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        stacked = reduced
    return dict(zip(values, stacked.tolist(), strict=True))
