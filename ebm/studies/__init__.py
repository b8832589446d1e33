"""Studies: what is asked of a finished run, where its recipe has a table of the study's name."""

from __future__ import annotations

from ebm.studies.findings import Finding
from ebm.studies.probe import probe
from ebm.studies.thinking import thinking
from ebm.studies.uncertainty import uncertainty

__all__ = ["Finding", "probe", "thinking", "uncertainty"]
