"""The history of a run: logged numbers in a CSV file, which a resumed run continues to the byte."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

COLUMNS = ("step", "split", "name", "value")


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
        if not size:
            self.writer.writerow(COLUMNS)
        self.board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Logs the numbers of one step, and flushes them to the file."""
        for name, value in values.items():
            self.writer.writerow((step, split, name, repr(float(value))))
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


def read_history(folder: Path) -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    """Reads `metrics.csv` as {(split, name): (steps, values)}."""
    found: dict[tuple[str, str], tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            steps, values = found[row["split"], row["name"]]
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return dict(found)
