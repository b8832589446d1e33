"""Studies: what is asked of a finished run, where its recipe has a table of the study's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebm.registry import hookimpl
from ebm.studies.findings import Finding
from ebm.studies.probe import probe
from ebm.studies.thinking import thinking

__all__ = ["Finding", "probe", "thinking"]


@hookimpl
def ebm_studies() -> dict[str, Callable[..., Any]]:
    """Offers the studies of this package."""
    return {"thinking": thinking, "probe": probe}
