"""What `fit` may be asked for, checked before anything is made or written."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from ebm.optional import only_named
from ebm.randomness import own_randomness
from ebm.runs.checkpoints import flatten

if TYPE_CHECKING:
    from lightning_fabric import Fabric

P = ParamSpec("P")
R = TypeVar("R")

LARGEST = 10**12  # of whole numbers: beyond it, a slip of the pen is likelier than a wish


class Whole:
    """Whole numbers, NumPy's included, and how small they may be."""

    def __init__(self, least: int) -> None:
        self.least, self.what = least, f"a whole number of at least {least}"

    def __call__(self, value: Any) -> int:
        if isinstance(value, bool | np.bool_) or not self.least <= (found := operator.index(value)) <= LARGEST:
            raise ValueError
        return found


class Number:
    """Real numbers, also of NumPy and in tensors, that satisfy a condition."""

    def __init__(self, fits: Callable[[float], bool], what: str) -> None:
        self.fits, self.what = fits, what

    def __call__(self, value: Any) -> float:
        if isinstance(value, bool | str | bytes) or not self.fits(found := float(value)):
            raise ValueError
        return value if isinstance(value, int) else found


class Choice:
    """One of some names."""

    def __init__(self, *names: str, what: str = "") -> None:
        self.names, self.what = names, what or f"{', '.join(names[:-1])} or {names[-1]}"

    def __call__(self, value: Any) -> str:
        if value not in self.names:
            raise ValueError
        return value


class Truth:
    """True or False, and no word or number for them."""

    what = "True or False"

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError
        return bool(value)


class TruthOrAuto(Truth):
    """True, False or "auto"."""

    what = "True, False or 'auto'"

    def __call__(self, value: Any) -> Any:
        return value if isinstance(value, str) and value == "auto" else super().__call__(value)


class Pair:
    """Two numbers."""

    def __init__(self, number: Number) -> None:
        self.number, self.what = number, f"two numbers, each {number.what}"

    def __call__(self, value: Any) -> tuple[float, float]:
        one, two = value
        return self.number(one), self.number(two)


FRACTION = Number(lambda x: 0 <= x < 1, "in [0, 1)")
POSITIVE = Number(lambda x: 0 < x < math.inf, "a positive number")
NOT_NEGATIVE = Number(lambda x: 0 <= x < math.inf, "a number of at least 0")
KINDS: dict[str, Callable[[Any], Any]] = {
    "steps": Whole(1),
    "batch_size": Whole(1),
    "lr": POSITIVE,
    "sampler_lr": NOT_NEGATIVE,
    "betas": Pair(FRACTION),
    "weight_decay": NOT_NEGATIVE,
    "warmup": Whole(0),
    "schedule": Choice("constant", "cosine"),
    "lr_end": Number(lambda x: 0 <= x <= 1, "a fraction in [0, 1]"),
    "accumulate": Whole(1),
    "activation_checkpointing": Truth(),
    "clip_norm": Number(lambda x: x > 0, "a positive number"),
    "ema": FRACTION,
    "log_every": Whole(1),
    "evaluate_every": Whole(0),
    "evaluate_limit": Whole(1),
    "checkpoint_every": Whole(1),
    "workers": Whole(0),
    "num_nodes": Whole(1),
    "precision": Choice(
        *("32-true", "bf16-mixed", "16-mixed"),
        what="32-true (which leaves a float64 energy and its data as they are), bf16-mixed or 16-mixed",
    ),
    "compile": TruthOrAuto(),
    "overwrite": Truth(),
    "extend": Truth(),
    "on_divergence": Choice("stop", "rollback", "ignore"),
    "seed": Whole(0),
}
MAY_BE_NONE = ("sampler_lr", "clip_norm", "evaluate_limit")


def checked(fit: Callable[P, R]) -> Callable[P, R]:
    """Checks the settings of a training before it is called, and makes them plain Python numbers.

    Raises:
        ValueError: a setting is of the wrong kind, or out of range.
    """

    @wraps(fit)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        keywords.update(check(keywords))
        return fit(*args, **keywords)

    return call


def check(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the settings of a training as plain Python numbers, truth values and names.

    Raises:
        ValueError: one is of the wrong kind, or out of range.

    >>> check({"steps": np.int64(3)})
    {'steps': 3}
    >>> check({"steps": 1.5})
    Traceback (most recent call last):
    ValueError: fit(steps=1.5): steps is a whole number of at least 1
    """
    asked = [name for name in settings if name in KINDS]
    return {name: _setting(name, settings[name]) for name in asked if settings[name] is not None or name not in MAY_BE_NONE}


def _setting(name: str, value: Any) -> Any:
    kind: Any = KINDS[name]
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"fit({name}={value!r}): {name} is {kind.what}") from error


def check_can_be_saved(state: Any) -> None:
    """Raises ValueError where a checkpoint could not hold what optimiser and callbacks remember."""
    try:
        flatten(state)
    except TypeError as error:
        raise ValueError(f"what moves in training must fit into a checkpoint, but {error}") from error


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
        if hasattr(task, "check_split"):  # a task need not be a `Task`
            for split in splits:
                task.check_split(split, limit)
        if anew:
            next(iter(task.loader("train", batch_size)), None)


def fabric_of(**options: Any) -> Fabric:
    """Makes a Fabric, or raises ValueError where its options do not work."""
    with only_named("torchmetrics"):  # Fabric asks for its version alone, and would import it: three seconds
        from lightning_fabric import Fabric  # lazy: only training has to spend this second

    if str(options.get("strategy")).startswith(("fsdp_", "deepspeed")):
        raise ValueError(
            f"strategy={options['strategy']!r}: its hooks drop weights that the gradient of an energy's gradient needs: "
            f"pass strategy='fsdp', or 'ddp'"
        )
    if options.get("strategy") == "fsdp":
        from ebm.training.fsdp import Sharded

        options["strategy"] = Sharded()
    try:
        return Fabric(**options)
    except Exception as error:  # Fabric raises errors of many kinds
        raise ValueError(f"Fabric cannot be made of {options}: {error}") from error
