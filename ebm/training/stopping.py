"""Stopping on a signal: the step in progress is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ebm.runs import checkpoints


class Stop:
    """Remembers a signal until the step in progress is saved; a second signal stops at once."""

    signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def leave(self, step: int, folder: Path) -> None:
        """Raises what the signal stands for: KeyboardInterrupt (SIGINT), SystemExit (SIGTERM, SIGHUP)."""
        saved = checkpoints.steps(folder / "checkpoints")
        onward = f"goes on from step {saved[-1]}" if saved else "starts anew"
        message = f"stopped after step {step}; the same call with out={str(folder)!r} {onward}"
        raise KeyboardInterrupt(message) if self.signal == signal.SIGINT else SystemExit(message)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Catches SIGINT, SIGTERM and SIGHUP while a run trains (in the main thread, the only one that may).

    A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # the terminal was closed, or the connection to it
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
