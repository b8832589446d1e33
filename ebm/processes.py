"""What is said to a process before it works: which of several it is, and how its threads behave."""

from __future__ import annotations

import os
import sys
import time

# How OpenMP's threads wait for each other between two loops. By default they spin, and on a machine
# with other work spin against it: a minute's training took over ten.
PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


STARTED_BY = os.getppid()  # a process that lives on after who started it has another parent


def is_first_process() -> bool:
    """Tells whether this is rank 0, also before the processes have joined."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def first_is_gone() -> bool:
    """Tells a second process whether the first, which started it, has ended: then it speaks for all.

    Rank 0 starts the others, where torchrun or a cluster does not.
    """
    if os.environ.get("LOCAL_RANK") != "1":
        return False
    for _ in range(100):  # five seconds: a process' connections close some moments before its children get another parent
        if os.getppid() != STARTED_BY:
            return True
        time.sleep(0.05)
    return False


def wait_passively() -> None:
    """Lets threads sleep while they wait, unless the user's environment says how they wait.

    OpenMP reads this once, when torch is imported: later it says nothing.
    """
    if not PASSIVE.keys() & os.environ.keys():
        os.environ.update(PASSIVE)


def use_threads(count: int) -> None:
    """Computes with as many threads, in this process and in those that it starts.

    Raises:
        ValueError: count is not positive.
    """
    if count < 1:
        raise ValueError(f"--threads {count}: compute with at least one thread")
    os.environ.update(OMP_NUM_THREADS=str(count), MKL_NUM_THREADS=str(count))
    if (torch := sys.modules.get("torch")) is not None:  # else it reads the environment when it is imported
        torch.set_num_threads(count)
