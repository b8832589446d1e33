"""`ebm push RUN owner/name`: put a model on the hub of Hugging Face."""

from __future__ import annotations

from ebm.runs.exported import UNKNOWN, DType
from ebm.runs.run import Run


def push(
    run: Run,
    name: str,
    /,
    *,
    private: bool = False,
    message: str | None = None,
    dtype: DType | None = None,
    licence: str = UNKNOWN,
) -> str:
    """Push a run or an exported model to the hub, from where owner/name loads it.

    Args:
        run: the run folder, which is exported first, or the folder of an exported model.
        name: the repository, as owner/name; it is made where there is none.
        private: make a repository that only its owner sees.
        message: the commit's message.
        dtype: stores a run's weights so; loading turns them back.
        licence: a run's, as in mit.
    """
    return run.push_to_hub(name, private=private, message=message, dtype=dtype, licence=licence)
