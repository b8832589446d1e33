"""Ratios that a benchmark has measured before, in a file beside it, and which of them have fallen since.

A ratio says how many times as good we are as what stands beside us, so more is better: another's time over ours, our effective
draws per gradient over another's.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

SLACK = 0.9  # a ratio below this share of the recorded one is a regression


class Recorded:
    """Holds a benchmark's ratios to those in its file, NAME.json beside NAME.py, or writes them there.

    Arguments:
        benchmark: the benchmark's own path.
        write: whether ratios are recorded, each as soon as it is known, in place of those of the same key.
    """

    def __init__(self, benchmark: str | Path, write: bool = False) -> None:
        self.path, self.write = Path(benchmark).with_suffix(".json"), write
        self.known: dict[str, float] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.missed: list[str] = []

    def see(self, key: str, ratio: float) -> float | None:
        """Compares a ratio with the recorded one, which it returns, or records it.

        Raises:
            ValueError: the ratio is no positive finite number, which would fall below nothing.
        """
        if not 0 < ratio < math.inf:
            raise ValueError(f"{key}: the ratio is {ratio}, which no ratio of times or draws is")
        bar = self.known.get(key)
        if self.write:
            self.known[key] = float(f"{ratio:.4g}")
            draft = self.path.with_suffix(".json.part")
            draft.write_text(json.dumps(self.known, indent=1, sort_keys=True) + "\n")
            os.replace(draft, self.path)
        elif bar is not None and ratio < SLACK * bar:
            self.missed.append(f"{key}: {ratio:.3g}, recorded {bar}")
        return bar

    def end(self) -> int:
        """Prints what has fallen by more than a tenth, and returns the exit code that it asks for."""
        for line in self.missed:
            print(f"worse than recorded: {line}", file=sys.stderr)
        return int(bool(self.missed))
