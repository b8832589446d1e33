"""What `fit` may be asked for, checked before anything is made or written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import torch

from ebm.randomness import own_randomness

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MOST = 10**12  # of what is counted: more is never done
P = ParamSpec("P")
R = TypeVar("R")


def _whole(low: int) -> tuple[Callable[[Any], bool], str]:
    return lambda n: type(n) is int and low <= n <= MOST, f"a whole number of at least {low} and at most 10^12"


def _number(fits: Callable[[float], bool], what: str) -> tuple[Callable[[Any], bool], str]:
    return lambda x: type(x) in (int, float) and fits(x), what


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda name: name in names, " or ".join((", ".join(names[:-1]), names[-1]))


BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps": _whole(1),
    "batch_size": _whole(1),
    "lr": _number(lambda x: 0 < x < math.inf, "a positive number"),
    "sampler_lr": _number(lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "betas": (lambda pair: len(pair) == 2 and all(type(x) in (int, float) and 0 <= x < 1 for x in pair), "two numbers in [0, 1)"),
    "weight_decay": _number(lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "warmup": _whole(0),
    "schedule": _one_of("constant", "cosine"),
    "lr_end": _number(lambda x: 0 <= x <= 1, "a fraction in [0, 1]"),
    "clip_norm": _number(lambda x: x > 0, "a positive number"),
    "ema": _number(lambda x: 0 <= x < 1, "in [0, 1)"),
    "log_every": _whole(1),
    "evaluate_every": _whole(0),
    "evaluate_limit": _whole(1),
    "checkpoint_every": _whole(1),
    "workers": _whole(0),
    "num_nodes": _whole(1),
    "compile": (lambda truth: type(truth) is bool, "True or False"),
    "precision": (
        lambda name: name in ("32-true", "bf16-mixed", "16-mixed"),
        "32-true (which leaves a float64 energy and its data as they are), bf16-mixed or 16-mixed",
    ),
    "on_divergence": _one_of("stop", "rollback", "ignore"),
    "seed": (lambda n: type(n) is int and n >= 0, "a whole number of at least 0"),
}
OPTIONAL = ("sampler_lr", "clip_norm", "evaluate_limit")  # None: as the docstring says


def check(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for an argument of fit that cannot work.

    >>> check({"steps": 1.5})
    Traceback (most recent call last):
    ValueError: fit(steps=1.5): steps is a whole number of at least 1 and at most 10^12
    """
    for name, (fits, what) in BOUNDS.items():
        if name not in settings or (settings[name] is None and name in OPTIONAL):
            continue
        try:
            right = fits(settings[name])
        except (TypeError, ValueError):  # it has no length, or is no single truth
            right = False
        if not right:
            raise ValueError(f"fit({name}={settings[name]!r}): {name} is {what}")


def with_plain_numbers(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function's keywords be NumPy's numbers or tensors that hold one, as Python's own."""

    @wraps(function)
    def called(*args: P.args, **keywords: P.kwargs) -> R:
        for name, value in keywords.items():
            if isinstance(value, np.generic | np.ndarray | torch.Tensor) and np.ndim(value) == 0:
                keywords[name] = value.item()
        return function(*args, **keywords)

    return called


def check_data(task: Any, batch_size: int, limit: int | None, splits: Sequence[str], anew: bool) -> None:
    """Raises ValueError where a task's data cannot be judged at the end, or do not begin.

    Arguments:
        task: the data, and the judge.
        batch_size: rows of a training batch.
        limit: examples of an evaluation at most.
        splits: what the task will judge on.
        anew: whether an older run is overwritten, so that the first batch must be there before.
    """
    with own_randomness(0):  # a loader may draw from global generators
        if hasattr(task, "check_judging"):  # a task need not be a `Task`
            for split in splits:
                task.check_judging(split, limit)
        if anew:
            next(iter(task.loader("train", batch_size)), None)


def fabric_of(**options: Any) -> Fabric:
    """Makes a Fabric, or raises ValueError where its options do not work."""
    from lightning_fabric import Fabric  # lazy: only training has to spend these seconds

    try:
        return Fabric(**options)
    except Exception as error:  # Fabric raises errors of many kinds
        raise ValueError(f"Fabric cannot be made of {options}: {error}") from error
