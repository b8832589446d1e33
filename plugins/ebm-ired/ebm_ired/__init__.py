"""IRED, iterative reasoning through energy diffusion: its energy, sampler and objective, and
sudokus to reason about.

Source: Du, Mao and Tenenbaum, 2024, "Learning Iterative Reasoning through Energy Diffusion" (arXiv
2406.11179).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from ebm.registry import hookimpl
from ebm.reports import Section
from ebm.runs.run import Run
from ebm_ired.baseline import FeedForward
from ebm_ired.energy import DiffusedEnergy
from ebm_ired.levels import Level, levels
from ebm_ired.objective import EnergyDiffusion
from ebm_ired.report import sections
from ebm_ired.sampler import LandscapeDescent
from ebm_ired.task import Sudoku

__all__ = ["DiffusedEnergy", "EnergyDiffusion", "FeedForward", "LandscapeDescent", "Level", "Sudoku", "levels"]


@hookimpl
def ebm_energies() -> dict[str, Callable[..., Any]]:
    return {"ired": DiffusedEnergy, "ired-feed-forward": FeedForward}


@hookimpl
def ebm_samplers() -> dict[str, Callable[..., Any]]:
    return {"ired": LandscapeDescent}


@hookimpl
def ebm_objectives() -> dict[str, Callable[..., Any]]:
    return {"ired": EnergyDiffusion}


@hookimpl
def ebm_tasks() -> dict[str, Callable[..., Any]]:
    return {"sudoku": Sudoku}


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    return sections(run, seed)


@hookimpl
def ebm_recipes() -> dict[str, Path]:
    return {name: Path(str(files("ebm_ired") / f"{name}.toml")) for name in ("ired", "ired-feed-forward")}
