"""Keeps what was made once in folders of a cache: made by one process while others wait, the oldest
thrown away where it grows too large."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ebm.files import commit, discard, draft_of
from ebm.optional import installed
from ebm.tasks.text.tokenizers import Tokenizer, save_tokenizer

GIGABYTE = 1e9


def cache_folder() -> Path:
    """Names the folder of the user's cache: $EBM_CACHE, or what the system has for it."""
    if named := os.environ.get("EBM_CACHE"):
        return Path(named).expanduser() / "text"
    installed("platformdirs")
    from platformdirs import user_cache_path

    return user_cache_path("ebm") / "text"


def key_of(*what: object) -> str:
    """Makes a folder's name of what decides its content."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def digest_of(tokenizer: Tokenizer) -> str:
    """Digests what a tokenizer is: the files that it is saved as. ValueError where it cannot be saved."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, Path(folder))
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def kept(cache: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Returns a folder of the cache; `make` fills it (as a draft) where it is not there.

    Another process that wants the same folder waits for the one that makes it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / key
    with _lock(cache, key):
        if not path.is_dir():
            draft = draft_of(path)
            discard(draft)  # a killed process left it
            draft.mkdir()
            try:
                make(draft)
                commit(draft, path)
            except BaseException:
                discard(draft)
                raise
        os.utime(path)  # used last
    return path


def make_room(cache: Path, limit: float, *, keep: str) -> None:
    """Removes the folders of a cache that were not used for longest, until all have `limit` bytes at most.

    One that is being made stays, and so does `keep`; drafts of killed processes go.
    """
    if not cache.is_dir():
        return
    for draft in cache.glob(".*.draft"):
        with _lock(cache, draft.name[1:].removesuffix(".draft"), wait=False) as held:
            if held:
                discard(draft)
    folders = sorted((path for path in cache.iterdir() if path.is_dir() and path.name[0] != "."), key=lambda p: p.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in folders}
    for path in folders:
        if sum(sizes.values()) <= limit:
            return
        if path.name == keep:
            continue
        with _lock(cache, path.name, wait=False) as held:
            if held:
                discard(path)  # what maps its files goes on to have them
                del sizes[path]


@contextmanager
def _lock(cache: Path, key: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a folder; without waiting, tells whether it could."""
    with (cache / f"{key}.lock").open("w") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = wait
            if wait:
                print("another process is preparing the same text: waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield held
