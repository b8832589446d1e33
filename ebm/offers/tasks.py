"""Tasks, by name."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_tasks() -> dict[str, str]:
    """Offers the tasks of the toolkit."""
    return {
        "points": "ebm.tasks.points:Points",
        "digits": "ebm.tasks.digits:Digits",
        "rows": "ebm.tasks.rows:Rows",
        "text": "ebm.tasks.text.text:Text",
        "dyck": "ebm.tasks.text.dyck:Dyck",
        "questions": "ebm.tasks.text.questions:Questions",
        "denoising": "ebm.tasks.images.denoising:Denoising",
        "frames": "ebm.tasks.video.frames:Frames",
        "puzzles": "ebm.tasks.puzzles.puzzles:Puzzles",
        "arithmetic": "ebm.tasks.puzzles.arithmetic:Arithmetic",
    }
