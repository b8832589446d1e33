"""Tasks: what the data are, where y starts, how far it is from the truth, how it is judged."""

from __future__ import annotations

from ebm.tasks.conversion import as_task
from ebm.tasks.digits import Digits
from ebm.tasks.images.denoising import Denoising
from ebm.tasks.points import Points
from ebm.tasks.puzzles.answers import Answers
from ebm.tasks.puzzles.arithmetic import Arithmetic
from ebm.tasks.puzzles.puzzles import Puzzles
from ebm.tasks.rows import InMemory, Rows, RowTask, draw_splits, loader_of
from ebm.tasks.text.dyck import Dyck
from ebm.tasks.text.questions import Questions
from ebm.tasks.text.text import Text
from ebm.tasks.text.tokens import TokenTask
from ebm.tasks.video.frames import Frames

__all__ = [
    "Answers",
    "Arithmetic",
    "Denoising",
    "Digits",
    "Dyck",
    "Frames",
    "InMemory",
    "Points",
    "Puzzles",
    "Questions",
    "RowTask",
    "Rows",
    "Text",
    "TokenTask",
    "as_task",
    "draw_splits",
    "loader_of",
]
