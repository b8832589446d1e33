"""Opens hub datasets, and says at once and clearly where that cannot be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ebm.optional import installed, reachable
from ebm.words import nearest

__all__ = ["WAY_OUT", "open_rows"]

WAY_OUT = "`--task.source bundled` needs no network"
SECONDS = 5  # that the hub has to answer


def open_rows(
    source: str, config: str | None, hub_split: str, column: str, feature: Literal["Image", "Video"], offline: Sequence[str]
) -> Any:
    """Opens a hub dataset, with decoding switched off in its column of pictures or videos.

    Arguments:
        source: the dataset's name.
        config: its configuration, where it has several.
        hub_split: which of its splits is opened.
        column: where the pictures or videos are.
        feature: what `datasets` calls these.
        offline: names of sources that need no network, of which the nearest is proposed.

    Raises:
        ImportError: `datasets` is not installed.
        ValueError: the hub cannot be reached, or has no such dataset, configuration, split or column of that kind.
    """
    installed("datasets")
    import datasets
    from datasets.exceptions import DatasetsError

    kind = getattr(datasets, feature)
    try:
        if not datasets.config.HF_HUB_OFFLINE:
            reachable(datasets.config.HF_ENDPOINT)
        rows = datasets.load_dataset(source, config, split=hub_split)
    except OSError as error:
        raise ValueError(
            f"{source!r} is no local folder, and as a hub dataset it cannot be reached ({error}): {WAY_OUT}, and with "
            f"HF_HUB_OFFLINE=1 what was downloaded before is read. {nearest(source, list(offline))}"
        ) from error
    except (DatasetsError, ValueError) as error:
        raise ValueError(f"hub dataset {source!r}, config={config!r}, hub_split={hub_split!r}: {error}") from error
    if column not in rows.column_names:
        raise ValueError(f"{source} has no column {column!r}: {nearest(column, rows.column_names)}")
    if not isinstance(rows.features[column], kind):
        what = {"Image": "pictures", "Video": "videos"}[feature]
        raise ValueError(f"{source}, column {column!r} holds {rows.features[column]}, no {what}: name another column")
    return rows.cast_column(column, kind(decode=False))
