"""Callbacks: functions of (step, row, run) that a training calls with every row that it logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ebm.interfaces.abilities import Learns, lacking
from ebm.runs.run import Run
from ebm.words import nearest

Callback: TypeAlias = Callable[[int, Mapping[str, float], Run], Any]  # training ends where it returns True


class EarlyStopping:
    """Ends a training once a metric has not improved for some time.

    A callback of `fit`; its count is part of checkpoints, so that a stopped run goes on exactly.

    Arguments:
        metric: the name of a logged number, as "loss", or "validation/mmd" of an evaluation.
        patience: values in a row that bring no improvement, before training ends.
        min_delta: how much better a value must be to count as an improvement.
        mode: "min" where less is better, or "max".

    >>> stop = EarlyStopping("loss", patience=2)
    >>> [stop(step, {"loss": loss}, None) for step, loss in enumerate([3.0, 2.0, 2.5, 2.1])]
    [False, False, False, True]
    """

    def __init__(self, metric: str, patience: int = 3, min_delta: float = 0.0, mode: Literal["min", "max"] = "min") -> None:
        if type(patience) is not int or patience < 1:
            raise ValueError(f"patience={patience!r}: pass a whole number of at least 1")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"min_delta={min_delta!r}: pass a number of at least 0")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r}: choose min or max")
        self.metric, self.patience, self.min_delta, self.mode = metric, patience, min_delta, mode
        self.best, self.waited = math.inf, 0

    def __call__(self, step: int, row: Mapping[str, float], run: Any) -> bool:
        """Takes a row's metric, if it is of the metric's split, and tells whether training ends.

        Raises:
            ValueError: rows of this split do not have the metric, or there is no such split.
        """
        split, _, _ = self.metric.rpartition("/")
        names = [name for name in row if name.rpartition("/")[0] == split]
        if not names and (split.partition("/")[0] == "validation" or "loss" not in row):
            return False
        if self.metric not in row:
            raise ValueError(f"EarlyStopping({self.metric!r}): no such number is logged: {nearest(self.metric, names or [*row])}")
        value = row[self.metric] if self.mode == "min" else -row[self.metric]
        better = value < self.best - self.min_delta
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return self.waited >= self.patience

    def check(self, evaluate_every: int) -> None:
        """Raises ValueError where the metric would never be measured."""
        if self.metric.startswith("validation/") and not evaluate_every:
            raise ValueError(f"EarlyStopping({self.metric!r}) and evaluate_every=0: no evaluation would ever measure it")

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value and how long none was better."""
        return {"best": repr(self.best), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned."""
        self.best, self.waited = float(state["best"]), state["waited"]


def checked_callbacks(callbacks: Sequence[Any], evaluate_every: int) -> list[Callback]:
    """Lists callbacks; ValueError for what cannot be called, and for what would never stop."""
    for callback in callbacks:
        if not callable(callback):
            raise ValueError(f"callbacks: {callback!r} is no function of (step, row, run)")
        if isinstance(callback, EarlyStopping):
            callback.check(evaluate_every)
    return list(callbacks)


def call(callbacks: Sequence[Callback], step: int, row: Mapping[str, float], run: Run) -> bool:
    """Calls every callback with a row, and tells whether one ends the training."""
    answers = [callback(step, row, run) for callback in callbacks]
    return any(_is_true(answer) for answer in answers)


def _is_true(answer: Any) -> bool:
    """Tells whether an answer is True, also as a comparison of NumPy's or torch's numbers has it."""
    one = isinstance(answer, Tensor) and answer.dtype == torch.bool and answer.numel() == 1
    return (one or isinstance(answer, bool | np.bool_)) and bool(answer)


def states_of(callbacks: Sequence[Any]) -> list[Any]:
    """Reads what callbacks remember; None of those that have no `state_dict`."""
    return [None if lacking(callback, Learns) else callback.state_dict() for callback in callbacks]


def put_states_back(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    """Loads what `states_of` read; ValueError for other callbacks."""
    if len(callbacks) != len(states):
        raise ValueError(f"{len(states)} callbacks were saved, and {len(callbacks)} are passed: pass the same ones")
    for callback, state in zip(callbacks, states, strict=True):
        if state is not None:
            callback.load_state_dict(state)
