"""Spins for the ebm toolkit: lattice energies, samplers that need no continuous space, objectives
that need no samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from ebm.registry import hookimpl
from ebm.reports import Section
from ebm.runs.run import Run
from ebm_lattice.boltzmann import Pairwise
from ebm_lattice.clusters import SwendsenWang
from ebm_lattice.digits import BinaryDigits
from ebm_lattice.gibbs import Gibbs
from ebm_lattice.informed import GibbsWithGradients
from ebm_lattice.lattices import Ising, Potts
from ebm_lattice.objectives import PseudoLikelihood, RatioMatching
from ebm_lattice.report import sections

__all__ = [
    "BinaryDigits",
    "Gibbs",
    "GibbsWithGradients",
    "Ising",
    "Pairwise",
    "Potts",
    "PseudoLikelihood",
    "RatioMatching",
    "SwendsenWang",
]


@hookimpl
def ebm_energies() -> dict[str, Callable[..., Any]]:
    return {"ising": Ising, "potts": Potts, "pairwise": Pairwise}


@hookimpl
def ebm_samplers() -> dict[str, Callable[..., Any]]:
    return {"gibbs": Gibbs, "gibbs-with-gradients": GibbsWithGradients, "swendsen-wang": SwendsenWang}


@hookimpl
def ebm_objectives() -> dict[str, Callable[..., Any]]:
    return {"pseudo-likelihood": PseudoLikelihood, "ratio-matching": RatioMatching}


@hookimpl
def ebm_tasks() -> dict[str, Callable[..., Any]]:
    return {"binary-digits": BinaryDigits}


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    return sections(run, seed)


@hookimpl
def ebm_recipes() -> dict[str, Path]:
    return {"lattice": Path(str(files("ebm_lattice") / "lattice.toml"))}


@hookimpl
def ebm_examples() -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
    from ebm_lattice.examples import examples  # for the conformance kit alone

    return examples()
