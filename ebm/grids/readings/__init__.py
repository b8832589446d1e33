"""Readings: what a measured table says of a claim, a file each."""

from __future__ import annotations

from ebm.grids.readings.ablation import ablation
from ebm.grids.readings.gain import gain
from ebm.grids.readings.level import level
from ebm.grids.readings.power_law import read_power_law
from ebm.grids.readings.reading import Compared, Read, Reading
from ebm.grids.readings.slope import slope

READINGS: dict[str, Read] = {"ablation": ablation, "gain": gain, "level": level, "power-law": read_power_law, "slope": slope}

__all__ = ["READINGS", "Compared", "Read", "Reading", "ablation", "gain", "level", "read_power_law", "slope"]
