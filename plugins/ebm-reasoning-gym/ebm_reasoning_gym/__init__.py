"""Data sets of the package reasoning-gym as a task: questions and answers as characters, judged by
each data set's own verifier."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from ebm.registry import hookimpl
from ebm_reasoning_gym.task import ReasoningGym
from ebm_reasoning_gym.texts import Texts

__all__ = ["ReasoningGym", "Texts"]


@hookimpl
def ebm_tasks() -> dict[str, Callable[..., Any]]:
    return {"reasoning-gym": ReasoningGym}


@hookimpl
def ebm_recipes() -> dict[str, Path]:
    return {"reasoning-gym": Path(str(files("ebm_reasoning_gym") / "reasoning-gym.toml"))}
