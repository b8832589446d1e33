"""Reads numbers from local csv and parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebm.optional import installed
from ebm.tasks.sources import load_files
from ebm.words import nearest


def read_table(path: Path, columns: Sequence[str] | None = None, **options: Any) -> Tensor:
    """Reads numeric columns (rows, columns) of a local csv or parquet file.

    All columns if None; `options` are `datasets`' reader's, such as header and names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no rows or cannot be read, a column is missing, a value is not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    installed("datasets")
    import numpy as np
    import pandas as pd
    from datasets.exceptions import DatasetGenerationError

    kind = "parquet" if path.suffix.lower() == ".parquet" else "csv"
    if kind == "csv":
        options["chunksize"] = None  # read in chunks, a column takes the first chunk's type, and a later one fails
    try:
        frame = load_files(kind, [path], **options).to_pandas()
    except (DatasetGenerationError, ValueError) as error:
        reason = str(error.__cause__ or error).strip()
        raise ValueError(f"{path}: no rows could be read as {kind} ({reason})") from error
    if frame.empty:
        raise ValueError(f"{path}: it has no rows")
    values = []
    for column in frame if columns is None else columns:
        if column not in frame:
            raise ValueError(f"{path} has no column {column!r}: {nearest(column, frame)}")
        numbers = np.asarray(pd.to_numeric(frame[column], errors="coerce"), dtype="float64")
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            cells = zip(bad[:5], frame[column].iloc[bad[:5]].tolist(), strict=True)
            shown = ", ".join(f"{row} ({cell!r})" for row, cell in cells) + (", …" if len(bad) > 5 else "")
            count = f"{len(bad)} of {len(frame)} values"
            raise ValueError(f"{path}, column {column!r}: {count} are no finite numbers, in rows {shown}")
        values.append(numbers)
    return torch.from_numpy(np.stack(values, axis=1))
