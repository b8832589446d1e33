"""The base of energies that have no context."""

from __future__ import annotations

from typing import Any

from ebm.interfaces import Energy

__all__ = ["Unconditional"]


class Unconditional(Energy):
    """Scores y alone: whatever the context is, it is not looked at, so that it may join a conditional energy in a sum."""

    def encode(self, context: Any = None, level: int = -1) -> Any:
        """Computes once what does not depend on y; here nothing."""
        return None

    def extend(self, code: Any, context: Any) -> Any:
        """Returns the code as it is: more context changes nothing."""
        return code
