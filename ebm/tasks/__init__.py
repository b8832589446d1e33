"""Tasks: what the data are, where y starts, how far it is from the truth, how it is judged."""

from __future__ import annotations

from ebm.interfaces import Task
from ebm.registry import hookimpl
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


@hookimpl
def ebm_tasks() -> dict[str, type[Task]]:
    return {
        "points": Points,
        "digits": Digits,
        "rows": Rows,
        "text": Text,
        "dyck": Dyck,
        "questions": Questions,
        "denoising": Denoising,
        "frames": Frames,
        "puzzles": Puzzles,
        "arithmetic": Arithmetic,
    }
