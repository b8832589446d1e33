"""Files that are written whole or not at all, by one command at a time, where they were meant to be."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# The folders that are held, by device and inode: file descriptors. Forked processes (loaders of
# data) inherit descriptors and, with them, locks that would outlive us: they close theirs.
_held: ContextVar[dict[tuple[int, int], int]] = ContextVar("_held")
_descriptors: set[int] = set()


@contextmanager
def atomic(path: Path, by: str = "") -> Iterator[Path]:
    """Gives a draft's path, which takes its final name once on disk; else the old file stays.

    A draft that a killed process left is written anew. No symbolic link is followed: one that has
    the draft's or the file's name is replaced, and what it points at stays as it is.

    Arguments:
        path: the file.
        by: names the writer, where several may write the same file at a time, each a draft.

    Raises:
        BlockingIOError: another process is writing this file.
    """
    draft = draft_of(path, by)
    if draft.is_symlink() or draft.is_dir():
        discard(draft)
    handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        if not _locked(handle):
            raise BlockingIOError(f"{path} is being written by another command: wait for its end, or choose another name")
        try:
            if os.fstat(handle).st_nlink > 1:  # a second name of somebody's file
                draft.unlink()
            yield draft
            commit(draft, path)
        except BaseException:
            discard(draft)
            raise
    finally:
        os.close(handle)


def draft_of(path: Path, by: str = "") -> Path:
    """Names the file or folder that is written before it takes its final name."""
    return path.with_name(f".{path.name}{by and f'.{by}'}.draft")


def commit(draft: Path, path: Path) -> None:
    """Gives a draft its final name once it is on disk."""
    for part in [*draft.rglob("*"), draft] if draft.is_dir() else [draft]:
        _flush(part)
    draft.replace(path)
    _flush(path.parent)


def discard(draft: Path) -> None:
    """Removes a draft, if there is one; of a symbolic link only the link."""
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def sweep(folder: Path, pattern: str = ".*.draft") -> None:
    """Removes the drafts of files that killed processes left in a folder; drafts in work stay."""
    for draft in folder.glob(pattern):
        if draft.is_symlink() or not draft.is_file():
            continue
        try:
            handle = os.open(draft, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # its writer has just finished, or it is not ours
            continue
        try:
            if _locked(handle):
                draft.unlink(missing_ok=True)
        finally:
            os.close(handle)


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


def read_json(path: Path) -> Any:
    """Reads a JSON file; ValueError names one that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, it is no JSON: {error}") from error


def read_csv(path: Path, needed: Sequence[str] = ()) -> list[dict[str, str]]:
    """Reads a csv file's rows by column; ValueError names one that is damaged, and the row.

    Arguments:
        path: the file; one without a byte has no rows.
        needed: columns that it must have.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged, it is no csv: {error}") from error
    if columns is not None and (missing := [name for name in needed if name not in columns]):
        raise ValueError(f"{path} is damaged: it has no column {', '.join(missing)}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():  # what csv makes of too many cells, and of too few
            raise ValueError(f"{path} is damaged: row {number} has not as many cells as there are columns")
    return rows


def check_outputs(*outputs: Path, **inputs: Path) -> None:
    """Raises where files cannot be written or would replace an input, before any work is done.

    Arguments:
        outputs: the files that will be written, side files included.
        inputs: what is read, by its name: a file, or a folder whose files are read.

    Raises:
        FileNotFoundError: there is no folder to write to.
        PermissionError: the folder may not be written to.
        ValueError: an output is a folder, or one of the inputs.
    """
    for out in outputs:
        if not out.parent.is_dir():
            raise FileNotFoundError(f"out={str(out)!r}: there is no folder {out.parent}, make it first")
        if out.is_dir():
            raise ValueError(f"out={str(out)!r} is a folder: name the file to write")
        check_writable(out.parent)
        for name, read in inputs.items():
            if out.exists() and read.exists() and (out.samefile(read) or read.resolve() in out.resolve().parents):
                what = f"is the {name} itself" if out.samefile(read) else f"is a file of the {name} {read}"
                raise ValueError(f"out: {str(out)!r} {what}, and would be replaced: choose another name")


def check_writable(folder: Path) -> None:
    """Raises OSError where a folder, or the first one above it that is there, cannot be written to."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink()), folder)
    if not there.is_dir():
        raise NotADirectoryError(f"{folder} cannot be written to: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to: no permission to write to {there}")


@contextmanager
def holding() -> Iterator[None]:
    """Lets go, at its end, of the folders that were held inside it."""
    outer = _held.get({})
    token = _held.set(dict(outer))
    try:
        yield
    finally:
        for place in _held.get().keys() - outer.keys():
            handle = _held.get()[place]
            _descriptors.discard(handle)
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
        _held.reset(token)


def hold(folder: Path) -> None:
    """Holds a folder for this command alone, until the `holding` around it ends, or the process.

    The operating system's lock on the folder itself (flock): it leaves no file behind, and ends
    with the process, however that ends. Where a file system has no locks, nothing is held.

    Raises:
        BlockingIOError: another command holds the folder.

    >>> with holding():
    ...     hold(Path("."))
    """
    if (held := _held.get(None)) is None:
        _held.set(held := {})
    handle = os.open(folder, os.O_RDONLY)
    place = (os.fstat(handle).st_dev, os.fstat(handle).st_ino)
    if place in held:
        os.close(handle)
    elif _locked(handle):
        held[place] = handle
        _descriptors.add(handle)
    else:
        os.close(handle)
        raise BlockingIOError(f"another command is writing to {folder}: wait for its end, or choose another out")


def _locked(handle: int) -> bool:
    """Locks a file or folder; False where another process has."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def _let_go() -> None:
    for handle in _descriptors:
        os.close(handle)
    _descriptors.clear()
    if _held.get(None):
        _held.set({})


os.register_at_fork(after_in_child=_let_go)
