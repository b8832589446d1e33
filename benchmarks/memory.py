"""How much memory a step takes at its highest, as the system counts it."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_of(take: Callable[[], Any], times: int = 2) -> float:
    """Measures by how many MB this process grows, at its highest, while it takes a step so often."""
    before, highest, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(times):
        take()
    done.set()
    watcher.join()
    return highest[0] - before


def resident() -> float:
    """Reads how many MB of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
