"""Loggers: what shows a training's numbers elsewhere, by Lightning Fabric's logger interface.

A run writes metrics.csv and TensorBoard's files in any case. A logger is an object with Fabric's
`log_metrics(metrics, step)`, `log_hyperparams(params)` and `finalize(status)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ebm.registry import build, components

METHODS = ("log_metrics", "log_hyperparams", "finalize")


class Tracker:
    """Logs to W&B, or to trackio, which has the same functions: `init`, `log` and `finish`.

    Arguments:
        package: "wandb" or "trackio".
        project: the project there.
        name: the run's name there; the run folder's by default.
    """

    def __init__(self, package: str, project: str, name: str | None = None) -> None:
        try:
            self.package = importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"{package} is not installed: pip install {package}") from error
        self.project, self.name = project, name

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Begins the run there, or goes on with one of its name."""
        name = self.name or str(params.get("run"))
        self.package.init(project=self.project, name=name, config=dict(params), resume="allow")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs numbers of a step."""
        self.package.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        """Ends the run there."""
        self.package.finish()


def wandb(project: str = "ebm", name: str | None = None) -> Tracker:
    """Logs to Weights & Biases, where its package is installed.

    Arguments:
        project: the project there.
        name: the run's name there; the run folder's by default.
    """
    return Tracker("wandb", project, name)


def trackio(project: str = "ebm", name: str | None = None) -> Tracker:
    """Logs to trackio, where its package is installed.

    Arguments:
        project: the project there.
        name: the run's name there; the run folder's by default.
    """
    return Tracker("trackio", project, name)


def loggers_of(loggers: Sequence[Any]) -> list[Any]:
    """Builds loggers of names, and checks the others.

    Raises:
        ValueError: for an unknown name, or an object without Fabric's methods.
        ImportError: a named logger's package is not installed.
    """
    for name in loggers:
        if name in ("csv", "tensorboard"):
            raise ValueError(f"loggers: every run writes metrics.csv and tensorboard/, so leave {name!r} out, or pass a logger")
    made = [build("logger", part) if isinstance(part, str) else part for part in loggers]
    for part in made:
        if lacking := [name for name in METHODS if not callable(getattr(part, name, None))]:
            known = ", ".join(components("logger"))
            what = f"loggers: {type(part).__name__} has no {', '.join(lacking)}"
            raise ValueError(f"{what}: pass Lightning Fabric's loggers, or names of: {known}")
    return made


@contextmanager
def logging_to(loggers: Sequence[Any], params: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    """Tells loggers what is trained, and in the end how it ended."""
    status = "failed"
    for logger in loggers:
        with suppress(NotImplementedError):  # Fabric's CSVLogger logs no settings
            logger.log_hyperparams(dict(params))
    try:
        yield loggers
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
