"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a draft's path, which takes its final name once on disk; else the old file stays."""
    draft = draft_of(path)
    try:
        yield draft
        commit(draft, path)
    except BaseException:
        discard(draft)
        raise


def draft_of(path: Path) -> Path:
    """Names the file or folder that is written before it takes its final name."""
    return path.with_name(f".{path.name}.draft")


def commit(draft: Path, path: Path) -> None:
    """Gives a draft its final name once it is on disk."""
    for part in [*draft.rglob("*"), draft] if draft.is_dir() else [draft]:
        _flush(part)
    draft.replace(path)
    _flush(path.parent)


def discard(draft: Path) -> None:
    """Removes a draft, if there is one."""
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")
