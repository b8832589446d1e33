"""Training a finished run on: the optimiser as it was, at the learning rate of the new schedule."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LRScheduler


def described_schedule(scheduler: Any) -> str:
    """Describes a scheduler by its type and numbers, as it begins."""
    state = {name: value for name, value in scheduler.state_dict().items() if isinstance(value, int | float | str | list | tuple)}
    return f"{type(scheduler).__name__} {sorted(state.items())}"


@contextmanager
def as_it_began(scheduler: Any) -> Iterator[None]:
    """Puts a scheduler of one's own, and its learning rates, back in the end to how they begin.

    The same call with the same object, or a rollback, then finds the schedule that the run began with.
    """
    if not isinstance(scheduler, LRScheduler):
        yield
        return
    optimizer = scheduler.optimizer
    state = copy.deepcopy(scheduler.state_dict())
    own = [{key: copy.copy(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        yield
    finally:
        scheduler.load_state_dict(state)
        for group, settings in zip(optimizer.param_groups, own, strict=True):
            group.update(settings)


def reschedule(optimizer: Any, scheduler: Any, saved: dict[str, Any], step: int) -> None:
    """Loads an optimiser's state and keeps the new settings; moves the scheduler on to a step."""
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    with warnings.catch_warnings():  # torch expects steps of the optimiser between those of a scheduler
        warnings.simplefilter("ignore")
        for _ in range(step):
            scheduler.step()


def told_of_extension(folder: Path, step: int, steps: int, was: float, now: float) -> str:
    """Says what an extension means for the curves of a run."""
    told = f"{folder} is trained on from step {step:,} to {steps:,}"
    if now > 1.01 * was:
        return f"{told}: the learning rate rises there from {was:.2g} to {now:.2g}, so the loss may rise before it falls further"
    return f"{told}, where the learning rate goes from {was:.2g} to {now:.2g}"
