"""Training: one loop, and what it needs to stop, to resume and to run on several ranks."""

from ebm.training.callbacks import EarlyStopping
from ebm.training.loop import fit

__all__ = ["EarlyStopping", "fit"]
