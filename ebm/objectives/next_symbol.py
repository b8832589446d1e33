"""The next symbol: what writes answers one by one is shown the data's own, up to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Generator, Tensor

from ebm.interfaces import Batch, Loss, Objective, Task


class NextSymbol(Objective):
    """Trains a `LeftToRight` to write each symbol after the data's own before it (teacher forcing).

        L = E d(f, a),    f_i = log π(· | x, a_<i),

    with the distance d of logits from the answer a: of an `Answers` task, the cross-entropy averaged
    over unknown positions. Source: Williams and Zipser, 1989. Terms: cross_entropy.

    Arguments:
        task: gives distance by default.
        distance: distance(logits, batch) -> (rows,), differentiable.

    >>> from ebm.baselines import LeftToRight
    >>> from ebm.tasks import Arithmetic
    >>> task = Arithmetic(width=(2, 2), n=20)
    >>> network = LeftToRight(**task.spec, dim=8, heads=2)
    >>> loss = NextSymbol(task)(network, task.rows("test"))
    >>> loss.value.requires_grad, list(loss.terms)
    (True, ['cross_entropy'])
    """

    def __init__(self, task: Task | None = None, distance: Callable[[Tensor, Batch], Tensor] | None = None) -> None:
        super().__init__()
        distance = distance or (None if task is None else task.distance)
        if distance is None:
            raise ValueError("NextSymbol needs to know how far logits are from an answer: pass task, or distance")
        self.distance = distance

    def forward(self, energy: Any, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if not hasattr(energy, "teacher_forced"):
            raise ValueError(
                f"{type(energy).__name__} has no teacher_forced(context, target): the next symbol trains a LeftToRight"
            )
        if start is not None:
            raise ValueError("start is given, but symbols are written from nothing: leave it out")
        loss = batch.mean(self.distance(energy.teacher_forced(batch.context, batch.target), batch))
        return Loss(loss, {"cross_entropy": loss.detach()})
