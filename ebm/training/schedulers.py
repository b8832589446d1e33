"""Schedulers of the learning rate: torch's by name, or one's own, beside warm-up and cosine."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ebm.offers.training import HANDED, SCHEDULERS
from ebm.registry import build
from ebm.training.later import later

MADE = SimpleNamespace(**{name: later(getattr(lr_scheduler, kind), HANDED) for name, kind in SCHEDULERS.items()})


def scheduler_of(scheduler: Any, optimizer: Optimizer, rate: Callable[[int], float], given: list[str]) -> LRScheduler:
    """Makes the scheduler of a training, or checks one that was made; it steps after each step.

    Arguments:
        scheduler: None for fit's own schedule, a name, what `ebm.build("scheduler", …)` returns, a
            function of the optimiser, or a scheduler.
        optimizer: the optimiser.
        rate: fit's own schedule: step (from 1) -> fraction of the learning rate.
        given: settings of fit's own schedule that were made.

    Raises:
        ValueError: for both schedules at once, a scheduler of another optimiser, or one that needs
            a metric.
    """
    if scheduler is None:
        return LambdaLR(optimizer, lambda done: rate(done + 1))
    if given:
        raise ValueError(f"{', '.join(given)} beside a scheduler: the learning rate has one schedule, so leave one out")
    if isinstance(scheduler, str):
        scheduler = build("scheduler", scheduler)
    if not isinstance(scheduler, LRScheduler):
        if not callable(scheduler):
            raise ValueError(f"scheduler={scheduler!r}: pass a name, a function of the optimiser, or a torch LRScheduler")
        scheduler = scheduler(optimizer)
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler):
        raise ValueError(f"{type(scheduler).__name__} is no torch scheduler that steps without a metric: pass one that does")
    if scheduler.optimizer is not optimizer:
        raise ValueError("the scheduler belongs to another optimiser: pass that as optimizer=, too")
    return scheduler
