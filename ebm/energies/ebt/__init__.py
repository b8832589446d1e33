"""Energy-Based Transformers (arXiv 2507.02092)."""

from __future__ import annotations

from ebm.energies.ebt.belief import BeliefEBT, BeliefNetwork
from ebm.energies.ebt.bidirectional import ImageEBT, ResidualImageEBT
from ebm.energies.ebt.frames import FrameEBT, ResidualFrameEBT
from ebm.energies.ebt.sequences import SequenceEBT
from ebm.energies.ebt.sizes import SIZES
from ebm.energies.ebt.streams import CausalEBT, CausalStream, Code
from ebm.energies.ebt.text import FreeTextEBT, Padded, ResidualTextEBT, TextEBT, padded

__all__ = [
    "SIZES",
    "BeliefEBT",
    "BeliefNetwork",
    "CausalEBT",
    "CausalStream",
    "Code",
    "FrameEBT",
    "FreeTextEBT",
    "ImageEBT",
    "Padded",
    "ResidualFrameEBT",
    "ResidualImageEBT",
    "ResidualTextEBT",
    "SequenceEBT",
    "TextEBT",
    "padded",
]
