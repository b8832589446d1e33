"""Stopping on a signal: the step in progress is finished and saved first, in all processes at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ebm.runs import checkpoints
from ebm.runs.rollback import RolledBack

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HANDED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # where somebody handles them, as a cluster's job does
NUMBERS = (*ENDING, *HANDED_ON[1:])


class Stop:
    """Remembers signals until the step in progress is saved; a second one that ends the run stops at once.

    Arguments:
        theirs: what handled a signal before: it is called once the step is saved, and the training
            goes on where it returns.
    """

    def __init__(self, theirs: dict[int, Callable[..., Any]] | None = None) -> None:
        self.theirs, self.seen, self.saves, self.message = theirs or {}, set[int](), True, "stopped"

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number in self.theirs and not self.saves:
            self.theirs[number](number, frame)
        elif not self.saves or (number not in self.theirs and self.seen - self.theirs.keys()):
            raise KeyboardInterrupt(self.message)  # no SystemExit, which a study that fails may raise, too
        else:
            self.seen.add(number)

    def flags(self) -> list[bool]:
        """Says of each of NUMBERS whether it came."""
        return [number in self.seen for number in NUMBERS]

    def leave(self, step: int, folder: Path, flags: Sequence[bool], first: bool = True) -> None:
        """Hands a signal on, or raises what it stands for: KeyboardInterrupt (SIGINT), SystemExit (SIGTERM, SIGHUP)."""
        came = [number for number, flag in zip(NUMBERS, flags, strict=True) if flag]
        for number in [number for number in came if number in self.theirs]:
            self.seen.discard(number)
            self.theirs[number](number, None)
        if ending := [number for number in came if number not in self.theirs]:
            saved = checkpoints.steps(folder / "checkpoints")
            onward = f"goes on from step {saved[-1]}" if saved else "starts anew"
            message = f"stopped after step {step}; the same call with out={str(folder)!r} {onward}"
            raise KeyboardInterrupt(message) if signal.SIGINT in ending else SystemExit(message if first else 1)

    def save_no_more(self, step: int, folder: Path) -> None:
        """Lets signals act at once from here on, while the run is judged: all that training did is saved."""
        where = f"the same call with out={str(folder)!r}"
        self.message = f"stopped while the run was judged, after its last step {step}; {where} judges it"
        self.saves = False
        self.leave(step, folder, self.flags())


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Catches SIGINT, SIGTERM and SIGHUP while a run trains (in the main thread, the only one that may).

    A signal that is ignored, as SIGHUP under nohup, stays ignored. One that somebody handles, SIGTERM,
    SIGUSR1 or SIGUSR2, is handed on to them once the step is saved. One that came in a step that
    diverged, so that training would go on from an earlier one, is raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    before = {number: signal.getsignal(number) for number in NUMBERS}
    theirs: dict[int, Callable[..., Any]] = {n: h for n in HANDED_ON if callable(h := before[n])}
    stop = Stop(theirs)
    caught = [number for number in NUMBERS if number in theirs or (number in ENDING and before[number] != signal.SIG_IGN)]
    for number in caught:
        signal.signal(number, stop)
    back = False
    try:
        yield stop
    except RolledBack:
        back = True
        raise
    finally:
        for number in caught:
            signal.signal(number, before[number])
        for missed in sorted(stop.seen) if back else ():
            signal.raise_signal(missed)
