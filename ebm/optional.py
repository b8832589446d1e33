"""What may be missing: optional packages and the hub, asked for with an error that names the way
out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SECONDS = 5  # that the hub has to answer


def installed(package: str) -> Path:
    """Finds an optional package's folder without importing it; ImportError names the extra for it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed: pip install 'ebm-toolkit[recipes]'")
    return Path(spec.origin).parent


def reachable(url: str) -> None:
    """Raises OSError where nobody answers: the hub's own client would try again for half a minute."""
    with suppress(HTTPError):  # an answer, though no kind one
        urlopen(Request(url, method="HEAD"), timeout=SECONDS).close()


@contextmanager
def only_named(package: str) -> Iterator[None]:
    """Answers what asks for a package's version alone, inside it, without importing the package.

    >>> with only_named("einops"):
    ...     import einops
    """
    try:
        found = version(package)
    except PackageNotFoundError:
        found = ""
    if not found or package in sys.modules:
        yield
        return
    named = ModuleType(package)
    named.__version__ = found  # type: ignore[attr-defined]
    sys.modules[package] = named
    try:
        yield
    finally:
        sys.modules.pop(package, None)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
