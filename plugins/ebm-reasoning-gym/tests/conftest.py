"""Finds the package beside the tests where it is not installed, and registers it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import ebm_reasoning_gym

from ebm.registry import components, register

if "reasoning-gym" not in components("task"):
    register(ebm_reasoning_gym, "ebm-reasoning-gym")
