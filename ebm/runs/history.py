"""The history of a run: logged numbers in a CSV file, which a resumed run continues to the byte."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from ebm.files import read_csv
from ebm.runs.index import check_is_run

COLUMNS = ("step", "split", "name", "value")
Curves: TypeAlias = dict[tuple[str, str], tuple[list[int], list[float]]]  # (split, name) -> steps, values


class History:
    """Appends numbers to `metrics.csv` (step, split, name, value), to TensorBoard, if there, and to
    loggers."""

    def __init__(self, folder: Path, size: int = 0, step: int = 0, loggers: Sequence[Any] = ()) -> None:
        self.loggers = loggers
        path = folder / "metrics.csv"
        if size and (not path.exists() or path.stat().st_size < size):
            raise ValueError(f"{path} is missing or has fewer than the last checkpoint's {size} bytes: restore it, or start anew")
        self.file = path.open("r+" if path.exists() else "w+", newline="", encoding="utf-8")
        self.file.truncate(size)  # rows after the checkpoint will be written again
        self.file.seek(0, os.SEEK_END)
        self.writer = csv.writer(self.file)
        self.curves: Curves = read_history(folder) if size else {}  # so that nobody reads the file again
        if not size:
            self.writer.writerow(COLUMNS)
            self.file.flush()
        self.board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Logs the numbers of one step, and flushes them to the file."""
        for name, value in values.items():
            self.writer.writerow((step, split, name, repr(float(value))))
            steps, numbers = self.curves.setdefault((split, name), ([], []))
            steps.append(step)
            numbers.append(float(value))
            if self.board is not None:
                self.board.add_scalar(f"{split}/{name}", value, step)
        self.file.flush()
        for logger in self.loggers:
            logger.log_metrics({f"{split}/{name}": float(value) for name, value in values.items()}, step)

    def size(self) -> int:
        """Syncs all rows to disk and returns the file's size in bytes."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


def read_history(folder: Path) -> Curves:
    """Reads `metrics.csv` as {(split, name): (steps, values)}.

    Raises:
        ValueError: the file is damaged, or the folder is an exported model, which has none.
    """
    check_is_run(folder, "this")
    found: Curves = {}
    for number, row in enumerate(read_csv(path := folder / "metrics.csv", COLUMNS), 1):
        try:
            step, value, curve = int(row["step"]), float(row["value"]), (row["split"], row["name"])
        except ValueError as error:
            raise ValueError(f"{path} is damaged: row {number} is {row}, and not a step, a split, a name and a value") from error
        steps, values = found.setdefault(curve, ([], []))
        steps.append(step)
        values.append(value)
    return found
