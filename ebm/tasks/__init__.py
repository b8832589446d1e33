"""Tasks: what the data are, where y starts, how far it is from the truth, how it is judged."""

from __future__ import annotations

from ebm.interfaces import Task
from ebm.registry import hookimpl
from ebm.tasks.digits import Digits
from ebm.tasks.points import Points

__all__ = ["Digits", "Points"]


@hookimpl
def ebm_tasks() -> dict[str, type[Task]]:
    return {"points": Points, "digits": Digits}
