"""Reading what other programs trained."""

from __future__ import annotations

from ebm.interop.ebt_checkpoint import Imported, from_ebt_checkpoint

__all__ = ["Imported", "from_ebt_checkpoint"]
