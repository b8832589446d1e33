"""What `fit` may be asked for, checked before anything is made or written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps": (lambda n: n >= 1, "at least 1"),
    "batch_size": (lambda n: n >= 1, "at least 1"),
    "lr": (lambda x: 0 < x < math.inf, "a positive number"),
    "sampler_lr": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "betas": (lambda pair: len(pair) == 2 and all(0 <= x < 1 for x in pair), "two numbers in [0, 1)"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "warmup": (lambda n: n >= 0, "at least 0"),
    "schedule": (lambda name: name in ("constant", "cosine"), "constant or cosine"),
    "lr_end": (lambda x: 0 <= x <= 1, "a fraction in [0, 1]"),
    "clip_norm": (lambda x: x > 0, "a positive number"),
    "ema": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "log_every": (lambda n: n >= 1, "at least 1"),
    "evaluate_every": (lambda n: n >= 0, "at least 0"),
    "evaluate_limit": (lambda n: n >= 1, "at least 1"),
    "checkpoint_every": (lambda n: n >= 1, "at least 1"),
    "workers": (lambda n: n >= 0, "at least 0"),
    "precision": (
        lambda name: name in ("32-true", "bf16-mixed", "16-mixed"),
        "32-true (which leaves a float64 energy and its data as they are), bf16-mixed or 16-mixed",
    ),
    "on_divergence": (lambda name: name in ("stop", "rollback", "ignore"), "stop, rollback or ignore"),
    "seed": (lambda n: n >= 0, "at least 0"),
}


def check(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for an argument of fit that cannot work."""
    for name, (fits, what) in BOUNDS.items():
        if name in settings and not fits(settings[name]):
            raise ValueError(f"fit({name}={settings[name]!r}): {name} is {what}")


def check_splits(task: Any, splits: Sequence[str], limit: int | None) -> None:
    """Raises ValueError where a task cannot be judged on splits, as far as it tells before."""
    if hasattr(task, "check_split"):  # a task without the base class may not tell
        for split in splits:
            task.check_split(split, limit)


def fabric_of(**options: Any) -> Fabric:
    """Makes a Fabric, or raises ValueError where its options do not work."""
    from lightning_fabric import Fabric  # lazy: only training has to spend these seconds

    try:
        return Fabric(**options)
    except Exception as error:  # Fabric raises errors of many kinds
        raise ValueError(f"Fabric cannot be made of {options}: {error}") from error
