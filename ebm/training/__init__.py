"""Training: one loop that reads from top to bottom, and what it needs to stop, to go on and to share."""

from ebm.training.loop import fit

__all__ = ["fit"]
