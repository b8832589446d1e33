"""Whether a training compiles its energy, and why."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any, Literal

import torch

from ebm.interfaces import Energy

WITH_TRITON = ("cuda", "xpu")  # accelerators for which torch.compile writes Triton


def compile_if_it_pays(energy: Any, asked: bool | Literal["auto"], device: torch.device) -> str:
    """Compiles an energy where it is asked for, or by "auto" where that pays; says which, and why.

    "auto" compiles the regions of an energy that has some (`Energy.regions`) on an accelerator. On a
    CPU it does not: kernels with derivatives by hand are as fast, whatever the length of a run
    (docs/experiments.md, 2026-11-30). It never compiles a whole energy, which takes minutes.

    Returns:
        What to tell the user; nothing where there was nothing to decide.

    Raises:
        ValueError: compile=True, and the energy is no `Energy`, or there is no compiler.
    """
    name, missing = type(energy).__name__, lacking(device)
    if asked is True:
        if not isinstance(energy, Energy):
            raise ValueError(f"fit(compile=True): {name} is no ebm.Energy, which alone compiles together with its gradient")
        if missing:
            raise ValueError(f"fit(compile=True): {missing}: install one, or leave compile=True out")
    elif not asked or not isinstance(energy, Energy) or not energy.regions():
        return ""
    elif device.type == "cpu":
        return f"does not compile: on a CPU {name} trains as fast without (--compile true compiles it nevertheless)"
    elif device.type not in WITH_TRITON or missing:
        return (
            f"does not compile: {missing or f'it was never tried on {device.type}'} (--compile true compiles {name} nevertheless)"
        )
    energy.compile()
    what = f"the regions of {name}, in seconds" if energy.regions() else f"{name} with its gradient, in minutes"
    why = "it is asked for" if asked is True else f"fewer and larger kernels suit {device.type} (--compile false leaves it)"
    return f"compiles: {what}, because {why}"


def lacking(device: torch.device) -> str:
    """Says what torch.compile needs for a device and does not find."""
    if device.type in WITH_TRITON:
        return "" if find_spec("triton") else "there is no Triton, which torch.compile needs"
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "c++", "cl"]
    return "" if any(map(shutil.which, names)) else f"there is no C++ compiler ({', '.join(names)}), which torch.compile needs"
