"""Models on the hub of Hugging Face: taken from there as data, never as code, and pushed there."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebm.optional import installed, reachable
from ebm.runs import exported
from ebm.runs.exported import SUFFIXES
from ebm.runs.index import CARD, INDEX, index_of, is_model

if TYPE_CHECKING:
    from ebm.runs.run import Run

WAY_OUT = "check the network (HF_HUB_OFFLINE=1 takes what was downloaded before), or pass a folder"
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


def is_name(text: str) -> bool:
    """Tells whether a text is written as a repository of the hub: owner/name.

    >>> is_name("owner/name"), is_name("./name"), is_name("name"), is_name("a/b/c")
    (True, False, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None


def fetch(name: str, otherwise: str = "") -> Path:
    """Downloads a model of the hub into its client's cache: the files that model.json lists alone.

    Where the hub does not answer, what was downloaded before is taken, with a warning.

    Arguments:
        name: the repository, owner/name.
        otherwise: what else the name might have been, for the message.

    Raises:
        ValueError: there is no such repository, or it is no model of this toolkit.
        OSError: the hub cannot be reached, and the model is not in the cache.
        ImportError: huggingface_hub is not installed.
    """
    what = f"the hub's {name}"
    with _client(f"{otherwise}; {what}" if otherwise else what):
        from huggingface_hub import constants, snapshot_download

        local = bool(constants.HF_HUB_OFFLINE)
        try:
            if not local:
                reachable(constants.ENDPOINT)
        except OSError as error:
            local = True
            try:
                folder = Path(snapshot_download(name, allow_patterns=[INDEX], local_files_only=True))
            except Exception:
                raise error from None
            warnings.warn(f"the hub cannot be reached ({error}): {name} is taken as it was downloaded before", stacklevel=2)
        else:
            folder = Path(snapshot_download(name, allow_patterns=[INDEX], local_files_only=local))
    if not is_model(folder):
        raise ValueError(f"{name} of the hub is no model of this toolkit: it has no {INDEX}, as `ebm push` writes it")
    files = [CARD, INDEX, *index_of(folder)["files"]]
    if odd := [file for file in files if not file.endswith(SUFFIXES) or re.search(r"[*?\[\]]", file)]:
        raise ValueError(f"{name} of the hub lists {odd[0]}, and only {', '.join(SUFFIXES)} are taken from there")
    with _client(what):
        return Path(snapshot_download(name, revision=folder.name, allow_patterns=files, local_files_only=local))


def push(run: Run, name: str, *, private: bool = False, message: str | None = None, **how: Any) -> str:
    """Pushes a run's model to the hub, as `export` writes it, and returns its address.

    Arguments:
        run: a run, or an exported model, which is pushed as it is.
        name: the repository, owner/name; it is made where there is none.
        private: makes a new repository that only its owner sees.
        message: the commit's.
        how: keywords of `export`, as dtype or licence.

    Raises:
        ValueError: for a name that is none, a repository that everybody sees where a private one
            is asked for, what `export` refuses, or what the hub refuses.
        OSError: the hub cannot be reached.
        ImportError: huggingface_hub is not installed.
    """
    if not is_name(name):
        raise ValueError(f"{name!r} is no name of the hub: write owner/name")
    with _client(f"the hub's {name}", LOG_IN):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError

        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE=1 forbids to ask the hub")
        reachable(constants.ENDPOINT)
        api = HfApi()
        seen: bool | None = None
        if private:
            with suppress(HfHubHTTPError):  # there is none yet
                seen = api.model_info(name).private
    if seen is False:
        raise ValueError(f"{name} is there, and everybody sees it: make it private on the hub, or leave out private")
    with tempfile.TemporaryDirectory() as place:
        called = "" if is_model(run.path) else name
        folder = exported.export(run, Path(place) / name, name=called, **how)
        with _client(f"the hub's {name}", LOG_IN):
            api.create_repo(name, private=private or None, exist_ok=True)  # or as the account's settings say
            found = api.upload_folder(
                folder_path=folder, repo_id=name, commit_message=message or f"Push {name.partition('/')[2]}"
            )
            return str(found.repo_url)


@contextmanager
def _client(what: str, way_out: str = WAY_OUT) -> Iterator[None]:
    """Turns whatever the hub's client raises into one line with a way out.

    Raises:
        OSError: the hub, or a file, cannot be reached.
        ValueError: for all else.
        ImportError: huggingface_hub is not installed.
    """
    try:
        installed("huggingface_hub")
        with _no_progress_bars():  # several for each of these small files
            yield
    except ImportError as error:
        raise ImportError(f"{what} cannot be asked for: {error}") from error
    except Exception as error:  # its client reports in a dozen ways
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        if isinstance(error, RepositoryNotFoundError):
            raise ValueError(f"{what} is not there, or is private: check its name, and {LOG_IN}") from error
        kind = OSError if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError) else ValueError
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:3] if line.strip())
        raise kind(f"{what} cannot be had ({reason}): {way_out}") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
